"""What does a tile become when the picture is worse, nearer, farther or turned?

Light, blur, noise and compression act on the tile itself. Scale and rotation cut the tile anew from its photograph, so
that what comes into view is real; only where the photograph ends it is mirrored. A tile that is cut anew may show
something else than before: where there are pixel masks it is judged by the rule of `training.data.tiles`, and left out
unless it still shows the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.vision.preprocess import TILE_PX, to_tile
from training.data.cache import Photographs
from training.data.dataset import EvaluationSet, Origin
from training.data.sources import BOX, CRACK, JOINT
from training.data.tiles import kind_of

Image = npt.NDArray[np.uint8]

GAMMA: Final = 2.2
"""Of the photographs: a level stands for `(level / 255) ** GAMMA` of light."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A way in which a picture gets worse.

    Attributes:
        name: key in configuration and results.
        title: for people.
        unit: of its levels.
        neutral: the level at which nothing happens.
        spacing: along which axis levels are interpolated.
        moves: which of the agent's measures tells it, None where none does.
    """

    name: str
    title: str
    unit: str
    neutral: float
    spacing: Literal["linear", "log"] = "linear"
    moves: Literal["sharpness", "brightness"] | None = None


DISTURBANCES: Final[dict[str, Disturbance]] = {
    item.name: item
    for item in (
        Disturbance("focus", "Out of focus", "px, standard deviation of the blur", 0.0, moves="sharpness"),
        Disturbance("motion", "Motion smear", "px, length of the smear", 1.0, moves="sharpness"),
        Disturbance("noise", "Noise", "grey levels, standard deviation", 0.0),
        Disturbance("exposure", "Exposure", "stops", 0.0, moves="brightness"),
        Disturbance("jpeg", "JPEG", "quality", 100.0),
        Disturbance("scale", "Scale", "ground sampling distance relative to the tile's own", 1.0, spacing="log"),
        Disturbance("rotation", "Rotation", "degrees", 0.0),
    )
}


def focus(tile: Image, sigma_px: float) -> Image:
    """Gaussian blur."""
    return np.asarray(cv2.GaussianBlur(tile, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def motion(tile: Image, length_px: float, angle: float) -> Image:
    """Straight smear of a length along an angle (radians)."""
    return np.asarray(
        cv2.filter2D(tile, -1, line_kernel(length_px, angle), borderType=cv2.BORDER_REFLECT_101), np.uint8
    )


def line_kernel(length_px: float, angle: float) -> npt.NDArray[np.float32]:
    """A line as a filter: points along it, each shared between its four pixels; sums to 1, balanced about the middle.

    A smear of 1 px is no smear: each pixel gathers light over its own width anyway.
    """
    reach = max(length_px - 1, 0.0) / 2
    half = int(np.ceil(reach)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    along = np.linspace(-reach, reach, 16 * half + 1)
    x, y = half + along * np.cos(angle), half - along * np.sin(angle)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            shares = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            np.add.at(kernel, (np.minimum(top + dy, 2 * half), np.minimum(left + dx, 2 * half)), shares)
    return np.asarray(kernel / kernel.sum(), np.float32)


def noise(tile: Image, sigma: float, rng: np.random.Generator) -> Image:
    """White noise in each channel on its own."""
    return np.clip(np.rint(tile + rng.normal(0, sigma, tile.shape)), 0, 255).astype(np.uint8)


def exposure(tile: Image, stops: float) -> Image:
    """More or less light by `2 ** stops`; what is too bright clips, what is too dark loses its steps."""
    levels = np.arange(256) * 2 ** (stops / GAMMA)
    return np.asarray(cv2.LUT(tile, np.clip(np.rint(levels), 0, 255).astype(np.uint8)), np.uint8)


def jpeg(tile: Image, quality: float) -> Image:
    """One compression."""
    _, data = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def square(image: Image, top: int, left: int, side: int) -> Image:
    """Cuts a square of any place and side; beyond the border the picture is mirrored, as often as needed."""
    rows = _mirrored(np.arange(top, top + side), image.shape[0])
    columns = _mirrored(np.arange(left, left + side), image.shape[1])
    return np.asarray(image[rows[:, None], columns[None, :]], np.uint8)


def _mirrored(index: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    """Indices beyond 0..size-1 folded back, the border itself not doubled."""
    if size == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * size - 2)
    return np.where(folded < size, folded, 2 * size - 2 - folded)


@dataclass(frozen=True)
class Subjects:
    """Tiles of a validation set and the photographs they were cut from."""

    tiles: EvaluationSet
    photographs: Photographs

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.tiles)

    def disturbed(self, name: str, level: float, index: int, seed: int) -> Image | None:
        """The tile under a disturbance; None where nobody knows any more what it shows.

        Args:
            name: key of `DISTURBANCES`.
            level: see there.
            index: of the tile.
            seed: decides directions and noise; they are the same at every level.
        """
        rng = np.random.default_rng((seed, index))
        tile = np.asarray(self.tiles.tiles[index])
        simple: dict[str, Callable[[], Image]] = {
            "focus": lambda: focus(tile, level),
            "motion": lambda: motion(tile, level, float(rng.uniform(0, np.pi))),
            "noise": lambda: noise(tile, level, rng),
            "exposure": lambda: exposure(tile, level),
            "jpeg": lambda: jpeg(tile, level),
        }
        if name in simple:
            return simple[name]()
        if name == "scale":
            return self._scaled(index, level)
        if name == "rotation":
            return self._turned(index, level)
        raise ValueError(f"disturbance {name!r} is unknown; allowed: {', '.join(DISTURBANCES)}")

    def _origin(self, index: int) -> Origin:
        if self.tiles.origins is None:
            raise ValueError(f"{self.tiles.name}: nobody knows where its tiles were cut")
        return self.tiles.origins[index]

    def enlarged(self, index: int) -> bool:
        """Whether the tile had fewer pixels in its photograph: then it was never sharp."""
        return self._origin(index).side < TILE_PX

    def _mask(self, index: int) -> Image | None:
        """The photograph's pixel mask; None where there is none, or only boxes."""
        masks = self.photographs.masks
        if masks is None:
            return None
        mask = np.asarray(masks[self._origin(index).index])
        return None if (mask == BOX).any() else mask

    def _scaled(self, index: int, factor: float) -> Image | None:
        """The same place at a ground sampling distance `factor` times the tile's own."""
        origin, mask, kind = self._origin(index), self._mask(index), self.tiles.kinds[index]
        if factor < 1 and mask is None and kind == "crack":
            return None  # the crack may lie outside of the smaller square, and no mask tells where it is
        side = max(8, round(origin.side * factor))
        row, column = origin.top + origin.side / 2, origin.left + origin.side / 2
        if factor < 1 and mask is not None:
            row, column = _nearest(mask, origin, kind, (row, column))
        image = self.photographs.images[origin.index]
        top, left = (
            _inside(round(middle - side / 2), side, size)
            for middle, size in zip((row, column), image.shape[:2], strict=True)
        )
        if mask is not None and not _same(square(mask, top, left, side), kind):
            return None
        return to_tile(square(image, top, left, side), TILE_PX)

    def _turned(self, index: int, degrees: float) -> Image | None:
        """The same place, the camera turned about the tile's middle."""
        origin, mask = self._origin(index), self._mask(index)
        half = (origin.side - 1) / 2
        matrix = cv2.getRotationMatrix2D((origin.left + half, origin.top + half), degrees, 1.0)
        matrix[:, 2] -= (origin.left, origin.top)

        def turned(picture: Image, interpolation: int) -> Image:
            return np.asarray(
                cv2.warpAffine(
                    picture, matrix, (origin.side, origin.side), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
                ),
                np.uint8,
            )

        if mask is not None and not _same(turned(mask, cv2.INTER_NEAREST), self.tiles.kinds[index]):
            return None
        return to_tile(turned(np.asarray(self.photographs.images[origin.index]), cv2.INTER_CUBIC), TILE_PX)


def _same(mask: Image, kind: str) -> bool:
    found = kind_of(mask)
    return found == kind or (kind == "negative" and found in {"plain", "joint"})


def _nearest(mask: Image, origin: Origin, kind: str, middle: tuple[float, float]) -> tuple[float, float]:
    """The marked pixel of the tile (of its crack, or joint) that is nearest to its middle; else the middle."""
    value = {"crack": CRACK, "joint": JOINT}.get(kind)
    area = mask[origin.top : origin.top + origin.side, origin.left : origin.left + origin.side]
    rows, columns = np.nonzero(area == value) if value is not None else (np.zeros(0, int), np.zeros(0, int))
    if not len(rows):
        return middle
    rows, columns = rows + origin.top, columns + origin.left
    nearest = int(np.argmin((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2))
    return float(rows[nearest]), float(columns[nearest])


def _inside(start: int, side: int, size: int) -> int:
    """Shifts a window into the picture; one that is larger than the picture has it in its middle."""
    return (size - side) // 2 if side >= size else min(max(start, 0), size - side)
