from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.inspection.evidence import FrameEvidence, add_looks, add_picture, frame_evidence
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.inspection.surface import CellGrid, Ints
from drone_agent.values import Tile, TileScore, Verdict
from tests.inspection.scenes import score

CELLS = 6
Looks = list[tuple[float, list[float | None]]]

says = st.one_of(st.none(), st.floats(-20, 20))
looks = st.lists(st.tuples(st.floats(0, 5), st.lists(says, min_size=CELLS, max_size=CELLS)), min_size=1, max_size=25)


def evidence_of(values: list[float | None], limit: float) -> FrameEvidence:
    good = np.array([value is not None for value in values])
    log_odds = np.clip(np.array([0.0 if value is None else value for value in values]), -limit, limit)
    return FrameEvidence(log_odds, (log_odds > 0) * 0.9, np.zeros(len(values), np.int64), good, ~good)


def feed(course: Looks, chosen: InspectionSettings) -> tuple[CellGrid, list[int], Ints]:
    grid = CellGrid(0.05, chosen.prior_log_odds)
    slots = grid.slots(np.arange(CELLS), np.zeros(CELLS, np.int64))
    confirmed: list[int] = []
    for along, values in course:
        confirmed += add_looks(grid, slots, evidence_of(values, chosen.look_limit), (along, 0.0, 2.0), chosen).tolist()
    return grid, confirmed, slots


@given(looks)
def test_belief_stays_within_its_bounds_and_no_cell_is_confirmed_twice(course: Looks) -> None:
    chosen = InspectionSettings()
    grid, confirmed, slots = feed(course, chosen)
    assert (np.abs(grid.log_odds[slots]) <= chosen.belief_limit + 1e-5).all()
    assert len(confirmed) == len(set(confirmed))
    assert (grid.good[slots] + grid.unknown[slots] == len(course)).all()


@given(looks)
def test_unknown_looks_never_confirm_and_never_move_belief(course: Looks) -> None:
    chosen = InspectionSettings(confirm_log_odds=0.1, min_looks=1)
    grid, confirmed, slots = feed([(along, [None] * CELLS) for along, _ in course], chosen)
    assert confirmed == []
    assert grid.log_odds[slots] == pytest.approx(chosen.prior_log_odds)


@given(looks, st.integers(0, CELLS - 1), st.floats(0.01, 20), st.floats(0, 5))
def test_one_more_positive_look_never_lowers_belief(course: Looks, cell: int, value: float, along: float) -> None:
    chosen = InspectionSettings()
    before, _, slots = feed(course, chosen)
    more: list[float | None] = [None] * CELLS
    more[cell] = value
    after, _, _ = feed([*course, (along, more)], chosen)
    assert after.log_odds[slots[cell]] >= before.log_odds[slots[cell]] - 1e-6


@given(st.permutations(list(range(8))), st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_looks_from_far_apart_add_up_in_any_order(order: list[int], values: list[float]) -> None:
    # Within the clamp, and with every baseline a full one.
    chosen = InspectionSettings(belief_limit=50.0)
    course: Looks = [(float(i), [values[i]] * CELLS) for i in range(8)]
    one, _, slots = feed(course, chosen)
    other, _, _ = feed([course[i] for i in order], chosen)
    assert one.log_odds[slots] == pytest.approx(other.log_odds[slots], abs=1e-4)


@given(looks)
def test_no_cell_is_confirmed_without_looks_from_enough_places(course: Looks) -> None:
    chosen = InspectionSettings(min_looks=3, confirm_log_odds=0.1, prior_log_odds=0.0)
    _, confirmed, slots = feed(course, chosen)
    for slot in confirmed:
        cell = slots.tolist().index(slot)
        places = [along for along, values in course if (values[cell] or 0.0) > 0]
        apart = {round(along / (chosen.min_baseline * 2.0) / 2) for along in places}
        assert len(places) >= 3
        assert len(apart) >= 2


def test_a_look_from_nearly_the_same_place_adds_nothing_a_near_one_a_part_a_far_one_all() -> None:
    chosen = InspectionSettings(prior_log_odds=0.0, min_baseline=0.02, full_baseline=0.10)
    gains = []
    for step in (0.0, 0.03, 0.10, 0.20, 1.0):
        grid, _, slots = feed([(0.0, [1.0] * CELLS), (step, [1.0] * CELLS)], chosen)
        gains.append(float(grid.log_odds[slots[0]]) - 1.0)
    assert gains == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-5)


def test_a_single_look_counts_no_more_than_its_limit() -> None:
    chosen = InspectionSettings(prior_log_odds=0.0, look_limit=2.0)
    tile = Tile(0, 0, 224)
    spread = frame_evidence(np.array([[112.0, 112.0]]), 50.0, [score(tile, 40.0, (0.5, 0.5))], chosen)
    assert spread.log_odds[0] == pytest.approx(2.0)


def test_a_positive_tile_speaks_only_where_the_model_points() -> None:
    tile = Tile(0, 0, 224)
    centres = np.array([[60.0, 60.0], [180.0, 180.0]])
    spread = frame_evidence(centres, 50.0, [score(tile, 3.0, (60 / 224, 60 / 224))], InspectionSettings())
    assert spread.log_odds[0] == pytest.approx(2.5)
    assert spread.log_odds[1] == pytest.approx(0.0)
    assert spread.tile.tolist() == [0, -1]
    assert spread.good.tolist() == [True, True]


def test_a_negative_tile_speaks_against_every_cell_it_covers() -> None:
    spread = frame_evidence(
        np.array([[10.0, 10.0], [112.0, 112.0], [300.0, 10.0]]),
        50.0,
        [score(Tile(0, 0, 224), -1.5)],
        InspectionSettings(),
    )
    assert spread.log_odds == pytest.approx([-1.5, -1.5, 0.0])
    assert spread.good.tolist() == [True, True, False]
    assert spread.unknown.tolist() == [False, False, False]


def test_evidence_is_counted_from_the_threshold_of_the_model() -> None:
    # Below even odds, and called cracked all the same by a threshold that puts recall first; and the other way round.
    found = dataclasses.replace(score(Tile(0, 0, 224), -0.4, (0.5, 0.5)), verdict=Verdict.CRACK, threshold_logit=-1.4)
    passed = dataclasses.replace(score(Tile(300, 0, 224), 0.4), verdict=Verdict.CLEAR, threshold_logit=1.9)
    spread = frame_evidence(np.array([[112.0, 112.0], [412.0, 112.0]]), 50.0, [found, passed], InspectionSettings())
    assert spread.log_odds == pytest.approx([1.0, -1.5])
    assert spread.tile.tolist() == [0, -1]
    assert spread.p_crack[0] == pytest.approx(1 / (1 + np.exp(0.4)))


def test_where_tiles_overlap_the_one_that_sees_the_place_in_its_middle_weighs_more() -> None:
    # At x = 205 the cell lies at the rim of the first and in the middle of the second tile.
    scores = [score(Tile(0, 0, 224), 2.0, (0.95, 0.5)), score(Tile(100, 0, 224), -2.0)]
    spread = frame_evidence(np.array([[212.0, 112.0]]), 50.0, scores, InspectionSettings())
    assert -2.0 < spread.log_odds[0] < -0.5


def test_a_cell_under_a_good_and_an_unknown_tile_counts_as_good() -> None:
    scores = [score(Tile(0, 0, 224), -2.0), score(Tile(100, 0, 224), None)]
    spread = frame_evidence(np.array([[150.0, 112.0], [300.0, 112.0]]), 50.0, scores, InspectionSettings())
    assert spread.good.tolist() == [True, False]
    assert spread.unknown.tolist() == [False, True]


def test_a_model_without_a_map_points_with_its_peak_or_not_at_all() -> None:
    centres = np.array([[60.0, 60.0], [180.0, 180.0]])
    tile = Tile(0, 0, 224)
    peaked = TileScore(tile, Verdict.CRACK, 2.0, 0.88, None, 60.0, 60.0)
    spread = frame_evidence(centres, 50.0, [peaked], InspectionSettings())
    assert spread.log_odds[0] == pytest.approx(2.0)
    assert spread.log_odds[1] < 0.1
    blind = frame_evidence(centres, 50.0, [TileScore(tile, Verdict.CRACK, 2.0, 0.88)], InspectionSettings())
    assert blind.log_odds == pytest.approx([2.0, 2.0])


@given(
    st.lists(st.lists(st.floats(-50, 50, width=32), min_size=9, max_size=9), min_size=1, max_size=3),
    st.floats(0.01, 30),
    st.floats(1, 400),
)
def test_whatever_the_map_holds_evidence_stays_between_nothing_and_the_tiles(
    maps: list[list[float]], logit: float, cell_px: float
) -> None:
    scores = [
        TileScore(Tile(0, 0, 224), Verdict.CRACK, logit, 0.9, cells=np.array(cells, np.float32).reshape(3, 3))
        for cells in maps
    ]
    centres = np.random.default_rng(0).uniform(0, 224, (20, 2))
    spread = frame_evidence(centres, cell_px, scores, InspectionSettings())
    assert (spread.log_odds >= -1e-9).all()
    assert (spread.log_odds <= min(logit, 2.5) + 1e-6).all()


def test_cells_out_of_view_are_neither_good_nor_unknown() -> None:
    spread = frame_evidence(np.full((3, 2), np.nan), 50.0, [score(Tile(0, 0, 224), 3.0)], InspectionSettings())
    assert not spread.good.any()
    assert not spread.unknown.any()


def test_a_picture_forgets_and_may_confirm_again() -> None:
    chosen = InspectionSettings()
    grid = CellGrid(56, chosen.prior_log_odds)
    slots = grid.slots(np.zeros(1, np.int64), np.zeros(1, np.int64))
    course = [2.5] * 6 + [-2.5] * 6 + [2.5] * 6
    confirmed = [len(add_picture(grid, slots, evidence_of([value], 2.5), chosen)) for value in course]
    assert sum(confirmed[:6]) == 1
    assert sum(confirmed[6:12]) == 0
    assert sum(confirmed[12:]) == 1
