"""A scene in which everything is right: paint may leave. Tests break one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drone_agent.marking.lead import FacePosition
from drone_agent.marking.settings import AreaSettings, ArmingSwitchSettings, FacePolygon, MarkingSettings
from drone_agent.values import GeoPoint, Place, Sighting, Tile, VehicleState

MS = 1_000_000
NOW = 1_000_000 * MS
FACE = "pier-1"
GEO = GeoPoint(47.377, 8.5417, 411.0)
AREA = AreaSettings(faces=(FacePolygon(face=FACE, points=((-50, -1), (50, -1), (50, 40), (-50, 40))),))

# 12 m/s over 2 m: the paint falls by 13.6 cm, the crack hangs that much lower
FALL_M = 9.80665 * (2.0 / 12.0) ** 2 / 2


def settings(**changes: Any) -> MarkingSettings:
    return MarkingSettings(**({"armed": True, "area": AREA} | changes))


def by_command(**changes: Any) -> MarkingSettings:
    return settings(arming_switch=ArmingSwitchSettings(source="command"), **changes)


def vehicle(now: int = NOW, **changes: Any) -> VehicleState:
    state = VehicleState(
        t_mono_ns=now,
        armed=True,
        mode="AUTO",
        failsafe=False,
        heartbeat_age_ns=300 * MS,
        pose_age_ns=20 * MS,
        range_age_ns=30 * MS,
        ekf_age_ns=100 * MS,
        ekf_flags=0x33F,
        fix_type=3,
        h_acc_m=0.02,
        range_m=2.0,
        ground_speed_m_s=0.3,
        height_m=3.0,
        rc_switch_us=1900,
        rc_age_ns=100 * MS,
        command_armed=True,
        geo=GEO,
        yaw=0.0,
        pose_sigma_m=0.02,
    )
    return replace(state, **changes)


def sighting(now: int = NOW, **changes: Any) -> Sighting:
    """A crack 0.3 m ahead along the wall: the nozzle passes it in one second."""
    seen = Sighting(
        sighting_id=7,
        t_mono_ns=now - 200 * MS,
        frame_index=42,
        place=Place(FACE, 5.3, 3.0 - FALL_M, (106, 57)),
        log_odds=8.0,
        looks=3,
        p_max=0.99,
        tile=Tile(0, 0, 224),
        sigma_m=0.03,
        geo=GEO,
        range_m=2.0,
        incidence=0.05,
        gsd_mm_px=1.0,
    )
    return replace(seen, **changes)


def where(now: int = NOW, **changes: Any) -> FacePosition:
    position = FacePosition(
        t_mono_ns=now,
        face=FACE,
        along_m=5.0,
        height_m=3.0,
        distance_m=2.0,
        heading=0.0,
        pitch=0.0,
        roll=0.0,
        vel_along_m_s=0.3,
        vel_up_m_s=0.0,
    )
    return replace(position, **changes)
