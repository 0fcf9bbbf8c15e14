"""What time is it? The only module that asks the machine; everything else is told."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

# A Raspberry Pi without a clock battery starts in 1970 or at the image's build date.
_OLDEST_CREDIBLE_UTC = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class UtcStamp:
    """A UTC annotation: ISO 8601 text and whether the clock behind it can be believed."""

    iso: str
    valid: bool


def utc_from_unix(unix_s: float) -> UtcStamp:
    """The stamp of a recorded unix time (s); valid under the same condition as the system's own."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return UtcStamp(moment.isoformat(timespec="milliseconds"), moment >= _OLDEST_CREDIBLE_UTC)


class SystemClock:
    """The machine's clocks: CLOCK_MONOTONIC for logic, UTC as an annotation."""

    def now_mono_ns(self) -> int:
        """Nanoseconds of the monotonic clock; never steps, unrelated to UTC."""
        return time.monotonic_ns()

    def utc(self) -> UtcStamp:
        """Current UTC; `valid` is False while the date cannot be true (no clock battery, no time source yet)."""
        now = datetime.now(UTC)
        return UtcStamp(now.isoformat(timespec="milliseconds"), now >= _OLDEST_CREDIBLE_UTC)

    def unix_us(self) -> int:
        """Microseconds of unix time, for file formats that want it; as wrong as the machine's date."""
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Blocks for `seconds`."""
        time.sleep(seconds)


class ManualClock:
    """A clock that is set from outside: replay sets it to the frame's time, tests to what they need."""

    def __init__(self, mono_ns: int = 0, utc: UtcStamp | None = None) -> None:
        self._mono_ns = mono_ns
        self._utc = utc or UtcStamp("1970-01-01T00:00:00.000+00:00", valid=False)

    def now_mono_ns(self) -> int:
        """The time that was set last, in ns."""
        return self._mono_ns

    def utc(self) -> UtcStamp:
        """The UTC stamp that was set last."""
        return self._utc

    def set(self, mono_ns: int, utc: UtcStamp | None = None) -> None:
        """Moves the clock to `mono_ns`; raises ValueError if that would run backwards."""
        if mono_ns < self._mono_ns:
            raise ValueError(f"monotonic time cannot run backwards: {mono_ns} < {self._mono_ns}")
        self._mono_ns = mono_ns
        if utc is not None:
            self._utc = utc

    def sleep(self, seconds: float) -> None:
        """Advances the clock by `seconds` and returns at once."""
        self._mono_ns += round(seconds * 1e9)
