from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from drone_agent.marking.gate import Reason, decide, still_permitted
from drone_agent.marking.ledger import Ledger
from drone_agent.marking.settings import (
    AreaSettings,
    BudgetSettings,
    FacePolygon,
    GeoPolygon,
    GuardSettings,
    InterlockSettings,
    LeadSettings,
    LimitSettings,
    MarkingSettings,
)
from drone_agent.values import GeoPoint, Place, Refusal, SprayOrder, VehicleState
from tests.marking.scene import FACE, MS, NOW, by_command, settings, sighting, vehicle, where

SQUARE = ((4.0, 2.0), (6.0, 2.0), (6.0, 4.0), (4.0, 4.0))
FENCE = GeoPolygon(points=((47.376, 8.540), (47.376, 8.543), (47.378, 8.543), (47.378, 8.540)))
ELSEWHERE = GeoPoint(47.0, 8.0, 400.0)


def ledger(*orders: tuple[int, int, tuple[int, int]]) -> Ledger:
    """(open_at_ns, open_ms, cell) of each order on the account."""
    account = Ledger()
    for open_at_ns, open_ms, cell in orders:
        place = Place(FACE, cell[0] * 0.05, cell[1] * 0.05, cell)
        account.add(SprayOrder(account.next_order_id, 1, open_at_ns, open_at_ns, open_ms, place, 0.01))
    return account


LONG_AGO = NOW - 3600 * 1000 * MS


@dataclass
class Case:
    """One interlock: what breaks it, and which code must appear."""

    reason: Reason
    vehicle: dict[str, Any] = field(default_factory=dict)
    sighting: dict[str, Any] = field(default_factory=dict)
    where: dict[str, Any] | None = field(default_factory=dict)
    settings: MarkingSettings = field(default_factory=settings)
    ledger: Ledger = field(default_factory=Ledger)
    fault: str | None = None
    switch: str | None = None  # the key of `interlocks` that lifts it
    only: bool = True  # no other reason may appear

    def decide(self, configuration: MarkingSettings | None = None) -> SprayOrder | Refusal:
        return decide(
            NOW,
            sighting(**self.sighting),
            vehicle(**self.vehicle),
            self.ledger,
            configuration or self.settings,
            None if self.where is None else where(**self.where),
            self.fault,
        )


def area(**keys: Any) -> MarkingSettings:
    return settings(area=AreaSettings(**keys))


CASES = {
    "not armed in the configuration": Case(Reason.NOT_ARMED, settings=settings(armed=False)),
    "RC switch off": Case(Reason.SWITCH_OFF, {"rc_switch_us": 1100}),
    "RC switch unknown": Case(Reason.SWITCH_OFF, {"rc_switch_us": None}),
    "RC switch in the receiver's failsafe": Case(Reason.SWITCH_OFF, {"rc_switch_us": 2190}),
    "RC reading old": Case(Reason.SWITCH_STALE, {"rc_age_ns": 1001 * MS}),
    "RC reading none": Case(Reason.SWITCH_STALE, {"rc_age_ns": None}),
    "not armed by command": Case(Reason.SWITCH_OFF, {"command_armed": False}, settings=by_command()),
    "armed by command unknown": Case(Reason.SWITCH_OFF, {"command_armed": None}, settings=by_command()),
    "vehicle disarmed": Case(Reason.VEHICLE_DISARMED, {"armed": False}, switch="vehicle_armed"),
    "vehicle armed unknown": Case(Reason.VEHICLE_DISARMED, {"armed": None}, switch="vehicle_armed"),
    "mode not allowed": Case(Reason.MODE, {"mode": "STABILIZE"}, switch="mode"),
    "mode unknown": Case(Reason.MODE, {"mode": None}, switch="mode"),
    "failsafe": Case(Reason.FAILSAFE, {"failsafe": True}, switch="failsafe"),
    "failsafe unknown": Case(Reason.FAILSAFE, {"failsafe": None}, switch="failsafe"),
    "returning": Case(Reason.RETURNING, {"mode": "RTL"}, switch="failsafe", only=False),
    "landing": Case(Reason.RETURNING, {"mode": "LAND"}, switch="failsafe", only=False),
    "heartbeat old": Case(Reason.HEARTBEAT_STALE, {"heartbeat_age_ns": 2001 * MS}, switch="heartbeat"),
    "heartbeat none": Case(Reason.HEARTBEAT_STALE, {"heartbeat_age_ns": None}, switch="heartbeat"),
    "heartbeat of negative age": Case(Reason.HEARTBEAT_STALE, {"heartbeat_age_ns": -1}, switch="heartbeat"),
    "vehicle state itself old": Case(
        Reason.HEARTBEAT_STALE, {"t_mono_ns": NOW - 1800 * MS}, switch="heartbeat", only=False
    ),
    "pose old": Case(Reason.POSE_STALE, {"pose_age_ns": 251 * MS}, switch="pose"),
    "pose none": Case(Reason.POSE_STALE, {"pose_age_ns": None}, switch="pose"),
    "position before the face old": Case(
        Reason.POSE_STALE, where={"t_mono_ns": NOW - 251 * MS, "along_m": 4.925}, switch="pose"
    ),
    "EKF report old": Case(Reason.EKF_STALE, {"ekf_age_ns": 1501 * MS}, switch="ekf"),
    "EKF report none": Case(Reason.EKF_STALE, {"ekf_age_ns": None}, switch="ekf"),
    "EKF flags none": Case(Reason.EKF_BAD, {"ekf_flags": None}, switch="ekf"),
    "EKF in constant-position mode": Case(Reason.EKF_BAD, {"ekf_flags": 0x33F | 0x80}, switch="ekf"),
    "EKF without absolute position": Case(Reason.EKF_BAD, {"ekf_flags": 0x33F & ~0x10}, switch="ekf"),
    "EKF without attitude": Case(Reason.EKF_BAD, {"ekf_flags": 0x33E}, switch="ekf"),
    "EKF without velocity": Case(Reason.EKF_BAD, {"ekf_flags": 0x33F & ~0x2}, switch="ekf"),
    "EKF uninitialised": Case(Reason.EKF_BAD, {"ekf_flags": 0x33F | 0x400}, switch="ekf"),
    "EKF sees GPS glitches": Case(Reason.EKF_BAD, {"ekf_flags": 0x33F | 0x8000}, switch="ekf"),
    "no GPS fix": Case(Reason.POSITION_BAD, {"fix_type": 2}, switch="position"),
    "GPS fix unknown": Case(Reason.POSITION_BAD, {"fix_type": None}, switch="position"),
    "GPS inaccurate": Case(Reason.POSITION_BAD, {"h_acc_m": 2.1}, switch="position"),
    "GPS accuracy unknown": Case(Reason.POSITION_BAD, {"h_acc_m": None}, switch="position"),
    "GPS accuracy not a number": Case(Reason.POSITION_BAD, {"h_acc_m": math.nan}, switch="position"),
    "range old": Case(Reason.RANGE_STALE, {"range_age_ns": 301 * MS}, switch="range_fresh", only=False),
    "range none": Case(Reason.RANGE_STALE, {"range_age_ns": None}, switch="range_fresh", only=False),
    "range too near": Case(Reason.RANGE_WINDOW, {"range_m": 0.4}, switch="range_window", only=False),
    "range too far": Case(Reason.RANGE_WINDOW, {"range_m": 2.6}, switch="range_window", only=False),
    "range unknown": Case(Reason.RANGE_WINDOW, {"range_m": None}, switch="range_window", only=False),
    "range not a number": Case(Reason.RANGE_WINDOW, {"range_m": math.nan}, switch="range_window", only=False),
    "incidence too flat": Case(Reason.INCIDENCE, sighting={"incidence": math.radians(31)}, switch="incidence"),
    "incidence unknown": Case(Reason.INCIDENCE, sighting={"incidence": None}, switch="incidence"),
    "incidence not a number": Case(Reason.INCIDENCE, sighting={"incidence": math.nan}, switch="incidence"),
    "turned away since": Case(
        Reason.INCIDENCE, where={"heading": math.radians(31), "along_m": 3.8}, switch="incidence", only=False
    ),
    "too fast": Case(Reason.GROUND_SPEED, {"ground_speed_m_s": 1.1}, switch="ground_speed"),
    "speed unknown": Case(Reason.GROUND_SPEED, {"ground_speed_m_s": None}, switch="ground_speed"),
    "speed not a number": Case(Reason.GROUND_SPEED, {"ground_speed_m_s": math.nan}, switch="ground_speed"),
    "too slow": Case(
        Reason.GROUND_SPEED,
        {"ground_speed_m_s": 0.1},
        settings=settings(limits=LimitSettings(ground_speed_min_m_s=0.2)),
        switch="ground_speed",
    ),
    "too low": Case(Reason.HEIGHT, {"height_m": 0.9}, switch="height"),
    "too high": Case(Reason.HEIGHT, {"height_m": 61.0}, switch="height"),
    "height unknown": Case(Reason.HEIGHT, {"height_m": None}, switch="height"),
    "no area drawn": Case(Reason.OUTSIDE_AREA, settings=area(), switch="area"),
    "outside the area": Case(
        Reason.OUTSIDE_AREA,
        settings=area(faces=[FacePolygon(face=FACE, points=[(x + 9, y) for x, y in SQUARE])]),
        switch="area",
    ),
    "area on another face": Case(
        Reason.OUTSIDE_AREA, settings=area(faces=[FacePolygon(face="pier-2", points=SQUARE)]), switch="area"
    ),
    "within the margin of the edge": Case(
        Reason.OUTSIDE_AREA,
        settings=area(faces=[FacePolygon(face=FACE, points=[(4, 2), (5.35, 2), (5.35, 4), (4, 4)])]),
        switch="area",
    ),
    "outside the geofence": Case(
        Reason.OUTSIDE_AREA, sighting={"geo": ELSEWHERE}, settings=area(geofence=[FENCE]), switch="area"
    ),
    "vehicle outside the geofence": Case(
        Reason.OUTSIDE_AREA, {"geo": ELSEWHERE}, settings=area(geofence=[FENCE]), switch="area"
    ),
    "place unknown to the geofence": Case(
        Reason.OUTSIDE_AREA, sighting={"geo": None}, settings=area(geofence=[FENCE]), switch="area"
    ),
    "inside the geofence but outside the face's area": Case(
        Reason.OUTSIDE_AREA,
        settings=area(geofence=[FENCE], faces=[FacePolygon(points=[(x + 9, y) for x, y in SQUARE])]),
        switch="area",
    ),
    "excluded on the face": Case(
        Reason.EXCLUDED_AREA,
        settings=area(faces=[FacePolygon(points=((0, 0), (9, 0), (9, 9), (0, 9)))],
        exclude_faces=[FacePolygon(points=SQUARE)]),
    ),
    "within the margin of an exclusion": Case(
        Reason.EXCLUDED_AREA,
        settings=area(
            faces=[FacePolygon(points=((0, 0), (9, 0), (9, 9), (0, 9)))],
            exclude_faces=[FacePolygon(points=((5.35, 2), (6, 2), (6, 4), (5.35, 4)))],
        ),
    ),
    "excluded on the map": Case(
        Reason.EXCLUDED_AREA, settings=area(faces=[FacePolygon(points=SQUARE)], exclude_geo=[FENCE])
    ),
    "place unknown to an exclusion on the map": Case(
        Reason.EXCLUDED_AREA,
        {"geo": None},
        {"geo": ELSEWHERE},
        settings=area(faces=[FacePolygon(points=SQUARE)], exclude_geo=[FENCE]),
    ),
    "cool-down": Case(
        Reason.COOLDOWN, ledger=ledger((NOW - 1200 * MS, 100, (1, 1))), switch="cooldown"
    ),
    "cool-down before an order that is still to come": Case(
        Reason.COOLDOWN, ledger=ledger((NOW + 3000 * MS, 100, (1, 1))), switch="cooldown"
    ),
    "cell marked": Case(Reason.CELL_MARKED, ledger=ledger((LONG_AGO, 100, (106, 57))), switch="cell_once"),
    "too close to a mark": Case(
        Reason.TOO_CLOSE,
        ledger=ledger((LONG_AGO, 100, (105, 57))),
        settings=settings(budget=BudgetSettings(min_spacing_m=0.2)),
    ),
    "count used up": Case(
        Reason.COUNT_USED_UP,
        ledger=ledger((LONG_AGO, 100, (1, 1)), (LONG_AGO, 100, (1, 2))),
        settings=settings(budget=BudgetSettings(max_sprays=2)),
        switch="count",
    ),
    "open time used up": Case(
        Reason.OPEN_TIME_USED_UP,
        ledger=ledger((LONG_AGO, 1600, (1, 1))),
        settings=settings(budget=BudgetSettings(max_total_open_ms=2000), guard=GuardSettings(max_open_ms=500)),
        switch="open_time",
    ),
    "open time used up if those under way last as long as they can": Case(
        Reason.OPEN_TIME_USED_UP,
        ledger=ledger((LONG_AGO, 100, (1, 1)), (LONG_AGO, 100, (1, 2)), (LONG_AGO, 100, (1, 3)), (LONG_AGO, 100, (1, 4))),
        settings=settings(budget=BudgetSettings(max_total_open_ms=2400), guard=GuardSettings(max_open_ms=500)),
        switch="open_time",
    ),
    "evidence too low": Case(Reason.EVIDENCE, sighting={"log_odds": 5.9}, switch="evidence"),
    "evidence not a number": Case(Reason.EVIDENCE, sighting={"log_odds": math.nan}, switch="evidence"),
    "too few looks": Case(Reason.EVIDENCE, sighting={"looks": 1}, switch="evidence"),
    "sighting old": Case(Reason.SIGHTING_OLD, sighting={"t_mono_ns": NOW - 5001 * MS}, switch="sighting_age"),
    "place in the image only": Case(
        Reason.NO_PLACE, sighting={"place": Place("image", 640.0, 360.0, (3, 2), "px")}, only=False
    ),
    "position before the face unknown": Case(Reason.NO_PLACE, where=None),
    "before another face": Case(Reason.NO_PLACE, where={"face": "pier-2"}),
    "nozzle has passed": Case(Reason.LATE, where={"along_m": 5.6}),
    "nozzle does not pass": Case(Reason.UNREACHABLE, where={"height_m": 3.5}),
    "place not a number": Case(
        Reason.UNREACHABLE, sighting={"place": Place(FACE, math.nan, 3.0, (106, 57))}, only=False
    ),
    "far too early": Case(Reason.TOO_EARLY, where={"along_m": 3.5}),
    "impact uncertain": Case(Reason.UNCERTAIN, sighting={"sigma_m": 0.2}, switch="uncertainty"),
    "uncertainty of the place unknown": Case(Reason.UNCERTAIN, sighting={"sigma_m": None}, switch="uncertainty"),
    "uncertainty of the pose unknown": Case(Reason.UNCERTAIN, {"pose_sigma_m": None}, switch="uncertainty"),
    "sprayer at fault": Case(Reason.SPRAYER_FAULT, fault="stuck open"),
    "vehicle state from the future": Case(Reason.CLOCK, {"t_mono_ns": NOW + 1}),
    "sighting from the future": Case(Reason.CLOCK, sighting={"t_mono_ns": NOW + 1}),
    "position from the future": Case(Reason.CLOCK, where={"t_mono_ns": NOW + 1}),
}  # fmt: skip


def test_with_everything_right_an_order_leaves() -> None:
    order = decide(NOW, sighting(), vehicle(), Ledger(), settings(), where())
    assert isinstance(order, SprayOrder)
    assert order.order_id == 1
    assert order.sighting_id == 7
    assert order.open_ms == 100
    # 0.3 m at 0.3 m/s, less latency (40 ms), half of the pulse (50 ms) and the flight (167 ms)
    assert order.open_at_ns == pytest.approx(NOW + (1000 - 40 - 50 - 2000 / 12) * MS, abs=0.2 * MS)
    assert order.impact.along == pytest.approx(5.3, abs=1e-3)
    assert order.impact.cell == (106, 57)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_broken_interlock_refuses_with_its_own_reason(case: Case) -> None:
    refusal = case.decide()
    assert isinstance(refusal, Refusal)
    assert case.reason.value in refusal.reasons
    assert len(refusal.details) == len(refusal.reasons)
    if case.only:
        assert set(refusal.reasons) == {case.reason.value}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.switch])
def test_a_lifted_interlock_no_longer_gives_its_reason(name: str) -> None:
    case = CASES[name]
    assert case.switch is not None
    lifted = case.settings.model_copy(update={"interlocks": InterlockSettings(**{case.switch: False}), "bench": True})
    decision = case.decide(lifted)
    assert case.reason.value not in getattr(decision, "reasons", ())


def test_every_reason_has_a_case() -> None:
    assert {case.reason for case in CASES.values()} == set(Reason)


def test_every_interlock_of_the_configuration_has_a_case_that_it_lifts() -> None:
    assert {case.switch for case in CASES.values()} - {None} == set(InterlockSettings.model_fields)


def test_all_failing_reasons_are_reported_at_once() -> None:
    refusal = decide(
        NOW,
        sighting(log_odds=0.0),
        vehicle(armed=False, mode="RTL", failsafe=True, range_m=9.0),
        Ledger(),
        settings(armed=False),
        where(),
    )
    assert isinstance(refusal, Refusal)
    wanted = {"not_armed", "vehicle_disarmed", "mode", "failsafe", "returning", "range_window", "evidence"}
    assert wanted <= set(refusal.reasons)


def test_a_state_of_which_nothing_is_known_fails_every_interlock_of_the_vehicle() -> None:
    refusal = decide(NOW, sighting(), VehicleState(NOW), Ledger(), settings(), where())
    assert isinstance(refusal, Refusal)
    wanted = "switch_off switch_stale vehicle_disarmed mode failsafe heartbeat_stale pose_stale ekf_stale ekf_bad"
    wanted += " position_bad range_stale range_window ground_speed height unreachable"
    assert set(wanted.split()) <= set(refusal.reasons)


def test_the_default_configuration_never_lets_paint_out() -> None:
    refusal = decide(NOW, sighting(), vehicle(), Ledger(), MarkingSettings(), where())
    assert isinstance(refusal, Refusal)
    assert set(refusal.reasons) == {"not_armed", "outside_area"}


def test_a_lifted_range_takes_the_planned_stand_off() -> None:
    lifted = settings(bench=True, interlocks=InterlockSettings(range_fresh=False))
    order = decide(NOW, sighting(), vehicle(range_m=None, range_age_ns=None), Ledger(), lifted, where())
    assert isinstance(order, SprayOrder)


def test_exclusions_hold_even_while_the_area_is_lifted() -> None:
    excluded = AreaSettings(exclude_faces=(FacePolygon(points=SQUARE),))
    lifted = settings(bench=True, area=excluded, interlocks=InterlockSettings(area=False))
    refusal = decide(NOW, sighting(), vehicle(), Ledger(), lifted, where())
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("excluded_area",)


def test_another_position_source_than_gps_needs_no_fix_but_an_ekf_position() -> None:
    other = settings(limits=LimitSettings(position_source="other"))
    relative_only = 0x33F & ~0x10
    assert isinstance(
        decide(NOW, sighting(), vehicle(fix_type=0, h_acc_m=None, ekf_flags=relative_only), Ledger(), other, where()),
        SprayOrder,
    )
    neither = decide(NOW, sighting(), vehicle(ekf_flags=0x33F & ~0x18), Ledger(), other, where())
    assert isinstance(neither, Refusal)
    assert neither.reasons == ("ekf_bad",)


def test_the_impact_too_must_lie_inside_the_area() -> None:
    wide = settings(
        area=AreaSettings(faces=(FacePolygon(points=((4, 2), (5.33, 2), (5.33, 4), (4, 4))),), margin_m=0.0),
        lead=LeadSettings(max_miss_m=0.5, min_notice_ms=0),
        nozzle={"right_m": 0.0},
    )
    # already 0.05 m past the ideal opening: the paint would land 5.35 m along, beyond the edge
    late = where(along_m=5.3 - 0.3 * (0.04 + 0.05 + 1 / 6) + 0.05)
    refusal = decide(NOW, sighting(), vehicle(), Ledger(), wide, late)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("outside_area",)


def test_a_decision_changes_nothing() -> None:
    account = ledger((LONG_AGO, 100, (1, 1)))
    before = (account.count, account.open_ns, account.next_order_id, account.last_close_ns)
    decide(NOW, sighting(), vehicle(), account, settings(), where())
    assert (account.count, account.open_ns, account.next_order_id, account.last_close_ns) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rc_switch_us": 1000}, "switch_off"),
        ({"armed": False}, "vehicle_disarmed"),
        ({"mode": "RTL"}, "returning"),
        ({"failsafe": True}, "failsafe"),
        ({"heartbeat_age_ns": 3000 * MS}, "heartbeat_stale"),
    ],
)
def test_permission_can_be_withdrawn_while_an_order_is_under_way(change: dict[str, Any], reason: str) -> None:
    assert still_permitted(NOW, vehicle(), settings()) == ()
    assert reason in still_permitted(NOW, vehicle(**change), settings())


def test_the_order_carries_the_sighting_and_the_next_free_id() -> None:
    account = ledger((LONG_AGO, 100, (1, 1)), (LONG_AGO, 100, (1, 2)))
    order = decide(NOW, sighting(sighting_id=99), vehicle(), account, settings(), where())
    assert isinstance(order, SprayOrder)
    assert (order.order_id, order.sighting_id) == (3, 99)


def test_geo_labels_do_not_matter_without_a_geofence() -> None:
    order = decide(NOW, sighting(geo=None), vehicle(geo=None), Ledger(), settings(), where())
    assert isinstance(order, SprayOrder)
