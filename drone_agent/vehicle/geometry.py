"""Which place on the wall does a pixel show? Rays from the camera to a vertical plane, and back.

Frames: camera (x right, y down, z along the optical axis), body (forward, right, down), NED, and face: `along`
runs to the right for a viewer who looks at the wall, `height` up, `depth` from the viewer into the wall.
Pinhole model with the distortion of Brown and Conrady, as in OpenCV's `calib3d`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pymap3d

from drone_agent.errors import InputError
from drone_agent.inspection.projection import FaceInfo, FacePoints, NoView
from drone_agent.values import GeoPoint, NoPose, Pose, VehicleState
from drone_agent.vehicle.settings import CameraMountSettings, SurfaceSettings, VehicleSettings

Floats = npt.NDArray[np.float64]

# Columns: the camera's axes in body axes, for a camera that looks forward (camera z = body x, camera x = body y).
_FORWARD = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

# A forward range finder is believed only while it points at the wall rather than along it.
_MIN_RANGE_COSINE = 0.5


def rotation(roll: float, pitch: float, yaw: float) -> Floats:
    """The 3x3 matrix that turns body vectors into NED (ZYX, as in MAVLink's ATTITUDE; rad)."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cp * cy, sr * sp * cy - cr * sy, cr * sp * cy + sr * sy],
            [cp * sy, sr * sp * sy + cr * cy, cr * sp * sy - sr * cy],
            [-sp, sr * cp, cr * cp],
        ]
    )


def mount_rotation(roll: float, pitch: float, yaw: float) -> Floats:
    """The 3x3 matrix that turns camera vectors into body vectors; all zero looks forward (rad)."""
    matrix: Floats = rotation(roll, pitch, yaw) @ _FORWARD
    return matrix


@dataclass(frozen=True, slots=True, eq=False)
class CameraModel:
    """Optics, and how the camera sits on the vehicle.

    `fx`, `fy`, `cx`, `cy` in pixels of a `width` x `height` frame; `distortion` are OpenCV's coefficients (k1, k2, p1,
    p2, k3 ...), empty for none. `mount` turns camera vectors into body vectors, `offset_m` is the camera's position
    in body axes. `source` says where the numbers come from. Not `calibrated`: only the horizontal field of view is
    known, and a frame of any shape is taken as it comes.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...]
    mount: Floats
    offset_m: tuple[float, float, float]
    source: str
    calibrated: bool = True

    @classmethod
    def from_settings(cls, mount: CameraMountSettings, width: int, height: int) -> CameraModel:
        """A pinhole with the configured focal length or field of view, for frames of `width` x `height` pixels."""
        focal = mount.focal_px or width / 2 / math.tan(math.radians(mount.hfov_deg) / 2)
        how = "focal_px" if mount.focal_px else f"hfov_deg {mount.hfov_deg:g}"
        source = f"configured {how}"
        return cls(focal, focal, width / 2, height / 2, width, height, (), *_mounted(mount), source, calibrated=False)

    @classmethod
    def from_json(cls, path: Path, mount: CameraMountSettings) -> CameraModel:
        """Reads a calibration: `width`, `height`, `fx`, `fy`, `cx`, `cy`, optional `distortion`, `mount`.

        `mount` is a text that begins with "forward", or an object with `roll_deg`, `pitch_deg`, `yaw_deg`, `offset_m`;
        without it the configured mount holds.

        Raises:
            InputError: the file cannot be read, or a value is missing or not allowed.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not a JSON file: {error}") from error
        if not isinstance(data, dict):
            raise InputError(
                f"{path}: found {type(data).__name__}, allowed is an object with width, height, fx, fy, cx, cy"
            )
        size = {key: _field(path, data, key, low=16, high=100_000) for key in ("width", "height")}
        focal = {key: _field(path, data, key, low=1, high=1_000_000) for key in ("fx", "fy")}
        centre = {key: _field(path, data, key, low=-100_000, high=200_000) for key in ("cx", "cy")}
        distortion = data.get("distortion") or []
        if not isinstance(distortion, list) or len(distortion) not in {0, 4, 5, 8, 12, 14}:
            raise InputError(f"{path}: distortion: allowed is a list of 4, 5, 8, 12 or 14 numbers (OpenCV's order)")
        coefficients = tuple(_number(path, f"distortion[{i}]", value) for i, value in enumerate(distortion))
        rotation_, offset = _mount_of(path, data.get("mount"), mount)
        return cls(
            fx=focal["fx"],
            fy=focal["fy"],
            cx=centre["cx"],
            cy=centre["cy"],
            width=round(size["width"]),
            height=round(size["height"]),
            distortion=coefficients if any(coefficients) else (),
            mount=rotation_,
            offset_m=offset,
            source=str(path.name),
        )

    def scaled_to(self, width: int, height: int) -> CameraModel:
        """The same camera for frames of another size with the same shape.

        Raises:
            InputError: the sides are not scaled by one factor, so the frames were cropped or come from another camera.
        """
        if (width, height) == (self.width, self.height):
            return self
        factor = width / self.width
        if self.calibrated and abs(height - self.height * factor) > 1.0:
            raise InputError(
                f"{self.source}: the calibration is for {self.width}x{self.height} pixels, the frames have "
                f"{width}x{height}: allowed is the same size or one factor for both sides"
            )
        # Pixel centres lie at whole numbers, so the picture's rim is at -0.5.
        cx, cy = (self.cx + 0.5) * factor - 0.5, (self.cy + 0.5) * factor - 0.5
        if not self.calibrated:
            cy = height / 2
        return replace(self, fx=self.fx * factor, fy=self.fy * factor, cx=cx, cy=cy, width=width, height=height)

    def rays(self, points_px: Floats) -> Floats:
        """Unit vectors in the camera's axes, (N, 3), for pixels (N, 2)."""
        if self.distortion:
            flat = cv2.undistortPoints(points_px.reshape(-1, 1, 2), self._matrix(), np.array(self.distortion))
            xy = flat.reshape(-1, 2).astype(np.float64)
        else:
            xy = (points_px - (self.cx, self.cy)) / (self.fx, self.fy)
        rays = np.column_stack([xy, np.ones(len(xy))])
        unit: Floats = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def pixels(self, points: Floats) -> Floats:
        """Pixels (N, 2) of points (N, 3) in the camera's axes; NaN for points that are not in front of it."""
        in_front = points[:, 2] > 1e-6
        safe = np.where(in_front[:, None], points, (0.0, 0.0, 1.0))
        if self.distortion:
            zero = np.zeros(3)
            seen, _ = cv2.projectPoints(safe, zero, zero, self._matrix(), np.array(self.distortion))
            pixels = seen.reshape(-1, 2).astype(np.float64)
        else:
            pixels = safe[:, :2] / safe[:, 2:] * (self.fx, self.fy) + (self.cx, self.cy)
        # Far outside the picture the distortion polynomial folds back; a place there must not appear in the picture.
        slope = np.abs(safe[:, :2] / safe[:, 2:])
        reach = np.array([max(self.cx, self.width - self.cx) / self.fx, max(self.cy, self.height - self.cy) / self.fy])
        pixels[~in_front | (slope > 1.6 * reach).any(axis=1)] = np.nan
        return pixels

    def _matrix(self) -> Floats:
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


def _mounted(mount: CameraMountSettings) -> tuple[Floats, tuple[float, float, float]]:
    angles = (math.radians(value) for value in (mount.roll_deg, mount.pitch_deg, mount.yaw_deg))
    return mount_rotation(*angles), mount.offset_m


def _mount_of(path: Path, data: object, default: CameraMountSettings) -> tuple[Floats, tuple[float, float, float]]:
    if data is None:
        return _mounted(default)
    if isinstance(data, str) and data.strip().lower().startswith("forward"):
        return mount_rotation(0.0, 0.0, 0.0), default.offset_m
    if not isinstance(data, dict):
        raise InputError(
            f'{path}: mount: found {data!r}, allowed is "forward" or an object with roll_deg, pitch_deg, '
            "yaw_deg, offset_m"
        )
    known = {"roll_deg", "pitch_deg", "yaw_deg", "offset_m"}
    if unknown := sorted(set(data) - known):
        raise InputError(f"{path}: mount: unknown key {unknown[0]!r}, allowed are {', '.join(sorted(known))}")
    angles = [
        math.radians(_number(path, f"mount.{key}", data.get(key, 0.0))) for key in ("roll_deg", "pitch_deg", "yaw_deg")
    ]
    offset = data.get("offset_m", list(default.offset_m))
    if not isinstance(offset, list) or len(offset) != 3:
        raise InputError(f"{path}: mount.offset_m: allowed is a list of three numbers: forward, right, down (m)")
    forward, right, down = (_number(path, "mount.offset_m", value) for value in offset)
    return mount_rotation(*angles), (forward, right, down)


def _field(path: Path, data: dict[str, Any], key: str, *, low: float, high: float) -> float:
    if key not in data:
        raise InputError(f"{path}: {key} is missing; needed are width, height, fx, fy, cx, cy")
    value = _number(path, key, data[key])
    if not low <= value <= high:
        raise InputError(f"{path}: {key}: found {value:g}, allowed is {low:g} to {high:g} (pixels)")
    return value


def _number(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key}: found {value!r}, allowed is a number")
    return float(value)


@dataclass(frozen=True, slots=True)
class Face:
    """A vertical plane with its own coordinates.

    `origin_ned_m` is the place (along 0, height 0); `along_bearing` (rad) the compass bearing in which along grows, to
    the right for a viewer who looks at the wall. `length_m` and `height_m` end the face; None: without end.
    """

    name: str
    origin_ned_m: tuple[float, float, float]
    along_bearing: float
    length_m: float | None = None
    height_m: float | None = None
    how: str = "configured"
    detail: str = ""

    def axes(self) -> Floats:
        """3x3, rows: the directions of along, height and depth (into the wall) in NED."""
        cos, sin = math.cos(self.along_bearing), math.sin(self.along_bearing)
        return np.array([[cos, sin, 0.0], [0.0, 0.0, -1.0], [sin, -cos, 0.0]])

    def from_ned(self, points: Floats) -> Floats:
        """NED (N, 3) to (along, height, depth)."""
        result: Floats = (points - np.array(self.origin_ned_m)) @ self.axes().T
        return result

    def to_ned(self, along: float, height: float) -> tuple[float, float, float]:
        """NED of a place."""
        north, east, down = np.array(self.origin_ned_m) + np.array([along, height, 0.0]) @ self.axes()
        return float(north), float(east), float(down)

    def velocity(self, pose: Pose) -> tuple[float, float]:
        """(along, up) velocity over the face (m/s)."""
        along, up, _ = self.axes() @ (pose.vel_north_m_s, pose.vel_east_m_s, pose.vel_down_m_s)
        return float(along), float(up)


def with_face_velocity(vehicle: VehicleState, pose: Pose, face: Face) -> VehicleState:
    """`vehicle` with its velocity along and up the face."""
    along, up = face.velocity(pose)
    return replace(vehicle, vel_along_m_s=along, vel_up_m_s=up)


def configured_faces(surface: SurfaceSettings) -> tuple[Face, ...]:
    """The faces of the configuration."""
    return tuple(
        Face(face.name, face.origin_ned_m, face.along_bearing, face.length_m, face.height_m) for face in surface.faces
    )


def fit_face(poses: Iterable[Pose], camera: CameraModel, standoff_m: float, name: str = "wall") -> Face:
    """A face for a flight whose wall nobody described.

    The plane is vertical and square to the circular median of the horizontal viewing direction. Its distance is the
    median over the poses of (position along that direction + forward range), with `standoff_m` for a pose without
    range. The origin is the point of the plane nearest to the autopilot's local origin, at its height: along
    counts from there to the right, height from there up; both may be negative.

    Args:
        poses: the flight's poses, or those so far.
        camera: gives the viewing direction.
        standoff_m: distance to assume where no range finder reported.
        name: the face's name.

    Raises:
        InputError: there is no pose at all, or the camera never looks sideways.
    """
    all_poses = list(poses)
    axes = np.array([rotation(p.roll, p.pitch, p.yaw) @ camera.mount[:, 2] for p in all_poses]).reshape(-1, 3)
    level = np.hypot(axes[:, 0], axes[:, 1]) > 0.5
    if not level.any():
        reason = "no pose with a position" if not all_poses else "the camera never looks sideways"
        raise InputError(f"no wall can be fitted: {reason}; describe the wall under surface.faces")
    bearing = _circular_median(np.arctan2(axes[level, 1], axes[level, 0]))
    direction = np.array([math.cos(bearing), math.sin(bearing)])
    depths, measured = [], 0
    for pose, axis, is_level in zip(all_poses, axes, level, strict=True):
        if not is_level:
            continue
        ahead = float(axis[:2] @ direction)
        ranged = pose.range_m is not None and ahead > _MIN_RANGE_COSINE
        measured += ranged
        reach = pose.range_m * ahead if ranged and pose.range_m is not None else standoff_m
        depths.append(pose.north_m * direction[0] + pose.east_m * direction[1] + reach)
    depth = float(np.median(depths))
    along_bearing = (bearing + math.pi / 2) % (2 * math.pi)
    how = f"range finder in {measured} of {len(depths)} poses" if measured else f"stand-off of {standoff_m:g} m assumed"
    towards = round(math.degrees(bearing), 1) % 360
    detail = f"seen towards {towards:g} degrees, {how}; counted from the point nearest to the origin"
    origin = (depth * math.cos(bearing), depth * math.sin(bearing), 0.0)
    return Face(name, origin, along_bearing, how="fitted", detail=detail)


def _circular_median(angles: Floats) -> float:
    """The median about the circular mean, which no minority of turns can drag away."""
    mean = math.atan2(float(np.sin(angles).mean()), float(np.cos(angles).mean()))
    off = (angles - mean + np.pi) % (2 * np.pi) - np.pi
    return mean + float(np.median(off))


@dataclass(frozen=True, slots=True, eq=False)
class WallView:
    """One frame in front of one face; implements `inspection.projection.View`.

    `turn` (3x3) turns camera vectors into (along, height, depth); `position` is the camera in these axes, depth
    negative in front of the wall.
    """

    face: FaceInfo
    camera: CameraModel
    wall: Face
    pose: Pose
    turn: Floats
    position: Floats
    limits: ProjectionLimits
    range_sigma_m: float
    footprint: Floats
    bounds: tuple[float, float, float, float]
    range_m: float
    gsd_mm_px: float

    @property
    def viewpoint(self) -> tuple[float, float, float]:
        """(along, height, distance from the face)."""
        return float(self.position[0]), float(self.position[1]), float(-self.position[2])

    def to_face(self, points_px: Floats) -> FacePoints:
        """Meets the rays of pixels (N, 2) with the wall."""
        return ray_to_face(self.camera.rays(points_px) @ self.turn.T, self.position, self.limits, self._sigmas())

    def _sigmas(self) -> tuple[float, float, float]:
        return self.pose.sigma_m, self.limits.attitude_sigma, self.range_sigma_m

    def to_image(self, places: Floats) -> Floats:
        """Pixels of places (N, 2)."""
        points = np.column_stack([places, np.zeros(len(places))]) - self.position
        return self.camera.pixels(points @ self.turn)

    def geo(self, along: float, height: float) -> GeoPoint | None:
        """WGS 84 of a place: the vehicle's own, plus the way from it to the place."""
        return geo_of(self.wall.to_ned(along, height), self.pose)


@dataclass(frozen=True, slots=True)
class ProjectionLimits:
    """What counts as seen, and how well angles are known (rad, m)."""

    max_incidence: float
    max_range_m: float
    attitude_sigma: float


def ray_to_face(
    rays: Floats, position: Floats, limits: ProjectionLimits, sigmas: tuple[float, float, float]
) -> FacePoints:
    """Meets N rays with the plane depth = 0.

    Args:
        rays: (N, 3) unit vectors in face axes (along, height, depth).
        position: (3,) the camera in face axes.
        limits: a ray beyond them gives NaN.
        sigmas: standard deviations of position (m), attitude (rad) and distance to the wall (m).

    Returns:
        Places and, for each, sigma = sqrt(position^2 + (range * attitude / cos(incidence))^2 + (distance error *
        tan(incidence))^2): first-order propagation, in the plane of incidence, where it is largest.
    """
    cosine = rays[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = -position[2] / cosine
    hit = (cosine > math.cos(limits.max_incidence)) & (reach > 0) & (reach <= limits.max_range_m)
    reach = np.where(hit, reach, np.nan)
    safe = np.where(hit, np.clip(cosine, 1e-9, 1.0), np.nan)
    place = position[:2] + rays[:, :2] * reach[:, None]
    of_position, of_attitude, of_distance = sigmas
    tangent = np.sqrt(1 - safe**2) / safe
    sigma = np.sqrt(of_position**2 + (reach * of_attitude / safe) ** 2 + (of_distance * tangent) ** 2)
    return FacePoints(place, reach, np.arccos(safe), sigma)


def geo_of(ned: tuple[float, float, float], pose: Pose) -> GeoPoint | None:
    """WGS 84 of a place in NED from the vehicle's own position in both; None if the vehicle has none.

    Heights above sea level are used as if above the ellipsoid: over a few metres that makes no difference.
    """
    if pose.geo is None:
        return None
    lat, lon, alt = pymap3d.ned2geodetic(
        ned[0] - pose.north_m,
        ned[1] - pose.east_m,
        ned[2] - pose.down_m,
        pose.geo.lat_deg,
        pose.geo.lon_deg,
        pose.geo.alt_amsl_m,
    )
    return GeoPoint(float(lat), float(lon), float(alt))


class WallProjector:
    """A camera in front of the faces of a structure; implements `inspection.projection.Projector`."""

    def __init__(
        self, camera: CameraModel, walls: Sequence[Face], surface: SurfaceSettings, vehicle: VehicleSettings
    ) -> None:
        """Keeps what does not change in flight.

        Args:
            camera: for frames of any size with the same shape.
            walls: from `configured_faces` or `fit_face`; at least one.
            surface: size of a cell, limits.
            vehicle: standard deviations.
        """
        if not walls:
            raise ValueError("a projector needs a face")
        self._camera = camera
        self._walls = tuple(walls)
        self._infos = tuple(_info(wall, surface.cell_m) for wall in walls)
        self._surface = surface
        self._vehicle = vehicle
        self._limits = ProjectionLimits(
            math.radians(surface.max_incidence_deg), surface.max_range_m, math.radians(vehicle.attitude_sigma_deg)
        )

    @property
    def camera(self) -> CameraModel:
        """The camera, for frames of the size seen last."""
        return self._camera

    @property
    def faces(self) -> tuple[FaceInfo, ...]:
        """The faces as the log describes them."""
        return self._infos

    def wall(self, name: str) -> Face:
        """The face of a name."""
        return next(wall for wall in self._walls if wall.name == name)

    def view(self, pose: Pose | NoPose | None, width_px: int, height_px: int) -> WallView | NoView:
        """The nearest face that the frame shows.

        Raises:
            InputError: the frame's shape is not the calibration's.
        """
        if pose is None:
            return NoView("no_telemetry")
        if isinstance(pose, NoPose):
            return NoView(pose.reason, pose.detail)
        self._camera = self._camera.scaled_to(width_px, height_px)
        body = rotation(pose.roll, pose.pitch, pose.yaw)
        views = []
        for wall, info in zip(self._walls, self._infos, strict=True):
            view = self._view_of(wall, info, pose, body)
            if view is not None:
                views.append(view)
        if not views:
            return NoView("not_facing", "no face of the structure lies in front of the camera within the limits")
        return min(views, key=lambda view: view.range_m)

    def _view_of(self, wall: Face, info: FaceInfo, pose: Pose, body: Floats) -> WallView | None:
        axes = wall.axes()
        camera = self._camera
        turn = axes @ body @ camera.mount
        vehicle = axes @ (np.array([pose.north_m, pose.east_m, pose.down_m]) - wall.origin_ned_m)
        lever = axes @ body @ camera.offset_m
        range_sigma = self._surface.standoff_sigma_m if wall.how == "fitted" else pose.sigma_m
        ahead = float((axes @ body[:, 0])[2])
        if pose.range_m is not None and ahead > _MIN_RANGE_COSINE:
            # What the range finder measures is nearer the truth than a plane in a drifting frame.
            vehicle[2] = -pose.range_m * ahead
            range_sigma = self._vehicle.range_sigma_m
        position = vehicle + lever
        if position[2] >= -0.05:
            return None
        probes = camera.rays(_probes(camera)) @ turn.T
        points = ray_to_face(probes, position, self._limits, (0.0, 0.0, 0.0))
        place = points.place
        seen = place[np.isfinite(place[:, 0])]
        if not len(seen):
            return None
        low, high = seen.min(axis=0), seen.max(axis=0)
        bounds = _clip(low, high, wall)
        if bounds is None:
            return None
        nearest = (
            float(points.range_m[_CENTRE]) if np.isfinite(points.range_m[_CENTRE]) else float(np.nanmin(points.range_m))
        )
        # Along the optical axis a pixel covers range / f square to the line of sight.
        gsd = 1000 * nearest * 2 / (camera.fx + camera.fy)
        return WallView(
            info, camera, wall, pose, turn, position, self._limits, range_sigma, place[:4], bounds, nearest, gsd
        )


_CENTRE = 4


def _probes(camera: CameraModel) -> Floats:
    """Corners (clockwise from the top left), centre, and points along the rim and inside, in pixels."""
    w, h = float(camera.width), float(camera.height)
    corners = [[0.0, 0.0], [w, 0.0], [w, h], [0.0, h], [w / 2, h / 2]]
    steps = np.linspace(0.0, 1.0, 5)
    inside = [[w * u, h * v] for u in steps for v in steps]
    return np.array(corners + inside)


def _clip(low: Floats, high: Floats, wall: Face) -> tuple[float, float, float, float] | None:
    bounds = [float(low[0]), float(low[1]), float(high[0]), float(high[1])]
    for axis, end in enumerate((wall.length_m, wall.height_m)):
        if end is not None:
            bounds[axis] = max(bounds[axis], 0.0)
            bounds[axis + 2] = min(bounds[axis + 2], end)
            if bounds[axis] >= bounds[axis + 2]:
                return None
    return bounds[0], bounds[1], bounds[2], bounds[3]


def _info(wall: Face, cell_m: float) -> FaceInfo:
    return FaceInfo(
        wall.name,
        "m",
        cell_m,
        wall.how,
        wall.origin_ned_m,
        wall.along_bearing,
        wall.length_m,
        wall.height_m,
        wall.detail,
    )
