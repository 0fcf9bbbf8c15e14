from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from drone_agent.marking.events import order_event, result_events
from drone_agent.marking.ledger import Ledger, restore
from drone_agent.values import Event, Place, SprayOrder, SprayResult
from tests.marking.scene import FACE, MS, NOW

PLACE = Place(FACE, 5.3, 2.8, (106, 57))


def order(number: int = 1, open_at_ns: int = NOW, open_ms: int = 100, place: Place = PLACE) -> SprayOrder:
    return SprayOrder(number, 10 + number, open_at_ns, open_at_ns, open_ms, place, 0.05)


def sprayed(number: int = 1, opened: int = NOW, ms: float = 100) -> SprayResult:
    return SprayResult(number, True, "read_back", opened, opened + round(ms * MS))


def from_file(*events: Event) -> list[dict[str, Any]]:
    return [json.loads(json.dumps({"kind": e.kind, "t_mono_ns": e.t_mono_ns, "data": dict(e.data)})) for e in events]


def test_an_order_is_charged_before_its_result_is_known() -> None:
    ledger = Ledger()
    ledger.add(order())
    assert (ledger.count, ledger.open_ns, ledger.next_order_id) == (1, 100 * MS, 2)
    assert ledger.is_marked(PLACE)
    assert ledger.last_close_ns == NOW + 100 * MS
    assert ledger.unsettled == (1,)


def test_a_longer_opening_costs_more_and_a_shorter_one_not_less() -> None:
    for measured, charged in ((150, 150), (60, 100)):
        ledger = Ledger()
        ledger.add(order())
        ledger.settle(sprayed(ms=measured))
        assert ledger.open_ns == charged * MS
        assert ledger.unsettled == ()


def test_only_a_sprayer_that_vouches_for_no_opening_gets_the_charge_back() -> None:
    for evidence, count in (("refused", 0), ("cancelled", 0), ("none", 1), ("read_back", 1), ("", 1)):
        ledger = Ledger()
        ledger.add(order())
        ledger.settle(SprayResult(1, executed=False, evidence=evidence))
        assert ledger.count == count, evidence
        assert ledger.is_marked(PLACE) is bool(count)


def test_a_cancelled_order_that_had_opened_stays_charged() -> None:
    ledger = Ledger()
    ledger.add(order())
    ledger.settle(SprayResult(1, executed=False, evidence="cancelled", opened_at_ns=NOW))
    assert ledger.count == 1


def test_an_id_is_never_used_twice() -> None:
    ledger = Ledger()
    ledger.add(order())
    ledger.settle(SprayResult(1, executed=False, evidence="refused"))
    assert ledger.next_order_id == 2
    with pytest.raises(ValueError, match="order 1"):
        ledger.add(order())


def test_a_result_of_an_unknown_order_changes_nothing() -> None:
    ledger = Ledger()
    ledger.settle(sprayed(99))
    assert (ledger.count, ledger.last_close_ns) == (0, None)


def test_distances_to_marks_are_kept_apart_by_face() -> None:
    ledger = Ledger()
    assert ledger.nearest_mark_m(FACE, 5.0, 2.8) == math.inf
    ledger.add(order())
    assert ledger.nearest_mark_m(FACE, 5.0, 2.8) == pytest.approx(0.3)
    assert ledger.nearest_mark_m("pier-2", 5.0, 2.8) == math.inf


def test_a_restart_finds_count_time_cells_and_the_next_id() -> None:
    other = Place(FACE, 6.0, 2.8, (120, 57))
    events = from_file(
        order_event(order(1)), *result_events(sprayed(1, ms=130), NOW),
        order_event(order(2, NOW + 5000 * MS, place=other)),
        order_event(order(3, NOW + 9000 * MS)), *result_events(SprayResult(3, False, "refused"), NOW),
    )  # fmt: skip
    ledger = restore(events, NOW + 60_000 * MS)
    assert (ledger.count, ledger.open_ns, ledger.next_order_id) == (2, 230 * MS, 4)
    assert ledger.is_marked(PLACE)
    assert ledger.is_marked(other)
    assert ledger.unsettled == (2,)


def test_an_order_without_a_result_counts_as_sprayed_in_full() -> None:
    ledger = restore(from_file(order_event(order(open_ms=170))), NOW + 1000 * MS)
    assert (ledger.count, ledger.open_ns) == (1, 170 * MS)


def test_event_values_are_read_as_well_as_lines() -> None:
    assert restore([order_event(order())], NOW).count == 1


def test_the_pause_starts_anew_when_the_clock_did() -> None:
    # the machine was rebooted: the old times lie far in the future
    ledger = restore(from_file(order_event(order(open_at_ns=10**15))), now_ns=5 * MS)
    assert ledger.last_close_ns == 5 * MS


def test_the_cell_is_found_through_the_sighting_where_the_order_does_not_name_it() -> None:
    data = dict(order_event(order()).data)
    data["impact"] = {"face": FACE, "along": 5.3, "height": 2.8}
    events = [
        {"kind": "sighting", "data": {"id": 11, "face": FACE, "cell": [106, 57]}},
        {"kind": "spray_order", "data": data},
    ]
    assert restore(events, NOW).is_marked(PLACE)


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"order_id": "x", "open_ms": None, "impact": 7},
        {"order_id": 1, "open_ms": -100, "impact": {"face": FACE, "cell": [1]}},
        {"order_id": True, "open_ms": 1e9},
    ],
)
def test_a_damaged_order_still_counts(damaged: dict[str, Any]) -> None:
    ledger = restore([{"kind": "spray_order", "data": damaged}], NOW)
    assert ledger.count == 1
    assert ledger.open_ns > 0


def test_foreign_and_broken_events_are_passed_over() -> None:
    events: list[Any] = [
        {"kind": "frame", "data": {}},
        {"kind": "spray_order"},
        {},
        {"kind": "spray_result", "data": {"order_id": None}},
    ]
    assert restore(events, NOW).count == 0


@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from(("sprayed", "long", "refused", "none", None))), max_size=12)
)
def test_what_is_restored_is_what_was_kept(flight: list[tuple[int, str | None]]) -> None:
    ledger, events = Ledger(), []
    now = NOW
    for ms, outcome in flight:
        now += 10_000 * MS
        given_order = order(ledger.next_order_id, now, ms, Place(FACE, 0, 0, (ledger.next_order_id, 0)))
        ledger.add(given_order)
        events.append(order_event(given_order))
        if outcome is None:
            continue
        result = SprayResult(given_order.order_id, False, outcome)
        if outcome in {"sprayed", "long"}:
            result = sprayed(given_order.order_id, now, ms + (50 if outcome == "long" else 0))
        ledger.settle(result)
        events += result_events(result, now)
    again = restore(from_file(*events), now + 60_000 * MS)
    assert (again.count, again.open_ns) == (ledger.count, ledger.open_ns)
    assert again.next_order_id >= max((e.order_id for e in ledger.marks), default=0) + 1
    assert [e.cell for e in again.marks] == [e.cell for e in ledger.marks]
