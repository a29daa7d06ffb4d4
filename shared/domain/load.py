"""Load: what this node has seen of a deployment, as strategies read it."""

from __future__ import annotations


class Figures:
    """Kept up to date by upstream/load.py. `None`: not measured yet."""

    __slots__ = ("in_flight", "last_use_s", "measured_s", "tokens_per_s", "ttft_s", "uses")

    def __init__(
        self,
        in_flight: int = 0,
        uses: int = 0,
        last_use_s: float = -1.0,
        ttft_s: float | None = None,
        tokens_per_s: float | None = None,
        measured_s: float = -1.0,
    ) -> None:
        self.in_flight = in_flight
        self.uses = uses
        self.last_use_s = last_use_s
        """On a monotonic clock; -1: never."""
        self.ttft_s = ttft_s
        """Time to first token, moving average."""
        self.tokens_per_s = tokens_per_s
        self.measured_s = measured_s


IDLE = Figures()
