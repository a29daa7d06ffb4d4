"""Hedge budget (pure): how many second attempts a node may start beside its calls.

Each call that may be hedged deposits a twentieth of an attempt; a hedge withdraws a whole one. A node begins with nothing and
saves little, so in a brown-out, when every call is slow, it stays at a twentieth: there the breaker has to help. Each node
counts for itself, and so the cluster does not exceed it either.
"""

from __future__ import annotations

SHARE = 0.05
MOST_SAVED = 5.0
QUANTILE = 0.95
"""A first attempt that is slower than this part of its deployment's answers is hedged."""


class HedgeBudget:
    def __init__(self, share: float = SHARE, most_saved: float = MOST_SAVED) -> None:
        self._share = share
        self._most = most_saved
        self._saved = 0.0

    def deposit(self) -> None:
        """A call came in that may be hedged."""
        self._saved = min(self._most, self._saved + self._share)

    def withdraw(self) -> bool:
        """Whether one hedge may start."""
        if self._saved < 1.0 - 1e-9:  # twenty times a twentieth is one
            return False
        self._saved = max(0.0, self._saved - 1.0)
        return True
