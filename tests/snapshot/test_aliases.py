"""Aliases: which one a name means, and what it leads to."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.routing.aliases import Aliases, fault
from shared.snapshot.snapshot import build
from tests.snapshot.test_snapshot import PROVIDERS, configuration, connection

TARGETS = {
    "gpt-4o": "lab/exact", "gpt-*": "lab/gpt", "gpt-4*": "lab/four", "gpt-4?": "lab/one", "*": "lab/any", "g*t-*o": "lab/two",
    "claude-*": "lab/claude-*", "a/*/b": "lab/x/*",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gpt-4o", "lab/exact"), ("gpt-4x", "lab/one"), ("gpt-4", "lab/four"), ("gpt-4-turbo", "lab/four"),
        ("gpt-5", "lab/gpt"),
        ("claude-opus-4", "lab/claude-opus-4"), ("claude-", "lab/claude-"), ("a/m/n/b", "lab/x/m/n"), ("else", "lab/any"),
        ("", "lab/any"), ("gxt-o", "lab/two"), ("a\nb", "lab/any"),
    ],
)  # fmt: skip
def test_the_most_specific_wins(name: str, target: str) -> None:
    aliases = Aliases(TARGETS)
    assert (aliases.exact(name) or aliases.matching(name)) == target


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_mean_what_they_mean_in_a_shell(pattern: str, name: str) -> None:
    wanted = re.fullmatch("".join({"*": ".*", "?": "."}.get(sign, sign) for sign in pattern), name) is not None
    aliases = Aliases({pattern: "lab/x"})
    assert ((aliases.exact(name) or aliases.matching(name)) is not None) == wanted


def test_a_hostile_name_takes_no_time() -> None:
    aliases = Aliases({"*a*a*a*b": "lab/x"})
    begun = time.perf_counter()
    assert aliases.matching("a" * 200) is None
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("", "a/b", "printable"), (" a", "a/b", "printable"), ("a\n", "a/b", "printable"), ("x" * 201, "a/b", "printable"),
        ("a", "b c", "no prefix/model"), ("a", "/b", "no prefix/model"), ("a", "b/", "no prefix/model"),
        ("*", "*/b", "no prefix"),
        ("a", "b/*", "none that could"), ("*", "b/**", "no prefix/model"), ("a?", "b/c?", "no prefix/model"),
        ("*a*a*a*a*", "b/c", "at most 4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(name: str, target: str, said: str) -> None:
    assert said in str(fault(name, target))


def test_what_is_right_is_not() -> None:
    assert [name for name, target in TARGETS.items() if fault(name, target) is not None] == []


def test_an_exact_alias_goes_before_a_model_and_a_pattern_after_it() -> None:
    aliases = {"lab/known": "lab/other", "lab/*": "lab/known", "mine": "nobody/x", "loop": "lab/loop"}
    made = build(configuration(connections=(connection(),), aliases=aliases), PROVIDERS)

    def name(asked: str) -> str | None:
        found = made.deployment(asked, "org")
        return None if found is None else found.name

    assert name("lab/known") == "lab/other"
    assert name("lab/free") == "lab/free"  # any id passes here, so it is a model
    assert name("l/known") == "lab/known"
    assert name("mine") is None
    assert name("loop") == "lab/loop"
    assert name("nothing") is None
