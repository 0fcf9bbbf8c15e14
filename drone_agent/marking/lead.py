"""When must the valve open so that the paint meets the crack, where will it land, and how sure is that?

Face frame: `along` to the right for a viewer who looks at the wall, `height` up, `distance` out of the wall.
The vehicle is taken to keep its velocity and attitude until the impact; the jet leaves with the vehicle's velocity,
flies straight but for its fall, and the middle of the pulse is aimed at the crack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from drone_agent.marking.settings import LeadSettings, NozzleSettings
from drone_agent.values import Pose

_GRAVITY_M_S2 = 9.80665
# Below this speed the paint's spot moves less than the position noise: the vehicle counts as hovering.
_HOVER_M_S = 0.02


@dataclass(frozen=True, slots=True)
class FacePosition:
    """Where the camera is before a face, and how it moves and looks, at one instant.

    Metres on the face, `distance_m` from it (perpendicular, > 0 in front). `heading` is the camera axis' horizontal
    angle from straight-into-the-wall, positive to the right; `pitch` positive up; `roll` positive right side down
    (rad).
    """

    t_mono_ns: int
    face: str
    along_m: float
    height_m: float
    distance_m: float
    heading: float
    pitch: float
    roll: float
    vel_along_m_s: float
    vel_up_m_s: float
    vel_out_m_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Aim:
    """When to open and what comes of it: impact on the face (m), its standard deviation per axis (m), its miss (m).

    `flight_ns` is the paint's time of flight, `slack_ns` how long before the ideal opening the decision was taken
    (negative: too late for the ideal).
    """

    open_at_ns: int
    impact_along_m: float
    impact_height_m: float
    sigma_m: float
    miss_m: float
    flight_ns: int
    slack_ns: int


@dataclass(frozen=True, slots=True)
class NoAim:
    """Why no opening meets the crack: `reason` is `late`, `unreachable` or `too_early`."""

    reason: str
    detail: str


def face_position(
    pose: Pose,
    *,
    face: str,
    origin_ned: tuple[float, float, float],
    along_bearing: float,
    camera_body_m: tuple[float, float, float] = (0, 0, 0),
    camera_rpy: tuple[float, float, float] = (0, 0, 0),
) -> FacePosition:
    """Puts a pose before a vertical face.

    Args:
        pose: vehicle pose in NED.
        face: name of the face.
        origin_ned: the face's (along 0, height 0) corner in NED (m).
        along_bearing: bearing of `along` from north (rad); the wall is looked at with bearing `along_bearing` - 90
            degrees.
        camera_body_m: camera against the vehicle's reference point, forward-right-down (m).
        camera_rpy: the camera's attitude on the vehicle: roll, pitch, yaw (rad; 0 = axis along body x).

    Returns:
        The camera's position, attitude and velocity in the face's frame.
    """
    forward, right, down = camera_body_m
    body = _body_to_ned(pose.roll, pose.pitch, pose.yaw, (forward, right, down))
    north = pose.north_m + body[0] - origin_ned[0]
    east = pose.east_m + body[1] - origin_ned[1]
    heading, pitch, roll = _camera_attitude(pose, camera_rpy)
    cos_b, sin_b = math.cos(along_bearing), math.sin(along_bearing)
    # into the wall: the bearing of `along` turned left by 90 degrees
    into_n, into_e = sin_b, -cos_b
    return FacePosition(
        t_mono_ns=pose.t_mono_ns,
        face=face,
        along_m=north * cos_b + east * sin_b,
        height_m=origin_ned[2] - (pose.down_m + body[2]),
        distance_m=-(north * into_n + east * into_e),
        heading=math.remainder(heading - (along_bearing - math.pi / 2), math.tau),
        pitch=pitch,
        roll=roll,
        vel_along_m_s=pose.vel_north_m_s * cos_b + pose.vel_east_m_s * sin_b,
        vel_up_m_s=-pose.vel_down_m_s,
        vel_out_m_s=-(pose.vel_north_m_s * into_n + pose.vel_east_m_s * into_e),
    )


def axis_incidence(where: FacePosition) -> float:
    """Angle between the camera's axis and the wall's normal (rad)."""
    return math.acos(max(-1.0, min(1.0, _face_vector(where, (1.0, 0.0, 0.0))[2])))


def solve(
    now_ns: int,
    target_along_m: float,
    target_height_m: float,
    target_sigma_m: float,
    target_t_ns: int,
    pose_sigma_m: float,
    range_m: float,
    where: FacePosition,
    open_ms: int,
    nozzle: NozzleSettings,
    lead: LeadSettings,
) -> Aim | NoAim:
    """Finds the opening whose paint lands nearest to the target.

    Args:
        now_ns: the time of the decision (monotonic ns).
        target_along_m: the crack on the face (m).
        target_height_m: its height (m).
        target_sigma_m: standard deviation of that place, position error of its picture included (m).
        target_t_ns: when that picture was taken.
        pose_sigma_m: standard deviation of the vehicle's position (m).
        range_m: distance from camera to wall along the camera's axis (m).
        where: the camera before the face; taken from `where.t_mono_ns` on at constant velocity.
        open_ms: length of the pulse.
        nozzle: offset and aim against the camera, speed of the paint.
        lead: latency, bounds and standard deviations.

    Returns:
        Aim, or NoAim when the nozzle does not pass the target, has passed it, or will only much later.
    """
    axis = _face_vector(where, (1.0, 0.0, 0.0))
    offset = _face_vector(where, (nozzle.forward_m, nozzle.right_m, -nozzle.up_m))
    aim_up, aim_right = math.radians(nozzle.aim_up_deg), math.radians(nozzle.aim_right_deg)
    jet = _face_vector(
        where,
        (math.cos(aim_up) * math.cos(aim_right), math.cos(aim_up) * math.sin(aim_right), -math.sin(aim_up)),
    )
    into = jet[2]
    gap_m = range_m * axis[2] - offset[2]
    closing_m_s = nozzle.paint_speed_m_s * into - where.vel_out_m_s
    if not (into > 0.2 and gap_m > 0 and closing_m_s > 0.2):
        return NoAim(
            "unreachable",
            f"the jet does not meet the wall ({gap_m:.2f} m away, "
            f"{math.degrees(math.acos(min(1.0, max(-1.0, into)))):.0f} degrees off)",
        )
    flight_s = gap_m / closing_m_s
    speed = nozzle.paint_speed_m_s
    # where the paint lands that leaves the nozzle at where.t_mono_ns
    reach_along = where.along_m + offset[0] + (speed * jet[0] + where.vel_along_m_s) * flight_s
    reach_height = (
        where.height_m + offset[1] + (speed * jet[1] + where.vel_up_m_s) * flight_s - _GRAVITY_M_S2 * flight_s**2 / 2
    )
    d_along, d_height = target_along_m - reach_along, target_height_m - reach_height
    v_sq = where.vel_along_m_s**2 + where.vel_up_m_s**2
    before_s = lead.valve_latency_ms / 1e3 + open_ms / 2e3

    def offset_s(t_ns: int) -> float:
        return (t_ns - where.t_mono_ns) / 1e9 + before_s

    def miss_m(t_ns: int) -> float:
        s = offset_s(t_ns)
        return math.hypot(d_along - where.vel_along_m_s * s, d_height - where.vel_up_m_s * s)

    earliest_ns = now_ns + round(lead.min_notice_ms * 1e6)
    if v_sq < _HOVER_M_S**2:
        ideal_ns = earliest_ns
    else:
        pass_s = (d_along * where.vel_along_m_s + d_height * where.vel_up_m_s) / v_sq
        if not abs(pass_s) < 1e6:
            return NoAim("unreachable", "the place of crack or vehicle is not a number")
        ideal_ns = where.t_mono_ns + round((pass_s - before_s) * 1e9)
    if not miss_m(ideal_ns) <= lead.max_miss_m:
        return NoAim(
            "unreachable",
            f"the paint passes the crack at {miss_m(ideal_ns):.2f} m (allowed {lead.max_miss_m} m); the vehicle moves "
            f"{where.vel_along_m_s:+.2f} m/s along, {where.vel_up_m_s:+.2f} m/s up",
        )
    open_at_ns = max(ideal_ns, earliest_ns)
    slack_ns = ideal_ns - earliest_ns
    if not miss_m(open_at_ns) <= lead.max_miss_m:
        return NoAim(
            "late",
            f"the valve should have opened {-(ideal_ns - now_ns) / 1e6:.0f} ms ago, an order needs "
            f"{lead.min_notice_ms} ms notice",
        )
    if open_at_ns - now_ns > lead.max_ahead_ms * 1e6:
        return NoAim(
            "too_early",
            f"the nozzle passes the crack in {(open_at_ns - now_ns) / 1e6:.0f} ms (at most {lead.max_ahead_ms} ms "
            f"ahead)",
        )
    s = offset_s(open_at_ns)
    return Aim(
        open_at_ns=open_at_ns,
        impact_along_m=reach_along + where.vel_along_m_s * s,
        impact_height_m=reach_height + where.vel_up_m_s * s,
        sigma_m=_impact_sigma(
            target_sigma_m, pose_sigma_m, (open_at_ns - target_t_ns) / 1e9, max(0.0, (open_at_ns - where.t_mono_ns) /
            1e9), gap_m, flight_s, math.sqrt(v_sq), open_ms, nozzle, lead,
        ),
        miss_m=miss_m(open_at_ns),
        flight_ns=round(flight_s * 1e9),
        slack_ns=slack_ns,
    )  # fmt: skip


def _impact_sigma(
    target_sigma_m: float,
    pose_sigma_m: float,
    since_s: float,
    ahead_s: float,
    gap_m: float,
    flight_s: float,
    speed_m_s: float,
    open_ms: int,
    nozzle: NozzleSettings,
    lead: LeadSettings,
) -> float:
    """First-order propagation; independent contributions add in quadrature."""
    # The position error at the picture and at the spray is the same slow process: only its change counts.
    wander = 2 * pose_sigma_m**2 * -math.expm1(-max(0.0, since_s) / lead.pose_correlation_s)
    sight = max(0.0, target_sigma_m**2 - pose_sigma_m**2)
    aim = (gap_m * math.radians(lead.attitude_sigma_deg)) ** 2
    latency = (speed_m_s * lead.valve_latency_sigma_ms / 1e3) ** 2
    pulse = (speed_m_s * open_ms / 1e3) ** 2 / 12
    prediction = (lead.speed_sigma_m_s * (ahead_s + flight_s)) ** 2
    # a slower jet falls further and drifts longer: d(fall)/d(speed) = g t^2 / v
    jet = (nozzle.paint_speed_sigma_m_s / nozzle.paint_speed_m_s) ** 2 * (
        (_GRAVITY_M_S2 * flight_s**2) ** 2 + (speed_m_s * flight_s) ** 2
    )
    return math.sqrt(wander + sight + aim + latency + pulse + prediction + jet)


def _camera_attitude(pose: Pose, camera_rpy: tuple[float, float, float]) -> tuple[float, float, float]:
    """Bearing and elevation of the camera's axis and the turn about it (rad)."""
    forward, right, down = (
        _body_to_ned(pose.roll, pose.pitch, pose.yaw, _body_to_ned(*camera_rpy, axis))
        for axis in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    )
    pitch = math.asin(max(-1.0, min(1.0, -forward[2])))
    return math.atan2(forward[1], forward[0]), pitch, math.atan2(right[2], down[2])


def _body_to_ned(roll: float, pitch: float, yaw: float, v: tuple[float, float, float]) -> tuple[float, float, float]:
    """Rotates forward-right-down into north-east-down (ZYX Euler angles)."""
    x, y, z = v
    y, z = y * math.cos(roll) - z * math.sin(roll), y * math.sin(roll) + z * math.cos(roll)
    x, z = x * math.cos(pitch) + z * math.sin(pitch), -x * math.sin(pitch) + z * math.cos(pitch)
    x, y = x * math.cos(yaw) - y * math.sin(yaw), x * math.sin(yaw) + y * math.cos(yaw)
    return x, y, z


def _face_vector(where: FacePosition, body: tuple[float, float, float]) -> tuple[float, float, float]:
    """Rotates forward-right-down into (along, up, into the wall)."""
    into, along, down = _body_to_ned(where.roll, where.pitch, where.heading, body)
    return along, -down, into
