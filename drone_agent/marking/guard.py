"""Who makes sure that the valve closes? The dead-man: a process of its own that alone holds the valve.

It opens only on an order, and closes at the end of the order, after `max_open_ms`, when the agent's heartbeat is
older than `heartbeat_timeout_ms`, when its parent dies (pipe end and PR_SET_PDEATHSIG), on SIGTERM, SIGHUP and
SIGINT, on a message that does not check, after the machine slept, and on any error of its own. It keeps the cool-down
by itself.

All times are CLOCK_MONOTONIC; only the time asleep is taken from CLOCK_BOOTTIME. Only the standard library is imported.
`python -m drone_agent.marking.guard JSON` is started by `guard_client.spawn_guard`; messages go over stdin and stdout.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking import wire
from drone_agent.marking.valves import Valve, open_valve

_MS = 1_000_000
_TICK_NS = 100 * _MS
_SENSE_POLL_NS = 2 * _MS
_SENSE_WINDOW_NS = 1000 * _MS
_REASSERT_NS = 50 * _MS
_REASSERTIONS = 5
_ASLEEP_NS = 20 * _MS
_PR_SET_PDEATHSIG = 1
_MCL_CURRENT = 1

Report = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the dead-man holds to, whatever it is told (ms)."""

    max_open_ms: int
    cooldown_ms: int
    heartbeat_timeout_ms: int
    late_ms: int
    max_ahead_ms: int

    def __post_init__(self) -> None:
        """Refuses limits that protect from nothing."""
        if not (
            0 < self.max_open_ms <= 5000
            and self.cooldown_ms >= 0
            and 0 < self.heartbeat_timeout_ms <= 250
            and self.late_ms >= 0
            and self.max_ahead_ms > 0
        ):
            raise SprayerError(f"the dead-man's limits make no sense: {self}")


@dataclass(slots=True)
class _Order:
    order_id: int
    open_at_ns: int
    open_ms: int
    opened_ns: int | None = None
    closed_ns: int | None = None
    close_by_ns: int = 0
    level: bool | None = None
    sensed_open_ns: int | None = None
    sensed_closed_ns: int | None = None
    why: str = ""


class Guard:
    """The dead-man's logic: one order at a time, every way to end it.

    Args:
        valve: the valve, closed.
        limits: what is held to.
        report: called with a kind and fields for each message to the agent.
        now_ns: CLOCK_MONOTONIC.
        asleep_ns: how long the machine has been asleep since it started.
    """

    def __init__(
        self,
        valve: Valve,
        limits: Limits,
        report: Report,
        now_ns: Callable[[], int] = time.monotonic_ns,
        asleep_ns: Callable[[], int] | None = None,
    ) -> None:
        self._valve = valve
        self._limits = limits
        self._report = report
        self._now_ns = now_ns
        self._asleep_ns = asleep_ns or _asleep_ns
        self._slept_ns = self._asleep_ns()
        self._beat_ns: int | None = None
        self._order: _Order | None = None
        self._last_close_ns: int | None = None
        self._fault: str | None = None
        self._reassert_left = 0
        self._reassert_ns = 0
        self._tick_ns = now_ns()
        self._senses = valve.sensed() is not None

    @property
    def is_open(self) -> bool:
        """Whether an order holds the valve open."""
        return self._order is not None and self._order.opened_ns is not None and self._order.closed_ns is None

    @property
    def fault(self) -> str | None:
        """Why no order is taken any more."""
        return self._fault

    def handle(self, message: wire.Message) -> bool:
        """Acts on one message of the agent; False: it wants the end. Raises WireError for nonsense."""
        kind = message["k"]
        if kind == "beat":
            self._beat(wire.whole(message, "t"))
        elif kind == "order":
            self._take(wire.whole(message, "id"), wire.whole(message, "at"), wire.whole(message, "ms"))
        elif kind == "off":
            self.off(str(message.get("why", "off")))
        elif kind == "quit":
            return False
        else:
            raise wire.WireError(f"unknown message {kind!r}")
        return True

    def off(self, why: str) -> None:
        """Closes now; an order that has not opened yet is cancelled."""
        order = self._order
        if order is None:
            self._drive_closed()
        elif order.opened_ns is None:
            self._order = None
            self._drive_closed()
            self._report("result", **_no_paint(order.order_id, "cancelled", why))
        elif order.closed_ns is None:
            self._close(order, why)

    def fail(self, why: str) -> None:
        """Closes, and takes no order any more."""
        if self._fault is None:
            self._fault = why
            self._report("fault", detail=why)
        self.off(why)

    def end_if_due(self) -> None:
        """Closes an open valve whose time is up; the first thing after every wake-up."""
        order = self._order
        if order is not None and self.is_open and self._now_ns() >= order.close_by_ns:
            self._close(order, "end of order")

    def advance(self) -> None:
        """Does everything that is due: end of order, lost heartbeat, sleep, opening, read-back, tick."""
        self.end_if_due()
        now = self._now_ns()
        slept_ns = self._asleep_ns() - self._slept_ns
        if slept_ns > _ASLEEP_NS:
            self._slept_ns += slept_ns
            if self.is_open:
                self.fail(f"the machine slept for {slept_ns // _MS} ms with the valve open")
            else:
                self.off(f"the machine slept for {slept_ns // _MS} ms")
        if self._order is not None and self._order.closed_ns is None and not self._alive(now):
            self.off("heartbeat lost")
        self._open_if_due(now)
        self._watch(now)
        if self._reassert_left and now >= self._reassert_ns:
            self._reassert(now)
        if now >= self._tick_ns:
            self._tick_ns = now + _TICK_NS
            self._valve.idle()
            self._report("tick", t=now)

    def deadline_ns(self) -> int:
        """When `advance` must be called at the latest."""
        due = [self._tick_ns]
        if self._reassert_left:
            due.append(self._reassert_ns)
        order = self._order
        if order is not None:
            if order.closed_ns is None:
                due.append((self._beat_ns or 0) + self._limits.heartbeat_timeout_ms * _MS)
                due.append(order.open_at_ns if order.opened_ns is None else order.close_by_ns)
            if order.opened_ns is not None and self._senses:
                due.append(self._now_ns() + _SENSE_POLL_NS)
        return min(due)

    def _alive(self, now: int) -> bool:
        return self._beat_ns is not None and now - self._beat_ns < self._limits.heartbeat_timeout_ms * _MS

    def _beat(self, t_ns: int) -> None:
        now = self._now_ns()
        if t_ns > now:
            raise wire.WireError("a heartbeat from the future")
        # the sender's time, not the arrival's: beats that waited in the pipe are as old as they are
        self._beat_ns = t_ns if self._beat_ns is None else max(self._beat_ns, t_ns)

    def _take(self, order_id: int, open_at_ns: int, open_ms: int) -> None:
        now, limits = self._now_ns(), self._limits
        why = None
        if self._fault is not None:
            why = f"fault: {self._fault}"
        elif self._order is not None:
            why = f"order {self._order.order_id} is under way"
        elif not self._alive(now):
            why = "no heartbeat"
        elif not 0 < open_ms <= limits.max_open_ms:
            why = f"{open_ms} ms, allowed are 1 to {limits.max_open_ms}"
        elif open_at_ns < now - limits.late_ms * _MS:
            why = f"late by {(now - open_at_ns) // _MS} ms"
        elif open_at_ns > now + limits.max_ahead_ms * _MS:
            why = f"{(open_at_ns - now) // _MS} ms ahead, at most {limits.max_ahead_ms}"
        elif self._last_close_ns is not None and open_at_ns < self._last_close_ns + limits.cooldown_ms * _MS:
            why = f"inside the cool-down of {limits.cooldown_ms} ms"
        if why is not None:
            self._report("result", **_no_paint(order_id, "refused", why))
            return
        self._order = _Order(order_id, open_at_ns, open_ms)

    def _open_if_due(self, now: int) -> None:
        order = self._order
        if order is None or order.opened_ns is not None or now < order.open_at_ns:
            return
        if now > order.open_at_ns + self._limits.late_ms * _MS:
            self.off(f"late by {(now - order.open_at_ns) // _MS} ms")
            return
        self._reassert_left = 0
        # counted from before the edge: the valve is never open longer than this
        order.close_by_ns = self._now_ns() + min(order.open_ms, self._limits.max_open_ms) * _MS
        # marked as open before the edge: whatever goes wrong in between, it is closed again
        order.opened_ns = self._now_ns()
        try:
            self._valve.set(is_open=True)
            order.opened_ns = self._now_ns()
            order.level = self._valve.level()
        except SprayerError as error:
            self.fail(f"opening: {error}")
            return
        self._report("opened", id=order.order_id, t=order.opened_ns)
        if order.level is False:
            self.fail("the output reads closed although it was opened")

    def _close(self, order: _Order, why: str) -> None:
        stuck = self._drive_closed()
        order.closed_ns = self._now_ns()
        order.why = why
        self._last_close_ns = order.closed_ns
        if stuck is not None and self._fault is None:
            self._fault = stuck
            self._report("fault", detail=stuck)
        self._watch(order.closed_ns)

    def _drive_closed(self) -> str | None:
        """Writes the closed level, and again a few times; returns what is wrong if the valve does not obey."""
        self._reassert_left = _REASSERTIONS
        self._reassert_ns = self._now_ns() + _REASSERT_NS
        try:
            self._valve.set(is_open=False)
            level = self._valve.level()
        except SprayerError as error:
            return f"closing: {error}"
        return "stuck open: the output reads open although it was closed" if level else None

    def _reassert(self, now: int) -> None:
        left = self._reassert_left
        stuck = self._drive_closed()
        # a valve that does not obey is told so for ever
        self._reassert_left = left if stuck else left - 1
        self._reassert_ns = now + _REASSERT_NS
        if stuck and self._fault is None:
            self._fault = stuck
            self._report("fault", detail=stuck)

    def _watch(self, now: int) -> None:
        """Follows the sense input, and reports the result when nothing more is to be learned."""
        order = self._order
        if order is None or order.opened_ns is None:
            return
        try:
            sensed = self._valve.sensed()
        except SprayerError as error:
            self._fault = self._fault or f"sense input: {error}"
            sensed = None
        if sensed and order.sensed_open_ns is None:
            order.sensed_open_ns = now
        if order.closed_ns is None:
            return
        if sensed is False and order.sensed_open_ns is not None and order.sensed_closed_ns is None:
            order.sensed_closed_ns = now
        if sensed and now - order.closed_ns < _SENSE_WINDOW_NS:
            return
        self._order = None
        if sensed:
            self._drive_closed()
            self._fault = self._fault or "stuck open: the sense input reads open one second after closing"
            self._report("fault", detail=self._fault)
        self._report("result", **_result(order, sensed))


def _result(order: _Order, sensed: bool | None) -> dict[str, Any]:
    evidence = "commanded" if order.level is None else "read_back" if order.level else "none"
    executed = order.level is not False
    detail = order.why
    if sensed is not None:
        executed = order.sensed_open_ns is not None
        evidence = "sensed" if executed else "none"
        detail += "" if executed else "; the sense input saw no opening"
    return {
        "id": order.order_id,
        "executed": executed,
        "evidence": evidence,
        "opened": order.opened_ns,
        "closed": order.closed_ns,
        "detail": detail,
        "sensed_open": order.sensed_open_ns,
        "sensed_closed": order.sensed_closed_ns,
    }


def _no_paint(order_id: int, evidence: str, why: str) -> dict[str, Any]:
    return {"id": order_id, "executed": False, "evidence": evidence, "opened": None, "closed": None, "detail": why}


def serve(
    valve: Valve,
    limits: Limits,
    commands_fd: int,
    reports_fd: int,
    wake_fd: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Runs the dead-man until the agent ends it, dies, or a signal comes; the valve is closed when this returns.

    Args:
        valve: the valve, closed.
        limits: what is held to.
        commands_fd: pipe from the agent; its end is the agent's death.
        reports_fd: pipe to the agent; a full pipe loses reports, never time.
        wake_fd: becomes readable when a signal has come.
        facts: sent along with `ready`.

    Returns:
        Why it ended.
    """
    os.set_blocking(reports_fd, False)

    def report(kind: str, **fields: object) -> None:
        with suppress(OSError):
            os.write(reports_fd, wire.pack(kind, **fields))

    try:
        guard = Guard(valve, limits, report)
        report("ready", pid=os.getpid(), **(facts or {}))
        ended = _loop(guard, commands_fd, wake_fd)
        guard.off(ended)
        guard.advance()
        return ended
    finally:
        valve.close()


def _loop(guard: Guard, commands_fd: int, wake_fd: int | None) -> str:
    lines = wire.Lines()
    sources = [commands_fd] if wake_fd is None else [commands_fd, wake_fd]
    while True:
        wait_ns = guard.deadline_ns() - time.monotonic_ns()
        ready, _, _ = select.select(sources, [], [], max(0, wait_ns) / 1e9)
        guard.end_if_due()
        if wake_fd is not None and wake_fd in ready:
            return "signal"
        if commands_fd in ready:
            data = os.read(commands_fd, 65536)
            if not data:
                return "the agent died"
            try:
                for message in lines.feed(data):
                    if not guard.handle(message):
                        return "quit"
            except wire.WireError as error:
                guard.fail(f"broken message: {error}")
                return "broken message"
        guard.advance()


def _asleep_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def _hold_on_to_the_machine(*, realtime: bool) -> str:
    """Real-time priority and locked memory where the system permits; says which scheduling it runs under."""
    if not realtime:
        return f"nice {os.nice(0)}"
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(_MCL_CURRENT)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (OSError, AttributeError):
        with suppress(OSError):
            os.nice(-10)
        return f"nice {os.nice(0)}"
    return "fifo"


def main(argv: list[str]) -> int:
    """Entry point of the process; exit code 0 after an orderly end."""
    task = json.loads(argv[1])
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != task["parent"]:
        return 1  # the agent died before the line above; the valve was never touched
    # what a library prints must not end up between the reports
    reports_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        limits = Limits(**task["limits"])
        valve = open_valve(task["valve"])
    except (SprayerError, TypeError, KeyError) as error:
        with suppress(OSError):
            os.write(reports_fd, wire.pack("fault", detail=str(error)))
        return 7
    gc.collect()
    gc.freeze()
    gc.disable()
    serve(
        valve,
        limits,
        0,
        reports_fd,
        wake_read,
        {"sched": _hold_on_to_the_machine(realtime=bool(task.get("realtime", True)))},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
