"""`make bench`: our CPU per request beside a bare aiohttp pass-through's, in the same run on the same machine.

The gateway (or the pass-through) has one core to itself; load, provider, Redis, Postgres and worker share the other.
Everything is on: key, limits on three levels, a hard budget, reservation, usage log, settlement, metrics, call log.

A machine's speed drifts, a shared one's by half within seconds: so both take turns of a second, and each turn is compared
with the one beside it.

- *ratio* = requests per CPU-second of the gateway ÷ requests per CPU-second of the pass-through: the median of the turns,
  and in brackets the quartiles.
- *added* = what the client saw through the gateway minus what it saw directly, at the same percentile, same load.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.bench import decision
from tests.bench.load import Figures, body, load, request
from tests.bench.stack import Stack
from tests.bench.upstream import EVENTS

TURN_S = float(os.environ.get("BENCH_TURN_S", "1"))
TURNS = int(os.environ.get("BENCH_TURNS", "10"))
WARM_S = 0.2
CONNECTIONS = (1, 32, 128)
IDLE_STREAMS = 1_000


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class Subject:
    """A process under test, and the call that it is asked."""

    name: str
    pid: int
    port: int
    message: bytes


@dataclass(frozen=True)
class Turn:
    """What clients saw in one turn, and the CPU µs per call that the process spent in it."""

    figures: Figures
    cpu_us: float


async def turn(subject: Subject, connections: int) -> Turn:
    await load(subject.port, subject.message, connections=connections, seconds=WARM_S)
    before_s = cpu_s(subject.pid)
    figures = await load(subject.port, subject.message, connections=connections, seconds=TURN_S)
    spent_s = cpu_s(subject.pid) - before_s
    if figures.errors:
        print(f"  ! {subject.name}: {figures.errors} errors", flush=True)
    return Turn(figures, spent_s / max(1, figures.calls) * 1e6)


async def by_turns(one: Subject, other: Subject, connections: int) -> tuple[list[Turn], list[Turn]]:
    """Their turns, in pairs that were beside each other; who begins changes."""
    turns: dict[str, list[Turn]] = {one.name: [], other.name: []}
    for number in range(TURNS):
        for subject in (one, other) if number % 2 else (other, one):
            turns[subject.name].append(await turn(subject, connections))
    return turns[one.name], turns[other.name]


def ratios(ours: list[Turn], theirs: list[Turn]) -> list[float]:
    """Their CPU a call by ours, sorted: at first quartile, median and third quartile."""
    pairs = [their.cpu_us / our.cpu_us for our, their in zip(ours, theirs, strict=True)]
    return [round(share, 2) for share in statistics.quantiles(pairs, n=4, method="inclusive")]


def all_of(turns: list[Turn]) -> tuple[Figures, float]:
    """The turns as one run, and the CPU µs of a call in it."""
    runs = [one.figures for one in turns]
    calls = sum(run.calls for run in runs)
    together = Figures(
        calls=calls,
        errors=sum(run.errors for run in runs),
        seconds=sum(run.seconds for run in runs),
        latencies_s=sorted(latency for run in runs for latency in run.latencies_s),
    )
    return together, sum(one.cpu_us * one.figures.calls for one in turns) / max(1, calls)


async def compare(stack: Stack, *, stream: bool) -> list[dict[str, object]]:
    payload = body("bench", stream=stream)
    passthrough = Subject(
        "pass-through", stack.passthrough.pid, stack.passthrough_port, request(stack.passthrough_port, "none", payload)
    )
    message = request(stack.gateway_port, stack.key, body("bench/bench", stream=stream))
    gateway = Subject("waystation", stack.gateway.pid, stack.gateway_port, message)
    rows = []
    for connections in CONNECTIONS:
        direct = await load(
            stack.upstream_port,
            request(stack.upstream_port, "none", payload),
            connections=connections,
            seconds=2 * TURN_S,
        )
        row = summary(connections, direct, *await by_turns(gateway, passthrough, connections))
        rows.append(row)
        show(stream, row)
    return rows


def summary(connections: int, direct: Figures, ours: list[Turn], theirs: list[Turn]) -> dict[str, object]:
    (our, our_us), (passed, passed_us) = all_of(ours), all_of(theirs)
    return {
        "connections": connections,
        "waystation_per_s": round(our.per_second),
        "passthrough_per_s": round(passed.per_second),
        "waystation_cpu_us": round(our_us, 1),
        "passthrough_cpu_us": round(passed_us, 1),
        "ratio_quartiles": ratios(ours, theirs),
        "waystation_added_p50_ms": round(our.percentile_ms(0.5) - direct.percentile_ms(0.5), 3),
        "waystation_added_p99_ms": round(our.percentile_ms(0.99) - direct.percentile_ms(0.99), 3),
        "passthrough_added_p50_ms": round(passed.percentile_ms(0.5) - direct.percentile_ms(0.5), 3),
        "passthrough_added_p99_ms": round(passed.percentile_ms(0.99) - direct.percentile_ms(0.99), 3),
        "errors": our.errors,
    }


def show(stream: bool, row: dict[str, object]) -> None:
    low, median, high = cast(list[float], row["ratio_quartiles"])
    kind = "stream" if stream else "whole "
    print(
        f"{kind} c={row['connections']:>3}  waystation {row['waystation_per_s']:>6}/s {row['waystation_cpu_us']:>7} µs CPU "
        f"added p50 {row['waystation_added_p50_ms']} p99 {row['waystation_added_p99_ms']} ms | pass-through "
        f"{row['passthrough_per_s']:>6}/s {row['passthrough_cpu_us']:>7} µs CPU added p50 "
        f"{row['passthrough_added_p50_ms']} p99 {row['passthrough_added_p99_ms']} ms | "
        f"ratio {median:.2f} ({low:.2f}–{high:.2f})",
        flush=True,
    )


async def translated(stack: Stack) -> dict[str, object]:
    """An Anthropic client at the provider of Chat's format, beside a Chat client there: CPU a call, and a streamed event."""
    found: dict[str, object] = {"connections": 32}
    for stream in (False, True):
        payload = body("bench/bench", stream=stream)
        other, same = (
            Subject(path, stack.gateway.pid, stack.gateway_port, request(stack.gateway_port, stack.key, payload, path))
            for path in ("/v1/messages", "/v1/chat/completions")
        )
        ours, theirs = await by_turns(other, same, 32)
        (there, translated_us), (here, passed_us) = all_of(ours), all_of(theirs)
        assert there.errors == here.errors == 0
        times = 1 / ratios(ours, theirs)[1]
        kind = "stream" if stream else "whole"
        found |= {
            f"{kind}_translated_cpu_us": round(translated_us, 1),
            f"{kind}_passed_cpu_us": round(passed_us, 1),
            f"{kind}_times": round(times, 2),
        }
        events = f", {passed_us / EVENTS:.1f} and {translated_us / EVENTS:.1f} µs an event" if stream else ""
        print(
            f"{kind:6} Chat → Chat {passed_us:.1f} µs CPU, Messages → Chat {translated_us:.1f} µs: "
            f"{times:.2f} times as much{events}",
            flush=True,
        )
    return found


async def idle_streams(stack: Stack) -> dict[str, object]:
    """Open IDLE_STREAMS streams that have had their first token, and see what each costs in memory."""
    message = request(stack.gateway_port, stack.key, body("bench/idle", stream=True))
    before_kb = rss_kb(stack.gateway.pid)
    writers, slowest_s = [], 0.0
    for start in range(0, IDLE_STREAMS, 100):
        begun = time.perf_counter()
        opened = await asyncio.gather(*(open_stream(stack.gateway_port, message) for _ in range(100)))
        slowest_s = max(slowest_s, time.perf_counter() - begun)
        writers += opened
        assert len(writers) == start + 100
    after_kb = rss_kb(stack.gateway.pid)
    for writer in writers:
        writer.transport.abort()
    each_kb = (after_kb - before_kb) / IDLE_STREAMS
    print(
        f"{IDLE_STREAMS} idle streams: {each_kb:.1f} KB each ({before_kb} → {after_kb} KB); slowest hundred to its first "
        f"tokens {slowest_s * 1000:.0f} ms",
        flush=True,
    )
    return {"streams": IDLE_STREAMS, "kb_each": round(each_kb, 1), "slowest_hundred_ms": round(slowest_s * 1000)}


async def open_stream(port: int, message: bytes) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    await asyncio.wait_for(reader.readuntil(b"hello"), 30)
    return writer


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()


async def main() -> dict[str, object]:
    async with Stack.started() as stack:
        results: dict[str, object] = {
            "python": sys.version.split()[0],
            "cores": os.cpu_count(),
            "commit": commit(),
            "whole": await compare(stack, stream=False),
            "stream": await compare(stack, stream=True),
            "translated": await translated(stack),
            "idle": await idle_streams(stack),
        }
    results["decision"] = decision.measured()
    return results


if __name__ == "__main__":
    results = uvloop.run(main())
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(results, indent=2) + "\n")
