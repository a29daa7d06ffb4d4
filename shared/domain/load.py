"""Load: what this node has seen of a deployment, as strategies read it."""

from __future__ import annotations

OUTAGE_S = 30.0
"""How long after its last failure a deployment counts as one that had an outage."""
OUTAGE_SHARE = 0.2
"""Of its calls since the first failure: with fewer failing, it is having a bad day like everybody."""


class Figures:
    """Kept up to date by upstream/load.py. `None`: not measured yet."""

    __slots__ = (
        "calls", "failed_s", "failures", "in_flight", "last_use_s", "measured_s", "tokens_per_s", "ttft_s", "uses",
    )  # fmt: skip

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
        self.failures = self.calls = 0.0
        """Calls that its provider failed, and all of them, since the first of those; older ones count less and less."""
        self.failed_s = -1.0
        """When the last failure was."""

    def recent_outage(self, now_s: float) -> bool:
        """Of late its provider failed too large a part of the calls. `now_s` is of the clock that the others are of."""
        return self.failures > 0 and now_s - self.failed_s < OUTAGE_S and self.failures >= OUTAGE_SHARE * self.calls


IDLE = Figures()
