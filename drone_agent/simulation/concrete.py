"""What does a formed concrete face look like? Layer upon layer, from the pour down to the grain of the sand.

Every function changes or returns a float32 luminance map of shape (rows, columns) on the scale of an 8-bit image,
row 0 at the top. Lengths are in millimetres on the face, `mm_px` is the size of one pixel of the map. Amplitudes were
set by eye and by the high-pass spread against drone photographs of bridge concrete taken at about 1 mm a pixel.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.values import Image

Map = npt.NDArray[np.float32]

# Weathered cement with a little sand in it: BGR, linear in the camera's output.
_BASE_BGR = (166.0, 173.0, 174.0)
# The colour of water stains and of dirt varies over centimetres, never from pixel to pixel.
_TINT_MM = 8.0


def clouds(rng: np.random.Generator, shape: tuple[int, int], cell_px: tuple[float, float]) -> Map:
    """Smooth noise of about unit standard deviation.

    Args:
        rng: source of randomness.
        shape: (rows, columns) of the map.
        cell_px: (vertical, horizontal) correlation length in pixels; unequal lengths give streaks.
    """
    rows, cols = (max(4, round(size / cell) + 3) for size, cell in zip(shape, cell_px, strict=True))
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    smooth = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth / 0.75, dtype=np.float32)


def pour(rng: np.random.Generator, shape: tuple[int, int], mm_px: float) -> Map:
    """Large-scale shading: cement that settled, moisture, mottling from metres down to centimetres; zero mean."""
    tone = np.zeros(shape, dtype=np.float32)
    for cell_mm, spread in ((900.0, 5.0), (250.0, 3.0), (70.0, 2.2), (22.0, 2.0), (7.0, 2.2)):
        tone += spread * clouds(rng, shape, (cell_mm / mm_px, cell_mm / mm_px))
    # The grain of the boards is printed into the cement skin, and water runs down: vertical streaks.
    for tall_mm, wide_mm, spread in ((600.0, 25.0, 2.2), (160.0, 5.0, 1.6)):
        tone += spread * clouds(rng, shape, (tall_mm / mm_px, wide_mm / mm_px))
    return tone


def grain(rng: np.random.Generator, shape: tuple[int, int], mm_px: float) -> Map:
    """Sand and fine aggregate: texture of 0.5 to 3 mm, a little skewed towards dark pits; zero mean."""
    fine = rng.standard_normal(shape, dtype=np.float32)
    sand = np.zeros(shape, dtype=np.float32)
    for sigma_mm, spread in ((0.45, 5.5), (1.1, 4.0)):
        sigma_px = sigma_mm / mm_px
        blurred = cv2.GaussianBlur(fine, (0, 0), sigma_px)
        # A Gaussian of sigma s leaves white noise with 1 / (2 s sqrt(pi)) of its spread.
        sand += np.float32(spread * 2.0 * sigma_px * np.sqrt(np.pi)) * blurred
        fine = fine[::-1, ::-1]
    return np.asarray(np.minimum(sand, 14.0) - 0.012 * np.square(np.minimum(sand, 0.0)), dtype=np.float32)


def boards(rng: np.random.Generator, tone: Map, mm_px: float, edges_mm: list[float]) -> None:
    """Gives each form board between two `edges_mm` its own tone, in place."""
    for left, right in pairwise(edges_mm):
        tone[:, round(left / mm_px) : round(right / mm_px)] += np.float32(rng.normal(0.0, 4.5))


def joint(
    rng: np.random.Generator, tone: Map, mm_px: float, at_mm: float, width_mm: float, depth: float, *, vertical: bool
) -> None:
    """Presses a straight formwork joint into `tone`, in place: dark, of uneven depth, with a raised paste edge.

    `at_mm` is the distance of its axis from the left (vertical) or top (horizontal); `depth` the share of light lost.
    """
    view = tone if vertical else tone.T
    rows, cols = view.shape
    reach = max(3, int(4.0 * width_mm / mm_px))
    centre = at_mm / mm_px
    left, right = max(0, int(centre) - reach), min(cols, int(centre) + reach + 1)
    if left >= right:
        return
    wander = 0.5 / mm_px * clouds(rng, (rows, 1), (60.0 / mm_px, 1.0))
    half = (
        0.5
        * width_mm
        / mm_px
        * np.clip(
            1.0 + 0.15 * clouds(rng, (rows, 1), (25.0 / mm_px, 1.0)) + 0.2 * clouds(rng, (rows, 1), (2.5 / mm_px, 1.0)),
            0.3,
            1.6,
        )
    )
    strength = depth * np.clip(0.85 + 0.3 * clouds(rng, (rows, 1), (90.0 / mm_px, 1.0)), 0.15, 1.0)
    away = np.abs(np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - centre - wander)
    inside = np.clip(half - away + 0.5, 0.0, 1.0)
    paste = np.exp(-np.square((away - 2.2 * half) / (0.8 * half)))
    view[:, left:right] *= (1.0 - strength * inside + 0.05 * paste).astype(np.float32)


def tie_hole(rng: np.random.Generator, tone: Map, mm_px: float, x_mm: float, y_mm: float) -> None:
    """A plugged form tie of 24 to 30 mm, in place: grey mortar disk, dark gap around it, lit lower rim."""
    radius = rng.uniform(12.0, 15.0) / mm_px
    x, y = x_mm / mm_px, y_mm / mm_px
    reach = int(radius * 1.5)
    x0, y0 = max(0, int(x) - reach), max(0, int(y) - reach)
    patch = tone[y0 : int(y) + reach + 1, x0 : int(x) + reach + 1]
    rows, cols = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]].astype(np.float32)
    dy, dx = rows + y0 - y, cols + x0 - x
    distance = np.hypot(dx, dy)
    disk = np.clip(radius - distance + 0.5, 0.0, 1.0)
    gap = np.exp(-np.square((distance - radius) * mm_px / 1.1))
    lit = np.exp(-np.square((distance - radius - 1.5 / mm_px) * mm_px / 1.2)) * np.clip(dy / radius, 0.0, 1.0)
    patch *= 1.0 - 0.10 * disk - 0.45 * gap * (0.7 - 0.3 * dy / radius) + 0.10 * lit


def pores(rng: np.random.Generator, tone: Map, mm_px: float, per_m2: float) -> None:
    """Blow holes, in place: `per_m2` of them, diameters log-normal about 1.2 mm, seldom above 8 mm, in clusters."""
    rows, cols = tone.shape
    area_m2 = rows * cols * (mm_px / 1000.0) ** 2
    count = rng.poisson(per_m2 * area_m2)
    swarm = np.maximum(0.0, clouds(rng, (max(4, rows // 64), max(4, cols // 64)), (6.0, 6.0)) + 0.6)
    cell = rng.choice(swarm.size, size=count, p=(swarm / swarm.sum()).ravel())
    ys = (cell // swarm.shape[1] + rng.random(count)) * rows / swarm.shape[0]
    xs = (cell % swarm.shape[1] + rng.random(count)) * cols / swarm.shape[1]
    radii = 0.5 / mm_px * np.minimum(rng.lognormal(np.log(1.2), 0.65, count), 9.0)
    for x, y, radius in zip(xs, ys, radii, strict=True):
        _pore(rng, tone, float(x), float(y), float(radius))


def _pore(rng: np.random.Generator, tone: Map, x: float, y: float, radius: float) -> None:
    """One hole: a slightly squeezed disk, shaded at the top (light falls from above), its lower lip lit."""
    squeeze, turn = rng.uniform(0.6, 1.0), rng.uniform(0.0, np.pi)
    depth = rng.uniform(0.25, 0.8)
    reach = int(2.0 * radius) + 2
    x0, y0 = max(0, int(x) - reach), max(0, int(y) - reach)
    patch = tone[y0 : int(y) + reach + 1, x0 : int(x) + reach + 1]
    rows, cols = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]].astype(np.float32)
    dy, dx = rows + (y0 - y + 0.5), cols + (x0 - x + 0.5)
    major = dx * np.cos(turn) + dy * np.sin(turn)
    minor = (dy * np.cos(turn) - dx * np.sin(turn)) / squeeze
    distance = np.hypot(major, minor)
    hole = np.clip(radius - distance + 0.5, 0.0, 1.0) * min(1.0, 2.0 * radius)
    lip = np.clip(1.0 - np.abs(distance - radius - 0.7), 0.0, 1.0) * (dy > 0)
    patch *= (1.0 - depth * hole * (0.85 - 0.15 * dy / (radius + 1.0)) + 0.05 * lip).astype(np.float32)


def streak(
    rng: np.random.Generator, tone: Map, mm_px: float, x_mm: float, top_mm: float, length_mm: float, strength: float
) -> None:
    """Water that ran down from one place, in place: darker (`strength` > 0) or lime-white (< 0), fading downwards."""
    rows, cols = tone.shape
    top, bottom = max(0, round(top_mm / mm_px)), min(rows, round((top_mm + length_mm) / mm_px))
    if bottom - top < 4:
        return
    down = np.linspace(0.0, 1.0, bottom - top, dtype=np.float32)[:, None]
    width = (10.0 + 25.0 * rng.random()) * (0.6 + 0.6 * down) / mm_px
    centre = x_mm / mm_px + 10.0 / mm_px * clouds(rng, (bottom - top, 1), (180.0 / mm_px, 1.0))
    reach = int(90.0 / mm_px)
    left, right = max(0, int(x_mm / mm_px) - reach), min(cols, int(x_mm / mm_px) + reach)
    if left >= right:
        return
    across = (np.arange(left, right, dtype=np.float32)[None, :] - centre) / width
    runs = 0.75 + 0.35 * clouds(rng, (bottom - top, right - left), (120.0 / mm_px, 4.0 / mm_px))
    fade = np.clip(down * 8.0, 0.0, 1.0) * (1.0 - down)
    tone[top:bottom, left:right] *= (1.0 - strength * fade * np.exp(-np.square(across)) * runs).astype(np.float32)


def patches(rng: np.random.Generator, tone: Map, mm_px: float, count: int) -> None:
    """Flakes of the cement skin: `count` small irregular spots of 5 to 30 mm, a little darker or lighter, in place."""
    rows, cols = tone.shape
    for _ in range(count):
        radius = rng.uniform(4.0, 16.0) / mm_px
        x, y, strength = rng.uniform(0, cols), rng.uniform(0, rows), rng.normal(0.06, 0.06)
        reach = int(radius * 2)
        x0, y0 = max(0, int(x) - reach), max(0, int(y) - reach)
        patch = tone[y0 : int(y) + reach + 1, x0 : int(x) + reach + 1]
        if min(patch.shape) < 4:
            continue
        ragged = clouds(rng, (patch.shape[0], patch.shape[1]), (6.0 / mm_px, 6.0 / mm_px))
        ys, xs = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]].astype(np.float32)
        distance = np.hypot((xs + x0 - x) * 1.4, ys + y0 - y) / radius
        patch *= (1.0 - strength * np.clip((1.0 - distance + 0.3 * ragged) * 4.0, 0.0, 1.0)).astype(np.float32)


def shadow(tone: Map, mm_px: float, foot_mm: float, slope: float, depth: float, penumbra_mm: float) -> None:
    """The shadow of the deck, in place: everything right of a leaning edge loses `depth` of its light.

    The edge meets the top of the map at `foot_mm` from the left and moves `slope` mm to the left for each mm down.
    """
    rows, cols = tone.shape
    ys = np.arange(rows, dtype=np.float32)[:, None]
    for left in range(0, cols, 2048):  # in strips: the map of the distances would double the memory
        xs = np.arange(left, min(cols, left + 2048), dtype=np.float32)[None, :]
        inside = (xs + slope * ys) * np.float32(mm_px / penumbra_mm) - np.float32(foot_mm / penumbra_mm)
        tone[:, left : left + 2048] *= 1.0 - np.float32(depth) / (1.0 + np.exp(np.clip(-4.0 * inside, -30.0, 30.0)))


def colour(rng: np.random.Generator, tone: Map, mm_px: float) -> Image:
    """Turns a luminance map around 0 mean into BGR uint8: base tone times a slowly varying tint of dirt and lime."""
    rows, cols = tone.shape
    small = (max(4, round(rows * mm_px / _TINT_MM)), max(4, round(cols * mm_px / _TINT_MM)))
    cell = 1.0 / _TINT_MM
    warm = 0.006 * clouds(rng, small, (700 * cell, 700 * cell)) + 0.005 * clouds(rng, small, (120 * cell, 60 * cell))
    rust = np.clip(clouds(rng, small, (45 * cell, 30 * cell)) - 2.3, 0.0, 1.0) * 0.06
    tint = np.dstack([1.0 - warm - rust, np.ones_like(warm) - 0.25 * rust, 1.0 + warm + 0.2 * rust]).astype(np.float32)
    out = np.empty((rows, cols, 3), dtype=np.uint8)
    for channel, base in enumerate(_BASE_BGR):
        plane = cv2.resize(tint[:, :, channel], (cols, rows), interpolation=cv2.INTER_LINEAR) * tone
        plane = plane * np.float32(base / 170.0)
        out[:, :, channel] = np.clip(plane + 0.5, 0, 255).astype(np.uint8)
    return out
