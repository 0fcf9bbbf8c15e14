"""Gate, ledger and vehicle under a hundred thousand random steps, against a model that knows nothing of their code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from drone_agent.marking.events import order_event, result_events
from drone_agent.marking.gate import decide
from drone_agent.marking.ledger import Ledger, restore
from drone_agent.marking.settings import BudgetSettings, GuardSettings, MarkingSettings
from drone_agent.values import Place, Refusal, SprayOrder, SprayResult
from tests.marking import scene
from tests.marking.scene import FACE, FALL_M, MS, NOW

COOLDOWN_MS, OPEN_MS, MAX_OPEN_MS, MAX_SPRAYS, MAX_TOTAL_MS = 500, 100, 200, 5, 700

SETTINGS = scene.settings(
    budget=BudgetSettings(
        open_ms=OPEN_MS, cooldown_ms=COOLDOWN_MS, max_sprays=MAX_SPRAYS, max_total_open_ms=MAX_TOTAL_MS
    ),
    guard=GuardSettings(max_open_ms=MAX_OPEN_MS),
)
DISARMED = SETTINGS.model_copy(update={"armed": False})

WANTED_STEPS = 50_000


@dataclass(frozen=True)
class Fault:
    """What is broken, and the reason that must be given for it."""

    reason: str
    vehicle: Mapping[str, Any] = field(default_factory=dict)
    sighting: Mapping[str, Any] = field(default_factory=dict)
    where: Callable[[Any], Any] | None = None
    settings: MarkingSettings = SETTINGS
    fault: str | None = None


FAULTS = (
    Fault("not_armed", settings=DISARMED),
    Fault("switch_off", {"rc_switch_us": 1200}),
    Fault("switch_off", {"rc_switch_us": None}),
    Fault("switch_stale", {"rc_age_ns": 5000 * MS}),
    Fault("vehicle_disarmed", {"armed": False}),
    Fault("vehicle_disarmed", {"armed": None}),
    Fault("mode", {"mode": "STABILIZE"}),
    Fault("returning", {"mode": "RTL"}),
    Fault("returning", {"mode": "LAND"}),
    Fault("failsafe", {"failsafe": True}),
    Fault("heartbeat_stale", {"heartbeat_age_ns": 2100 * MS}),
    Fault("pose_stale", {"pose_age_ns": None}),
    Fault("ekf_stale", {"ekf_age_ns": 1600 * MS}),
    Fault("ekf_bad", {"ekf_flags": 0x33F | 0x80}),
    Fault("position_bad", {"fix_type": 1}),
    Fault("position_bad", {"h_acc_m": 9.0}),
    Fault("range_stale", {"range_age_ns": 400 * MS}),
    Fault("range_window", {"range_m": 4.0}),
    Fault("incidence", sighting={"incidence": 1.0}),
    Fault("ground_speed", {"ground_speed_m_s": math.nan}),
    Fault("height", {"height_m": 0.2}),
    Fault("evidence", sighting={"log_odds": 1.0}),
    Fault("no_place", where=lambda _: None),
    Fault("unreachable", where=lambda w: replace(w, height_m=w.height_m + 1.0)),
    Fault("late", where=lambda w: replace(w, along_m=w.along_m + 0.8)),
    Fault("uncertain", sighting={"sigma_m": 3.0}),
    Fault("sprayer_fault", fault="stuck open"),
)  # fmt: skip


class Flight(RuleBasedStateMachine):
    steps = 0
    orders = 0

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.ledger = Ledger()
        self.broken: set[int] = set()
        self.log: list[dict[str, Any]] = []
        self.pending: list[SprayOrder] = []
        # the model: (opens, closes, charge) of every pulse that may have been, and the cells that may hold paint
        self.pulses: dict[int, tuple[int, int, int]] = {}
        self.cells: dict[int, int] = {}
        self.unsettled: set[int] = set()

    def keep(self, *events: Any) -> None:
        # as it comes back from a file
        for event in events:
            self.log.append(json.loads(json.dumps({"kind": event.kind, "data": dict(event.data)})))

    @rule(ms=st.sampled_from((1, 40, 150, 300, 499, 500, 501, 900)))
    def time_passes(self, ms: int) -> None:
        self.now += ms * MS

    @rule(which=st.integers(0, len(FAULTS) - 1))
    def something_breaks(self, which: int) -> None:
        if len(self.broken) < 3:
            self.broken.add(which)

    @rule()
    def everything_is_repaired(self) -> None:
        self.broken.clear()

    @rule(cell=st.integers(0, 19), ahead_mm=st.integers(120, 600))
    def a_crack_is_sighted(self, cell: int, ahead_mm: int) -> None:
        self.sight(cell, ahead_mm)

    @rule(cell=st.integers(0, 19))
    def a_crack_is_sighted_with_all_in_order(self, cell: int) -> None:
        self.broken.clear()
        self.sight(cell, 200)

    def sight(self, cell: int, ahead_mm: int) -> None:
        faults = [FAULTS[which] for which in sorted(self.broken)]
        vehicle, seen = scene.vehicle(self.now), scene.sighting(self.now)
        along = cell * 0.05
        place = Place(FACE, along, 3.0 - FALL_M, (cell, 57))
        before = scene.where(self.now, along_m=along - ahead_mm / 1000)
        settings, trouble = SETTINGS, None
        changes: dict[str, Any] = {}
        seen_changes: dict[str, Any] = {}
        for fault in faults:
            # two faults may concern the same value: the first one stands
            changes = {**fault.vehicle, **changes}
            seen_changes = {**fault.sighting, **seen_changes}
            if fault.where is not None and before is not None:
                before = fault.where(before)
            settings = DISARMED if fault.settings is DISARMED else settings
            trouble = trouble or fault.fault
        vehicle, seen = replace(vehicle, **changes), replace(seen, place=place, **seen_changes)
        decision = decide(self.now, seen, vehicle, self.ledger, settings, before, trouble)
        if faults:
            assert isinstance(decision, Refusal), faults
            standing = {f.reason for f in faults if all(changes[key] is value for key, value in f.vehicle.items())}
            if len(faults) == 1:
                assert standing <= set(decision.reasons)
            return
        self.check_against_the_model(decision, cell)

    def check_against_the_model(self, decision: SprayOrder | Refusal, cell: int) -> None:
        spent_ns = sum(charge for _, _, charge in self.pulses.values())
        expected = set()
        if cell in self.cells.values():
            expected.add("cell_marked")
        if len(self.pulses) >= MAX_SPRAYS:
            expected.add("count_used_up")
        # an order without a result may still last as long as the dead-man allows
        worst_ns = spent_ns + sum(MAX_OPEN_MS * MS - self.pulses[number][2] for number in self.unsettled)
        if worst_ns + MAX_OPEN_MS * MS > MAX_TOTAL_MS * MS:
            expected.add("open_time_used_up")
        if isinstance(decision, Refusal):
            assert set(decision.reasons) <= expected | {"cooldown"}
            assert expected <= set(decision.reasons)
            return
        assert not expected
        Flight.orders += 1
        closes = decision.open_at_ns + decision.open_ms * MS
        for opened, closed, _ in self.pulses.values():
            assert decision.open_at_ns >= closed + COOLDOWN_MS * MS or closes + COOLDOWN_MS * MS <= opened
        assert decision.open_at_ns >= self.now
        assert decision.order_id > max(self.pulses, default=0)
        self.ledger.add(decision)
        self.keep(order_event(decision))
        self.pending.append(decision)
        self.pulses[decision.order_id] = (decision.open_at_ns, closes, decision.open_ms * MS)
        self.cells[decision.order_id] = cell
        self.unsettled.add(decision.order_id)

    @rule(cell=st.integers(0, 19), what=st.sampled_from(("sprayed", "longer", "never")))
    def a_crack_is_sprayed(self, cell: int, what: str) -> None:
        self.now += 2 * (COOLDOWN_MS + MAX_OPEN_MS) * MS
        self.broken.clear()
        self.sight(cell, 200)
        if self.pending:
            self.settle(what)

    @precondition(lambda self: self.pending)
    @rule(what=st.sampled_from(("sprayed", "longer", "cancelled", "refused", "unknown", "never")))
    def a_result_comes(self, what: str) -> None:
        self.settle(what)

    def settle(self, what: str) -> None:
        order = self.pending.pop(0)
        if what == "never":
            return
        self.unsettled.discard(order.order_id)
        opened, closed = order.open_at_ns, order.open_at_ns + OPEN_MS * MS
        if what in {"cancelled", "refused"}:
            result = SprayResult(order.order_id, executed=False, evidence=what)
            self.pulses.pop(order.order_id)
            self.cells.pop(order.order_id)
        elif what == "unknown":
            result = SprayResult(order.order_id, executed=False, evidence="none")
        else:
            closed += (MAX_OPEN_MS - OPEN_MS) * MS if what == "longer" else 0
            result = SprayResult(order.order_id, True, "read_back", opened, closed)
            self.pulses[order.order_id] = (opened, closed, closed - opened)
        self.ledger.settle(result)
        self.keep(*result_events(result, self.now))

    @rule()
    def the_agent_restarts(self) -> None:
        self.ledger = restore(self.log, self.now)
        self.pending.clear()
        # what was still to come died with the old process; the account keeps it, the pause runs from now at the latest
        self.pulses = {
            number: (min(opened, self.now), min(closed, self.now), charge)
            for number, (opened, closed, charge) in self.pulses.items()
        }

    @invariant()
    def the_budget_holds(self) -> None:
        Flight.steps += 1
        spent_ns = sum(charge for _, _, charge in self.pulses.values())
        assert spent_ns <= MAX_TOTAL_MS * MS
        assert self.ledger.open_ns == spent_ns
        assert self.ledger.count == len(self.pulses) <= MAX_SPRAYS
        cells = list(self.cells.values())
        assert len(cells) == len(set(cells))


def test_no_order_leaves_while_any_interlock_fails_and_every_budget_holds() -> None:
    Flight.steps = Flight.orders = 0
    run_state_machine_as_test(
        Flight,
        settings=hypothesis_settings(
            max_examples=930,
            stateful_step_count=60,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Flight.steps >= WANTED_STEPS
    # the machine must really have sprayed, or it would prove nothing
    assert Flight.orders > 1000
