from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

pytest.importorskip("torch", reason="needs the [training] extra")

from training.data.dataset import EvaluationSet, Origin
from training.evaluation.gallery import (
    OUTLINE_BGR,
    OperatingPoint,
    draw_sheet,
    mistakes,
    of_error,
    outlined,
    shortened,
    write_errors,
)
from training.evaluation.threshold import Scored

pytestmark = pytest.mark.training

LOGITS = (-5.0, 1.0, 0.99, 3.0, 2.0, -7.0, 4.0)
LABELS = (True, True, True, False, False, False, True)


@pytest.fixture
def scored() -> Scored:
    kinds = tuple("crack" if label else "plain" for label in LABELS)
    return Scored("uav75", np.array(LOGITS), np.array(LABELS), kinds, tuple("aabbccd"))


@pytest.fixture
def tiles(scored: Scored) -> EvaluationSet:
    count = len(LOGITS)
    masks = np.zeros((count, 224, 224), np.uint8)
    masks[:, 100:110, 50:150] = 255
    return EvaluationSet(
        "uav75",
        np.full((count, 224, 224, 3), 128, np.uint8),
        scored.labels,
        list(scored.groups),
        list(scored.kinds),
        masks,
        [Origin(index, 10 * index, 20 * index, 160) for index in range(count)],
    )


def test_errors_are_those_on_the_wrong_side_of_the_threshold_worst_first(scored: Scored) -> None:
    found = mistakes(scored, OperatingPoint(1.0, 1.0, 0.0, "as asked for"))
    assert [item.index for item in of_error(found, "false positive")] == [3, 4]
    # a logit equal to the threshold is called a crack: tile 1 is no error
    assert [item.index for item in of_error(found, "false negative")] == [0, 2]
    assert len(found) == 4
    assert found[0].group == "b"


def test_the_probability_is_the_calibrated_one(scored: Scored) -> None:
    point = OperatingPoint(1.0, 2.0, -0.5, "as asked for")
    worst = mistakes(scored, point)[0]
    assert worst.p_crack == pytest.approx(1 / (1 + np.exp(-(3.0 / 2.0 - 0.5))))
    assert point.p_crack(-1e9) < 1e-100


def test_the_list_of_errors_says_where_each_tile_was_cut(tmp_path: Path, scored: Scored, tiles: EvaluationSet) -> None:
    found = mistakes(scored, OperatingPoint(1.0, 1.0, 0.0, "as asked for"))
    path = write_errors(tmp_path / "errors.csv", {("uav75", "val"): found}, {("uav75", "val"): tiles})
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tile"] for row in rows] == ["3", "4", "0", "2"]
    assert rows[0] == {
        "set": "uav75", "split": "val", "error": "false positive", "tile": "3", "photograph": "b", "kind": "plain",
        "logit": "3.0000", "p_crack": "0.952574", "top_px": "30", "left_px": "60", "side_px": "160",
    }  # fmt: skip


def test_the_outline_follows_the_mask_and_leaves_the_rest_of_the_tile(tiles: EvaluationSet) -> None:
    assert tiles.masks is not None
    drawn = outlined(tiles.tiles[0], tiles.masks[0])
    assert tuple(drawn[100, 80]) == OUTLINE_BGR
    assert (drawn[104:106, 60:140] == 128).all()
    assert (drawn[:90] == 128).all()
    assert (tiles.tiles[0] == 128).all()
    assert (outlined(tiles.tiles[0], None) == 128).all()


def test_a_contact_sheet_shows_every_tile_it_is_given(tmp_path: Path, scored: Scored, tiles: EvaluationSet) -> None:
    found = mistakes(scored, OperatingPoint(1.0, 1.0, 0.0, "as asked for"))
    sheet = imread(draw_sheet(tmp_path / "sheet.png", tiles, found, "uav75/val"))
    cyan = (sheet[..., 0] < 0.35) & (sheet[..., 1] > 0.7) & (sheet[..., 2] > 0.7)
    columns = np.flatnonzero(cyan.any(axis=0))
    # a gap wider than a tile's margin parts the outlines of two tiles
    assert 1 + int((np.diff(columns) > 20).sum()) == len(found)


def test_long_names_are_shortened_in_the_middle() -> None:
    assert shortened("short") == "short"
    assert shortened("abcdefghij", 5) == "ab…ij"
