from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.errors import InputError
from drone_agent.postflight.truth import Flight, Truth, compare, flight_of, load_truth

WALL_01 = Path(__file__).parents[3] / "shared" / "flight" / "wall-01"

# The cells of a crack 2.5 cm right of 1 m, over the whole height.
CRACK_CELLS = [(20, row) for row in range(20)]
EVERY_CELL = [(column, row) for column in range(40) for row in range(20)]


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    """A wall 2 m long and 1 m high with an upright crack at 1.025 m and a joint at 1.525 m."""
    picture = np.zeros((1000, 2000), np.uint8)
    picture[:, 1025] = 255
    picture[:, 1525] = 128
    cv2.imwrite(str(tmp_path / "truth.png"), picture)
    data = {"wall_plane_north_m": 2.0, "wall_east_m": [0, 2], "wall_height_m": [1.0, 2.0], "gsd_mm_px": 1.0}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return load_truth(tmp_path / "truth.json")


PERFECT = Flight((2.0, 0.0, -1.0), math.pi / 2, 0.05, [(1.025, 0.2), (1.025, 0.7)], CRACK_CELLS, EVERY_CELL)


def test_a_perfect_flight_scores_perfectly(truth: Truth) -> None:
    result = compare(truth, PERFECT)
    assert result.crack_cells == 20
    assert result.crack_cells_found == result.crack_cells_found_within_one == 1.0
    assert result.found_cells_off_crack == 0.0
    assert result.marks_near_crack == result.seen_share == result.cracks_marked == 1.0
    assert (result.marks, result.marks_on_joint, result.marks_outside) == (2, 0, 0)
    assert result.marks_per_m2 == pytest.approx(1.0)
    assert result.mark_error_median_m < 0.002


def test_the_same_flight_in_another_frame_of_the_face_scores_the_same(truth: Truth) -> None:
    # Counted from the take-off point, as for a fitted wall: 1 m lower.
    moved = replace(
        PERFECT,
        origin_ned_m=(2.0, 0.0, 0.0),
        sightings=[(along, height + 1.0) for along, height in PERFECT.sightings],
        found_cells=[(column, row + 20) for column, row in CRACK_CELLS],
        seen_cells=[(column, row + 20) for column, row in EVERY_CELL],
    )
    assert compare(truth, moved) == compare(truth, PERFECT)


def test_what_is_missed_and_made_up_is_counted(truth: Truth) -> None:
    flight = replace(
        PERFECT,
        sightings=[(1.025, 0.5), (1.525, 0.5), (0.3, 0.5), (5.0, 0.5)],
        found_cells=[*CRACK_CELLS[:10], *[(30, row) for row in range(10)]],
        seen_cells=EVERY_CELL[:400],
    )
    result = compare(truth, flight)
    assert result.crack_cells_found == pytest.approx(0.5)
    assert result.found_cells_off_crack == pytest.approx(0.5)
    assert result.marks == 3
    assert result.marks_near_crack == pytest.approx(1 / 3)
    assert result.marks_on_joint == 1
    assert result.marks_outside == 1
    assert result.seen_share == pytest.approx(0.5)


def test_a_cell_beside_the_crack_counts_only_within_one(truth: Truth) -> None:
    result = compare(truth, replace(PERFECT, found_cells=[(21, row) for row in range(20)]))
    assert result.crack_cells_found == 0.0
    assert result.crack_cells_found_within_one == 1.0


def test_a_flight_without_finds_has_no_shares_of_them(truth: Truth) -> None:
    result = compare(truth, replace(PERFECT, sightings=[], found_cells=[], seen_cells=[]))
    assert result.crack_cells_found == result.seen_share == result.cracks_marked == 0.0
    assert math.isnan(result.marks_near_crack)
    assert math.isnan(result.mark_error_median_m)


def test_a_flight_is_gathered_from_its_log() -> None:
    face = {"name": "wall", "unit": "m", "cell": 0.05, "origin_ned": [2, 0, -1], "along_bearing_deg": 90.0}
    events: list[tuple[str, dict[str, object]]] = [
        ("face", face),
        ("coverage", {"face": "wall", "cells": [[1, 2, 3, 0, 4.0], [5, 6, 0, 2, -1.0], [7, 8, 1, 0, 0.5]]}),
        ("coverage", {"face": "wall", "cells": [[1, 2, 4, 0, 2.0], [7, 8, 2, 0, 3.5]]}),
        ("sighting", {"face": "wall", "along": 0.1, "height": 0.2}),
        ("frame", {"index": 3}),
    ]
    flight = flight_of(events, 3.0)
    assert flight.sightings == [(0.1, 0.2)]
    assert flight.found_cells == [(7, 8)]
    assert sorted(flight.seen_cells) == [(1, 2), (7, 8)]
    assert flight.ned(np.array([[1.0, 0.5]]))[0] == pytest.approx((2.0, 1.0, -1.5))


def test_a_flight_without_a_wall_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="no face in metres"):
        flight_of([("face", {"name": "image", "unit": "px"})], 3.0)


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "wall_plane_north_m"), ("[", "not a truth"), (None, "cannot be read")]
)
def test_a_truth_that_cannot_serve_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "truth.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_truth(path)


def test_a_truth_without_its_picture_names_it(tmp_path: Path, truth: Truth) -> None:
    assert truth.crack.any()
    (tmp_path / "truth.png").unlink()
    with pytest.raises(InputError, match=r"truth\.png: cannot be read"):
        load_truth(tmp_path / "truth.json")


@pytest.mark.shared
@pytest.mark.skipif(not WALL_01.exists(), reason="../shared/flight/wall-01 is not here")
def test_the_recorded_wall_has_the_crack_cells_that_it_states() -> None:
    stated = json.loads((WALL_01 / "truth.json").read_text())
    truth = load_truth(WALL_01 / "truth.json")
    flight = Flight((2.0, 0.0, -2.0), math.pi / 2, 0.05, [], [], [])
    assert compare(truth, flight).crack_cells == stated["crack_cells_5cm"]
