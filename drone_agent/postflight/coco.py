"""How do the finds become training data? As COCO instances with the evidence pictures, for a person to look through.

Annotation tools (CVAT and others) open the folder, and the training's layout `coco` reads it as it is. A box is the
tile in which the agent saw a crack: it holds a crack somewhere and is no outline. The random sample of clear tiles
goes along without boxes, as sound examples. Both are the agent's own opinion until somebody has reviewed them.

An evidence picture shows more than its sighting's tile, and what no box covers is taken for sound. So the other tiles
of the same frame in which the agent saw a crack are boxed as well, where at least half of the tile is in the picture.

Pictures of one flight show the same wall again and again. `groups.csv` says which belong together, so that what is
trained on and what is tested on can be drawn apart.

Format: https://cocodataset.org/#format-data ("object detection"); `attributes` of an annotation as CVAT has them.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drone_agent.errors import InputError
from drone_agent.flightlog.files import why, write_atomically
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import IMAGE_FOLDER, CleanSampleRecord, FrameRecord, SightingRecord
from drone_agent.postflight.findings import find
from drone_agent.vision.preprocess import read_image

log = logging.getLogger(__name__)
GROUPS_FILE = "groups.csv"
_Tile = tuple[int, int, int]
_Box = tuple[int, int, int, int]

# of a tile with less of it in the picture, the crack may well lie in the part that is not
_MIN_VISIBLE = 0.5
# a picture shows half a metre of wall, and the same place is flown past again decimetres beside
_BLOCK_M = 2.0
_UNPLACED = "unplaced"
_CATEGORY = {"id": 1, "name": "crack", "supercategory": "defect"}
_DESCRIPTION = (
    "Evidence of one flight. Each box is a tile in which the agent saw a crack, not the outline of the crack, which "
    "may go on outside. Pictures without a box are tiles that the agent called clear. Nobody has reviewed either."
)


@dataclass(frozen=True, slots=True)
class _Picture:
    """An evidence file that can be read, and what the log says of it: sightings, or a clean sample."""

    source: Path
    file_name: str
    width: int
    height: int
    records: tuple[SightingRecord | CleanSampleRecord, ...]

    @property
    def sightings(self) -> tuple[SightingRecord, ...]:
        return tuple(record for record in self.records if isinstance(record, SightingRecord))


def export_coco(flight: Flight, out_dir: Path) -> Path:
    """Writes the folder `<flight>-coco` with `instances.json`, `groups.csv` and the evidence in `images/`.

    The pictures are copied byte for byte: one image a file, in the order of the sightings, then the clean samples.
    Boxes are in pixels of the picture and clipped to it: one a sighting (the whole picture where the log does not say
    where its tile lies), then one for each other tile of the frame that was called crack, if half of it or more is in
    the picture; `sighting` and `finding` of those are null. The same flight gives the same bytes.

    `groups.csv` (columns file_name, group) puts the pictures together that lie in the same 2 x 2 m of along and height
    (on whichever face) or show the same finding, and what those have in common with others. Pictures without a place in
    metres are one group.

    `instances.json` comes last, so that a folder that has it is whole. Pictures that are missing or damaged are left
    out with one warning.

    Returns:
        The folder.

    Raises:
        InputError: There is no evidence picture, the folder cannot be written, or it holds an `instances.json` that
            says something else (somebody's review, say).
    """
    pictures = _pictures(flight)
    finding_of = {s.id: f"F{finding.number}" for finding in find(flight) for s in finding.sightings}
    content = _document(flight, pictures, finding_of)
    document = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
    folder = out_dir / f"{flight.name}-coco"
    instances = folder / "instances.json"
    try:
        if instances.exists() and instances.read_bytes() != document:
            raise InputError(
                f"{instances}: is there already and says something else (reviewed by hand?); "
                "move it away or choose another folder with --to"
            )
        for picture in pictures:
            target = folder / IMAGE_FOLDER / picture.file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, picture.source.read_bytes(), durable=False)
        write_atomically(folder / GROUPS_FILE, _groups_table(flight, pictures, finding_of), durable=False)
        write_atomically(instances, document, durable=False)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {why(error)}") from error
    return folder


def _groups_table(flight: Flight, pictures: list[_Picture], finding_of: Mapping[int, str]) -> bytes:
    units = {face.unit for face in flight.faces.values()} | {sighting.unit for sighting in flight.sightings}
    metric = "px" not in units
    keys = [_keys(picture, finding_of, metric=metric) for picture in pictures]
    joined: list[set[str]] = []
    for own in keys:
        touched = [group for group in joined if group & own]
        joined = [group for group in joined if not group & own]
        joined.append(own.union(*touched))
    name_of = {key: min(group) for group in joined for key in group}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("file_name", "group"))
    writer.writerows(
        (picture.file_name, f"{flight.name}/{name_of[min(own)]}") for picture, own in zip(pictures, keys, strict=True)
    )
    return table.getvalue().encode()


def _keys(picture: _Picture, finding_of: Mapping[int, str], *, metric: bool) -> set[str]:
    """What a picture shares with others of its group: blocks of the wall, findings."""
    keys = set()
    for record in picture.records:
        along, height = _finite(record.along), _finite(record.height)
        if metric and along is not None and height is not None:
            keys.add(f"{math.floor(along / _BLOCK_M)},{math.floor(height / _BLOCK_M)}")
        else:
            keys.add(_UNPLACED)
        if isinstance(record, SightingRecord) and record.id in finding_of:
            keys.add(finding_of[record.id])
    return keys


def _document(flight: Flight, pictures: list[_Picture], finding_of: Mapping[int, str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # by time too: after a restart frames are counted anew
    frames: dict[tuple[int | None, int], FrameRecord] = {
        (frame.index, frame.t_mono_ns): frame for frame in flight.frames
    }
    for image_id, picture in enumerate(pictures, start=1):
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": image_id, "file_name": picture.file_name, **size})
        for (left, top, width, height), attributes in _opinions(picture, frames, finding_of):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": _CATEGORY["id"],
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "segmentation": [],
                    "iscrowd": 0,
                    "attributes": {**attributes, "reviewed": False},
                }
            )
    info = {
        "description": _DESCRIPTION,
        "contributor": "CrackScout",
        "flight": flight.name,
        "model": _model(flight),
        "reviewed": False,
    }
    return {"info": info, "licenses": [], "categories": [_CATEGORY], "images": images, "annotations": annotations}


def _model(flight: Flight) -> dict[str, str | None]:
    model = flight.session.get("model")
    known = model if isinstance(model, dict) else {}
    name, version = known.get("name") or known.get("bundle"), known.get("version")
    return {"name": str(name) if name else None, "version": str(version) if version else None}


def _opinions(
    picture: _Picture, frames: Mapping[tuple[int | None, int], FrameRecord], finding_of: Mapping[int, str]
) -> Iterator[tuple[_Box, dict[str, Any]]]:
    """Where in a picture the agent saw a crack, with attributes: the sightings' own tiles, then others of the frame."""
    size = (picture.width, picture.height)
    for sighting in picture.sightings:
        named = {"sighting": sighting.id, "finding": finding_of.get(sighting.id)}
        box = _box(sighting.tile, sighting.image_corner, size)
        yield box or (0, 0, *size), {"score": _finite(sighting.p_max), **named}
    boxed = {sighting.tile for sighting in picture.sightings}
    for sighting in picture.sightings:
        frame = frames.get((sighting.frame, sighting.t_mono_ns))
        for tile, p in _called_crack(frame) if frame else ():
            box = _box(tile, sighting.image_corner, size)
            if tile in boxed or box is None or box[2] * box[3] < _MIN_VISIBLE * tile[2] ** 2:
                continue
            boxed.add(tile)
            yield box, {"score": p, "sighting": None, "finding": None}


def _called_crack(frame: FrameRecord) -> Iterator[tuple[_Tile, float | None]]:
    """Each tile of a frame that was called crack, and its probability; entries that say no tile are passed over."""
    for hit in frame.hits:
        x, y, side, p = (_finite(value) for value in (*hit, None, None, None, None)[:4])
        if x is not None and y is not None and side is not None:
            yield (round(x), round(y), round(side)), p


def _pictures(flight: Flight) -> list[_Picture]:
    """The evidence files of a flight that can be read, each once, those of sightings first."""
    shown: dict[Path | str, list[SightingRecord | CleanSampleRecord]] = {}
    known: list[SightingRecord | CleanSampleRecord] = [*flight.sightings, *flight.clean_samples]
    for record in known:
        if record.image:
            shown.setdefault(flight.image_path(record.image) or record.image, []).append(record)
    if not shown:
        raise InputError(f"{flight.folder}: the flight kept no evidence picture, so there is nothing to export as COCO")
    pictures, lost = [], []
    for source, records in shown.items():
        picture = _picture(flight, source, records) if isinstance(source, Path) else None
        if picture is None:
            lost.append(str(source))
        else:
            pictures.append(picture)
    if not pictures:
        raise InputError(
            f"{flight.folder}: none of the {len(lost)} evidence pictures can be read (first: {lost[0]}), so there is "
            "nothing to export as COCO"
        )
    if lost:
        log.warning(
            "%s: %d of %d evidence pictures are missing or damaged and are left out (first: %s)",
            flight.folder,
            len(lost),
            len(shown),
            lost[0],
        )
    return pictures


def _picture(flight: Flight, source: Path, records: list[SightingRecord | CleanSampleRecord]) -> _Picture | None:
    """The picture in `source`; None if it cannot be read."""
    try:
        # decoded whole, by the decoder of the training, which refuses a set with a damaged picture in it
        height, width = read_image(source).shape[:2]
    except InputError:
        return None
    name = source.relative_to(flight.folder.resolve()).as_posix().removeprefix(f"{IMAGE_FOLDER}/")
    return _Picture(source, name, width, height, tuple(records))


def _box(tile: _Tile | None, corner: tuple[int, int] | None, size: tuple[int, int]) -> _Box | None:
    """Where a tile (x, y, side; px of the frame) lies in a picture with that upper left corner, clipped to its size.

    Returns:
        Left, top, width, height (px of the picture); None where that is not known or it lies outside.
    """
    if tile is None or corner is None:
        return None
    (x, y, side), (corner_x, corner_y), (width, height) = tile, corner, size
    left, top = max(0, x - corner_x), max(0, y - corner_y)
    right, bottom = min(width, x - corner_x + side), min(height, y - corner_y + side)
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
