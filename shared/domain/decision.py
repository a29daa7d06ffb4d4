"""The decision behind one call, as it is kept with its usage event: what could have served it, what did, and how the limits
stood. Nothing of what was said is in it."""

from __future__ import annotations

import msgspec


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt. `result` is `ok`, a FailureClass, `unsuited` (its format cannot express the call), `skipped` (it was shut,
    cooling down or locked; nothing was sent in either case), `hedge_lost` or `client_gone`; `status` is the provider's."""

    deployment: str
    connection: str
    result: str
    status: int | None = None
    duration_ms: int = 0


class Considered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A deployment of the plan, in its order, with what the strategy made of it; or one that `rule` removed, and `why`. `state`
    is its health where that was not well: `half_open_due`, or in a panic `open` or `cooling`."""

    deployment: str
    connection: str
    score: float | None = None
    rule: str = ""
    why: str = ""
    state: str = ""


class LimitStanding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The limit of a unit (`requests`, `tokens`) that was nearest to its end, after this call was admitted."""

    unit: str
    limit: int
    remaining: int
    reset_ms: int


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    asked: str
    """The name in the request."""
    route: str = ""
    strategy: str = ""
    candidates: tuple[Considered, ...] = ()
    removed: tuple[Considered, ...] = ()
    tried: tuple[Tried, ...] = ()
    limits: tuple[LimitStanding, ...] = ()
    output_clamped_to: int | None = None
    """What a budget left of the output that was asked for, in tokens."""
