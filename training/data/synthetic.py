"""What do walls look like of which no photograph may be trained on? Bricks, rubble, planks, slabs; and cracks on them.

The textures are crops of training photographs, so that no renderer's smoothness gives the answer away. Half of the
pictures are sound, half have one to three cracks, on the same kinds of background but for masonry, which is always
sound: nets that were shown cracked masonry, too, could still not tell it from sound masonry on photographs (AUROC 0.5),
and called a fifth of the sound walls cracked. Cracks are drawn, or transplanted: how much darker a real crack makes its
photograph, pixel by pixel, is lifted off one wall and laid on another. Real formwork joints are transplanted the same
way, from border to border. A brick or stone may be cracked by itself, which is no crack of its wall. Where
they are asked for, two in five pictures are rough walls in the sun (`training.data.relief`), and a share of the cracks
runs upright or level, as joints do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data.augment import draw_stains, log_uniform
from training.data.relief import concrete, light, masonry, weather
from training.data.sources import CRACK, JOINT

SIDE_PX: Final = 256
TRANSPLANTED: Final = 0.6
"""Share of the cracks, of walls and of single bricks, that are transplanted, not drawn."""
MAX_TILT_RAD: Final = 0.2
"""By how much a camera's tilt turns a transplanted joint, at most."""
FLAT: Final = {"bare": 0.17, "brick": 0.38, "rubble": 0.10, "grid": 0.07, "planks": 0.19, "slab": 0.09}
"""What is drawn, and how often."""
IN_RELIEF: Final = {
    "bare": 0.12, "brick": 0.20, "rubble": 0.06, "grid": 0.05, "planks": 0.13, "slab": 0.06, "masonry in relief": 0.22,
    "concrete in relief": 0.16,
}  # fmt: skip
"""Likewise, with walls in relief."""
UNCRACKED: Final = {"brick": "bare", "rubble": "bare", "masonry in relief": "concrete in relief"}
"""What is drawn cracked instead of masonry."""
CARVED: Final = 0.5
"""Share of the cracks on concrete in relief that are grooves in it; the others are laid on what was lit."""
FIRED: Final = 0.5
"""Share of the masonry in which single bricks or stones are cracked."""
MIN_BRICK_PX: Final = 30
"""Height and width from which a brick is large enough to show a crack of its own."""
MIN_CRACK_PX: Final = 80
MIN_DARKENING: Final = 9.0
"""Grey levels by which a transplanted crack must darken its new wall, on average over its mask, to be seen at all."""
Image = NDArray[np.uint8]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """A drawn picture: BGR uint8 [256, 256, 3] and its mask (0, CRACK, JOINT)."""

    image: Image
    mask: Image


@dataclass(frozen=True)
class Donor:
    """What can be lifted off a photograph: `shade` float32 [H, W], 1 outside, below 1 where it is darker; its mask."""

    shade: Float
    mask: Image


MAX_HALF_PX: Final = 6.0
"""Half of the width up to which something is lifted."""
MARGIN_PX: Final = 4
"""Masks lie a pixel or two beside the crack, and its lips are shaded: so much more is lifted."""


def lift(image: Image, mask: Image, value: int) -> Donor | None:
    """Lift what the mask marks with `value` off a photograph.

    The background under it is filled in from its surroundings (Telea, 2004), and the quotient of picture and background
    is the shade.

    Args:
        image: BGR uint8 [H, W, 3].
        mask: uint8 [H, W].
        value: `CRACK` or `JOINT`.

    Returns:
        None if too little is marked to be of use, or so wide a place that its background cannot be guessed.
    """
    marked = np.where(mask == value, np.uint8(255), np.uint8(0))
    if (
        np.count_nonzero(marked) < MIN_CRACK_PX
        or float(cv2.distanceTransform(marked, cv2.DIST_L2, 3).max()) > MAX_HALF_PX
    ):
        return None
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN_PX + 1, 2 * MARGIN_PX + 1))
    wide = cv2.dilate(marked, kernel)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    background = cv2.inpaint(grey, wide, 3, cv2.INPAINT_TELEA).astype(np.float32)
    shade = np.clip((grey + 1.0) / (background + 1.0), 0.15, 1.15)
    weight = cv2.GaussianBlur(wide.astype(np.float32) / 255, (0, 0), 1.5) * (wide > 0)
    return Donor(np.asarray(1 + weight * (shade - 1), np.float32), np.where(marked > 0, np.uint8(value), np.uint8(0)))


def draw(
    texture: Image,
    rng: Generator,
    *,
    cracked: bool,
    cracks: Sequence[Donor] = (),
    joints: Sequence[Donor] = (),
    relief: bool = False,
    upright: float = 0.0,
) -> Drawn:
    """Draw one picture on a texture.

    Args:
        texture: BGR uint8 [256, 256, 3] without a crack.
        rng: decides everything.
        cracked: whether there are cracks.
        cracks: lifted off training photographs; without any all cracks are drawn.
        joints: likewise.
        relief: whether two in five pictures are rough walls in the sun (`training.data.relief`).
        upright: share, 0 to 1, of the cracks laid on walls that are upright or level, drawn ones among them long and
            nearly straight: walls that shrink or settle crack so, and only its uneven course tells such a crack from a
            joint. The others lie anyhow. Carved cracks and those of single bricks stay as they are.
    """
    patterns = IN_RELIEF if relief else FLAT
    pattern = str(rng.choice(list(patterns), p=list(patterns.values())))
    if cracked:
        pattern = UNCRACKED.get(pattern, pattern)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    canvas = _wall(texture, mask, rng, pattern, carved=relief and cracked and rng.random() < CARVED)
    if pattern in UNCRACKED and cracks and rng.random() < FIRED:
        canvas = _fired(canvas, mask, cracks, rng)
    if rng.random() < 0.3:
        canvas = _shadow(canvas, rng)
    if rng.random() < 0.25:
        canvas = draw_stains(np.clip(canvas, 0, 255).astype(np.uint8), rng).astype(np.float32)
    if rng.random() < 0.2:
        canvas = _cables(canvas, rng)
    if joints and rng.random() < (0.15 if cracked else 0.3):
        canvas = _transplant(canvas, mask, joints[int(rng.integers(len(joints)))], rng)
    if cracked:
        canvas = _crack_it(canvas, mask, cracks, rng, upright)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Drawn(image, mask)


def draw_wall(texture: Image, rng: Generator, *, brick: bool, cracked: bool = False) -> Drawn:
    """Draw a wall in relief alone: nothing stuck to it, no shadow on it, no crack but those carved into concrete.

    Args:
        texture: BGR uint8 [256, 256, 3] without a crack.
        rng: decides everything.
        brick: masonry, always sound; else concrete.
        cracked: whether concrete has cracks.
    """
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    pattern = "masonry in relief" if brick else "concrete in relief"
    canvas = _wall(texture, mask, rng, pattern, carved=cracked)
    return Drawn(np.clip(canvas, 0, 255).astype(np.uint8), mask)


def _wall(texture: Image, mask: Image, rng: Generator, pattern: str, *, carved: bool) -> Float:
    """Return a wall of a pattern and mark its joints, and its cracks if it is `carved`."""
    canvas = texture.astype(np.float32)
    match pattern:
        case "bare":
            return canvas
        case "brick":
            return _brick(canvas, mask, rng)
        case "rubble":
            return _rubble(canvas, mask, rng)
        case "masonry in relief":
            wall = masonry(texture, rng)
        case "concrete in relief":
            wall = concrete(texture, rng, cracked=carved)
        case _:
            return _joints(canvas, mask, rng, pattern)
    canvas, mask[:] = light(wall, weather(rng))
    return canvas


def _crack_it(canvas: Float, mask: Image, cracks: Sequence[Donor], rng: Generator, upright: float = 0.0) -> Float:
    """Lay cracks on a wall until enough of them is seen; nothing if that is so already."""
    if np.count_nonzero(mask == CRACK) > MIN_CRACK_PX:
        return canvas
    if cracks and rng.random() < TRANSPLANTED:
        for _ in range(20):  # where little of a crack falls into the picture another is laid on top
            marked = mask.copy()
            cracked = _transplant(canvas, marked, cracks[int(rng.integers(len(cracks)))], rng, upright)
            fresh = (marked == CRACK) & (mask != CRACK)
            if not fresh.any() or float((canvas - cracked).mean(axis=2)[fresh].mean()) < MIN_DARKENING:
                continue
            canvas, mask[:] = cracked, marked
            if np.count_nonzero(mask == CRACK) > MIN_CRACK_PX:
                return canvas
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        canvas = _crack(canvas, mask, rng, upright)
    return canvas


def _brick(canvas: Float, mask: Image, rng: Generator) -> Float:
    """Lay bricks in a bond, each with its own colour, mortar lighter or darker, shaded below.

    Where mortar shrank or fell out a thin dark line runs along some bricks: of all that masonry shows it is what looks
    most like a crack, but that it ends at the brick's corner.
    """
    height = int(rng.integers(14, 90) if rng.random() < 0.6 else rng.integers(90, 180))
    width = int(height * rng.uniform(1.8, 3.6))
    mortar = max(1, int(height * rng.uniform(0.04, 0.25)))
    colour = np.array(BRICKS_BGR, np.float32)[rng.integers(len(BRICKS_BGR))] * rng.uniform(0.6, 1.25)
    mortar_colour = np.full(3, rng.uniform(40, 225), np.float32) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    relief = _relief(canvas, rng)
    big = SIDE_PX + 2 * height
    tint = np.broadcast_to(mortar_colour, (big, big, 3)).copy()
    joint = np.full((big, big), JOINT, np.uint8)
    bond = rng.choice([0.5, 0.33, 0.0], p=[0.75, 0.15, 0.1])
    spread = rng.uniform(0.02, 0.25)
    edge = rng.uniform(0.3, 0.95)
    jitter = max(1, mortar // 3)
    headers = int(rng.integers(2, 7)) if rng.random() < 0.25 else big  # every so many courses one of heads
    loose = float(rng.uniform(0.05, 0.6)) if rng.random() < 0.5 else 0.0  # share of bricks with a gap along a side
    for row, top in enumerate(range(-int(rng.integers(height)), big, height)):
        length = width // 2 if row % headers == headers - 1 else width
        start = -int(length * (bond * row % 1.0)) - int(width / 4)
        for left in range(start, big, length):
            x0, y0 = left + int(rng.integers(jitter)), top + int(rng.integers(jitter))
            x1, y1 = left + length - mortar, top + height - mortar
            shade = colour * (1 + spread * rng.standard_normal()) * (1 + 0.3 * spread * rng.standard_normal(3))
            cv2.rectangle(tint, (x0, y0), (x1, y1), [float(v) for v in shade], -1)
            cv2.rectangle(joint, (x0, y0), (x1, y1), 0, -1)
            if edge < 0.8:
                cv2.line(tint, (x0, y1 + 1), (x1, y1 + 1), [float(v * edge) for v in mortar_colour], 1 + mortar // 4)
            if rng.random() < loose:
                _gap(tint, (x0, y0, x1, y1), rng)
    angle = float(rng.normal(0, 4))
    turn = cv2.getRotationMatrix2D((big / 2, big / 2), angle, 1.0)
    size, border = (big, big), cv2.BORDER_REFLECT
    tint = np.asarray(cv2.warpAffine(tint, turn, size, borderMode=border), np.float32)
    turned = cv2.warpAffine(joint, turn, size, flags=cv2.INTER_NEAREST, borderMode=border)
    inner = slice(height, height + SIDE_PX)
    tint = _wobble(tint, rng, float(rng.uniform(0, 1.5)))
    if rng.random() < 0.6:  # chipped edges
        tint = _wobble(tint, rng, float(rng.uniform(0.3, 1.6)), knots=int(big / rng.uniform(4, 12)))
    mask[:] = turned[inner, inner]
    return _weathered(np.asarray(tint[inner, inner], np.float32), mask, relief, rng)


def _gap(tint: Float, brick: tuple[int, int, int, int], rng: Generator) -> None:
    """Draw a gap between a brick (left, top, right, bottom) and its mortar: a part of one side, thin and dark."""
    x0, y0, x1, y1 = brick
    a, b = np.sort(rng.uniform(-0.2, 1.2, 2)).clip(0, 1)
    left, right = (round(x0 + share * (x1 - x0)) for share in (a, b))
    top, bottom = (round(y0 + share * (y1 - y0)) for share in (a, b))
    sides = (
        ((left, y0), (right, y0)),
        ((left, y1 + 1), (right, y1 + 1)),
        ((x0, top), (x0, bottom)),
        ((x1 + 1, top), (x1 + 1, bottom)),
    )
    start, end = sides[int(rng.choice(4, p=[0.3, 0.4, 0.15, 0.15]))]
    shade = float(rng.uniform(10, 80))
    cv2.line(tint, start, end, (shade, shade, shade), int(rng.choice([1, 1, 1, 2, 3])), cv2.LINE_AA)


def _fired(canvas: Float, mask: Image, cracks: Sequence[Donor], rng: Generator) -> Float:
    """Crack single bricks or stones: what firing, frost or a chisel leaves in one of them and ends at its mortar.

    Such masonry is sound. A crack of the wall runs on through mortar or along it.
    """
    _, bricks, boxes, _ = cv2.connectedComponentsWithStats((mask == 0).astype(np.uint8), connectivity=4)
    large = np.flatnonzero(
        (boxes[1:, cv2.CC_STAT_WIDTH] > MIN_BRICK_PX) & (boxes[1:, cv2.CC_STAT_HEIGHT] > MIN_BRICK_PX)
    )
    if not len(large):
        return canvas
    count = min(len(large), int(rng.integers(1, 5)))
    chosen = np.isin(bricks, 1 + rng.choice(large, count, replace=False)).astype(np.float32)
    weight = cv2.GaussianBlur(chosen, (0, 0), 0.8) * chosen
    for _ in range(int(rng.integers(1, 4))):
        unmarked = np.zeros_like(mask)
        if rng.random() < TRANSPLANTED:
            cracked = _transplant(canvas, unmarked, cracks[int(rng.integers(len(cracks)))], rng)
        else:
            cracked = _crack(canvas, unmarked, rng)
        canvas = np.asarray(canvas + weight[:, :, None] * (cracked - canvas), np.float32)
    return canvas


def _rubble(canvas: Float, mask: Image, rng: Generator) -> Float:
    """Lay stones of any shape: the cells of scattered points, with mortar where two points are about as near."""
    spacing = float(rng.uniform(28, 110))
    flat = float(rng.uniform(1.0, 2.2))
    mortar = spacing * float(rng.uniform(0.05, 0.3))
    count = int(SIDE_PX / spacing) + 4
    columns, rows = np.meshgrid(np.arange(count) - 1.5, np.arange(int(count * flat) + 1) - 1.5)
    points = np.stack([columns * spacing, rows * spacing / flat], axis=-1).reshape(-1, 2)
    points += rng.normal(0, spacing * rng.uniform(0.1, 0.3), points.shape) / np.array([1.0, flat])
    seeds = np.full((SIDE_PX, SIDE_PX, 2), 1e9, np.float32)  # distance to the nearest point and the next
    owner = np.zeros((SIDE_PX, SIDE_PX), np.int32)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    for number, (left, top) in enumerate(points):
        distance = np.hypot(x - np.float32(left), (y - np.float32(top)) * np.float32(flat))
        nearer = distance < seeds[:, :, 0]
        seeds[:, :, 1] = np.where(nearer, seeds[:, :, 0], np.minimum(seeds[:, :, 1], distance))
        seeds[:, :, 0] = np.where(nearer, distance, seeds[:, :, 0])
        owner[nearer] = number
    base = np.array(BRICKS_BGR, np.float32)[rng.integers(len(BRICKS_BGR))] * rng.uniform(0.6, 1.2)
    spread = rng.uniform(0.03, 0.25)
    shades = (
        base
        * (1 + spread * rng.standard_normal((len(points), 1)))
        * (1 + 0.3 * spread * rng.standard_normal((len(points), 3)))
    )
    tint = shades.astype(np.float32)[owner]
    joint = seeds[:, :, 1] - seeds[:, :, 0] < mortar
    tint[joint] = np.float32(rng.uniform(40, 215))
    if rng.random() < 0.6:  # stones bulge: darker towards the joint
        rim = np.clip((seeds[:, :, 1] - seeds[:, :, 0] - mortar) / (spacing * rng.uniform(0.05, 0.3)), 0, 1)
        tint *= np.where(joint, 1.0, rng.uniform(0.5, 0.95) + (1 - rng.uniform(0.5, 0.95)) * rim)[:, :, None]
    mask[joint] = JOINT
    tint = _wobble(np.asarray(tint, np.float32), rng, float(rng.uniform(0.2, 1.5)), knots=40)
    return _weathered(tint, mask, _relief(canvas, rng), rng)


def _relief(canvas: Float, rng: Generator) -> Float:
    """Turn a texture into a gain around 1, flatter or rougher than it was."""
    relief = canvas.mean(axis=2, keepdims=True)
    return np.asarray((relief / max(float(relief.mean()), 1.0)) ** rng.uniform(0.8, 2.5), np.float32)


def _weathered(tint: Float, joint: Image, relief: Float, rng: Generator) -> Float:
    """Give masonry its texture, specks and holes, mortar that fell out here and there, and softer edges."""
    if rng.random() < 0.5:
        grain = cv2.resize(rng.standard_normal((SIDE_PX // 2, SIDE_PX // 2)).astype(np.float32), (SIDE_PX, SIDE_PX))[
            :, :, None
        ]
        tint = np.asarray(tint * (1 + rng.uniform(0.02, 0.12) * grain), np.float32)
    if rng.random() < 0.35:  # burnt specks and holes
        specks = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        for _ in range(int(rng.integers(5, 120))):
            spot = [int(v) for v in rng.integers(0, SIDE_PX, 2)]
            axes = [int(v) for v in rng.integers(1, 4, 2)]
            cv2.ellipse(specks, spot, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
        tint = np.asarray(tint * (1 - rng.uniform(0.2, 0.7) * specks[:, :, None]), np.float32)
    if rng.random() < 0.4:  # gaps in the mortar: dark, in patches
        cells = int(rng.integers(6, 30))
        cloud = cv2.resize(
            rng.standard_normal((cells, cells)).astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC
        )
        gap = np.clip((cloud - rng.uniform(0.0, 1.2)) * 3, 0, 1) * (joint == JOINT)
        gap = cv2.GaussianBlur(np.asarray(gap, np.float32), (0, 0), 0.8)
        tint = np.asarray(tint * (1 - rng.uniform(0.3, 0.8) * gap[:, :, None]), np.float32)
    if rng.random() < 0.6:
        tint = np.asarray(cv2.GaussianBlur(tint, (0, 0), float(rng.uniform(0.4, 1.3))), np.float32)
    return np.asarray(tint * relief, np.float32)


BRICKS_BGR: Final = (
    (60, 80, 150), (90, 120, 180), (150, 155, 160), (70, 75, 85), (120, 150, 175), (190, 195, 200),
    (70, 90, 120), (45, 55, 95), (135, 160, 195), (105, 125, 135), (215, 215, 210),
)  # fmt: skip
"""Reds, yellows, browns, greys and white paint."""


def _wobble(image: Float, rng: Generator, strength_px: float, knots: int = 14) -> Float:
    """Bend straight lines a little, as hand-laid brick does; with many knots edges become rough."""
    side = image.shape[0]
    grid_x, grid_y = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    shift = [
        cv2.resize(
            rng.normal(0, strength_px, (knots, knots)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        for _ in range(2)
    ]
    return np.asarray(
        cv2.remap(image, grid_x + shift[0], grid_y + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
        np.float32,
    )


def _joints(canvas: Float, mask: Image, rng: Generator, pattern: str) -> Float:
    """Draw straight joints: planks (parallel), a grid (tiles, panels), or one or two joints of a slab.

    Some are as even as a saw cuts, seldom between planks. The others are what concrete leaves between boards: darker
    here and paler there, broken off, of changing width, with a lit ridge beside them; straight all the same, from
    border to border.
    """
    spacing = {"planks": rng.uniform(25, 130), "grid": rng.uniform(35, 160), "slab": 400.0}[pattern]
    width = float(rng.choice([1, 1, 2, 2, 3, 4, 6, 9]))
    depth = float(rng.uniform(0.15, 0.85) if rng.random() < 0.8 else -rng.uniform(0.1, 0.45))
    uneven = float(rng.uniform(0.3, 1.0)) if rng.random() < (0.7 if pattern == "planks" else 0.35) else 0.0
    ridge = float(rng.uniform(0.05, 0.3)) if rng.random() < 0.3 else 0.0
    if uneven:
        width = min(width, float(rng.uniform(0.8, 4.0)))
    first = (
        float(rng.uniform(0, np.pi))
        if rng.random() < 0.3
        else float(rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.04))
    )
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32) - np.float32(SIDE_PX / 2)
    gain = np.ones((SIDE_PX, SIDE_PX), np.float32)
    for angle in (first,) if pattern == "planks" or rng.random() < 0.3 else (first, first + np.pi / 2):
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = np.clip(np.rint(columns * cos + rows * sin) + _REACH_PX, 0, 2 * _REACH_PX).astype(np.intp)
        across = rows * cos - columns * sin
        if pattern == "slab":
            offsets = np.array([rng.uniform(-90, 90)])  # a slab's joint lies anywhere
        else:
            offsets = np.arange(-_REACH_PX + rng.uniform(0, spacing), _REACH_PX, spacing)
            offsets += rng.normal(0, spacing * 0.02, len(offsets))
        if pattern == "planks":  # each plank left its own tone, and its grain
            plank = np.searchsorted(offsets, across)
            gain *= (1 + rng.normal(0, 0.05, len(offsets) + 1).astype(np.float32))[plank]
            if rng.random() < 0.6:
                gain *= 1 + float(rng.uniform(0.01, 0.06)) * _grain(along, across, rng)
        for offset in offsets:
            gain *= _joint(
                along, across - np.float32(offset), mask, rng, depth=depth, width=width, uneven=uneven, ridge=ridge
            )
    return np.asarray(canvas * gain[:, :, None], np.float32)


_REACH_PX: Final = 190
"""Half the diagonal of a picture, and a little more."""


def _joint(
    along: NDArray[np.intp],
    across: Float,
    mask: Image,
    rng: Generator,
    *,
    depth: float,
    width: float,
    uneven: float,
    ridge: float,
) -> Float:
    """Return the gain of one joint and mark it.

    Args:
        along: whole pixels along the joint, from 0, [256, 256].
        across: pixels from its middle, [256, 256].
        mask: gets the joint.
        rng: decides how it varies.
        depth: by which share it darkens; below 0 it lightens.
        width: in pixels.
        uneven: how much depth and width vary along it, 0 to 1.
        ridge: by which share it lightens beside itself.
    """
    length = 2 * _REACH_PX + 1
    half = np.full(length, max(0.5, width / 2), np.float32)
    strength = np.full(length, depth, np.float32)
    if uneven:
        slow, quick = _wave(rng, length, rng.uniform(20, 90)), _wave(rng, length, rng.uniform(3, 12))
        strength *= np.clip(1 + uneven * (0.9 * slow + 0.4 * quick) - 0.2 * uneven, 0, 1.6)
        half *= np.exp(0.5 * uneven * _wave(rng, length, rng.uniform(6, 40)))
        across = across - (0.8 * uneven * _wave(rng, length, rng.uniform(15, 60)))[along]
    softness = float(rng.uniform(0.5, 1.2))
    distance = np.abs(across)
    profile = np.clip((half[along] - distance) / softness + 0.5, 0, 1)
    mask[(distance <= half[along]) & (mask == 0)] = JOINT
    gain = 1 - np.clip(strength, -0.8, 0.95)[along] * profile
    if ridge:
        side = float(rng.choice([-1.0, 1.0])) * (half[along] + 1.0)
        gain += ridge * np.clip(1.2 - np.abs(across - side), 0, 1)
    return np.asarray(gain, np.float32)


def _wave(rng: Generator, length: int, spacing: float) -> Float:
    """Return smooth noise of mean 0 and deviation 1 along a line; knots lie `spacing` pixels apart."""
    knots = rng.standard_normal((1, max(4, round(length / spacing)))).astype(np.float32)
    return np.asarray(cv2.resize(knots, (length, 1), interpolation=cv2.INTER_CUBIC)[0], np.float32)


def _grain(along: NDArray[np.intp], across: Float, rng: Generator) -> Float:
    """Return what the wood left on concrete: streaks along the planks, of deviation 1."""
    knots = (int(rng.integers(50, 2 * _REACH_PX)), int(rng.integers(4, 16)))
    streaks = rng.standard_normal(knots).astype(np.float32)
    field = cv2.resize(streaks, (2 * _REACH_PX + 1, 2 * _REACH_PX + 1), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field[np.clip(np.rint(across) + _REACH_PX, 0, 2 * _REACH_PX).astype(np.intp), along], np.float32)


def _shadow(canvas: Float, rng: Generator) -> Float:
    gain = np.ones((SIDE_PX, SIDE_PX), np.float32)
    corners = rng.uniform(-80, SIDE_PX + 80, (int(rng.integers(3, 6)), 2))
    hull = cv2.convexHull(corners.astype(np.int32))
    cv2.fillPoly(gain, [hull], float(rng.uniform(0.35, 0.8)), cv2.LINE_AA)
    blur = float(rng.uniform(0.3, 6))
    return np.asarray(canvas * cv2.GaussianBlur(gain, (0, 0), blur)[:, :, None], np.float32)


def _cables(canvas: Float, rng: Generator) -> Float:
    """Draw wires or hairs: smooth, of even width, unlike a crack."""
    for _ in range(int(rng.integers(1, 4))):
        ends = rng.uniform(-30, SIDE_PX + 30, (3, 2))
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        shade = [float(v) for v in np.full(3, rng.uniform(0, 255))]
        cv2.polylines(
            canvas,
            [np.rint(curve).astype(np.int32)],
            isClosed=False,
            color=shade,
            thickness=int(rng.integers(1, 6)),
            lineType=cv2.LINE_AA,
        )
    return canvas


def _crack(canvas: Float, mask: Image, rng: Generator, upright: float = 0.0) -> Float:
    """Draw a crack: a path that wanders, of varying width and depth, with branches, darker than its surroundings."""
    width_px = log_uniform(rng, 0.7, 7.0)
    straight = _chance(rng, upright)
    angle = _upright_or_level(rng) if straight else float(rng.uniform(0, 2 * np.pi))
    length_px = float(rng.uniform(150, 400) if straight else rng.uniform(50, 330))
    start = (
        np.array([SIDE_PX / 2, SIDE_PX / 2])
        + rng.uniform(-70, 70, 2)
        - 0.5 * length_px * np.array([np.cos(angle), np.sin(angle)])
    )
    depth = float(rng.uniform(0.25, 0.85)) if width_px > 1.5 else float(rng.uniform(0.3, 0.75))
    shift = 3  # sub-pixel drawing: coordinates in eighths
    big = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    paths = [(start, angle, length_px, width_px)]
    if straight:
        roughness, drift = float(rng.uniform(0.05, 0.3)), float(rng.uniform(0.0, 0.02))
    else:
        roughness, drift = float(rng.uniform(0.15, 0.6)), float(rng.uniform(0.02, 0.12))
    while paths:
        point, heading, length, width = paths.pop()
        course, travelled = heading, 0.0
        while travelled < length:
            step = float(rng.uniform(2, 9))
            course += rng.normal(0, drift)
            heading = course + rng.normal(0, roughness)
            following = point + step * np.array([np.cos(heading), np.sin(heading)])
            local = max(0.6, width * float(np.exp(rng.normal(0, 0.25))))
            ends = [tuple(int(v) for v in np.rint(p * 2**shift)) for p in (point, following)]
            strength = min(1.0, local) * float(rng.uniform(0.75, 1.0))
            cv2.line(big, ends[0], ends[1], strength, max(1, round(local)), cv2.LINE_AA, shift)
            cv2.line(mask, ends[0], ends[1], CRACK, max(1, round(local)), cv2.LINE_8, shift)
            point, travelled = following, travelled + step
            if rng.random() < 0.012 and len(paths) < 3:
                paths.append((point, course + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2), length * 0.4, width * 0.6))
    soft = cv2.GaussianBlur(big, (0, 0), float(rng.uniform(0.4, 0.9)))
    gain = 1 - depth * np.minimum(soft, 1.0)
    if rng.random() < 0.3:  # one lit lip
        gain += 0.15 * depth * np.roll(soft, int(rng.integers(1, 3)), axis=int(rng.integers(2)))
    return np.asarray(canvas * gain[:, :, None], np.float32)


def _transplant(canvas: Float, mask: Image, donor: Donor, rng: Generator, upright: float = 0.0) -> Float:
    """Lay a lifted crack or joint on the canvas, turned, mirrored, at another size and strength.

    A joint runs from border to border, as it does on its photograph, and is upright or level but for a camera's tilt: a
    dark straight line that ends in the middle of a wall is a crack. Cracks lie anyhow, but for the share `upright`.
    """
    side = donor.mask.shape[0]
    spots = np.argwhere(donor.mask > 0)
    spot = spots[int(rng.integers(len(spots)))]
    y, x = spot + rng.uniform(-0.3, 0.3, 2) * SIDE_PX
    zoom, angle = log_uniform(rng, 0.6, 1.5), float(rng.uniform(0, 2 * np.pi))
    margin = 0.0
    if (donor.mask == JOINT).any():
        angle = _upright_or_level(rng)
        zoom = min(zoom, side / (SIDE_PX * _TILTED))
        margin = zoom * SIDE_PX * _TILTED / 2
    elif _chance(rng, upright):
        angle = _heading(spots[np.abs(spots - spot).max(axis=1) < SIDE_PX / 2]) - _upright_or_level(rng)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    centre = np.clip([x, y], margin, side - margin)
    matrix = np.hstack([linear, (centre - linear @ np.full(2, SIDE_PX / 2))[:, None]])
    size = (SIDE_PX, SIDE_PX)
    shade = cv2.warpAffine(
        donor.shade, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
        borderValue=1.0,
    )  # fmt: skip
    marked = cv2.warpAffine(donor.mask, matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    np.maximum(mask, np.asarray(marked, np.uint8), out=mask)
    strength = float(rng.uniform(0.7, 1.3))
    return np.asarray(canvas * np.clip(1 + strength * (shade - 1), 0.05, 1.3)[:, :, None], np.float32)


def _chance(rng: Generator, share: float) -> bool:
    """Return whether something happens to a share of all; of nothing it is not asked, so that other draws stay."""
    return share > 0 and float(rng.random()) < share


def _upright_or_level(rng: Generator) -> float:
    """Return an angle in radians, upright or level but for a camera's tilt."""
    return float(rng.integers(4)) * np.pi / 2 + float(np.clip(rng.normal(0, 0.06), -MAX_TILT_RAD, MAX_TILT_RAD))


def _heading(spots: NDArray[np.intp]) -> float:
    """Return along which angle in radians spots (row, column) [N, 2] lie: their first principal axis."""
    offset = spots - spots.mean(axis=0)
    rows, columns = offset[:, 0], offset[:, 1]
    return 0.5 * float(np.arctan2(2 * (rows * columns).mean(), (columns**2).mean() - (rows**2).mean()))


_TILTED: Final = float(np.cos(MAX_TILT_RAD) + np.sin(MAX_TILT_RAD))
"""Side of the upright square that holds a square of side 1 turned by `MAX_TILT_RAD`."""
