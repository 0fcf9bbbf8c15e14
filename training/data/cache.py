"""How does training get its pixels without decoding a JPEG twice?

Each data set is decoded once into two flat files (pictures, masks) that are mapped into memory. The folder's name
carries the hash of the source, so a changed archive is decoded anew. Nothing here is committed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sources import CRACK, JOINT, Archive, Item, Source, read_mask
from training.data.synthetic import SIDE_PX as SYNTHETIC_PX
from training.data.synthetic import Donor, draw, lift
from training.errors import DataError

log = logging.getLogger(__name__)

LAYOUT: Final = 2
"""Raised whenever the way of decoding changes."""

SYNTHETIC_VERSION: Final = 7
"""Raised whenever the way of drawing changes."""


@dataclass(frozen=True)
class Photographs:
    """A decoded data set.

    Attributes:
        name: of the data set.
        sha256: of its archive.
        items: one for each picture.
        images: uint8 [N, S, S, 3], BGR, memory-mapped; smaller photographs are mirrored at the right and bottom border,
            other shapes are stretched.
        masks: uint8 [N, S, S] (0, CRACK, JOINT, BOX), memory-mapped, or None.
    """

    name: str
    sha256: str
    items: list[Item]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None


def load_photographs(source: Source, root: Path, cache: Path) -> Photographs:
    """Return the data set, decoding it first if it is not in the cache.

    Raises:
        DataError: the data set is not under `root`, not laid out as expected, or a picture is damaged.
    """
    archive = Archive.find(root, source.name)
    sha256 = archive.sha256()
    folder = cache / f"{source.name}-{sha256[:12]}-{LAYOUT}"
    if not folder.is_dir():
        _decode(source, archive, sha256, folder)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    items = source.items(archive)
    if index["paths"] != [item.path for item in items]:
        raise DataError(f"{folder}: decoded from other files than {archive.path} lists; delete the folder")
    masks = np.load(folder / "masks.npy", mmap_mode="r") if source.masks else None
    return Photographs(
        name=source.name,
        sha256=index["sha256"],
        items=items,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=masks,
    )


def _decode(source: Source, archive: Archive, sha256: str, folder: Path) -> None:
    items = source.items(archive)
    log.info("decoding %s: %d photographs", archive.path, len(items))
    partial = folder.with_suffix(f".partial-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    side = source.side_px
    shape = (len(items), side, side)
    images = np.lib.format.open_memmap(partial / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3))
    masks = (
        np.lib.format.open_memmap(partial / "masks.npy", mode="w+", dtype=np.uint8, shape=shape)
        if source.masks
        else None
    )
    try:
        for index, item in enumerate(items):
            image = archive.picture(item.path)
            images[index] = fit_square(image, side, cv2.INTER_AREA)
            if masks is not None:
                mask = read_mask(archive, source, item, *image.shape[:2])
                masks[index] = fit_square(mask, side, cv2.INTER_NEAREST)
    except DataError:
        shutil.rmtree(partial)
        raise
    images.flush()
    if masks is not None:
        masks.flush()
    content = {"sha256": sha256, "paths": [item.path for item in items]}
    (partial / "index.json").write_text(json.dumps(content), encoding="utf-8")
    _put_in_place(partial, folder)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Give a finished folder its name, or drop it if another process was faster."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)


def draw_synthetic(
    textures: Sequence[tuple[Photographs, list[int]]],
    donors: Sequence[tuple[Photographs, list[int]]],
    cache: Path,
    count: int,
    seed: int,
) -> Photographs:
    """Return `count` drawn pictures with masks, every second one cracked; draw them if they are not cached.

    Args:
        textures: data sets and the indices of their training photographs, from which sound squares are cut.
        donors: data sets with masks and the indices of their training photographs, whose cracks and joints are lifted.
        cache: folder of the cache.
        count: number of pictures.
        seed: decides all of them.
    """
    sources = "+".join(photographs.sha256[:12] for photographs, _ in [*textures, *donors])
    name = f"synthetic-{SYNTHETIC_VERSION}-{seed}-{count}-{sources}"
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    folder = cache / f"synthetic-{sha256[:12]}"
    if not folder.is_dir():
        log.info("drawing %d synthetic pictures", count)
        partial = folder.with_suffix(f".partial-{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        shape = (count, SYNTHETIC_PX, SYNTHETIC_PX)
        images = np.lib.format.open_memmap(partial / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3))
        masks = np.lib.format.open_memmap(partial / "masks.npy", mode="w+", dtype=np.uint8, shape=shape)
        cracks, joints = _lift_all(donors, CRACK), _lift_all(donors, JOINT)
        for index in range(count):
            rng = np.random.default_rng((seed, index))
            photographs, indices = textures[int(rng.integers(len(textures)))]
            drawn = draw(_texture(photographs, indices, rng), rng, cracked=index % 2 == 1, cracks=cracks, joints=joints)
            images[index], masks[index] = drawn.image, drawn.mask
        images.flush()
        masks.flush()
        _put_in_place(partial, folder)
    items = [Item(f"{index:05d}", None, f"{index:05d}", part="train") for index in range(count)]
    return Photographs(
        "synthetic",
        sha256,
        items,
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "masks.npy", mmap_mode="r"),
    )


def _lift_all(donors: Sequence[tuple[Photographs, list[int]]], value: int) -> list[Donor]:
    found = []
    for photographs, indices in donors:
        if photographs.masks is None:
            raise DataError(f"{photographs.name}: has no masks, nothing can be lifted off it")
        for index in indices:
            donor = lift(np.asarray(photographs.images[index]), np.asarray(photographs.masks[index]), value)
            if donor is not None:
                found.append(donor)
    return found


def _texture(photographs: Photographs, indices: list[int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a sound square (no crack, no joint) and enlarge or shrink it to the size of the drawn pictures."""
    while True:
        index = indices[int(rng.integers(len(indices)))]
        if photographs.items[index].label:
            continue
        image = photographs.images[index]
        side = int(rng.integers(100, min(image.shape[0], 300) + 1))
        y, x = rng.integers(0, image.shape[0] - side + 1, 2)
        if photographs.masks is None or not photographs.masks[index, y : y + side, x : x + side].any():
            square = image[y : y + side, x : x + side]
            return np.asarray(
                cv2.resize(square, (SYNTHETIC_PX, SYNTHETIC_PX), interpolation=cv2.INTER_LINEAR), np.uint8
            )


def fit_square(image: NDArray[np.uint8], side: int, interpolation: int) -> NDArray[np.uint8]:
    """Bring a picture [H, W] or [H, W, 3] to a square: mirror what is missing, stretch what is larger."""
    height, width = image.shape[:2]
    if height > side or width > side:
        size = (min(width, side), min(height, side)) if min(height, width) < side / 2 else (side, side)
        image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
        height, width = image.shape[:2]
    missing = (0, side - height, 0, side - width)
    return np.asarray(cv2.copyMakeBorder(image, *missing, cv2.BORDER_REFLECT_101), np.uint8) if any(missing) else image
