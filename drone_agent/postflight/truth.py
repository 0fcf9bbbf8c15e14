"""How much of what is really there did a flight find, and how much did it make up? For walls whose cracks are known.

A truth is a `truth.json` beside a picture of the wall, one pixel a millimetre or so: 255 is crack, 128 formwork joint.
The wall is upright and runs east, seen by a viewer who looks north; its place is given in the autopilot's local frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.errors import InputError

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_CRACK = 255
_JOINT = 128

# A square with fewer pixels of crack (2 cm of it, one pixel wide) is not counted as holding crack.
_MIN_CRACK_PX = 20


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """A wall and its cracks.

    `crack` and `joint` are masks, row 0 at the top, column 0 at `east_m[0]`; `m_px` the size of a pixel;
    `to_crack_m` for each pixel the distance to the nearest crack pixel.
    """

    north_m: float
    east_m: tuple[float, float]
    up_m: tuple[float, float]
    m_px: float
    crack: Mask
    joint: Mask
    to_crack_m: npt.NDArray[np.float32]

    @property
    def area_m2(self) -> float:
        """The wall's area."""
        return (self.east_m[1] - self.east_m[0]) * (self.up_m[1] - self.up_m[0])

    def pixels(self, ned: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Mask]:
        """Rows, columns, and whether they lie on the wall, of places (N, 3) in NED; depth is not looked at."""
        columns = np.floor((ned[:, 1] - self.east_m[0]) / self.m_px).astype(np.int64)
        rows = np.floor((self.up_m[1] + ned[:, 2]) / self.m_px).astype(np.int64)
        height, width = self.crack.shape
        return rows, columns, (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)


def load_truth(path: Path) -> Truth:
    """Reads `truth.json` and the picture it names (default: `truth.png` beside it).

    Raises:
        InputError: a file cannot be read or a value is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        north = float(data["wall_plane_north_m"])
        east = (float(data["wall_east_m"][0]), float(data["wall_east_m"][1]))
        up = (float(data["wall_height_m"][0]), float(data["wall_height_m"][1]))
        m_px = float(data["gsd_mm_px"]) / 1000
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: not a truth: needed are wall_plane_north_m, wall_east_m, wall_height_m, gsd_mm_px ({error!r})"
        ) from error
    name = path.parent / str(data.get("picture", "truth.png"))
    picture = cv2.imread(str(name), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise InputError(f"{name}: cannot be read as a picture")
    crack = picture == _CRACK
    away = cv2.distanceTransform((~crack).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * np.float32(m_px)
    if not crack.any():
        away = np.full(picture.shape, np.inf, np.float32)
    return Truth(north, east, up, m_px, crack, picture == _JOINT, away.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Flight:
    """What a flight says of one face: places (along, height) of sightings, and cells (column, row)."""

    origin_ned_m: tuple[float, float, float]
    along_bearing: float
    cell_m: float
    sightings: Sequence[tuple[float, float]]
    found_cells: Sequence[tuple[int, int]]
    seen_cells: Sequence[tuple[int, int]]

    def ned(self, places: Floats) -> Floats:
        """NED (N, 3) of places (N, 2)."""
        along = np.array([math.cos(self.along_bearing), math.sin(self.along_bearing), 0.0])
        up = np.array([0.0, 0.0, -1.0])
        result: Floats = np.array(self.origin_ned_m) + places[:, :1] * along + places[:, 1:2] * up
        return result


@dataclass(slots=True)
class _Face:
    data: Mapping[str, Any]
    sightings: list[tuple[float, float]] = field(default_factory=list)
    cells: dict[tuple[int, int], tuple[int, float]] = field(default_factory=dict)


def flight_of(events: Iterable[tuple[str, Mapping[str, Any]]], confirm_log_odds: float) -> Flight:
    """Gathers a flight from its log's (kind, data): `face`, `sighting` and `coverage` events.

    A cell is found if its last belief is `confirm_log_odds` or more, and seen if it was scored at least once.

    Raises:
        InputError: the log has no face in metres.
    """
    faces: dict[str, _Face] = {}
    for kind, data in events:
        if kind == "face" and data.get("unit") == "m":
            faces[str(data["name"])] = _Face(data)
        elif kind == "sighting" and data.get("face") in faces:
            faces[str(data["face"])].sightings.append((float(data["along"]), float(data["height"])))
        elif kind == "coverage" and data.get("face") in faces:
            cells = faces[str(data["face"])].cells
            for column, row, good, _unknown, log_odds in data["cells"]:
                cells[int(column), int(row)] = (int(good), float(log_odds))
    if not faces:
        raise InputError("the flight has no face in metres: without telemetry it cannot be compared to a wall")
    # One wall, one face: of several, the one that saw most.
    best = max(faces.values(), key=lambda face: len(face.cells))
    north, east, down = (float(value) for value in best.data["origin_ned"])
    return Flight(
        origin_ned_m=(north, east, down),
        along_bearing=math.radians(float(best.data["along_bearing_deg"])),
        cell_m=float(best.data["cell"]),
        sightings=best.sightings,
        found_cells=[cell for cell, (good, belief) in best.cells.items() if good and belief >= confirm_log_odds],
        seen_cells=[cell for cell, (good, _) in best.cells.items() if good],
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A flight against the truth.

    Attributes:
        crack_cells: squares of `cell_m` of the wall that hold crack (20 pixels or more).
        crack_cells_found: share of them with a found cell on at least half of their crack pixels.
        crack_cells_found_within_one: the same with every found cell grown by one cell.
        found_cells_off_crack: share of the found area on the wall that lies farther than two cells from any crack.
        marks: sightings on the wall; each would be a mark.
        marks_near_crack: share of them within `near_m` of a crack.
        marks_on_joint: marks in a square that holds joint, with no crack within `near_m`.
        marks_outside: sightings beyond the wall's ends.
        marks_per_m2: marks by the wall's area.
        cracks_marked: share of the crack's pixels with a mark within 0.5 m.
        seen_share: share of the wall's area seen.
        mark_error_median_m: distance from a mark to the nearest crack pixel, over the marks near a crack.
        mark_error_p95_m: its 95th percentile.
        near_m: what "near" means.
    """

    crack_cells: int
    crack_cells_found: float
    crack_cells_found_within_one: float
    found_cells_off_crack: float
    marks: int
    marks_near_crack: float
    marks_on_joint: int
    marks_outside: int
    marks_per_m2: float
    cracks_marked: float
    seen_share: float
    mark_error_median_m: float
    mark_error_p95_m: float
    near_m: float


def compare(truth: Truth, flight: Flight, *, cell_m: float = 0.05, near_m: float = 0.10) -> Comparison:
    """Counts what was found, missed and made up; shares are NaN where there is nothing to count."""
    found = _painted(truth, flight, flight.found_cells)
    seen = _painted(truth, flight, flight.seen_cells)
    side = round(cell_m / truth.m_px)
    crack_a_cell = _per_cell(truth.crack, side)
    has_crack = crack_a_cell >= _MIN_CRACK_PX
    covered = _per_cell(truth.crack & found, side)
    grown = cv2.dilate(found.astype(np.uint8), np.ones((2 * side + 1, 2 * side + 1), np.uint8)).astype(np.bool_)
    covered_grown = _per_cell(truth.crack & grown, side)
    joint_cell = np.zeros(truth.crack.shape, np.bool_)
    joint_squares = np.kron(_per_cell(truth.joint, side) >= _MIN_CRACK_PX, np.ones((side, side), np.bool_))
    joint_cell[: joint_squares.shape[0], : joint_squares.shape[1]] = joint_squares

    places = np.array(list(flight.sightings), np.float64).reshape(-1, 2)
    rows, columns, inside = truth.pixels(flight.ned(places))
    rows, columns = rows[inside], columns[inside]
    away = truth.to_crack_m[rows, columns].astype(np.float64)
    near = away <= near_m
    errors = away[near]
    marks = int(inside.sum())
    return Comparison(
        crack_cells=int(has_crack.sum()),
        crack_cells_found=_share(covered[has_crack] * 2 >= crack_a_cell[has_crack]),
        crack_cells_found_within_one=_share(covered_grown[has_crack] * 2 >= crack_a_cell[has_crack]),
        found_cells_off_crack=_share(truth.to_crack_m[found] > 2 * cell_m),
        marks=marks,
        marks_near_crack=_share(near),
        marks_on_joint=int((joint_cell[rows, columns] & ~near).sum()),
        marks_outside=len(places) - marks,
        marks_per_m2=marks / truth.area_m2,
        cracks_marked=_share(_away_from(truth, rows, columns)[truth.crack] <= 0.5),
        seen_share=_share(seen.ravel()),
        mark_error_median_m=float(np.median(errors)) if len(errors) else math.nan,
        mark_error_p95_m=float(np.percentile(errors, 95)) if len(errors) else math.nan,
        near_m=near_m,
    )


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else math.nan


def _per_cell(mask: Mask, side: int) -> npt.NDArray[np.int64]:
    """Pixels set in each whole square of `side` x `side`, from the top left; the rest at the edges is left out."""
    rows, columns = mask.shape[0] // side, mask.shape[1] // side
    whole = mask[: rows * side, : columns * side].astype(np.uint8).reshape(rows, side, columns * side)
    sums: npt.NDArray[np.int64] = whole.sum(axis=1, dtype=np.int64).reshape(rows, columns, side).sum(axis=2)
    return sums


def _painted(truth: Truth, flight: Flight, cells: Sequence[tuple[int, int]]) -> Mask:
    """The cells as squares on the wall."""
    mask = np.zeros(truth.crack.shape, np.uint8)
    index = np.array(list(cells), np.float64).reshape(-1, 2)
    corners = [flight.ned((index + offset) * flight.cell_m) for offset in ((0.0, 0.0), (1.0, 1.0))]
    columns = np.sort([np.round((ned[:, 1] - truth.east_m[0]) / truth.m_px) for ned in corners], axis=0).astype(int)
    rows = np.sort([np.round((truth.up_m[1] + ned[:, 2]) / truth.m_px) for ned in corners], axis=0).astype(int)
    for left, right, top, bottom in zip(*columns, *rows, strict=True):
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return mask.astype(np.bool_)


def _away_from(truth: Truth, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    if not len(rows):
        return np.full(truth.crack.shape, np.inf, np.float32)
    free = np.ones(truth.crack.shape, np.uint8)
    free[rows, columns] = 0
    away = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * np.float32(truth.m_px)
    return away.astype(np.float32)
