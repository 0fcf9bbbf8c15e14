from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.clock import ManualClock
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import SightingRecord
from drone_agent.postflight.findings import find, group_by_moment, group_by_place
from drone_agent.values import Event
from tests.flightlog.flights import image_flight, new_log, wall_flight


def sighting(number: int, column: int, row: int, *, t_s: float = 0.0, log_odds: float = 4.0) -> SightingRecord:
    return SightingRecord(
        t_mono_ns=round(t_s * 1e9),
        id=number,
        face="wall",
        along=(column + 0.5) * 0.05,
        height=(row + 0.5) * 0.05,
        cell=(column, row),
        log_odds=log_odds,
    )


def test_the_three_cracks_of_the_wall_are_three_findings(tmp_path: Path) -> None:
    flight = Flight.open(wall_flight(tmp_path))
    findings = find(flight)
    assert [finding.number for finding in findings] == [1, 2, 3]
    assert sorted(s.id for finding in findings for s in finding.sightings) == list(range(1, 26))
    diagonal, upright, level = findings
    # the cracks' ends are (0.95, 2.18)-(2.05, 3.40), (5.52, 2.12)-(5.60, 2.80), (8.30, 3.05)-(9.05, 3.10)
    assert diagonal.along_range == pytest.approx((0.9, 2.05), abs=0.11)
    assert diagonal.length == pytest.approx(1.67, abs=0.2)
    assert upright.height_range == pytest.approx((2.1, 2.8), abs=0.16)
    assert level.length == pytest.approx(0.75, abs=0.25)


def test_the_strongest_sighting_comes_first(tmp_path: Path) -> None:
    for finding in find(Flight.open(wall_flight(tmp_path, frames=60, sightings=6))):
        evidence = [s.log_odds or 0.0 for s in finding.sightings]
        assert evidence == sorted(evidence, reverse=True)
        assert finding.best is finding.sightings[0]


def test_sightings_join_through_the_cells_between_them() -> None:
    ends = [sighting(1, 0, 0), sighting(2, 20, 0)]
    bridge = {(column, 0) for column in range(0, 21, 2)}
    apart = group_by_place(ends, set(), link_cells=6)
    joined = group_by_place(ends, bridge, link_cells=6)
    assert [len(members) for _, _, members in apart] == [1, 1]
    assert [len(members) for _, _, members in joined] == [2]
    assert joined[0][1] == pytest.approx(20.0)


def test_two_missing_cells_in_a_row_part_a_crack() -> None:
    ends = [sighting(1, 0, 0), sighting(2, 20, 0)]
    broken = {(column, 0) for column in range(21)} - {(10, 0), (11, 0)}
    assert len(group_by_place(ends, broken, link_cells=6)) == 2


def test_sightings_within_the_spacing_join_without_cells() -> None:
    near = [sighting(1, 0, 0), sighting(2, 5, 3)]
    far = [sighting(1, 0, 0), sighting(2, 5, 5)]
    assert len(group_by_place(near, set(), link_cells=6)) == 1
    assert len(group_by_place(far, set(), link_cells=6)) == 2


def test_evidence_without_a_sighting_is_no_finding() -> None:
    groups = group_by_place([sighting(1, 0, 0)], {(50, 50), (51, 50)}, link_cells=6)
    assert [cells for cells, _, _ in groups] == [{(0, 0)}]


def test_a_single_cell_is_one_cell_long(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    log.event(Event("face", 0, {"name": "wall", "unit": "m", "cell": 0.05}))
    log.event(Event("sighting", 0, {"id": 1, "face": "wall", "along": 1.025, "height": 2.025, "cell": [20, 40]}))
    log.close()
    (finding,) = find(Flight.open(log.folder))
    assert finding.length == pytest.approx(0.05)
    assert finding.along_range == pytest.approx((1.0, 1.05))
    assert finding.height == pytest.approx(2.025)


def test_without_telemetry_the_same_place_later_is_another_finding(tmp_path: Path) -> None:
    early, later = sighting(1, 5, 5, t_s=0.0), sighting(2, 5, 5, t_s=10.0)
    assert len(group_by_moment([early, later], spacing=300, cell=56)) == 2
    assert len(group_by_moment([early, sighting(2, 6, 5, t_s=0.5)], spacing=300, cell=56)) == 1
    assert len(find(Flight.open(image_flight(tmp_path)))) == 1


def test_a_flight_without_sightings_has_no_findings(tmp_path: Path) -> None:
    assert find(Flight.open(wall_flight(tmp_path, frames=12, sightings=0))) == []


@given(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40), st.data())
def test_every_sighting_lies_in_exactly_one_finding(cells: set[tuple[int, int]], data: st.DataObject) -> None:
    seeds = data.draw(st.lists(st.sampled_from(sorted(cells)), min_size=1, max_size=10, unique=True))
    sightings = [sighting(number, *cell) for number, cell in enumerate(seeds)]
    groups = group_by_place(sightings, cells, link_cells=6)
    assert sorted(s.id for _, _, members in groups for s in members) == list(range(len(seeds)))
    regions = [region for region, _, _ in groups]
    assert len(set().union(*regions)) == sum(map(len, regions))
    assert all(members for _, _, members in groups)
    # between regions of different findings there is more than one cell
    for index, one in enumerate(regions):
        for other in regions[index + 1 :]:
            assert min(max(abs(a[0] - b[0]), abs(a[1] - b[1])) for a in one for b in other) > 2
