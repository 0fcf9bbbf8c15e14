from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import REPOSITORY, write_picture
from training.data import sources
from training.data.audit import audit
from training.data.audit_command import AuditSettings, Places
from training.data.cache import Photographs, load_photographs
from training.data.copies import copies_in, open_files
from training.data.dataset import evaluation_tiles
from training.data.loaders import LAYOUTS, configured_sources
from training.data.mixture import load_samplers
from training.data.sources import BOX, CRACK, JOINT, SOURCES, Archive, get_source, read_mask
from training.data.splits import make_split, write_split
from training.errors import ConfigError, DataError
from training.evaluation.evaluate import parse_sets, role_of
from training.progress import no_bar

pytestmark = pytest.mark.training
COMMITTED = REPOSITORY / "config/training/commands/sources.yaml"
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


def test_yolo_takes_an_empty_file_for_sound_and_refuses_a_picture_without_one(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/a.jpg", GREY)
    layout, archive = LAYOUTS["yolo"], Archive(tmp_path)
    expected = r"a\.jpg has no boxes; expected is images/a\.txt or labels/a\.txt; an empty one says that it holds no"
    with pytest.raises(DataError, match=expected):
        layout.items(archive, {})
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("")
    archive = Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert not layout.mask(archive, item, 64, 64).any()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", GREY)
    write_picture(tmp_path / "a.png", np.full((64, 64), CRACK, np.uint8))
    layout, archive = LAYOUTS["same-stem"], Archive(tmp_path)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    assert (layout.mask(archive, item, 64, 64) == CRACK).all()
    with pytest.raises(DataError, match=r"a\.png"):
        layout.mask(archive, item, 32, 32)


def test_crops_of_crack500_are_grouped_by_photograph(tmp_path: Path) -> None:
    first, second = "20160222_081031", "20160222_081102"
    names = [f"{first}_1_1", f"{first}_1_361", f"{first}_641_1", first, f"{second}_1_1", "wall_1_1"]
    for name in names:
        write_picture(tmp_path / f"{name}.jpg", GREY)
        write_picture(tmp_path / f"{name}.png", GREY)
    groups = {Path(item.path).stem: item.group for item in LAYOUTS["same-stem"].items(Archive(tmp_path), {})}
    assert groups == dict(zip(names, [first] * 4 + [second, "wall_1_1"], strict=True))


def same_stem_mask(folder: Path, stored: np.ndarray) -> np.ndarray:
    write_picture(folder / "a.jpg", GREY)
    write_picture(folder / "a.png", stored)
    layout, archive = LAYOUTS["same-stem"], Archive(folder)
    (item,) = layout.items(archive, {})
    assert layout.mask is not None
    return layout.mask(archive, item, 64, 64)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_mask_in_any_colour_is_crack(channel: int, tmp_path: Path) -> None:
    stored = np.zeros((64, 64, 3), np.uint8)
    stored[10:20, :, channel] = 255
    mask = same_stem_mask(tmp_path, stored)
    assert (mask[10:20] == CRACK).all()
    assert np.count_nonzero(mask) == 640


@pytest.mark.parametrize(("value", "dtype"), [(1, np.uint8), (127, np.uint8), (1, np.uint16), (255, np.uint16)])
def test_a_mask_of_other_values_is_named_and_never_sound(value: int, dtype: type, tmp_path: Path) -> None:
    stored: np.ndarray = np.zeros((64, 64), dtype)
    stored[10:20] = value
    with pytest.raises(DataError, match=rf"a\.png holds .*values up to {value}; allowed are 0 \(sound\) and 255"):
        same_stem_mask(tmp_path, stored)
    assert not same_stem_mask(tmp_path, np.zeros((64, 64), dtype)).any()


@pytest.mark.parametrize("name", ["uavcrack", "uav75"])
def test_masks_of_built_in_sets_are_held_to_their_values(name: str, data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / name, tmp_path / name)
    source, archive = SOURCES[name], Archive.find(tmp_path, name)
    item = source.items(archive)[0]
    assert item.annotation is not None
    stored = read_image(tmp_path / name / item.annotation)
    side = stored.shape[0]
    write_picture(tmp_path / name / item.annotation, stored // 200)
    with pytest.raises(DataError, match=r"holds values up to 1; allowed are 0"):
        read_mask(archive, source, item, side, side)
    stored[:, :, :2] = 0  # red alone
    write_picture(tmp_path / name / item.annotation, stored)
    assert (read_mask(archive, source, item, side, side) == stored[:, :, 2]).all()


def test_metu_is_read_as_kaggle_has_it_and_as_mendeley_s_rar_unpacks_nested_or_not_zip_or_folder(
    tmp_path: Path,
) -> None:
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


PACKED_METU = "Concrete Crack Images for Classification.rar"


def test_what_is_packed_once_more_is_to_be_unpacked_first(tmp_path: Path) -> None:
    full = configured_sources(COMMITTED)["metu-full"]
    for source in (SOURCES["metu-ccic"], full):
        root = tmp_path / source.name
        root.mkdir()
        with zipfile.ZipFile(root / f"{source.name}.zip", "w") as zipped:
            zipped.writestr(f"archive/{PACKED_METU}", b"Rar!")
            zipped.writestr("__MACOSX/archive/._a.jpg", b"")
        with pytest.raises(DataError, match=rf"{source.name}\.zip: .*unpack archive/{PACKED_METU} first"):
            load_photographs(source, root, tmp_path / "cache")
        (root / f"{source.name}.zip").rename(root / f"{source.name}.rar")
        with pytest.raises(DataError, match=rf"{source.name}\.rar cannot be read packed; unpack it to {source.name}/"):
            Archive.find(root, source.name)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_built_in_set_without_a_photograph_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "readme.txt").write_text("about")
    with pytest.raises(DataError, match="no photograph is where the layout expects it"):
        SOURCES[name].items(Archive.find(tmp_path, name))


@pytest.mark.parametrize("name", ["metu-ccic", "metu-full"])
def test_what_a_mac_adds_is_passed_over_and_webp_is_read(name: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.webp", GREY)
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as zipped:
        zipped.write(tmp_path / "a.webp", "Positive/a.webp")
        for hidden in ("__MACOSX/Positive/._a.jpg", "Positive/._a.jpg", ".cache/Positive/a.jpg"):
            zipped.writestr(hidden, b"\0\5\x16\7")
    photographs = load_photographs(get_source(name, for_training=True), tmp_path, tmp_path / "cache")
    assert [item.path for item in photographs.items] == ["Positive/a.webp"]


def marked(archive: bytes, offsets: tuple[int, int], value: int) -> bytes:
    """Write a 16-bit value into the local header and the entry of the list of an archive of one file."""
    content = bytearray(archive)
    for start, offset in zip((0, archive.index(b"PK\1\2")), offsets, strict=True):
        content[start + offset : start + offset + 2] = value.to_bytes(2, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("offsets", "value", "reason"), [((6, 8), 1, "encrypted"), ((8, 10), 9, "compression")], ids=["locked", "deflate64"]
)
def test_a_zip_that_python_cannot_unpack_ends_in_advice(
    offsets: tuple[int, int], value: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "metu-ccic.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("Positive/a.jpg", b"content")
    path.write_bytes(marked(path.read_bytes(), offsets, value))
    expected = rf"Positive/a\.jpg cannot be read \(.*{reason}.*\); unpack the archive with 7-Zip to metu-ccic/"
    archive = Archive.find(tmp_path, "metu-ccic")
    with pytest.raises(DataError, match=expected):
        archive.read("Positive/a.jpg")
    settings = AuditSettings(data=Places(root=tmp_path, splits=tmp_path), out=tmp_path)
    with pytest.raises(DataError, match=rf"none of 1 photographs can be read \(first: .*{expected}"):
        audit(SOURCES["metu-ccic"], archive, settings, no_bar)


@pytest.mark.parametrize("place", ["list", "header"])
def test_a_zip_with_a_name_that_is_no_utf8_is_named(place: str, tmp_path: Path) -> None:
    path = tmp_path / "metu-ccic.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("Positive/ä.jpg", b"content")
    content, name = path.read_bytes(), "ä".encode()
    at = content.index(name) if place == "header" else content.rindex(name)
    path.write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])
    with pytest.raises(DataError, match=r"metu-ccic\.zip: .*cannot be .*utf-8"):
        Archive.find(tmp_path, "metu-ccic").read("Positive/ä.jpg")


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
        ({"segmentation": [[]]}, "crack", r"annotation of images/a\.jpg is wrong \(KeyError\('bbox'\)"),
        ({"segmentation": [[1, 2, 1e30, 4]]}, "crack", r"annotation of images/a\.jpg is wrong"),
        ({"segmentation": [[1, 2, float("nan"), 4]]}, "crack", r"annotation of images/a\.jpg is wrong"),
        ({"bbox": [0, 0, float("inf"), 1]}, "crack", r"annotation of images/a\.jpg is wrong"),
    ],
)
def test_coco_that_cannot_be_read_is_refused(
    annotation: dict[str, Any], category: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        coco_mask(coco(tmp_path, [annotation], category))


def test_polygons_of_one_annotation_are_a_union(tmp_path: Path) -> None:
    squares = [[10, 10, 29, 10, 29, 29, 10, 29], [20, 20, 39, 20, 39, 39, 20, 39], [50, 50, 51, 50, 51, 51, 50, 51]]
    mask = coco_mask(coco(tmp_path, [{"segmentation": squares}]))
    assert (mask[20:30, 20:30] == CRACK).all()
    assert (mask == CRACK).sum() == 2 * 20 * 20 - 10 * 10 + 4


@pytest.mark.parametrize("empty", [[], [[]], None])
def test_an_empty_outline_counts_by_its_box_under_any_outline(empty: object, tmp_path: Path) -> None:
    outlined = {"segmentation": [[10, 10, 19, 10, 19, 19, 10, 19]]}
    mask = coco_mask(coco(tmp_path, [outlined, {"segmentation": empty, "bbox": [0, 0, 20, 20]}]))
    assert (mask == CRACK).sum() == 10 * 10
    assert (mask == BOX).sum() == 20 * 20 - 10 * 10


def test_a_picture_that_two_files_name_is_refused_with_both(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    shutil.copy(tmp_path / "instances.json", tmp_path / "reviewed.json")
    with pytest.raises(DataError, match=r"instances\.json and reviewed\.json both name images/a\.jpg"):
        LAYOUTS["coco"].items(archive, {})


def test_a_picture_that_a_file_lists_twice_is_refused(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["images"].append(content["images"][0] | {"id": 8})
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances\.json lists images/a\.jpg twice"):
        LAYOUTS["coco"].items(archive, {})


@pytest.mark.parametrize("other", [{"made": "2026"}, [1, 2], None])
def test_a_json_that_is_no_coco_is_passed_over(other: object, tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    (tmp_path / "meta.json").write_text(json.dumps(other))
    (tmp_path / "._instances.json").write_bytes(b"\0\5\x16\7")
    (item,) = LAYOUTS["coco"].items(archive, {})
    assert item.annotation == "instances.json"


def test_a_json_that_is_none_is_named(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(DataError, match=r"instances\.json is not JSON"):
        LAYOUTS["coco"].items(archive, {})


def test_half_a_coco_file_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    (tmp_path / "captions.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(DataError, match=r"captions\.json is not COCO instances: it lacks categories"):
        LAYOUTS["coco"].items(archive, {})


def test_a_table_of_groups_beside_coco_says_what_belongs_together(tmp_path: Path) -> None:
    archive = coco(tmp_path, [])
    (alone,) = LAYOUTS["coco"].items(archive, {})
    assert alone.group == "a.jpg"
    (tmp_path / "groups.csv").write_text('file_name,group\na.jpg,"flight/0,1"\n')
    (grouped,) = LAYOUTS["coco"].items(Archive(tmp_path), {})
    assert grouped.group == "flight/0,1"
    (tmp_path / "groups.csv").write_text("file_name,group\r\na.jpg,pier\r\n", encoding="utf-8-sig")  # as of Excel
    (saved,) = LAYOUTS["coco"].items(Archive(tmp_path), {})
    assert saved.group == "pier"
    for wrong in ("picture\na.jpg\n", "file_name,group\na.jpg\n"):
        (tmp_path / "groups.csv").write_text(wrong)
        with pytest.raises(DataError, match=r"groups\.csv: expected is a table with the columns file_name and group"):
            LAYOUTS["coco"].items(Archive(tmp_path), {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["images/a.jpg,g1"], r"groups\.csv names images/a\.jpg, which no instances file beside it names so"),
        (["a.jpg,g1", *(f"b{n}.jpg,g1" for n in range(5))], r"names b0\.jpg, b1\.jpg, b2\.jpg and 2 more, which no"),
        ([], r"groups\.csv has no row for a\.jpg; give each picture its group"),
        (["a.jpg,g1", "a.jpg,g2"], r"groups\.csv puts a\.jpg into two groups"),
    ],
)
def test_a_table_of_groups_that_does_not_fit_the_pictures_is_refused(
    rows: list[str], message: str, tmp_path: Path
) -> None:
    archive = coco(tmp_path, [])
    (tmp_path / "groups.csv").write_text("\n".join(["file_name,group", *rows, ""]))
    with pytest.raises(DataError, match=message):
        LAYOUTS["coco"].items(archive, {})


def test_a_table_of_groups_is_of_all_files_beside_it_and_may_have_rows_of_pictures_that_none_lists(
    tmp_path: Path,
) -> None:
    archive = coco(tmp_path, [])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["images"][0]["file_name"] = "b.jpg"
    (tmp_path / "second.json").write_text(json.dumps(content))
    for name in "bc":
        write_picture(tmp_path / f"images/{name}.jpg", GREY)
    (tmp_path / "groups.csv").write_text("file_name,group\na.jpg,pier\nb.jpg,pier\nc.jpg,deck\n")
    items = LAYOUTS["coco"].items(archive, {})
    assert {item.path: item.group for item in items} == {"images/a.jpg": "pier", "images/b.jpg": "pier"}


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
    with pytest.raises(DataError, match=r"uav75\.zip: cannot be opened as a zip archive .*7-Zip to uav75/"):
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


def decoded(root: Path, cache: Path) -> tuple[Photographs, int]:
    """The data set `bridge`, and which file on disk its pictures are."""
    photographs = load_photographs(get_source("bridge", for_training=True), root, cache)
    (folder,) = cache.iterdir()
    return photographs, (folder / "images.npy").stat().st_ino


def test_a_set_is_decoded_anew_when_its_side_or_layout_changed_and_not_otherwise(added: Path, tmp_path: Path) -> None:
    root, cache = added.parent, tmp_path / "cache"
    for path in added.glob("*.png"):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
        if path.stem != "a":
            path.unlink()
            path.with_suffix(".jpg").unlink()
    first, file = decoded(root, cache)
    assert decoded(root, cache)[1] == file
    write_facts(tmp_path, layout="same-stem", side_px=128)
    smaller, _ = decoded(root, cache)
    assert smaller.masks is not None
    assert smaller.images.shape == (1, 128, 128, 3)
    assert (smaller.masks == CRACK).any(axis=2).all()
    write_facts(tmp_path, layout="yolo", side_px=128)
    boxed, _ = decoded(root, cache)
    assert boxed.masks is not None
    assert set(np.unique(boxed.masks)) == {0, BOX}
    assert first.masks is not None
    assert first.masks.shape == (1, 256, 256), "what was opened before is still there"


def test_masks_that_an_earlier_version_decoded_are_read_anew(added: Path, tmp_path: Path) -> None:
    root, cache = added.parent, tmp_path / "cache"
    before, file = decoded(root, cache)
    (folder,) = cache.iterdir()
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({key: index[key] for key in ("sha256", "paths")}))
    after, renewed = decoded(root, cache)
    assert renewed != file
    assert np.array_equal(after.images, before.images)
    assert json.loads((folder / "index.json").read_text()) == index


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


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["metu-ccic", "metu-full"], "metu-full and metu-ccic hold"),
        (["uavcrack", "uav75", "crack500"], "crack500 and uavcrack hold"),
        (["crack500", "synthetic"], r"crack500 and uavcrack \(in synthetic\) hold"),
        (["synthetic", "metu-ccic", "metu-full"], "metu-full and metu-ccic hold"),
    ],
)
def test_two_sets_with_the_same_pictures_are_never_trained_on_together(
    names: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"^{said} the same pictures \(.*sources\.yaml: overlaps\)"):
        load_samplers(names, tmp_path, tmp_path, tmp_path, synthetic_count=2, seed=1)
    for alone in [["metu-full"], ["metu-full", "uav75"]]:
        with pytest.raises(DataError, match="neither metu-full"):  # only that it is not there
            load_samplers(alone, tmp_path, tmp_path, tmp_path, synthetic_count=2, seed=1)


def test_the_overlap_with_an_unknown_set_is_refused_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources\.yaml.*bridge: overlaps brigde; allowed: bridge"):
        configured_sources(write_facts(tmp_path, overlaps=["brigde"]))


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
