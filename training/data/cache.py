"""How does training get its pixels without decoding a JPEG twice?

Each data set is decoded once into two flat files (pictures, masks) that are mapped into memory. The folder's name
carries the hash of the source, and its index the settings, so a changed archive or setting is decoded anew. Nothing
here is committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.omissions import UNSURE, omissions_sha256
from training.data.sources import BOX, CRACK, JOINT, Archive, Item, Source, read_mask
from training.data.synthetic import SIDE_PX as SYNTHETIC_PX
from training.data.synthetic import Donor, Drawn, draw, draw_wall, lift
from training.errors import DataError
from training.files import names_sha256

log = logging.getLogger(__name__)

LAYOUT: Final = 2
"""Raised whenever the way of decoding changes."""

MASKS: Final = "kept"
"""How masks are read and shrunk: as `shrink_mask` says. Changed whenever that changes."""

MOST_TEXTURE_TRIES: Final = 10_000
"""After so many squares that are not sound a data set counts as one that has none."""

SYNTHETIC_VERSION: Final = 9
"""Raised whenever the way of drawing changes."""
RELIEF_VERSION: Final = 1
"""Likewise, of the way of drawing in relief."""
WALLS: Final = ("masonry", "concrete", "cracked")
"""What `draw_walls` draws in turn; the cracked ones are concrete."""


@dataclass(frozen=True)
class Photographs:
    """A decoded data set.

    Attributes:
        name: of the data set.
        sha256: of its archive.
        items: one for each picture.
        images: uint8 [N, S, S, 3], BGR, memory-mapped; smaller photographs are mirrored at the right and bottom border,
            other shapes are stretched.
        masks: uint8 [N, S, S] (0, CRACK, JOINT, BOX, UNSURE), memory-mapped, or None.
    """

    name: str
    sha256: str
    items: list[Item]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None


def load_photographs(source: Source, root: Path, cache: Path) -> Photographs:
    """Return the data set, decoding it first if it is not in the cache, or was decoded with other settings.

    Raises:
        DataError: the data set is not under `root`, not laid out as expected, or a picture is damaged.
    """
    archive = Archive.find(root, source.name)
    sha256 = archive.sha256()
    folder = cache / f"{source.name}-{sha256[:12]}-{LAYOUT}"
    items = source.items(archive)
    _drop_if_stale(folder, source, items)
    if not folder.is_dir():
        _decode(source, archive, items, sha256, folder)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    masks = np.load(folder / "masks.npy", mmap_mode="r") if source.masks else None
    return Photographs(
        name=source.name,
        sha256=index["sha256"],
        items=items,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=masks,
    )


def _settings(source: Source) -> dict[str, object]:
    """Return what, beside the archive, decides the pixels of a data set."""
    return {
        "side_px": source.side_px,
        "layout": source.layout,
        "masks": MASKS if source.masks else None,
        "omissions": omissions_sha256(source.name) if source.masks else None,
    }


def changed_settings(folder: Path, source: Source, items: Sequence[Item]) -> list[str]:
    """Say in which respects a decoded data set is not what `source` asks for; empty if it may be used.

    Folders without settings in their index are older. Those of built-in sets count as right where pictures have the
    right side, for no photograph of these sets is larger than it, so no mask was shrunk. With a layout, masks were read
    by other rules.
    """
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    wanted = _settings(source)
    if "masks" in index:
        changed = [key for key, value in wanted.items() if index.get(key) != value]
    else:
        side = np.load(folder / "images.npy", mmap_mode="r").shape[1]
        changed = ["side_px"] if side != source.side_px else []
        if source.layout is not None and source.masks:
            changed.append("masks")
        if wanted["omissions"] is not None:
            changed.append("omissions")
    if index["paths"] != [item.path for item in items]:
        changed.append("paths")
    return changed


def _drop_if_stale(folder: Path, source: Source, items: Sequence[Item]) -> None:
    if not folder.is_dir():
        return
    changed = changed_settings(folder, source, items)
    if changed:
        log.info("%s: decoded with other settings (%s), decoding anew", folder, ", ".join(changed))
        stale = folder.with_suffix(f".stale-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(stale)
            shutil.rmtree(stale)


def _decode(source: Source, archive: Archive, items: list[Item], sha256: str, folder: Path) -> None:
    log.info("decoding %s: %d photographs", archive.path, len(items))
    side = source.side_px
    with _filling(folder) as partial:
        images = _new_array(partial / "images.npy", len(items), side, side, 3)
        masks = _new_array(partial / "masks.npy", len(items), side, side) if source.masks else None
        for index, item in enumerate(items):
            image = archive.picture(item.path)
            images[index] = fit_square(image, side, cv2.INTER_AREA)
            if masks is not None:
                mask = read_mask(archive, source, item, *image.shape[:2])
                masks[index] = fit_square(mask, side)
        images.flush()
        if masks is not None:
            masks.flush()
        content = {"sha256": sha256, "paths": [item.path for item in items]} | _settings(source)
        (partial / "index.json").write_text(json.dumps(content), encoding="utf-8")


@contextlib.contextmanager
def _filling(folder: Path) -> Iterator[Path]:
    """Give a folder to be filled, and put it in place when it is full; of data that are wrong nothing stays behind."""
    partial = folder.with_suffix(f".partial-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except DataError:
        shutil.rmtree(partial)
        raise
    _put_in_place(partial, folder)


def _new_array(path: Path, *shape: int) -> np.memmap[Any, np.dtype[np.uint8]]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


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
    *,
    relief: bool = False,
    upright: float = 0.0,
) -> Photographs:
    """Return `count` drawn pictures with masks, every second one cracked; draw them if they are not cached.

    Args:
        textures: data sets and the indices of their training photographs, from which sound squares are cut.
        donors: data sets with masks and the indices of their training photographs, whose cracks and joints are lifted.
        cache: folder of the cache.
        count: number of pictures.
        seed: decides all of them.
        relief: whether two in five are walls in relief.
        upright: share of the cracks that are upright or level.

    Raises:
        DataError: a data set of `donors` has no masks, or one of `textures` no sound square.
    """
    sources = "+".join(_material(photographs, indices) for photographs, indices in [*textures, *donors])
    version = f"{SYNTHETIC_VERSION}-relief-{RELIEF_VERSION}" if relief else f"{SYNTHETIC_VERSION}"
    if upright:
        version += f"-upright-{upright:g}"

    def pictures() -> Iterator[Drawn]:
        cracks, joints = _lift_all(donors, CRACK), _lift_all(donors, JOINT)
        for index in range(count):
            rng, texture = _start(textures, seed, index)
            cracked = index % 2 == 1
            yield draw(texture, rng, cracked=cracked, cracks=cracks, joints=joints, relief=relief, upright=upright)

    items = [Item(f"{index:05d}", None, f"{index:05d}", part="train") for index in range(count)]
    return _keep_drawn("synthetic", f"synthetic-{version}-{seed}-{count}-{sources}", items, cache, pictures())


def draw_walls(textures: Sequence[tuple[Photographs, list[int]]], cache: Path, count: int, seed: int) -> Photographs:
    """Return `count` pictures of walls in relief to judge by, of each of `WALLS` in turn; draw them if not cached.

    Args:
        textures: data sets and the indices of their photographs from which sound squares are cut.
        cache: folder of the cache.
        count: number of pictures.
        seed: decides all of them.

    Returns:
        Pictures whose path begins with what they show.

    Raises:
        DataError: a data set has no sound square.
    """

    def pictures() -> Iterator[Drawn]:
        for index in range(count):
            rng, texture = _start(textures, seed, index)
            shown = WALLS[index % len(WALLS)]
            yield draw_wall(texture, rng, brick=shown == "masonry", cracked=shown == "cracked")

    of = "+".join(_material(photographs, indices) for photographs, indices in textures)
    shown = [WALLS[index % len(WALLS)] for index in range(count)]
    items = [Item(f"{kind}/{index:05d}", kind == "cracked", f"{index:05d}") for index, kind in enumerate(shown)]
    return _keep_drawn("relief", f"relief-{RELIEF_VERSION}-{seed}-{count}-{of}", items, cache, pictures())


def _start(
    textures: Sequence[tuple[Photographs, list[int]]], seed: int, index: int
) -> tuple[np.random.Generator, NDArray[np.uint8]]:
    """Return what a drawn picture begins with: its generator, and a square of a photograph."""
    rng = np.random.default_rng((seed, index))
    photographs, indices = textures[int(rng.integers(len(textures)))]
    return rng, _texture(photographs, indices, rng)


def _keep_drawn(name: str, material: str, items: list[Item], cache: Path, pictures: Iterable[Drawn]) -> Photographs:
    """Return drawn pictures from the cache, or draw them into it.

    Args:
        name: of the data set, and the beginning of its folder's name.
        material: all that decides the pictures.
        items: one for each picture.
        cache: folder of the cache.
        pictures: as many as `items`, drawn only if they are not there.
    """
    sha256 = hashlib.sha256(material.encode()).hexdigest()
    folder = cache / f"{name}-{sha256[:12]}"
    if not folder.is_dir():
        log.info("drawing %d %s pictures", len(items), name)
        with _filling(folder) as partial:
            images = _new_array(partial / "images.npy", len(items), SYNTHETIC_PX, SYNTHETIC_PX, 3)
            masks = _new_array(partial / "masks.npy", len(items), SYNTHETIC_PX, SYNTHETIC_PX)
            for index, drawn in enumerate(pictures):
                images[index], masks[index] = drawn.image, drawn.mask
            images.flush()
            masks.flush()
    return Photographs(
        name,
        sha256,
        items,
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "masks.npy", mmap_mode="r"),
    )


def _material(photographs: Photographs, indices: Sequence[int]) -> str:
    """Name the photographs that are drawn from: of another split they are others, and so are the pictures."""
    names = names_sha256(photographs.items[index].path for index in indices)
    omitted = omissions_sha256(photographs.name)
    return f"{photographs.sha256[:12]}-{names[:12]}" + (f"-{omitted[:12]}" if omitted else "")


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
    """Cut a sound square (no crack, no joint) and enlarge or shrink it to the size of the drawn pictures.

    Raises:
        DataError: there is none.
    """
    for _ in range(MOST_TEXTURE_TRIES if indices else 0):
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
    raise DataError(
        f"{photographs.name}: none of {MOST_TEXTURE_TRIES} squares of {len(indices)} photographs is sound; "
        "walls are drawn on such squares"
    )


def fit_square(image: NDArray[np.uint8], side: int, interpolation: int | None = None) -> NDArray[np.uint8]:
    """Bring a picture [H, W] or [H, W, 3] to a square: mirror what is missing, stretch what is larger.

    Args:
        image: a picture, or a mask.
        side: of the square in pixels.
        interpolation: of OpenCV, for a picture; None resizes a mask, as `shrink_mask` does.
    """
    height, width = image.shape[:2]
    if height > side or width > side:
        size = (min(width, side), min(height, side)) if min(height, width) < side / 2 else (side, side)
        if interpolation is None:
            image = shrink_mask(image, size)
        else:
            image = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
        height, width = image.shape[:2]
    missing = (0, side - height, 0, side - width)
    return np.asarray(cv2.copyMakeBorder(image, *missing, cv2.BORDER_REFLECT_101), np.uint8) if any(missing) else image


def shrink_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask [H, W] to `size` (width, height) so that nothing marked in it is lost.

    A pixel gets a value if any part of the area that it stands for has it; of several `CRACK`, then `BOX`, then
    `JOINT`, then `UNSURE`. So a crack of less than a pixel stays connected and is a pixel wide. An axis that grows
    repeats its pixels.
    """
    height, width = mask.shape
    smaller = (min(width, size[0]), min(height, size[1]))
    result = np.zeros(smaller[::-1], np.uint8)
    for value in (UNSURE, JOINT, BOX, CRACK):
        share = cv2.resize((mask == value).astype(np.float32), smaller, interpolation=cv2.INTER_AREA)
        result[share > 0] = value
    return np.asarray(cv2.resize(result, size, interpolation=cv2.INTER_NEAREST), np.uint8)
