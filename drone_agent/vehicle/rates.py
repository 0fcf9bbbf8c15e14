"""Which messages must the autopilot be asked for now?

It forgets at a restart, and a ground station can take rates away. Pure: told what arrives and when, it says what to
ask for. Times are monotonic ns.
"""

from __future__ import annotations

from dataclasses import dataclass

# Intervals are whole milliseconds, and at most this many different ones a link: ArduPilot accepts the eleventh and
# snaps it to the nearest without a word.
MAX_INTERVALS = 10

_NS = 1_000_000_000
_ASK_AGAIN_NS = 2 * _NS
_WINDOW_NS = 3 * _NS
_TOO_SLOW = 0.5


@dataclass(slots=True)
class _Stream:
    interval_ms: int
    asked_ns: int | None = None
    window_ns: int = 0
    heard: int = 0


class RateKeeper:
    """Keeps the wanted rates of one link."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}

    def want(self, message_type: str, rate_hz: float) -> None:
        """Adds a message or changes its rate.

        Raises:
            ValueError: the rate is not positive, or the link's different intervals are used up.
        """
        if not rate_hz > 0:
            raise ValueError(f"{message_type}: a rate must be positive, not {rate_hz}")
        interval_ms = max(1, round(1000 / rate_hz))
        others = {s.interval_ms for name, s in self._streams.items() if name != message_type}
        if len(others | {interval_ms}) > MAX_INTERVALS:
            raise ValueError(
                f"{message_type}: {interval_ms} ms would be interval number {MAX_INTERVALS + 1} of this link"
            )
        self._streams[message_type] = _Stream(interval_ms)

    def heard(self, message_type: str) -> None:
        """A message has arrived."""
        stream = self._streams.get(message_type)
        if stream is not None:
            stream.heard += 1

    def forgotten(self) -> None:
        """The autopilot restarted or the link was lost: everything must be asked for again."""
        for stream in self._streams.values():
            stream.asked_ns = None

    def due(self, now_ns: int) -> list[tuple[str, int]]:
        """What to ask for now: (message name, interval in us). Each is asked at most once in 2 s."""
        asks: list[tuple[str, int]] = []
        for name, stream in self._streams.items():
            if stream.asked_ns is not None and now_ns - stream.window_ns >= _WINDOW_NS:
                expected = (now_ns - stream.window_ns) / 1e6 / stream.interval_ms
                slow = stream.heard < _TOO_SLOW * expected
                stream.window_ns, stream.heard = now_ns, 0
                if not slow or now_ns - stream.asked_ns < _ASK_AGAIN_NS:
                    continue
            elif stream.asked_ns is not None:
                continue
            stream.asked_ns = stream.window_ns = now_ns
            stream.heard = 0
            asks.append((name, stream.interval_ms * 1000))
        return asks
