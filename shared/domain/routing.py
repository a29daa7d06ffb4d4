"""Routes: named sets of models, and how one of them is chosen."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Strategy(StrEnum):
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    RANDOM = "random"
    LEAST_USED = "least_used"
    POWER_OF_TWO = "power_of_two"
    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    QUOTA_AWARE = "quota_aware"
    PRICE_WEIGHTED = "price_weighted"


class Choice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose among several deployments; `sticky` calls in a row before a round robin goes on."""

    strategy: Strategy = Strategy.PRIORITY
    sticky: int = 3


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member of a route: `prefix/model-id`."""

    model: str
    weight: int = 1


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name that clients use as a model's. What is opt-in is off unless the route says so."""

    name: str
    targets: tuple[Target, ...]
    choice: Choice = Choice()
    fallbacks: tuple[str, ...] = ()
    """Models to go on with when no target can; instead of the global chains."""
    organisation_id: str | None = None
    """None: everybody's."""
    max_attempts: int | None = None
    deadline_s: float | None = None
    hedge: bool = False
    """A second attempt when the first is slower to its first token than 95 of 100."""
    continuation: bool = False
    """Go on with another deployment when a stream of plain text is cut."""
    affinity: bool = False
    """Requests that share a long prefix go to the deployment that served it."""
