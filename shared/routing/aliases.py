"""Aliases (pure): other names for models. `*` stands for any text, `?` for one character; the most specific one wins.

Specific is, in this order: no wildcard at all, more characters that are not wildcards, fewer `*`, the alphabet. An alias leads
to a model or a route and never to another alias, so there is nothing to go round in. A `*` in the target is what the first `*`
of the name stood for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST_CHARACTERS = 200
ROUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""A route's name. It has no slash, so it never hides a prefix/model, and no colon, so a suffix of it can be told."""


class Aliases:
    def __init__(self, targets: Mapping[str, str]) -> None:
        self._exact = {name: target for name, target in targets.items() if not _wild(name)}
        patterns = sorted((name for name in targets if _wild(name)), key=_order)
        self._patterns = [(wildcard(name), targets[name]) for name in patterns]

    def exact(self, name: str) -> str | None:
        """What a name without wildcards stands for: it goes before a model of that very name."""
        return self._exact.get(name)

    def matching(self, name: str) -> str | None:
        """What the most specific pattern makes of a name that is no model."""
        for pattern, target in self._patterns:
            if (found := pattern.fullmatch(name)) is not None:
                return target.replace("*", found[1], 1) if found.lastindex else target
        return None

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)


def _wild(name: str) -> bool:
    return "*" in name or "?" in name


def _order(name: str) -> tuple[int, int, str]:
    stars = name.count("*")
    return (stars + name.count("?") - len(name), stars, name)


def wildcard(name: str) -> re.Pattern[str]:
    """A name with `*` and `?` as an expression. Only the first `*` is remembered. Runs of `*` are one: two of them side by side
    would be tried in every split."""
    parts = [re.escape(part).replace(r"\?", ".") for part in re.sub(r"\*+", "*", name).split("*")]
    made = parts[0]
    for at, part in enumerate(parts[1:]):
        made += ("(.*)" if at == 0 else ".*") + part
    return re.compile(made, re.DOTALL)


def fault(name: str, target: str) -> str | None:
    """What is wrong with an alias; None when nothing is."""
    if not 0 < len(name) <= MOST_CHARACTERS or not name.isprintable() or name != name.strip():
        return f"an alias is 1 to {MOST_CHARACTERS} printable characters"
    if name.count("*") > 4:
        return "an alias has at most 4 `*`"
    prefix, slash, model = target.partition("/")
    if ROUTE.fullmatch(target) is not None:
        return None
    if not slash or not prefix or not model or "?" in target or target.count("*") > 1 or "*" in prefix:
        return f"{target!r} is no prefix/model and no route"
    if "*" in target and "*" not in name:
        return f"{target!r} has a `*`, and the alias has none that could stand for it"
    return None
