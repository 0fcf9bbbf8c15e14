"""How are the layouts read in which crack data sets are published, and how is one added without code?

A layout lists the photographs of an archive and reads their annotation as a mask (0, CRACK, BOX). Tiles are labelled
from masks by the rule of `training.data.tiles`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from training.config import Strict, read_settings
from training.data.sources import (
    CRACK,
    SOURCES,
    Archive,
    Item,
    Source,
    at_least_one,
    boxes_mask,
    datasets_file,
    fill_box,
    is_hidden,
    is_picture,
    two_valued_mask,
)
from training.errors import DataError

Labels = dict[str, Literal["crack", "none"]]
Mask = NDArray[np.uint8]
METU: Final[Labels] = {"Positive": "crack", "Negative": "none"}
SDNET: Final[Labels] = {"CD": "crack", "CP": "crack", "CW": "crack", "UD": "none", "UP": "none", "UW": "none"}


@dataclass(frozen=True)
class Layout:
    """How files are arranged.

    Attributes:
        items: lists the photographs; takes the archive and the labels of folders.
        mask: reads an annotation, or None where photographs are labelled as a whole.
    """

    items: Callable[[Archive, Labels], list[Item]]
    mask: Callable[[Archive, Item, int, int], Mask] | None = None


class DatasetFacts(Strict):
    """One data set: facts, and for a set that is added here its layout."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="NAME.zip or folder NAME under the data root")
    role: Literal["train", "external", "weights"] = Field(description="external: never trained or tuned on")
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    page: str | None = Field(default=None, description="landing page or DOI; null: none known")
    url: str | None = Field(default=None, description="stable public address of the file; null: none known")
    file: str = Field(min_length=1, pattern=r"^[^/]+$", description="file name under the data root")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="null: none published")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$", description="where only that is published")
    size: str = Field(description="in words: files, pixels, bytes")
    arrange: str = Field(description="how it is to lie on disk")
    note: str | None = Field(default=None, description="what else to know, and which facts could not be verified")
    layout: str | None = Field(default=None, description="a name of LAYOUTS; null: built in, or not read")
    side_px: int = Field(default=256, ge=32, le=4096, description="side of the square it is cached in")
    labels: Labels = Field(default_factory=dict, description="folder name to crack or none, for `folders`")
    overlaps: list[str] = Field(default=[], description="data sets with the same pictures: never trained on together")


class SourcesSettings(Strict):
    """The file of `crack-training sources`."""

    root: Path = Field(description="folder of the data sets")
    lock: Path = Field(description="checksums recorded at the first download")
    datasets: list[DatasetFacts] = Field(min_length=1)

    @model_validator(mode="after")
    def _overlaps_are_known(self) -> Self:
        names = {facts.name for facts in self.datasets}
        for facts in self.datasets:
            if not names >= set(facts.overlaps):
                raise ValueError(f"{facts.name}: overlaps {', '.join(facts.overlaps)}; allowed: {', '.join(names)}")
        return self


def configured_sources(path: Path) -> dict[str, Source]:
    """Return the data sets of a configuration that name a layout.

    Raises:
        ConfigError: the file is not valid.
        DataError: a layout is unknown, or weights or a built-in data set are given one.
    """
    found = {}
    for facts in read_settings(path, SourcesSettings).datasets:
        if facts.layout is None:
            continue
        if facts.layout not in LAYOUTS or facts.role == "weights":
            raise DataError(f"{path}: {facts.name}: layout {facts.layout!r}; allowed for data: {', '.join(LAYOUTS)}")
        if facts.name in SOURCES:
            raise DataError(f"{path}: {facts.name} is built in and is read in its own layout; remove `layout`")
        layout = LAYOUTS[facts.layout]
        found[facts.name] = Source(
            name=facts.name,
            role=facts.role,
            licence=facts.licence,
            citation=facts.citation,
            side_px=facts.side_px,
            items=partial(at_least_one, partial(_items, layout, facts.labels)),
            masks=layout.mask is not None,
            mask=layout.mask,
            layout=facts.layout,
        )
    return found


def refuse_overlaps(parts: Mapping[str, Collection[str]]) -> None:
    """Refuse to train on two data sets that hold the same pictures: what one tests on, the other would train on.

    Args:
        parts: what is to be trained on, and the data sets whose pictures each shows.

    Raises:
        DataError: two of them overlap, as the configuration says in `overlaps`.
        ConfigError: the configuration is not valid.
    """
    path = datasets_file()
    if len(parts) < 2 or not path.is_file():
        return
    holders = {name: part for part, names in parts.items() for name in names if name not in parts} | {
        name: name for name in parts
    }
    for facts in read_settings(path, SourcesSettings).datasets:
        for other in facts.overlaps:
            if facts.name in holders and other in holders:
                shown = [
                    name if name == holders[name] else f"{name} (in {holders[name]})" for name in (facts.name, other)
                ]
                raise DataError(
                    f"{' and '.join(shown)} hold the same pictures ({path}: overlaps): training on one would show what "
                    "the other is tested on; name one of them"
                )


def _items(layout: Layout, labels: Labels, archive: Archive) -> list[Item]:
    return layout.items(archive, labels)


def _pictures(archive: Archive) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in archive.names() if is_picture(name)]


def _folders(archive: Archive, labels: Labels) -> list[Item]:
    if not labels:
        raise DataError(f"{archive.path}: layout 'folders' needs labels: folder name to crack or none")
    return [
        Item(str(path), labels[path.parent.name] == "crack", str(path))
        for path in _pictures(archive)
        if path.parent.name in labels
    ]


def _metu(archive: Archive, _labels: Labels) -> list[Item]:
    return _folders(archive, METU)


def _sdnet(archive: Archive, _labels: Labels) -> list[Item]:
    """Read D, P, W / C?, U?: 7001-115.jpg is the 115th piece of photograph 7001."""
    return [
        Item(item.path, item.label, f"{path.parent.parent.name}/{path.stem.split('-')[0]}")
        for item in _folders(archive, SDNET)
        for path in (PurePosixPath(item.path),)
    ]


def _codebrim(archive: Archive, _labels: Labels) -> list[Item]:
    """Read train, val, test / defects, background, labelled by metadata/defects.xml; other defects are left out."""
    files = [name for name in archive.names() if PurePosixPath(name).name == "defects.xml"]
    if len(files) != 1:
        raise DataError(f"{archive.path}: {len(files)} files defects.xml, expected is one (metadata/defects.xml)")
    try:
        entries = list(ET.fromstring(archive.read(files[0])))  # noqa: S314 - a file that the user chose
    except ET.ParseError as error:
        raise DataError(f"{archive.path}: {files[0]} is not XML ({error})") from error
    cracked = {
        next(iter(entry.attrib.values()), ""): (entry.findtext("Crack") or "").strip() == "1" for entry in entries
    }
    items = []
    for path in _pictures(archive):
        part, kind = path.parent.parent.name, path.parent.name
        if part not in {"train", "val", "test"} or kind not in {"defects", "background"}:
            continue
        if kind == "defects" and path.name not in cracked:
            raise DataError(f"{archive.path}: {path} is not in {files[0]}")
        if kind == "background" or cracked[path.name]:
            items.append(Item(str(path), kind == "defects", path.stem.split("_crop")[0], part=part))
    return items


def _annotated(archive: Archive, path: PurePosixPath, annotation: PurePosixPath, part: str | None) -> Item:
    if str(annotation) not in _names(archive):
        raise DataError(f"{archive.path}: {path} has no mask; expected is {annotation}")
    return Item(str(path), None, path.stem, part=part, annotation=str(annotation))


@lru_cache(maxsize=4)
def _names(archive: Archive) -> frozenset[str]:
    return frozenset(archive.names())


def _deepcrack(archive: Archive, _labels: Labels) -> list[Item]:
    return [
        _annotated(archive, path, path.parent.parent / f"{part}_lab" / f"{path.stem}.png", part)
        for path in _pictures(archive)
        for part in ("train", "test")
        if path.parent.name == f"{part}_img"
    ]


CRACK500_CROP: Final = re.compile(r"(\d{8}_\d{6})_\d+_\d+")
"""Name of a crop: when its photograph was taken, and its corner there."""


def _same_stem(archive: Archive, _labels: Labels) -> list[Item]:
    """Read NAME.jpg beside NAME.png: 20160222_081031_1_361.jpg is a crop of photograph 20160222_081031."""
    parts = {"traincrop": "train", "valcrop": "val", "testcrop": "test"}
    items = []
    for path in _pictures(archive):
        if path.suffix.lower() in {".jpg", ".jpeg"}:
            item = _annotated(archive, path, path.with_suffix(".png"), parts.get(path.parent.name))
            crop = CRACK500_CROP.match(path.stem)
            items.append(replace(item, group=crop[1]) if crop else item)
    return items


def _yolo(archive: Archive, _labels: Labels) -> list[Item]:
    items = []
    for path in _pictures(archive):
        beside = [path.with_suffix(".txt")]
        if "images" in path.parts:
            beside.append(PurePosixPath(*("labels" if p == "images" else p for p in path.parts)).with_suffix(".txt"))
        found = [str(place) for place in beside if str(place) in _names(archive)]
        if not found:
            expected = " or ".join(map(str, beside))
            raise DataError(
                f"{archive.path}: {path} has no boxes; expected is {expected}; an empty one says that it holds no crack"
            )
        items.append(Item(str(path), None, path.stem, annotation=found[0]))
    return items


COCO_LISTS: Final = ("images", "annotations", "categories")
FARTHEST_CORNER_PX: Final = 1 << 20
MOST_NAMED: Final = 3
"""Names that a message lists."""


def _coco(archive: Archive, _labels: Labels) -> list[Item]:
    """Read every instances JSON; other JSON files are passed over."""
    items = []
    named_in: dict[str, str] = {}
    listed: dict[PurePosixPath, dict[str, str]] = {}  # by folder: what the files there call each picture, and its path
    for file in (name for name in archive.names() if name.endswith(".json") and not is_hidden(name)):
        folder = PurePosixPath(file).parent
        for path, (name, *_) in _coco_index(archive, file).items():
            if path in named_in:
                raise DataError(f"{archive.path}: {named_in[path]} and {file} both name {path}; keep one of them")
            named_in[path] = file
            listed.setdefault(folder, {})[name] = path
            items.append(Item(path, None, name, annotation=file))
    groups = {
        path: group
        for folder, path_of in listed.items()
        for path, group in _coco_groups(archive, folder, path_of).items()
    }
    return [replace(item, group=groups.get(item.path, item.group)) for item in items]


def _coco_places(folder: PurePosixPath, name: str) -> list[str]:
    """Say where a picture may lie that an instances file in `folder` names."""
    tried = (folder / name, folder / "images" / name, PurePosixPath("images") / name)
    return list(dict.fromkeys(map(str, tried)))  # beside a file at the top, two of them are the same


def _coco_groups(archive: Archive, folder: PurePosixPath, path_of: dict[str, str]) -> dict[str, str]:
    """Read which pictures belong together from the `groups.csv` beside instances files; none without it.

    Args:
        archive: the data set.
        folder: where the instances files lie.
        path_of: what they call each picture, and its path.

    Returns:
        The group of every picture, by its path.

    Raises:
        DataError: the table is none, or it and the instances files do not name the same pictures. A row of a picture
            that lies there and is in no instances file may stay: a reviewed file may hold fewer.
    """
    path = str(folder / "groups.csv")
    if path not in _names(archive):
        return {}
    group_of = _groups_table(archive, path)
    paths = set(path_of.values())
    unknown = [name for name in group_of if name not in path_of and not _lies_unlisted(archive, folder, name, paths)]
    if unknown:
        raise DataError(f"{archive.path}: {path} names {_some(unknown)}, which no instances file beside it names so")
    lacking = [name for name in path_of if name not in group_of]
    if lacking:
        raise DataError(f"{archive.path}: {path} has no row for {_some(lacking)}; give each picture its group")
    return {path_of[name]: group for name, group in group_of.items() if name in path_of}


def _lies_unlisted(archive: Archive, folder: PurePosixPath, name: str, listed: set[str]) -> bool:
    return any(place in _names(archive) and place not in listed for place in _coco_places(folder, name))


def _some(names: list[str]) -> str:
    """Name the first three."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _groups_table(archive: Archive, path: str) -> dict[str, str]:
    expected = f"{archive.path}: {path}: expected is a table with the columns file_name and group"
    try:
        rows = list(csv.DictReader(io.StringIO(archive.read(path).decode("utf-8-sig")), strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{expected} ({type(error).__name__}: {error})") from error
    for number, row in enumerate(rows, start=2):
        if not row.get("file_name") or not row.get("group"):
            raise DataError(f"{expected}; row {number} lacks one of them")
    groups: dict[str, str] = {}
    for row in rows:
        if groups.setdefault(row["file_name"], row["group"]) != row["group"]:
            raise DataError(f"{archive.path}: {path} puts {row['file_name']} into two groups")
    return groups


def _coco_content(archive: Archive, file: str) -> dict[str, Any] | None:
    """Read a JSON file with the lists of COCO instances; None if it has none of the three."""
    try:
        content = json.loads(archive.read(file))
    except ValueError as error:
        raise DataError(f"{archive.path}: {file} is not JSON ({error})") from error
    lacking = [key for key in COCO_LISTS if not isinstance(content, dict) or key not in content]
    if len(lacking) == len(COCO_LISTS):
        return None
    if lacking:
        raise DataError(f"{archive.path}: {file} is not COCO instances: it lacks {', '.join(lacking)}")
    return dict(content)


@lru_cache(maxsize=4)
def _coco_index(archive: Archive, file: str) -> dict[str, tuple[str, tuple[int, int], list[dict[str, Any]]]]:
    """Index the crack annotations of a file: path of a picture to its name there, (height, width) and annotations.

    Empty for a JSON file that is something else.
    """
    content = _coco_content(archive, file)
    if content is None:
        return {}
    try:
        cracks = {entry["id"] for entry in content["categories"] if entry["name"].lower() == "crack"}
        index: dict[Any, tuple[dict[str, Any], list[dict[str, Any]]]] = {
            entry["id"]: (entry, []) for entry in content["images"]
        }
        for entry in content["annotations"]:
            if entry["category_id"] in cracks:
                index[entry["image_id"]][1].append(entry)
        listed = [(e["file_name"], (int(e["height"]), int(e["width"])), found) for e, found in index.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{archive.path}: {file} is not COCO instances ({type(error).__name__}: {error})") from error
    if not cracks:
        raise DataError(f"{archive.path}: {file} has no category 'crack'")
    there, base = _names(archive), PurePosixPath(file).parent
    result: dict[str, tuple[str, tuple[int, int], list[dict[str, Any]]]] = {}
    for name, size, found in listed:
        places = _coco_places(base, name)
        place = next((place for place in places if place in there), None)
        if place is None:
            raise DataError(f"{archive.path}: {file} names {name}; expected is one of {', '.join(places)}")
        if place in result:
            raise DataError(f"{archive.path}: {file} lists {place} twice")
        result[place] = name, size, found
    return result


def _coco_mask(archive: Archive, item: Item, height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    file = item.annotation or ""
    _, size, found = _coco_index(archive, file)[item.path]
    if size != (height, width):
        raise DataError(f"{archive.path}: {file} gives {item.path} as {size}, it is {(height, width)}")
    outlines: list[NDArray[np.int32]] = []
    try:
        for entry in found:
            if isinstance(entry.get("segmentation"), dict):
                raise DataError(f"{archive.path}: {file}: {item.path} has a run-length mask; allowed: polygons, boxes")
            polygons = [polygon for polygon in entry.get("segmentation") or [] if polygon]
            if polygons:
                outlines += map(_corners, polygons)
            else:
                x, y, w, h = entry["bbox"]
                fill_box(mask, x, y, x + w, y + h)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{archive.path}: {file}: annotation of {item.path} is wrong ({error!r})") from error
    for outline in outlines:  # after the boxes, and each alone: together, what two share would be left out
        cv2.fillPoly(mask, [outline], CRACK)
    return mask


def _corners(polygon: list[float]) -> NDArray[np.int32]:
    corners = np.asarray(polygon, float).reshape(-1, 2).round()
    if not (np.abs(corners) < FARTHEST_CORNER_PX).all():
        raise ValueError("a corner is no place in a picture")
    return corners.astype(np.int32)


LAYOUTS: Final[dict[str, Layout]] = {
    "metu": Layout(_metu),
    "sdnet2018": Layout(_sdnet),
    "codebrim": Layout(_codebrim),
    "folders": Layout(_folders),
    "deepcrack": Layout(_deepcrack, two_valued_mask),
    "same-stem": Layout(_same_stem, two_valued_mask),
    "yolo": Layout(_yolo, boxes_mask),
    "coco": Layout(_coco, _coco_mask),
}
