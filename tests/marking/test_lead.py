from __future__ import annotations

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from drone_agent.marking.lead import Aim, FacePosition, NoAim, axis_incidence, face_position, solve
from drone_agent.marking.settings import LeadSettings, NozzleSettings
from drone_agent.values import Pose
from tests.marking.scene import FALL_M, MS, NOW, where

G = 9.80665


def aim(
    target: tuple[float, float] = (5.3, 3.0 - FALL_M),
    position: FacePosition | None = None,
    nozzle: NozzleSettings | None = None,
    lead: LeadSettings | None = None,
    open_ms: int = 100,
    range_m: float = 2.0,
    sigma_m: float = 0.03,
    pose_sigma_m: float = 0.02,
    now: int = NOW,
) -> Aim | NoAim:
    return solve(
        now, *target, sigma_m, NOW - 200 * MS, pose_sigma_m, range_m, position or where(), open_ms,
        nozzle or NozzleSettings(), lead or LeadSettings(),
    )  # fmt: skip


def fly(
    found: Aim, position: FacePosition, nozzle: NozzleSettings, lead: LeadSettings, open_ms: int
) -> tuple[float, float]:
    """Where the middle of the pulse lands, by stepping the paint through the air; camera level, square to the wall."""
    t = (found.open_at_ns - position.t_mono_ns) / 1e9 + lead.valve_latency_ms / 1e3 + open_ms / 2e3
    along = position.along_m + position.vel_along_m_s * t + nozzle.right_m
    height = position.height_m + position.vel_up_m_s * t + nozzle.up_m
    out = position.distance_m - nozzle.forward_m
    up, right = math.radians(nozzle.aim_up_deg), math.radians(nozzle.aim_right_deg)
    v_out = nozzle.paint_speed_m_s * math.cos(up) * math.cos(right)
    v_along = position.vel_along_m_s + nozzle.paint_speed_m_s * math.cos(up) * math.sin(right)
    v_up = position.vel_up_m_s + nozzle.paint_speed_m_s * math.sin(up)
    dt = 1e-5
    while out > 0:
        along += v_along * dt
        height += v_up * dt - G * dt * dt / 2
        v_up -= G * dt
        out -= v_out * dt
    return along, height


@given(
    speed=st.floats(0.1, 1.0),
    sign=st.sampled_from((-1, 1)),
    lead_m=st.floats(0.4, 1.0),
    right=st.floats(-0.3, 0.3),
    up=st.floats(-0.3, 0.3),
    aim_right=st.floats(-10, 10),
    aim_up=st.floats(-10, 10),
    paint=st.floats(6, 20),
    latency=st.floats(0, 100),
)
def test_paint_that_flies_as_assumed_lands_on_the_crack(
    speed: float,
    sign: int,
    lead_m: float,
    right: float,
    up: float,
    aim_right: float,
    aim_up: float,
    paint: float,
    latency: float,
) -> None:
    nozzle = NozzleSettings(right_m=right, up_m=up, aim_right_deg=aim_right, aim_up_deg=aim_up, paint_speed_m_s=paint)
    lead = LeadSettings(valve_latency_ms=latency, max_ahead_ms=20_000)
    position = where(vel_along_m_s=sign * speed)
    # the crack hangs where the jet passes, ahead of the nozzle
    flight = 2.0 / (paint * math.cos(math.radians(aim_up)) * math.cos(math.radians(aim_right)))
    height = 3.0 + up + paint * math.sin(math.radians(aim_up)) * flight - G * flight**2 / 2
    target = (
        5.0
        + right
        + sign * lead_m
        + paint * math.sin(math.radians(aim_right)) * math.cos(math.radians(aim_up)) * flight,
        height,
    )
    found = aim(target, position, nozzle, lead)
    if isinstance(found, NoAim):
        # close ahead and fast: too late even for the earliest opening
        assert found.reason == "late"
        assume(False)
    assert isinstance(found, Aim)
    landed = fly(found, position, nozzle, lead, 100)
    assert landed == pytest.approx((found.impact_along_m, found.impact_height_m), abs=2e-3)
    assert math.dist(landed, target) <= lead.max_miss_m + 2e-3
    assert found.open_at_ns >= NOW + lead.min_notice_ms * MS


def test_the_valve_opens_earlier_the_slower_it_is() -> None:
    quick, slow = aim(lead=LeadSettings(valve_latency_ms=10)), aim(lead=LeadSettings(valve_latency_ms=110))
    assert isinstance(quick, Aim)
    assert isinstance(slow, Aim)
    assert quick.open_at_ns - slow.open_at_ns == pytest.approx(100 * MS, abs=1000)


def test_an_order_that_can_no_longer_be_met_is_late_not_sprayed_late() -> None:
    found = aim(position=where(along_m=5.55))
    assert isinstance(found, NoAim)
    assert found.reason == "late"


def test_a_small_delay_within_the_allowed_miss_opens_at_once() -> None:
    found = aim(position=where(along_m=5.3 - 0.3 * 0.25))
    assert isinstance(found, Aim)
    assert found.slack_ns < 0
    assert found.open_at_ns == NOW + 50 * MS
    assert 0 < found.miss_m <= 0.1


def test_a_vehicle_that_flies_away_never_reaches_the_crack() -> None:
    found = aim(position=where(vel_along_m_s=-0.3))
    assert isinstance(found, NoAim)
    assert found.reason == "late"


def test_a_nozzle_that_passes_above_the_crack_cannot_reach_it() -> None:
    found = aim(position=where(height_m=3.2))
    assert isinstance(found, NoAim)
    assert found.reason == "unreachable"


def test_a_hovering_vehicle_sprays_only_what_is_before_the_nozzle() -> None:
    still = where(vel_along_m_s=0.0, along_m=5.28)
    found = aim(position=still)
    assert isinstance(found, Aim)
    assert found.open_at_ns == NOW + 50 * MS
    away = aim(position=where(vel_along_m_s=0.0))
    assert isinstance(away, NoAim)
    assert away.reason == "unreachable"


def test_what_lies_far_ahead_is_too_early() -> None:
    found = aim(position=where(along_m=3.0))
    assert isinstance(found, NoAim)
    assert found.reason == "too_early"


def test_a_jet_that_does_not_meet_the_wall_reaches_nothing() -> None:
    for turned in (where(heading=math.pi), where(heading=math.radians(80))):
        found = aim(position=turned)
        assert isinstance(found, NoAim)
        assert found.reason == "unreachable"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_place_that_is_no_number_reaches_nothing(value: float) -> None:
    for found in (
        aim(target=(value, 3.0)),
        aim(target=(5.3, value)),
        aim(position=where(along_m=value)),
        aim(range_m=value),
    ):
        assert isinstance(found, NoAim)


def test_a_raised_jet_makes_up_for_the_fall() -> None:
    raised = math.degrees(math.atan(FALL_M / 2.0))
    found = aim(target=(5.3, 3.0), nozzle=NozzleSettings(aim_up_deg=raised))
    assert isinstance(found, Aim)
    assert found.miss_m < 0.005


def test_pitch_and_heading_of_the_vehicle_move_the_impact() -> None:
    level = aim()
    nose_up = aim(position=where(pitch=math.radians(2)), lead=LeadSettings(max_miss_m=0.5))
    turned = aim(position=where(heading=math.radians(2)), lead=LeadSettings(max_miss_m=0.5))
    assert isinstance(level, Aim)
    assert isinstance(nose_up, Aim)
    assert isinstance(turned, Aim)
    assert nose_up.impact_height_m - level.impact_height_m == pytest.approx(2 * math.tan(math.radians(2)), abs=0.005)
    # a jet that is turned to the right is there earlier
    assert turned.open_at_ns < level.open_at_ns


@pytest.mark.parametrize(
    ("worse", "change"),
    [
        ("place", {"sigma_m": 0.1}),
        ("pose", {"pose_sigma_m": 0.5, "sigma_m": 0.501}),
        ("latency", {"lead": LeadSettings(valve_latency_sigma_ms=100)}),
        ("attitude", {"lead": LeadSettings(attitude_sigma_deg=2)}),
        ("speed", {"lead": LeadSettings(speed_sigma_m_s=0.2)}),
        ("pulse", {"open_ms": 400}),
        ("paint", {"nozzle": NozzleSettings(paint_speed_sigma_m_s=6)}),
        ("wander", {"lead": LeadSettings(pose_correlation_s=1)}),
    ],
)
def test_each_source_of_error_makes_the_impact_less_certain(worse: str, change: dict[str, object]) -> None:
    found, base = aim(**change), aim()  # type: ignore[arg-type]  # each test changes one argument of another type
    assert isinstance(found, Aim)
    assert isinstance(base, Aim)
    assert found.sigma_m > base.sigma_m, worse


def test_the_stated_uncertainty_is_the_scatter_of_simulated_sprays() -> None:
    import numpy as np

    rng = np.random.default_rng(4)
    lead, nozzle = LeadSettings(), NozzleSettings()
    found = aim(sigma_m=0.05, pose_sigma_m=0.02)
    assert isinstance(found, Aim)
    n = 20_000
    ahead_s = (found.open_at_ns - NOW) / 1e9
    flight_s = found.flight_ns / 1e9
    wander = 2 * 0.02**2 * (1 - math.exp(-(ahead_s + 0.2) / lead.pose_correlation_s))
    speed = nozzle.paint_speed_m_s * (1 + rng.normal(0, nozzle.paint_speed_sigma_m_s / nozzle.paint_speed_m_s, n))
    t = 2.0 / np.clip(speed, 4, None)
    along = (
        rng.normal(0, math.sqrt(0.05**2 - 0.02**2), n)
        + rng.normal(0, math.sqrt(wander), n)
        + 2.0 * np.tan(rng.normal(0, math.radians(lead.attitude_sigma_deg), n))
        + 0.3 * rng.normal(0, lead.valve_latency_sigma_ms / 1e3, n)
        + rng.normal(0, lead.speed_sigma_m_s, n) * (ahead_s + flight_s)
        + 0.3 * rng.uniform(-0.05, 0.05, n)
        + 0.3 * (t - flight_s)
    )
    # the stated value covers both axes, the fall included, so it may exceed the scatter along, never fall short of it
    assert found.sigma_m >= 0.95 * along.std()
    assert found.sigma_m <= 1.5 * along.std()


def test_a_pose_before_a_wall_in_the_north_is_put_on_the_face() -> None:
    pose = Pose(NOW, north_m=0.5, east_m=4.0, down_m=-3.0, roll=0, pitch=0, yaw=0, vel_east_m_s=0.3, vel_north_m_s=0.1)
    position = face_position(pose, face="north", origin_ned=(2.0, 1.0, -1.0), along_bearing=math.pi / 2)
    assert (position.along_m, position.height_m, position.distance_m) == pytest.approx((3.0, 2.0, 1.5))
    assert position.heading == pytest.approx(0)
    assert (position.vel_along_m_s, position.vel_out_m_s) == pytest.approx((0.3, -0.1))
    assert axis_incidence(position) == pytest.approx(0)


def test_a_face_that_looks_elsewhere_turns_everything_with_it() -> None:
    # looked at towards the east: right is south
    pose = Pose(NOW, north_m=-4.0, east_m=1.0, down_m=-3.0, roll=0, pitch=0, yaw=math.pi / 2 + 0.1, vel_north_m_s=-0.2)
    position = face_position(pose, face="east", origin_ned=(0.0, 3.0, 0.0), along_bearing=math.pi)
    assert (position.along_m, position.height_m, position.distance_m) == pytest.approx((4.0, 3.0, 2.0))
    assert position.heading == pytest.approx(0.1)
    assert position.vel_along_m_s == pytest.approx(0.2)


def test_the_camera_sits_where_it_is_mounted() -> None:
    pose = Pose(NOW, 0.0, 0.0, -3.0, 0, 0, 0)
    position = face_position(
        pose, face="f", origin_ned=(2.0, 0.0, 0.0), along_bearing=math.pi / 2, camera_body_m=(0.2, 0.1, -0.05),
        camera_rpy=(0.0, 0.2, -0.1),
    )  # fmt: skip
    assert (position.along_m, position.height_m, position.distance_m) == pytest.approx((0.1, 3.05, 1.8))
    assert (position.heading, position.pitch, position.roll) == pytest.approx((-0.1, 0.2, 0.0))


def test_the_latest_position_is_used_from_its_own_time_on() -> None:
    fresh, older = where(), replace(where(NOW - 100 * MS), along_m=4.97)
    one, two = aim(position=fresh), aim(position=older)
    assert isinstance(one, Aim)
    assert isinstance(two, Aim)
    assert one.open_at_ns == pytest.approx(two.open_at_ns, abs=2000)
