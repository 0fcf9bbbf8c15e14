"""The MAVLink sprayer against an autopilot that acknowledges much and does little."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.clock import SystemClock
from drone_agent.errors import ConfigError, SprayerError
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.mavlink import Evidence, MavlinkSprayer
from drone_agent.marking.mavlink_valve import MavlinkValve, switch_command
from drone_agent.marking.settings import BudgetSettings, GuardSettings, MarkingSettings, MavlinkSprayerSettings
from drone_agent.values import Place, SprayOrder, SprayResult
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.settings import VehicleSettings
from tests.fakes.autopilot import FakeAutopilot

MS = 1_000_000
CLOCK = SystemClock()
REPEAT_RELAY = MavlinkSprayerSettings(evidence_timeout_ms=600, ack_timeout_ms=600)


class Rig:
    def __init__(self, autopilot: FakeAutopilot) -> None:
        self.autopilot = autopilot
        self.link = MavlinkLink(LinkSettings(connection=autopilot.connection), VehicleSettings(), CLOCK)
        self.link.wait_for_autopilot(10)
        self.sprayers: list[MavlinkSprayer] = []

    def sprayer(self, block: MavlinkSprayerSettings = REPEAT_RELAY, *, known: bool = True) -> MavlinkSprayer:
        guard = GuardSettings(late_ms=500, heartbeat_timeout_ms=250)
        settings = MarkingSettings(
            sprayer="mavlink", mavlink=block, guard=guard, budget=BudgetSettings(open_ms=100, cooldown_ms=100)
        )
        made = build_sprayer(settings, CLOCK, self.link)
        assert isinstance(made, MavlinkSprayer)
        self.sprayers.append(made)
        if known:
            wait_for(lambda: made._evidence.latest() is not None)
        return made

    def waiting(self, kind: str) -> list[Any]:
        """Messages that are on their way to an autopilot that is `holding`."""
        return [message for _, message in list(self.autopilot.line) if message.get_type() == kind]

    def offs_waiting(self) -> int:
        return sum(message.command == dialect.MAV_CMD_DO_SET_RELAY for message in self.waiting("COMMAND_LONG"))

    def off_goes_on(self, sprayer: MavlinkSprayer) -> None:
        """Waits until a closed output is reported from now on, and OFF is sent three times more all the same."""
        now_ns = CLOCK.now_mono_ns()
        wait_for(lambda: sprayer._evidence.latest()[0] > now_ns)  # type: ignore[index] # heard before
        sent = self.offs_waiting()
        wait_for(lambda: self.offs_waiting() >= sent + 3, 10)
        assert sprayer._evidence.latest()[1] is False  # type: ignore[index]

    def close(self) -> None:
        for sprayer in self.sprayers:
            sprayer.close()
        self.link.close()


def order(number: int = 1, ms: int = 150) -> SprayOrder:
    now = CLOCK.now_mono_ns()
    return SprayOrder(number, 1, now, now + 50 * MS, ms, Place("f", 0, 0, (0, 0)), 0.1)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.01)


def result_of(sprayer: MavlinkSprayer) -> SprayResult:
    found: list[SprayResult] = []

    def ask() -> bool:
        found.extend(sprayer.results())
        return bool(found)

    wait_for(ask)
    return found[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with FakeAutopilot() as autopilot:
        made = Rig(autopilot)
        yield made
        made.close()


def test_the_autopilot_itself_times_the_pulse(rig: Rig) -> None:
    sprayer = rig.sprayer()
    sprayer.spray(order(ms=150))
    result = result_of(sprayer)
    assert result.executed
    repeats = [params for _, command, params, _ in rig.autopilot.commands if command == dialect.MAV_CMD_DO_REPEAT_RELAY]
    # relay 0, one cycle of 300 ms: half of it on
    assert repeats == [pytest.approx((0.0, 1.0, 0.3, 0, 0, 0, 0))]
    (on, _), (off, _) = rig.autopilot.relay_edges
    assert (off - on) / MS == pytest.approx(160, abs=60)


def test_a_link_that_dies_in_the_pulse_leaves_the_end_to_the_autopilot(rig: Rig) -> None:
    sprayer = rig.sprayer()
    sprayer.spray(order(ms=300))
    wait_for(lambda: rig.autopilot.relay_is_on(0))
    rig.autopilot.drop_links()
    wait_for(lambda: not rig.autopilot.relay_is_on(0))


def test_an_acknowledgement_without_an_effect_is_no_paint(rig: Rig) -> None:
    rig.autopilot.deaf_relays = 0b1
    sprayer = rig.sprayer()
    sprayer.spray(order())
    result = result_of(sprayer)
    assert not result.executed
    # nobody can say: the ledger keeps it charged
    assert result.evidence == "none"
    assert "no RELAY_STATUS" in result.detail


def test_do_sprayer_is_always_accepted_and_proves_nothing(rig: Rig) -> None:
    block = MavlinkSprayerSettings(
        method="do_sprayer", guard_connection=rig.autopilot.connection, evidence_timeout_ms=600
    )
    sprayer = rig.sprayer(block)
    sprayer.spray(order())
    result = result_of(sprayer)
    assert not result.executed
    assert result.evidence == "none"
    assert rig.autopilot.count(dialect.MAV_CMD_DO_SPRAYER) >= 3


def test_do_sprayer_is_taken_only_with_a_loud_warning(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    block = MavlinkSprayerSettings(method="do_sprayer", guard_connection=rig.autopilot.connection)
    with caplog.at_level(logging.WARNING):
        rig.sprayer(block)
    assert "FARM SPRAYER" in caplog.text


def test_a_refused_command_is_a_refused_order(rig: Rig) -> None:
    sprayer = rig.sprayer()
    rig.autopilot.answer[dialect.MAV_CMD_DO_REPEAT_RELAY] = dialect.MAV_RESULT_FAILED
    sprayer.spray(order())
    result = result_of(sprayer)
    assert not result.executed
    assert result.evidence == "refused"
    assert "answered 4" in result.detail


def test_a_refused_order_stays_charged_when_no_report_is_known_to_be_newer(rig: Rig) -> None:
    sprayer = rig.sprayer()
    wait_for(lambda: sprayer._off_wanted_ns is None)
    rig.autopilot.answers_time = False
    rig.autopilot.answer[dialect.MAV_CMD_DO_REPEAT_RELAY] = dialect.MAV_RESULT_FAILED
    sprayer.spray(order())
    result = result_of(sprayer)
    assert not result.executed
    assert result.evidence == "none"


def test_an_unconfigured_relay_never_gets_an_order(rig: Rig) -> None:
    sprayer = rig.sprayer(MavlinkSprayerSettings(relay=7), known=False)
    sprayer.spray(order())
    result = result_of(sprayer)
    assert result.evidence == "refused"
    assert "not known" in result.detail
    assert rig.autopilot.count(dialect.MAV_CMD_DO_REPEAT_RELAY) == 0


def test_a_lost_acknowledgement_is_settled_by_the_evidence(rig: Rig) -> None:
    sprayer = rig.sprayer()
    rig.autopilot.ack = False
    sprayer.spray(order(ms=400))
    result = result_of(sprayer)
    # the ACK came late or never, but RELAY_STATUS was there
    assert result.executed
    assert result.evidence == "relay_status"


def test_a_relay_that_is_on_already_would_be_toggled_the_wrong_way_round_and_is_switched_off_instead(rig: Rig) -> None:
    sprayer = rig.sprayer()
    wait_for(lambda: sprayer._off_wanted_ns is None)
    rig.autopilot.relays_on = 0b1
    wait_for(lambda: sprayer._evidence.latest()[1])  # type: ignore[index] # it was there before
    sprayer.spray(order())
    result = result_of(sprayer)
    assert result.evidence == "refused"
    assert "open without an order" in result.detail
    wait_for(lambda: not rig.autopilot.relay_is_on(0))
    assert rig.autopilot.count(dialect.MAV_CMD_DO_REPEAT_RELAY) == 0


def test_no_pulse_is_started_without_a_fresh_heartbeat(rig: Rig) -> None:
    sprayer = rig.sprayer()
    rig.autopilot.silent = True
    wait_for(lambda: (rig.link.heartbeat_age_ns() or 0) > 2100 * MS)
    sprayer.spray(order())
    result = result_of(sprayer)
    assert result.evidence == "refused"
    assert "heartbeat" in result.detail


def test_a_relay_that_stays_on_is_told_off_and_latched_as_a_fault(rig: Rig) -> None:
    sprayer = rig.sprayer()
    rig.autopilot.stuck_relays = 0b1
    sprayer.spray(order())
    result = result_of(sprayer)
    assert result.executed
    assert result.closed_at_ns is None
    assert "stuck open" in result.detail
    assert "stuck open" in (sprayer.fault or "")
    refused = sprayer.spray(order(2))
    assert refused is not None
    assert refused.evidence == "refused"
    before = rig.autopilot.count(dialect.MAV_CMD_DO_SET_RELAY)
    wait_for(lambda: rig.autopilot.count(dialect.MAV_CMD_DO_SET_RELAY) > before + 3)


def test_off_is_repeated_until_the_evidence_shows_it(rig: Rig) -> None:
    sprayer = rig.sprayer()
    wait_for(lambda: sprayer._off_wanted_ns is None)
    rig.autopilot.relays_on = 0b1
    rig.autopilot.stuck_relays = 0b1
    sprayer.off("mode change")
    time.sleep(0.5)
    assert rig.autopilot.relay_is_on(0)
    rig.autopilot.stuck_relays = 0
    wait_for(lambda: not rig.autopilot.relay_is_on(0))
    wait_for(lambda: sprayer._off_wanted_ns is None)


def unanswered_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> MavlinkSprayer:
    """A sprayer that wants OFF from an autopilot that handles nothing for now, and does not give up."""
    monkeypatch.setattr("drone_agent.marking.mavlink._OFF_ATTEMPTS", 1000)
    sprayer = rig.sprayer()
    wait_for(lambda: sprayer._off_wanted_ns is None)
    rig.autopilot.holding = True
    sprayer.off("mode change")
    return sprayer


def test_a_closed_output_reported_before_the_autopilot_met_off_proves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprayer = unanswered_off(rig, monkeypatch)
    rig.off_goes_on(sprayer)
    rig.autopilot.relays_on = 0b1
    rig.autopilot.holding = False
    wait_for(lambda: sprayer._off_wanted_ns is None)
    assert not rig.autopilot.relay_is_on(0)


def test_an_answer_to_an_earlier_off_or_to_somebody_else_proves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprayer = unanswered_off(rig, monkeypatch)
    wait_for(lambda: rig.waiting("TIMESYNC"))
    earlier = rig.waiting("TIMESYNC")[0].ts1
    sprayer.off("disarm")
    wait_for(lambda: rig.waiting("TIMESYNC")[-1].ts1 > earlier)
    mav = dialect.MAVLink(None)
    rig.autopilot.send(mav.timesync_encode(1, earlier))
    rig.autopilot.send(mav.timesync_encode(1, CLOCK.now_mono_ns()))
    # a request of the autopilot's own that happens to carry the number
    rig.autopilot.send(mav.timesync_encode(0, rig.waiting("TIMESYNC")[-1].ts1))
    rig.off_goes_on(sprayer)
    rig.autopilot.holding = False
    wait_for(lambda: sprayer._off_wanted_ns is None)


def test_off_that_nothing_proves_is_sent_eleven_times_and_is_no_fault(rig: Rig) -> None:
    rig.autopilot.answers_time = False
    sprayer = rig.sprayer()
    wait_for(lambda: sprayer._off_wanted_ns is None)
    wait_for(lambda: rig.autopilot.count(dialect.MAV_CMD_DO_SET_RELAY) == 11)
    assert sprayer.fault is None


def test_off_is_sent_at_the_start_and_at_the_end(rig: Rig) -> None:
    rig.autopilot.relays_on = 0b1
    sprayer = rig.sprayer()
    wait_for(lambda: not rig.autopilot.relay_is_on(0))
    rig.autopilot.relays_on = 0b1
    sprayer.close()
    wait_for(lambda: not rig.autopilot.relay_is_on(0))


def test_every_command_comes_from_the_companion_of_the_vehicle(rig: Rig) -> None:
    sprayer = rig.sprayer(MavlinkSprayerSettings(method="set_relay", guard_connection=rig.autopilot.connection))
    sprayer.spray(order())
    result_of(sprayer)
    assert {sender for *_, sender in rig.autopilot.commands} == {(1, 191)}
    beats = set(rig.autopilot.heartbeats)
    assert beats == {(1, 191, dialect.MAV_TYPE_ONBOARD_CONTROLLER, dialect.MAV_AUTOPILOT_INVALID)}


def test_without_a_vehicle_there_is_no_valve_at_it() -> None:
    with pytest.raises(ConfigError, match=r"marking\.sprayer"):
        build_sprayer(MarkingSettings(sprayer="mavlink"), CLOCK, None)


def test_a_pulse_timed_here_needs_the_dead_man(rig: Rig) -> None:
    block = MavlinkSprayerSettings(method="set_relay", guard_connection=rig.autopilot.connection)
    with pytest.raises(SprayerError, match="dead-man"):
        MavlinkSprayer(block, CLOCK, rig.link, None, max_open_ms=500, late_ms=20)


@pytest.mark.parametrize(("pulse", "sent"), [(5000, 2000), (0, 1000), (1800, 1800)])
def test_servo_pulses_are_clamped_here_because_the_autopilot_does_not(pulse: int, sent: int) -> None:
    spec = {
        "method": "set_servo",
        "servo": 9,
        "servo_open_us": pulse,
        "servo_closed_us": 1100,
        "servo_min_us": 1000,
        "servo_max_us": 2000,
    }
    assert switch_command(spec, is_open=True) == (dialect.MAV_CMD_DO_SET_SERVO, (9, sent))


def test_a_motor_output_shows_no_evidence(rig: Rig) -> None:
    block = MavlinkSprayerSettings(
        method="set_servo", servo=1, guard_connection=rig.autopilot.connection, evidence_timeout_ms=500
    )
    rig.autopilot.servos[0] = 1050
    sprayer = rig.sprayer(block)
    sprayer.spray(order())
    result = result_of(sprayer)
    assert (result.executed, result.evidence) == (False, "none")
    assert rig.autopilot.servos[0] == 1050


def test_the_valve_of_the_dead_man_needs_an_autopilot_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drone_agent.marking.mavlink_valve._HEARTBEAT_TIMEOUT_S", 0.5)
    with FakeAutopilot() as autopilot:
        autopilot.silent = True
        with pytest.raises(SprayerError, match="no autopilot heard"):
            MavlinkValve({"method": "set_relay", "relay": 0, "connection": autopilot.connection})


@pytest.mark.parametrize("servo", [1, 8, 9, 16])
def test_servo_evidence_is_read_from_the_right_field(servo: int) -> None:
    evidence = Evidence(MavlinkSprayerSettings(method="set_servo", servo=servo, guard_connection="tcp:h:1"))
    mav = dialect.MAVLink(None)
    pulses = [1100] * 16
    pulses[servo - 1] = 1900
    evidence.hear(10, mav.servo_output_raw_encode(0, 0, *pulses))
    assert evidence.latest() == (10, True)
    evidence.hear(20, mav.servo_output_raw_encode(0, 1, *[1100] * 16))  # another port
    assert evidence.latest() == (10, True)
    evidence.hear(30, mav.servo_output_raw_encode(0, 0, *[1100] * 16))
    assert evidence.edge_after(10, is_open=False) == 30


def test_a_relay_that_is_not_there_is_no_evidence() -> None:
    evidence = Evidence(MavlinkSprayerSettings(relay=3))
    evidence.hear(10, dialect.MAVLink(None).relay_status_encode(0, 0b1111, 0b0111))
    assert evidence.latest() is None
