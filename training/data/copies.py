"""Which photographs of a data set are copies of one another? Read from its files, not from the squares of the cache.

A square of the cache is mirrored at the right and bottom border where its photograph is smaller or of another shape:
turned or mirrored copies get other borders, and thumbnails of the squares no longer match. Thumbnails of the whole
photographs do, whatever their size and shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.sources import BOX, CRACK, Archive, Item, Source, read_mask
from training.data.twins import FINE_PX, Twin, find_twins, thumbnail, with_exact_copies
from training.progress import Step, no_bar


@dataclass(frozen=True)
class Files:
    """The photographs of a data set, not decoded.

    Attributes:
        source: the data set.
        archive: holds the files.
        items: the photographs, in the order of the archive's names.
    """

    source: Source
    archive: Archive
    items: list[Item]

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.source.name


@dataclass(frozen=True)
class Prints:
    """What photographs are compared by.

    Attributes:
        digests: SHA-256 of each file.
        fine: thumbnails, uint8 [N, 48, 48].
    """

    digests: list[str]
    fine: NDArray[np.uint8]


def open_files(source: Source, root: Path) -> Files:
    """List the photographs of a data set.

    Raises:
        DataError: it is not under `root`, or not laid out as expected.
    """
    archive = Archive.find(root, source.name)
    return Files(source, archive, source.items(archive))


def take_prints(files: Files, advance: Callable[[int], None] = lambda _read: None) -> Prints:
    """Read every photograph once.

    Args:
        files: the data set.
        advance: is told how many photographs were read.

    Raises:
        DataError: one is not there, damaged, or no picture.
    """
    digests = []
    fine = np.empty((len(files.items), FINE_PX, FINE_PX), np.uint8)
    for index, item in enumerate(files.items):
        content = files.archive.read(item.path)
        digests.append(hashlib.sha256(content).hexdigest())
        fine[index] = thumbnail(files.archive.picture(item.path, content))
        advance(1)
    return Prints(digests, fine)


def find_copies(prints: Prints, advance: Callable[[int], None] = lambda _rows: None) -> list[Twin]:
    """Find all twins, byte-identical files among them, uniform ones too; `advance` is told how many rows were done."""
    return with_exact_copies(find_twins(prints.fine, advance=advance), prints.digests)


def copies_in(files: Files, step: Step = no_bar) -> list[tuple[int, int]]:
    """Return the positions of all twins of a data set, each pair in order; raises as `take_prints` does."""
    with step(f"{files.name}: reading", len(files.items)) as advance:
        prints = take_prints(files, advance)
    with step(f"{files.name}: searching twins", len(files.items)) as advance:
        return [(twin.first, twin.second) for twin in find_copies(prints, advance)]


def marked_in(files: Files, step: Step = no_bar) -> list[bool]:
    """Say of each photograph whether its mask marks a crack or a box; where no draw asks for it, True.

    Raises:
        DataError: a photograph or its mask is not there, or damaged.
    """
    marked = [True] * len(files.items)
    asked = [index for index, item in enumerate(files.items) if item.label is None and item.part is None]
    if not files.source.masks or not asked:
        return marked
    with step(f"{files.name}: reading masks", len(asked)) as advance:
        for index in asked:
            item = files.items[index]
            mask = read_mask(files.archive, files.source, item, *files.archive.picture(item.path).shape[:2])
            marked[index] = bool(((mask == CRACK) | (mask == BOX)).any())
            advance(1)
    return marked
