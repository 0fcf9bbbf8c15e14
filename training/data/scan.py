"""What does each file of a data set hold? Every file is read once; what cannot be read is named and passed over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

# nothing else of the agent may be imported here, and this is what read_image raises
from drone_agent.vision.preprocess import InputError, read_image
from training.data.sources import CRACK, Archive, Item, Source, read_mask
from training.data.tiles import label_of
from training.data.twins import COARSE_PX, FINE_PX, thumbnail
from training.errors import DataError

TILE_SHARE: Final = 0.5
"""Masked photographs are cut into squares of this share of their side, which overlap by half."""
UNREADABLE: Final = (InputError, DataError, OSError, ValueError, zipfile.BadZipFile, zlib.error, KeyError)
"""What a damaged file, annotation or archive member raises."""

T = TypeVar("T")
JPEG_DAMAGE: Final = "Corrupt JPEG data"
"""How the lines begin that libjpeg writes of damaged data."""


@dataclass(frozen=True)
class BrokenFile:
    """A file that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class DarkTile:
    """A labelled tile and how far its darkest cell lies below its median.

    Attributes:
        index: position of its photograph among the readable ones.
        cracked: its label.
        darkness: in grey levels.
    """

    index: int
    cracked: bool
    darkness: float


@dataclass(frozen=True)
class Scan:
    """What the readable files of a data set hold, in the order of `items`.

    Attributes:
        items: the readable photographs.
        digests: SHA-256 of each file.
        sizes: width and height of each in pixels.
        colours: float32 [N, 4]: mean blue, green and red, and deviation of the grey levels.
        fine: thumbnails, uint8 [N, 48, 48].
        tiles: the labelled tiles of the trivial baseline.
        unsure: tiles that the mask decides neither way.
        crack_shares: share of crack pixels of each photograph with a mask.
        crack_widths_px: widths of cracks at points of their middle lines.
        broken: files that are passed over.
    """

    items: list[Item]
    digests: list[str]
    sizes: list[tuple[int, int]]
    colours: NDArray[np.float32]
    fine: NDArray[np.uint8]
    tiles: list[DarkTile]
    unsure: int
    crack_shares: list[float]
    crack_widths_px: list[float]
    broken: list[BrokenFile]


def darkness(image: NDArray[np.uint8]) -> float:
    """Return median brightness minus the darkest of 16 x 16 cells of a picture [H, W, 3], in grey levels."""
    grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA)
    return float(np.median(grey)) - float(cells.min())


def crack_widths(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure the cracks of a mask [H, W] across: twice the distance to the rim, where that is largest, less one pixel.

    The largest places of the distance transform within 3 x 3 pixels form the middle line (Jahanshahi and Masri 2013
    measure so along a skeleton).
    """
    distance = cv2.distanceTransform((mask == CRACK).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    middle = (distance > 0) & (distance >= cv2.dilate(distance, np.ones((3, 3), np.uint8)))
    return np.asarray(2 * distance[middle] - 1, np.float64)


def scan(source: Source, archive: Archive, items: list[Item], advance: Callable[[int], None]) -> Scan:
    """Read all files of a data set once.

    Args:
        source: what is known about it.
        archive: its files.
        items: its photographs.
        advance: is told how many photographs were read.
    """
    readable: list[Item] = []
    digests, sizes, colours, fine = [], [], [], []
    tiles: list[DarkTile] = []
    unsure, shares, widths, broken = 0, [], [], []
    for item in items:
        advance(1)
        try:
            content = archive.read(item.path)
            image = unharmed(partial(read_image, content))
        except UNREADABLE as error:
            broken.append(BrokenFile(item.path, _one_line(error)))
            continue
        mask = None
        if source.masks and item.annotation is not None:
            try:
                mask = unharmed(partial(read_mask, archive, source, item, *image.shape[:2]))
            except UNREADABLE as error:
                broken.append(BrokenFile(item.annotation, _one_line(error)))
                continue
        index = len(readable)
        readable.append(item)
        digests.append(hashlib.sha256(content).hexdigest())
        sizes.append((image.shape[1], image.shape[0]))
        mean, deviation = cv2.meanStdDev(image)
        colours.append([*mean[:, 0], float(deviation.mean())])
        fine.append(thumbnail(image))  # not of a padded square, whose border another symmetry does not have
        if mask is not None:
            shares.append(float((mask == CRACK).mean()))
            widths.extend(crack_widths(mask).tolist())
        found, left_out = _dark_tiles(index, item, image, mask)
        tiles += found
        unsure += left_out
    return Scan(
        items=readable,
        digests=digests,
        sizes=sizes,
        colours=np.array(colours, np.float32).reshape(-1, 4),
        fine=np.array(fine, np.uint8).reshape(-1, FINE_PX, FINE_PX),
        tiles=tiles,
        unsure=unsure,
        crack_shares=shares,
        crack_widths_px=widths,
        broken=broken,
    )


def unharmed(read: Callable[[], T]) -> T:
    """Return what `read` decodes, unless libjpeg meets damaged data in it.

    libjpeg fills what it cannot read and goes on; neither OpenCV nor Pillow passes on that it did. All it does is write
    a line to file descriptor 2, which is caught here for as long as `read` takes. What else is written there goes on.

    Raises:
        DataError: a JPEG is damaged in its middle.
    """
    said: list[str] = []
    with _standard_error(said):
        result = read()
    damage = [line for line in said if line.startswith(JPEG_DAMAGE)]
    if damage:
        raise DataError(f"the picture is damaged in its middle (libjpeg: {damage[0]})")
    return result


@contextlib.contextmanager
def _standard_error(said: list[str]) -> Iterator[None]:
    """Catch the lines that libraries write to file descriptor 2; those that are not about a JPEG are passed on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                said.append(line)
                if not line.startswith(JPEG_DAMAGE):
                    os.write(2, f"{line}\n".encode())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _dark_tiles(
    index: int, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None
) -> tuple[list[DarkTile], int]:
    """Return the tiles of one photograph, and how many are unsure: the whole if it has a label, else squares of it."""
    if item.label is not None:
        return [DarkTile(index, item.label, darkness(image))], 0
    if mask is None:
        return [], 0
    side = max(1, round(min(image.shape[:2]) * TILE_SHARE))
    found, unsure = [], 0
    for top in range(0, image.shape[0] - side + 1, max(1, side // 2)):
        for left in range(0, image.shape[1] - side + 1, max(1, side // 2)):
            label = label_of(mask[top : top + side, left : left + side])
            if label is None:
                unsure += 1
            else:
                tile = image[top : top + side, left : left + side]
                found.append(DarkTile(index, label, darkness(tile)))
    return found, unsure
