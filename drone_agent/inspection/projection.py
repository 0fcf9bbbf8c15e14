"""Which pixel shows which place? What the inspection asks of a camera in front of a surface, and the trivial answer.

`vehicle.geometry.WallProjector` answers for a camera in front of a wall. `ImageProjector` answers for a recording
without telemetry: there the surface is the picture itself (along = x, height = picture height - y, in pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from drone_agent.values import GeoPoint, NoPose, Pose

Floats = npt.NDArray[np.float64]

IMAGE_FACE = "image"


@dataclass(frozen=True, slots=True)
class FaceInfo:
    """A surface as the flight log describes it.

    `unit` is `m` or `px`; `cell` the side of a cell in it; `how` is `configured`, `fitted` or `image`. `length` and
    `height` bound the surface from 0 (None: without end). `origin_ned_m` and `along_bearing` (rad) only for `m`.
    """

    name: str
    unit: str
    cell: float
    how: str
    origin_ned_m: tuple[float, float, float] | None = None
    along_bearing: float | None = None
    length: float | None = None
    height: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class FacePoints:
    """Where N pixels lie on the surface.

    `place` (N, 2) is (along, height), NaN where the line of sight misses the surface, is too oblique or too long;
    `range_m`, `incidence` (rad) and `sigma_m` (standard deviation of the place) have shape (N,).
    """

    place: Floats
    range_m: Floats
    incidence: Floats
    sigma_m: Floats


@dataclass(frozen=True, slots=True)
class NoView:
    """Why a frame shows nothing of a known surface: a NoPose reason, `not_facing`, or `too_far`."""

    reason: str
    detail: str = ""


class View(Protocol):
    """One frame in front of one surface."""

    @property
    def face(self) -> FaceInfo:
        """The surface."""

    @property
    def viewpoint(self) -> tuple[float, float, float] | None:
        """The camera's (along, height, distance from the surface); None where nobody can know."""

    @property
    def footprint(self) -> Floats:
        """(4, 2) places of the frame's corners, clockwise from the top left; NaN where a corner sees no wall."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(along_min, height_min, along_max, height_max) of what can be seen, within the surface's ends."""

    @property
    def range_m(self) -> float | None:
        """Distance along the optical axis."""

    @property
    def gsd_mm_px(self) -> float | None:
        """Ground sampling distance at the frame's centre."""

    def to_face(self, points_px: Floats) -> FacePoints:
        """Pixels (N, 2) to places."""

    def to_image(self, places: Floats) -> Floats:
        """Places (N, 2) to pixels (N, 2); NaN behind the camera."""

    def geo(self, along: float, height: float) -> GeoPoint | None:
        """WGS 84 of a place where the vehicle knows its own."""


class Projector(Protocol):
    """A camera and the surfaces that it may see."""

    @property
    def faces(self) -> tuple[FaceInfo, ...]:
        """The surfaces."""

    def view(self, pose: Pose | NoPose | None, width_px: int, height_px: int) -> View | NoView:
        """What a frame of this size, taken at `pose`, sees."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """A frame that is its own surface; along = x, height = picture height - y."""

    face: FaceInfo
    width_px: int
    height_px: int

    viewpoint: None = None
    range_m: None = None
    gsd_mm_px: None = None

    @property
    def footprint(self) -> Floats:
        """The whole picture."""
        w, h = float(self.width_px), float(self.height_px)
        return np.array([[0.0, h], [w, h], [w, 0.0], [0.0, 0.0]])

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The whole picture."""
        return 0.0, 0.0, float(self.width_px), float(self.height_px)

    def to_face(self, points_px: Floats) -> FacePoints:
        """Flips the vertical axis; range, incidence and sigma are NaN."""
        nothing = np.full(len(points_px), np.nan)
        return FacePoints(self._flip(points_px), nothing, nothing, nothing)

    def to_image(self, places: Floats) -> Floats:
        """Flips the vertical axis."""
        return self._flip(places)

    def _flip(self, points: Floats) -> Floats:
        return np.column_stack([points[:, 0], self.height_px - points[:, 1]])

    def geo(self, along: float, height: float) -> GeoPoint | None:  # noqa: ARG002 - the protocol's signature
        """Nobody knows."""
        return None


class ImageProjector:
    """The surface of a recording without telemetry: the picture."""

    def __init__(self, cell_px: int) -> None:
        self._face = FaceInfo(IMAGE_FACE, "px", float(cell_px), "image", detail="no telemetry: places are pixels")

    @property
    def faces(self) -> tuple[FaceInfo, ...]:
        """The picture."""
        return (self._face,)

    def view(self, pose: Pose | NoPose | None, width_px: int, height_px: int) -> ImageView:  # noqa: ARG002 - the protocol's signature
        """The picture, whatever the pose."""
        return ImageView(self._face, width_px, height_px)
