"""How much of the structure was seen, how well, and where are the holes?

Every cell of a face falls into one class: seen well (at least so many pictures that were good enough), seen poorly
(fewer), unknown only (it came into view, but never in a picture good enough), or gap (never in view, though it lies
inside the convex hull of what was, or inside the face where its ends are known). Only the first two say anything
about cracks. Nothing is said about the structure outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.flightlog.reader import CoverageCell, Flight

Cell = tuple[int, int]
Runs = list[tuple[int, int, int, int]]

# beyond this a stray cell (a wild pose) has blown up the grid, and filling its hull would take the machine's memory
_MAX_GRID_CELLS = 20_000_000
_DEFAULT_LOOKS = 2


@dataclass(frozen=True, slots=True)
class FaceCoverage:
    """Coverage of one face; areas in square units of the face (m² or px²), cells as (column, row).

    `gaps_known` is False if the cells are strewn too widely to say where the holes are.
    """

    face: str
    unit: str
    cell: float
    looks_wanted: int
    seen: Mapping[Cell, int]
    """Good looks of every cell that was seen at least once."""
    unknown: frozenset[Cell]
    gaps: frozenset[Cell]
    gaps_known: bool

    def _area(self, cells: int) -> float:
        return cells * self.cell**2

    @property
    def well_area(self) -> float:
        """Seen well: at least `looks_wanted` good looks."""
        return self._area(sum(looks >= self.looks_wanted for looks in self.seen.values()))

    @property
    def poor_area(self) -> float:
        """Seen, but less often than wanted."""
        return self._area(sum(looks < self.looks_wanted for looks in self.seen.values()))

    @property
    def seen_area(self) -> float:
        """Seen at least once in a picture good enough."""
        return self._area(len(self.seen))

    @property
    def unknown_area(self) -> float:
        """In view, but never in a picture good enough."""
        return self._area(len(self.unknown))

    @property
    def gap_area(self) -> float:
        """Never in view, inside the hull of what was."""
        return self._area(len(self.gaps))

    @property
    def extent(self) -> tuple[float, float, float, float] | None:
        """(along min, along max, height min, height max) of all cells, None if there are none."""
        cells = [*self.seen, *self.unknown, *self.gaps]
        if not cells:
            return None
        columns, rows = np.array(cells).T
        low = (columns.min() * self.cell, rows.min() * self.cell)
        high = ((columns.max() + 1) * self.cell, (rows.max() + 1) * self.cell)
        return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def face_coverage(flight: Flight, face: str, *, looks_wanted: int | None = None) -> FaceCoverage:
    """The coverage of one face at the end of the flight.

    Args:
        flight: The flight.
        face: Name of the face.
        looks_wanted: Good looks from which on a cell counts as seen well; by default what the flight was configured to
            need before it confirms a crack (`inspection.min_looks`).
    """
    known = flight.faces.get(face)
    cells = flight.cells(face)
    seen = {(c.column, c.row): c.good_looks for c in cells if c.good_looks > 0}
    unknown = frozenset((c.column, c.row) for c in cells if c.good_looks <= 0 and c.unknown_looks > 0)
    ends = None
    if known is not None and known.length and known.height:
        ends = (round(known.length / known.cell), round(known.height / known.cell))
    gaps, gaps_known = find_gaps(_touched(cells), ends=ends)
    return FaceCoverage(
        face=face,
        unit=known.unit if known else "m",
        cell=known.cell if known else 0.05,
        looks_wanted=_looks_wanted(flight.session) if looks_wanted is None else looks_wanted,
        seen=seen,
        unknown=unknown,
        gaps=gaps,
        gaps_known=gaps_known,
    )


def find_gaps(touched: Sequence[Cell], *, ends: Cell | None = None) -> tuple[frozenset[Cell], bool]:
    """Cells inside the convex hull of `touched`, or the whole face of `ends` (columns, rows), that are not in it.

    Returns:
        The gaps, and whether they could be determined.
    """
    if not touched:
        return (frozenset((c, r) for c in range(ends[0]) for r in range(ends[1])) if ends else frozenset()), True
    points = np.array(touched, np.int64)
    low = points.min(axis=0)
    high = points.max(axis=0)
    if ends is not None:
        low, high = np.minimum(low, 0), np.maximum(high, np.array(ends) - 1)
    width, height = (int(v) for v in high - low + 1)
    if width * height > _MAX_GRID_CELLS:
        return frozenset(), False
    present = np.zeros((height, width), np.uint8)
    present[points[:, 1] - low[1], points[:, 0] - low[0]] = 1
    inside = np.zeros_like(present)
    hull = cv2.convexHull((points - low).astype(np.int32))
    cv2.fillConvexPoly(inside, hull, 1)
    if ends is not None:
        inside[max(0, -low[1]) : ends[1] - low[1], max(0, -low[0]) : ends[0] - low[0]] = 1
    rows, columns = np.nonzero((inside == 1) & (present == 0))
    return frozenset(zip((columns + low[0]).tolist(), (rows + low[1]).tolist(), strict=True)), True


def runs(cells: Sequence[Cell] | frozenset[Cell]) -> Runs:
    """Rectangles (column, row, columns, rows) that cover exactly `cells`: runs in a row, equal ones joined."""
    by_row: dict[int, list[int]] = {}
    for column, row in cells:
        by_row.setdefault(row, []).append(column)
    done: Runs = []
    open_: dict[tuple[int, int], tuple[int, int]] = {}
    previous = None
    for row in sorted(by_row):
        if previous is not None and row != previous + 1:
            done += [(c, r0, n, count) for (c, n), (r0, count) in open_.items()]
            open_ = {}
        current = _row_runs(np.array(sorted(by_row[row])))
        following: dict[tuple[int, int], tuple[int, int]] = {}
        for run in current:
            start, count = open_.pop(run, (row, 0))
            following[run] = (start, count + 1)
        done += [(c, r0, n, count) for (c, n), (r0, count) in open_.items()]
        open_, previous = following, row
    done += [(c, r0, n, count) for (c, n), (r0, count) in open_.items()]
    return done


def outline(cells: Sequence[Cell] | frozenset[Cell]) -> list[tuple[int, int, int, int]]:
    """The edges around `cells` as segments (x0, y0, x1, y1) on the grid of corners, collinear neighbours joined."""
    inside = set(cells)
    flat: dict[int, list[int]] = {}
    upright: dict[int, list[int]] = {}
    for column, row in inside:
        for side in (0, 1):
            if (column, row - 1 + 2 * side) not in inside:
                flat.setdefault(row + side, []).append(column)
            if (column - 1 + 2 * side, row) not in inside:
                upright.setdefault(column + side, []).append(row)
    segments = []
    for y, columns in sorted(flat.items()):
        segments += [(c, y, c + n, y) for c, n in _row_runs(np.unique(columns))]
    for x, rows in sorted(upright.items()):
        segments += [(x, r, x, r + n) for r, n in _row_runs(np.unique(rows))]
    return segments


def _row_runs(columns: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, length) of the runs in sorted `columns`."""
    breaks = np.flatnonzero(np.diff(columns) != 1) + 1
    return [(int(part[0]), len(part)) for part in np.split(columns, breaks)]


def _touched(cells: Sequence[CoverageCell]) -> list[Cell]:
    return [(c.column, c.row) for c in cells if c.good_looks > 0 or c.unknown_looks > 0]


def _looks_wanted(session: Mapping[str, Any]) -> int:
    config = session.get("config")
    block = config.get("inspection") if isinstance(config, Mapping) else None
    value = block.get("min_looks") if isinstance(block, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else _DEFAULT_LOOKS
