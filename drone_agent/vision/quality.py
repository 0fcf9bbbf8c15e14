"""Is the picture good enough to say anything? Brightness, clipping and sharpness of each tile, cheaply.

Sharpness must not depend on contrast: a smooth wall in focus has little grain, but what it has is fine. So it is a
ratio: the mean bend over three neighbouring pixels (second difference) to the mean step between pixels four apart. Any
blur takes the bends first. The frame is halved beforehand, because a camera's last octave is noise rather than
concrete. What noise still adds is taken off; its size is read from the finest diagonal pattern of the full frame,
where optics and compression leave least. Motion blurs one direction only, so four are measured and the blurriest
counts.

All of it works on the green channel, which a colour sensor samples twice as densely as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.values import Image, Tile
from drone_agent.vision.settings import QualityGates

_Map = npt.NDArray[np.int16]
_Ints = npt.NDArray[np.int_]
_Floats = npt.NDArray[np.float64]

_DARK_LEVEL = 4
_BRIGHT_LEVEL = 250
_LAG = 4
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (-1, 1))
# Grey levels are kept in sixteenths: rounding the halved frame to whole ones would look like grain on a smooth wall.
_SCALE = 16
# Means over a tile need not see every pixel: light is measured in every 4th row and column, grain in every 4th row of
# the halved frame, noise in three of every 24 rows.
_LIGHT_STEP = 4
_GRAIN_STEP = 4
_STRIP_STEP = 24
_SMALLEST_PX = 48
# Mean absolute values for white noise, in units of that of a full frame's pixel: halving averages four pixels; a bend
# is 1 -2 1, a step 1 -1, the diagonal pattern its outer square.
_NOISE_SHARE = np.repeat([6**0.5 / 2, 2**0.5 / 2], len(_DIRECTIONS))
_NOISE_PATTERN = 6.0
_NOISE_QUANTILE = 0.2
# A block of noise: wide enough that its mean is known to a few per cent.
_BLOCK_PX = 256
_BLOCK_STRIPS = 4
# Keeps the ratio finite where there is no texture (grey levels).
_TEXTURE_EPSILON = 0.05


@dataclass(frozen=True, slots=True)
class TileQuality:
    """What was measured in one tile.

    `brightness` is its mean level (0-255), the shares are of pixels clipped to black and to white, `sharpness` is about
    0.2 for strong blur and 0.5 to 1.0 for concrete in focus, `texture` the mean step of coarse grain (grey levels).
    `reason` is None when the tile is good enough, else `dark`, `bright`, `flat` or `blur`.
    """

    brightness: float
    dark_share: float
    bright_share: float
    sharpness: float
    texture: float
    reason: str | None


def assess(image: Image, tiles: Sequence[Tile], gates: QualityGates) -> list[TileQuality]:
    """Measures `tiles` of `image` (BGR uint8, HxWx3) and judges them by `gates`, in the same order."""
    if not tiles:
        return []
    green = np.asarray(cv2.extractChannel(image, 1), np.uint8)
    corners = np.array([(tile.x_px, tile.y_px, tile.size_px) for tile in tiles])
    light = np.ascontiguousarray(green[::_LIGHT_STEP, ::_LIGHT_STEP])
    dark = cv2.threshold(light, _DARK_LEVEL, 1, cv2.THRESH_BINARY_INV)[1]
    bright = cv2.threshold(light, _BRIGHT_LEVEL, 1, cv2.THRESH_BINARY)[1]
    exposure = _means(np.hstack([light, dark, bright]), 3, _windows(corners, _LIGHT_STEP, _LIGHT_STEP))
    sharpness = _sharpness(green, corners)
    qualities = []
    for (brightness, dark_share, bright_share), (grain, texture) in zip(
        exposure.tolist(), sharpness.tolist(), strict=True
    ):
        reason = _reason(brightness, dark_share, bright_share, grain, texture, gates)
        qualities.append(TileQuality(brightness, dark_share, bright_share, grain, texture, reason))
    return qualities


def _reason(
    brightness: float,
    dark_share: float,
    bright_share: float,
    sharpness: float,
    texture: float,
    gates: QualityGates,
) -> str | None:
    if brightness < gates.min_brightness or dark_share > gates.max_dark_share:
        return "dark"
    if brightness > gates.max_brightness or bright_share > gates.max_bright_share:
        return "bright"
    if texture < gates.min_texture:
        return "flat"
    return "blur" if sharpness < gates.min_sharpness else None


def _sharpness(green: npt.NDArray[np.uint8], corners: _Ints) -> _Floats:
    """Sharpness and texture of each tile, [tiles, 2]."""
    height, width = (side // 2 for side in green.shape)
    if min(height, width) <= 2 * _LAG or int(corners[:, 2].min()) < _SMALLEST_PX:
        return np.zeros((len(corners), 2))
    fine = np.multiply(green[: 2 * height, : 2 * width], _SCALE, dtype=np.int16)
    half = np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.int16)
    noise = _noise(green) * _SCALE
    means = _means(_grain(half), 2 * len(_DIRECTIONS), _windows(corners - (0, 0, 4 * _LAG), 2, 2 * _GRAIN_STEP))
    # Independent contributions add as squares.
    means = np.sqrt(np.maximum(means**2 - (noise * _NOISE_SHARE) ** 2, 0.0)) / _SCALE
    bends, steps = means[:, : len(_DIRECTIONS)], means[:, len(_DIRECTIONS) :]
    ratios = bends / (steps + _TEXTURE_EPSILON)
    return np.stack([ratios.min(axis=1), steps.min(axis=1)], axis=1)


def _grain(half: _Map) -> _Map:
    """Absolute bends in each direction, then steps, side by side; of every n-th row, without the border."""
    height, width = half.shape[0] - 2 * _LAG, half.shape[1] - 2 * _LAG

    def shifted(dx: int, dy: int) -> _Map:
        return half[_LAG + dy : _LAG + dy + height : _GRAIN_STEP, _LAG + dx : _LAG + dx + width]

    centre = shifted(0, 0)
    doubled = centre + centre
    maps = np.empty((len(centre), 2 * len(_DIRECTIONS) * width), np.int16)
    parts = np.split(maps, 2 * len(_DIRECTIONS), axis=1)
    for (dx, dy), bends, steps in zip(_DIRECTIONS, parts[: len(_DIRECTIONS)], parts[len(_DIRECTIONS) :], strict=True):
        cv2.absdiff(cv2.add(shifted(dx, dy), shifted(-dx, -dy)), doubled, bends)
        cv2.absdiff(centre, shifted(_LAG * dx, _LAG * dy), steps)
    return maps


def _noise(green: npt.NDArray[np.uint8]) -> float:
    """Mean absolute noise of one pixel (grey levels), from the pattern 1 -2 1 by 1 -2 1 in strips of three rows."""
    block_px = min(_BLOCK_PX, green.shape[1] - 2)
    count = len(green) // _STRIP_STEP // _BLOCK_STRIPS * _BLOCK_STRIPS
    if count == 0:
        return 0.0
    above, middle, below = (green[row::_STRIP_STEP][:count].astype(np.int16) for row in (6, 7, 8))
    column = above - 2 * middle + below
    pattern = np.abs(column[:, :-2] - 2 * column[:, 1:-1] + column[:, 2:])
    pattern = pattern[:, : pattern.shape[1] // block_px * block_px]
    means = pattern.reshape(count // _BLOCK_STRIPS, _BLOCK_STRIPS, -1, block_px).mean(axis=(1, 3))
    # Sharp rough concrete has diagonal grain of its own; the smoother places of the frame show what the camera adds.
    return float(np.quantile(means, _NOISE_QUANTILE)) / _NOISE_PATTERN


def _windows(corners: _Ints, column_step: int, row_step: int) -> _Ints:
    """(top, bottom, left, right) of each tile in a map that keeps every n-th column and row; never empty."""
    x_px, y_px, size_px = corners.T
    top, left = y_px // row_step, x_px // column_step
    bottom = np.maximum((y_px + size_px) // row_step, top + 1)
    right = np.maximum((x_px + size_px) // column_step, left + 1)
    return np.stack([top, bottom, left, right], axis=1)


def _means(maps: npt.NDArray[np.integer], count: int, windows: _Ints) -> _Floats:
    """Mean of each of `count` maps, which lie side by side, in each window: [windows, maps]."""
    depth = cv2.CV_32S if maps.dtype == np.uint8 else cv2.CV_32F
    means = np.empty((len(windows), count))
    running = np.zeros(maps.shape[1] + 1)
    offsets = np.arange(count) * (maps.shape[1] // count)
    rows: dict[tuple[int, int], list[int]] = {}
    for index, (top, bottom) in enumerate(windows[:, :2].tolist()):
        rows.setdefault((top, bottom), []).append(index)
    # The tiles of one row share the sums of their columns.
    for (top, bottom), of_row in rows.items():
        np.cumsum(cv2.reduce(maps[top:bottom], 0, cv2.REDUCE_SUM, dtype=depth)[0], out=running[1:])
        left, right = windows[of_row, 2, None], windows[of_row, 3, None]
        means[of_row] = (running[right + offsets] - running[left + offsets]) / ((right - left) * (bottom - top))
    return means
