"""What the simulator remembers between requests: faults in force, counters, the last requests."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from services.simulator.behaviour import Behaviour, parse_behaviour

RECORDED_BODY_BYTES = 64 * 1024


@dataclass(slots=True)
class Fault:
    """A behaviour added to a model's own: for one model or for all, for the next `times` requests or for good, for each of
    them or (by chance) for a `share` from 0 to 1."""

    behaviour: str
    model: str | None = None
    times: int | None = None
    share: float | None = None


@dataclass(slots=True)
class Record:
    """One request as it arrived, and how it ended. Times in Unix seconds.

    `ended`: `complete`, `refused` (an error reply), `broken` (a fault of ours), `client_gone`; None while it lasts.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    received_at: float
    model: str | None = None
    behaviour: str | None = None
    stream: bool = False
    status: int | None = None
    tokens_sent: int = 0
    """Events with a token that were written."""
    ended: str | None = None
    ended_at: float | None = None


@dataclass(slots=True)
class State:
    """`keep` bounds the records; 0 keeps none, and then no prompt stays in memory."""

    keep: int = 256
    api_key: str | None = None
    pace_ms: int = 0
    any_model: bool = False
    """Whether an unknown model name is served as `chat`, instead of refused."""
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    records: deque[Record] = field(default_factory=deque)
    open_replies: int = 0
    chance: Random = field(default_factory=lambda: Random(4))
    """The same from one run to the next, for the same requests in the same order."""

    def receive(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Record:
        """Begin a record. Headers in lower case."""
        self.counts["requests"] += 1
        self.open_replies += 1
        record = Record(self.counts["requests"], method, path, dict(headers), body, time.time())
        if self.keep:
            while len(self.records) >= self.keep:
                self.records.popleft()
            self.records.append(record)
        return record

    def end(self, record: Record, how: str) -> None:
        """End a record, once: what came first stays."""
        if record.ended is None:
            record.ended, record.ended_at = how, time.time()
            self.open_replies -= 1
            self.counts[how] += 1
            self.counts["tokens_sent"] += record.tokens_sent

    def first_token_delay_ms(self, behaviour: Behaviour) -> int:
        """The behaviour's own, or one drawn from its heavy tail."""
        if not behaviour.tail_ms:
            return behaviour.first_token_delay_ms
        late = self.chance.random() * 100 < behaviour.tail_percent
        times = self.chance.uniform(7, 33) if late else self.chance.lognormvariate(0, 0.35)
        return int(behaviour.tail_ms * times)

    def behaviour_name(self, model: str) -> str:
        """What is in force for `model`: its own name and the first fault meant for it. Uses the fault up."""
        name = "chat" if self.any_model and parse_behaviour(model) is None else model
        for index, fault in enumerate(self.faults):
            if (fault.model is None or fault.model == model) and (fault.share is None or self.chance.random() < fault.share):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        del self.faults[index]
                return f"{name}+{fault.behaviour}"
        return name

    def set_faults(self, faults: Any) -> None:
        """Replace the faults by what the control endpoint was sent. Raises ValueError that names the entry."""
        if not isinstance(faults, list):
            raise ValueError("faults: must be a list of {behaviour, model?, times?, share?}")
        self.faults = [_fault(f"faults[{index}]", entry) for index, entry in enumerate(faults)]

    def reset(self) -> None:
        """Forget faults, counters and the records that have ended; the others go on."""
        self.faults.clear()
        self.counts.clear()
        self.records.clear()

    def summary(self) -> dict[str, Any]:
        return {
            "faults": [asdict(fault) for fault in self.faults],
            "counters": {**self.counts, "open": self.open_replies},
            "pace_ms": self.pace_ms,
        }


def recordable(raw: bytes, parsed: Any) -> Any:
    """A body as a record keeps it: parsed, or the beginning of it when it is long."""
    return parsed if len(raw) <= RECORDED_BODY_BYTES else raw[:RECORDED_BODY_BYTES].decode(errors="replace")


def known_behaviour(name: str) -> Behaviour:
    """Raises ValueError when the table has no such behaviour."""
    behaviour = parse_behaviour(name)
    if behaviour is None:
        raise ValueError(f"{name!r} names no behaviour; GET /_control lists them")
    return behaviour


def _fault(where: str, entry: Any) -> Fault:
    if not isinstance(entry, dict) or not isinstance(entry.get("behaviour"), str):
        raise ValueError(f"{where}: must be an object with a behaviour")
    model, times, share = entry.get("model"), entry.get("times"), entry.get("share")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"{where}.model: must be a string")
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        raise ValueError(f"{where}.times: must be a whole number from 1")
    if share is not None and (not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1):
        raise ValueError(f"{where}.share: must be a number from 0 to 1")
    try:
        known_behaviour(entry["behaviour"])
    except ValueError as error:
        raise ValueError(f"{where}.behaviour: {error}") from error
    return Fault(entry["behaviour"], model, times, share)
