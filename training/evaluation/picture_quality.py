"""How sharp and how bright is a tile, in the same terms in which the agent judges it in flight?

`training` does not import the agent's gate, so the two measures are written down here once more, for one tile on its
own. A test holds them against `drone_agent.vision.quality`: a gate that is derived here must mean the same there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

_LAG: Final = 4
_DIRECTIONS: Final = ((1, 0), (0, 1), (1, 1), (-1, 1))
_SIXTEENTHS: Final = 16
_BEND_NOISE: Final = 6**0.5 / 2
_STEP_NOISE: Final = 2**0.5 / 2
_EPSILON: Final = 0.05


@dataclass(frozen=True, slots=True)
class PictureQuality:
    """`sharpness`: 0.2 for strong blur, 0.5 to 1 in focus; `brightness`: mean level of green (0-255)."""

    sharpness: float
    brightness: float


def measure(tile: npt.NDArray[np.uint8]) -> PictureQuality:
    """Measures one tile (BGR uint8 [S, S, 3], S a multiple of 16 and at least 96)."""
    green = tile[..., 1]
    return PictureQuality(_sharpness(green), float(green[::4, ::4].mean()))


def _sharpness(green: npt.NDArray[np.uint8]) -> float:
    """Mean bend over three neighbours to mean step over four, of the halved tile, in the blurriest direction."""
    height, width = green.shape[0] // 2, green.shape[1] // 2
    fine = np.multiply(green, _SIXTEENTHS, dtype=np.int16)
    half = np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.int64)
    noise = _noise(green) * _SIXTEENTHS

    def shifted(dx: int, dy: int) -> npt.NDArray[np.int64]:
        return half[_LAG + dy : height - _LAG + dy : 4, _LAG + dx : width - _LAG + dx]

    centre = shifted(0, 0)
    ratios = []
    for dx, dy in _DIRECTIONS:
        bend = float(np.abs(shifted(dx, dy) + shifted(-dx, -dy) - 2 * centre).mean())
        step = float(np.abs(centre - shifted(_LAG * dx, _LAG * dy)).mean())
        bend = math.sqrt(max(bend**2 - (noise * _BEND_NOISE) ** 2, 0.0)) / _SIXTEENTHS
        step = math.sqrt(max(step**2 - (noise * _STEP_NOISE) ** 2, 0.0)) / _SIXTEENTHS
        ratios.append(bend / (step + _EPSILON))
    return min(ratios)


def _noise(green: npt.NDArray[np.uint8]) -> float:
    """Mean absolute noise of a pixel (grey levels), from the pattern 1 -2 1 by 1 -2 1 in three of every 24 rows."""
    block = min(256, green.shape[1] - 2)
    count = len(green) // 24 // 4 * 4
    if count == 0:
        return 0.0
    above, middle, below = (green[row::24][:count].astype(np.int16) for row in (6, 7, 8))
    column = above - 2 * middle + below
    pattern = np.abs(column[:, :-2] - 2 * column[:, 1:-1] + column[:, 2:])
    pattern = pattern[:, : pattern.shape[1] // block * block]
    means = pattern.reshape(count // 4, 4, -1, block).mean(axis=(1, 3))
    return float(np.quantile(means, 0.2)) / 6.0
