"""`make bench`: our CPU per request beside a bare aiohttp pass-through's, in the same run on the same machine.

The gateway (or the pass-through) has one core to itself; load, provider, Redis, Postgres and worker share the other.
Everything is on: key, limits on three levels, a hard budget, reservation, usage log, settlement, metrics, call log.

- *ratio* = requests per CPU-second of the gateway ÷ requests per CPU-second of the pass-through.
- *added* = what the client saw through the gateway minus what it saw directly, at the same percentile, same load.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from tests.bench import decision
from tests.bench.load import Figures, body, load, request
from tests.bench.stack import Stack
from tests.bench.upstream import EVENTS

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
CONNECTIONS = (1, 32, 128)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
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


async def measure(name: str, pid: int, port: int, message: bytes, connections: int) -> tuple[Figures, float]:
    """Figures of one run and the CPU µs per call that the process under test spent in it."""
    await load(port, message, connections=connections, seconds=min(1.0, SECONDS))
    before = cpu_s(pid)
    figures = await load(port, message, connections=connections, seconds=SECONDS)
    spent = cpu_s(pid) - before
    if figures.errors:
        print(f"  ! {name}: {figures.errors} errors", flush=True)
    return figures, spent / max(1, figures.calls) * 1e6


async def compare(stack: Stack, *, stream: bool) -> list[dict[str, object]]:
    rows = []
    for connections in CONNECTIONS:
        ours: list[tuple[Figures, float]] = []
        bare: list[tuple[Figures, float]] = []
        direct = await load(
            stack.upstream_port,
            request(stack.upstream_port, "none", body("bench", stream=stream)),
            connections=connections,
            seconds=min(2.0, SECONDS),
        )
        for _ in range(ROUNDS):
            bare.append(
                await measure(
                    "pass-through",
                    stack.passthrough.pid,
                    stack.passthrough_port,
                    request(stack.passthrough_port, "none", body("bench", stream=stream)),
                    connections,
                )
            )
            ours.append(
                await measure(
                    "waystation",
                    stack.gateway.pid,
                    stack.gateway_port,
                    request(stack.gateway_port, stack.key, body("bench/bench", stream=stream)),
                    connections,
                )
            )
        row = summary(connections, direct, ours, bare)
        rows.append(row)
        show(stream, row)
    return rows


async def translated(stack: Stack) -> dict[str, object]:
    """An Anthropic client at the provider of Chat's format, beside a Chat client there: CPU a call, and a streamed event."""
    found: dict[str, object] = {"connections": 32}
    for stream in (False, True):
        payload = body("bench/bench", stream=stream)
        plain = request(stack.gateway_port, stack.key, payload)
        other = request(stack.gateway_port, stack.key, payload, "/v1/messages")
        spent = {}
        for name, message in (("passed", plain), ("translated", other)):
            runs = [await measure(name, stack.gateway.pid, stack.gateway_port, message, 32) for _ in range(ROUNDS)]
            assert not any(figures.errors for figures, _ in runs)
            spent[name] = min(cpu_us for _, cpu_us in runs)
        kind = "stream" if stream else "whole"
        ratio = spent["translated"] / spent["passed"]
        found |= {f"{kind}_{name}_cpu_us": round(cpu_us, 1) for name, cpu_us in spent.items()} | {
            f"{kind}_ratio": round(ratio, 2)
        }
        events = f", {spent['passed'] / EVENTS:.1f} and {spent['translated'] / EVENTS:.1f} µs an event" if stream else ""
        print(
            f"{kind:6} Chat → Chat {spent['passed']:.1f} µs CPU, Messages → Chat {spent['translated']:.1f} µs: "
            f"{ratio:.2f} times as much{events}",
            flush=True,
        )
    return found


def summary(
    connections: int, direct: Figures, ours: list[tuple[Figures, float]], bare: list[tuple[Figures, float]]
) -> dict[str, object]:
    def best(runs: list[tuple[Figures, float]]) -> tuple[Figures, float]:
        return min(runs, key=lambda run: run[1])

    (our, our_us), (passed, passed_us) = best(ours), best(bare)
    return {
        "connections": connections,
        "waystation_per_s": round(our.per_second),
        "passthrough_per_s": round(passed.per_second),
        "waystation_cpu_us": round(our_us, 1),
        "passthrough_cpu_us": round(passed_us, 1),
        "ratio": round(passed_us / our_us, 3),
        "waystation_added_p50_ms": round(our.percentile_ms(0.5) - direct.percentile_ms(0.5), 3),
        "waystation_added_p99_ms": round(our.percentile_ms(0.99) - direct.percentile_ms(0.99), 3),
        "passthrough_added_p50_ms": round(passed.percentile_ms(0.5) - direct.percentile_ms(0.5), 3),
        "passthrough_added_p99_ms": round(passed.percentile_ms(0.99) - direct.percentile_ms(0.99), 3),
        "errors": sum(run[0].errors for run in ours),
        "all_cpu_us": [round(run[1], 1) for run in ours],
        "all_passthrough_cpu_us": [round(run[1], 1) for run in bare],
    }


def show(stream: bool, row: dict[str, object]) -> None:
    kind = "stream" if stream else "whole "
    print(
        f"{kind} c={row['connections']:>3}  waystation {row['waystation_per_s']:>6}/s {row['waystation_cpu_us']:>7} µs CPU "
        f"added p50 {row['waystation_added_p50_ms']} p99 {row['waystation_added_p99_ms']} ms | pass-through "
        f"{row['passthrough_per_s']:>6}/s {row['passthrough_cpu_us']:>7} µs CPU added p50 "
        f"{row['passthrough_added_p50_ms']} p99 {row['passthrough_added_p99_ms']} ms | ratio {row['ratio']}",
        flush=True,
    )


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
