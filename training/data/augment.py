"""How is a training tile varied? Geometry in one warp, then light, colour, blur, noise and compression on uint8.

Speed matters: on two cores a network takes about 25 ms a tile, so a tile must be made in one or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Preset = Literal["none", "published", "field"]

_NOISE_BANK_PX: Final = 1024

BRIGHTNESS: Final = 0.35
"""The field preset's exposure: the mean changes by up to this share. The values below are the field preset's, too."""
BRIGHTEST_LEVEL: Final = 200.0
"""Mean grey level up to which a tile is made brighter."""
CONTRAST: Final = 0.40
TONE_CURVE: Final = 0.30
"""Logarithm of the largest exponent of the tone curve."""
WHITE_BALANCE: Final = 0.10
SATURATION: Final = (0.0, 1.8)
RECOLOURED: Final = 0.30
"""Share of the tiles whose colours are mixed, if a stage does not say otherwise."""
FOCUS_SIGMA_PX: Final = (0.3, 2.0)
FOCUS_SHARE: Final = 0.6
"""Share of the blurred tiles that are out of focus; the rest moved."""
MOTION_PX: Final = (3, 5, 7, 9)
RESOLUTION: Final = (0.5, 0.9)
"""Share of the tile's side that it was taken with."""
SHARPENING: Final = (0.3, 1.0)
NOISE: Final = (1.0, 9.0)
"""Standard deviation in grey levels."""
NOISE_CHANCE: Final = 0.35
JPEG_QUALITY: Final = (35, 91)
JPEG_CHANCE: Final = 0.25
SHADOW_GAIN: Final = (0.3, 0.75)
SHADOW_EDGE_PX: Final = (0.5, 8.0)
"""Width of the soft edge."""


@dataclass(frozen=True)
class View:
    """Which square of a photograph becomes the tile, and how it is turned.

    Attributes:
        centre_x: in pixels of the photograph.
        centre_y: in pixels of the photograph.
        side_px: side of the square in pixels of the photograph.
        angle_rad: by which the square is turned.
        mirrored: whether it is flipped.
        stretch: side ratio of what becomes square, 1 for none.
    """

    centre_x: float
    centre_y: float
    side_px: float
    angle_rad: float = 0.0
    mirrored: bool = False
    stretch: float = 1.0

    def matrix(self, out_px: int) -> NDArray[np.float64]:
        """Return the 2x3 matrix from pixels of the tile to pixels of the photograph (pixel centres at integers)."""
        zoom = self.side_px / out_px
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        flip = -1.0 if self.mirrored else 1.0
        linear = zoom * np.array(
            [[cos * flip * self.stretch, -sin / self.stretch], [sin * flip * self.stretch, cos / self.stretch]]
        )
        middle = np.full(2, (out_px - 1) / 2)
        shift = np.array([self.centre_x - 0.5, self.centre_y - 0.5]) - linear @ middle
        return np.hstack([linear, shift[:, None]])


def cut(image: Image, view: View, out_px: int) -> Image:
    """Cut the view out of a photograph; outside its border it is mirrored.

    Shrinking by more than a quarter goes over twice the size and averages, so that fine cracks fade instead of
    breaking up, as they do in the area filter that flies.
    """
    factor = 2 if view.side_px / out_px > 1.25 else 1
    matrix = view.matrix(out_px * factor)
    size = (out_px * factor, out_px * factor)
    tile = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )
    if factor > 1:
        tile = cv2.resize(tile, (out_px, out_px), interpolation=cv2.INTER_AREA)
    return np.asarray(tile, np.uint8)


def cut_mask(mask: Image, view: View, out_px: int) -> Image:
    """Cut the view out of a mask; values are kept (nearest pixel)."""
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    matrix = view.matrix(out_px)
    return np.asarray(
        cv2.warpAffine(mask, matrix, (out_px, out_px), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )


_RAMP: Final = np.arange(256, dtype=np.float32)


class Appearance:
    """Varies how a tile looks, not where things are.

    Args:
        preset: "none", or "field" (exposure, white balance, colour cast, focus and motion blur, loss of resolution,
            noise, JPEG, shadow edges, stains, paint, joints, cables, hairs). Nothing that is drawn is a crack, so the
            label stays. "published" varies place and look together: `training.data.published`.
        seed: of the bank of noise.
        recoloured: share of the tiles that the field preset makes paler, stronger in colour, tinted or grey.
    """

    def __init__(self, preset: Literal["none", "field"], seed: int = 0, *, recoloured: float = RECOLOURED) -> None:
        self.preset = preset
        self._recoloured = recoloured
        rng = np.random.default_rng(seed)
        self._noise = rng.standard_normal((_NOISE_BANK_PX, _NOISE_BANK_PX, 3)).astype(np.float32)

    def __call__(self, tile: Image, rng: Generator) -> Image:
        """Return a varied copy of a tile [S, S, 3]."""
        return tile if self.preset == "none" else self._field(tile, rng)

    def _field(self, tile: Image, rng: Generator) -> Image:
        for chance, change in ON_THE_WALL:
            if rng.random() < (self._recoloured if change is mix_colours else chance):
                tile = change(tile, rng)
        tile = _light(tile, rng)
        for chance, change in IN_THE_CAMERA:
            if rng.random() < chance:
                tile = change(tile, rng)
        if rng.random() < NOISE_CHANCE:
            tile = self._grain(tile, rng)
        return _jpeg(tile, rng) if rng.random() < JPEG_CHANCE else tile

    def _grain(self, tile: Image, rng: Generator) -> Image:
        side = tile.shape[0]
        y, x = rng.integers(0, _NOISE_BANK_PX - side, 2)
        noise = self._noise[y : y + side, x : x + side]
        if rng.random() < 0.5:
            noise = np.repeat(noise[:, :, :1], 3, axis=2)
        return add_noise(tile, noise, float(rng.uniform(*NOISE)))


def _light(tile: Image, rng: Generator) -> Image:
    """Vary exposure, contrast, tone curve and white balance."""
    contrast = float(rng.uniform(-CONTRAST, CONTRAST))
    brightness = float(rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    balance = rng.uniform(-WHITE_BALANCE, WHITE_BALANCE, 3)
    exponent = float(np.exp(rng.uniform(-TONE_CURVE, TONE_CURVE)))
    # a bright wall made brighter still would lose its cracks in white, but not its label
    middle = max(1.0, float(tile[::8, ::8].mean()))
    brightness = min(brightness, max(0.0, BRIGHTEST_LEVEL / middle - 1))
    return relight(tile, brightness=brightness, contrast=contrast, balance=balance, exponent=exponent)


def relight(
    tile: Image,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    balance: ArrayLike = (0.0, 0.0, 0.0),
    exponent: float = 1.0,
) -> Image:
    """Change exposure, contrast, white balance and tone curve in one table.

    Args:
        tile: uint8 [S, S, 3].
        brightness: by which share the mean rises.
        contrast: by which share the distances from the mean grow.
        balance: by which share each channel rises.
        exponent: of the tone curve over 0 to 1; above 1 darkens the middle.
    """
    middle = float(tile[::8, ::8].mean())
    table = (_RAMP - middle) * (1 + contrast) + middle * (1 + brightness)
    channels = table[:, None] * (1 + np.asarray(balance, np.float32))[None]
    if exponent != 1.0:
        channels = 255 * (np.clip(channels, 0, 255) / 255) ** exponent
    lut = np.clip(channels, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(tile, lut), np.uint8)


def add_noise(tile: Image, noise: NDArray[np.float32], deviation: float) -> Image:
    """Add noise of deviation 1 [S, S, 3], made `deviation` grey levels strong."""
    return np.asarray(cv2.add(tile, noise * deviation, dtype=cv2.CV_8U), np.uint8)


def mix_colours(tile: Image, rng: Generator) -> Image:
    """Mix the channels: paler or stronger colour, a cast, grey. Never exchanged: that brick is red is worth knowing."""
    dice = rng.random()
    if dice < 0.15:
        matrix = np.full((3, 3), 1 / 3, np.float32)
    else:
        saturation = float(rng.uniform(*SATURATION))
        matrix = np.full((3, 3), (1 - saturation) / 3, np.float32) + np.eye(3, dtype=np.float32) * saturation
        if dice > 0.8:
            matrix = matrix * rng.uniform(0.6, 1.3, (3, 1)).astype(np.float32)
    return np.asarray(cv2.transform(tile, matrix), np.uint8)


def blur(tile: Image, rng: Generator) -> Image:
    """Blur by focus or by motion."""
    if rng.random() < FOCUS_SHARE:
        return focus_blur(tile, float(rng.uniform(*FOCUS_SIGMA_PX)))
    return motion_blur(tile, int(rng.choice(MOTION_PX)), float(rng.uniform(0, np.pi)))


def focus_blur(tile: Image, sigma_px: float) -> Image:
    """Blur with a Gaussian, as a lens out of focus does in the main."""
    return np.asarray(cv2.GaussianBlur(tile, (0, 0), sigma_px), np.uint8)


def motion_blur(tile: Image, length_px: int, angle_rad: float) -> Image:
    """Average along a line of an odd length, as a camera that moves while it exposes."""
    kernel = np.zeros((length_px, length_px), np.float32)
    middle = length_px // 2
    reach = np.array([np.cos(angle_rad), np.sin(angle_rad)]) * middle
    ends = [tuple(int(v) for v in np.rint(middle + sign * reach)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(tile, -1, kernel / kernel.sum()), np.uint8)


def resample(tile: Image, rng: Generator) -> Image:
    """Lose resolution, somewhere in its range."""
    return lose_resolution(tile, float(rng.uniform(*RESOLUTION)))


def lose_resolution(tile: Image, share: float) -> Image:
    """Shrink to a share of the side and enlarge again: what was taken with fewer pixels."""
    side = tile.shape[0]
    small = int(side * share)
    shrunk = cv2.resize(tile, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def overdo_sharpness(tile: Image, rng: Generator) -> Image:
    """Sharpen, somewhere in its range."""
    return sharpen(tile, float(rng.uniform(*SHARPENING)))


def sharpen(tile: Image, strength: float) -> Image:
    """Mask unsharply, as cameras do."""
    soft = cv2.GaussianBlur(tile, (0, 0), 1.2)
    return np.asarray(cv2.addWeighted(tile, 1 + strength, soft, -strength, 0), np.uint8)


def _jpeg(tile: Image, rng: Generator) -> Image:
    return compress(tile, int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)))


def compress(tile: Image, quality: int) -> Image:
    """Encode as JPEG and decode again."""
    _, data = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def cast_shadow(tile: Image, rng: Generator) -> Image:
    """Darken one side of an edge that lies anywhere."""
    side = tile.shape[0]
    angle, offset = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(-0.4, 0.4)) * side
    softness, gain = float(rng.uniform(*SHADOW_EDGE_PX)), float(rng.uniform(*SHADOW_GAIN))
    return shadow_edge(tile, angle_rad=angle, offset_px=offset, softness_px=softness, gain=gain)


def shadow_edge(tile: Image, *, angle_rad: float, offset_px: float, softness_px: float, gain: float) -> Image:
    """Darken one side of a straight, soft edge to `gain`."""
    side = tile.shape[0]
    along = np.arange(side, dtype=np.float32) - side / 2
    distance = (
        along[None, :] * np.float32(np.cos(angle_rad))
        + along[:, None] * np.float32(np.sin(angle_rad))
        - np.float32(offset_px)
    )
    gains = 1 - (1 - gain) * np.clip(distance / softness_px + 0.5, 0, 1)
    return np.asarray(tile * gains[:, :, None], np.uint8)


def draw_cable(tile: Image, rng: Generator) -> Image:
    """Draw a smooth wire, hair or straight painted line of even width; it is no crack."""
    side = tile.shape[0]
    ends = rng.uniform(-0.15, 1.15, (3, 2)) * side
    if rng.random() < 0.5:
        ends[1] = (ends[0] + ends[2]) / 2
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    shade = [float(v) for v in np.clip(rng.uniform(0, 255) + rng.normal(0, 15, 3), 0, 255)]
    drawn = np.ascontiguousarray(tile).copy()
    cv2.polylines(
        drawn,
        [np.rint(curve).astype(np.int32)],
        isClosed=False,
        color=shade,
        thickness=int(rng.integers(1, 5)),
        lineType=cv2.LINE_AA,
    )
    return drawn


def draw_hair(tile: Image, rng: Generator) -> Image:
    """Draw a hair or fibre on the lens or the wall: one thin, even, smoothly curved line with loose ends."""
    side = tile.shape[0]
    point, heading = rng.uniform(0.1, 0.9, 2) * side, float(rng.uniform(0, 2 * np.pi))
    bend = float(rng.normal(0, 0.05))
    points = [point]
    for _ in range(int(rng.integers(12, 40))):
        heading += bend + float(rng.normal(0, 0.03))
        point = point + side / 60 * np.array([np.cos(heading), np.sin(heading)])
        points.append(point)
    return _line(tile, np.array(points), rng, thickness=1, softness=float(rng.uniform(0, 1.0)))


def draw_joint(tile: Image, rng: Generator) -> Image:
    """Draw one or two straight joints of a slab or a formwork panel: even width, from border to border."""
    side = tile.shape[0]
    angle = float(rng.integers(2)) * np.pi / 2 + float(rng.normal(0, 0.08))
    for turn in (0.0, np.pi / 2)[: int(rng.integers(1, 3))]:
        along = np.array([np.cos(angle + turn), np.sin(angle + turn)])
        middle = rng.uniform(0.05, 0.95, 2) * side
        ends = np.array([middle - 2 * side * along, middle + 2 * side * along])
        tile = _line(tile, ends, rng, thickness=int(rng.integers(1, 5)), softness=float(rng.uniform(0, 1.5)))
    return tile


def _line(tile: Image, points: NDArray[np.float64], rng: Generator, *, thickness: int, softness: float) -> Image:
    """Darken (seldom lighten) the tile along a line."""
    drawn = np.zeros(tile.shape[:2], np.float32)
    cv2.polylines(
        drawn,
        [np.rint(points * 8).astype(np.int32)],
        isClosed=False,
        color=1.0,
        thickness=thickness,
        lineType=cv2.LINE_AA,
        shift=3,
    )
    if softness > 0.3:
        drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), softness), np.float32)
    depth = float(rng.uniform(0.2, 0.8)) if rng.random() < 0.85 else -float(rng.uniform(0.1, 0.5))
    return np.clip(tile * (1 - depth * drawn[:, :, None]), 0, 255).astype(np.uint8)


def draw_paint(tile: Image, rng: Generator) -> Image:
    """Spray a mark: a round, soft-edged dot of strong colour with drops around it, seldom a drawn line or circle."""
    side = tile.shape[0]
    colour = [float(v) for v in rng.permutation([float(rng.uniform(0, 70)), float(rng.uniform(0, 255)), 235.0])]
    cover = np.zeros(tile.shape[:2], np.float32)
    centre = [int(v) for v in rng.uniform(0, side, 2)]
    if rng.random() < 0.6:
        radius = float(rng.uniform(0.03, 0.16)) * side
        cv2.circle(cover, centre, round(radius), 1.0, -1, cv2.LINE_AA)
        for _ in range(int(rng.integers(0, 25))):
            drop = np.array(centre) + rng.normal(0, radius * 1.1, 2)
            cv2.circle(cover, [int(v) for v in drop], int(rng.integers(1, 3)), 1.0, -1, cv2.LINE_AA)
    elif rng.random() < 0.5:
        cv2.circle(cover, centre, int(rng.uniform(0.1, 0.4) * side), 1.0, int(rng.integers(2, 6)), cv2.LINE_AA)
    else:
        end = [int(v) for v in rng.uniform(0, side, 2)]
        cv2.line(cover, centre, end, 1.0, int(rng.integers(3, 9)), cv2.LINE_AA)
    cover = cv2.GaussianBlur(cover, (0, 0), float(rng.uniform(0.5, 2.5)))[:, :, None] * float(rng.uniform(0.6, 0.95))
    return np.clip(tile * (1 - cover) + np.array(colour) * cover, 0, 255).astype(np.uint8)


STAIN_TINTS_BGR: Final = ((0.45, 0.70, 0.90), (0.60, 0.62, 0.64), (0.62, 0.72, 0.70), (1.22, 1.20, 1.18))
"""Rust, water, algae and efflorescence: by how much each darkens or lightens the channels."""


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draw a number between two, evenly in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_stains(tile: Image, rng: Generator) -> Image:
    """Draw blotches or runs of rust, water, algae or efflorescence, with edges that are sometimes hard."""
    size = (tile.shape[1], tile.shape[0])
    cells = (2, 24) if rng.random() < 0.5 else (6, 10)  # runs down the wall, or blotches
    cloud = cv2.resize(rng.standard_normal(cells).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    share = 1 / (1 + np.exp(-(cloud - rng.uniform(0, 1)) * rng.uniform(2, 9)))
    tint = np.array(STAIN_TINTS_BGR[int(rng.integers(len(STAIN_TINTS_BGR)))]) * rng.uniform(0.94, 1.06, 3)
    strength = float(rng.uniform(0.3, 1.0))
    gain = 1 + strength * share[:, :, None] * (tint - 1)
    return np.asarray(np.clip(tile * gain, 0, 255), np.uint8)


_Change = Callable[[Image, Generator], Image]

ON_THE_WALL: Final[tuple[tuple[float, _Change], ...]] = (
    (0.08, draw_stains),
    (0.05, draw_paint),
    (0.06, draw_joint),
    (0.08, draw_cable),
    (0.05, draw_hair),
    (0.12, cast_shadow),
    (RECOLOURED, mix_colours),
)
"""What the field preset does before the light varies, each with its chance."""

IN_THE_CAMERA: Final[tuple[tuple[float, _Change], ...]] = ((0.36, blur), (0.12, resample), (0.08, overdo_sharpness))
"""What it does after."""
