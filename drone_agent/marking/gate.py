"""May paint be released here and now? A pure decision: an order, or every reason why not.

A value that is not known fails its interlock; so does a value that is not a number, and one from the future.
"""

from __future__ import annotations

import math
from enum import StrEnum

from drone_agent.marking import polygon
from drone_agent.marking.lead import Aim, FacePosition, NoAim, axis_incidence, solve
from drone_agent.marking.ledger import Ledger
from drone_agent.marking.settings import RETURNING_MODES, AreaSettings, FacePolygon, GeoPolygon, MarkingSettings
from drone_agent.values import GeoPoint, Place, Refusal, Sighting, SprayOrder, VehicleState

# EKF_STATUS_REPORT.flags, https://mavlink.io/en/messages/ardupilotmega.html#EKF_STATUS_FLAGS
_EKF_ATTITUDE = 0x1
_EKF_VELOCITY_HORIZ = 0x2
_EKF_POS_HORIZ_REL = 0x8
_EKF_POS_HORIZ_ABS = 0x10
_EKF_CONST_POS = 0x80
_EKF_UNINITIALIZED = 0x400
_EKF_GPS_GLITCHING = 0x8000


class Reason(StrEnum):
    """Why no paint may leave; one code for each interlock."""

    NOT_ARMED = "not_armed"
    SWITCH_OFF = "switch_off"
    SWITCH_STALE = "switch_stale"
    VEHICLE_DISARMED = "vehicle_disarmed"
    MODE = "mode"
    FAILSAFE = "failsafe"
    RETURNING = "returning"
    HEARTBEAT_STALE = "heartbeat_stale"
    POSE_STALE = "pose_stale"
    EKF_STALE = "ekf_stale"
    EKF_BAD = "ekf_bad"
    POSITION_BAD = "position_bad"
    RANGE_STALE = "range_stale"
    RANGE_WINDOW = "range_window"
    INCIDENCE = "incidence"
    GROUND_SPEED = "ground_speed"
    HEIGHT = "height"
    OUTSIDE_AREA = "outside_area"
    EXCLUDED_AREA = "excluded_area"
    COOLDOWN = "cooldown"
    CELL_MARKED = "cell_marked"
    TOO_CLOSE = "too_close"
    COUNT_USED_UP = "count_used_up"
    OPEN_TIME_USED_UP = "open_time_used_up"
    EVIDENCE = "evidence"
    SIGHTING_OLD = "sighting_old"
    NO_PLACE = "no_place"
    LATE = "late"
    UNREACHABLE = "unreachable"
    TOO_EARLY = "too_early"
    UNCERTAIN = "uncertain"
    SPRAYER_FAULT = "sprayer_fault"
    CLOCK = "clock"


Spots = list[tuple[float, float]]


class Findings:
    """The failing interlocks of one decision, in order."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.details: list[str] = []

    def add(self, reason: Reason, detail: str) -> None:
        """One more: what was found, what is allowed."""
        self.reasons.append(reason)
        self.details.append(detail)


def decide(
    now_ns: int,
    sighting: Sighting,
    vehicle: VehicleState,
    ledger: Ledger,
    settings: MarkingSettings,
    where: FacePosition | None = None,
    fault: str | None = None,
) -> SprayOrder | Refusal:
    """Decides on one sighting. Nothing is changed: the caller enters an order into the ledger before it leaves.

    Args:
        now_ns: the present (monotonic ns).
        sighting: the confirmed crack.
        vehicle: what the autopilot last said; its ages grow until `now_ns`.
        ledger: what has been sprayed so far, restored after a restart.
        settings: interlocks and bounds.
        where: the camera before the sighting's face; None where that is not known.
        fault: what is wrong with the sprayer, if anything is.

    Returns:
        An order whose every interlock holds, or the refusal with all failing reasons.
    """
    found = Findings()
    if fault is not None:
        found.add(Reason.SPRAYER_FAULT, fault)
    _check_clocks(found, now_ns, sighting, vehicle, where)
    _check_permission(found, now_ns, vehicle, settings)
    _check_freshness(found, now_ns, vehicle, where, settings)
    _check_flight(found, now_ns, sighting, vehicle, where, settings)
    _check_sighting(found, now_ns, sighting, settings)
    aim = _aim(found, now_ns, sighting, vehicle, settings, where)
    _check_area(found, sighting, vehicle, aim, settings)
    _check_account(found, now_ns, sighting, ledger, aim, settings)
    if found.reasons or aim is None:
        return Refusal(
            sighting_id=sighting.sighting_id,
            t_mono_ns=now_ns,
            reasons=tuple(reason.value for reason in found.reasons),
            details=tuple(found.details),
        )
    return SprayOrder(
        order_id=ledger.next_order_id,
        sighting_id=sighting.sighting_id,
        t_mono_ns=now_ns,
        open_at_ns=aim.open_at_ns,
        open_ms=settings.budget.open_ms,
        impact=Place(sighting.place.face, aim.impact_along_m, aim.impact_height_m, sighting.place.cell),
        impact_sigma_m=aim.sigma_m,
    )


def still_permitted(now_ns: int, vehicle: VehicleState, settings: MarkingSettings) -> tuple[str, ...]:
    """Which of the interlocks that a person or the autopilot can withdraw at any moment fail now.

    For orders that have left but not ended: armed in the configuration, switch, vehicle armed, mode, failsafe,
    heartbeat.
    """
    found = Findings()
    _check_permission(found, now_ns, vehicle, settings)
    if settings.interlocks.heartbeat:
        _check_age(
            found,
            Reason.HEARTBEAT_STALE,
            "heartbeat",
            _age_ns(vehicle.heartbeat_age_ns, vehicle, now_ns),
            settings.limits.heartbeat_max_age_ms,
        )
    return tuple(reason.value for reason in found.reasons)


def _check_clocks(
    found: Findings, now_ns: int, sighting: Sighting, vehicle: VehicleState, where: FacePosition | None
) -> None:
    times = {"vehicle state": vehicle.t_mono_ns, "sighting": sighting.t_mono_ns}
    if where is not None:
        times["position"] = where.t_mono_ns
    for name, t_ns in times.items():
        if t_ns > now_ns:
            found.add(Reason.CLOCK, f"the {name} is {(t_ns - now_ns) / 1e6:.0f} ms in the future")


def _check_permission(found: Findings, now_ns: int, vehicle: VehicleState, settings: MarkingSettings) -> None:
    on, limits = settings.interlocks, settings.limits
    if not settings.armed:
        found.add(Reason.NOT_ARMED, "marking.armed is false")
    _check_switch(found, now_ns, vehicle, settings)
    if on.vehicle_armed and vehicle.armed is not True:
        found.add(Reason.VEHICLE_DISARMED, f"vehicle armed: {_said(vehicle.armed)}")
    if on.mode and vehicle.mode not in limits.modes:
        found.add(Reason.MODE, f"mode {_said(vehicle.mode)}, allowed {', '.join(limits.modes)}")
    if on.failsafe and vehicle.failsafe is not False:
        found.add(Reason.FAILSAFE, f"failsafe: {_said(vehicle.failsafe)}")
    if on.failsafe and vehicle.mode in RETURNING_MODES:
        found.add(Reason.RETURNING, f"mode {vehicle.mode}")


def _check_switch(found: Findings, now_ns: int, vehicle: VehicleState, settings: MarkingSettings) -> None:
    switch = settings.arming_switch
    if switch.source == "command" and vehicle.command_armed is not True:
        found.add(Reason.SWITCH_OFF, f"armed by command: {_said(vehicle.command_armed)}")
    if switch.source == "rc":
        pwm = vehicle.rc_switch_us
        if pwm is None or not switch.rc_on_min_us <= pwm <= switch.rc_on_max_us:
            found.add(
                Reason.SWITCH_OFF, f"RC switch {_said(pwm)} us, on is {switch.rc_on_min_us} to {switch.rc_on_max_us}"
            )
        _check_age(
            found, Reason.SWITCH_STALE, "RC reading", _age_ns(vehicle.rc_age_ns, vehicle, now_ns), switch.rc_max_age_ms
        )


def _check_freshness(
    found: Findings, now_ns: int, vehicle: VehicleState, where: FacePosition | None, settings: MarkingSettings
) -> None:
    on, limits = settings.interlocks, settings.limits
    if on.heartbeat:
        age = _age_ns(vehicle.heartbeat_age_ns, vehicle, now_ns)
        _check_age(found, Reason.HEARTBEAT_STALE, "heartbeat", age, limits.heartbeat_max_age_ms)
    if on.pose:
        age = _age_ns(vehicle.pose_age_ns, vehicle, now_ns)
        if age is not None and where is not None:
            age = max(age, now_ns - where.t_mono_ns)
        _check_age(found, Reason.POSE_STALE, "pose", age, limits.pose_max_age_ms)
    if on.ekf:
        age = _age_ns(vehicle.ekf_age_ns, vehicle, now_ns)
        _check_age(found, Reason.EKF_STALE, "EKF report", age, limits.ekf_max_age_ms)
        _check_ekf(found, vehicle.ekf_flags, settings)
    if on.position and limits.position_source == "gps":
        fix, h_acc = vehicle.fix_type, vehicle.h_acc_m
        if fix is None or fix < limits.gps_min_fix or h_acc is None or not 0 <= h_acc <= limits.gps_max_h_acc_m:
            found.add(
                Reason.POSITION_BAD,
                f"GPS fix {_said(fix)} (at least {limits.gps_min_fix}), accuracy {_said(h_acc)} m (at most "
                f"{limits.gps_max_h_acc_m})",
            )
    if on.range_fresh:
        age = _age_ns(vehicle.range_age_ns, vehicle, now_ns)
        _check_age(found, Reason.RANGE_STALE, "range", age, limits.range_max_age_ms)


def _check_ekf(found: Findings, flags: int | None, settings: MarkingSettings) -> None:
    position = _EKF_POS_HORIZ_ABS
    if settings.limits.position_source == "other":
        position |= _EKF_POS_HORIZ_REL
    needed = _EKF_ATTITUDE | _EKF_VELOCITY_HORIZ
    bad = _EKF_CONST_POS | _EKF_UNINITIALIZED | _EKF_GPS_GLITCHING
    if flags is None or flags & needed != needed or not flags & position or flags & bad:
        found.add(Reason.EKF_BAD, f"EKF flags {'unknown' if flags is None else hex(flags)}")


def _check_flight(
    found: Findings,
    now_ns: int,
    sighting: Sighting,
    vehicle: VehicleState,
    where: FacePosition | None,
    settings: MarkingSettings,
) -> None:
    on, limits = settings.interlocks, settings.limits
    if on.range_window:
        range_m = _range_m(now_ns, vehicle, settings)
        _check_window(found, Reason.RANGE_WINDOW, "range", range_m, limits.range_min_m, limits.range_max_m, "m")
    if on.incidence:
        seen = None if sighting.incidence is None else math.degrees(abs(sighting.incidence))
        _check_window(
            found, Reason.INCIDENCE, "incidence of the picture", seen, 0.0, limits.incidence_max_deg, "degrees"
        )
        if where is not None:
            angle = math.degrees(axis_incidence(where))
            _check_window(found, Reason.INCIDENCE, "incidence now", angle, 0.0, limits.incidence_max_deg, "degrees")
    if on.ground_speed:
        low, high = limits.ground_speed_min_m_s, limits.ground_speed_max_m_s
        _check_window(found, Reason.GROUND_SPEED, "ground speed", vehicle.ground_speed_m_s, low, high, "m/s")
    if on.height:
        _check_window(found, Reason.HEIGHT, "height", vehicle.height_m, limits.height_min_m, limits.height_max_m, "m")


def _check_sighting(found: Findings, now_ns: int, sighting: Sighting, settings: MarkingSettings) -> None:
    on, limits = settings.interlocks, settings.limits
    if on.evidence and not (sighting.log_odds >= limits.min_log_odds and sighting.looks >= limits.min_looks):
        found.add(
            Reason.EVIDENCE,
            f"log-odds {sighting.log_odds:.2f} from {sighting.looks} looks, at least {limits.min_log_odds} "
            f"from {limits.min_looks}",
        )
    if on.sighting_age:
        age = now_ns - sighting.t_mono_ns
        _check_age(found, Reason.SIGHTING_OLD, "sighting", max(age, 0), limits.sighting_max_age_ms)


def _aim(
    found: Findings,
    now_ns: int,
    sighting: Sighting,
    vehicle: VehicleState,
    settings: MarkingSettings,
    where: FacePosition | None,
) -> Aim | None:
    if sighting.place.unit != "m":
        found.add(Reason.NO_PLACE, "the sighting is placed in the image only, not on the structure")
        return None
    if where is None or where.face != sighting.place.face:
        found.add(Reason.NO_PLACE, f"the camera's position before face {sighting.place.face} is not known")
        return None
    range_m = _range_m(now_ns, vehicle, settings)
    if range_m is None:
        found.add(Reason.UNREACHABLE, "the distance to the wall is not known")
        return None
    sigmas_known = sighting.sigma_m is not None and vehicle.pose_sigma_m is not None
    aim = solve(
        now_ns,
        sighting.place.along,
        sighting.place.height,
        sighting.sigma_m or 0.0,
        sighting.t_mono_ns,
        vehicle.pose_sigma_m or 0.0,
        range_m,
        where,
        settings.budget.open_ms,
        settings.nozzle,
        settings.lead,
    )
    if isinstance(aim, NoAim):
        found.add(Reason(aim.reason), aim.detail)
        return None
    if settings.interlocks.uncertainty:
        sigma_m = aim.sigma_m if sigmas_known else None
        _check_window(
            found, Reason.UNCERTAIN, "sigma of the impact", sigma_m, 0.0, settings.lead.max_impact_sigma_m, "m"
        )
    return aim


def _check_area(
    found: Findings, sighting: Sighting, vehicle: VehicleState, aim: Aim | None, settings: MarkingSettings
) -> None:
    spots = [(sighting.place.along, sighting.place.height)]
    if aim is not None:
        spots.append((aim.impact_along_m, aim.impact_height_m))
    positions = (sighting.geo, vehicle.geo)
    _check_exclusions(found, sighting.place.face, spots, positions, settings.area)
    if settings.interlocks.area:
        _check_inclusions(found, sighting.place.face, spots, positions, settings.area)


def _check_exclusions(
    found: Findings, face: str, spots: Spots, positions: tuple[GeoPoint | None, ...], area: AreaSettings
) -> None:
    for spot in spots:
        if any(_face_holds(p, face, spot, -area.margin_m) is not False for p in area.exclude_faces):
            found.add(Reason.EXCLUDED_AREA, f"{_said_spot(spot)} on {face} is excluded")
            break
    for geo in positions:
        if any(_geo_holds(p, geo, -area.margin_m) is not False for p in area.exclude_geo):
            found.add(Reason.EXCLUDED_AREA, f"{_said_geo(geo)} is excluded, or cannot be told")
            break


def _check_inclusions(
    found: Findings, face: str, spots: Spots, positions: tuple[GeoPoint | None, ...], area: AreaSettings
) -> None:
    if not area.faces and not area.geofence:
        found.add(Reason.OUTSIDE_AREA, "no marking area is drawn")
    for spot in spots if area.faces else ():
        if not any(_face_holds(p, face, spot, area.margin_m) is True for p in area.faces):
            found.add(Reason.OUTSIDE_AREA, f"{_said_spot(spot)} on {face} lies in no marking area")
            break
    for geo in positions if area.geofence else ():
        if not any(_geo_holds(p, geo, area.margin_m) is True for p in area.geofence):
            found.add(Reason.OUTSIDE_AREA, f"{_said_geo(geo)} lies outside the geofence, or cannot be told")
            break


def _check_account(
    found: Findings, now_ns: int, sighting: Sighting, ledger: Ledger, aim: Aim | None, settings: MarkingSettings
) -> None:
    on, budget = settings.interlocks, settings.budget
    open_at_ns = now_ns if aim is None else aim.open_at_ns
    if on.cooldown and ledger.last_close_ns is not None:
        pause_ns = open_at_ns - ledger.last_close_ns
        if pause_ns < budget.cooldown_ms * 1_000_000:
            found.add(
                Reason.COOLDOWN, f"{pause_ns / 1e6:.0f} ms after the last pulse, at least {budget.cooldown_ms} ms"
            )
    if on.cell_once and ledger.is_marked(sighting.place):
        found.add(Reason.CELL_MARKED, f"cell {sighting.place.cell} of {sighting.place.face} is marked")
    if budget.min_spacing_m > 0:
        nearest_m = ledger.nearest_mark_m(sighting.place.face, sighting.place.along, sighting.place.height)
        if not nearest_m >= budget.min_spacing_m:
            found.add(Reason.TOO_CLOSE, f"{nearest_m:.2f} m from the nearest mark, at least {budget.min_spacing_m} m")
    if on.count and ledger.count >= budget.max_sprays:
        found.add(Reason.COUNT_USED_UP, f"{ledger.count} sprays, at most {budget.max_sprays}")
    # The dead-man lets no pulse last longer than max_open_ms. With that in reserve for this order and for each whose
    # result is not known yet, the budget holds whatever happens.
    longest_ns = max(budget.open_ms, settings.guard.max_open_ms) * 1_000_000
    worst_ns = ledger.worst_open_ns(longest_ns) + longest_ns
    if on.open_time and worst_ns > budget.max_total_open_ms * 1_000_000:
        found.add(
            Reason.OPEN_TIME_USED_UP,
            f"open for {ledger.open_ns / 1e6:.0f} ms; this order could make it {worst_ns / 1e6:.0f} ms, at most "
            f"{budget.max_total_open_ms} ms",
        )


def _range_m(now_ns: int, vehicle: VehicleState, settings: MarkingSettings) -> float | None:
    """The measured range if it is fresh; the planned stand-off where the interlock is lifted; else unknown."""
    age = _age_ns(vehicle.range_age_ns, vehicle, now_ns)
    fresh = age is not None and age <= settings.limits.range_max_age_ms * 1_000_000
    if fresh and vehicle.range_m is not None and math.isfinite(vehicle.range_m):
        return vehicle.range_m
    return None if settings.interlocks.range_fresh else settings.limits.standoff_m


def _age_ns(age_ns: int | None, vehicle: VehicleState, now_ns: int) -> int | None:
    """The age of a value now; unknown for a negative one (clocks disagree)."""
    if age_ns is None or age_ns < 0:
        return None
    return age_ns + max(0, now_ns - vehicle.t_mono_ns)


def _check_age(found: Findings, reason: Reason, name: str, age_ns: int | None, max_age_ms: int) -> None:
    if age_ns is None:
        found.add(reason, f"{name}: none")
    elif age_ns > max_age_ms * 1_000_000:
        found.add(reason, f"{name} {age_ns / 1e6:.0f} ms old, at most {max_age_ms} ms")


def _check_window(
    found: Findings, reason: Reason, name: str, value: float | None, low: float, high: float, unit: str
) -> None:
    # written so that NaN fails
    if value is None or not low <= value <= high:
        found.add(reason, f"{name} {_said(value)} {unit}, allowed {low:g} to {high:g}")


def _face_holds(area: FacePolygon, face: str, spot: tuple[float, float], margin_m: float) -> bool | None:
    """Whether `spot` lies in the area, shrunk by the margin (grown by a negative one); None if that cannot be told."""
    if area.face not in {"*", face}:
        return False
    return _holds(area.points, spot, margin_m)


def _geo_holds(area: GeoPolygon, geo: GeoPoint | None, margin_m: float) -> bool | None:
    if geo is None:
        return None
    lat0, lon0 = area.points[0]
    outline = [polygon.local_metres(lat0, lon0, lat, lon) for lat, lon in area.points]
    return _holds(outline, polygon.local_metres(lat0, lon0, geo.lat_deg, geo.lon_deg), margin_m)


def _holds(
    outline: tuple[tuple[float, float], ...] | list[tuple[float, float]], spot: tuple[float, float], margin_m: float
) -> bool | None:
    if not (math.isfinite(spot[0]) and math.isfinite(spot[1])):
        return None
    inside, edge_m = polygon.contains(outline, spot), polygon.distance_to_edge(outline, spot)
    return (inside and edge_m >= margin_m) if margin_m >= 0 else (inside or edge_m <= -margin_m)


def _said(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _said_spot(spot: tuple[float, float]) -> str:
    return f"({spot[0]:.2f}, {spot[1]:.2f}) m"


def _said_geo(geo: GeoPoint | None) -> str:
    return "an unknown position" if geo is None else f"{geo.lat_deg:.6f}, {geo.lon_deg:.6f}"
