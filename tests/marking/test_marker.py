from __future__ import annotations

from typing import Any

import pytest

from drone_agent.clock import ManualClock
from drone_agent.errors import FlightLogError
from drone_agent.marking.dry_run import DryRunSprayer
from drone_agent.marking.ledger import Ledger, restore
from drone_agent.marking.marker import Marker
from drone_agent.marking.settings import BudgetSettings, MarkingSettings
from drone_agent.values import Event, Place, Refusal, SprayOrder, SprayResult
from tests.marking.scene import FACE, FALL_M, MS, NOW, settings, sighting, vehicle, where


class Table:
    """A marker on a clock that the test turns, with the log it writes."""

    def __init__(self, configuration: MarkingSettings | None = None, ledger: Ledger | None = None) -> None:
        self.clock = ManualClock(NOW)
        self.log: list[Event] = []
        self.disk_is_full = False
        self.sprayer = DryRunSprayer(self.clock)
        self.marker = Marker(configuration or settings(), self.sprayer, ledger or Ledger(), self.record)

    def record(self, event: Event) -> None:
        if self.disk_is_full:
            raise FlightLogError("No space left on device")
        self.log.append(event)

    @property
    def now(self) -> int:
        return self.clock.now_mono_ns()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.log]

    def sight(self, cell: int = 106, **changes: Any) -> SprayOrder | Refusal:
        place = Place(FACE, cell * 0.05, 3.0 - FALL_M, (cell, 57))
        before = where(self.now, along_m=place.along - 0.3)
        return self.marker.consider(self.now, sighting(self.now, place=place), vehicle(self.now, **changes), before)

    def tick(self, after_ms: int = 0, **changes: Any) -> list[Any]:
        self.clock.set(self.now + after_ms * MS)
        return self.marker.tick(self.now, vehicle(self.now, **changes))


def test_an_order_is_recorded_booked_handed_over_and_settled() -> None:
    table = Table()
    order = table.sight()
    assert isinstance(order, SprayOrder)
    assert table.kinds() == ["spray_order"]
    assert table.marker.ledger.count == 1
    assert table.tick() == []
    (result,) = table.tick(1500)
    assert result.executed
    assert table.kinds() == ["spray_order", "valve_opened", "valve_closed", "spray_result"]
    opened, closed, said = table.log[1:]
    assert opened.t_mono_ns == order.open_at_ns
    assert closed.t_mono_ns - opened.t_mono_ns == 100 * MS
    assert closed.data["measured_ms"] == 100.0
    assert said.data["evidence"] == "dry_run"


def test_an_order_event_carries_the_predicted_place_and_its_uncertainty() -> None:
    table = Table()
    table.sight()
    data = table.log[0].data
    assert data["impact"]["face"] == FACE
    assert data["impact"]["along"] == pytest.approx(5.3, abs=1e-3)
    assert data["impact"]["cell"] == [106, 57]
    assert 0 < data["impact_sigma_m"] < 0.15
    assert data["open_at_ns"] > NOW
    assert data["open_ms"] == 100


def test_a_refusal_is_an_event_with_every_reason() -> None:
    table = Table()
    refusal = table.sight(armed=False, mode="RTL")
    assert isinstance(refusal, Refusal)
    assert table.kinds() == ["spray_refused"]
    assert set(table.log[0].data["reasons"]) == {"vehicle_disarmed", "mode", "returning"}
    assert len(table.log[0].data["details"]) == 3
    assert table.marker.ledger.count == 0


def test_the_valve_is_switched_off_at_the_start_and_at_the_exit() -> None:
    said: list[str] = []

    class Telling(DryRunSprayer):
        def off(self, reason: str) -> None:
            said.append(reason)
            super().off(reason)

    marker = Marker(settings(), Telling(ManualClock(NOW)), Ledger())
    assert said == ["start"]
    marker.close(NOW)
    assert said[-1] == "close"
    assert [event.kind for event in marker.drain()] == ["valve_off"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "RTL"}, "mode change"),
        ({"mode": "GUIDED"}, "mode change"),
        ({"armed": False}, "disarm"),
        ({"armed": None}, "disarm"),
        ({"rc_switch_us": 1000}, "switch_off"),
        ({"rc_switch_us": None}, "switch_off"),
        ({"failsafe": True}, "failsafe"),
        ({"heartbeat_age_ns": 2500 * MS}, "heartbeat_stale"),
        ({"heartbeat_age_ns": None}, "heartbeat_stale"),
    ],
)
@pytest.mark.parametrize("after_ms", [0, 300, 820])
def test_an_order_is_withdrawn_when_permission_goes(change: dict[str, Any], reason: str, after_ms: int) -> None:
    """Before it is handed over, while it waits at the valve, and while the valve is open."""
    table = Table()
    table.tick()
    order = table.sight()
    assert isinstance(order, SprayOrder)
    if after_ms:
        table.tick()
    (result,) = table.tick(after_ms, **change)
    off = next(event for event in table.log if event.kind == "valve_off")
    assert reason in off.data["reason"]
    if after_ms == 820:
        assert result.closed_at_ns == table.now
        assert result.closed_at_ns - result.opened_at_ns < 100 * MS
    else:
        assert (result.executed, result.evidence) == (False, "cancelled")
        # the cell may be tried again: no paint has left
        assert not table.marker.ledger.is_marked(order.impact)
    assert table.tick(2000, **change) == []


def test_a_mode_change_or_disarm_switches_off_even_without_an_order() -> None:
    table = Table()
    table.tick()
    table.tick(100, mode="LOITER")
    table.tick(100, mode="LOITER", armed=False)
    assert [event.data["reason"] for event in table.log] == ["mode change", "disarm"]


def test_a_link_that_recovers_is_greeted_with_off() -> None:
    table = Table()
    table.tick()
    table.tick(3000, heartbeat_age_ns=3000 * MS)
    assert table.log == []
    table.tick(100)
    assert [event.data["reason"] for event in table.log] == ["link recovery"]


def test_the_links_own_thread_can_interrupt() -> None:
    table = Table()
    table.sight()
    table.tick()
    table.marker.interrupt("autopilot restart")
    (result,) = table.tick(10)
    assert result.evidence == "cancelled"
    assert any(e.kind == "valve_off" and "autopilot restart" in e.data["reason"] for e in table.log)


def test_an_interrupt_that_comes_while_an_order_is_handed_over_still_stops_it() -> None:
    class Racing(DryRunSprayer):
        marker: Marker

        def spray(self, order: SprayOrder) -> SprayResult | None:
            # the link's thread gets in before the order is taken
            self.marker.interrupt("mode change")
            return super().spray(order)

    clock = ManualClock(NOW)
    sprayer = Racing(clock)
    sprayer.marker = Marker(settings(), sprayer, Ledger())
    assert isinstance(sprayer.marker.consider(NOW, sighting(), vehicle(), where()), SprayOrder)
    (result,) = sprayer.marker.tick(NOW, vehicle())
    assert result.evidence == "cancelled"


def test_an_order_that_cannot_be_recorded_never_leaves() -> None:
    table = Table()
    table.disk_is_full = True
    with pytest.raises(FlightLogError):
        table.sight()
    table.disk_is_full = False
    assert table.marker.ledger.count == 0
    assert table.tick(2000) == []
    assert table.log == []


def test_results_are_booked_even_when_the_log_is_full() -> None:
    table = Table()
    table.sight()
    table.tick()
    table.disk_is_full = True
    with pytest.raises(FlightLogError):
        table.tick(1500)
    assert table.marker.ledger.unsettled == ()
    assert table.marker.ledger.open_ns == 100 * MS


def test_close_ends_what_is_under_way_and_forgets_nothing() -> None:
    table = Table()
    table.sight(106)
    (result,) = table.marker.close(table.now)
    assert result.evidence == "cancelled"
    assert table.marker.close(table.now) == []
    refusal = table.sight(120)
    assert isinstance(refusal, Refusal)
    assert "sprayer_fault" in refusal.reasons


def test_close_while_open_closes_the_valve_and_books_the_pulse() -> None:
    table = Table()
    order = table.sight()
    assert isinstance(order, SprayOrder)
    table.tick()
    table.clock.set(order.open_at_ns + 30 * MS)
    (result,) = table.marker.close(table.now)
    assert result.closed_at_ns == table.now
    assert table.marker.ledger.count == 1


def test_a_restarted_agent_goes_on_with_the_old_account() -> None:
    table = Table()
    table.sight(106)
    table.tick()
    table.tick(1500)
    again = Table(ledger=restore(table.log, table.now))
    again.clock.set(table.now + 60_000 * MS)
    refusal = again.sight(106)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("cell_marked",)
    order = again.sight(120)
    assert isinstance(order, SprayOrder)
    assert order.order_id == 2


def test_a_sprayer_at_fault_gets_no_orders() -> None:
    table = Table()

    class Broken(DryRunSprayer):
        @property
        def fault(self) -> str | None:
            return "stuck open"

    marker = Marker(settings(), Broken(table.clock), Ledger())
    refusal = marker.consider(NOW, sighting(), vehicle(), where())
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("sprayer_fault",)
    assert refusal.details == ("stuck open",)


def test_without_a_record_the_events_are_collected() -> None:
    marker = Marker(settings(), DryRunSprayer(ManualClock(NOW)), Ledger())
    marker.consider(NOW, sighting(), vehicle(), where())
    assert [event.kind for event in marker.drain()] == ["spray_order"]
    assert marker.drain() == []


def test_two_flights_on_the_same_clock_give_the_same_log() -> None:
    logs = []
    for _ in range(2):
        table = Table(settings(budget=BudgetSettings(cooldown_ms=100)))
        for cell in (100, 106, 112, 106):
            table.sight(cell)
            table.tick(700)
        table.marker.close(table.now)
        logs.append([(event.kind, event.t_mono_ns, dict(event.data)) for event in table.log])
    assert logs[0] == logs[1]
    assert len(logs[0]) > 8


def test_what_is_lifted_is_known_to_the_log() -> None:
    lifted = settings(bench=True, interlocks={"area": False})
    assert Table(lifted).marker.relaxed == ("interlocks.area",)
