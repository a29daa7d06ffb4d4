"""What an admission answers: admitted with a reservation, denied by a limit or budget, or not able to say now."""

from __future__ import annotations

from typing import Literal

import msgspec

from shared.admission.cells import Cells
from shared.admission.estimate import Quote
from shared.domain.decision import LimitStanding
from shared.domain.limits import Scope
from shared.domain.usage import UsageEvent, encode_event

Mode = Literal["redis", "degraded"]


class Reservation(msgspec.Struct, gc=False):
    """What was set aside for one call; settled once."""

    event: UsageEvent
    encoded_event: bytes
    """What stands in the ledger if nobody settles: its cost is the reserved amount."""
    cells: Cells
    mode: Mode
    rate_tokens: int
    input_tokens_bound: int
    output_tokens_bound: int | None
    """Over all choices; None when unknown."""
    choices: int
    boot: str = ""
    clamped: bool = False
    output_tokens_cap: int | None = None
    """Per choice; to be sent to the provider when `clamped`."""
    standing: dict[str, LimitStanding] = {}
    """By unit: `requests`, `tokens`."""

    @staticmethod
    def of(cells: Cells, quote: Quote, event: UsageEvent, encoded: bytes, mode: Mode) -> Reservation:
        cap = quote.bound.output_cap
        choices = quote.bound.choices
        return Reservation(
            event=event,
            encoded_event=encoded,
            cells=cells,
            mode=mode,
            rate_tokens=quote.rate_tokens,
            input_tokens_bound=quote.input_tokens_bound,
            output_tokens_bound=None if cap is None else cap * choices,
            choices=choices,
            boot=mode,
            output_tokens_cap=cap,
        )

    @property
    def reserved_nano_usd(self) -> int:
        return self.event.cost_nano_usd

    @property
    def output_cap_to_send(self) -> int | None:
        """The cap that the provider must be told, when it is not the client's own."""
        return self.output_tokens_cap if self.clamped else None

    def clamp(self, reserved_nano_usd: int, output_cap: int) -> None:
        """The budget covered less output than was asked for."""
        self.event = msgspec.structs.replace(
            self.event, cost_nano_usd=reserved_nano_usd, output_tokens=output_cap * self.choices
        )
        self.encoded_event = encode_event(self.event)
        self.clamped = True
        self.output_tokens_cap = output_cap
        self.output_tokens_bound = output_cap * self.choices


class Admitted(msgspec.Struct, gc=False):
    reservation: Reservation


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """`retry_after_ms` None: no waiting helps this call. `wanted` and `remaining` in the cell's unit."""

    kind: Literal["rate", "tokens", "concurrency", "budget", "unpriced"]
    scope: Scope
    limit: int
    wanted: int
    remaining: int
    retry_after_ms: int | None

    @property
    def never(self) -> bool:
        return self.retry_after_ms is None


class Unready(msgspec.Struct, frozen=True):
    """Money cannot be checked now."""

    why: Literal["unseeded", "redis"]
    retry_after_ms: int
