"""Flights that the agent wrote and exported, read by the training: no JSON here is written by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drone_agent.agent import evidence_crop
from drone_agent.clock import ManualClock
from drone_agent.flightlog.reader import Flight
from drone_agent.postflight.coco import export_coco
from drone_agent.values import Event, Tile
from drone_agent.vision.preprocess import read_image
from tests.flightlog.flights import concrete_tile, new_log
from training.data.cache import load_photographs
from training.data.copies import copies_in, open_files
from training.data.dataset import evaluation_tiles
from training.data.loaders import configured_sources
from training.data.mixture import load_samplers
from training.data.sources import BOX, Archive, Source
from training.data.splits import make_split, write_split
from training.data.tiles import label_of

pytestmark = pytest.mark.training
SIDE = 448
TILES = (Tile(208, 128, 224), Tile(0, 128, 224), Tile(416, 128, 224))
NEIGHBOUR = Tile(208, 256, 224)
"""Called crack as well in the frame of the first sighting, but no sighting of its own."""


def exported(root: Path, *, sightings: int = 3, clean: int = 2, name: str = "flight-a") -> Path:
    """The folder that the agent exports of a flight: evidence crops as it cuts them, and clear tiles."""
    clock = ManualClock()
    log = new_log(root / "flights", name=name, clock=clock)
    for index in range(sightings):
        clock.set(index * 1_000_000_000)
        tile, frame = TILES[index % len(TILES)], concrete_tile(index, crack=True, side=640)[:480]
        called = [tile, NEIGHBOUR] if index == 0 else [tile]
        hits = [[hit.x_px, hit.y_px, hit.size_px, 0.8, 1.0, 2.0] for hit in called]
        log.event(Event("frame", clock.now_mono_ns(), {"index": index, "hits": hits}))
        crop, corner = evidence_crop(frame, tile, 2.0)
        image = log.image(f"sighting-{index + 1:04d}", crop, {"id": index + 1})
        place = {"face": "wall", "along": 1.0 * index, "height": 2.0, "cell": [20 * index, 40], "frame": index}
        data = {"id": index + 1, **place, "tile": [tile.x_px, tile.y_px, tile.size_px], "image_corner": corner}
        log.event(Event("sighting", clock.now_mono_ns(), {**data, "p_max": 0.9, "image": image}))
    for index in range(clean):
        picture = concrete_tile(100 + index, crack=False)
        image = log.image(f"clean-{index + 1:04d}", picture, {"kind": "clean_sample"})
        sample = {"frame": index, "tile": [416, 0, 224], "p": 0.02, "rate": 0.002, "image": image}
        log.event(Event("clean_sample", clock.now_mono_ns(), sample))
    log.close()
    return export_coco(Flight.open(log.folder), root / "data")


def facts(folder: Path, role: str = "train") -> Path:
    """A configuration as docs/data.md describes it, with the exported folder as a data set."""
    entry = {"name": "flight-a-coco", "role": role, "licence": "own", "citation": "own", "file": "flight-a-coco.zip"}
    entry |= {"size": "-", "arrange": "as exported", "layout": "coco"}
    path = folder / "sources.yaml"
    path.write_text(
        json.dumps({"root": "data", "lock": "lock.json", "datasets": [{**entry, "side_px": SIDE}]}), encoding="utf-8"
    )
    return path


def source_of(folder: Path) -> Source:
    return configured_sources(facts(folder))["flight-a-coco"]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "flight-a-coco"])
def test_the_folder_that_the_agent_exports_is_read_as_it_is_zipped_or_not(
    zipped: bool, inside: str, tmp_path: Path
) -> None:
    folder = exported(tmp_path)
    assert folder == tmp_path / "data/flight-a-coco"
    if zipped:
        shutil.make_archive(str(folder), "zip", folder.parent if inside else folder, inside or None)
        shutil.rmtree(folder)
    elif inside:
        folder = folder.rename(tmp_path / "moved")
        folder.parent.joinpath("data/flight-a-coco").mkdir()
        folder.rename(tmp_path / "data/flight-a-coco/flight-a-coco")
    source = source_of(tmp_path)
    photographs = load_photographs(source, tmp_path / "data", tmp_path / "cache")
    assert [Path(item.path).name for item in photographs.items] == [
        *(f"sighting-{number:04d}.jpg" for number in (1, 2, 3)),
        *(f"clean-{number:04d}.jpg" for number in (1, 2)),
    ]
    assert (Archive.find(tmp_path / "data", "flight-a-coco").path.suffix == ".zip") is zipped
    assert photographs.masks is not None
    for index, item in enumerate(photographs.items):
        evidence = read_image(tmp_path / "flights/flight-a/images" / Path(item.path).name)
        height, width = evidence.shape[:2]
        assert (photographs.images[index][:height, :width] == evidence).all()
        assert set(np.unique(photographs.masks[index])) == ({0, BOX} if "sighting" in item.path else {0})


def test_tiles_are_labelled_by_what_the_agent_saw_in_them(tmp_path: Path) -> None:
    exported(tmp_path)
    photographs = load_photographs(source_of(tmp_path), tmp_path / "data", tmp_path / "cache")
    assert photographs.masks is not None
    first, second, third, *clean = (np.asarray(mask) for mask in photographs.masks)

    def label(mask: np.ndarray, x: int, y: int, side: int = 224) -> bool | None:
        return label_of(mask[y : y + side, x : x + side])

    # 448 px around (208, 128): the corner is (96, 16)
    assert label(first, 112, 112) is True
    assert (first[112:336, 112:336] == BOX).all()
    assert label(first, 112, 224) is True, "a tile that the agent called crack without reporting it is no sound one"
    assert (first == BOX).sum() == 224 * (336 - 112) + 224 * (SIDE - 336)
    assert label(first, 0, 0, 112) is False
    assert label(first, 0, 0, 118) is None, "just touched: neither"
    # moved inwards at the left border (corner 0, 16) and at the right one (corner 192, 16)
    assert label(second, 0, 112) is True
    assert label(second, 224, 112) is False
    assert label(third, 224, 112) is True
    assert label(third, 0, 112) is False
    assert all(label(mask, 0, 0, SIDE) is False for mask in clean)


def test_exported_flights_are_split_trained_and_evaluated_like_any_other_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tmp_path, sightings=12, clean=8)
    monkeypatch.setattr("training.data.sources.DATASETS_FILE", facts(tmp_path))
    root, cache = tmp_path / "data", tmp_path / "cache"
    files = open_files(source_of(tmp_path), root)
    write_split(make_split(files, seed=1, twins=copies_in(files)), tmp_path)
    sampler = load_samplers(["flight-a-coco"], root, cache, tmp_path, synthetic_count=2, seed=1)["flight-a-coco"]
    drawn = [sampler.sample(np.random.default_rng(seed), 96, rotate=True) for seed in range(20)]
    assert {cracked for _, cracked, _ in drawn} == {True, False}
    assert all(known is None for _, cracked, known in drawn if cracked), "a box does not say which cells are crack"
    assert all(known is not None and not known.any() for _, cracked, known in drawn if not cracked)
    tiles = evaluation_tiles("flight-a-coco", "test", root, cache, tmp_path)
    assert set(tiles.kinds) == {"crack", "plain"}
