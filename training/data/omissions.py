"""Which cracks do the masks of a data set leave out?

Whoever marks cracks misses some, hairlines above all. A tile that shows such a crack is no sound tile: a network that
calls it cracked is right, and one that is taught it as sound is taught to miss cracks. `omissions.csv`, beside this
module, lists what was found by looking at the photographs (`docs/data.md` says how); along these lines a mask is
`UNSURE`, and tiles that touch it are neither trained on nor judged as sound. The published masks stay as they are: an
unsure pixel is one that the publisher calls sound, so `as_published` gives his mask back.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

UNSURE: Final = 64
"""Mask value: the publisher says sound, but there is a crack, or perhaps one."""
WIDTH_PX: Final = 5
"""How wide the lines are drawn, in pixels of the photograph: they were followed by eye, to a pixel or two."""
CERTAINTIES: Final = ("crack", "unclear")
OMISSIONS_FILE: Final = Path(__file__).with_name("omissions.csv")
_COLUMNS: Final = ["source", "path", "seen", "points"]


@dataclass(frozen=True)
class Omission:
    """A line in a photograph that its mask does not mark.

    Attributes:
        source: name of the data set.
        path: the photograph's file inside the archive.
        seen: "crack", or "unclear" where it may be one.
        points: corners of the line, (x, y) in pixels of the photograph from its top left.
    """

    source: str
    path: str
    seen: str
    points: tuple[tuple[int, int], ...]

    @property
    def length_px(self) -> float:
        """Length of the line in pixels of the photograph."""
        return sum(math.dist(*pair) for pair in pairwise(self.points))


@cache
def read_omissions(file: Path = OMISSIONS_FILE) -> tuple[Omission, ...]:
    """Read the list.

    Raises:
        DataError: it cannot be read, or a row is not as the others; names the line.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not rows or rows[0] != _COLUMNS:
        raise DataError(f"{file}: the first line must be {','.join(_COLUMNS)}")
    return tuple(_omission(row, f"{file}, line {number}") for number, row in enumerate(rows[1:], start=2))


def _omission(row: list[str], where: str) -> Omission:
    if len(row) != len(_COLUMNS):
        raise DataError(f"{where}: holds {len(row)} columns, not {len(_COLUMNS)}")
    source, path, seen, text = row
    if seen not in CERTAINTIES:
        raise DataError(f"{where}: seen is {seen!r}; allowed: {', '.join(CERTAINTIES)}")
    try:
        points = tuple((int(x), int(y)) for x, y in (pair.split() for pair in text.split(";")))
    except ValueError:
        points = ()
    if len(points) < 2 or min(min(point) for point in points) < 0:
        raise DataError(f'{where}: points are {text!r}; wanted: two or more "x y", not negative, divided by ";"')
    return Omission(source, path, seen, points)


def omissions_of(source: str) -> list[Omission]:
    """Return what is listed of a data set."""
    return [line for line in read_omissions() if line.source == source]


def mark_omissions(mask: NDArray[np.uint8], source: str, path: str) -> NDArray[np.uint8]:
    """Return the mask [H, W] of a photograph with `UNSURE` where it leaves a crack out; what it marks stays.

    Raises:
        DataError: a line lies outside the photograph, or the list cannot be read.
    """
    lines = [line for line in omissions_of(source) if line.path == path]
    if not lines:
        return mask
    height, width = mask.shape
    drawn = np.zeros_like(mask)
    for line in lines:
        if any(x >= width or y >= height for x, y in line.points):
            raise DataError(f"{OMISSIONS_FILE}: a line of {source}/{path} leaves the photograph of {width} x {height}")
        cv2.polylines(drawn, [np.array(line.points, np.int32)], isClosed=False, color=255, thickness=WIDTH_PX)
    return np.where((drawn > 0) & (mask == 0), np.uint8(UNSURE), mask)


def as_published(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return masks as their publisher has them: nothing is unsure."""
    return np.where(mask == UNSURE, np.uint8(0), mask)


def omissions_sha256(source: str) -> str | None:
    """Return a hash of all that is listed of a data set, or None if nothing is."""
    lines = omissions_of(source)
    return hashlib.sha256(repr((WIDTH_PX, lines)).encode()).hexdigest() if lines else None
