from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.values import GeoPoint, NoPose, Pose
from drone_agent.vehicle.geometry import rotation
from drone_agent.vehicle.pose import Local, PoseBuffer, Stream, ekf_has_position, euler, hermite, quaternion, slerp
from drone_agent.vehicle.settings import VehicleSettings

angles = st.floats(-3.1, 3.1)
tilts = st.floats(-1.5, 1.5)
shares = st.floats(0.0, 1.0)


@given(angles, tilts, angles)
def test_an_attitude_survives_the_way_through_a_quaternion(roll: float, pitch: float, yaw: float) -> None:
    there = rotation(*euler(quaternion(roll, pitch, yaw)))
    assert there == pytest.approx(rotation(roll, pitch, yaw), abs=1e-7)


@given(st.floats(-3.0, 3.0), st.floats(-0.4, 0.4), shares)
def test_slerp_turns_evenly_and_the_short_way(start: float, turn: float, share: float) -> None:
    between = slerp(quaternion(0, 0, start), quaternion(0, 0, start + turn), share)
    yaw = euler(between)[2]
    assert math.remainder(yaw - (start + share * turn), 2 * math.pi) == pytest.approx(0.0, abs=1e-6)


def test_heading_is_interpolated_across_north() -> None:
    yaw = euler(slerp(quaternion(0, 0, math.radians(359)), quaternion(0, 0, math.radians(1)), 0.5))[2]
    assert math.remainder(yaw, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)


@given(st.floats(-5, 5), st.floats(-2, 2), st.floats(-1, 1), st.floats(0.01, 1.0), shares)
def test_constant_acceleration_is_followed_exactly(
    place: float, speed: float, acceleration: float, width_s: float, share: float
) -> None:
    def state(t: float) -> Local:
        at = place + speed * t + acceleration * t**2 / 2
        return Local(at, 0.0, 0.0, (speed + acceleration * t, 0.0, 0.0))

    found, velocity = hermite(state(0), state(width_s), width_s, share)
    assert found[0] == pytest.approx(state(share * width_s).north_m, abs=1e-9)
    assert velocity[0] == pytest.approx(speed + acceleration * share * width_s, abs=1e-9)


def test_without_velocity_the_way_is_straight() -> None:
    place, velocity = hermite(Local(0, 0, 0), Local(1, 2, -3), 0.5, 0.25)
    assert place == pytest.approx((0.25, 0.5, -0.75))
    assert velocity == pytest.approx((2, 4, -6))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_samples_in_any_order_end_in_order_and_once(times: list[int]) -> None:
    stream: Stream[int] = Stream()
    for t in times:
        stream.add(t, t)
    assert stream.times == sorted(set(times))
    assert stream.values == stream.times


def test_a_ring_buffer_stays_bounded_and_keeps_the_newest() -> None:
    stream: Stream[int] = Stream(capacity=100)
    for t in range(10_000):
        stream.add(t, t)
        assert len(stream) <= 200
    assert stream.times[-100:] == list(range(9_900, 10_000))


@pytest.mark.parametrize(
    ("flags", "usable"),
    [(0x33F, True), (0x10, True), (0xA7, False), (0x90, False), (0x410, False), (0x400, False), (0, False)],
)
def test_which_ekf_flags_mean_a_position(flags: int, usable: bool) -> None:
    assert ekf_has_position(flags) is usable


def buffer(*seconds: float) -> PoseBuffer:
    poses = PoseBuffer(VehicleSettings())
    for t in seconds:
        poses.add_attitude(round(t * 1e9), 0.0, 0.0, 0.1 * t)
        poses.add_local(round(t * 1e9), t, 0.0, -1.0)
    return poses


def test_an_empty_buffer_says_that_there_is_no_telemetry() -> None:
    answer = PoseBuffer(VehicleSettings()).at(0)
    assert isinstance(answer, NoPose)
    assert answer.reason == "no_telemetry"


def test_on_a_sample_the_gap_is_nothing_and_beside_a_gap_the_sample_still_holds() -> None:
    poses = buffer(1.0, 3.0)
    on = poses.at(1_000_000_000)
    assert isinstance(on, Pose)
    assert on.gap_ns == 0
    between = poses.at(1_000_000_001)
    assert isinstance(between, NoPose)
    assert between.reason == "gap"


def test_longitude_is_interpolated_across_the_date_line() -> None:
    poses = buffer(1.0, 1.2)
    poses.add_geo(1_000_000_000, GeoPoint(0.0, 179.9999, 0.0))
    poses.add_geo(1_200_000_000, GeoPoint(0.0, -179.9999, 10.0))
    pose = poses.at(1_100_000_000)
    assert isinstance(pose, Pose)
    assert pose.geo is not None
    assert abs(pose.geo.lon_deg) == pytest.approx(180.0, abs=1e-6)
    assert pose.geo.alt_amsl_m == pytest.approx(5.0)


def test_without_a_stated_accuracy_the_setting_holds() -> None:
    pose = buffer(1.0, 1.1).at(1_050_000_000)
    assert isinstance(pose, Pose)
    assert pose.sigma_m == VehicleSettings().position_sigma_m
    assert pose.h_acc_m is None
