from __future__ import annotations

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymavlink import mavutil
from pymavlink.rotmat import Matrix3, Vector3

from drone_agent.simulation.renderer import (
    Board,
    Matrix,
    Pinhole,
    Renderer,
    footprint,
    pixel_from_face,
    project,
    riverbank,
)
from drone_agent.values import Image, Pose

CAMERA = Pinhole(width=320, height=240, fx=800.0, fy=800.0, cx=159.5, cy=119.5)
WALL_01 = Path(__file__).parents[3] / "shared" / "flight" / "wall-01"


@functools.cache
def blobs() -> Image:
    noise = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((1000, 2000, 3)), (0, 0), 4.0)
    return np.asarray(np.clip(128.0 + 800.0 * noise, 0, 255), dtype=np.uint8)


def board(texture: Image | None = None) -> Board:
    texture = blobs() if texture is None else texture
    return Board(texture, mm_px=1.0, north_m=2.0, east_m=-1.0, height_m=1.0)


def pose(**changes: float) -> Pose:
    level = {"north_m": 0.0, "east_m": 0.0, "down_m": -1.5, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
    return Pose(t_mono_ns=0, **(level | changes))  # type: ignore[arg-type]  # mypy cannot see the keys


def at(face_point: tuple[float, float], **changes: float) -> tuple[float, float]:
    u, v = project(pixel_from_face(CAMERA, pose(**changes), board()), np.array([face_point]))[0]
    return float(u), float(v)


def test_level_and_facing_the_wall_the_axis_meets_the_point_in_front() -> None:
    assert at((1.0, 0.5)) == pytest.approx((CAMERA.cx, CAMERA.cy))


def test_right_is_right_and_up_is_up() -> None:
    # 10 cm at 2 m with f = 800 px are 40 px.
    assert at((1.1, 0.6)) == pytest.approx((CAMERA.cx + 40.0, CAMERA.cy - 40.0))


@pytest.mark.parametrize(
    ("turn", "du", "dv"),
    [({"yaw": 0.05}, -1, 0), ({"pitch": 0.05}, 0, 1), ({"east_m": 0.1}, -1, 0), ({"down_m": -1.6}, 0, 1)],
)
def test_the_picture_moves_against_the_camera(turn: dict[str, float], du: int, dv: int) -> None:
    u, v = at((1.0, 0.5), **turn)
    assert (np.sign(round(u - CAMERA.cx, 6)), np.sign(round(v - CAMERA.cy, 6))) == (du, dv)


def test_roll_to_the_right_turns_the_picture_to_the_left() -> None:
    # A point to the right of the axis rises when the camera leans to the right.
    u, v = at((1.1, 0.5), roll=0.1)
    assert v < CAMERA.cy
    assert u < CAMERA.cx + 40.0


@given(
    st.floats(-0.3, 0.3),
    st.floats(-0.3, 0.3),
    st.floats(-0.3, 0.3),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
    st.floats(0.0, 319.0),
    st.floats(0.0, 239.0),
)
def test_the_homography_agrees_with_a_ray_met_with_the_plane(
    roll: float, pitch: float, yaw: float, north: float, east: float, u: float, v: float
) -> None:
    here = pose(roll=roll, pitch=pitch, yaw=yaw, north_m=north, east_m=east)
    earth_from_body = Matrix3()
    earth_from_body.from_euler(roll, pitch, yaw)
    ray = earth_from_body * Vector3(1.0, (u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy)
    length = (2.0 - north) / ray.x
    met = (east + length * ray.y + 1.0, -(here.down_m + length * ray.z) - 1.0)
    pixel = project(pixel_from_face(CAMERA, here, board()), np.array([met]))[0]
    assert pixel == pytest.approx((u, v), abs=1e-6)


def test_the_footprint_is_the_picture_on_the_wall() -> None:
    # 320 px x 240 px at 2.5 mm a pixel, about the point in front of the camera.
    quad = footprint(CAMERA, pose(), board())
    assert quad == pytest.approx(np.array([[0.6, 0.8], [1.4, 0.8], [1.4, 0.2], [0.6, 0.2]]))


def test_a_still_picture_without_noise_is_the_texture_seen_from_there() -> None:
    wall = board()
    renderer = Renderer(CAMERA, wall, riverbank(0, 14.0), range_m=2.0)
    picture = renderer.picture([pose(yaw=0.05, roll=0.1)], gain=1.0, noise=0.0, rng=np.random.default_rng(0))
    to_pixel = pixel_from_face(CAMERA, pose(yaw=0.05, roll=0.1), wall) @ wall.face_from_texture()
    back = cv2.warpPerspective(picture, np.linalg.inv(to_pixel), (2000, 1000), flags=cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(np.full((240, 320), 255, np.uint8), np.linalg.inv(to_pixel), (2000, 1000)) == 255
    blurred = cv2.GaussianBlur(wall.texture, (0, 0), 1.25)
    assert np.corrcoef(back[seen][:, 1], blurred[seen][:, 1])[0, 1] > 0.95


def test_beside_the_pier_one_sees_the_background() -> None:
    white = board(np.full((1000, 2000, 3), 255, np.uint8))
    renderer = Renderer(CAMERA, white, riverbank(0, 14.0), range_m=2.0)
    picture = renderer.picture([pose(east_m=1.0)], gain=1.0, noise=0.0, rng=np.random.default_rng(0))
    assert picture[:, :150].min() > 150
    assert picture[200:, 170:].mean() < 120
    assert (picture[:, 170:].std() > 0) & (picture.shape == (240, 320, 3))


def test_motion_during_the_exposure_smears_along_the_motion_only() -> None:
    renderer = Renderer(CAMERA, board(), riverbank(0, 14.0), range_m=2.0)
    rng = np.random.default_rng(0)
    sharp = renderer.picture([pose()], gain=1.0, noise=0.0, rng=rng).astype(np.float64)
    smeared = renderer.picture([pose(east_m=0.01 * k) for k in (-1, 0, 1)], gain=1.0, noise=0.0, rng=rng)

    def edges(image: npt.NDArray[np.float64], axis: int) -> float:
        return float(np.abs(np.diff(image, axis=axis)).mean())

    across, down = (edges(smeared.astype(np.float64), axis) / edges(sharp, axis) for axis in (1, 0))
    assert across < 0.7 * down


def test_gain_brightens_and_noise_has_the_spread_asked_for() -> None:
    grey = board(np.full((1000, 2000, 3), 128, np.uint8))
    renderer = Renderer(CAMERA, grey, riverbank(0, 14.0), range_m=2.0)
    rng = np.random.default_rng(0)
    plain = renderer.picture([pose()], gain=1.0, noise=0.0, rng=rng).astype(np.float64)
    bright = renderer.picture([pose()], gain=1.2, noise=0.0, rng=rng).astype(np.float64)
    noisy = renderer.picture([pose()], gain=1.0, noise=3.0, rng=rng).astype(np.float64)
    assert bright.mean() / plain.mean() == pytest.approx(1.2, rel=0.02)
    assert plain[0, 0, 1] < 0.97 * plain[120, 160, 1], "the corners are darker"
    assert (noisy - plain)[..., 1].std() == pytest.approx(3.0, rel=0.15)


@pytest.mark.shared
@pytest.mark.skipif(not WALL_01.is_dir(), reason="the recorded flight ../shared/flight/wall-01 is absent")
def test_conventions_are_those_of_the_recorded_flight() -> None:
    """Open joints and cracks of the truth, put through the recorded pose, must fall on dark pixels of the video."""
    facts = json.loads((WALL_01 / "camera.json").read_text())
    truth = json.loads((WALL_01 / "truth.json").read_text())
    mask = cv2.imread(str(WALL_01 / "truth.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    camera = Pinhole(*(facts[key] for key in ("width", "height", "fx", "fy", "cx", "cy")))
    wall = Board(
        np.asarray(mask, dtype=np.uint8),
        truth["gsd_mm_px"],
        truth["wall_plane_north_m"],
        0.0,
        truth["wall_height_m"][0],
    )
    log = mavutil.mavlink_connection(str(WALL_01 / "telemetry.tlog"))
    angles, places = [], []
    while (m := log.recv_match(type=["ATTITUDE", "LOCAL_POSITION_NED"])) is not None:
        if m.get_type() == "ATTITUDE":
            angles.append((m.time_boot_ms / 1e3, m.roll, m.pitch, m.yaw))
        else:
            places.append((m.time_boot_ms / 1e3, m.x, m.y, m.z))
    angle, place = np.array(angles), np.array(places)
    frames = np.loadtxt(WALL_01 / "frames.csv", delimiter=",", skiprows=1)
    video = cv2.VideoCapture(str(WALL_01 / "video.mp4"), cv2.CAP_FFMPEG)
    for index in range(60, 560, 120):  # later it flies home, away from the wall
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        ok, picture = video.read()
        assert ok
        t = frames[index, 1]
        north, east, down = (float(np.interp(t, place[:, 0], place[:, k])) for k in (1, 2, 3))
        roll, pitch, yaw = (float(np.interp(t, angle[:, 0], angle[:, k])) for k in (1, 2, 3))
        here = Pose(0, north, east, down, roll, pitch, yaw)
        to_pixel = pixel_from_face(camera, here, wall) @ wall.face_from_texture()
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        darker = cv2.GaussianBlur(grey, (0, 0), 12.0) - grey

        def found(du: float, dv: float, darker: npt.NDArray[np.float32] = darker, m: Matrix = to_pixel) -> float:
            shifted = np.array([[1.0, 0.0, du], [0.0, 1.0, dv], [0.0, 0.0, 1.0]]) @ m
            marked = cv2.warpPerspective((mask > 0).astype(np.float32), shifted, (1280, 720)) > 0.5
            assert marked.sum() > 5000
            return float(darker[marked].mean())

        here_found = found(0.0, 0.0)
        assert here_found > 8.0
        assert here_found > 1.3 * max(found(du, dv) for du, dv in ((-3, 0), (3, 0), (-3, 3), (3, -3)))
