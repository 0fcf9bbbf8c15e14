"""What do rough walls look like in the sun? Masonry and concrete as height and colour, lit from one side.

Flat drawings miss what a rough wall shows most: shadows. Split stone, crumbling mortar, planks that stand proud of each
other, coarse render and peeling paint throw dark, thin, irregular lines without being cracked. Here each picture is a
field of heights and a field of colours; a sun at any height and a sky light it (Lambert's law, shadows cast along the
sun's direction, a sky that deep places see less of). Cracks are grooves in it. The finest colours are still those of a
photograph, so that no renderer's smoothness gives the answer away.

Heights and lengths are in fine pixels, `FINE` of which are one pixel of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data.augment import log_uniform
from training.data.sources import CRACK, JOINT

FINE: Final = 2
BRIGHTEST: Final = 245.0
"""What 97 % of a picture stay below."""
CLOSED: Final = 0.2
"""Half of a crack's width, in fine pixels, up to which nothing is seen of it."""
PAINTED: Final = 0.15
"""Share of the masonry that is painted or limewashed: one colour, softer edges."""
SUN_STEPS: Final = 28
"""Points along the way to the sun at which something may stand in the way, each a seventh farther than the one before.

So a long shadow may end a seventh short."""
Image = NDArray[np.uint8]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Relief:
    """A wall before it is lit: `height` float32 [S, S], `colour` BGR float32 [S, S, 3], `mask` uint8 [S, S]."""

    height: Float
    colour: Float
    mask: Image


@dataclass(frozen=True)
class Sun:
    """Where light comes from: the sun, and evenly from the sky in front of the wall.

    Attributes:
        azimuth_rad: direction to the sun along the wall, from the picture's right over its bottom.
        elevation_deg: of the sun over the wall's plane.
        share: of the light that is the sun's, 0 to 1.
        softness: fine pixels over which a shadow's edge fades.
    """

    azimuth_rad: float
    elevation_deg: float
    share: float
    softness: float


def masonry(texture: Image, rng: Generator) -> Relief:
    """Lay bricks, ashlar or rubble with mortar that is flush, raked, smeared or crumbling; always sound.

    Args:
        texture: BGR uint8 [H, H, 3] without a crack; its grain is laid over stones and mortar.
        rng: decides everything.

    Returns:
        A relief of side FINE x H, its mortar marked as JOINT.
    """
    side = FINE * texture.shape[0]
    kind = str(rng.choice(["brick", "ashlar", "rubble"], p=[0.5, 0.25, 0.25]))
    size = FINE * log_uniform(rng, 14, 60 if rng.random() < 0.5 else 230)
    mortar = max(2.0, size * float(rng.uniform(0.03, 0.22)))
    if kind == "rubble":
        stones = _rubble(side, size, mortar, rng)
    else:
        stones = _courses(side, size, mortar, rng, even=kind == "brick")
    height = _stones(stones, size, rng, roughest=1.0 if kind == "brick" else 4.0)
    bed = _bed(stones, size, mortar, rng)
    covered = (stones == 0) | (bed > cv2.GaussianBlur(height, (0, 0), 2.0))  # what is smeared hides its stone
    sand = float(rng.uniform(0.1, 0.8)) * cloud(side, rng, 5.0, 0.2)
    height = np.asarray(np.where(covered, bed + sand, height), np.float32)
    if rng.random() < 0.5:  # mortar shrank away from some stones
        beside = cv2.distanceTransform(covered.astype(np.uint8), cv2.DIST_L2, 3)
        somewhere = cloud(side, rng, size, 0.5) > rng.uniform(0, 1.2)
        height -= float(rng.uniform(2.0, 9.0)) * np.clip(1.5 - np.abs(beside - 1.0), 0, 1) * somewhere
    if rng.random() < PAINTED:
        height = np.asarray(cv2.GaussianBlur(height, (0, 0), float(rng.uniform(1.0, 3.0))), np.float32)
        colour = _painted(side, 120, 0.1, rng)
    else:
        base = np.array(STONES_BGR, np.float32)[rng.integers(len(STONES_BGR))] * np.float32(rng.uniform(0.6, 1.2))
        colour = (base * _shades(int(stones.max()) + 1, float(rng.uniform(0.02, 0.3)), rng))[stones]
        colour *= (1 + float(rng.uniform(0.0, 0.15)) * cloud(side, rng, size, 0.4))[:, :, None]
        colour[covered] = np.float32(rng.uniform(60, 210)) * _shades(1, 0.12, rng)[0]
    if rng.random() < 0.3:  # moss or dirt in low places, or lime that bled out
        low = np.clip(0.5 * cloud(side, rng, size * 2, 0.5) - height / (2 + height.std()), 0, 1)
        colour = _stained(colour, low, ((40, 75, 65), (35, 45, 50), (225, 228, 230)), (0.3, 0.9), rng)
    marked = np.where(stones == 0, np.uint8(JOINT), np.uint8(0))
    return Relief(height, _grained(np.asarray(colour, np.float32), texture, rng), marked)


def _stones(stones: NDArray[np.int32], size: float, rng: Generator, *, roughest: float) -> Float:
    """Return the faces of stones: rough, each at its own level and a little askew, rounded and chipped at its edges."""
    side, count = stones.shape[0], int(stones.max()) + 1
    rough = log_uniform(rng, 0.15, roughest) * min(2.0, size / 60)
    height = rough * cloud(side, rng, size * float(rng.uniform(0.2, 1.2)), float(rng.uniform(0.5, 1.1)))
    height = np.asarray(height + _pitted(side, rng), np.float32)
    height += (float(rng.uniform(0.2, 1.5)) * rng.standard_normal(count).astype(np.float32))[stones]
    tilt = rng.normal(0, rng.uniform(0.0, 0.05), (2, count)).astype(np.float32)
    for slope, axis in zip(tilt, np.mgrid[:side, :side].astype(np.float32), strict=True):
        height += slope[stones] * (axis - _middles(stones, axis, count)[stones])
    edge = size * float(rng.uniform(0.02, 0.3))
    inside = cv2.distanceTransform((stones > 0).astype(np.uint8), cv2.DIST_L2, 5)
    inside = np.minimum(inside, np.float32(1e30))  # where no mortar is in sight it is the greatest of all numbers
    worn = np.clip(inside * (1 + float(rng.uniform(0.0, 0.6)) * cloud(side, rng, edge * 2, 0.6)), 0, edge)
    return np.asarray(height - float(rng.uniform(0.1, 0.9)) * (edge - worn) ** 2 / edge, np.float32)


def _bed(stones: NDArray[np.int32], size: float, mortar: float, rng: Generator) -> Float:
    """Return the level of the mortar, also where stones hide it: flush or raked, fallen out here and there."""
    side = stones.shape[0]
    level = -float(rng.uniform(0.0, 0.5)) * mortar - float(rng.uniform(-0.5, 2.0))
    crumbled = cloud(side, rng, mortar * float(rng.uniform(1.0, 6.0)), float(rng.uniform(0.3, 0.9)))
    bed = np.asarray(level + float(rng.uniform(0.1, 1.4)) * crumbled, np.float32)
    if rng.random() < 0.4:
        fallen = np.clip(3 * (cloud(side, rng, size * float(rng.uniform(0.5, 3)), 0.4) - rng.uniform(0.5, 1.5)), 0, 1)
        bed -= float(rng.uniform(0.2, 1.0)) * mortar * fallen
    return np.asarray(bed, np.float32)


def concrete(texture: Image, rng: Generator, *, cracked: bool) -> Relief:
    """Cast, render or paint a wall: board marks, coarse render, exposed aggregate, panels, peeling paint, or smooth.

    Args:
        texture: as above; its colours are the wall's, unless it is painted.
        rng: decides everything.
        cracked: whether one or two cracks run through it, marked as CRACK.
    """
    side = FINE * texture.shape[0]
    mask = np.zeros((side, side), np.uint8)
    colour = np.asarray(cv2.resize(texture, (side, side), interpolation=cv2.INTER_CUBIC), np.float32).clip(0, 255)
    if rng.random() < 0.35:
        colour = _grained(_painted(side, 90, 0.25, rng), texture, rng)
    height = float(rng.uniform(0.1, 0.8)) * cloud(side, rng, float(rng.uniform(20, 120)), float(rng.uniform(0.3, 0.9)))
    kind = str(rng.choice(["smooth", "boards", "render", "aggregate", "panel"], p=[0.24, 0.30, 0.25, 0.06, 0.15]))
    if kind == "boards":
        height = height + _boards(side, mask, rng)
    elif kind == "panel":
        height = height + _panel(side, mask, rng)
    elif kind == "render":
        coarse = cloud(side, rng, log_uniform(rng, 4, 30), float(rng.uniform(0.1, 0.7)))
        height = height + float(rng.uniform(0.4, 2.2)) * np.maximum(coarse, float(rng.uniform(-3.0, 0.5)))
    elif kind == "aggregate":
        size = float(rng.uniform(8, 40))
        pebbles = _rubble(side, size, 2.0, rng)
        inside = np.asarray(cv2.distanceTransform((pebbles > 0).astype(np.uint8), cv2.DIST_L2, 3), np.float32)
        height = height + float(rng.uniform(0.3, 1.0)) * np.sqrt(inside * size / 3)
        colour *= _shades(int(pebbles.max()) + 1, float(rng.uniform(0.03, 0.25)), rng)[pebbles]
    height = np.asarray(height + _pitted(side, rng), np.float32)
    if rng.random() < 0.2:  # paint or a skin of mortar that peels: a low, ragged step, another colour below it
        bare = cloud(side, rng, float(rng.uniform(60, 300)), float(rng.uniform(0.3, 0.8))) > rng.uniform(0.3, 1.6)
        height -= float(rng.uniform(0.4, 2.5)) * bare
        colour *= np.where(bare[:, :, None], np.float32(rng.uniform(0.6, 1.3)) * _shades(1, 0.1, rng)[0], np.float32(1))
    for _ in range(int(rng.choice([1, 2], p=[0.75, 0.25])) if cracked else 0):
        height, colour = _crack(height, colour, mask, rng)
    return Relief(height, np.asarray(colour, np.float32), mask)


def weather(rng: Generator) -> Sun:
    """Return a sun, above the wall's top in most pictures, or, in three of ten, a covered sky."""
    azimuth = float(rng.uniform(np.pi, 2 * np.pi) if rng.random() < 0.85 else rng.uniform(0, np.pi))
    elevation = float(rng.uniform(12, 70))
    share = float(rng.uniform(0.3, 0.85)) if rng.random() < 0.7 else 0.0
    return Sun(azimuth, elevation, share, float(rng.uniform(0.3, 1.2)) if share else 1.0)


def light(relief: Relief, sun: Sun) -> tuple[Float, Image]:
    """Light a relief and take its picture; an even wall comes out as its colours are.

    Returns:
        BGR float32 [S / FINE, S / FINE, 3], 0 to 255 or a little more, and the mask at that size; a crack of one fine
        pixel keeps its pixel.
    """
    height = relief.height
    dx, dy = _slopes(height)
    upright = np.sqrt(1 + dx * dx + dy * dy)
    lit = (1 - sun.share) * _sky(height) * (0.75 + 0.25 / upright)
    if sun.share:
        slope = float(np.tan(np.radians(sun.elevation_deg)))
        facing = slope - (dx * np.cos(sun.azimuth_rad) + dy * np.sin(sun.azimuth_rad))
        lit += sun.share * np.clip(facing, 0, None) / (slope * upright) * (1 - _shadow(height, sun, slope))
    picture = np.asarray(relief.colour * np.clip(lit, 0.03, 2.0)[:, :, None], np.float32)
    picture *= min(1.0, BRIGHTEST / max(1.0, float(np.percentile(picture[::8, ::8], 97))))  # a camera exposes for it
    small = height.shape[0] // FINE
    image, joint, crack = (
        cv2.resize(np.asarray(field, np.float32), (small, small), interpolation=cv2.INTER_AREA)
        for field in (picture, relief.mask == JOINT, relief.mask == CRACK)
    )
    mask = np.where(crack > 0, np.uint8(CRACK), np.where(joint >= 0.5, np.uint8(JOINT), np.uint8(0)))
    return np.asarray(image, np.float32), mask


def _shadow(height: Float, sun: Sun, slope: float) -> Float:
    """Return how much of the sun is hidden by what stands in the way to it, 0 to 1."""
    side = height.shape[0]
    x, y = np.cos(sun.azimuth_rad), np.sin(sun.azimuth_rad)
    farthest = max(2.0, min(float(height.max() - height.min()) / slope, side / 3))
    above = np.zeros_like(height)  # by how much something stands above the ray
    for distance in np.unique(np.round(np.geomspace(1, farthest, SUN_STEPS), 1)):
        there = cv2.warpAffine(
            height,
            np.array([[1, 0, distance * x], [0, 1, distance * y]]),
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        np.maximum(above, there - height - np.float32(distance * slope), out=above)
    return np.asarray(np.clip(above / sun.softness, 0, 1), np.float32)


def _sky(height: Float) -> Float:
    """Return the share of the sky that is seen: below 1 where it is deep, at three sizes."""
    seen = np.ones_like(height)
    for sigma in (1.5, 4.0, 12.0):
        seen /= 1 + np.clip((cv2.GaussianBlur(height, (0, 0), sigma) - height) / (1.2 * sigma), 0, None)
    return np.asarray(seen, np.float32)


STONES_BGR: Final = (
    (60, 80, 150), (70, 95, 170), (90, 120, 180), (150, 155, 160), (85, 90, 98), (120, 150, 175), (185, 195, 200),
    (75, 100, 130), (50, 62, 105), (135, 160, 195), (110, 128, 138), (120, 135, 150), (145, 165, 180),
)  # fmt: skip
"""Reds, yellows, browns, limestone, granite and slate."""


def cloud(side: int, rng: Generator, scale: float, persistence: float) -> Float:
    """Return fractal noise of mean 0 and deviation 1, float32 [side, side].

    Args:
        side: in fine pixels.
        rng: decides everything.
        scale: of its largest forms, in fine pixels.
        persistence: by what each octave, half as large, is weaker: 0.3 is smooth, 1 is rough.
    """
    total = np.zeros((side, side), np.float32)
    weight, knot = 1.0, max(2.0, scale)
    while knot >= 2.0:
        knots = int(np.ceil(side / knot)) + 3
        field = rng.standard_normal((knots, knots), np.float32)
        size = int(knots * knot)
        if size > 2 * side:  # large forms: only the part that is looked at
            field, size = field[: knots // 2 + 2, : knots // 2 + 2], int((knots // 2 + 2) * knot)
        grown = cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)
        left, top = (int(v) for v in rng.integers(0, max(1, size - side + 1), 2))
        total += np.float32(weight) * grown[top : top + side, left : left + side]
        weight, knot = weight * persistence, knot / 2
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6), np.float32)


def _shades(count: int, spread: float, rng: Generator) -> Float:
    """Return gains of brightness and, less, of colour around 1, float32 [count, 3]."""
    gain = 1 + spread * rng.standard_normal((count, 1)) + 0.15 * spread * rng.standard_normal((count, 3))
    return np.asarray(np.clip(gain, 0.25, 1.8), np.float32)


def _painted(side: int, darkest: float, spread: float, rng: Generator) -> Float:
    """Return one colour all over: BGR float32 [side, side, 3]."""
    return np.full((side, side, 3), np.float32(rng.uniform(darkest, 225)) * _shades(1, spread, rng)[0], np.float32)


def _stained(
    colour: Float, where: Float, stains: Sequence[tuple[int, int, int]], strength: tuple[float, float], rng: Generator
) -> Float:
    """Lay one of some stains (BGR) over a colour, [S, S, 3], where and as much as `where` says, [S, S], 0 to 1."""
    stain = np.array(stains, np.float32)[rng.integers(len(stains))]
    return np.asarray(colour + (float(rng.uniform(*strength)) * where)[:, :, None] * (stain - colour), np.float32)


def _grained(colour: Float, texture: Image, rng: Generator) -> Float:
    """Lay the grain of a photograph over a colour."""
    grey = cv2.cvtColor(texture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    side = colour.shape[0]
    gain = (grey / max(float(grey.mean()), 1.0)) ** np.float32(rng.uniform(0.3, 1.8))
    return np.asarray(
        colour * cv2.resize(gain, (side, side), interpolation=cv2.INTER_CUBIC)[:, :, None].clip(0.2, 2), np.float32
    )


def _pitted(side: int, rng: Generator) -> Float:
    """Return pores and pits, 0 or below."""
    pits = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        return pits
    largest = float(rng.uniform(3, 16))
    for _ in range(int(rng.integers(5, 150))):
        radius = max(1.5, largest * float(rng.random()) ** 2)
        spot = [int(v) for v in rng.integers(0, side, 2)]
        axes = [max(1, round(radius * float(v))) for v in rng.uniform(0.6, 1.3, 2)]
        cv2.ellipse(pits, spot, axes, float(rng.uniform(0, 180)), 0, 360, -radius * float(rng.uniform(0.4, 1.5)), -1)
    return np.asarray(cv2.GaussianBlur(pits, (0, 0), 0.8 + largest / 8), np.float32)


def _middles(stones: NDArray[np.int32], axis: Float, count: int) -> Float:
    flat = stones.ravel()
    area = np.maximum(np.bincount(flat, minlength=count), 1)
    return np.asarray(np.bincount(flat, axis.ravel(), minlength=count) / area, np.float32)


def _bent(stones: NDArray[np.int32], rng: Generator, size: float, mortar: float) -> NDArray[np.int32]:
    """Bend courses and roughen outlines: numbers move, nothing is mixed."""
    side = stones.shape[0]
    shift = [float(rng.uniform(0, 0.03)) * size * cloud(side, rng, 4 * size, 0.3) for _ in range(2)]
    ragged = float(rng.uniform(0.0, 0.35)) * mortar
    shift = [along + ragged * cloud(side, rng, max(4.0, size / 5), 0.6) for along in shift]
    angle, middle = float(rng.normal(0, 0.06)), side / 2
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - np.float32(middle)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = np.clip(np.rint(cos * columns - sin * rows + shift[0] + middle), 0, side - 1).astype(np.intp)
    y = np.clip(np.rint(sin * columns + cos * rows + shift[1] + middle), 0, side - 1).astype(np.intp)
    return np.asarray(stones[y, x], np.int32)


def _courses(side: int, size: float, mortar: float, rng: Generator, *, even: bool) -> NDArray[np.int32]:
    """Number the stones of a bond from 1; mortar is 0.

    Args:
        side: of the field.
        size: height of a course.
        mortar: width of a joint.
        rng: decides everything.
        even: bricks of one size in a bond; otherwise squared stones of any length in courses of any height.
    """
    stones = np.zeros((side, side), np.int32)
    ratio = float(rng.uniform(1.8, 3.6))
    bond = float(rng.choice([0.5, 0.33, 0.0], p=[0.75, 0.2, 0.05]))
    headers = int(rng.integers(2, 7)) if rng.random() < 0.25 else 10**6
    top, row, number = -float(rng.uniform(0, size)), 0, 0
    half = mortar / 2
    while top < side:
        height = size if even else size * float(rng.uniform(0.6, 1.5))
        length = size * (ratio / 2 if row % headers == headers - 1 else ratio)
        left = -length * (bond * row % 1.0) - length * (0.25 if even else float(rng.random()))
        while left < side:
            width = (
                length * (1 + 0.02 * float(rng.standard_normal())) if even else height * float(rng.uniform(0.8, 3.2))
            )
            number += 1
            wander = rng.normal(0, mortar * 0.08, (4, 2))
            corners = np.array(
                [[left + half, top + half], [left + width - half, top + half],
                 [left + width - half, top + height - half], [left + half, top + height - half]]
            )  # fmt: skip
            cv2.fillConvexPoly(stones, np.rint(corners + wander).astype(np.int32), number)
            left += width
        top, row = top + height, row + 1
    return _bent(stones, rng, size, mortar)


def _rubble(side: int, size: float, mortar: float, rng: Generator) -> NDArray[np.int32]:
    """Number stones of any shape from 1: the cells of scattered points, parted where two cells meet."""
    flat = float(rng.uniform(1.0, 2.0))
    across, down = int(side / size) + 3, int(side * flat / size) + 3
    columns, rows = np.meshgrid(np.arange(across) - 1.0, np.arange(down) - 1.0)
    points = np.stack([(columns + 0.5 * (rows % 2)) * size, rows * size / flat], axis=-1).reshape(-1, 2)
    points += rng.normal(0, size * rng.uniform(0.12, 0.3), points.shape) / np.array([1.0, flat])
    seeds = np.ones((side, side), np.uint8)
    spots = np.rint(points).astype(np.int32).clip(0, side - 1)
    seeds[spots[:, 1], spots[:, 0]] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = np.asarray(labels, np.int32)
    border = np.zeros((side, side), np.uint8)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    apart = cv2.distanceTransform(1 - border, cv2.DIST_L2, 5)
    return _bent(np.where(apart < mortar / 2, 0, labels).astype(np.int32), rng, size, mortar)


def _boards(side: int, mask: Image, rng: Generator) -> Float:
    """Return what planks leave: each at its own level, its grain, between them a ridge, a groove or only a step."""
    spacing = FINE * float(rng.uniform(25, 140))
    upright = bool(rng.random() < 0.5)
    tilt = float(rng.normal(0, 0.04))
    across = _across(side, tilt, upright=upright) + float(rng.uniform(0, spacing))
    across += float(rng.uniform(0, 1.2)) * cloud(side, rng, float(rng.uniform(40, 300)), 0.4)
    plank = np.floor(across / spacing).astype(np.intp) + 2
    plank = np.clip(plank, 0, int(side / spacing) + 6)
    height = (float(rng.uniform(0.1, 1.8)) * rng.standard_normal(int(side / spacing) + 7).astype(np.float32))[plank]
    streaks = rng.standard_normal(
        (int(side / rng.uniform(3, 16)) + 2, int(side / rng.uniform(60, 400)) + 3), np.float32
    )
    grain = cv2.resize(streaks if not upright else streaks.T, (side, side), interpolation=cv2.INTER_CUBIC)
    height += float(rng.uniform(0.0, 0.6)) * grain
    beside = np.abs((across + spacing / 2) % spacing - spacing / 2)
    width = float(rng.uniform(1.0, 5.0))
    broken = np.clip(0.7 + float(rng.uniform(0, 1.2)) * cloud(side, rng, float(rng.uniform(20, 150)), 0.5), 0, 2)
    sign = float(rng.choice([1.0, -1.0, 0.0], p=[0.4, 0.45, 0.15]))
    height += sign * float(rng.uniform(0.8, 5.0)) * broken * np.clip(width - beside, 0, 1)
    mask[beside < width] = JOINT
    return np.asarray(height, np.float32)


def _across(side: int, tilt: float, *, upright: bool) -> Float:
    """Return how far each place lies to the right of an upright line, or below a level one, but for a camera's tilt."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    return np.asarray(columns + tilt * rows if upright else rows + tilt * columns, np.float32)


def _panel(side: int, mask: Image, rng: Generator) -> Float:
    """Return one or two straight joints with worn edges, open or filled."""
    height = np.zeros((side, side), np.float32)
    first = bool(rng.random() < 0.5)
    for upright in (first,) if rng.random() < 0.6 else (first, not first):
        across = _across(side, float(rng.normal(0, 0.04)), upright=upright) - np.float32(rng.uniform(0.1, 0.9) * side)
        worn = float(rng.uniform(0.0, 1.5)) * np.abs(cloud(side, rng, float(rng.uniform(10, 60)), 0.6))
        half = FINE * log_uniform(rng, 0.5, 9.0)
        within = np.clip(half + worn - np.abs(across), 0, 1)
        height -= float(rng.uniform(1.0, 8.0)) * within
        mask[np.abs(across) <= half] = JOINT
    return height


def _crack(height: Float, colour: Float, mask: Image, rng: Generator) -> tuple[Float, Float]:
    """Cut a crack: where a rough field changes its sign along a course.

    The two sides may stand at different heights, edges are chipped, and dirt, lime or rust may line the crack.
    """
    side = height.shape[0]
    along, across = _course(side, rng)
    distance = np.abs(across) / np.maximum(np.hypot(*_slopes(across)), 0.5)
    width = FINE * log_uniform(rng, 0.4, 4.0)
    half = 0.5 * width * np.exp(float(rng.uniform(0.1, 0.5)) * cloud(side, rng, float(rng.uniform(20, 120)), 0.6))
    start, end = (-1.0, 1.0) if rng.random() < 0.5 else np.sort(rng.uniform(-0.7, 0.7, 2))
    if end - start < 0.35:
        start, end = -0.4, 0.4
    half *= np.clip(8 * np.minimum(along - np.float32(start), np.float32(end) - along), 0, 1)  # it closes at its ends
    chipped = 0.8 * half * np.clip(cloud(side, rng, 12.0, 0.6) - 0.8, 0, 2) * float(rng.integers(2))
    opened = np.clip(half + chipped + 0.5 - distance, 0, 1) * (half > CLOSED)
    if rng.random() < 0.3:  # one side stands proud
        step = np.clip(across / 2, -0.5, 0.5) * np.exp(-distance / (0.2 * side))
        height = np.asarray(height + float(rng.uniform(0.3, 1.5)) * step, np.float32)
    height = np.asarray(height - opened * float(rng.uniform(0.8, 6.0)) * (1 + half), np.float32)
    if rng.random() < 0.25:  # lime, rust or dirt that water carried out
        halo = np.exp(-distance / float(rng.uniform(4, 25))) * (half > CLOSED) * (cloud(side, rng, 80.0, 0.5) > -0.3)
        colour = _stained(colour, halo, ((215, 220, 222), (50, 85, 140), (60, 70, 75)), (0.2, 0.7), rng)
    mask[opened >= 0.5] = CRACK
    return height, np.asarray(colour * (1 - float(rng.uniform(0.1, 0.8)) * opened)[:, :, None], np.float32)


def _course(side: int, rng: Generator) -> tuple[Float, Float]:
    """Return where a crack runs: shares of the side along its course, fine pixels across it; it wavers about 0."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / np.float32(side) - np.float32(0.5)
    angle = float(rng.uniform(0, np.pi) if rng.random() < 0.7 else rng.integers(2) * np.pi / 2 + rng.normal(0, 0.1))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    waver = log_uniform(rng, 0.006, 0.05)
    rough = cloud(side, rng, side / float(rng.uniform(1.5, 6)), float(rng.uniform(0.45, 0.7)))
    across = cos * rows - sin * columns - np.float32(rng.uniform(-0.3, 0.3)) + waver * rough
    return np.asarray(cos * columns + sin * rows, np.float32), np.asarray(across * side, np.float32)


def _slopes(field: Float) -> tuple[Float, Float]:
    """Return by how much a field rises per fine pixel to the right and down."""
    right, down = (cv2.Sobel(field, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    return np.asarray(right, np.float32), np.asarray(down, np.float32)
