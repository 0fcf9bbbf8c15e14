"""How does the agent give orders to its dead-man, and what if the dead-man itself dies?

One thread sends the heartbeat, for as long as the main loop comes round, and reads the reports. A dead-man that ends
or falls silent is killed, the valve is closed by a fresh process (`drone_agent.marking.off`), and no order is given
any more.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import drone_agent
from drone_agent.errors import SprayerError
from drone_agent.marking import sprayer as ev
from drone_agent.marking import wire
from drone_agent.marking.settings import GuardSettings, MarkingSettings
from drone_agent.marking.valves import Spec, valve_spec
from drone_agent.ports import Clock
from drone_agent.values import SprayOrder, SprayResult

log = logging.getLogger(__name__)

_MS = 1_000_000
_END_TIMEOUT_S = 1.0
_OFF_TIMEOUT_S = 10.0
_EXPLANATION_S = 0.2


class GuardHandle(Protocol):
    """A running dead-man: two pipes and a way to be rid of it."""

    @property
    def commands_fd(self) -> int:
        """Write end of its input."""

    @property
    def reports_fd(self) -> int:
        """Read end of its output."""

    def ended(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s`; True when it is over."""

    def kill(self) -> None:
        """Ends it without asking."""

    def close(self) -> None:
        """Closes the pipes."""


class GuardProcess:
    """The dead-man as a child process in a session of its own, out of reach of Ctrl-C."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                [sys.executable, "-m", "drone_agent.marking.guard", json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=child_environment(),
            )
        except OSError as error:
            raise SprayerError(f"the dead-man process cannot be started: {error}") from error
        if self._process.stdin is None or self._process.stdout is None:
            raise SprayerError("the dead-man process has no pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def commands_fd(self) -> int:
        """Write end of its stdin."""
        return self._stdin.fileno()

    @property
    def reports_fd(self) -> int:
        """Read end of its stdout."""
        return self._stdout.fileno()

    def ended(self, timeout_s: float) -> bool:
        """Waits for the process."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def close(self) -> None:
        """Closes both pipes."""
        self._stdin.close()
        self._stdout.close()


def child_environment() -> dict[str, str]:
    """The environment of a child that must find this very package."""
    folder = str(Path(drone_agent.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    # lgpio keeps a file in its working folder and fails where that is read-only, as a service's is
    scratch = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or tempfile.gettempdir()
    return {"LG_WD": scratch} | os.environ | {"PYTHONPATH": path}


def guard_task(settings: MarkingSettings) -> dict[str, Any]:
    """What the dead-man process is told at its start."""
    return {
        "parent": os.getpid(),
        "valve": valve_spec(settings),
        "realtime": settings.guard.realtime,
        "limits": {
            "max_open_ms": settings.guard.max_open_ms,
            "cooldown_ms": settings.budget.cooldown_ms,
            "heartbeat_timeout_ms": settings.guard.heartbeat_timeout_ms,
            "late_ms": settings.guard.late_ms,
            "max_ahead_ms": round(settings.lead.max_ahead_ms) + 1000,
        },
    }


def spawn_guard(settings: MarkingSettings) -> GuardProcess:
    """Starts the dead-man for the configured valve. Call it from the main thread.

    The dead-man ends with that thread.
    """
    return GuardProcess(guard_task(settings))


class GuardClient:
    """The agent's end of the dead-man; safe to use from several threads.

    Args:
        handle: the dead-man.
        settings: time-outs.
        clock: the machine's monotonic clock (the dead-man uses the same).
        valve: how to close the valve from a fresh process if the dead-man dies; None where nothing more can be done.

    Raises:
        SprayerError: it does not report ready in time; the message is its own where it gave one.
    """

    def __init__(self, handle: GuardHandle, settings: GuardSettings, clock: Clock, valve: Spec | None = None) -> None:
        self._handle = handle
        self._settings = settings
        self._clock = clock
        self._valve = valve
        self._lock = threading.Lock()
        self._under_way: dict[int, SprayOrder] = {}
        self._done: list[SprayResult] = []
        self._opened: dict[int, int] = {}
        self._sensed: dict[int, tuple[int | None, int | None]] = {}
        self._fault: str | None = None
        self._facts: dict[str, Any] = {}
        self._lines = wire.Lines()
        self._touched_ns = self._heard_ns = clock.now_mono_ns()
        self._closing = False
        self._lost = False
        os.set_blocking(handle.commands_fd, False)
        try:
            self._await_ready()
        except SprayerError:
            self._end()
            raise
        self._thread = threading.Thread(target=self._run, name="spray-guard", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why the dead-man takes no orders any more."""
        return self._fault

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the dead-man said of itself: process id, scheduling."""
        return dict(self._facts)

    def touch(self) -> None:
        """The main loop lives; without this the heartbeat stops after `stall_timeout_ms`."""
        self._touched_ns = self._clock.now_mono_ns()

    def order(self, order: SprayOrder) -> SprayResult | None:
        """Sends an order ahead of time; the dead-man opens on its own clock.

        A result at once only if it cannot be sent.
        """
        with self._lock:
            fault = self._fault or ("the dead-man is closed" if self._closing else None)
            if fault is not None or order.order_id in self._under_way:
                detail = fault or f"order {order.order_id} is under way"
                return SprayResult(order.order_id, executed=False, evidence=ev.REFUSED, detail=detail)
            self._under_way[order.order_id] = order
        self._beat()
        self._send("order", id=order.order_id, at=order.open_at_ns, ms=order.open_ms)
        return None

    def off(self, reason: str) -> None:
        """Closes the valve now and cancels what has not opened."""
        self._send("off", why=reason[:200])

    def results(self) -> list[SprayResult]:
        """Results since the last call; also the main loop's sign of life."""
        self.touch()
        return self.take_results()

    def take_results(self) -> list[SprayResult]:
        """Results since the last call, for another thread than the main loop's."""
        with self._lock:
            done, self._done = self._done, []
        return done

    def opened_at_ns(self, order_id: int) -> int | None:
        """When the dead-man opened for an order, as soon as it says so."""
        return self._opened.get(order_id)

    def sensed(self, order_id: int) -> tuple[int | None, int | None]:
        """When the sense input saw the valve open and close for an order (ns)."""
        return self._sensed.get(order_id, (None, None))

    def close(self) -> None:
        """Ends the dead-man, which closes the valve; may be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._send("off", why="exit")
        self._send("quit")
        if self._thread is not threading.current_thread():
            self._thread.join(_END_TIMEOUT_S + _OFF_TIMEOUT_S)
        if not self._lost:
            self._end()
        self._settle_rest("the dead-man ended")

    def _end(self) -> None:
        try:
            orderly = self._handle.ended(_END_TIMEOUT_S)
            if not orderly:
                self._handle.kill()
                self._handle.ended(_END_TIMEOUT_S)
        finally:
            self._handle.close()
        if not orderly:
            self._switch_off()

    def _await_ready(self) -> None:
        deadline_ns = self._clock.now_mono_ns() + round(self._settings.start_timeout_s * 1e9)
        while "pid" not in self._facts:
            left_s = (deadline_ns - self._clock.now_mono_ns()) / 1e9
            ready, _, _ = select.select([self._handle.reports_fd], [], [], max(0.0, left_s))
            if not ready:
                raise SprayerError(f"the dead-man process was not ready within {self._settings.start_timeout_s} s")
            if not self._read():
                raise SprayerError(self._fault or "the dead-man process ended at its start")
            if self._fault is not None:
                raise SprayerError(self._fault)

    def _run(self) -> None:
        interval_s = self._settings.heartbeat_timeout_ms / 4e3
        self._heard_ns = self._clock.now_mono_ns()
        while True:
            now_ns = self._clock.now_mono_ns()
            if not self._closing and now_ns - self._touched_ns < self._settings.stall_timeout_ms * _MS:
                self._beat()
            ready, _, _ = select.select([self._handle.reports_fd], [], [], interval_s)
            if ready and not self._read():
                break
            if self._clock.now_mono_ns() - self._heard_ns > self._settings.silence_timeout_ms * _MS:
                self._lose(f"the dead-man process was silent for {self._settings.silence_timeout_ms} ms")
                return
        if not self._closing:
            self._lose("the dead-man process ended")

    def _lose(self, why: str) -> None:
        log.error("%s; closing the valve from another process", why)
        self._lost = True
        with self._lock:
            self._fault = self._fault or why
        self._handle.kill()
        self._handle.ended(_END_TIMEOUT_S)
        self._switch_off()
        self._settle_rest(why)
        self._handle.close()

    def _settle_rest(self, why: str) -> None:
        # nobody can say whether paint left: the ledger keeps them charged
        with self._lock:
            for order_id in list(self._under_way):
                del self._under_way[order_id]
                self._done.append(
                    SprayResult(
                        order_id, executed=False, evidence=ev.NONE, opened_at_ns=self._opened.get(order_id), detail=why
                    )
                )

    def _switch_off(self) -> None:
        if self._valve is None:
            return
        command = [sys.executable, "-m", "drone_agent.marking.off", "--valve", json.dumps(dict(self._valve))]
        try:
            subprocess.run(  # noqa: S603 - our own module
                command, check=True, timeout=_OFF_TIMEOUT_S, env=child_environment()
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.critical("the valve could not be closed from another process: %s", error)

    def _beat(self) -> None:
        self._send("beat", t=self._clock.now_mono_ns())

    def _send(self, kind: str, **fields: object) -> None:
        line = wire.pack(kind, **fields)
        with self._lock:
            if self._lost:
                return
            try:
                written = os.write(self._handle.commands_fd, line)
            except OSError as error:
                self._fault = self._fault or f"the dead-man does not listen: {error.strerror}"
                return
            if written != len(line):
                self._fault = self._fault or "the dead-man does not listen: its pipe is full"

    def _read(self) -> bool:
        try:
            data = os.read(self._handle.reports_fd, 65536)
            messages = self._lines.feed(data)
        except (OSError, wire.WireError) as error:
            with self._lock:
                self._fault = self._fault or f"broken report of the dead-man: {error}"
            return False
        self._heard_ns = self._clock.now_mono_ns()
        for message in messages:
            self._hear(message)
        return bool(data)

    def _hear(self, message: wire.Message) -> None:
        kind = message["k"]
        if kind == "ready":
            self._facts = {key: value for key, value in message.items() if key != "k"}
        elif kind == "opened":
            self._opened[message["id"]] = message["t"]
        elif kind == "fault":
            log.error("dead-man: %s", message.get("detail"))
            with self._lock:
                self._fault = self._fault or str(message.get("detail"))
        elif kind == "result":
            order_id = message["id"]
            self._sensed[order_id] = (message.get("sensed_open"), message.get("sensed_closed"))
            with self._lock:
                if self._under_way.pop(order_id, None) is None:
                    return
                self._done.append(
                    SprayResult(
                        order_id,
                        executed=bool(message["executed"]),
                        evidence=str(message["evidence"]),
                        opened_at_ns=message["opened"],
                        closed_at_ns=message["closed"],
                        detail=str(message["detail"]),
                    )
                )
