"""Writes small, real `.tlog` recordings."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from pymavlink.dialects.v20 import ardupilotmega as dialect

UNIX_AT_BOOT_S = 1_795_351_360.5


class Recording:
    """Bytes of a `.tlog` in the making; `at` is the autopilot's boot time in seconds."""

    def __init__(self, system: int = 1, component: int = 1, unix_at_boot_s: float = UNIX_AT_BOOT_S) -> None:
        self._mav = dialect.MAVLink(None, srcSystem=system, srcComponent=component)
        self._unix_at_boot_s = unix_at_boot_s
        self.data = b""

    def add(self, at: float, message: Any, delay_s: float = 0.0, sender: dialect.MAVLink | None = None) -> Recording:
        stamp = round((self._unix_at_boot_s + at + delay_s) * 1e6)
        packet = message.pack(sender or self._mav)
        self.data += struct.pack(">Q", stamp) + bytes(packet)
        return self

    def heartbeat(
        self, at: float, *, armed: bool = True, mode: int = 4, status: int = 4, sender: dialect.MAVLink | None = None
    ) -> Recording:
        base = dialect.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | (dialect.MAV_MODE_FLAG_SAFETY_ARMED if armed else 0)
        return self.add(
            at, dialect.MAVLink_heartbeat_message(dialect.MAV_TYPE_QUADROTOR, 3, base, mode, status, 3), sender=sender
        )

    def attitude(self, at: float, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Recording:
        return self.add(at, dialect.MAVLink_attitude_message(round(at * 1e3), roll, pitch, yaw, 0, 0, 0))

    def local(
        self,
        at: float,
        place: tuple[float, float, float] = (0.0, 0.0, 0.0),
        velocity: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Recording:
        return self.add(at, dialect.MAVLink_local_position_ned_message(round(at * 1e3), *place, *velocity))

    def geo(self, at: float, lat: float = 47.4814, lon: float = 8.2117, alt: float = 380.1) -> Recording:
        message = dialect.MAVLink_global_position_int_message(
            round(at * 1e3), round(lat * 1e7), round(lon * 1e7), round(alt * 1e3), 0, 0, 0, 0, 0
        )
        return self.add(at, message)

    def gps(self, at: float, fix: int = 6, h_acc_mm: int = 300) -> Recording:
        message = dialect.MAVLink_gps_raw_int_message(round(at * 1e6), fix, 0, 0, 0, 0, 0, 0, 0, 10, 0, h_acc=h_acc_mm)
        return self.add(at, message)

    def ekf(self, at: float, flags: int = 0x33F) -> Recording:
        return self.add(at, dialect.MAVLink_ekf_status_report_message(flags, 0, 0, 0, 0, 0))

    def distance(self, at: float, range_m: float, orientation: int = 0) -> Recording:
        message = dialect.MAVLink_distance_sensor_message(
            round(at * 1e3), 20, 4000, round(range_m * 100), 0, 0, orientation, 255
        )
        return self.add(at, message)

    def rc(self, at: float, channel_7_us: int = 1900) -> Recording:
        channels = [1500] * 6 + [channel_7_us] + [1500] * 11
        return self.add(at, dialect.MAVLink_rc_channels_message(round(at * 1e3), 18, *channels, 255))


def flight(
    start_s: float = 10.0,
    end_s: float = 20.0,
    *,
    unix_at_boot_s: float = UNIX_AT_BOOT_S,
    hold: Callable[[float], bool] = lambda _: False,
) -> Recording:
    """Flies east at 0.4 m/s and rolls to and fro; `hold(t)` leaves out attitude and position at t."""
    recording = Recording(unix_at_boot_s=unix_at_boot_s)
    ticks = round((end_s - start_s) / 0.02)
    for tick in range(ticks + 1):
        t = start_s + tick * 0.02
        if not hold(t):
            recording.attitude(t, roll=0.1 * math.sin(t), yaw=0.0)
            recording.local(t, (0.0, 0.4 * (t - start_s), -2.0), (0.0, 0.4, 0.0))
        if tick % 10 == 0:
            recording.geo(t).gps(t).ekf(t)
        if tick % 50 == 0:
            recording.heartbeat(t)
    return recording
