"""Where was the vehicle between two telemetry samples? A time-ordered buffer and its interpolation.

Position: cubic Hermite through position and velocity (exact for constant acceleration; straight between the samples
where no velocity came). Attitude: the shortest turn (slerp) between the two quaternions. The rest: the last value said.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Generic, TypeVar

from drone_agent.values import GeoPoint, NoPose, Pose
from drone_agent.vehicle.settings import VehicleSettings

T = TypeVar("T")
Quaternion = tuple[float, float, float, float]

# EKF_STATUS_FLAGS (MAVLink, ardupilotmega): what makes the estimate a position.
EKF_POS_HORIZ_ABS = 0x10
EKF_CONST_POS_MODE = 0x80
EKF_UNINITIALIZED = 0x400

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Local:
    """LOCAL_POSITION_NED: position (m) and, where known, velocity (m/s)."""

    north_m: float
    east_m: float
    down_m: float
    velocity: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Gps:
    """GPS_RAW_INT: fix type, satellites, stated horizontal accuracy (None: not stated)."""

    fix_type: int
    satellites: int | None = None
    h_acc_m: float | None = None


class Stream(Generic[T]):
    """Samples in order of time, at most `capacity` of them (None: all)."""

    __slots__ = ("_capacity", "times", "values")

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self.times: list[int] = []
        self.values: list[T] = []

    def __len__(self) -> int:
        return len(self.times)

    def add(self, t_ns: int, value: T) -> None:
        """Adds a sample; one that comes late is put in its place, one with a known time is ignored."""
        if not self.times or t_ns > self.times[-1]:
            self.times.append(t_ns)
            self.values.append(value)
        else:
            at = bisect_left(self.times, t_ns)
            if self.times[at] == t_ns:
                return
            self.times.insert(at, t_ns)
            self.values.insert(at, value)
        # Cutting a block at a time keeps the cost per sample constant.
        if self._capacity is not None and len(self.times) >= 2 * self._capacity:
            del self.times[: -self._capacity]
            del self.values[: -self._capacity]

    def around(self, t_ns: int) -> tuple[int, int] | None:
        """Indices of the samples at or before and at or after `t_ns`; None outside the samples."""
        if not self.times or t_ns < self.times[0] or t_ns > self.times[-1]:
            return None
        after = bisect_left(self.times, t_ns)
        return (after, after) if self.times[after] == t_ns else (after - 1, after)

    def last(self, t_ns: int) -> tuple[int, T] | None:
        """Time and value of the last sample at or before `t_ns`."""
        at = bisect_right(self.times, t_ns) - 1
        return None if at < 0 else (self.times[at], self.values[at])


class PoseBuffer:
    """What telemetry says of position and attitude, and what follows for an instant in between.

    Times are ns on one clock, the caller's choice (a replay: the autopilot's boot clock). With a `capacity` it is the
    ring buffer of a live link, without one it holds a whole recording.
    """

    def __init__(self, settings: VehicleSettings, capacity: int | None = None) -> None:
        self._settings = settings
        self._max_gap_ns = round(settings.max_pose_gap_s * _NS)
        self.attitude: Stream[Quaternion] = Stream(capacity)
        self.local: Stream[Local] = Stream(capacity)
        self.geo: Stream[GeoPoint | None] = Stream(capacity)
        self.gps: Stream[Gps] = Stream(capacity)
        self.ekf: Stream[int] = Stream(capacity)
        self.range: Stream[float] = Stream(capacity)

    def add_attitude(self, t_ns: int, roll: float, pitch: float, yaw: float) -> None:
        """ATTITUDE (rad)."""
        self.attitude.add(t_ns, quaternion(roll, pitch, yaw))

    def add_local(
        self,
        t_ns: int,
        north_m: float,
        east_m: float,
        down_m: float,
        velocity: tuple[float, float, float] | None = None,
    ) -> None:
        """LOCAL_POSITION_NED (m, m/s)."""
        self.local.add(t_ns, Local(north_m, east_m, down_m, velocity))

    def add_geo(self, t_ns: int, point: GeoPoint | None) -> None:
        """GLOBAL_POSITION_INT; None where it said lat = lon = alt = 0, which means that there is no position yet."""
        self.geo.add(t_ns, point)

    def add_gps(self, t_ns: int, fix_type: int, satellites: int | None, h_acc_m: float | None) -> None:
        """GPS_RAW_INT."""
        self.gps.add(t_ns, Gps(fix_type, satellites, h_acc_m))

    def add_ekf(self, t_ns: int, flags: int) -> None:
        """EKF_STATUS_REPORT."""
        self.ekf.add(t_ns, flags)

    def add_range(self, t_ns: int, range_m: float) -> None:
        """DISTANCE_SENSOR that looks forward (m)."""
        self.range.add(t_ns, range_m)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last instant at which both attitude and position are known; None if there is none."""
        if not self.attitude.times or not self.local.times:
            return None
        first = max(self.attitude.times[0], self.local.times[0])
        last = min(self.attitude.times[-1], self.local.times[-1])
        return (first, last) if first <= last else None

    def at(self, t_ns: int) -> Pose | NoPose:
        """The pose at `t_ns`, or why there is none.

        No pose: outside the samples (`before_start`, `after_end`), between samples farther apart than
        `max_pose_gap_s` (`gap`), or while the autopilot itself has no position (`no_position`): EKF without absolute
        horizontal position, in constant-position mode or uninitialised; GPS fix below `min_fix_type`;
        GLOBAL_POSITION_INT at its all-zero default. A stream that never came says nothing.
        """
        span = self.span_ns
        if span is None:
            return NoPose(t_ns, "no_telemetry", "no instant has both attitude and local position")
        attitude, local = self.attitude.around(t_ns), self.local.around(t_ns)
        if attitude is None or local is None:
            early = t_ns < span[0]
            edge = span[0] if early else span[1]
            return NoPose(
                t_ns, "before_start" if early else "after_end", f"{abs(t_ns - edge) / _NS:.3f} s outside the telemetry"
            )
        gap_ns = max(_width(self.attitude.times, attitude), _width(self.local.times, local))
        if gap_ns > self._max_gap_ns:
            return NoPose(t_ns, "gap", f"{gap_ns / _NS:.3f} s between samples, allowed {self._max_gap_ns / _NS:g} s")
        if reason := self._no_position(t_ns):
            return NoPose(t_ns, "no_position", reason)
        roll, pitch, yaw = euler(
            slerp(
                self.attitude.values[attitude[0]],
                self.attitude.values[attitude[1]],
                _share(self.attitude.times, attitude, t_ns),
            )
        )
        place, velocity = hermite(
            self.local.values[local[0]],
            self.local.values[local[1]],
            _width(self.local.times, local) / _NS,
            _share(self.local.times, local, t_ns),
        )
        gps = self.gps.last(t_ns)
        said = gps[1] if gps else None
        ekf = self.ekf.last(t_ns)
        h_acc = said.h_acc_m if said else None
        return Pose(
            t_mono_ns=t_ns,
            north_m=place[0],
            east_m=place[1],
            down_m=place[2],
            roll=roll,
            pitch=pitch,
            yaw=yaw,
            vel_north_m_s=velocity[0],
            vel_east_m_s=velocity[1],
            vel_down_m_s=velocity[2],
            geo=self._geo_at(t_ns),
            range_m=self.range_at(t_ns),
            sigma_m=self._settings.position_sigma_m if h_acc is None else h_acc,
            gap_ns=gap_ns,
            fix_type=said.fix_type if said else None,
            satellites=said.satellites if said else None,
            h_acc_m=h_acc,
            ekf_flags=ekf[1] if ekf else None,
        )

    def _no_position(self, t_ns: int) -> str | None:
        ekf = self.ekf.last(t_ns)
        if ekf is not None and not ekf_has_position(ekf[1]):
            return f"EKF_STATUS_REPORT flags 0x{ekf[1]:x}: no absolute horizontal position"
        gps = self.gps.last(t_ns)
        lowest = self._settings.min_fix_type
        if gps is not None and gps[1].fix_type < lowest:
            return f"GPS fix type {gps[1].fix_type}, needed {lowest}"
        geo = self.geo.last(t_ns)
        if geo is not None and geo[1] is None:
            return "GLOBAL_POSITION_INT is all zero"
        return None

    def _geo_at(self, t_ns: int) -> GeoPoint | None:
        around = self.geo.around(t_ns)
        if around is None or _width(self.geo.times, around) > max(self._max_gap_ns, _NS):
            return None
        before, after = self.geo.values[around[0]], self.geo.values[around[1]]
        if before is None or after is None:
            return None
        share = _share(self.geo.times, around, t_ns)
        lon_step = (after.lon_deg - before.lon_deg + 180) % 360 - 180
        return GeoPoint(
            before.lat_deg + share * (after.lat_deg - before.lat_deg),
            (before.lon_deg + share * lon_step + 180) % 360 - 180,
            before.alt_amsl_m + share * (after.alt_amsl_m - before.alt_amsl_m),
        )

    def range_at(self, t_ns: int) -> float | None:
        """The last range at or before `t_ns`, None if older than `max_range_age_s`."""
        last = self.range.last(t_ns)
        if last is None or t_ns - last[0] > self._settings.max_range_age_s * _NS:
            return None
        return last[1]


def ekf_has_position(flags: int) -> bool:
    """Whether EKF_STATUS_REPORT.flags tell of a usable absolute horizontal position."""
    return bool(flags & EKF_POS_HORIZ_ABS) and not flags & (EKF_CONST_POS_MODE | EKF_UNINITIALIZED)


def _width(times: list[int], around: tuple[int, int]) -> int:
    return times[around[1]] - times[around[0]]


def _share(times: list[int], around: tuple[int, int], t_ns: int) -> float:
    width = _width(times, around)
    return (t_ns - times[around[0]]) / width if width else 0.0


def hermite(
    before: Local, after: Local, width_s: float, share: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Position and velocity at `share` (0 to 1) of the way from one sample to the next, `width_s` later."""
    p, q = (before.north_m, before.east_m, before.down_m), (after.north_m, after.east_m, after.down_m)
    if width_s <= 0:
        return p, before.velocity or (0.0, 0.0, 0.0)
    if before.velocity is None or after.velocity is None:
        steps = [b - a for a, b in zip(p, q, strict=True)]
        place = [a + share * step for a, step in zip(p, steps, strict=True)]
        return _triple(place), _triple([step / width_s for step in steps])
    s2, s3 = share**2, share**3
    place, speed = [], []
    for a, b, va, vb in zip(p, q, before.velocity, after.velocity, strict=True):
        place.append(
            (2 * s3 - 3 * s2 + 1) * a
            + (s3 - 2 * s2 + share) * width_s * va
            + (3 * s2 - 2 * s3) * b
            + (s3 - s2) * width_s * vb
        )
        speed.append(va + share * (vb - va))
    return _triple(place), _triple(speed)


def _triple(values: list[float]) -> tuple[float, float, float]:
    a, b, c = values
    return a, b, c


def quaternion(roll: float, pitch: float, yaw: float) -> Quaternion:
    """(w, x, y, z) of a ZYX attitude (rad)."""
    cr, sr = math.cos(roll / 2), math.sin(roll / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    return (
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    )


def euler(q: Quaternion) -> tuple[float, float, float]:
    """(roll, pitch, yaw) of a unit quaternion (rad); yaw and roll within +-pi, pitch within +-pi/2."""
    w, x, y, z = q
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return roll, pitch, yaw


def slerp(before: Quaternion, after: Quaternion, share: float) -> Quaternion:
    """The attitude at `share` (0 to 1) of the shortest turn from one unit quaternion to another (Shoemake 1985)."""
    dot = sum(a * b for a, b in zip(before, after, strict=True))
    sign = 1.0 if dot >= 0 else -1.0
    angle = math.acos(min(1.0, abs(dot)))
    if angle < 1e-6:
        left, right = 1 - share, share * sign
    else:
        left, right = math.sin((1 - share) * angle) / math.sin(angle), sign * math.sin(share * angle) / math.sin(angle)
    w, x, y, z = (left * a + right * b for a, b in zip(before, after, strict=True))
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return w / norm, x / norm, y / norm, z / norm
