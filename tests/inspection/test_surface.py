from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.inspection.surface import CellGrid

indices = st.integers(-2_000_000, 2_000_000)


@given(st.lists(st.tuples(indices, indices), min_size=1, max_size=60, unique=True))
def test_every_cell_has_one_slot_of_its_own_and_keeps_it(cells: list[tuple[int, int]]) -> None:
    grid = CellGrid(0.05)
    columns, rows = np.array(cells).T
    slots = grid.slots(columns, rows)
    assert len(set(slots.tolist())) == len(cells)
    back_c, back_r = grid.cells_at(slots)
    assert back_c.tolist() == columns.tolist()
    assert back_r.tolist() == rows.tolist()
    assert grid.slots(columns, rows).tolist() == slots.tolist()
    assert [grid.find(*cell) for cell in cells] == slots.tolist()


def test_what_is_held_survives_growth() -> None:
    grid = CellGrid(0.05, -1.0)
    first = grid.slots(np.array([0]), np.array([0]))
    grid.log_odds[first] = 5.0
    for block in range(1, 40):
        grid.slots(np.array([block * 32]), np.array([0]))
    assert grid.log_odds[first] == 5.0
    assert grid.log_odds[grid.slots(np.array([39 * 32]), np.array([0]))] == -1.0


def test_one_wild_position_costs_one_block() -> None:
    grid = CellGrid(0.05)
    grid.slots(np.array([0, 200_000_000]), np.array([0, -200_000_000]))
    assert len(grid.good) <= 8 * 1024


def test_a_cell_never_seen_has_no_slot() -> None:
    assert CellGrid(0.05).find(3, 3) is None


def test_no_cells_have_no_slots() -> None:
    empty = np.zeros(0, np.int64)
    assert len(CellGrid(0.05).slots(empty, empty)) == 0


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_a_place_lies_within_half_a_cell_of_its_centre(along: float, height: float) -> None:
    grid = CellGrid(0.05)
    centre = grid.centre(*grid.index_of(along, height))
    assert abs(centre[0] - along) <= 0.0251
    assert abs(centre[1] - height) <= 0.0251


def test_changes_are_handed_out_once() -> None:
    grid = CellGrid(0.05)
    slots = grid.slots(np.array([1, 2]), np.array([1, 1]))
    grid.dirty[slots] = True
    assert sorted(grid.take_dirty().tolist()) == sorted(slots.tolist())
    assert len(grid.take_dirty()) == 0


def test_a_cell_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        CellGrid(0.0)
