"""Pool (pure): everything that a name may lead to, before anybody asks for it.

A pool is one asked name. Its sections are a route (or a model that was named directly) and then each entry of the chain. A
section's groups are models: the deployments of one, on each connection (account) that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import msgspec

from shared.domain.catalogue import Deployment
from shared.domain.routing import Choice, Route, Strategy

FILL_FIRST = Choice()
MOST_KEPT = 100


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One model on each connection that has it, and how its accounts are chosen among."""

    name: str
    members: tuple[Deployment, ...]
    choice: Choice = FILL_FIRST
    weight: int = 1


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Groups that one strategy chooses among."""

    name: str
    groups: tuple[Group, ...]
    choice: Choice = FILL_FIRST
    heads: tuple[Deployment, ...] | None = None
    """The deployments, where each group has just one; else None."""
    weights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        single = all(len(group.members) == 1 for group in self.groups)
        heads = tuple(group.members[0] for group in self.groups) if single else None
        msgspec.structs.force_setattr(self, "heads", heads)
        msgspec.structs.force_setattr(self, "weights", tuple(group.weight for group in self.groups))


class Removed(msgspec.Struct, frozen=True):
    """A deployment that a rule took away; `connection` is empty where a name led to none at all."""

    name: str
    connection: str
    rule: str
    why: str


Sift = Callable[[Deployment], tuple[str, str] | None]
"""What is wrong with a deployment, as rule and reason; None when nothing is."""


class Pool:
    """`sections[0]` is what was asked for. Immutable; what is derived from it is kept beside it."""

    __slots__ = ("__dict__", "able", "asked", "removed", "route", "sections")

    def __init__(
        self,
        asked: str,
        sections: Sequence[Section],
        *,
        route: Route | None = None,
        removed: tuple[Removed, ...] = (),
        distinct: bool = False,
    ) -> None:
        self.asked = asked
        self.route = route
        self.sections = tuple(sections) if distinct else _each_once(sections)
        self.removed = removed
        self.able: dict[object, Pool] = {}
        """By what calls need: what is left then (eligible.able); by who is out: what is left without them."""

    @cached_property
    def members(self) -> tuple[Deployment, ...]:
        return tuple(each for section in self.sections for group in section.groups for each in group.members)

    @cached_property
    def keys(self) -> frozenset[str]:
        return frozenset(each.key for each in self.members)

    @cached_property
    def one_model(self) -> bool:
        """Nothing to choose among but accounts of one model."""
        return len({each.name for each in self.members}) <= 1

    @cached_property
    def plain(self) -> bool:
        """What is left is always the same, in the same order: accounts of one model, filled first."""
        return self.one_model and all(
            (section.choice.strategy is Strategy.PRIORITY or len(section.groups) < 2)
            and all(group.choice.strategy is Strategy.PRIORITY or len(group.members) < 2 for group in section.groups)
            for section in self.sections
        )

    @cached_property
    def least_context_tokens(self) -> int | None:
        """No call below it is too long for any of them."""
        return min((each.model.context_tokens for each in self.members if each.model.context_tokens is not None), default=None)

    @property
    def chain(self) -> tuple[str, ...]:
        return tuple(section.name for section in self.sections[1:])

    def sifted(self, sift: Sift) -> Pool:
        """Without those that `sift` finds something wrong with; itself when there are none."""
        removed = [
            (each, Removed(each.name, each.connection.name, *wrong))
            for each in self.members
            if (wrong := sift(each)) is not None
        ]
        if not removed:
            return self
        return self._without(frozenset(each.key for each, _ in removed), (*self.removed, *(why for _, why in removed)))

    def without(self, keys: frozenset[str]) -> Pool:
        """Without these deployments, of which there are few sets at a time; nobody is told here why."""
        found = self.able.get(keys)
        if found is None:
            if len(self.able) >= MOST_KEPT:
                self.able.clear()
            found = self.able[keys] = self._without(keys, self.removed)
        return found

    def _without(self, keys: frozenset[str], removed: tuple[Removed, ...]) -> Pool:
        sections: list[Section] = []
        for section in self.sections:
            groups = []
            for group in section.groups:
                kept = tuple(each for each in group.members if each.key not in keys)
                if len(kept) == len(group.members):
                    groups.append(group)
                elif kept:
                    groups.append(msgspec.structs.replace(group, members=kept))
            if groups or not sections:
                sections.append(Section(name=section.name, groups=tuple(groups), choice=section.choice))
        return Pool(self.asked, sections, route=self.route, removed=removed, distinct=True)


def joined(pools: Sequence[Pool], more: Iterable[Removed] = ()) -> Pool:
    """One pool of several names, each without its chain: the client says itself what to go on with."""
    first = pools[0]
    removed = tuple(each for pool in pools for each in pool.removed)
    return Pool(
        first.asked,
        [section for pool in pools for section in pool.sections[:1]],
        route=first.route,
        removed=(*removed, *more),
    )


def _each_once(sections: Sequence[Section]) -> tuple[Section, ...]:
    """A deployment that stands in several places keeps the first; empty sections go, but for the one that was asked for."""
    seen: set[str] = set()
    made: list[Section] = []
    for section in sections:
        groups = []
        for group in section.groups:
            fresh = tuple(each for each in group.members if each.key not in seen)
            seen.update(each.key for each in fresh)
            if len(fresh) == len(group.members):
                groups.append(group)
            elif fresh:
                groups.append(msgspec.structs.replace(group, members=fresh))
        if groups or not made:
            made.append(msgspec.structs.replace(section, groups=tuple(groups)))
    return tuple(made)
