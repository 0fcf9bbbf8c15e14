"""What was the autopilot's time at a host time, and do a video's frame times and a telemetry log belong together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from drone_agent.errors import InputError

Floats = npt.NDArray[np.float64]

# Enough to see a step of the host's clock, few enough to search in no time.
_KEPT_PAIRS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class ClockFit:
    """The host's clock against the autopilot's boot clock over one flight.

    `offset_s` is the median of (host unix time - boot time), `spread_s` the distance from its 5th to its 95th
    percentile (link and scheduling delays). `boot_s` and `offsets_s` keep a thinned course, ordered by boot time.
    """

    offset_s: float
    spread_s: float
    boot_s: Floats
    offsets_s: Floats

    @property
    def first_boot_s(self) -> float:
        """First boot time that the telemetry covers."""
        return float(self.boot_s[0])

    @property
    def last_boot_s(self) -> float:
        """Last boot time that the telemetry covers."""
        return float(self.boot_s[-1])

    def boot_at(self, unix_s: float) -> float:
        """Boot time (s) at a host time, by the median offset."""
        return unix_s - self.offset_s

    def unix_at(self, boot_s: float) -> float:
        """Host time (unix s) at a boot time, by the median offset."""
        return boot_s + self.offset_s

    def offset_near(self, boot_s: Floats) -> Floats:
        """The offset (s) at boot times, by the nearest pair; follows a clock that was stepped in flight."""
        after = np.clip(np.searchsorted(self.boot_s, boot_s), 1, max(1, len(self.boot_s) - 1))
        if len(self.boot_s) == 1:
            return np.full(len(boot_s), self.offsets_s[0])
        before = after - 1
        take_before = np.abs(boot_s - self.boot_s[before]) <= np.abs(self.boot_s[after] - boot_s)
        result: Floats = self.offsets_s[np.where(take_before, before, after)]
        return result


def fit_clock(unix_s: Sequence[float] | Floats, boot_s: Sequence[float] | Floats) -> ClockFit:
    """Fits pairs of (host time of receipt, boot time in the message).

    The median ignores late packets; a constant transport delay stays in the offset (some ms on a serial link).

    Raises:
        ValueError: no pairs, or of different number.
    """
    unix, boot = np.asarray(unix_s, np.float64), np.asarray(boot_s, np.float64)
    if len(unix) != len(boot) or not len(unix):
        raise ValueError(f"clock pairs needed, got {len(unix)} host and {len(boot)} boot times")
    order = np.argsort(boot, kind="stable")
    boot, offsets = boot[order], (unix - boot)[order]
    low, middle, high = np.percentile(offsets, [5, 50, 95])
    kept = np.unique(np.linspace(0, len(boot) - 1, min(len(boot), _KEPT_PAIRS)).astype(np.int64))
    return ClockFit(float(middle), float(high - low), boot[kept], offsets[kept])


def check_same_flight(
    frames: Sequence[tuple[float, float | None]],
    clock: ClockFit,
    *,
    telemetry: str = "telemetry",
    recording: str = "the recording",
    max_offset_s: float = 1.0,
) -> None:
    """Refuses a video and a telemetry log that are not from the same flight.

    Args:
        frames: (boot time in s, host unix time in s or None) of each frame.
        clock: from the telemetry.
        telemetry: its name for the message.
        recording: the frames' name for the message.
        max_offset_s: how far the host's clock may differ at the same boot time.

    Raises:
        InputError: no frame lies in the time that the telemetry covers, or the same boot time was another host time.
    """
    if not frames:
        return
    boot = np.array([frame[0] for frame in frames])
    covered = (boot >= clock.first_boot_s) & (boot <= clock.last_boot_s)
    if not covered.any():
        raise InputError(
            f"{telemetry} is from another flight: it covers {clock.first_boot_s:.1f} to {clock.last_boot_s:.1f} s "
            f"after the autopilot's boot, {recording} {boot.min():.1f} to {boot.max():.1f} s"
        )
    timed = [
        (frame[0], frame[1]) for frame, inside in zip(frames, covered, strict=True) if inside and frame[1] is not None
    ]
    if not timed:
        return
    boot_s, unix_s = np.array(timed, np.float64).T
    apart = unix_s - boot_s - clock.offset_near(boot_s)
    off = float(np.median(apart))
    if abs(off) > max_offset_s:
        raise InputError(
            f"{telemetry} is from another flight: {boot_s[0]:.1f} s after the autopilot's boot it says "
            f"{_when(clock.unix_at(float(boot_s[0])))}, {recording} {_when(float(unix_s[0]))} "
            f"(allowed: {max_offset_s:g} s apart)"
        )


def _when(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"unix time {unix_s:g}"
