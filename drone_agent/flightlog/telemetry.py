"""How is every byte of the autopilot kept? Appends packets to the flight's `telemetry.tlog`, as ground stations do."""

from __future__ import annotations

import logging
import struct
import threading
from pathlib import Path

from drone_agent.errors import FlightLogError
from drone_agent.flightlog.files import why

log = logging.getLogger(__name__)


class TelemetryRecorder:
    """Writes records of 8 bytes of unix time (big-endian, us) and one MAVLink packet; a restart appends.

    A failing card must not take the link down with it: the first failure is logged, then nothing more is written.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path` for appending. Raises FlightLogError."""
        try:
            # Unbuffered: what was received is with the kernel, whatever happens to this process.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise FlightLogError(f"{path}: cannot be written: {why(error)}") from error
        self._path = path
        self._lock = threading.Lock()
        self._broken = False

    def record(self, unix_us: int, packet: bytes) -> None:
        """Appends one packet; called on the link's thread."""
        with self._lock:
            if self._broken or self._file.closed:
                return
            try:
                self._file.write(struct.pack(">Q", unix_us) + packet)
            except OSError as error:
                self._broken = True
                log.warning("%s: no longer written: %s", self._path, why(error))

    def close(self) -> None:
        """Closes the file; may be called twice."""
        with self._lock:
            self._file.close()
