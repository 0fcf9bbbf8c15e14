"""A camera that slides along a wall, and tiles with a will of their own."""

from __future__ import annotations

import math

import numpy as np

from drone_agent.inspection.inspection import Inspection
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.values import Frame, GeoPoint, Pose, Tile, TileScore, Verdict
from drone_agent.vehicle.geometry import CameraModel, Face, WallProjector
from drone_agent.vehicle.settings import CameraMountSettings, SurfaceSettings, VehicleSettings

WIDTH, HEIGHT, TILE = 1280, 720, 224
WALL = Face("wall", (2.0, 0.0, 0.0), math.pi / 2, 10.0, 4.0)
PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
TILES = tuple(Tile(x, y, TILE) for y in (0, 165, 331, 496) for x in (0, 211, 422, 634, 845, 1056))


def on_wall(settings: InspectionSettings | None = None, wall: Face = WALL) -> Inspection:
    camera = CameraModel.from_settings(CameraMountSettings(focal_px=2000.0), WIDTH, HEIGHT)
    projector = WallProjector(camera, [wall], SurfaceSettings(), VehicleSettings())
    return Inspection(settings or InspectionSettings(), projector)


def pose(east: float, up: float = 2.0, *, t_ns: int = 0) -> Pose:
    return Pose(t_ns, 0.0, east, -up, 0.0, 0.0, 0.0, geo=GeoPoint(47.0, 8.0, 400.0), sigma_m=0.1, h_acc_m=0.1)


def frame(index: int, seconds: float | None = None) -> Frame:
    return Frame(index, round((index / 6 if seconds is None else seconds) * 1e9), PICTURE)


def score(tile: Tile, logit: float | None, at: tuple[float, float] | None = None) -> TileScore:
    """A tile's score; `at` is the place in the tile (0 to 1) that the model points at."""
    if logit is None:
        return TileScore(tile, Verdict.UNKNOWN, reason="blur")
    cells = None
    if at is not None:
        cells = np.full((14, 14), -1.0, np.float32)
        cells[int(at[1] * 14), int(at[0] * 14)] = 30.0
    verdict = Verdict.CRACK if logit > 0 else Verdict.CLEAR
    return TileScore(tile, verdict, logit, 1 / (1 + math.exp(-logit)), cells=cells)


def scores_of(crack_px: tuple[float, float] | None, logit: float = 3.0, clear: float = -3.0) -> list[TileScore]:
    """Every tile that holds the pixel is positive and points at it; the others are clear."""
    result = []
    for tile in TILES:
        at = None
        if crack_px is not None:
            u, v = (crack_px[0] - tile.x_px) / TILE, (crack_px[1] - tile.y_px) / TILE
            at = (u, v) if 0 <= u < 1 and 0 <= v < 1 else None
        result.append(score(tile, clear if at is None else logit, at))
    return result


def pixel_of(along: float, height: float, at: Pose) -> tuple[float, float]:
    """Where a place of WALL appears for a level camera 2 m in front of it."""
    return 640 + (along - at.east_m) * 1000, 360 - (height + at.down_m) * 1000
