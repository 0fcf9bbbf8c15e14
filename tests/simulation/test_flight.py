from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.simulation.flight import Flight, Leg, Wobble


@pytest.fixture
def flight() -> Flight:
    return Flight(np.random.default_rng(3), start_s=60.0, east_m=(0.3, 3.7), heights_m=(2.0, 2.4), speed_m_s=0.4)


@given(st.floats(0.2, 5.0), st.floats(0.1, 1.0))
def test_a_leg_begins_and_ends_where_it_should_and_never_exceeds_its_speed(length: float, speed: float) -> None:
    leg = Leg(10.0, (0.0, 1.0), (length, 1.0), speed, ramp_s=0.1)
    times = np.linspace(9.0, leg.end_s + 1.0, 400)
    east = np.array([leg.at(float(t))[0] for t in times])
    assert east[0] == 0.0
    assert east[-1] == pytest.approx(length)
    rate = np.diff(east) / np.diff(times)
    assert rate.min() >= -1e-9
    assert rate.max() <= speed * (1.0 + 1e-6)


def test_wobble_has_the_spread_asked_for() -> None:
    wobble = Wobble(np.random.default_rng(0), rms=0.03, low_hz=0.2, high_hz=2.0)
    values = [wobble.at(0.05 * k) for k in range(4000)]
    assert np.std(values) == pytest.approx(0.03, rel=0.05)


def test_the_vehicle_flies_out_and_back_one_pass_above_the_other(flight: Flight) -> None:
    first, turn, last = flight.pose(60.0), flight.pose(60.0 + 3.4 / 0.4 + 1.2), flight.pose(flight.end_s)
    assert (first.east_m, -first.down_m) == pytest.approx((0.3, 2.0), abs=0.1)
    assert (turn.east_m, -turn.down_m) == pytest.approx((3.7, 2.0), abs=0.1)
    assert (last.east_m, -last.down_m) == pytest.approx((0.3, 2.4), abs=0.1)


def test_velocity_and_rates_are_the_derivatives_of_the_pose(flight: Flight) -> None:
    for t in np.arange(58.0, flight.end_s, 0.37):
        before, here, after = (flight.pose(float(t) + dt) for dt in (-0.01, 0.0, 0.01))
        for axis in ("north", "east", "down"):
            slope = (getattr(after, f"{axis}_m") - getattr(before, f"{axis}_m")) / 0.02
            assert getattr(here, f"vel_{axis}_m_s") == pytest.approx(slope, abs=0.01)
        slopes = [(getattr(after, a) - getattr(before, a)) / 0.02 for a in ("roll", "pitch", "yaw")]
        assert flight.attitude_rates(float(t)) == pytest.approx(slopes, abs=0.02)


def test_it_leans_into_the_acceleration_and_wobbles_like_a_multicopter(flight: Flight) -> None:
    times = np.arange(60.0, flight.end_s, 0.02)
    poses = [flight.pose(float(t)) for t in times]
    for angle in ("roll", "pitch", "yaw"):
        values = np.degrees([getattr(p, angle) for p in poses])
        assert 0.3 < values.std() < 2.5
        assert np.abs(values).max() < 8.0
        assert np.abs(np.diff(values)).max() < 1.0, "no jumps"
    start = np.mean([flight.pose(60.0 + t).roll for t in np.arange(0.4, 0.8, 0.02)])
    assert start > math.radians(1.0), "it starts to the right, so it leans to the right"
