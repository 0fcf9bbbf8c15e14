"""What does the camera see of the pier from a given pose? Textured planes, a pinhole, a real camera's faults.

Camera axes: x right, y down, z along the optical axis; mounted looking forward (camera z = body x, camera x = body y).
Pixel centres are at whole numbers, as OpenCV has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.values import Image, Pose

Matrix = npt.NDArray[np.float64]

# Rows are the camera's axes in body coordinates: x = right, y = down, z = forward.
_CAMERA_FROM_BODY: Matrix = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True, slots=True)
class Pinhole:
    """Intrinsics without distortion: image size, focal lengths and principal point, all in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def matrix(self) -> Matrix:
        """The 3 x 3 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """A textured rectangle that stands upright and faces south, as the pier does.

    `north_m` is its plane, `east_m` its left edge, `height_m` its lower edge above the origin; `texture` is BGR uint8
    with `mm_px` millimetres a pixel, row 0 at the top.
    """

    texture: Image
    mm_px: float
    north_m: float
    east_m: float
    height_m: float

    @property
    def size_m(self) -> tuple[float, float]:
        """(width, height) in metres."""
        rows, cols = self.texture.shape[:2]
        return cols * self.mm_px / 1000.0, rows * self.mm_px / 1000.0

    def ned_from_face(self) -> Matrix:
        """3 x 3: (along, height, 1) on the face to (north, east, down)."""
        return np.array([[0.0, 0.0, self.north_m], [1.0, 0.0, self.east_m], [0.0, -1.0, -self.height_m]])

    def face_from_texture(self) -> Matrix:
        """3 x 3: texture pixel (column, row, 1; centres at whole numbers) to (along, height, 1)."""
        m_px = self.mm_px / 1000.0
        return np.array([[m_px, 0.0, 0.5 * m_px], [0.0, -m_px, self.size_m[1] - 0.5 * m_px], [0.0, 0.0, 1.0]])


def body_from_ned(roll: float, pitch: float, yaw: float) -> Matrix:
    """Rotation (3 x 3) that turns NED vectors into body axes; ZYX Euler angles in rad, MAVLink's ATTITUDE."""
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, sr], [0.0, -sr, cr]])
    about_y = np.array([[cp, 0.0, -sp], [0.0, 1.0, 0.0], [sp, 0.0, cp]])
    about_z = np.array([[cy, sy, 0.0], [-sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(about_x @ about_y @ about_z)


def pixel_from_face(camera: Pinhole, pose: Pose, board: Board) -> Matrix:
    """Homography (3 x 3): (along, height, 1) on the face to a pixel (u, v, 1) of the picture, up to scale."""
    camera_from_ned = _CAMERA_FROM_BODY @ body_from_ned(pose.roll, pose.pitch, pose.yaw)
    offset = board.ned_from_face()
    offset[:, 2] -= (pose.north_m, pose.east_m, pose.down_m)
    return np.asarray(camera.matrix @ camera_from_ned @ offset)


def project(homography: Matrix, points: Matrix) -> Matrix:
    """Applies a 3 x 3 homography to points (n x 2)."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def footprint(camera: Pinhole, pose: Pose, board: Board) -> Matrix:
    """Where the picture's corners lie on the face (4 x 2: along, height; m), clockwise from the top left."""
    right, bottom = camera.width - 0.5, camera.height - 0.5
    corners = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    return project(np.asarray(np.linalg.inv(pixel_from_face(camera, pose, board)), dtype=np.float64), corners)


class Renderer:
    """Takes pictures of `pier` in front of `background`.

    Args:
        camera: intrinsics.
        pier: what is inspected; its texture must be finer than the picture.
        background: what is seen beside it; large enough to fill every picture.
        range_m: usual distance to the pier; sets the blur of lens and pixel that keeps fine grain from aliasing.
    """

    def __init__(self, camera: Pinhole, pier: Board, background: Board, range_m: float) -> None:
        self.camera = camera
        gsd_mm_px = 1000.0 * range_m / camera.fx
        sigma_px = 0.5 * gsd_mm_px / pier.mm_px
        texture = np.asarray(cv2.GaussianBlur(pier.texture, (0, 0), sigma_px), dtype=np.uint8)
        self._pier = Board(texture, pier.mm_px, pier.north_m, pier.east_m, pier.height_m)
        self._background = background
        ys, xs = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float32)
        off_axis2 = np.square((xs - camera.cx) / camera.fx) + np.square((ys - camera.cy) / camera.fy)
        # cos^4 of the field angle is (1 + tan^2)^-2; small lenses vignette a few times more than the law asks.
        vignette = np.power(1.0 + off_axis2, -4.0, dtype=np.float32)
        self._vignette = np.ascontiguousarray(np.repeat(vignette[:, :, None], 3, axis=2))

    def picture(self, poses: Sequence[Pose], gain: float, noise: float, rng: np.random.Generator) -> Image:
        """One exposure.

        Args:
            poses: where the camera was at even steps through the exposure; their mean picture has the motion smear.
            gain: exposure, 1 = as the texture.
            noise: standard deviation of the sensor's noise at mid grey, in grey levels.
            rng: source of the noise.
        """
        size = (self.camera.height, self.camera.width)
        light = np.zeros((*size, 3), dtype=np.float32)
        for pose in poses:
            light += self._view(pose)
        light *= self._vignette
        light *= gain / len(poses)
        # Shot noise grows with the square root of the light; demosaicing makes it much the same in all channels.
        grains = noise * np.sqrt(light[:, :, 1] / 128.0 + 0.05) * rng.standard_normal(size, dtype=np.float32)
        light += grains[:, :, None]
        return np.asarray(np.clip(light + 0.5, 0.0, 255.0), dtype=np.uint8)

    def _view(self, pose: Pose) -> Image:
        camera, pier = self.camera, self._pier
        size = (camera.width, camera.height)
        homography = pixel_from_face(camera, pose, pier)
        seen = footprint(camera, pose, pier)
        to_pixel = homography @ pier.face_from_texture()
        inside = (seen >= 0.0).all() and (seen <= np.array(pier.size_m)).all()
        if inside:
            return np.asarray(cv2.warpPerspective(pier.texture, to_pixel, size, flags=cv2.INTER_LINEAR), dtype=np.uint8)
        behind = pixel_from_face(camera, pose, self._background) @ self._background.face_from_texture()
        view = cv2.warpPerspective(
            self._background.texture, behind, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        cv2.warpPerspective(
            pier.texture, to_pixel, size, dst=view, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
        )
        return np.asarray(view, dtype=np.uint8)


def riverbank(seed: int, north_m: float) -> Board:
    """What is seen beside the pier, out of focus: trees in front of a pale sky, 24 m x 12 m on a plane at `north_m`."""
    rng = np.random.default_rng(seed)
    rows, cols = 240, 480
    bushes = np.asarray(cv2.GaussianBlur(rng.standard_normal((rows, cols)), (0, 0), 5.0)) * 17.0
    skyline = 0.45 * rows + 10.0 * np.asarray(cv2.GaussianBlur(rng.standard_normal((1, cols)), (0, 0), 12.0)) * 6.0
    ground = np.clip((np.arange(rows)[:, None] - skyline) / 8.0, 0.0, 1.0)[:, :, None]
    wood = np.array([48.0, 78.0, 66.0]) + 14.0 * bushes[:, :, None]
    sky = np.array([226.0, 214.0, 203.0])
    texture = np.clip(ground * wood + (1.0 - ground) * sky, 0.0, 255.0).astype(np.uint8)
    return Board(texture, 50.0, north_m, -10.0, -2.0)
