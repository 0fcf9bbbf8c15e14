from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.errors import InputError
from drone_agent.vehicle.clocksync import ClockFit, check_same_flight, fit_clock

START = 1_795_351_360.0


def clock(first: float = 40.0, last: float = 190.0, offset: float = START) -> ClockFit:
    boot = np.arange(first, last, 0.02)
    return fit_clock(boot + offset, boot)


@given(st.lists(st.floats(0.0, 0.02), min_size=21, max_size=60), st.integers(0, 10))
def test_late_packets_do_not_move_the_fit(delays: list[float], late: int) -> None:
    boot = np.arange(len(delays), dtype=np.float64) * 0.1
    late_by = np.array(delays)
    late_by[:late] += 5.0
    fit = fit_clock(boot + START + late_by, boot)
    assert fit.offset_s == pytest.approx(START, abs=0.021)
    assert fit.boot_at(fit.unix_at(3.0)) == pytest.approx(3.0, abs=1e-6)


def test_a_fit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="clock pairs"):
        fit_clock([], [])


def test_frames_of_the_same_flight_pass() -> None:
    check_same_flight([(52.2 + i / 6, START + 52.2 + i / 6 + 0.1) for i in range(100)], clock())


def test_frames_that_begin_before_the_telemetry_pass() -> None:
    check_same_flight([(t, START + t) for t in (10.0, 60.0)], clock())


def test_frames_without_host_time_are_judged_by_boot_time_alone() -> None:
    check_same_flight([(60.0, None)], clock())


def test_no_frames_are_no_contradiction() -> None:
    check_same_flight([], clock())


def test_a_recording_of_another_time_since_boot_is_refused_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"telemetry\.tlog is from another flight: it covers 40\.0 to 190\.0 s"
    ) as caught:
        check_same_flight([(500.0, START + 500.0)], clock(), telemetry="telemetry.tlog")
    assert "\n" not in str(caught.value)


def test_the_same_time_since_boot_on_another_day_is_refused_with_both_dates() -> None:
    frames = [(60.0 + i, START + 86_400 + 60.0 + i) for i in range(10)]
    with pytest.raises(InputError, match=r"is from another flight: .* UTC, frames\.csv .* UTC"):
        check_same_flight(frames, clock(), telemetry="telemetry.tlog", recording="frames.csv")


def test_a_clock_that_was_set_in_flight_does_not_split_the_flight() -> None:
    boot = np.arange(0.0, 100.0, 0.1)
    # A Raspberry Pi without a clock battery: 1970 until the first time source.
    offsets = np.where(boot < 60.0, 20.0, START)
    fit = fit_clock(boot + offsets, boot)
    check_same_flight([(t, t + 20.0) for t in np.arange(10.0, 50.0)], fit)
    check_same_flight([(t, t + START) for t in np.arange(70.0, 90.0)], fit)


def test_how_far_the_clocks_may_differ_is_a_setting() -> None:
    frames = [(60.0, START + 63.0)]
    with pytest.raises(InputError, match="another flight"):
        check_same_flight(frames, clock(), max_offset_s=1.0)
    check_same_flight(frames, clock(), max_offset_s=5.0)
