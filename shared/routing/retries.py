"""Retry budget (pure): how much more than its calls a node may send to providers.

Each call deposits a tenth of an attempt; each attempt beyond a call's first withdraws one. So in the long run the extra load is
a tenth at most on every node, and with it in the cluster. A reserve that fills by one a second lets a quiet node retry at all.
When a provider fails for everybody at once, what was saved in quiet times carries the calls in flight over; the breaker does
the rest.
"""

from __future__ import annotations

SHARE = 0.1
MOST_SAVED = 200.0
RESERVE = 10.0
RESERVE_PER_S = 1.0


class RetryBudget:
    def __init__(self, share: float = SHARE, most_saved: float = MOST_SAVED, reserve: float = RESERVE) -> None:
        self._share = share
        self._most = most_saved
        self._most_reserve = reserve
        self._saved = 0.0
        self._reserve = reserve
        self._at_s: float | None = None

    def deposit(self) -> None:
        """A call came in."""
        if self._saved < self._most:
            self._saved += self._share

    def withdraw(self, now_s: float) -> bool:
        """Whether one more attempt may be made."""
        if self._at_s is not None:
            self._reserve = min(self._most_reserve, self._reserve + (now_s - self._at_s) * RESERVE_PER_S)
        self._at_s = now_s
        if self._saved >= 1.0:
            self._saved -= 1.0
        elif self._reserve >= 1.0:
            self._reserve -= 1.0
        else:
            return False
        return True
