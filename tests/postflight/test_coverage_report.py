from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.clock import ManualClock
from drone_agent.flightlog.reader import Flight
from drone_agent.postflight.coverage_report import FaceCoverage, face_coverage, find_gaps, outline, runs
from drone_agent.values import Event
from tests.flightlog.flights import new_log, wall_flight

CELLS = st.sets(st.tuples(st.integers(-8, 8), st.integers(-8, 8)), max_size=60)


def coverage_of(tmp_path: Path, cells: list[list[int]], **face: object) -> FaceCoverage:
    log = new_log(tmp_path, clock=ManualClock(), config={"inspection": {"min_looks": 2}})
    log.event(Event("face", 0, {"name": "wall", "unit": "m", "cell": 0.1, **face}))
    log.event(Event("coverage", 0, {"face": "wall", "cells": cells}))
    log.close()
    return face_coverage(Flight.open(log.folder), "wall")


def test_every_cell_has_one_class_and_areas_are_square_metres(tmp_path: Path) -> None:
    cells = [[0, 0, 5, 0, -2], [1, 0, 2, 9, -2], [2, 0, 1, 0, -1], [0, 1, 0, 4, -1], [2, 1, 3, 0, -1]]
    coverage = coverage_of(tmp_path, cells)
    assert coverage.looks_wanted == 2
    assert coverage.well_area == pytest.approx(0.03)
    assert coverage.poor_area == pytest.approx(0.01)
    assert coverage.unknown_area == pytest.approx(0.01)
    assert coverage.gaps == {(1, 1)}
    assert coverage.gap_area == pytest.approx(0.01)
    assert coverage.seen_area == pytest.approx(0.04)
    assert coverage.extent == pytest.approx((0.0, 0.3, 0.0, 0.2))


def test_only_unusable_pictures_are_never_counted_as_seen(tmp_path: Path) -> None:
    coverage = coverage_of(tmp_path, [[c, r, 0, 3, -1] for c in range(4) for r in range(4)])
    assert coverage.seen_area == 0.0
    assert coverage.unknown_area == pytest.approx(0.16)


def test_where_the_ends_are_known_everything_not_in_view_is_a_gap(tmp_path: Path) -> None:
    coverage = coverage_of(tmp_path, [[0, 0, 2, 0, -1]], length=1.0, height=0.5)
    assert coverage.gap_area == pytest.approx(0.49)


def test_a_face_that_never_came_into_view_is_one_gap(tmp_path: Path) -> None:
    coverage = coverage_of(tmp_path, [], length=1.0, height=0.5)
    assert coverage.seen_area == 0.0
    assert coverage.gap_area == pytest.approx(0.5)
    assert coverage_of(tmp_path, []).extent is None


def test_a_stray_place_far_away_does_not_take_the_machines_memory(tmp_path: Path) -> None:
    coverage = coverage_of(tmp_path, [[0, 0, 1, 0, -1], [3_000_000, 2_000_000, 1, 0, -1]])
    assert not coverage.gaps_known
    assert coverage.gaps == frozenset()


def test_the_hole_that_a_blind_stretch_leaves_is_found(tmp_path: Path) -> None:
    coverage = face_coverage(Flight.open(wall_flight(tmp_path)), "wall")
    # third pass: no pose around along 5.5, near the upper edge; first pass: blurred around 4.2 at the lower edge
    assert (110, 70) in coverage.gaps
    assert (83, 41) in coverage.unknown
    assert coverage.seen[40, 55] > 2
    assert coverage.extent is not None
    hull = (coverage.extent[1] - coverage.extent[0]) * (coverage.extent[3] - coverage.extent[2])
    total = coverage.seen_area + coverage.unknown_area + coverage.gap_area
    assert 0.95 * hull < total <= hull + 1e-9


@given(CELLS)
def test_gaps_never_overlap_with_what_was_in_view(cells: set[tuple[int, int]]) -> None:
    gaps, known = find_gaps(sorted(cells))
    assert known
    assert not gaps & cells
    if cells:
        columns, rows = zip(*cells, strict=True)
        assert all(min(columns) <= c <= max(columns) and min(rows) <= r <= max(rows) for c, r in gaps)
        hull = cv2.convexHull(np.array(sorted(cells), np.float32))
        columns_, rows_ = range(min(columns), max(columns) + 1), range(min(rows), max(rows) + 1)
        inner = {(c, r) for c in columns_ for r in rows_ if cv2.pointPolygonTest(hull, (c, r), True) > 1e-3}
        assert inner <= cells | gaps
        assert all(cv2.pointPolygonTest(hull, (c, r), True) > -1.0 for c, r in gaps)


@given(CELLS)
def test_runs_cover_exactly_the_cells_once(cells: set[tuple[int, int]]) -> None:
    covered = [(c + dc, r + dr) for c, r, n, m in runs(frozenset(cells)) for dc in range(n) for dr in range(m)]
    assert sorted(covered) == sorted(cells)


@given(CELLS)
def test_the_outline_has_the_length_of_the_edge(cells: set[tuple[int, int]]) -> None:
    segments = outline(frozenset(cells))
    length = sum(abs(x1 - x0) + abs(y1 - y0) for x0, y0, x1, y1 in segments)
    sides = sum((c + dc, r + dr) not in cells for c, r in cells for dc, dr in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    assert length == sides


def test_equal_rows_become_one_rectangle() -> None:
    assert runs([(c, r) for c in range(10) for r in range(5)]) == [(0, 0, 10, 5)]
