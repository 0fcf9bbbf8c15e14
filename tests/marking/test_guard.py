"""The dead-man's logic on a clock that the test turns."""

from __future__ import annotations

import os
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from drone_agent.errors import SprayerError
from drone_agent.marking import wire
from drone_agent.marking.guard import Guard, Limits, serve
from tests.fakes.valves import RecordingValve
from tests.marking.scene import MS

LIMITS = Limits(max_open_ms=300, cooldown_ms=1000, heartbeat_timeout_ms=200, late_ms=20, max_ahead_ms=5000)
START = 10**12


class Bench:
    def __init__(self, valve: RecordingValve | None = None, limits: Limits = LIMITS) -> None:
        self.now = START
        self.asleep = 0
        self.valve = valve or RecordingValve()
        self.reports: list[dict[str, Any]] = []
        self.opened: list[tuple[int, int]] = []
        self.guard = Guard(self.valve, limits, self.report, lambda: self.now, lambda: self.asleep)
        self._was_open = False

    def report(self, kind: str, **fields: Any) -> None:
        if kind != "tick":
            self.reports.append({"k": kind, **fields})

    @property
    def results(self) -> list[dict[str, Any]]:
        return [r for r in self.reports if r["k"] == "result"]

    def beat(self) -> None:
        self.guard.handle({"k": "beat", "t": self.now})

    def order(self, number: int = 1, ahead_ms: int = 0, ms: int = 100) -> None:
        self.guard.handle({"k": "order", "id": number, "at": self.now + ahead_ms * MS, "ms": ms})

    def run(self, ms: float, *, beats: bool = True, step_ms: float = 1.0) -> None:
        """Turns the clock; the loop wakes at every deadline at the latest."""
        end = self.now + round(ms * MS)
        while self.now < end:
            self.now = min(end, max(self.now + 1, min(self.guard.deadline_ns(), self.now + round(step_ms * MS))))
            if beats:
                self.beat()
            self.guard.advance()
            self.watch()

    def watch(self) -> None:
        if self.valve.is_open and not self._was_open:
            self.opened.append((self.now, -1))
        if not self.valve.is_open and self._was_open:
            self.opened[-1] = (self.opened[-1][0], self.now)
        self._was_open = self.valve.is_open


def test_an_order_opens_at_its_time_and_closes_after_its_length() -> None:
    bench = Bench()
    bench.beat()
    bench.order(ahead_ms=50, ms=100)
    bench.run(500)
    assert bench.opened == [(START + 50 * MS, START + 150 * MS)]
    (result,) = bench.results
    assert result["executed"]
    assert result["evidence"] == "read_back"
    assert (result["opened"], result["closed"]) == (START + 50 * MS, START + 150 * MS)
    assert result["detail"] == "end of order"


@pytest.mark.parametrize(
    ("ahead_ms", "ms", "why"),
    [(0, 301, "301 ms"), (0, 0, "0 ms"), (0, -5, "-5 ms"), (-21, 100, "late by"), (5001, 100, "5001 ms ahead")],
)
def test_an_order_beyond_the_limits_is_refused(ahead_ms: int, ms: int, why: str) -> None:
    bench = Bench()
    bench.beat()
    bench.order(ahead_ms=ahead_ms, ms=ms)
    bench.run(1000)
    assert bench.opened == []
    assert bench.results[0]["evidence"] == "refused"
    assert why in bench.results[0]["detail"]


def test_a_second_order_inside_the_cool_down_is_refused_by_the_dead_man_itself() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1)
    bench.run(110)
    bench.order(2, ahead_ms=980)
    bench.order(3, ahead_ms=995)
    bench.run(1500)
    assert [r["id"] for r in bench.results if r["executed"]] == [1, 3]
    assert "cool-down" in next(r["detail"] for r in bench.results if r["id"] == 2)


def test_a_second_order_while_one_is_under_way_is_refused() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ahead_ms=100)
    bench.order(2, ahead_ms=3000)
    bench.run(500)
    assert "under way" in bench.results[0]["detail"]
    assert [r["id"] for r in bench.results if r["executed"]] == [1]


def test_no_order_is_taken_without_a_heartbeat() -> None:
    bench = Bench()
    bench.order(1)
    bench.run(300, beats=False)
    assert bench.opened == []
    assert bench.results[0]["detail"] == "no heartbeat"


def test_the_valve_closes_when_the_heartbeat_is_lost() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ms=300)
    bench.run(20)
    last = bench.now
    bench.run(500, beats=False)
    assert bench.opened == [(START + 1, last + 200 * MS)]
    assert bench.results[0]["detail"] == "heartbeat lost"
    assert bench.results[0]["executed"]


def test_an_order_that_waits_is_cancelled_when_the_heartbeat_is_lost() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ahead_ms=400)
    bench.run(1000, beats=False)
    assert bench.opened == []
    assert bench.results[0]["evidence"] == "cancelled"


def test_beats_that_waited_in_the_pipe_are_as_old_as_they_are() -> None:
    bench = Bench()
    sent = bench.now
    bench.now += 250 * MS
    bench.guard.handle({"k": "beat", "t": sent})
    bench.order(1)
    bench.run(50, beats=False)
    assert bench.opened == []


def test_a_beat_from_the_future_is_no_beat() -> None:
    bench = Bench()
    with pytest.raises(wire.WireError, match="future"):
        bench.guard.handle({"k": "beat", "t": bench.now + 1})


def test_off_closes_at_once_and_cancels_what_waits() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ms=300)
    bench.run(30)
    bench.guard.handle({"k": "off", "why": "mode change"})
    bench.watch()
    assert bench.opened == [(START + 1, bench.now)]
    assert bench.results[0]["detail"] == "mode change"
    bench.run(1100)
    bench.order(2, ahead_ms=200)
    bench.guard.handle({"k": "off", "why": "disarm"})
    bench.run(500)
    assert len(bench.opened) == 1
    assert bench.results[1]["evidence"] == "cancelled"


def test_off_without_an_order_drives_the_output_closed_all_the_same() -> None:
    bench = Bench()
    writes = bench.valve.writes
    bench.guard.off("start")
    assert bench.valve.writes > writes


def test_an_opening_that_the_machine_missed_is_dropped() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ahead_ms=100)
    bench.now += 121 * MS
    bench.beat()
    bench.guard.advance()
    bench.watch()
    assert bench.opened == []
    assert "late by" in bench.results[0]["detail"]


def test_an_overdue_end_closes_before_anything_else_is_done() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1)
    bench.guard.advance()
    assert bench.valve.is_open
    bench.now += 150 * MS
    bench.guard.end_if_due()
    assert not bench.valve.is_open


def test_a_machine_that_slept_closes_at_once_and_takes_no_more_orders() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ms=300)
    bench.run(50)
    bench.asleep += 5000 * MS
    bench.run(2)
    assert not bench.valve.is_open
    assert "slept for 5000 ms" in bench.results[0]["detail"]
    assert bench.guard.fault is not None
    bench.run(2000)
    bench.order(2)
    assert "fault" in bench.results[1]["detail"]


def test_a_machine_that_slept_with_the_valve_closed_goes_on() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1, ahead_ms=100)
    bench.asleep += 5000 * MS
    bench.run(50)
    assert bench.results[0]["evidence"] == "cancelled"
    assert bench.guard.fault is None
    bench.order(2, ahead_ms=10)
    bench.run(200)
    assert bench.results[1]["executed"]


def test_a_valve_that_reads_open_after_closing_is_a_fault_and_is_told_again_and_again() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1)
    bench.run(10)
    bench.valve.stuck_open = True
    bench.run(2000)
    assert "stuck open" in (bench.guard.fault or "")
    assert any(r["k"] == "fault" and "stuck open" in r["detail"] for r in bench.reports)
    writes = bench.valve.writes
    bench.run(1000)
    assert bench.valve.writes - writes >= 15
    bench.order(2)
    assert "stuck open" in bench.results[-1]["detail"]
    bench.valve.stuck_open = False
    bench.run(100)
    assert not bench.valve.is_open


def test_a_valve_that_does_not_open_is_a_fault_and_counts_as_not_executed() -> None:
    bench = Bench(RecordingValve())
    bench.valve.deaf = True
    bench.beat()
    bench.order(1)
    bench.run(500)
    assert "reads closed" in (bench.guard.fault or "")
    assert not bench.results[0]["executed"]
    assert bench.results[0]["evidence"] == "none"


def test_a_driver_that_refuses_to_open_is_closed_and_a_fault() -> None:
    bench = Bench()
    bench.valve.fails_to_open = True
    bench.beat()
    bench.order(1)
    bench.run(200)
    assert "short circuit" in (bench.guard.fault or "")
    assert not bench.valve.is_open


def test_a_driver_that_refuses_to_close_is_asked_again() -> None:
    bench = Bench()
    bench.beat()
    bench.order(1)
    bench.run(50)
    bench.valve.fails_to_close = 3
    bench.run(300)
    assert not bench.valve.is_open
    assert "bus is busy" in (bench.guard.fault or "")


def test_without_read_back_the_result_says_that_it_was_only_commanded() -> None:
    bench = Bench(RecordingValve(reads=False))
    bench.beat()
    bench.order(1)
    bench.run(300)
    assert bench.results[0]["evidence"] == "commanded"


@pytest.mark.parametrize("message", [{"k": "explode"}, {"k": "order", "id": 1, "at": 5}, {"k": "beat", "t": "now"}])
def test_a_message_that_makes_no_sense_is_an_error(message: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        Bench().guard.handle(message)


@pytest.mark.parametrize(
    "limits",
    [
        {"heartbeat_timeout_ms": 251},
        {"heartbeat_timeout_ms": 0},
        {"max_open_ms": 0},
        {"max_open_ms": 5001},
        {"cooldown_ms": -1},
        {"late_ms": -1},
        {"max_ahead_ms": 0},
    ],
)
def test_limits_that_protect_from_nothing_are_refused(limits: dict[str, int]) -> None:
    good = {"max_open_ms": 300, "cooldown_ms": 10, "heartbeat_timeout_ms": 200, "late_ms": 20, "max_ahead_ms": 100}
    with pytest.raises(SprayerError, match="make no sense"):
        Limits(**(good | limits))


STEP = st.one_of(
    st.tuples(st.just("beat"), st.just(0), st.just(0)),
    st.tuples(st.just("order"), st.integers(-50, 1500), st.integers(-10, 400)),
    st.tuples(st.just("off"), st.just(0), st.just(0)),
    st.tuples(st.just("sleep"), st.integers(0, 100), st.just(0)),
    st.tuples(st.just("run"), st.integers(1, 700), st.booleans()),
    st.tuples(st.just("stall"), st.integers(1, 400), st.just(0)),
)


@hypothesis_settings(max_examples=150)
@given(st.lists(STEP, min_size=3, max_size=40))
def test_whatever_comes_no_opening_is_longer_than_allowed_and_the_pause_is_kept(
    steps: list[tuple[str, int, Any]],
) -> None:
    bench = Bench()
    bench.beat()
    number, stalled = 0, 0
    for kind, a, b in steps:
        if kind == "beat":
            bench.beat()
        elif kind == "order":
            number += 1
            bench.order(number, ahead_ms=a, ms=b)
        elif kind == "off":
            bench.guard.handle({"k": "off", "why": "test"})
            bench.watch()
        elif kind == "sleep":
            bench.asleep += a * MS
        elif kind == "run":
            bench.run(a, beats=bool(b), step_ms=5)
        else:
            # the dead-man itself does not get the processor for a while
            bench.now += a * MS
            stalled = max(stalled, a)
            bench.guard.advance()
            bench.watch()
    bench.run(3000, step_ms=20)
    assert not bench.valve.is_open
    for opened, closed in bench.opened:
        assert closed - opened <= (LIMITS.max_open_ms + stalled) * MS
    for (_, closed), (opened, _) in zip(bench.opened, bench.opened[1:], strict=False):
        assert opened - closed >= (LIMITS.cooldown_ms - LIMITS.late_ms) * MS
    assert len(bench.results) == number


def test_an_error_of_its_own_closes_the_valve_on_the_way_out() -> None:
    class Cursed(RecordingValve):
        def level(self) -> bool | None:
            if self.is_open:
                raise ZeroDivisionError("a bug in a driver")
            return False

    valve = Cursed()
    commands_read, commands_write = os.pipe()
    reports_read, reports_write = os.pipe()
    now = time.monotonic_ns()
    os.write(commands_write, wire.pack("beat", t=now) + wire.pack("order", id=1, at=now, ms=300))
    os.close(commands_write)
    patient = Limits(max_open_ms=300, cooldown_ms=0, heartbeat_timeout_ms=250, late_ms=5000, max_ahead_ms=1000)
    with pytest.raises(ZeroDivisionError):
        serve(valve, patient, commands_read, reports_write)
    assert [is_open for _, is_open in valve.edges] == [True, False]
    assert valve.released
    for fd in (commands_read, reports_read, reports_write):
        os.close(fd)
