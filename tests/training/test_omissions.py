from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import REPOSITORY
from training.data import omissions
from training.data.cache import _material as material_of
from training.data.cache import _texture as cut_square
from training.data.cache import load_photographs
from training.data.dataset import evaluation_tiles
from training.data.omissions import (
    UNSURE,
    Omission,
    as_published,
    mark_omissions,
    omissions_sha256,
    read_omissions,
)
from training.data.sources import CRACK, JOINT, Archive, get_source, read_mask
from training.data.splits import read_split
from training.data.tiles import kind_of, label_of
from training.engine.losses import cell_targets
from training.errors import DataError
from training.evaluation.evaluate import reached_bars, result, role_of
from training.evaluation.threshold import Scored, bars_for

SHARED = REPOSITORY.parent / "shared/data"
FOUND = Omission("uav75", "val/images/DSCval0.jpg", "crack", ((40, 30), (60, 480)))


@pytest.fixture
def one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omissions, "read_omissions", lambda: (FOUND,))


def test_the_list_names_photographs_of_the_split_and_stays_inside_them() -> None:
    found = read_omissions()
    assert {line.source for line in found} == {"uav75"}
    known = {row.path: row.split for row in read_split("uav75", REPOSITORY / "config/training/splits")}
    assert {known[line.path] for line in found} == {"train", "val"}
    assert all(0 <= value < 512 for line in found for point in line.points for value in point)
    assert all(line.seen == "crack" for line in found if known[line.path] == "val"), "judged: nothing unclear"


def test_the_list_lies_on_pixels_that_the_published_masks_call_sound() -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    source = get_source("uav75", for_training=False)
    archive = Archive.find(SHARED, "uav75")
    items = {item.path: item for item in source.items(archive)}
    for path in {line.path for line in read_omissions()}:
        item = items[path]
        assert item.annotation is not None
        published = archive.picture(item.annotation).max(axis=2)
        mask = read_mask(archive, source, item, *published.shape)
        assert (mask == UNSURE).sum() > 100
        assert not published[mask == UNSURE].any()
        assert np.array_equal(as_published(mask), published)


def test_an_omission_is_drawn_and_hides_nothing_that_is_marked(one_found: None) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[200:210] = JOINT
    mask[300] = CRACK
    marked = mark_omissions(mask, "uav75", FOUND.path)
    assert (marked[100, 40:50] == UNSURE).sum() == pytest.approx(omissions.WIDTH_PX, abs=2)
    assert set(np.unique(marked[200:210])) == {JOINT}
    assert set(np.unique(marked[300])) == {CRACK}
    assert np.array_equal(as_published(marked), mask)
    assert mark_omissions(mask, "uav75", "val/images/another.jpg") is mask
    assert mark_omissions(mask, "uavcrack", FOUND.path) is mask


def test_a_line_that_leaves_the_photograph_is_an_error(one_found: None) -> None:
    with pytest.raises(DataError, match=r"val/images/DSCval0\.jpg leaves the photograph of 50 x 500"):
        mark_omissions(np.zeros((500, 50), np.uint8), "uav75", FOUND.path)


def test_a_tile_on_an_omission_is_neither_sound_nor_cracked() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, 100:104] = JOINT
    assert kind_of(mask) == "joint"
    mask[50, 10:20] = UNSURE
    assert label_of(mask) is None
    assert kind_of(mask) is None
    mask[:, 200:203] = CRACK
    assert label_of(mask) is True


def test_cells_on_an_omission_teach_nothing_but_what_is_marked() -> None:
    cracks = torch.zeros((1, 64, 64), dtype=torch.uint8)
    cracks[0, 0:4, 0:64] = UNSURE
    cracks[0, 0:64, 60:64] = CRACK
    targets, weights = cell_targets(cracks, torch.ones(1), (4, 4))
    assert targets[0].tolist() == [[0, 0, 0, 1]] * 4
    assert weights[0].tolist() == [[0, 0, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1]]


def test_judged_without_the_tiles_on_an_omission_and_once_more_as_published(
    data_root: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_photographs(get_source("uav75", for_training=False), data_root, tmp_path)
    assert plain.masks is not None
    before = evaluation_tiles("uav75", "val", data_root, tmp_path, splits)
    monkeypatch.setattr(omissions, "read_omissions", lambda: (FOUND,))
    assert omissions_sha256("uav75") is not None
    after = evaluation_tiles("uav75", "val", data_root, tmp_path, splits)
    published = evaluation_tiles("uav75", "published-masks", data_root, tmp_path, splits)
    masks = load_photographs(get_source("uav75", for_training=False), data_root, tmp_path).masks
    assert masks is not None
    assert (masks == UNSURE).any(), "what was decoded before the list changed is decoded anew"
    assert published.kinds == before.kinds
    assert np.array_equal(published.tiles, before.tiles)
    assert after.kinds.count("crack") == before.kinds.count("crack")
    left_out = len(before) - len(after)
    assert left_out == before.kinds.count("plain") + before.kinds.count("joint") - (
        after.kinds.count("plain") + after.kinds.count("joint")
    )
    assert left_out > 0
    assert role_of("uav75", "published-masks") == "published"


def test_drawn_walls_are_not_laid_on_an_omission(data_root: Path, tmp_path: Path) -> None:
    photographs = load_photographs(get_source("uav75", for_training=False), data_root, tmp_path)
    everywhere = np.full((len(photographs.items), 512, 512), UNSURE, np.uint8)
    with pytest.raises(DataError, match="is sound"):
        cut_square(replace(photographs, masks=everywhere), [0], np.random.default_rng(0))


def test_what_is_drawn_on_photographs_gets_another_name_when_more_is_found(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = load_photographs(get_source("uav75", for_training=False), data_root, tmp_path)
    names = [material_of(photographs, [0, 1])]
    for found in ((FOUND,), (FOUND, FOUND)):
        monkeypatch.setattr(omissions, "read_omissions", lambda found=found: found)
        names.append(material_of(photographs, [0, 1]))
    assert len(set(names)) == 3
    assert omissions_sha256("uavcrack") is None


def test_no_bar_is_judged_by_masks_that_leave_cracks_out_where_better_ones_are_there() -> None:
    kinds = ("crack", "crack", "joint", "joint", "plain", "plain")
    labels = np.array([kind == "crack" for kind in kinds])
    scored = Scored("uav75", np.array([1.0, 1, -1, 1, -1, -1]), labels, kinds, tuple("aabbcc"))
    rows = [result(scored, split, 0.0, resamples=20, seed=1) for split in ("published-masks", "val")]
    bars = bars_for("mobilenetv2")
    assert [(bar.kind, row.key) for bar, row, _ in reached_bars(rows, bars)] == [
        (kind, "uav75/val") for kind in ("crack", "joint", "plain")
    ]
    assert {row.key for _, row, _ in reached_bars(rows[:1], bars)} == {"uav75/published-masks"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be source,path,seen,points"),
        ("source,path,points\n", "first line must be source,path,seen,points"),
        ("source,path,seen,points\nuav75,a.jpg,crack\n", "line 2: holds 3 columns, not 4"),
        (
            "source,path,seen,points\nuav75,a.jpg,perhaps,1 2;3 4\n",
            "line 2: seen is 'perhaps'; allowed: crack, unclear",
        ),
        ("source,path,seen,points\nuav75,a.jpg,crack,1 2\n", "line 2: points are '1 2'"),
        ("source,path,seen,points\nuav75,a.jpg,crack,1 2;3\n", "line 2: points are '1 2;3'"),
        ("source,path,seen,points\nuav75,a.jpg,crack,1 2;-3 4\n", "line 2: points are"),
    ],
)
def test_a_broken_list_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "omissions.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_omissions(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_omissions(tmp_path / "none.csv")
