"""Which cells of the structure have been touched, and what is held about each? A sparse grid of numpy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_BLOCK = 32
_BLOCK_CELLS = _BLOCK * _BLOCK


class CellGrid:
    """The cells of one face, kept in blocks of 32 x 32 that come into being when they are first seen.

    A cell is addressed by (column, row) = floor(place / cell), which may be negative, and stored at a `slot`: the
    public arrays are indexed by it. Memory follows the area seen, so one wild position costs one block.

    Attributes:
        log_odds: belief that a crack runs through the cell.
        anchor: (n, 3) viewpoint of the last look that counted; NaN before the first.
        good: pictures in which the cell lay in a tile that was scored.
        unknown: pictures in which it lay only in tiles that could not be scored.
        hits: looks from different viewpoints that spoke for a crack.
        p_max: highest p_crack of a tile that spoke for a crack here.
        confirmed: the belief has passed the bound (latched).
        sighting: id of the sighting at this cell, 0 for none.
        dirty: changed since the last coverage delta.
    """

    def __init__(self, cell: float, prior_log_odds: float = 0.0) -> None:
        if not cell > 0:
            raise ValueError(f"a cell's side must be positive, not {cell}")
        self.cell = cell
        self._prior = prior_log_odds
        self._blocks: dict[tuple[int, int], int] = {}
        self._origins = np.zeros((0, 2), np.int64)
        self._allocate(4)

    def _allocate(self, blocks: int) -> None:
        n = blocks * _BLOCK_CELLS
        self.log_odds = np.full(n, self._prior, np.float32)
        self.anchor = np.full((n, 3), np.nan, np.float32)
        self.good = np.zeros(n, np.int32)
        self.unknown = np.zeros(n, np.int32)
        self.hits = np.zeros(n, np.int32)
        self.p_max = np.zeros(n, np.float32)
        self.confirmed = np.zeros(n, np.bool_)
        self.sighting = np.zeros(n, np.int32)
        self.dirty = np.zeros(n, np.bool_)

    def _grow(self) -> None:
        kept = {name: getattr(self, name) for name in _FIELDS}
        self._allocate(2 * len(self.good) // _BLOCK_CELLS)
        for name, values in kept.items():
            getattr(self, name)[: len(values)] = values

    def index_of(self, along: float, height: float) -> tuple[int, int]:
        """(column, row) of the cell that holds a place."""
        return int(np.floor(along / self.cell)), int(np.floor(height / self.cell))

    def centre(self, column: int, row: int) -> tuple[float, float]:
        """(along, height) of a cell's centre."""
        return (column + 0.5) * self.cell, (row + 0.5) * self.cell

    def slots(self, columns: Ints, rows: Ints) -> Ints:
        """The slots of N cells; makes room for those that have none."""
        block_columns, block_rows = columns >> 5, rows >> 5
        low_c, low_r = int(block_columns.min(initial=0)), int(block_rows.min(initial=0))
        width = int(block_columns.max(initial=0)) - low_c + 1
        keys, inverse = np.unique((block_rows - low_r) * width + (block_columns - low_c), return_inverse=True)
        numbers = np.array([self._block(int(key % width) + low_c, int(key // width) + low_r) for key in keys], np.int64)
        local = ((rows & (_BLOCK - 1)) << 5) + (columns & (_BLOCK - 1))
        result: Ints = numbers[inverse] * _BLOCK_CELLS + local if len(keys) else np.zeros(0, np.int64)
        return result

    def _block(self, column: int, row: int) -> int:
        number = self._blocks.get((column, row))
        if number is None:
            number = len(self._blocks)
            self._blocks[column, row] = number
            self._origins = np.vstack([self._origins, [[column * _BLOCK, row * _BLOCK]]])
            if (number + 1) * _BLOCK_CELLS > len(self.good):
                self._grow()
        return number

    def find(self, column: int, row: int) -> int | None:
        """The slot of one cell, None if its block was never seen."""
        number = self._blocks.get((column >> 5, row >> 5))
        return None if number is None else number * _BLOCK_CELLS + ((row & 31) << 5) + (column & 31)

    def cells_at(self, slots: Ints) -> tuple[Ints, Ints]:
        """Columns and rows of N slots."""
        origins = self._origins[slots // _BLOCK_CELLS]
        local = slots % _BLOCK_CELLS
        return origins[:, 0] + (local & 31), origins[:, 1] + (local >> 5)

    def touched(self) -> Ints:
        """The slots of every cell that has been looked at, well or not."""
        return np.flatnonzero((self.good > 0) | (self.unknown > 0))

    def take_dirty(self) -> Ints:
        """The slots that changed since the last call."""
        slots = np.flatnonzero(self.dirty)
        self.dirty[slots] = False
        return slots


_FIELDS = ("log_odds", "anchor", "good", "unknown", "hits", "p_max", "confirmed", "sighting", "dirty")
