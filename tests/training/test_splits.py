from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import REPOSITORY, texture
from training.data.cache import load_photographs
from training.data.sources import SOURCES
from training.data.splits import SplitRow, make_split, read_split, write_split
from training.data.twins import connected, twin_pairs
from training.errors import DataError

pytestmark = pytest.mark.training

COMMITTED = REPOSITORY / "config/training/splits"
SHARED = REPOSITORY.parent / "shared/data"
TRAINED_ON = [name for name, source in SOURCES.items() if source.role == "train"]


def spans(rows: list[SplitRow]) -> list[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    return [group for group, found in splits.items() if len(found) > 1]


@pytest.mark.parametrize("name", TRAINED_ON)
def test_no_group_of_the_committed_splits_crosses(name: str) -> None:
    rows = read_split(name, COMMITTED)
    assert len({row.path for row in rows}) == len(rows)
    assert spans(rows) == []


def test_committed_metu_is_70_15_15_in_each_class() -> None:
    rows = read_split("metu-ccic", COMMITTED)
    for label in ("crack", "none"):
        of_class = [row.split for row in rows if row.label == label]
        shares = [of_class.count(split) / len(of_class) for split in ("train", "val", "test")]
        assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.005)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED_ON)
def test_no_near_duplicate_crosses_the_committed_splits(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    photographs = load_photographs(SOURCES[name], SHARED, REPOSITORY / "data/cache")
    split_of = {row.path: row.split for row in read_split(name, COMMITTED)}
    splits = [split_of[item.path] for item in photographs.items]
    crossing = [(a, b) for a, b in twin_pairs(photographs.images) if splits[a] != splits[b]]
    assert crossing == []


@pytest.mark.parametrize("symmetry", range(8))
def test_twins_are_found_mirrored_turned_and_encoded_again(symmetry: int) -> None:
    rng = np.random.default_rng(symmetry)
    pictures = [texture(rng, 227) for _ in range(6)]
    version = np.rot90(pictures[2], symmetry % 4)
    version = np.ascontiguousarray(version[:, ::-1] if symmetry >= 4 else version)
    _, jpeg = cv2.imencode(".jpg", version, [cv2.IMWRITE_JPEG_QUALITY, 60])
    pictures.append(read_image(jpeg.tobytes()))
    assert twin_pairs(np.stack(pictures)) == [(2, 6)]


def test_twins_stay_in_one_split(data_root: Path, splits: Path) -> None:
    split_of = {row.path: row.split for row in read_split("metu-ccic", splits)}
    assert split_of["Positive/00000.jpg"] == split_of["Positive/00100.jpg"]


def test_connected_components_take_the_name_of_their_smallest_member() -> None:
    assert connected(6, [(4, 2), (2, 5), (0, 1)]) == [0, 0, 2, 3, 2, 2]


def test_a_split_is_the_same_for_the_same_seed(data_root: Path, cache: Path) -> None:
    photographs = load_photographs(SOURCES["metu-ccic"], data_root, cache)
    assert make_split(photographs, seed=3) == make_split(photographs, seed=3)
    assert make_split(photographs, seed=3) != make_split(photographs, seed=4)


def test_fixed_parts_are_kept(data_root: Path, splits: Path) -> None:
    assert {row.split for row in read_split("uav75", splits) if "train/" in row.path} == {"train"}
    assert {row.split for row in read_split("omu-quay", splits) if row.path.startswith("o6/")} == {"val"}


def test_a_changed_split_file_is_refused(tmp_path: Path) -> None:
    path = write_split([SplitRow("metu-ccic", "a.jpg", "a", "none", "train")], tmp_path)
    assert read_split("metu-ccic", tmp_path)[0].split == "train"
    path.write_text(path.read_text().replace("train", "test"))
    with pytest.raises(DataError, match="SHA-256"):
        read_split("metu-ccic", tmp_path)
