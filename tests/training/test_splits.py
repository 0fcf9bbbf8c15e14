from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import REPOSITORY, texture, write_picture
from training.data.copies import Files, Prints, copies_in, find_copies, marked_in, open_files, take_prints
from training.data.dataset import evaluation_tiles
from training.data.leakage import leaks
from training.data.sources import BOX, CRACK, JOINT, SOURCES, Archive, Item
from training.data.split_command import Places, SplitSettings, draw_published
from training.data.splits import SplitRow, in_order, make_published_split, make_split, read_split, write_split
from training.data.twins import connected, find_twins
from training.errors import DataError
from training.journal.texts import text_of

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


def test_two_of_the_committed_splits_have_no_test_part_as_the_journal_says() -> None:
    without = [name for name in TRAINED_ON if "test" not in {row.split for row in read_split(name, COMMITTED)}]
    assert without == ["uav75", "omu-quay"]
    assert "two of them have no test part" in text_of("Split")[0]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED_ON)
def test_no_near_duplicate_crosses_the_committed_splits(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    files, prints = whole_prints(name)
    splits = [row.split for row in in_order(files, read_split(name, COMMITTED))]
    crossing = [(t.first, t.second) for t in find_copies(prints) if splits[t.first] != splits[t.second]]
    assert crossing == []


@pytest.mark.shared
@pytest.mark.slow
def test_files_with_the_same_bytes_are_in_one_part_of_all_committed_splits_together() -> None:
    """Needs no thumbnail: what decides here is not what the splits were drawn by."""
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    parts: dict[str, set[str]] = defaultdict(set)
    files_read = 0
    for name, source in SOURCES.items():
        archive = Archive.find(SHARED, name)
        split_of = {row.path: row.split for row in read_split(name, COMMITTED)} if name in TRAINED_ON else {}
        for item in source.items(archive):
            parts[hashlib.sha256(archive.read(item.path)).hexdigest()].add(split_of.get(item.path, "external"))
            files_read += 1
    assert len(parts) < files_read - 500, "METU alone has that many copies"
    assert [digest for digest, found in parts.items() if len(found) > 1] == []


@cache
def whole_prints(name: str) -> tuple[Files, Prints]:
    """Thumbnails and hashes of the published files."""
    files = open_files(SOURCES[name], SHARED)
    return files, take_prints(files)


@pytest.mark.shared
@pytest.mark.slow
def test_no_copy_of_an_evaluated_photograph_is_trained_on_in_another_data_set() -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    places: list[tuple[str, str, str]] = []
    thumbs, digests = [], []
    for name, source in SOURCES.items():
        files, prints = whole_prints(name)
        thumbs.append(prints.fine)
        digests += prints.digests
        if source.role == "train":
            places += [(name, row.path, row.split) for row in in_order(files, read_split(name, COMMITTED))]
        else:
            places += [(name, item.path, "test") for item in files.items]
    twins = find_copies(Prints(digests, np.concatenate(thumbs)))
    pairs = [(places[twin.first], places[twin.second]) for twin in twins]
    assert len(pairs) > 4000, "METU alone has more"
    assert [pair for pair in pairs if (pair[0][2] == "train") != (pair[1][2] == "train")] == []


def copies(pictures: list[np.ndarray], folder: Path, *, suffix: str = ".png") -> list[tuple[int, int]]:
    """Write the pictures as a data set and search it."""
    for number, picture in enumerate(pictures):
        write_picture(folder / f"not-concrete/{number:03d}{suffix}", picture)
    return copies_in(open_files(SOURCES["not-concrete"], folder))


SHAPES = {"square": (227, 227), "deepcrack": (384, 544), "crack500": (640, 360), "smaller than its square": (300, 300)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("symmetry", range(8))
def test_twins_are_found_mirrored_turned_and_encoded_again(
    symmetry: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(symmetry)
    height, width = shape
    pictures = [texture(rng, max(shape))[:height, :width] for _ in range(6)]
    _, jpeg = cv2.imencode(".jpg", turned(pictures[2], symmetry), [cv2.IMWRITE_JPEG_QUALITY, 60])
    pictures.append(read_image(jpeg.tobytes()))
    assert copies(pictures, tmp_path) == [(2, 6)]


def test_a_copy_of_another_size_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pictures = [texture(rng, 227) for _ in range(4)]
    pictures.append(cv2.resize(pictures[1], (200, 200), interpolation=cv2.INTER_AREA))
    assert copies(pictures, tmp_path, suffix=".jpg") == [(1, 4)]


@pytest.mark.parametrize("change", [4, 25, -25])
def test_a_copy_in_another_exposure_is_found(change: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pictures = [texture(rng, 227) for _ in range(4)]
    pictures.append(np.clip(pictures[3].astype(np.int16) + change, 0, 255).astype(np.uint8))
    assert copies(pictures, tmp_path, suffix=".jpg") == [(3, 4)]


def test_uniform_pictures_are_copies_only_where_the_files_are_the_same(tmp_path: Path) -> None:
    grey = [np.full((100, 140, 3), level, np.uint8) for level in (90, 90, 91, 90)]
    assert copies(grey, tmp_path) == [(0, 1), (0, 3)]
    files = open_files(SOURCES["not-concrete"], tmp_path)
    rows = make_split(files, seed=1, twins=copies_in(files))
    assert len({row.group for row in rows}) == 2
    assert spans(rows) == []


def test_a_damaged_photograph_is_named_when_copies_are_searched(tmp_path: Path) -> None:
    write_picture(tmp_path / "not-concrete/0.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "not-concrete/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"not-concrete: 1\.png"):
        copies_in(open_files(SOURCES["not-concrete"], tmp_path))


def test_twins_stay_in_one_split(data_root: Path, splits: Path) -> None:
    split_of = {row.path: row.split for row in read_split("metu-ccic", splits)}
    assert split_of["Positive/00000.jpg"] == split_of["Positive/00100.jpg"]


def test_connected_components_take_the_name_of_their_smallest_member() -> None:
    assert connected(6, [(4, 2), (2, 5), (0, 1)]) == [0, 0, 2, 3, 2, 2]


def test_a_split_is_the_same_for_the_same_seed(data_root: Path) -> None:
    files = open_files(SOURCES["metu-ccic"], data_root)
    twins = copies_in(files)
    assert make_split(files, seed=3, twins=twins) == make_split(files, seed=3, twins=twins)
    assert make_split(files, seed=3, twins=twins) != make_split(files, seed=4, twins=twins)


class Named:
    """Photographs that are no more than listed."""

    def __init__(self, items: list[Item]) -> None:
        self.name, self.items = "flight", items


def listed(marks: list[int], groups: list[str] | None = None) -> Named:
    return Named(
        [Item(f"{index:03d}", None, groups[index] if groups else f"{index:03d}") for index in range(len(marks))]
    )


def test_masks_are_read_for_what_they_mark_where_a_draw_asks_for_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    marks = [0, JOINT, CRACK]
    for index, mark in enumerate(marks):
        mask = np.zeros((256, 256), np.uint8)
        mask[3:9, 5:90] = 255 if mark == CRACK else 0
        write_picture(tmp_path / f"uavcrack/images/film{index}_{index}_1_00.jpeg", texture(rng, 256))
        write_picture(tmp_path / f"uavcrack/masks/film{index}_{index}_1_00.png", mask)
    assert marked_in(open_files(SOURCES["uavcrack"], tmp_path)) == [False, False, True]


@pytest.mark.parametrize("mark", [CRACK, BOX])
@pytest.mark.parametrize("seed", range(5))
def test_masked_photographs_are_stratified_by_whether_the_mask_is_empty_of_cracks(mark: int, seed: int) -> None:
    marks = [0] * 10 + [JOINT] * 10 + [mark] * 20
    rows = make_split(listed(marks), seed=seed, twins=[], marked=[mark in {CRACK, BOX} for mark in marks])
    for part in (rows[:20], rows[20:]):
        assert [[row.split for row in part].count(split) for split in ("train", "val", "test")] == [14, 3, 3]
    assert {row.label for row in rows} == {"mask"}


def test_a_group_with_one_marked_photograph_is_drawn_among_the_marked() -> None:
    marks = [0, CRACK] * 20 + [0] * 20
    groups = [f"mixed {index // 2:02d}" for index in range(40)] + [f"sound {index:02d}" for index in range(20)]
    rows = make_split(listed(marks, groups), seed=1, twins=[], marked=[mark == CRACK for mark in marks])
    for part, size in ((rows[:40], 2), (rows[40:], 1)):
        counts = [[row.split for row in part].count(split) for split in ("train", "val", "test")]
        assert counts == [14 * size, 3 * size, 3 * size]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["uav75", "omu-quay", "uavcrack", "not-concrete"])
def test_the_committed_splits_are_what_is_drawn(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the photographs are not in ../shared/data")
    files = open_files(SOURCES[name], SHARED)
    rows = make_split(files, seed=SplitSettings().seed, twins=copies_in(files), marked=marked_in(files))
    assert rows == read_split(name, COMMITTED)


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
    files = open_files(SOURCES["uav75"], tmp_path / "data")
    rows = make_split(files, seed=1, twins=copies_in(files), marked=marked_in(files))
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


def test_no_twin_in_any_of_the_eight_symmetries_crosses_a_new_split(twinned: Path) -> None:
    files = open_files(SOURCES["metu-ccic"], twinned)
    rows = make_split(files, seed=2, twins=copies_in(files))
    of_wall = defaultdict(set)
    for row in rows:
        if row.label == "crack":
            of_wall[int(Path(row.path).stem) % 100].add(row.split)
    assert all(len(found) == 1 for found in of_wall.values())
    assert set.union(*of_wall.values()) == {"train", "val", "test"}
    assert len({row.group for row in rows if row.label == "crack"}) == 16
    assert spans(rows) == []


def test_every_symmetry_is_named(twinned: Path) -> None:
    files = open_files(SOURCES["metu-ccic"], twinned)
    number = [int(Path(item.path).stem) if item.label else -1 for item in files.items]
    thumbs = take_prints(files).fine
    plain = {(number[t.first] % 100, number[t.second] // 100): t for t in find_twins(thumbs) if number[t.first] < 100}
    assert len([t for t in find_twins(thumbs) if number[t.first] < 0 or number[t.second] < 0]) == 0
    for wall in range(16):
        for symmetry in range(1, 8):
            assert plain[wall, symmetry].symmetry == symmetry


def test_blocks_do_not_change_which_twins_are_found(twinned: Path) -> None:
    thumbs = take_prints(open_files(SOURCES["metu-ccic"], twinned)).fine
    pairs = [[(twin.first, twin.second) for twin in find_twins(thumbs, block=block)] for block in (7, 1000)]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 16 * 28


def test_the_published_split_leaks_and_the_split_by_group_does_not(twinned: Path) -> None:
    files = open_files(SOURCES["metu-ccic"], twinned)
    twins = copies_in(files)
    published = make_published_split(files, seed=1, twins=twins)
    shares = [[row.split for row in published if row.label == label].count("train") for label in ("crack", "none")]
    assert shares == [round(0.7 * 128), round(0.7 * 16)]
    leaking = {leak.split: leak for leak in leaks(published, twins) if leak.label == "crack"}
    # with seven twins each, hardly a file is without one in training
    assert leaking["test"].twins >= 0.9 * leaking["test"].files
    assert all(leak.twins == leak.relatives == 0 for leak in leaks(make_split(files, seed=1, twins=twins), twins))


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
    settings = SplitSettings(data=Places(root=data_root), out=splits, published=published, results=results)
    before = (splits / "INDEX.sha256").read_bytes()
    draw_published(settings)
    assert (splits / "INDEX.sha256").read_bytes() == before
    tiles = evaluation_tiles("metu-ccic", "test", data_root, splits / "cache", published)
    assert len(tiles.labels) == sum(row.split == "test" for row in read_split("metu-ccic", published))
    content = json.loads((results / "leakage.json").read_text())
    assert set(content) == {"by group", "as published"}
    assert all(leak["with_a_twin_in_training"] == 0 for leak in content["by group"])
    assert (results / "leakage.svg").is_file()
    page = (results / "index.html").read_text()
    assert "as published: a twin" in page
    assert "By group: A set whose parts are fixed" in page
    assert "Without a test part: omu-quay, uav75." in page


def test_the_published_split_never_overwrites_the_split_by_group(data_root: Path, splits: Path) -> None:
    with pytest.raises(DataError, match="another folder"):
        draw_published(SplitSettings(data=Places(root=data_root), out=splits, published=splits))
