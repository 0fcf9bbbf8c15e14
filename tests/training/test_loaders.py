from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.training.conftest import REPOSITORY, write_picture
from training.data import sources
from training.data.cache import load_photographs
from training.data.copies import copies_in, open_files
from training.data.dataset import evaluation_tiles
from training.data.loaders import LAYOUTS, configured_sources
from training.data.mixture import load_samplers
from training.data.sources import BOX, CRACK, JOINT, SOURCES, Archive, get_source, read_mask
from training.data.splits import make_split, write_split
from training.errors import DataError
from training.evaluation.evaluate import parse_sets, role_of

pytestmark = pytest.mark.training
GREY = np.full((64, 64, 3), 150, np.uint8)


def test_sdnet_pieces_of_a_photograph_stay_together(tmp_path: Path) -> None:
    for name in ("D/CD/7001-1.jpg", "D/UD/7001-2.jpg"):
        write_picture(tmp_path / name, GREY)
    items = LAYOUTS["sdnet2018"].items(Archive(tmp_path), {})
    assert [item.label for item in items] == [True, False]
    assert {item.group for item in items} == {"D/7001"}


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "train_img/a.jpg", GREY)
    with pytest.raises(DataError, match=r"train_lab/a\.png"):
        LAYOUTS["deepcrack"].items(Archive(tmp_path), {})


def test_a_box_is_filled_and_a_corrupt_line_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", GREY)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    layout, archive = LAYOUTS["yolo"], Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert (layout.mask(archive, item, 64, 64) == BOX).sum() == 32 * 32
    for junk in ("0 0.5 oops", "0 0.5 0.5 0.5", "0 0.5 0.5 0.5 1.5", "0 nan 0.5 0.5 0.5"):
        (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{junk}\n")
        with pytest.raises(DataError, match=rf"a\.txt, line 2: '{junk}'"):
            layout.mask(archive, item, 64, 64)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", GREY)
    write_picture(tmp_path / "a.png", np.full((64, 64), CRACK, np.uint8))
    layout, archive = LAYOUTS["same-stem"], Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert (layout.mask(archive, item, 64, 64) == CRACK).all()
    with pytest.raises(DataError, match=r"a\.png"):
        layout.mask(archive, item, 32, 32)


def test_metu_is_read_as_kaggle_and_mendeley_have_it_nested_or_not_zip_or_folder(tmp_path: Path) -> None:
    names = ("Positive/00001.jpg", "Positive/10001_1.jpg", "Negative/00001.jpg", "Negative/20000.jpg")
    for place in ("flat", "nested/Concrete Crack Images for Classification"):
        for name in names:
            write_picture(tmp_path / place / name, GREY)
    (tmp_path / "nested/Concrete Crack Images for Classification/readme.txt").write_text("about")
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as zipped:
        for name in names:
            zipped.write(tmp_path / "flat" / name, f"archive/{name}")
    for archive in (Archive(tmp_path / "flat"), Archive(tmp_path / "nested"), Archive(tmp_path / "zipped.zip")):
        items = LAYOUTS["metu"].items(archive, {})
        found = {"/".join(item.path.split("/")[-2:]): item.label for item in items}
        assert found == {name: name.startswith("Positive") for name in names}
        assert len({item.group for item in items}) == 4  # the same number in both folders is not one photograph


def test_every_number_of_metu_is_listed_with_its_class(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "metu-full.zip", "w") as zipped:
        for folder in ("Positive", "Negative"):
            for number in range(19001, 20001):
                zipped.writestr(f"{folder}/{number:05d}.jpg", b"")
    items = LAYOUTS["metu"].items(Archive(tmp_path / "metu-full.zip"), {})
    assert len(items) == 2000
    assert sum(item.label is True for item in items) == 1000


def codebrim(folder: Path, labels: dict[str, int]) -> Archive:
    for name in labels:
        write_picture(folder / f"train/defects/{name}", GREY)
    write_picture(folder / "val/background/image_0000009_crop_0000001.png", GREY)
    entries = "".join(
        f'<Defect name="{name}"><Background>0</Background><Crack>{crack}</Crack></Defect>'
        for name, crack in labels.items()
    )
    (folder / "metadata").mkdir()
    (folder / "metadata/defects.xml").write_text(f"<Annotation>{entries}</Annotation>")
    return Archive(folder)


def test_codebrim_keeps_cracks_and_background_and_leaves_other_defects_out(tmp_path: Path) -> None:
    labels = {
        f"image_000000{photo}_crop_000000{piece}.png": crack
        for photo, piece, crack in [(1, 1, 1), (1, 2, 1), (2, 1, 0)]
    }
    items = LAYOUTS["codebrim"].items(codebrim(tmp_path, labels), {})
    assert [(item.label, item.group, item.part) for item in items] == [
        (True, "image_0000001", "train"),
        (True, "image_0000001", "train"),
        (False, "image_0000009", "val"),
    ]


def test_a_picture_that_the_metadata_of_codebrim_lacks_is_named(tmp_path: Path) -> None:
    archive = codebrim(tmp_path, {"image_1_crop_1.png": 1})
    write_picture(tmp_path / "test/defects/image_7_crop_1.png", GREY)
    with pytest.raises(DataError, match=r"test/defects/image_7_crop_1\.png is not in metadata/defects\.xml"):
        LAYOUTS["codebrim"].items(archive, {})
    (tmp_path / "metadata/defects.xml").write_text("<Annotation>")
    with pytest.raises(DataError, match=r"defects\.xml is not XML"):
        LAYOUTS["codebrim"].items(archive, {})


def test_plain_folders_are_labelled_by_the_names_given_and_others_are_left_out(tmp_path: Path) -> None:
    for folder in ("cracked", "sound", "doubtful"):
        write_picture(tmp_path / f"2026/{folder}/a.jpg", GREY)
    layout = LAYOUTS["folders"]
    items = layout.items(Archive(tmp_path), {"cracked": "crack", "sound": "none"})
    assert [(item.path, item.label) for item in items] == [("2026/cracked/a.jpg", True), ("2026/sound/a.jpg", False)]
    with pytest.raises(DataError, match="needs labels"):
        layout.items(Archive(tmp_path), {})


def coco(folder: Path, annotations: list[dict[str, Any]], category: str = "crack") -> Archive:
    write_picture(folder / "images/a.jpg", GREY)
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": category}, {"id": 2, "name": "stain"}],
        "annotations": [{"image_id": 7, "category_id": 1} | annotation for annotation in annotations],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return Archive(folder)


def coco_mask(archive: Archive) -> np.ndarray:
    layout = LAYOUTS["coco"]
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    return layout.mask(archive, item, 64, 64)


def test_coco_outlines_are_crack_boxes_are_boxes_and_other_categories_nothing(tmp_path: Path) -> None:
    mask = coco_mask(
        coco(
            tmp_path,
            [
                {"segmentation": [[10, 10, 19, 10, 19, 19, 10, 19]]},
                {"bbox": [5, 5, 30, 20]},
                {"bbox": [40, 40, 20, 20], "category_id": 2},
            ],
        )
    )
    assert (mask == CRACK).sum() == 10 * 10
    assert (mask == BOX).sum() == 30 * 20 - 10 * 10
    assert not mask[40:, 40:].any()


@pytest.mark.parametrize(
    ("annotation", "category", "message"),
    [
        ({"segmentation": {"counts": "x", "size": [64, 64]}}, "crack", "run-length"),
        ({"segmentation": [[1, 2, 3]]}, "crack", r"instances\.json: annotation of images/a\.jpg is wrong"),
        ({"image_id": 8, "bbox": [0, 0, 1, 1]}, "crack", r"instances\.json is not COCO instances"),
        ({"bbox": [0, 0, 1, 1]}, "fissure", "no category 'crack'"),
    ],
)
def test_coco_that_cannot_be_read_is_refused(
    annotation: dict[str, Any], category: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        coco_mask(coco(tmp_path, [annotation], category))


def test_a_table_of_groups_beside_coco_says_what_belongs_together(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    (alone,) = LAYOUTS["coco"].items(archive, {})
    assert alone.group == "a.jpg"
    (tmp_path / "groups.csv").write_text('file_name,group\na.jpg,"flight/0,1"\nb.jpg,flight/other\n')
    (grouped,) = LAYOUTS["coco"].items(Archive(tmp_path), {})
    assert grouped.group == "flight/0,1"
    for wrong in ("picture\na.jpg\n", "file_name,group\na.jpg\n"):
        (tmp_path / "groups.csv").write_text(wrong)
        with pytest.raises(DataError, match=r"groups\.csv: expected is a table with the columns file_name and group"):
            LAYOUTS["coco"].items(Archive(tmp_path), {})


def test_uav75_is_read_as_its_repository_has_it(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:2], mask[10:20] = CRACK, JOINT
    for part in ("train", "val", "test"):
        write_picture(tmp_path / f"uav75/uav75-master/{part}_img/{part}1.jpg", GREY)
        write_picture(tmp_path / f"uav75/uav75-master/{part}_lab/{part}1.png", mask)
    source, archive = SOURCES["uav75"], Archive.find(tmp_path, "uav75")
    items = source.items(archive)
    assert {item.part for item in items} == {"train", "val", "test"}
    assert all((read_mask(archive, source, item, 64, 64) == mask).all() for item in items)


def test_a_damaged_archive_is_named(data_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "uav75.zip"
    picture = (data_root / "uav75/train/images/DSCtrain0.jpg").read_bytes()
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("train/images/a.jpg", picture)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"uav75\.zip: cannot be opened as a zip archive"):
        Archive.find(tmp_path, "uav75")
    damaged = bytearray(content)
    damaged[len(picture) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"uav75\.zip: train/images/a\.jpg cannot be read"):
        Archive.find(tmp_path, "uav75").read("train/images/a.jpg")
    with pytest.raises(DataError, match=r"uav75\.zip: train/masks/a\.png is not there"):
        Archive.find(tmp_path, "uav75").read("train/masks/a.png")


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_broken_picture_or_mask_is_named_when_the_set_is_decoded(
    name: str, damage: bytes | None, tmp_path: Path, added: Path
) -> None:
    path = added / name
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    source = get_source("bridge", for_training=True)
    with pytest.raises(DataError, match=rf"bridge: {name}: "):
        load_photographs(source, added.parent, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a data set with masks that a configuration adds: one crack in each of twelve photographs."""
    folder = tmp_path / "data/bridge"
    rng = np.random.default_rng(3)
    for name in "abcdefghijkl":
        mask = np.zeros((256, 256), np.uint8)
        cv2.line(mask, (40, 0), (60, 255), CRACK, 3)
        image = rng.integers(100, 200, (256, 256, 3)).astype(np.uint8)
        image[mask > 0] = 20
        write_picture(folder / f"{name}.jpg", image)
        write_picture(folder / f"{name}.png", mask)
    monkeypatch.setattr(sources, "DATASETS_FILE", write_facts(tmp_path, layout="same-stem", side_px=256))
    return folder


def write_facts(folder: Path, **changes: Any) -> Path:
    facts = {"name": "bridge", "role": "train", "licence": "CC0", "citation": "own", "file": "bridge.zip"}
    content = {"root": "data", "lock": "lock.json", "datasets": [facts | {"size": "-", "arrange": "-"} | changes]}
    path = folder / "sources.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_set_added_by_configuration_is_split_trained_and_evaluated_like_any_other(
    added: Path, tmp_path: Path
) -> None:
    root, cache = added.parent, tmp_path / "cache"
    files = open_files(get_source("bridge", for_training=True), root)
    write_split(make_split(files, seed=1, twins=copies_in(files)), tmp_path)
    sampler = load_samplers(["bridge"], root, cache, tmp_path, synthetic_count=2, seed=1)["bridge"]
    labels = [sampler.sample(np.random.default_rng(seed), 96, rotate=True)[1] for seed in range(20)]
    assert set(labels) == {True, False}
    assert parse_sets(["bridge"]) == [("bridge", "val"), ("bridge", "test")]
    assert parse_sets(["bridge/val"]) == [("bridge", "val")]
    assert role_of("bridge", "val") == "validation"
    tiles = evaluation_tiles("bridge", "test", root, cache, tmp_path)
    assert set(tiles.kinds) == {"crack", "plain"}
    assert set(tiles.groups) < {f"{name}.jpg" for name in "abcdefghijkl"} | set("abcdefghijkl")


def test_an_external_set_added_by_configuration_is_never_trained_on(added: Path, tmp_path: Path) -> None:
    write_facts(tmp_path, layout="same-stem", role="external")
    with pytest.raises(DataError, match="external test"):
        get_source("bridge", for_training=True)
    assert parse_sets(["bridge"]) == [("bridge", "test")]
    assert role_of("bridge", "test") == "external"
    assert len(evaluation_tiles("bridge", "test", added.parent, tmp_path / "cache")) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "pascal"}, "layout 'pascal'; allowed for data: metu"),
        ({"layout": "metu", "role": "weights"}, "layout 'metu'"),
        ({"layout": "metu", "name": "uav75"}, "uav75 is built in"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_with_the_file(change: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"sources\.yaml: .*{message}"):
        configured_sources(write_facts(tmp_path, **change))


def test_added_sets_are_found_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_source("sdnet2018", for_training=True).side_px == 256
    with pytest.raises(DataError, match=r"'sdnet' is unknown; allowed: .*sdnet2018.*sources\.yaml adds more"):
        get_source("sdnet", for_training=True)


def test_the_example_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "sources.yaml"
    path.write_text(f"root: data\nlock: lock.json\ndatasets:\n{example}", encoding="utf-8")
    source = configured_sources(path)["my-bridge"]
    for folder in ("cracked", "sound"):
        write_picture(tmp_path / f"my-bridge/{folder}/a.jpg", GREY)
    assert [item.label for item in source.items(Archive.find(tmp_path, "my-bridge"))] == [True, False]
    assert source.role == "external"
