"""What has been seen of the structure, how well, and what not?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drone_agent.inspection.projection import FaceInfo
from drone_agent.inspection.surface import CellGrid

CoverageCell = tuple[int, int, int, int, float]


@dataclass(frozen=True, slots=True)
class CoverageDelta:
    """The cells of a face that changed since the last delta.

    Each cell is (column, row, pictures in which it was scored, pictures in which it could not be, belief in log-odds).
    """

    face: str
    cells: tuple[CoverageCell, ...]


@dataclass(frozen=True, slots=True)
class CoverageSummary:
    """One face in numbers; areas in square metres (square pixels for a picture).

    `seen_cells` were scored at least once; `unknown_cells` came into view but never in a picture good enough;
    `never_cells` lie within the face's ends, or where it has none within the rectangle around everything in view, and
    never came into view. `found_cells` have passed the bound at some time.
    """

    face: str
    seen_cells: int
    unknown_cells: int
    never_cells: int
    found_cells: int
    seen_area: float
    unknown_area: float
    never_area: float


def take_delta(face: FaceInfo, grid: CellGrid) -> CoverageDelta | None:
    """The changes since the last call, in order of (row, column); None if there are none."""
    slots = grid.take_dirty()
    if not len(slots):
        return None
    columns, rows = grid.cells_at(slots)
    order = np.lexsort((columns, rows))
    beliefs = np.round(grid.log_odds[slots].astype(np.float64), 3)
    cells = zip(
        columns[order].tolist(),
        rows[order].tolist(),
        grid.good[slots][order].tolist(),
        grid.unknown[slots][order].tolist(),
        beliefs[order].tolist(),
        strict=True,
    )
    return CoverageDelta(face.name, tuple(cells))


def summarise(face: FaceInfo, grid: CellGrid) -> CoverageSummary:
    """Counts and areas of one face."""
    touched = grid.touched()
    good = grid.good[touched] > 0
    seen, unknown = int(good.sum()), int((~good).sum())
    if face.length is not None and face.height is not None:
        whole = round(face.length / grid.cell) * round(face.height / grid.cell)
    elif len(touched):
        columns, rows = grid.cells_at(touched)
        whole = int(np.ptp(columns) + 1) * int(np.ptp(rows) + 1)
    else:
        whole = 0
    never = max(0, whole - seen - unknown)
    area = grid.cell**2
    found = int(grid.confirmed[touched].sum())
    return CoverageSummary(face.name, seen, unknown, never, found, seen * area, unknown * area, never * area)
