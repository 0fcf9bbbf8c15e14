"""Which squares of a frame does the model look at?"""

from __future__ import annotations

import math
from functools import lru_cache

from drone_agent.values import Tile


@lru_cache(maxsize=32)
def plan(width: int, height: int, tile_px: int, overlap: float = 0.0) -> tuple[Tile, ...]:
    """Covers a picture with square tiles, row by row from the top left.

    Every pixel lies in at least one tile. Neighbours share at least `overlap` of their side; the rows and columns are
    spread evenly between the borders, so that the last ones end exactly at the border.

    A picture that is narrower or lower than a tile gets smaller tiles, their side its shorter side: they are enlarged
    to the model's input later. Nothing is padded, because a padded border is an edge that no wall has.

    Args:
        width: of the picture (px), at least 1.
        height: of the picture (px), at least 1.
        tile_px: wanted side of the tiles (px), at least 1.
        overlap: share of the side that neighbours have in common, 0 to 0.75.

    Raises:
        ValueError: an argument is outside its range.
    """
    if min(width, height, tile_px) < 1:
        raise ValueError(f"picture {width}x{height} with tiles of {tile_px}: allowed is 1 px or more")
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap {overlap}: allowed is 0 to 0.75")
    size = min(tile_px, width, height)
    return tuple(Tile(x, y, size) for y in _starts(height, size, overlap) for x in _starts(width, size, overlap))


def _starts(length: int, size: int, overlap: float) -> list[int]:
    # Rounding the stride down keeps the promised overlap; at least one pixel of progress keeps it finite.
    stride = max(1, math.floor(size * (1 - overlap)))
    room = length - size
    steps = math.ceil(room / stride)
    return [room * step // steps for step in range(steps + 1)] if steps else [0]
