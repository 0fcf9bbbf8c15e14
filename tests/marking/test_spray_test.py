from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drone_agent.clock import SystemClock
from drone_agent.errors import ConfigError, SprayerError
from drone_agent.marking.guard import Limits
from drone_agent.marking.guard_client import GuardClient
from drone_agent.marking.guarded import GuardedSprayer
from drone_agent.marking.settings import (
    BudgetSettings,
    GuardSettings,
    MarkingSettings,
    MavlinkSprayerSettings,
    TraceSettings,
)
from drone_agent.marking.spray_test import SprayTestResult, spray_test
from drone_agent.values import VehicleState
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.settings import VehicleSettings
from tests.fakes.autopilot import FakeAutopilot
from tests.fakes.valves import RecordingValve, ThreadGuard
from tests.marking.scene import MS

CLOCK = SystemClock()
GUARD = GuardSettings(late_ms=500, heartbeat_timeout_ms=250, stall_timeout_ms=10_000)
LIMITS = Limits(max_open_ms=500, cooldown_ms=100, heartbeat_timeout_ms=250, late_ms=500, max_ahead_ms=5000)


def disarmed(**changes: Any) -> VehicleState:
    return replace(VehicleState(0, armed=False, heartbeat_age_ns=200 * MS), **changes)


def settings(**keys: Any) -> MarkingSettings:
    return MarkingSettings(guard=GUARD, budget=BudgetSettings(open_ms=100, cooldown_ms=100), **keys)


class Hand:
    """What is asked of and told to the person at the valve."""

    def __init__(self, *, yes: bool = True) -> None:
        self.yes = yes
        self.asked: list[str] = []
        self.told: list[str] = []

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.yes

    def run(self, configuration: MarkingSettings, pulses: int = 2, open_ms: int = 80, **keys: Any) -> SprayTestResult:
        return spray_test(
            configuration, CLOCK, pulses=pulses, open_ms=open_ms, confirm=self.confirm, say=self.told.append, **keys
        )


def built(valve: RecordingValve) -> Callable[..., GuardedSprayer]:
    return lambda *_: GuardedSprayer(GuardClient(ThreadGuard(valve, LIMITS), GUARD, CLOCK), "trace", paints=False)


def test_pulses_are_given_counted_and_measured(tmp_path: Path) -> None:
    hand = Hand()
    traced = settings(sprayer="trace", trace=TraceSettings(path=str(tmp_path / "edges.txt")))
    result = hand.run(traced, pulses=3, vehicle=disarmed)
    assert result.ok
    assert len(result.pulses) == 3
    levels = [line.split()[1] for line in (tmp_path / "edges.txt").read_text().splitlines()]
    assert levels == ["0", "1", "0", "1", "0", "1", "0"]
    assert "3 times for 80 ms" in hand.asked[0]
    assert len(hand.told) == 3
    for pulse in result.pulses:
        assert pulse.measured_ms == pytest.approx(80, abs=200)
        assert pulse.open_latency_ms is not None
        assert pulse.open_latency_ms >= 0
    assert result.open_latency_ms is not None
    assert result.open_latency_sigma_ms is not None


def test_a_sense_input_measures_the_valve_itself() -> None:
    valve = RecordingValve(senses=True)
    valve.sensed_after_ns = 60 * MS
    result = Hand().run(settings(), pulses=1, open_ms=200, vehicle=disarmed, build=built(valve))
    (pulse,) = result.pulses
    assert pulse.evidence == "sensed"
    assert pulse.open_latency_ms is not None
    assert pulse.close_latency_ms is not None
    assert pulse.open_latency_ms >= 60
    assert pulse.close_latency_ms >= 60


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (disarmed(armed=True), "is armed"),
        (disarmed(armed=None), "not known"),
        (disarmed(heartbeat_age_ns=None), "not known"),
        (disarmed(heartbeat_age_ns=5000 * MS), "not known"),
        (VehicleState(0), "not known"),
    ],
)
def test_it_refuses_unless_the_vehicle_is_known_to_be_disarmed(state: VehicleState, why: str) -> None:
    hand, valve = Hand(), RecordingValve()
    with pytest.raises(SprayerError, match=why):
        hand.run(settings(), vehicle=lambda: state, build=built(valve))
    assert hand.asked == []
    assert valve.edges == []


def test_arming_in_the_middle_ends_it() -> None:
    states = iter([disarmed(), disarmed(), disarmed(armed=True)])
    valve = RecordingValve()
    result = Hand().run(settings(), pulses=5, vehicle=lambda: next(states), build=built(valve))
    assert not result.ok
    assert "armed" in (result.aborted or "")
    assert len(result.pulses) == 1
    assert valve.released


def test_without_a_confirmation_nothing_moves() -> None:
    valve = RecordingValve()
    result = Hand(yes=False).run(settings(), vehicle=disarmed, build=built(valve))
    assert result.aborted == "not confirmed"
    assert valve.writes == 0


def test_no_vehicle_must_be_said_aloud() -> None:
    valve = RecordingValve()
    with pytest.raises(SprayerError, match="--no-vehicle"):
        Hand().run(settings(), build=built(valve))
    assert Hand().run(settings(), pulses=1, no_vehicle=True, build=built(valve)).ok


def test_a_valve_at_the_autopilot_cannot_be_tested_without_it() -> None:
    with pytest.raises(SprayerError, match="at the autopilot"):
        Hand().run(settings(sprayer="mavlink"), no_vehicle=True)


@pytest.mark.parametrize(("pulses", "open_ms"), [(0, 80), (51, 80), (1, 0), (1, 501), (-1, 80)])
def test_counts_and_lengths_beyond_bounds_are_refused(pulses: int, open_ms: int) -> None:
    with pytest.raises(ConfigError, match="allowed are 1 to"):
        Hand().run(settings(), pulses, open_ms, vehicle=disarmed)


def test_a_valve_that_does_not_move_is_told_and_ends_the_test() -> None:
    valve = RecordingValve()
    valve.deaf = True
    hand = Hand()
    result = hand.run(settings(), pulses=3, vehicle=disarmed, build=built(valve))
    assert not result.ok
    assert "NOT EXECUTED" in hand.told[0]
    assert "reads closed" in (result.aborted or "")
    assert len(result.pulses) == 1


def test_a_sense_input_that_feels_nothing_is_no_execution() -> None:
    valve = RecordingValve(senses=True)
    valve.sense_dead = True
    result = Hand().run(settings(), pulses=1, vehicle=disarmed, build=built(valve))
    assert not result.ok
    assert "saw no opening" in result.pulses[0].detail


def test_a_valve_that_is_felt_open_after_closing_is_stuck() -> None:
    valve = RecordingValve(senses=True)
    valve.sense_stuck = True
    result = Hand().run(settings(), pulses=2, vehicle=disarmed, build=built(valve))
    assert "stuck open" in (result.aborted or "")
    assert len(result.pulses) == 1


def test_a_relay_at_the_autopilot_is_tested_on_its_evidence() -> None:
    with FakeAutopilot() as autopilot:
        link = MavlinkLink(LinkSettings(connection=autopilot.connection), VehicleSettings(), CLOCK)
        link.wait_for_autopilot(10)
        block = MavlinkSprayerSettings(evidence_timeout_ms=1500, ack_timeout_ms=1500)
        hand = Hand()
        result = hand.run(
            settings(sprayer="mavlink", mavlink=block),
            pulses=2,
            open_ms=150,
            link=link,
            vehicle=lambda: link.vehicle(CLOCK.now_mono_ns()),
        )
        link.close()
        assert result.ok, hand.told
        assert all(pulse.evidence == "relay_status" for pulse in result.pulses)
        assert not autopilot.relay_is_on(0)


def test_it_refuses_at_an_armed_autopilot() -> None:
    with FakeAutopilot() as autopilot:
        autopilot.armed = True
        link = MavlinkLink(LinkSettings(connection=autopilot.connection), VehicleSettings(), CLOCK)
        link.wait_for_autopilot(10)
        with pytest.raises(SprayerError, match="is armed"):
            Hand().run(
                settings(sprayer="mavlink"), pulses=1, link=link, vehicle=lambda: link.vehicle(CLOCK.now_mono_ns())
            )
        link.close()
        assert autopilot.relay_edges == []
