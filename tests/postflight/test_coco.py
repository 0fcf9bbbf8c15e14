from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drone_agent.clock import ManualClock
from drone_agent.errors import InputError
from drone_agent.flightlog.reader import Flight
from drone_agent.postflight.coco import export_coco
from drone_agent.postflight.findings import find
from drone_agent.values import Event
from tests.flightlog.flights import concrete_tile, empty_flight, image_flight, new_log, wall_flight

SIDE = 448


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    return Flight.open(wall_flight(tmp_path_factory.mktemp("flights"), frames=90, sightings=10))


def export(flight: Flight, to: Path) -> dict[str, Any]:
    document = json.loads((export_coco(flight, to) / "instances.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def boxes(document: dict[str, Any], image_id: int) -> list[list[int]]:
    return [entry["bbox"] for entry in document["annotations"] if entry["image_id"] == image_id]


def seen_at(
    root: Path,
    tile: tuple[int, int, int] | None,
    corner: tuple[int, int] | None,
    *,
    hits: tuple[tuple[int, ...], ...] = (),
    size: tuple[int, int] = (SIDE, SIDE),
) -> Flight:
    """A flight with one sighting in `tile` of its frame; `hits` are further tiles (x, y, side) called crack in it."""
    log = new_log(root, clock=ManualClock())
    called = [[*hit, 0.7, 1.0, 2.0] for hit in (tile, *hits) if hit]
    log.event(Event("frame", 0, {"index": 4, "tiles": 9, "cracks": len(called), "hits": called}))
    picture = np.ascontiguousarray(concrete_tile(1, crack=True, side=max(size))[: size[1], : size[0]])
    image = log.image("sighting-0001", picture, {"id": 1})
    place = {"face": "wall", "along": 1.0, "height": 2.0, "cell": [20, 40], "frame": 4, "p_max": 0.9, "image": image}
    log.event(Event("sighting", 0, {"id": 1, **place, "tile": tile, "image_corner": corner}))
    log.close()
    return Flight.open(log.folder)


def test_every_evidence_picture_is_there_once_unchanged_with_the_size_that_it_has(wall: Flight, tmp_path: Path) -> None:
    document = export(wall, tmp_path)
    folder = tmp_path / f"{wall.name}-coco"
    assert sorted(path.name for path in folder.iterdir()) == ["groups.csv", "images", "instances.json"]
    logged = [s.image for s in wall.sightings] + [sample.image for sample in wall.clean_samples]
    assert len(wall.clean_samples) > 0
    assert [f"images/{image['file_name']}" for image in document["images"]] == logged
    assert {f"images/{path.name}" for path in (folder / "images").iterdir()} == set(logged)
    for image in document["images"]:
        content = (folder / "images" / image["file_name"]).read_bytes()
        assert content == (wall.folder / "images" / image["file_name"]).read_bytes()
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert (image["height"], image["width"]) == pixels.shape[:2]


def test_the_document_is_as_strict_as_the_readers_of_coco_are(wall: Flight, tmp_path: Path) -> None:
    document = export(wall, tmp_path)
    assert document["categories"] == [{"id": 1, "name": "crack", "supercategory": "defect"}]
    size = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    assert list(size) == list(range(1, len(document["images"]) + 1))
    assert len({image["file_name"] for image in document["images"]}) == len(size)
    assert [entry["id"] for entry in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for entry in document["annotations"]:
        assert set(entry) >= {"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"}
        assert (entry["category_id"], entry["segmentation"], entry["iscrowd"]) == (1, [], 0)
        x, y, w, h = entry["bbox"]
        assert all(type(value) is int for value in (entry["image_id"], entry["area"], x, y, w, h))
        width, height = size[entry["image_id"]]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert entry["area"] == w * h


def test_a_box_says_which_sighting_and_finding_it_is_and_that_nobody_reviewed_it(wall: Flight, tmp_path: Path) -> None:
    document = export(wall, tmp_path)
    finding_of = {s.id: f"F{finding.number}" for finding in find(wall) for s in finding.sightings}
    assert [entry["attributes"] for entry in document["annotations"]] == [
        {"score": s.p_max, "sighting": s.id, "finding": finding_of[s.id], "reviewed": False} for s in wall.sightings
    ]
    info = document["info"]
    assert (info["flight"], info["reviewed"]) == (wall.name, False)
    assert info["model"] == {"name": "opnet", "version": "0.1.0"}
    assert "not the outline" in info["description"]
    assert "Nobody has reviewed" in info["description"]


def test_clear_tiles_are_pictures_without_a_box(wall: Flight, tmp_path: Path) -> None:
    document = export(wall, tmp_path)
    boxed = {entry["image_id"] for entry in document["annotations"]}
    empty = {f"images/{image['file_name']}" for image in document["images"] if image["id"] not in boxed}
    assert empty == {sample.image for sample in wall.clean_samples}


@pytest.mark.parametrize(
    ("tile", "corner", "size", "box"),
    [
        ((208, 128, 224), (96, 16), (SIDE, SIDE), [112, 112, 224, 224]),
        ((0, 128, 224), (0, 16), (SIDE, SIDE), [0, 112, 224, 224]),
        ((0, 0, 224), (40, 30), (SIDE, SIDE), [0, 0, 184, 194]),  # out at the left and at the top
        ((300, 200, 224), (0, 0), (SIDE, 320), [300, 200, 148, 120]),  # out at the right and at the bottom
        ((300, 200, 224), None, (224, 224), [0, 0, 224, 224]),  # an old log: the picture is the tile
        (None, (0, 0), (SIDE, SIDE), [0, 0, SIDE, SIDE]),
        ((2000, 0, 224), (0, 0), (SIDE, SIDE), [0, 0, SIDE, SIDE]),  # cannot be true: it is somewhere in the picture
    ],
)
def test_the_box_is_the_tile_in_pixels_of_the_picture_clipped_to_it(
    tile: tuple[int, int, int] | None,
    corner: tuple[int, int] | None,
    size: tuple[int, int],
    box: list[int],
    tmp_path: Path,
) -> None:
    document = export(seen_at(tmp_path / "flights", tile, corner, size=size), tmp_path)
    assert boxes(document, 1) == [box]
    assert document["annotations"][0]["area"] == box[2] * box[3]


def test_other_tiles_that_the_agent_called_crack_are_not_left_as_sound(tmp_path: Path) -> None:
    right, half_below, sliver, elsewhere = (320, 128, 224), (208, 352, 224), (208, -97, 224), (900, 128, 224)
    flight = seen_at(tmp_path / "flights", (208, 128, 224), (96, 16), hits=(right, half_below, sliver, elsewhere))
    document = export(flight, tmp_path)
    # the tile of the sighting once, though it is among the frame's; of the sliver 111 rows of 224 are in the picture
    assert boxes(document, 1) == [[112, 112, 224, 224], [224, 112, 224, 224], [112, 336, 224, 112]]
    assert document["annotations"][1]["attributes"] == {
        "score": 0.7,
        "sighting": None,
        "finding": None,
        "reviewed": False,
    }


def test_tiles_of_a_frame_with_the_same_number_after_a_restart_are_not_taken(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    log.event(Event("frame", 0, {"index": 4, "hits": [[224, 0, 224, 0.9, 1.0, 2.0]]}))
    log.event(Event("frame", 9, {"index": 4, "hits": [[0, 224, 224, 0.8, 1.0, 2.0], [None, 1]]}))
    place = {"face": "wall", "along": 1.0, "height": 2.0, "cell": [20, 40], "frame": 4, "tile": [0, 0, 224]}
    image = log.image("sighting-0001", concrete_tile(1, crack=True, side=SIDE), {"id": 1})
    log.event(Event("sighting", 9, {"id": 1, **place, "image_corner": [0, 0], "image": image}))
    log.close()
    assert boxes(export(Flight.open(log.folder), tmp_path), 1) == [[0, 0, 224, 224], [0, 224, 224, 224]]


def test_two_sightings_in_one_picture_are_two_boxes(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    image = log.image("sighting-0001", concrete_tile(1, crack=True, side=SIDE), {"id": 1})
    for number, tile in ((1, [96, 0, 224]), (2, [320, 200, 224])):
        place = {"face": "wall", "along": 1.0 * number, "height": 2.0, "cell": [20 * number, 40], "p_max": 0.9}
        log.event(Event("sighting", 0, {"id": number, **place, "tile": tile, "image_corner": [96, 0], "image": image}))
    log.event(Event("clean_sample", 0, {"frame": 3, "tile": [0, 0, 224], "image": image}))
    log.close()
    document = export(Flight.open(log.folder), tmp_path)
    assert [image["id"] for image in document["images"]] == [1]
    assert boxes(document, 1) == [[0, 0, 224, 224], [224, 200, 224, 224]]
    assert [entry["attributes"]["sighting"] for entry in document["annotations"]] == [1, 2]


def test_the_same_flight_gives_the_same_bytes_and_may_be_exported_again(wall: Flight, tmp_path: Path) -> None:
    first, second = export_coco(wall, tmp_path / "a"), export_coco(Flight.open(wall.folder), tmp_path / "b")
    content = (first / "instances.json").read_bytes()
    assert content == (second / "instances.json").read_bytes()
    (first / "images/sighting-0001.jpg").unlink()
    assert export_coco(wall, tmp_path / "a") == first
    assert (first / "images/sighting-0001.jpg").is_file()
    assert (first / "instances.json").read_bytes() == content
    assert not list(first.rglob("*.tmp"))


def test_a_review_is_never_overwritten(wall: Flight, tmp_path: Path) -> None:
    instances = export_coco(wall, tmp_path) / "instances.json"
    reviewed = instances.read_text(encoding="utf-8").replace('"reviewed": false', '"reviewed": true')
    instances.write_text(reviewed, encoding="utf-8")
    with pytest.raises(InputError, match=r"instances\.json: is there already and says something else .*--to"):
        export_coco(wall, tmp_path)
    assert instances.read_text(encoding="utf-8") == reviewed


def test_lost_and_damaged_pictures_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_flight(tmp_path / "flights", sightings=4)
    images = folder / "images"
    (images / "sighting-0001.jpg").unlink()
    (images / "sighting-0002.jpg").write_bytes((images / "sighting-0002.jpg").read_bytes()[:-900])
    (images / "sighting-0003.jpg").write_bytes(b"")
    document = export(Flight.open(folder), tmp_path)
    assert [image["file_name"] for image in document["images"]] == ["sighting-0004.jpg"]
    assert [entry["attributes"]["sighting"] for entry in document["annotations"]] == [4]
    assert [path.name for path in tmp_path.glob("*-coco/images/*")] == ["sighting-0004.jpg"]
    assert Counter(record.levelname for record in caplog.records) == {"WARNING": 1}
    assert "3 of 4 evidence pictures are missing or damaged" in caplog.text
    assert "sighting-0001.jpg" in caplog.text


def test_a_picture_outside_the_flight_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "private.jpg").write_bytes(b"")
    log = new_log(tmp_path / "flights", clock=ManualClock())
    log.event(Event("clean_sample", 0, {"frame": 3, "tile": [0, 0, 224], "image": "../../private.jpg"}))
    log.close()
    with pytest.raises(
        InputError, match=r"none of the 1 evidence pictures can be read \(first: \.\./\.\./private\.jpg"
    ):
        export_coco(Flight.open(log.folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flight_without_evidence_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the flight kept no evidence picture") as caught:
        export_coco(Flight.open(empty_flight(tmp_path / "flights")), tmp_path / "out")
    assert os.linesep not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_flight_that_found_nothing_still_gives_its_sound_examples(tmp_path: Path) -> None:
    log = new_log(tmp_path / "flights", clock=ManualClock())
    image = log.image("clean-0001", concrete_tile(2, crack=False), {"kind": "clean_sample"})
    log.event(Event("clean_sample", 0, {"frame": 3, "tile": [0, 0, 224], "p": 0.02, "image": image}))
    log.close()
    document = export(Flight.open(log.folder), tmp_path)
    assert [image["file_name"] for image in document["images"]] == ["clean-0001.jpg"]
    assert document["annotations"] == []


def test_a_folder_that_cannot_be_written_is_one_clear_line(wall: Flight, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as caught:
        export_coco(wall, tmp_path / "file" / "sub")
    assert os.linesep not in str(caught.value)


def test_a_disk_that_fills_up_leaves_no_instances_that_name_what_is_not_there(
    wall: Flight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, replace = 0, Path.replace

    def full_after_three(source: Path, target: Path) -> Path:
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(28, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", full_after_three)
    with pytest.raises(InputError, match="disk is full"):
        export_coco(wall, tmp_path)
    assert len(list(tmp_path.glob("*-coco/images/*"))) == 3
    assert not list(tmp_path.glob("*-coco/instances.json"))


def groups(folder: Path) -> dict[str, str]:
    with (folder / "groups.csv").open(encoding="utf-8", newline="") as file:
        return {row["file_name"]: row["group"] for row in csv.DictReader(file)}


def seen_in_places(root: Path, places: list[tuple[float | None, float | None]], *, unit: str = "m") -> Flight:
    """A flight with sightings in those cells of 5 cm, and a clean sample in the first of the places."""
    log = new_log(root, clock=ManualClock())
    for number, (along, height) in enumerate(places, start=1):
        image = log.image(f"sighting-{number:04d}", concrete_tile(number, crack=True), {"id": number})
        cell = [round((along or 0) * 20), round((height or 0) * 20)]
        place = {"face": "wall", "along": along or 0.0, "height": height or 0.0, "unit": unit, "cell": cell}
        log.event(Event("sighting", 0, {"id": number, **place, "frame": number, "p_max": 0.9, "image": image}))
    image = log.image("clean-0001", concrete_tile(99, crack=False), {"kind": "clean_sample"})
    along, height = places[0]
    sample = {"frame": 1, "tile": [0, 0, 224], "along": along, "height": height, "image": image}
    log.event(Event("clean_sample", 0, sample))
    log.close()
    return Flight.open(log.folder)


def test_pictures_of_the_same_wall_are_one_group_whatever_pass_they_are_of(tmp_path: Path) -> None:
    flight = seen_in_places(tmp_path, [(0.3, 1.2), (1.7, 0.1), (4.5, 1.0), (4.6, 2.5), (0.4, 1.3)])
    found = groups(export_coco(flight, tmp_path / "out"))
    first, second, third, fourth, again = (found[f"sighting-{number:04d}.jpg"] for number in range(1, 6))
    assert first == second == again == found["clean-0001.jpg"]
    assert len({first, third, fourth}) == 3
    assert all(group.startswith(f"{flight.name}/") for group in found.values())


def test_one_finding_is_never_divided(tmp_path: Path) -> None:
    flight = seen_in_places(tmp_path, [(1.9, 1.0), (2.05, 1.0), (3.9, 3.9)])
    (long, _) = sorted(find(flight), key=lambda finding: -len(finding.sightings))
    assert {sighting.id for sighting in long.sightings} == {1, 2}, "the two lie in different blocks of 2 m"
    found = groups(export_coco(flight, tmp_path / "out"))
    assert found["sighting-0001.jpg"] == found["sighting-0002.jpg"] != found["sighting-0003.jpg"]


def test_pictures_without_a_place_in_metres_are_one_group(tmp_path: Path) -> None:
    flight = seen_in_places(tmp_path, [(100.0, 900.0), (5000.0, 20.0)], unit="px")
    found = groups(export_coco(flight, tmp_path / "out"))
    assert len(found) == 3
    assert len(set(found.values())) == 1
