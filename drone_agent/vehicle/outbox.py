"""Which lines of text may go to the ground station now? A token bucket: a flood of STATUSTEXT has starved links.

Pure; times are monotonic ns.
"""

from __future__ import annotations

from collections import deque

# STATUSTEXT.text, https://mavlink.io/en/messages/common.html#STATUSTEXT
MAX_TEXT_BYTES = 50

_MAX_WAITING = 20


class Outbox:
    """A bounded queue of lines, the most severe first; what does not fit is counted and dropped.

    Args:
        per_s: lines a second, on average.
        burst: lines at once.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_ns = per_s / 1e9
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_ns: int | None = None
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Lines that were given up."""
        return self._dropped

    def put(self, severity: int, text: str) -> None:
        """Adds a line; `severity` as MAV_SEVERITY (0 emergency to 7 debug). Cut to 50 bytes of whole characters."""
        line = text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
        if any(line == waiting for _, waiting in self._waiting):
            return
        self._waiting.append((severity, line))
        if len(self._waiting) > _MAX_WAITING:
            self._waiting.remove(max(self._waiting, key=lambda item: item[0]))
            self._dropped += 1

    def due(self, now_ns: int) -> list[tuple[int, bytes]]:
        """Lines that may be sent now: (severity, text)."""
        if self._filled_ns is not None:
            self._tokens = min(self._burst, self._tokens + (now_ns - self._filled_ns) * self._per_ns)
        self._filled_ns = now_ns
        lines: list[tuple[int, bytes]] = []
        while self._waiting and self._tokens >= 1:
            line = min(self._waiting, key=lambda item: item[0])
            self._waiting.remove(line)
            lines.append(line)
            self._tokens -= 1
        return lines
