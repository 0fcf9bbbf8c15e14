"""What would the autopilot have sent during the simulated flight? Real MAVLink 2, stamped and laid out as a `.tlog`.

The message set and rates are those of ArduCopter on a companion link. A `.tlog` is a sequence of packets, each preceded
by the receiver's clock as 8 bytes, big-endian, microseconds since 1970 (mavlink.io/en/guide/serialization.html).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pymap3d
from pymavlink.dialects.v20 import ardupilotmega as mavlink

from drone_agent.simulation.flight import Flight
from drone_agent.values import GeoPoint

_AUTO = 3  # ArduCopter's custom mode
_RTK_FIXED = 6
_SATELLITES = 18
_H_ACC_MM = 25
_V_ACC_MM = 40
_RANGE_MIN_CM, _RANGE_MAX_CM = 20, 1200
_LINK_DELAY_S = 0.004


@dataclass(frozen=True, slots=True)
class Site:
    """Where and when: NED origin in WGS 84, UTC at the autopilot's boot (unix s), the wall's plane north of it (m)."""

    origin: GeoPoint
    boot_unix_s: float
    wall_north_m: float


def write_tlog(flight: Flight, site: Site, start_s: float, end_s: float, rng: np.random.Generator) -> bytes:
    """The telemetry from boot time `start_s` to `end_s` as the bytes of a `.tlog`; stamps lag by a few milliseconds."""
    link = mavlink.MAVLink(None, srcSystem=1, srcComponent=mavlink.MAV_COMP_ID_AUTOPILOT1)
    out = bytearray()
    last_us = 0
    for t_s, message in sorted(_messages(flight, site, start_s, end_s, rng), key=lambda item: item[0]):
        delay_s = _LINK_DELAY_S + rng.exponential(0.0015)
        last_us = max(last_us + 1, round((site.boot_unix_s + t_s + delay_s) * 1e6))
        out += struct.pack(">Q", last_us)
        out += message.pack(link)
        link.seq = (link.seq + 1) % 256
    return bytes(out)


def _messages(
    flight: Flight, site: Site, start_s: float, end_s: float, rng: np.random.Generator
) -> Iterator[tuple[float, mavlink.MAVLink_message]]:
    """(boot time, message), stream by stream; each stream has its own phase, as the autopilot's scheduler gives it."""
    streams: tuple[tuple[float, Callable[[float], mavlink.MAVLink_message]], ...] = (
        (50.0, lambda t: _attitude(flight, t)),
        (50.0, lambda t: _local_position(flight, t)),
        (20.0, lambda t: _global_position(flight, site, t)),
        (10.0, lambda t: _distance(flight, site, t, rng)),
        (5.0, lambda t: _gps(flight, site, t, rng)),
        (2.0, lambda _t: _ekf()),
        (2.0, _rc_channels),
        (1.0, lambda t: _system_time(site, t)),
        (1.0, lambda _t: _heartbeat()),
        (0.1, lambda t: _origin(site, t)),
    )
    for k, (rate_hz, make) in enumerate(streams):
        count = int((end_s - start_s) * rate_hz) + 1
        for n in range(count):
            # The scheduler ticks at 400 Hz: a stream is never late by more than a tick or two.
            t_s = start_s + 0.0007 * (k + 1) + n / rate_hz + 0.0025 * int(rng.integers(0, 2))
            # The stamp inside the message has whole milliseconds: what it says holds for that instant exactly.
            t_s = round(t_s, 3)
            yield t_s, make(t_s)


def _boot_ms(t_s: float) -> int:
    return round(t_s * 1000.0)


def _geodetic(site: Site, north_m: float, east_m: float, down_m: float) -> GeoPoint:
    lat, lon, alt = pymap3d.ned2geodetic(
        north_m, east_m, down_m, site.origin.lat_deg, site.origin.lon_deg, site.origin.alt_amsl_m
    )
    return GeoPoint(float(lat), float(lon), float(alt))


def _attitude(flight: Flight, t_s: float) -> mavlink.MAVLink_message:
    pose = flight.pose(t_s)
    return mavlink.MAVLink_attitude_message(_boot_ms(t_s), pose.roll, pose.pitch, pose.yaw, *flight.attitude_rates(t_s))


def _local_position(flight: Flight, t_s: float) -> mavlink.MAVLink_message:
    p = flight.pose(t_s)
    return mavlink.MAVLink_local_position_ned_message(
        _boot_ms(t_s), p.north_m, p.east_m, p.down_m, p.vel_north_m_s, p.vel_east_m_s, p.vel_down_m_s
    )


def _global_position(flight: Flight, site: Site, t_s: float) -> mavlink.MAVLink_message:
    pose = flight.pose(t_s)
    here = _geodetic(site, pose.north_m, pose.east_m, pose.down_m)
    return mavlink.MAVLink_global_position_int_message(
        _boot_ms(t_s),
        round(here.lat_deg * 1e7),
        round(here.lon_deg * 1e7),
        round(here.alt_amsl_m * 1000.0),
        round(-pose.down_m * 1000.0),
        round(pose.vel_north_m_s * 100.0),
        round(pose.vel_east_m_s * 100.0),
        round(pose.vel_down_m_s * 100.0),
        round(np.degrees(pose.yaw) * 100.0) % 36000,
    )


def _distance(flight: Flight, site: Site, t_s: float, rng: np.random.Generator) -> mavlink.MAVLink_message:
    """Forward range along body x to the wall's plane, whole centimetres, 8 mm of noise."""
    pose = flight.pose(t_s)
    northward = np.cos(pose.pitch) * np.cos(pose.yaw)
    range_cm = round(100.0 * ((site.wall_north_m - pose.north_m) / northward + rng.normal(0.0, 0.008)))
    return mavlink.MAVLink_distance_sensor_message(
        _boot_ms(t_s),
        _RANGE_MIN_CM,
        _RANGE_MAX_CM,
        range_cm,
        mavlink.MAV_DISTANCE_SENSOR_LASER,
        0,
        mavlink.MAV_SENSOR_ROTATION_NONE,
        0,
    )


def _gps(flight: Flight, site: Site, t_s: float, rng: np.random.Generator) -> mavlink.MAVLink_message:
    """The raw receiver: 15 mm of noise, and it knows nothing of the filter."""
    pose = flight.pose(t_s)
    noise = rng.normal(0.0, 0.015, 3)
    here = _geodetic(site, pose.north_m + noise[0], pose.east_m + noise[1], pose.down_m + noise[2])
    course = np.degrees(np.arctan2(pose.vel_east_m_s, pose.vel_north_m_s)) % 360.0
    return mavlink.MAVLink_gps_raw_int_message(
        round(t_s * 1e6),
        _RTK_FIXED,
        round(here.lat_deg * 1e7),
        round(here.lon_deg * 1e7),
        round(here.alt_amsl_m * 1000.0),
        70,
        110,
        round(np.hypot(pose.vel_north_m_s, pose.vel_east_m_s) * 100.0),
        round(course * 100.0) % 36000,
        _SATELLITES,
        round(here.alt_amsl_m * 1000.0),
        _H_ACC_MM,
        _V_ACC_MM,
        30,
        0,
        0,
    )


def _ekf() -> mavlink.MAVLink_message:
    flags = (
        mavlink.EKF_ATTITUDE
        | mavlink.EKF_VELOCITY_HORIZ
        | mavlink.EKF_VELOCITY_VERT
        | mavlink.EKF_POS_HORIZ_REL
        | mavlink.EKF_POS_HORIZ_ABS
        | mavlink.EKF_POS_VERT_ABS
        | mavlink.EKF_PRED_POS_HORIZ_REL
        | mavlink.EKF_PRED_POS_HORIZ_ABS
    )
    return mavlink.MAVLink_ekf_status_report_message(flags, 0.03, 0.02, 0.03, 0.05, 0.0, 0.0)


def _rc_channels(t_s: float) -> mavlink.MAVLink_message:
    """Sticks in the middle, channel 8 high: the switch that allows paint."""
    sticks = (1500, 1500, 1500, 1500, 1800, 1000, 1000, 1800)
    return mavlink.MAVLink_rc_channels_message(_boot_ms(t_s), 8, *sticks, *([0] * 10), 255)


def _system_time(site: Site, t_s: float) -> mavlink.MAVLink_message:
    return mavlink.MAVLink_system_time_message(round((site.boot_unix_s + t_s) * 1e6), _boot_ms(t_s))


def _heartbeat() -> mavlink.MAVLink_message:
    base_mode = (
        mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
        | mavlink.MAV_MODE_FLAG_SAFETY_ARMED
        | mavlink.MAV_MODE_FLAG_STABILIZE_ENABLED
        | mavlink.MAV_MODE_FLAG_GUIDED_ENABLED
    )
    return mavlink.MAVLink_heartbeat_message(
        mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA, base_mode, _AUTO, mavlink.MAV_STATE_ACTIVE, 3
    )


def _origin(site: Site, t_s: float) -> mavlink.MAVLink_message:
    return mavlink.MAVLink_gps_global_origin_message(
        round(site.origin.lat_deg * 1e7),
        round(site.origin.lon_deg * 1e7),
        round(site.origin.alt_amsl_m * 1000.0),
        round(t_s * 1e6),
    )
