"""The fault table of docs/safety.md: each fault, what the agent makes of it, end to end where more than one part is in it.

Marker, sprayer and link are the real ones; the autopilot is the one of tests/fakes, over loopback.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drone_agent.clock import SystemClock
from drone_agent.errors import FlightLogError, SprayerError
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.guard_client import GuardClient
from drone_agent.marking.guarded import GuardedSprayer
from drone_agent.marking.ledger import Ledger
from drone_agent.marking.marker import Marker
from drone_agent.marking.settings import (
    BudgetSettings,
    GpioSettings,
    GuardSettings,
    LeadSettings,
    MarkingSettings,
    MavlinkSprayerSettings,
)
from drone_agent.values import Event, Refusal, SprayOrder, VehicleState
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.settings import VehicleSettings
from tests.fakes.autopilot import FakeAutopilot
from tests.fakes.valves import LIMITS, RecordingValve, ThreadGuard
from tests.marking import scene
from tests.marking.scene import MS

CLOCK = SystemClock()
GUARD = GuardSettings(late_ms=500, heartbeat_timeout_ms=250, stall_timeout_ms=10_000, max_open_ms=500)
LONG = BudgetSettings(open_ms=450, cooldown_ms=100)


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.005)


def now() -> int:
    return CLOCK.now_mono_ns()


class InFlight:
    """A marker that has just given an order, with everything right."""

    def __init__(self, sprayer: Any, settings: MarkingSettings, state: Callable[[int], VehicleState]) -> None:
        self.events: list[Event] = []
        self.state = state
        self.sprayer = sprayer
        self.marker = Marker(settings, sprayer, Ledger(), self.events.append)

    def sight(self, cell: int = 106) -> SprayOrder | Refusal:
        t = now()
        place = replace(scene.sighting(t).place, along=cell * 0.05, cell=(cell, 57))
        # 0.25 s before the opening
        before = scene.where(t, along_m=place.along - 0.3 * (0.25 + 0.04 + 0.225 + 2 / 12))
        return self.marker.consider(t, scene.sighting(t, place=place), self.state(t), before)

    def tick(self) -> list[Any]:
        t = now()
        return self.marker.tick(t, self.state(t))

    def said(self) -> str:
        return " ".join(str(event.data.get("reason")) for event in self.events if event.kind == "valve_off")


@pytest.fixture
def valve() -> RecordingValve:
    return RecordingValve()


@pytest.fixture
def guarded(valve: RecordingValve) -> Iterator[InFlight]:
    sprayer = GuardedSprayer(GuardClient(ThreadGuard(valve), GUARD, CLOCK), "trace", paints=False)
    made = InFlight(sprayer, scene.settings(guard=GUARD, budget=LONG), scene.vehicle)
    yield made
    made.marker.close(now())


@pytest.fixture
def autopilot() -> Iterator[FakeAutopilot]:
    with FakeAutopilot() as made:
        made.armed, made.mode, made.rc7_us = True, "AUTO", 1900
        yield made


@pytest.fixture
def flown(autopilot: FakeAutopilot) -> Iterator[InFlight]:
    link = MavlinkLink(LinkSettings(connection=autopilot.connection), VehicleSettings(), CLOCK)
    settings = scene.settings(
        sprayer="mavlink",
        mavlink=MavlinkSprayerSettings(evidence_timeout_ms=1000, ack_timeout_ms=1000),
        guard=GUARD,
        budget=LONG,
        lead=LeadSettings(max_impact_sigma_m=1.0),
    )
    sprayer = build_sprayer(settings, CLOCK, link)
    made = InFlight(sprayer, settings, link.vehicle)
    link.on_change(made.marker.interrupt)

    def all_known() -> bool:
        state = made.state(now())
        known = (state.pose_age_ns, state.rc_age_ns, state.ekf_age_ns, state.range_age_ns, state.fix_type, state.geo)
        made.tick()
        return None not in known and bool(state.armed) and sprayer._evidence.latest() is not None  # type: ignore[attr-defined]

    wait_for(all_known)
    time.sleep(0.2)
    made.tick()
    made.events.clear()
    yield made
    made.marker.close(now())
    link.close()


def spray_until_open(flight: InFlight, is_open: Callable[[], bool]) -> SprayOrder:
    order: list[SprayOrder] = []

    def try_it() -> bool:
        answer = flight.sight()
        if isinstance(answer, SprayOrder):
            order.append(answer)
        return bool(order)

    # on a busy machine a reading may be old for a moment: that is a refusal, and the next look comes
    wait_for(try_it)
    flight.tick()
    wait_for(is_open)
    return order[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rc_switch_us": 1000}, "switch_off"),
        ({"mode": "RTL", "failsafe": True}, "mode change"),
        ({"armed": False}, "disarm"),
    ],
    ids=["RC switch off", "RTL by failsafe", "disarm"],
)
def test_an_open_valve_closes_when_the_state_of_the_vehicle_says_so(
    guarded: InFlight, valve: RecordingValve, change: dict[str, Any], reason: str
) -> None:
    spray_until_open(guarded, lambda: valve.is_open)
    guarded.state = lambda t: scene.vehicle(t, **change)
    guarded.tick()
    wait_for(lambda: not valve.is_open)
    (_, _), (closed, _) = valve.edges
    assert reason in guarded.said()
    assert closed - valve.edges[0][0] < 450 * MS
    refusal = guarded.sight(120)
    assert isinstance(refusal, Refusal)


def test_the_links_thread_closes_the_valve_while_the_main_thread_is_busy(
    guarded: InFlight, valve: RecordingValve
) -> None:
    spray_until_open(guarded, lambda: valve.is_open)
    thread = threading.Thread(target=guarded.marker.interrupt, args=("mode change",))
    thread.start()
    # the main thread does not tick: it is in a long inference
    wait_for(lambda: not valve.is_open)
    thread.join()
    assert valve.edges[1][0] - valve.edges[0][0] < 450 * MS


def test_rtl_by_failsafe_switches_the_autopilots_relay_off(flown: InFlight, autopilot: FakeAutopilot) -> None:
    spray_until_open(flown, lambda: autopilot.relay_is_on(0))
    autopilot.mode, autopilot.status = "RTL", 5
    wait_for(lambda: not autopilot.relay_is_on(0))
    wait_for(lambda: flown.tick() or "mode change" in flown.said())
    refusal = flown.sight(120)
    assert isinstance(refusal, Refusal)
    assert {"mode", "returning", "failsafe"} <= set(refusal.reasons)


def test_a_lost_link_leaves_the_end_to_the_autopilot_and_its_return_is_greeted_with_off(
    flown: InFlight, autopilot: FakeAutopilot
) -> None:
    spray_until_open(flown, lambda: autopilot.relay_is_on(0))
    autopilot.drop_links()
    wait_for(lambda: not autopilot.relay_is_on(0))  # the pulse was the autopilot's own
    # somebody else switches the relay on while nobody listens: outputs hold their value
    autopilot.relays_on = 0b1
    wait_for(lambda: not autopilot.relay_is_on(0))
    wait_for(lambda: flown.tick() or "link recovery" in flown.said())


def test_without_a_link_no_order_leaves(flown: InFlight, autopilot: FakeAutopilot) -> None:
    autopilot.silent = True
    wait_for(lambda: "heartbeat_stale" in getattr(flown.sight(), "reasons", ()))
    refusal = flown.sight(120)
    assert isinstance(refusal, Refusal)
    assert {"heartbeat_stale", "pose_stale", "range_stale"} <= set(refusal.reasons)


def test_a_restarted_autopilot_is_asked_anew_and_switched_off(flown: InFlight, autopilot: FakeAutopilot) -> None:
    autopilot.reboot()
    autopilot.relays_on = 0b1  # a relay whose default is on
    wait_for(lambda: not autopilot.relay_is_on(0))
    wait_for(lambda: flown.tick() or "autopilot restart" in flown.said())
    wait_for(lambda: flown.state(now()).pose_age_ns is not None)


def test_a_stepped_clock_of_the_day_changes_nothing(
    guarded: InFlight, valve: RecordingValve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of the marking asks for the time of day: a step in the pulse, either way, is not seen."""
    real = time.time
    spray_until_open(guarded, lambda: valve.is_open)
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    monkeypatch.setattr(time, "time_ns", lambda: -(10**18))
    wait_for(lambda: not valve.is_open)
    (opened, _), (closed, _) = valve.edges
    assert (closed - opened) / MS == pytest.approx(450, abs=250)


def test_no_file_of_the_marking_asks_for_the_time_of_day() -> None:
    folder = Path(__file__).parents[2] / "drone_agent" / "marking"
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "time.time(" not in text, path
        assert "datetime" not in text, path
        assert "CLOCK_REALTIME" not in text, path


def test_a_full_disk_stops_orders_and_closes_nothing_late(valve: RecordingValve) -> None:
    sprayer = GuardedSprayer(GuardClient(ThreadGuard(valve), GUARD, CLOCK), "trace", paints=False)
    full = {"yes": False}

    def record(_: Event) -> None:
        if full["yes"]:
            raise FlightLogError("No space left on device")

    flight = InFlight(sprayer, scene.settings(guard=GUARD, budget=LONG), scene.vehicle)
    flight.marker = Marker(scene.settings(guard=GUARD, budget=LONG), sprayer, Ledger(), record)
    spray_until_open(flight, lambda: valve.is_open)
    full["yes"] = True
    wait_for(lambda: not valve.is_open)  # the dead-man needs no disk
    with pytest.raises(FlightLogError):
        flight.sight(120)
    assert len(valve.edges) == 2
    full["yes"] = False
    flight.marker.close(now())
    assert len(valve.edges) == 2


def test_a_missing_pin_factory_ends_the_start_with_its_name() -> None:
    settings = MarkingSettings(sprayer="gpio", gpio=GpioSettings(pin_factory="pigpio"))
    with pytest.raises(SprayerError, match=r"marking\.gpio\.pin_factory: pigpio cannot be used on this machine"):
        build_sprayer(settings, CLOCK)


def test_a_valve_that_reads_stuck_open_ends_the_marking_for_this_flight(
    guarded: InFlight, valve: RecordingValve
) -> None:
    spray_until_open(guarded, lambda: valve.is_open)
    valve.stuck_open = True
    wait_for(guarded.tick)
    wait_for(lambda: guarded.sprayer.fault is not None)
    refusal = guarded.sight(120)
    assert isinstance(refusal, Refusal)
    assert "sprayer_fault" in refusal.reasons
    writes = valve.writes
    wait_for(lambda: valve.writes > writes + 5)  # it is told again and again
    valve.stuck_open = False


def test_a_dead_man_that_ends_takes_no_orders_and_keeps_the_open_one_charged(
    guarded: InFlight, valve: RecordingValve
) -> None:
    order = spray_until_open(guarded, lambda: valve.is_open)
    guarded.sprayer._guard._handle.kill()
    wait_for(lambda: not valve.is_open)
    results: list[Any] = []

    def settled() -> bool:
        results.extend(guarded.tick())
        return bool(results)

    wait_for(settled)
    assert guarded.marker.ledger.count == 1
    assert guarded.marker.ledger.is_marked(order.impact)
    wait_for(lambda: guarded.sprayer.fault is not None)
    refusal = guarded.sight(120)
    assert isinstance(refusal, Refusal)
    assert "sprayer_fault" in refusal.reasons


def test_a_broken_pipe_message_closes_the_valve_and_ends_the_dead_man(guarded: InFlight, valve: RecordingValve) -> None:
    spray_until_open(guarded, lambda: valve.is_open)
    os.write(guarded.sprayer._guard._handle.commands_fd, b"order please, as long as you like\n")
    wait_for(lambda: not valve.is_open)
    wait_for(lambda: guarded.sprayer.fault is not None)
    assert valve.edges[1][0] - valve.edges[0][0] < 450 * MS


def test_a_main_loop_that_stalls_stops_the_heartbeat(valve: RecordingValve) -> None:
    stall = GUARD.model_copy(update={"stall_timeout_ms": 100})
    limits = replace(LIMITS, max_open_ms=5000)
    client = GuardClient(ThreadGuard(valve, limits), stall, CLOCK)
    client.touch()
    client.order(SprayOrder(1, 1, now(), now() + 10 * MS, 5000, scene.sighting().place, 0.1))
    # the main loop does not come round again
    wait_for(lambda: len(valve.edges) >= 2)
    assert [level for _, level in valve.edges[:2]] == [True, False]
    assert valve.edges[1][0] - valve.edges[0][0] < 2000 * MS
    results: list[Any] = []

    def reported() -> bool:
        results.extend(client.take_results())
        return bool(results)

    wait_for(reported)
    assert results[0].detail == "heartbeat lost"
    client.close()


def test_a_dead_man_that_cannot_start_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    settings = MarkingSettings.model_validate({"sprayer": "trace", "trace": {"path": str(tmp_path / "no" / "folder")}})
    with pytest.raises(SprayerError, match=r"marking\.trace\.path"):
        build_sprayer(settings, CLOCK)
