"""When does a tile that was cut from a masked photograph count as crack, as sound, or as neither?

The rule looks at the tile as the network sees it: how many of its 14 x 14 blocks the crack touches (its length), and
which share of its pixels is crack. A tile is positive if the crack touches at least `MIN_BLOCKS` blocks (about 0.3
of the side) and covers at least `MIN_SHARE`; it is negative only if no pixel is crack, boxed or unsure; everything
between is unsure and left out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.omissions import UNSURE
from training.data.sources import BOX, CRACK, JOINT

BLOCKS: Final = 14
MIN_BLOCKS: Final = 4
MIN_SHARE: Final = 0.001
MIN_BOX_BLOCKS: Final = 6
"""A box encloses more than its crack, so more of it must be in the tile."""
MIN_JOINT_BLOCKS: Final = 3


def touched_blocks(marked: NDArray[np.bool_]) -> int:
    """Count the blocks of a 14 x 14 grid over a square tile [S, S] in which something is marked."""
    rows, columns = np.nonzero(marked)
    side = marked.shape[0]
    return len(np.unique(rows * BLOCKS // side * BLOCKS + columns * BLOCKS // side))


def label_of(mask: NDArray[np.uint8]) -> bool | None:
    """Label a tile by its mask [S, S]: True crack, False none, None unsure (left out)."""
    if not (mask == CRACK).any():
        boxed = mask == BOX
        if not boxed.any():
            return None if (mask == UNSURE).any() else False
        return True if touched_blocks(boxed) >= MIN_BOX_BLOCKS else None
    crack = mask == CRACK
    return True if touched_blocks(crack) >= MIN_BLOCKS and float(crack.mean()) >= MIN_SHARE else None


def kind_of(mask: NDArray[np.uint8]) -> str | None:
    """Name what a tile shows: "crack", "joint" (no crack), "plain", or None if unsure."""
    label = label_of(mask)
    if label is None:
        return None
    if label:
        return "crack"
    joint = mask == JOINT
    if not joint.any():
        return "plain"
    return "joint" if touched_blocks(joint) >= MIN_JOINT_BLOCKS else None
