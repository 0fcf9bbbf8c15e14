"""Valves that keep what was done to them, and a dead-man in a thread of the test, with the real loop and pipes."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking.guard import Limits, serve

LIMITS = Limits(max_open_ms=500, cooldown_ms=100, heartbeat_timeout_ms=200, late_ms=200, max_ahead_ms=5000)


class RecordingValve:
    """A valve with its faults: it may be stuck, deaf, broken, and feel its own paint."""

    def __init__(self, *, senses: bool = False, reads: bool = True) -> None:
        self.edges: list[tuple[int, bool]] = []
        self.is_open = False
        self.writes = 0
        self.released = False
        self.stuck_open = False
        self.deaf = False
        self.fails_to_open = False
        self.fails_to_close = 0
        self.reads = reads
        self.senses = senses
        self.sensed_after_ns = 0
        self.sense_stuck = False
        self.sense_dead = False

    def set(self, *, is_open: bool) -> None:
        self.writes += 1
        if is_open and self.fails_to_open:
            raise SprayerError("the driver reports a short circuit")
        if not is_open and self.fails_to_close:
            self.fails_to_close -= 1
            raise SprayerError("the bus is busy")
        if (is_open and self.deaf) or (not is_open and self.stuck_open) or is_open is self.is_open:
            return
        self.is_open = is_open
        self.edges.append((time.monotonic_ns(), is_open))

    def level(self) -> bool | None:
        return self.is_open if self.reads else None

    def sensed(self) -> bool | None:
        if not self.senses:
            return None
        if self.sense_dead:
            return False
        if self.sense_stuck and self.edges:
            return True
        if not self.edges:
            return False
        t_ns, is_open = self.edges[-1]
        return is_open if time.monotonic_ns() - t_ns >= self.sensed_after_ns else not is_open

    def idle(self) -> None:
        pass

    def close(self) -> None:
        if not self.released:
            self.fails_to_close = 0
            self.set(is_open=False)
            self.released = True


class ThreadGuard:
    """`guard_client.GuardHandle` without a process, for valves that live in the test."""

    def __init__(self, valve: Any, limits: Limits = LIMITS) -> None:
        self._commands_read, self._commands_write = os.pipe()
        self._reports_read, self._reports_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        self.why: str | None = None
        self._thread = threading.Thread(target=self._serve, args=(valve, limits), name="fake-guard", daemon=True)
        self._thread.start()

    @property
    def commands_fd(self) -> int:
        return self._commands_write

    @property
    def reports_fd(self) -> int:
        return self._reports_read

    def ended(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def kill(self) -> None:
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        self._thread.join(2)
        for fd in (self._commands_write, self._reports_read, self._commands_read, self._wake_read, self._wake_write):
            os.close(fd)

    def _serve(self, valve: Any, limits: Limits) -> None:
        try:
            self.why = serve(valve, limits, self._commands_read, self._reports_write, self._wake_read)
        finally:
            os.close(self._reports_write)
