"""How long from an order to the valve's edge, and from the loss of the heartbeat to the closed valve?

Run by hand or by `make bench`; not a test. Real dead-man processes with the trace valve, whose edges carry the monotonic time at which they
were written, while `--load` processes keep the cores busy:

    python -m tests.bench.marking_latency --runs 1000 --load 2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drone_agent.clock import SystemClock
from drone_agent.marking import wire
from drone_agent.marking.guard_client import GuardClient, GuardProcess, guard_task
from drone_agent.marking.guarded import GuardedSprayer
from drone_agent.marking.settings import BudgetSettings, GuardSettings, LeadSettings, MarkingSettings, TraceSettings
from drone_agent.values import Place, SprayOrder

MS = 1_000_000
OPEN_MS, COOLDOWN_MS, HEARTBEAT_TIMEOUT_MS = 10, 100, 200
AT_ONCE = 4
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Figures:
    """One distribution (ms)."""

    what: str
    runs: int
    median_ms: float
    p99_ms: float
    worst_ms: float
    missed: int = 0


def figures(what: str, values_ns: list[int], missed: int = 0) -> Figures:
    values = sorted(value / MS for value in values_ns)
    p99 = values[min(len(values) - 1, round(0.99 * len(values)))]
    return Figures(what, len(values), round(statistics.median(values), 3), round(p99, 3), round(values[-1], 3), missed)


def settings(path: Path, *, realtime: bool, max_open_ms: int) -> MarkingSettings:
    return MarkingSettings(
        sprayer="trace",
        trace=TraceSettings(path=str(path)),
        budget=BudgetSettings(open_ms=OPEN_MS, cooldown_ms=COOLDOWN_MS),
        guard=GuardSettings(
            late_ms=500,
            heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
            max_open_ms=max_open_ms,
            stall_timeout_ms=10_000,
            realtime=realtime,
        ),
        lead=LeadSettings(max_ahead_ms=1000),
    )


def edges(path: Path) -> list[tuple[int, bool]]:
    """(monotonic ns, open) of every edge; the first line is the closed state at the start."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [(int(t), level == "1") for t, level, _ in lines][1:]


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def order_to_edge(folder: Path, runs: int, ahead_ms: int, *, realtime: bool) -> Figures:
    """From `spray()` to the opening edge, or from the ordered instant to it for orders given ahead of time."""
    path = folder / f"orders-{ahead_ms}-{realtime}.txt"
    configuration = settings(path, realtime=realtime, max_open_ms=500)
    clock = SystemClock()
    guard = GuardClient(GuardProcess(guard_task(configuration)), configuration.guard, clock)
    sprayer = GuardedSprayer(guard, "trace", paints=False)
    starts: list[int] = []
    try:
        for number in range(1, runs + 1):
            now_ns = clock.now_mono_ns()
            open_at_ns = now_ns + ahead_ms * MS
            sprayer.spray(SprayOrder(number, 0, now_ns, open_at_ns, OPEN_MS, Place("bench", 0, 0, (0, 0)), 0.0))
            end_ns = now_ns + round(PATIENCE_S * 1e9)
            while not (results := sprayer.results()) and clock.now_mono_ns() < end_ns:
                clock.sleep(0.002)
            if results and results[0].executed:
                starts.append(open_at_ns)
            clock.sleep((COOLDOWN_MS + 5) / 1e3)
    finally:
        sprayer.close()
    opened = [t for t, is_open in edges(path) if is_open]
    what = (
        "order to opening edge"
        if ahead_ms == 0
        else f"opening edge after its ordered instant (given {ahead_ms} ms ahead)"
    )
    values = [edge - start for start, edge in zip(starts, opened, strict=True)]
    return figures(what, values, runs - len(values))


def heartbeat_to_closed(folder: Path, runs: int, *, realtime: bool) -> Figures:
    """From the last heartbeat's own time stamp to the closing edge; several dead-men at once, each with its own pipe."""
    paths = [folder / f"beats-{slot}-{realtime}.txt" for slot in range(AT_ONCE)]
    tasks = [guard_task(settings(path, realtime=realtime, max_open_ms=5000)) for path in paths]
    for task in tasks:
        task["limits"]["cooldown_ms"] = 20
    guards = [GuardProcess(task) for task in tasks]
    last_beats: list[list[int]] = [[] for _ in guards]
    for guard in guards:
        select.select([guard.reports_fd], [], [], PATIENCE_S)
    try:
        for number in range(1, -(-runs // AT_ONCE) + 1):
            for slot, guard in enumerate(guards):
                now_ns = time.monotonic_ns()
                os.write(guard.commands_fd, wire.pack("beat", t=now_ns))
                os.write(guard.commands_fd, wire.pack("order", id=number, at=now_ns, ms=4000))
                last_beats[slot].append(now_ns)
                time.sleep(0.01)
            time.sleep(HEARTBEAT_TIMEOUT_MS / 1e3 + 0.15)
            for guard in guards:
                os.set_blocking(guard.reports_fd, False)
                with contextlib.suppress(BlockingIOError):
                    while os.read(guard.reports_fd, 65536):
                        pass
    finally:
        for guard in guards:
            os.write(guard.commands_fd, wire.pack("quit"))
            if not guard.ended(PATIENCE_S):
                guard.kill()
            guard.close()
    values, missed = [], 0
    for path, beats in zip(paths, last_beats, strict=True):
        closes = [t for t, is_open in edges(path) if not is_open]
        for beat_ns, following in zip(beats, [*beats[1:], 2**63], strict=True):
            own = [t for t in closes if beat_ns < t < following]
            values += own[:1] and [own[0] - beat_ns]
            missed += not own
    return figures(f"last heartbeat to closing edge (time-out {HEARTBEAT_TIMEOUT_MS} ms)", values, missed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--load", type=int, default=os.cpu_count() or 1, help="processes that keep the cores busy")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, object]] = []
    out = sys.stdout.write
    out(f"{arguments.load} busy processes on {os.cpu_count()} cores, {arguments.runs} runs; ms\n")
    out(f"{'scheduling':<12}{'what':<68}{'median':>9}{'p99':>9}{'worst':>9}{'missed':>8}\n")
    with tempfile.TemporaryDirectory() as name, busy(arguments.load):
        for realtime in (True, False):
            measurements = (
                functools.partial(order_to_edge, Path(name), arguments.runs, 0, realtime=realtime),
                functools.partial(order_to_edge, Path(name), arguments.runs, 30, realtime=realtime),
                functools.partial(heartbeat_to_closed, Path(name), arguments.runs, realtime=realtime),
            )
            for measure in measurements:
                m = measure()
                kind = "real-time" if realtime else "ordinary"
                rows.append({"scheduling": kind, **asdict(m)})
                out(f"{kind:<12}{m.what:<68}{m.median_ms:>9.3f}{m.p99_ms:>9.3f}{m.worst_ms:>9.3f}{m.missed:>8}\n")
                sys.stdout.flush()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"load": arguments.load, "cores": os.cpu_count(), "rows": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
