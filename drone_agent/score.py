"""How likely is a crack in these pictures? Scores files from disk, one row for each tile."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from drone_agent.camera.folder import PICTURES
from drone_agent.errors import FlightLogError, InputError
from drone_agent.values import Image, TileScore, Verdict
from drone_agent.vision.preprocess import read_image

COLUMNS = ("path", "x", "y", "size", "p_crack", "verdict")


class ImageScorer(Protocol):
    """What scores one picture: the vision pipeline."""

    def score_image(self, image: Image, *, as_tile: bool) -> list[TileScore]:
        """Scores of the whole picture squeezed to one tile, or of the tiles that cover it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What was done: how many pictures and tiles, how many tiles show a crack, and which files could not be read."""

    pictures: int
    tiles: int
    cracks: int
    unreadable: tuple[str, ...]


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The picture files among `paths`; folders are searched through, in the order of their names.

    A file that is named outright is kept whatever its ending.

    Raises:
        InputError: nothing to score at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(item for item in path.rglob("*") if item.suffix.lower() in PICTURES and item.is_file())
        else:
            found.append(path)
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise InputError(f"{names}: no pictures found, looked for {', '.join(sorted(PICTURES))}")
    return found


def score_files(
    files: Sequence[Path],
    scorer: ImageScorer,
    out: Path,
    *,
    as_tile: bool,
    on_done: Callable[[Path], None] = lambda _path: None,
) -> Scored:
    """Scores `files` one after the other and writes `out` (CSV) row by row; what cannot be read is skipped and named.

    Raises:
        InputError: the CSV is one of the pictures.
        FlightLogError: the CSV cannot be written; what was written before stays.
    """
    pictures = tiles = cracks = 0
    unreadable: list[str] = []
    if any(_same_file(path, out) for path in files):
        raise InputError(f"{out}: is one of the pictures and would be overwritten: choose another --csv")
    with _open_csv(out) as stream:
        for path in files:
            try:
                image = read_image(path)
            except InputError as error:
                unreadable.append(str(error))
            else:
                scores = scorer.score_image(image, as_tile=as_tile)
                try:
                    csv.writer(stream, lineterminator="\n").writerows(_rows(path, scores))
                    stream.flush()
                except OSError as error:
                    raise FlightLogError(f"{out}: cannot be written: {os.strerror(error.errno or 0)}") from error
                pictures += 1
                tiles += len(scores)
                cracks += sum(score.verdict is Verdict.CRACK for score in scores)
            on_done(path)
    return Scored(pictures, tiles, cracks, tuple(unreadable))


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _open_csv(out: Path) -> TextIO:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = out.open("w", encoding="utf-8", newline="")
        stream.write(",".join(COLUMNS) + "\n")
    except OSError as error:
        raise FlightLogError(f"{out}: cannot be written: {error.strerror}") from error
    return stream


def _rows(path: Path, scores: Iterable[TileScore]) -> Iterator[tuple[str, int, int, int, str, str]]:
    for score in scores:
        tile = score.tile
        p_crack = "" if score.p_crack is None else f"{score.p_crack:.6f}"
        yield str(path), tile.x_px, tile.y_px, tile.size_px, p_crack, score.verdict.value
