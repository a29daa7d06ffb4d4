"""Load: what this node sees of each deployment as calls come and go: in flight, uses, time to first token.

The figures are the node's own. Nodes see the same providers and start their counters at random places, so together they spread
calls as one would; nothing is shared and a call pays a few dictionary operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import random
from time import monotonic

from shared.domain.load import OUTAGE_S, Figures

DECAY_S = 10.0
"""Time constant of the moving averages: what is this old counts for 37 %."""
SKETCH_DECAY_S = 300.0
LEAST_S, GROWTH, BUCKETS = 0.001, 1.1, 152
"""Buckets of the sketch: 1 ms to 1,700 s, each a tenth wider than the one before, so a quantile is off by 5 % at most."""
LEAST_SAMPLES = 20.0
"""Below this much evidence there is no quantile."""
HEAVY = 1e12
MOST_JUDGED = 64
"""Calls since a deployment's first failure; beyond them, what was counts half."""
MOST = 20_000
"""Deployments that are remembered; beyond them those that are idle for longest go."""

_SCALE = 1 / math.log(GROWTH)


class Sketch:
    """Times to first token in logarithmic buckets. The newest sample weighs most: weights grow with time instead of every
    bucket shrinking, and are scaled down before they become too large to add to."""

    __slots__ = ("_counts", "_started_s", "_total", "_weight")

    def __init__(self, now_s: float) -> None:
        self._counts = [0.0] * BUCKETS
        self._started_s = now_s
        self._total = 0.0
        self._weight = 1.0

    def add(self, value_s: float, now_s: float) -> None:
        weight = self._weight = math.exp((now_s - self._started_s) / SKETCH_DECAY_S)
        if weight > HEAVY:
            self._counts = [count / weight for count in self._counts]
            self._total /= weight
            self._started_s, weight = now_s, 1.0
            self._weight = weight
        at = int(math.log(value_s / LEAST_S) * _SCALE) if value_s > LEAST_S else 0
        self._counts[at if at < BUCKETS else BUCKETS - 1] += weight
        self._total += weight

    def quantile(self, part: float) -> float | None:
        """Seconds below which `part` of the samples are; None with too few of them."""
        if self._total < LEAST_SAMPLES * self._weight:
            return None
        wanted, seen = part * self._total, 0.0
        for at, count in enumerate(self._counts):
            seen += count
            if seen >= wanted and count:
                return LEAST_S * float(GROWTH ** (at + 0.5))
        return LEAST_S * float(GROWTH**BUCKETS)


class Load:
    """`figures` is what strategies read, by Deployment.key. Times are of a monotonic clock."""

    def __init__(self, clock_s: Callable[[], float] = monotonic, chance: Callable[[], float] = random) -> None:
        self.figures: dict[str, Figures] = {}
        self._sketches: dict[str, Sketch] = {}
        self._turns: dict[str, int] = {}
        self._failed_s = -math.inf
        """When any deployment failed last."""
        self._clock_s = clock_s
        self._chance = chance

    def started(self, key: str) -> None:
        """An attempt goes to this deployment. Each is followed by one `ended`."""
        seen = self.figures.get(key) or self._new(key)
        seen.in_flight += 1
        seen.uses += 1
        seen.last_use_s = self._clock_s()

    def first_token(self, key: str, ttft_s: float) -> None:
        """The first token came `ttft_s` after the request was sent."""
        seen = self.figures.get(key) or self._new(key)
        now_s = self._clock_s()
        known = seen.ttft_s
        if known is None:
            seen.ttft_s = ttft_s
        else:
            seen.ttft_s = known + (ttft_s - known) * (1 - math.exp((seen.measured_s - now_s) / DECAY_S))
        seen.measured_s = now_s
        sketch = self._sketches.get(key)
        if sketch is None:
            sketch = self._sketches[key] = Sketch(now_s)
        sketch.add(ttft_s, now_s)

    def ended(self, key: str, tokens_per_s: float | None = None, *, failed: bool = False) -> None:
        """The attempt is over, however it went. `tokens_per_s`: of its answer, from the first token on, where it was whole;
        `failed`: by its provider."""
        seen = self.figures.get(key)
        if seen is None:
            return
        if seen.in_flight:
            seen.in_flight -= 1
        if failed or seen.failures:
            self._judge(seen, failed)
        if tokens_per_s is not None:
            known = seen.tokens_per_s
            seen.tokens_per_s = tokens_per_s if known is None else known + (tokens_per_s - known) * 0.2

    def outages(self) -> Callable[[str], bool] | None:
        """`recent_outage`; None where nobody failed of late, so that no deployment need be asked about."""
        return self.recent_outage if self._clock_s() - self._failed_s < OUTAGE_S else None

    def recent_outage(self, key: str) -> bool:
        """What domain/load.py calls one."""
        seen = self.figures.get(key)
        return seen is not None and seen.failures > 0 and seen.recent_outage(self._clock_s())

    def _judge(self, seen: Figures, failed: bool) -> None:
        """Count a call of a deployment that has failed before, or does so now."""
        now_s = self._clock_s()
        if now_s - seen.failed_s >= OUTAGE_S:
            seen.failures = seen.calls = 0.0
            if not failed:
                return
        elif seen.calls >= MOST_JUDGED:
            seen.failures /= 2
            seen.calls /= 2
        seen.calls += 1
        if failed:
            seen.failures += 1
            seen.failed_s = self._failed_s = now_s

    def quantile(self, key: str, part: float) -> float | None:
        """Time to first token, in seconds, below which `part` (0.95, 0.99) of the last minutes' answers were; None: too few."""
        sketch = self._sketches.get(key)
        return None if sketch is None else sketch.quantile(part)

    def turn(self, name: str) -> int:
        """The calls of a name so far, from a random start."""
        turn = self.peek(name)
        self._turns[name] = turn + 1
        return turn

    def peek(self, name: str) -> int:
        """What `turn` will answer next."""
        turn = self._turns.get(name)
        if turn is None:
            if len(self._turns) >= MOST:
                self._turns.clear()
            turn = self._turns[name] = int(self._chance() * 1_000_000)
        return turn

    def _new(self, key: str) -> Figures:
        if len(self.figures) >= MOST:
            idle = sorted((each for each in self.figures if not self.figures[each].in_flight), key=self._last_use_s)
            for old in idle[: MOST // 10]:
                del self.figures[old]
                self._sketches.pop(old, None)
        made = self.figures[key] = Figures()
        return made

    def _last_use_s(self, key: str) -> float:
        return self.figures[key].last_use_s
