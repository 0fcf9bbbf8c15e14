"""What does a camera see that is no concrete? Everyday things, cut out of their photographs and put together anew.

There are only a few hundred photographs of them, and a drone sees things in front of concrete as well as alone. So some
tiles of everyday photographs become collages of several, as dead leaves lie one upon another (Lee, Mumford and Huang
2001; Baradad et al. 2021 train on nothing else), and in front of some tiles of concrete lies a thing. Nothing put there
is as thin as a crack, and a crack that is hidden is marked no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data.augment import Image, log_uniform
from training.data.tiles import kind_of

Fill = Callable[[Generator, int], Image]
"""Makes a square [S, S, 3] of what a thing looks like, of a side in pixels."""

PIECES: Final = (2, 10)
"""Things that a collage consists of, besides what lies behind them."""
SPREAD: Final = (0.12, 0.7)
"""Size of a thing of a collage, as a share of the tile's side."""
IN_FRONT: Final = (0.2, 0.75)
"""Size of a thing in front of concrete."""
BAR_PX: Final = (9.0, 60.0)
"""Width of poles, pipes, strips and stems on a tile of 224 px: wider than the cracks that a drone sees."""
PATTERN_CHANCE: Final = 0.2
"""Share of the things that show a woven, striped or spotted pattern instead of a photograph."""
SHADOW_CHANCE: Final = 0.5
_NOMINAL_PX: Final = 224
_HIDDEN: Final = 128
"""Cover from which a pixel belongs to what lies in front."""


def collage(tile: Image, fill: Fill, rng: Generator) -> Image:
    """Lay things over a tile [S, S, 3], one upon another, each with its own look; return a new tile."""
    laid = tile.copy()
    for _ in range(int(rng.integers(PIECES[0], PIECES[1] + 1))):
        _lay(laid, outline(rng, tile.shape[0], log_uniform(rng, *SPREAD)), fill, rng)
    return laid


def put_in_front(tile: Image, mask: Image | None, fill: Fill, rng: Generator) -> tuple[Image, Image | None]:
    """Put one thing or two in front of a tile, unless that would change what its mask says it shows.

    Args:
        tile: [S, S, 3].
        mask: of its cracks and joints [S, S]; None if nothing is marked, which holds only for a sound tile.
        fill: gives the things their look.
        rng: decides everything.

    Returns:
        The tile and its mask, in which what is hidden is marked no more; both as they were if a crack or joint would no
        longer be seen for what it is, or was hardly seen before (`kind_of` is unsure).
    """
    side = tile.shape[0]
    kind = None if mask is None else kind_of(mask)
    if mask is not None and kind is None:
        return tile, mask
    laid, hidden = tile.copy(), np.zeros((side, side), np.bool_)
    for _ in range(int(rng.integers(1, 3))):
        cover = outline(rng, side, log_uniform(rng, *IN_FRONT))
        hidden |= cover >= _HIDDEN
        _lay(laid, cover, fill, rng)
    if mask is None:
        return laid, None
    left = np.where(hidden, np.uint8(0), mask)
    return (laid, left) if kind_of(left) == kind else (tile, mask)


def outline(rng: Generator, side: int, size: float) -> Image:
    """Draw where a thing is.

    Args:
        rng: decides its form, place and position.
        side: of the tile in pixels.
        size: of the thing, as a share of that side.

    Returns:
        Cover [side, side], 0 for none to 255: a rounded or a cornered thing, or a bar that crosses the tile, straight
        or bent.
    """
    form = rng.random()
    if form < 0.35:
        points = _blob(rng)
    elif form < 0.7:
        points = _polygon(rng)
    else:
        return _soften(_bar(rng, side), rng)
    centre = rng.uniform(0, side, 2)
    cover = np.zeros((side, side), np.uint8)
    corners = np.rint((centre + points * size * side / 2) * 8).astype(np.int32)
    cv2.fillPoly(cover, [corners], 255, lineType=cv2.LINE_AA, shift=3)
    return _soften(cover, rng)


def pattern(rng: Generator, side: int) -> Image:
    """Draw stripes, a lattice or spots in two colours [side, side, 3], 6 to 40 px apart."""
    period = log_uniform(rng, 6.0, 40.0)
    turn = float(rng.uniform(0, np.pi))
    along = np.arange(side, dtype=np.float32)
    x = along[None, :] * np.float32(np.cos(turn)) + along[:, None] * np.float32(np.sin(turn))
    y = along[:, None] * np.float32(np.cos(turn)) - along[None, :] * np.float32(np.sin(turn))
    waves = np.sin(2 * np.pi * x / period)
    kind = int(rng.integers(3))
    if kind == 1:
        waves = np.maximum(waves, np.sin(2 * np.pi * y / period))
    elif kind == 2:
        waves = waves * np.sin(2 * np.pi * y / period)
    hardness, middle = float(rng.uniform(1, 6)), float(rng.uniform(-0.5, 0.5))
    share = 1 / (1 + np.exp(-hardness * (waves - middle)))
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    return np.asarray(colours[0] + share[:, :, None] * (colours[1] - colours[0]), np.uint8)


def _lay(laid: Image, cover: Image, fill: Fill, rng: Generator) -> None:
    """Lay a thing on what is there, often with its shadow; only the part that it covers is worked on."""
    if rng.random() < SHADOW_CHANCE:
        _shade(laid, cover, rng)
    patterned = rng.random() < PATTERN_CHANCE
    x, y, width, height = cv2.boundingRect(cover)
    if width == 0:
        return
    look = (pattern if patterned else fill)(rng, max(width, height))[:height, :width]
    part = laid[y : y + height, x : x + width]
    _blend(part, look, cover[y : y + height, x : x + width])


def _blend(part: Image, look: Image, cover: Image) -> None:
    """Change a part of a tile [H, W, 3] to a look, as far as it is covered [H, W]: 0 not at all, 255 wholly."""
    alpha = cv2.merge([cover, cover, cover])
    part[:] = cv2.add(cv2.multiply(part, 255 - alpha, scale=1 / 255), cv2.multiply(look, alpha, scale=1 / 255))


def _shade(laid: Image, cover: Image, rng: Generator) -> None:
    """Let a thing throw its shadow a little to one side."""
    side = laid.shape[0]
    shift = rng.uniform(-0.06, 0.06, 2) * side
    depth, softness = float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.5, 0.02 * side + 1))
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    shadow = cv2.warpAffine(cv2.GaussianBlur(cover, (0, 0), softness), matrix, (side, side))
    left = cv2.convertScaleAbs(shadow, alpha=-depth, beta=255)
    laid[:] = cv2.multiply(laid, cv2.merge([left, left, left]), scale=1 / 255)


def _soften(cover: Image, rng: Generator) -> Image:
    """Blur the rim of a thing, from hardly to out of focus."""
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), log_uniform(rng, 0.4, 3.0)), np.uint8)


def _blob(rng: Generator) -> NDArray[np.float64]:
    """Return the outline of a rounded thing of radius 1 or so [N, 2]."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = np.ones_like(angles)
    for order in range(2, 7):
        radius += float(rng.normal(0, 0.35 / order)) * np.cos(order * angles + float(rng.uniform(0, 2 * np.pi)))
    flat = float(rng.uniform(0.4, 1.0))
    points = np.maximum(radius, 0.15)[:, None] * np.stack([np.cos(angles), flat * np.sin(angles)], axis=1)
    return _turned(points, float(rng.uniform(0, np.pi)))


def _polygon(rng: Generator) -> NDArray[np.float64]:
    """Return the corners of a thing with straight sides [N, 2]: a box half of the time."""
    if rng.random() < 0.5:
        flat = float(rng.uniform(0.3, 1.0))
        points = np.array([[-1, -flat], [1, -flat], [1, flat], [-1, flat]])
        return _turned(points, float(rng.uniform(0, np.pi)) if rng.random() < 0.5 else 0.0)
    number = int(rng.integers(3, 8))
    angles = 2 * np.pi / number * (np.arange(number) + rng.uniform(-0.3, 0.3, number) + rng.random())
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(rng.uniform(0.5, 1.2, len(angles))[:, None] * corners, np.float64)


def _bar(rng: Generator, side: int) -> Image:
    """Draw a pole, pipe, strip or stem from border to border [side, side]."""
    heading = float(rng.uniform(0, np.pi))
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]])
    middle = rng.uniform(0.1, 0.9, 2) * side
    bend = float(rng.normal(0, 0.25)) * side if rng.random() < 0.5 else 0.0
    ends = middle - 1.5 * side * along, middle + bend * across, middle + 1.5 * side * along
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    cover = np.zeros((side, side), np.uint8)
    width = max(3, round(log_uniform(rng, *BAR_PX) * side / _NOMINAL_PX))
    points = np.rint(curve * 8).astype(np.int32)
    cv2.polylines(cover, [points], isClosed=False, color=255, thickness=width, lineType=cv2.LINE_AA, shift=3)
    return cover


def _turned(points: NDArray[np.float64], angle_rad: float) -> NDArray[np.float64]:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]), np.float64)
