from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import REPOSITORY, texture
from training.data.cache import Photographs, load_photographs
from training.data.dataset import evaluation_tiles
from training.data.leakage import leaks
from training.data.sources import BOX, CRACK, JOINT, SOURCES, Item
from training.data.split_command import Places, SplitSettings, draw_published
from training.data.splits import SplitRow, make_published_split, make_split, read_split, write_split
from training.data.twins import connected, find_twins, thumbnail, twin_pairs
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


def masked(marks: list[int], groups: list[str] | None = None) -> Photographs:
    """Different pictures, each with a mask that holds one value somewhere."""
    rng = np.random.default_rng(4)
    items = [Item(f"{index:03d}", None, groups[index] if groups else f"{index:03d}") for index in range(len(marks))]
    masks = np.zeros((len(marks), 32, 32), np.uint8)
    masks[:, 3, 5] = marks
    return Photographs("flight", "0" * 64, items, np.stack([texture(rng, 32) for _ in marks]), masks)


@pytest.mark.parametrize("mark", [CRACK, BOX])
@pytest.mark.parametrize("seed", range(5))
def test_masked_photographs_are_stratified_by_whether_the_mask_is_empty_of_cracks(mark: int, seed: int) -> None:
    marks = [0] * 10 + [JOINT] * 10 + [mark] * 20
    rows = make_split(masked(marks), seed=seed, twins=[])
    for part in (rows[:20], rows[20:]):
        assert [[row.split for row in part].count(split) for split in ("train", "val", "test")] == [14, 3, 3]
    assert {row.label for row in rows} == {"mask"}


def test_a_group_with_one_marked_photograph_is_drawn_among_the_marked() -> None:
    marks = [0, CRACK] * 20 + [0] * 20
    groups = [f"mixed {index // 2:02d}" for index in range(40)] + [f"sound {index:02d}" for index in range(20)]
    rows = make_split(masked(marks, groups), seed=1, twins=[])
    for part, size in ((rows[:40], 2), (rows[40:], 1)):
        counts = [[row.split for row in part].count(split) for split in ("train", "val", "test")]
        assert counts == [14 * size, 3 * size, 3 * size]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["uav75", "omu-quay", "uavcrack", "not-concrete"])
def test_the_committed_splits_are_what_is_drawn(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    photographs = load_photographs(SOURCES[name], SHARED, REPOSITORY / "data/cache")
    assert make_split(photographs, seed=SplitSettings().seed) == read_split(name, COMMITTED)


def test_fixed_parts_are_kept(data_root: Path, splits: Path) -> None:
    assert {row.split for row in read_split("uav75", splits) if "train/" in row.path} == {"train"}
    assert {row.split for row in read_split("omu-quay", splits) if row.path.startswith("o6/")} == {"val"}


def test_all_pieces_of_a_uav75_photograph_are_in_train_if_one_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for place in ("train/{}/DSC00566b", "train/{}/DSC00569", "val/{}/DSC00566", "val/{}/DSC00566d", "val/{}/DSC00719"):
        for folder, suffix, picture in (
            ("images", "jpg", texture(rng, 512)),
            ("masks", "png", np.zeros((512, 512), np.uint8)),
        ):
            path = tmp_path / "data/uav75" / f"{place.format(folder)}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
    rows = make_split(load_photographs(SOURCES["uav75"], tmp_path / "data", tmp_path / "cache"), seed=1)
    found = {(Path(row.path).stem, row.group, row.split) for row in rows}
    assert found == {
        ("DSC00566", "DSC00566", "train"),
        ("DSC00566b", "DSC00566", "train"),
        ("DSC00566d", "DSC00566", "train"),
        ("DSC00569", "DSC00569", "train"),
        ("DSC00719", "DSC00719", "val"),
    }


def test_a_changed_split_file_is_refused(tmp_path: Path) -> None:
    path = write_split([SplitRow("metu-ccic", "a.jpg", "a", "none", "train")], tmp_path)
    assert read_split("metu-ccic", tmp_path)[0].split == "train"
    path.write_text(path.read_text().replace("train", "test"))
    with pytest.raises(DataError, match="SHA-256"):
        read_split("metu-ccic", tmp_path)


def turned(image: np.ndarray, symmetry: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image if symmetry < 4 else image[:, ::-1], symmetry % 4))


@pytest.fixture(scope="module")
def twinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """METU's layout where each of 16 cracked walls is there in all eight symmetries, encoded at other qualities."""
    root = tmp_path_factory.mktemp("twinned")
    rng = np.random.default_rng(5)
    for index in range(16):
        cracked = texture(rng, 227)
        cv2.line(cracked, (int(rng.integers(10, 90)), 0), (int(rng.integers(130, 220)), 226), (30, 30, 30), 6)
        (root / "metu-ccic/Positive").mkdir(parents=True, exist_ok=True)
        (root / "metu-ccic/Negative").mkdir(parents=True, exist_ok=True)
        for symmetry in range(8):
            name = str(root / f"metu-ccic/Positive/{100 * symmetry + index:05d}.jpg")
            cv2.imwrite(name, turned(cracked, symmetry), [cv2.IMWRITE_JPEG_QUALITY, 95 - 5 * symmetry])
        cv2.imwrite(str(root / f"metu-ccic/Negative/{index:05d}.jpg"), texture(rng, 227))
    return root


def test_no_twin_in_any_of_the_eight_symmetries_crosses_a_new_split(twinned: Path, tmp_path: Path) -> None:
    photographs = load_photographs(SOURCES["metu-ccic"], twinned, tmp_path)
    rows = make_split(photographs, seed=2)
    of_wall = defaultdict(set)
    for row in rows:
        if row.label == "crack":
            of_wall[int(Path(row.path).stem) % 100].add(row.split)
    assert all(len(found) == 1 for found in of_wall.values())
    assert set.union(*of_wall.values()) == {"train", "val", "test"}
    assert len({row.group for row in rows if row.label == "crack"}) == 16
    assert spans(rows) == []


def test_every_symmetry_is_named(twinned: Path, tmp_path: Path) -> None:
    photographs = load_photographs(SOURCES["metu-ccic"], twinned, tmp_path)
    number = [int(Path(item.path).stem) if item.label else -1 for item in photographs.items]
    thumbs = np.stack([thumbnail(image) for image in photographs.images])
    plain = {(number[t.first] % 100, number[t.second] // 100): t for t in find_twins(thumbs) if number[t.first] < 100}
    assert len([t for t in find_twins(thumbs) if number[t.first] < 0 or number[t.second] < 0]) == 0
    for wall in range(16):
        for symmetry in range(1, 8):
            assert plain[wall, symmetry].symmetry == symmetry


def test_blocks_do_not_change_which_twins_are_found(twinned: Path, tmp_path: Path) -> None:
    photographs = load_photographs(SOURCES["metu-ccic"], twinned, tmp_path)
    thumbs = np.stack([thumbnail(image) for image in photographs.images])
    pairs = [[(twin.first, twin.second) for twin in find_twins(thumbs, block=block)] for block in (7, 1000)]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 16 * 28


def test_the_published_split_leaks_and_the_split_by_group_does_not(twinned: Path, tmp_path: Path) -> None:
    photographs = load_photographs(SOURCES["metu-ccic"], twinned, tmp_path)
    twins = twin_pairs(photographs.images)
    published = make_published_split(photographs, seed=1, twins=twins)
    shares = [[row.split for row in published if row.label == label].count("train") for label in ("crack", "none")]
    assert shares == [round(0.7 * 128), round(0.7 * 16)]
    leaking = {leak.split: leak for leak in leaks(published, twins) if leak.label == "crack"}
    # with seven twins each, hardly a file is without one in training
    assert leaking["test"].twins >= 0.9 * leaking["test"].files
    assert all(leak.twins == leak.relatives == 0 for leak in leaks(make_split(photographs, seed=1), twins))


def test_leaks_are_counted_by_twin_and_by_group() -> None:
    rows = [
        SplitRow("s", "a", "film", "crack", "train"),
        SplitRow("s", "b", "film", "crack", "test"),
        SplitRow("s", "c", "other", "crack", "test"),
        SplitRow("s", "d", "film", "crack", "test"),
    ]
    (leak,) = leaks(rows, [(0, 1), (1, 3)])
    assert (leak.files, leak.twins, leak.relatives) == (3, 1, 2)


def test_a_run_can_be_pointed_at_the_published_split(data_root: Path, splits: Path, tmp_path: Path) -> None:
    published, results = tmp_path / "published", tmp_path / "results"
    settings = SplitSettings(
        data=Places(root=data_root, cache=splits / "cache"), out=splits, published=published, results=results
    )
    before = (splits / "INDEX.sha256").read_bytes()
    draw_published(settings)
    assert (splits / "INDEX.sha256").read_bytes() == before
    tiles = evaluation_tiles("metu-ccic", "test", data_root, splits / "cache", published)
    assert len(tiles.labels) == sum(row.split == "test" for row in read_split("metu-ccic", published))
    content = json.loads((results / "leakage.json").read_text())
    assert set(content) == {"by group", "as published"}
    assert all(leak["with_a_twin_in_training"] == 0 for leak in content["by group"])
    assert (results / "leakage.svg").is_file()
    assert "as published: a twin" in (results / "index.html").read_text()


def test_the_published_split_never_overwrites_the_split_by_group(data_root: Path, splits: Path) -> None:
    with pytest.raises(DataError, match="another folder"):
        draw_published(SplitSettings(data=Places(root=data_root), out=splits, published=splits))
