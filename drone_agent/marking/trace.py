"""A valve of paper: each edge becomes a line in a file, so that the whole chain can be exercised and measured dry."""

from __future__ import annotations

import os
import time

from drone_agent.errors import SprayerError
from drone_agent.marking.valves import Spec


class TraceValve:
    """Appends `monotonic_ns level pid` for each edge, unbuffered; the first line is the closed state at the start."""

    def __init__(self, spec: Spec) -> None:
        path = str(spec.get("path", ""))
        try:
            self._fd: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SprayerError(f"marking.trace.path: {path}: {error.strerror}") from error
        self._is_open = False
        self._write()

    def set(self, *, is_open: bool) -> None:
        """Writes an edge, if it is one."""
        if self._fd is None:
            raise SprayerError("the trace valve is closed")
        if is_open != self._is_open:
            self._is_open = is_open
            self._write()

    def level(self) -> bool | None:
        """The last level that was written."""
        return self._is_open

    def sensed(self) -> bool | None:
        """A file feels no paint."""
        return None

    def idle(self) -> None:
        """Nothing to keep alive."""

    def close(self) -> None:
        """Writes the closing edge if the valve is open, and closes the file."""
        if self._fd is not None:
            self.set(is_open=False)
            fd, self._fd = self._fd, None
            os.close(fd)

    def _write(self) -> None:
        if self._fd is not None:
            # the time as near to the write as can be: this line is the pin's edge
            try:
                os.write(self._fd, b"%d %d %d\n" % (time.monotonic_ns(), self._is_open, os.getpid()))
            except OSError as error:
                raise SprayerError(f"the edge cannot be written: {error.strerror}") from error
