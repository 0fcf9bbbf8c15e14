from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drone_agent.errors import InputError
from drone_agent.inspection.projection import NoView
from drone_agent.values import GeoPoint, NoPose, Pose, VehicleState
from drone_agent.vehicle.geometry import (
    CameraModel,
    Face,
    WallProjector,
    WallView,
    configured_faces,
    fit_face,
    geo_of,
    rotation,
    with_face_velocity,
)
from drone_agent.vehicle.settings import CameraMountSettings, FaceSettings, SurfaceSettings, VehicleSettings
from drone_agent.vehicle.tlog import TlogPoseSource

WALL_01 = Path(__file__).parents[3] / "shared" / "flight" / "wall-01"

# Seen looking north: along runs east.
NORTH_WALL = Face("wall", (2.0, 0.0, -2.0), math.pi / 2)


def camera(**mount: float) -> CameraModel:
    return CameraModel.from_settings(CameraMountSettings(focal_px=2000.0, **mount), 1280, 720)


def pose(
    north: float = 0.0,
    east: float = 0.0,
    down: float = -2.0,
    *,
    roll: float = 0.0,
    pitch: float = 0.0,
    yaw: float = 0.0,
    range_m: float | None = None,
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0),
    geo: GeoPoint | None = None,
) -> Pose:
    return Pose(0, north, east, down, roll, pitch, yaw, *velocity, geo=geo, range_m=range_m, sigma_m=0.1, h_acc_m=0.1)


def view_of(at: Pose, wall: Face = NORTH_WALL, model: CameraModel | None = None, **surface: float) -> WallView:
    projector = WallProjector(model or camera(), [wall], SurfaceSettings(**surface), VehicleSettings())
    view = projector.view(at, 1280, 720)
    assert isinstance(view, WallView)
    return view


def centre_of(view: WallView) -> tuple[float, float]:
    along, height = view.to_face(np.array([[639.5, 359.5]])).place[0]
    return float(along), float(height)


def test_the_middle_of_the_picture_shows_the_place_straight_ahead() -> None:
    view = view_of(pose(east=3.0, down=-2.5))
    assert centre_of(view) == pytest.approx((3.0, 0.5), abs=1e-3)
    assert view.range_m == pytest.approx(2.0, abs=1e-6)
    assert view.gsd_mm_px == pytest.approx(1.0, abs=1e-6)
    assert view.viewpoint == pytest.approx((3.0, 0.5, 2.0))


@pytest.mark.parametrize(
    ("turn", "along", "height"),
    [
        ({"yaw": 0.1}, 2 * math.tan(0.1), 0.0),
        ({"yaw": -0.1}, -2 * math.tan(0.1), 0.0),
        ({"pitch": 0.1}, 0.0, 2 * math.tan(0.1)),
        ({"pitch": -0.1}, 0.0, -2 * math.tan(0.1)),
    ],
)
def test_turning_the_vehicle_moves_the_view_the_same_way(turn: dict[str, float], along: float, height: float) -> None:
    assert centre_of(view_of(pose(**turn))) == pytest.approx((along, height), abs=2e-3)  # type: ignore[arg-type]


def test_rolling_right_turns_the_picture_against_the_wall() -> None:
    # Right side down: what is at the picture's right rim lies lower on the wall.
    places = view_of(pose(roll=0.1)).to_face(np.array([[1280.0, 360.0], [0.0, 360.0]])).place
    assert places[0, 1] < -0.05
    assert places[1, 1] > 0.05


def test_a_pixel_up_is_up_and_a_pixel_right_is_along() -> None:
    view = view_of(pose())
    corner = view.footprint
    assert corner[0] == pytest.approx((-0.64, 0.36), abs=2e-3)
    assert corner[2] == pytest.approx((0.64, -0.36), abs=2e-3)


@pytest.mark.parametrize("bearing_deg", [0, 45, 90, 137, 200, 315])
def test_along_runs_to_the_right_whatever_way_the_wall_faces(bearing_deg: float) -> None:
    bearing = math.radians(bearing_deg)
    looking = bearing - math.pi / 2
    wall = Face("wall", (3 * math.cos(looking), 3 * math.sin(looking), 0.0), bearing)
    view = view_of(pose(down=-1.0, yaw=looking), wall)
    left, right = view.to_face(np.array([[100.0, 360.0], [1180.0, 360.0]])).place
    assert right[0] > left[0]
    assert view.range_m == pytest.approx(3.0, abs=1e-6)
    assert centre_of(view)[1] == pytest.approx(1.0, abs=2e-3)


def test_a_camera_mounted_to_the_right_sees_the_wall_on_the_right() -> None:
    wall = Face("east wall", (0.0, 2.0, 0.0), math.pi)
    view = view_of(pose(north=1.0), wall, camera(yaw_deg=90.0))
    assert centre_of(view) == pytest.approx((-1.0, 2.0), abs=2e-3)


def test_the_cameras_place_on_the_vehicle_counts() -> None:
    mount = CameraMountSettings(focal_px=2000.0, offset_m=(0.3, 0.1, -0.2))
    view = view_of(pose(), model=CameraModel.from_settings(mount, 1280, 720))
    assert view.viewpoint == pytest.approx((0.1, 0.2, 1.7))


small = st.floats(-0.3, 0.3)


@settings(max_examples=60)
@given(small, small, small, st.floats(-3, 3), st.floats(1.0, 6.0), st.booleans())
def test_pixels_go_to_the_wall_and_back(
    roll: float, pitch: float, yaw: float, east: float, away: float, distorted: bool
) -> None:
    model = camera()
    if distorted:
        model = CameraModel(
            2000, 2000, 640, 360, 1280, 720, (-0.12, 0.05, 1e-3, -5e-4, 0.0), model.mount, (0.1, 0.0, 0.05), "test"
        )
    view = view_of(pose(2.0 - away, east, roll=roll, pitch=pitch, yaw=yaw), model=model)
    pixels = np.random.default_rng(1).uniform((0, 0), (1280, 720), (50, 2))
    points = view.to_face(pixels)
    assert np.isfinite(points.place).all()
    assert view.to_image(points.place) == pytest.approx(pixels, abs=0.05)
    low_a, low_h, high_a, high_h = view.bounds
    slack = 0.02 * away
    assert (points.place >= (low_a - slack, low_h - slack)).all()
    assert (points.place <= (high_a + slack, high_h + slack)).all()


def test_the_projection_agrees_with_opencvs() -> None:
    at = pose(0.2, 1.0, -2.2, roll=0.1, pitch=-0.05, yaw=0.15)
    model = camera()
    view = view_of(at, model=model)
    place = (1.3, 0.1)
    in_camera = (rotation(at.roll, at.pitch, at.yaw) @ model.mount).T
    ned = np.array(NORTH_WALL.to_ned(*place)) - (at.north_m, at.east_m, at.down_m)
    matrix = np.array([[2000.0, 0, 640], [0, 2000, 360], [0, 0, 1]])
    expected, _ = cv2.projectPoints((in_camera @ ned).reshape(1, 3), np.zeros(3), np.zeros(3), matrix, np.zeros(5))
    assert view.to_image(np.array([place]))[0] == pytest.approx(expected.ravel(), abs=1e-3)


def test_a_measured_range_overrides_the_distance_of_a_drifting_position() -> None:
    view = view_of(pose(north=-1.0, range_m=2.0))
    assert view.range_m == pytest.approx(2.0)
    assert view.gsd_mm_px == pytest.approx(1.0)


def test_a_range_taken_across_the_wall_is_the_way_along_the_ray() -> None:
    view = view_of(pose(yaw=0.4, range_m=3.0))
    assert view.viewpoint[2] == pytest.approx(3.0 * math.cos(0.4))


@pytest.mark.parametrize("yaw", [math.pi, math.pi / 2])
def test_a_camera_that_looks_away_sees_no_face(yaw: float) -> None:
    projector = WallProjector(camera(), [NORTH_WALL], SurfaceSettings(), VehicleSettings())
    answer = projector.view(pose(yaw=yaw), 1280, 720)
    assert isinstance(answer, NoView)
    assert answer.reason == "not_facing"


def test_behind_the_wall_nothing_is_seen_of_it() -> None:
    projector = WallProjector(camera(), [NORTH_WALL], SurfaceSettings(), VehicleSettings())
    assert isinstance(projector.view(pose(north=2.5), 1280, 720), NoView)


def test_beyond_the_faces_ends_nothing_is_seen() -> None:
    wall = Face("wall", (2.0, 0.0, -2.0), math.pi / 2, 10.0, 1.5)
    projector = WallProjector(camera(), [wall], SurfaceSettings(), VehicleSettings())
    assert isinstance(projector.view(pose(east=5.0, down=-12.0), 1280, 720), NoView)
    seen = projector.view(pose(east=0.0, down=-2.0), 1280, 720)
    assert isinstance(seen, WallView)
    assert seen.bounds[:2] == (0.0, 0.0)


def test_without_a_pose_the_reason_is_passed_on() -> None:
    projector = WallProjector(camera(), [NORTH_WALL], SurfaceSettings(), VehicleSettings())
    assert projector.view(NoPose(0, "gap", "0.5 s"), 1280, 720) == NoView("gap", "0.5 s")
    assert projector.view(None, 1280, 720) == NoView("no_telemetry")


def test_of_two_faces_the_nearer_one_is_seen() -> None:
    far = Face("far", (6.0, 0.0, 0.0), math.pi / 2)
    projector = WallProjector(camera(), [far, NORTH_WALL], SurfaceSettings(), VehicleSettings())
    view = projector.view(pose(), 1280, 720)
    assert isinstance(view, WallView)
    assert view.face.name == "wall"


def test_oblique_and_far_pixels_have_no_place() -> None:
    view = view_of(pose(yaw=math.radians(50)), max_incidence_deg=60.0)
    places = view.to_face(np.array([[20.0, 360.0], [1270.0, 360.0]])).place
    assert np.isfinite(places[0]).all()
    assert np.isnan(places[1]).all()


def test_a_place_is_less_certain_the_farther_and_the_more_oblique() -> None:
    def sigma(at: Pose) -> float:
        return float(view_of(at).to_face(np.array([[639.5, 359.5]])).sigma_m[0])

    straight, far, oblique = sigma(pose()), sigma(pose(north=-4.0)), sigma(pose(yaw=0.7))
    assert straight == pytest.approx(math.hypot(0.1, 2.0 * math.radians(0.5)), rel=1e-3)
    assert far > straight
    assert oblique > straight


def test_sigma_covers_what_disturbed_poses_do() -> None:
    rng = np.random.default_rng(4)
    told = float(view_of(pose(yaw=0.5)).to_face(np.array([[639.5, 359.5]])).sigma_m[0])
    off = []
    for _ in range(400):
        turn = rng.normal(0, math.radians(0.5), 2)
        moved = rng.normal(0, 0.1, 2)
        # Position errors into the wall act through the distance, those along it directly.
        off.append(centre_of(view_of(pose(moved[0], moved[1], pitch=turn[0], yaw=0.5 + turn[1])))[0])
    assert np.std(off) == pytest.approx(told, rel=0.2)


def test_a_place_gets_its_own_wgs84() -> None:
    at = pose(geo=GeoPoint(47.0, 8.0, 400.0))
    point = geo_of((100.0, 0.0, -12.0), at)
    assert point is not None
    assert point.lat_deg == pytest.approx(47.0 + 100.0 / 111_170, abs=2e-6)
    assert point.lon_deg == pytest.approx(8.0, abs=1e-9)
    assert point.alt_amsl_m == pytest.approx(410.0, abs=0.01)
    assert geo_of((0.0, 0.0, 0.0), pose()) is None


def test_velocity_is_told_along_and_up_the_face() -> None:
    vehicle = with_face_velocity(VehicleState(0), pose(velocity=(0.3, 0.4, -0.1)), NORTH_WALL)
    assert vehicle.vel_along_m_s == pytest.approx(0.4)
    assert vehicle.vel_up_m_s == pytest.approx(0.1)


def test_a_fitted_face_stands_square_to_the_view_at_the_standoff() -> None:
    face = fit_face([pose(0.02 * (i % 3), 0.1 * i, yaw=math.radians(1 - i % 3)) for i in range(90)], camera(), 2.0)
    assert face.how == "fitted"
    assert math.degrees(face.along_bearing) == pytest.approx(90.0, abs=0.6)
    assert face.origin_ned_m[0] == pytest.approx(2.02, abs=0.05)
    assert face.origin_ned_m[2] == 0.0
    assert centre_of(view_of(pose(east=4.0, down=-2.5), face)) == pytest.approx((4.0, 2.5), abs=0.1)


def test_a_fitted_face_stands_at_the_measured_range() -> None:
    face = fit_face([pose(0.0, 0.1 * i, range_m=3.5) for i in range(20)], camera(), 2.0)
    assert face.origin_ned_m[0] == pytest.approx(3.5)
    assert "range finder in 20 of 20" in face.detail


def test_a_short_look_elsewhere_does_not_turn_the_fitted_face() -> None:
    poses = [pose(0.0, 0.1 * i) for i in range(80)] + [pose(0.0, 8.0, yaw=2.5) for _ in range(20)]
    assert math.degrees(fit_face(poses, camera(), 2.0).along_bearing) == pytest.approx(90.0, abs=1e-6)


@pytest.mark.parametrize("poses", [[], [pose(pitch=-math.pi / 2)]])
def test_without_a_sideways_view_no_face_is_invented(poses: list[Pose]) -> None:
    with pytest.raises(InputError, match=r"surface\.faces"):
        fit_face(poses, camera(), 2.0)


def test_configured_faces_keep_their_place() -> None:
    surface = SurfaceSettings(
        faces=(FaceSettings(name="pier", origin_ned_m=(2.0, 0.0, -2.0), along_bearing_deg=90.0, length_m=10.0),)
    )
    (face,) = configured_faces(surface)
    assert face.to_ned(1.0, 0.5) == pytest.approx((2.0, 1.0, -2.5))
    assert face.from_ned(np.array([[2.0, 1.0, -2.5]]))[0] == pytest.approx((1.0, 0.5, 0.0))


GOOD = {"width": 1280, "height": 720, "fx": 2000.0, "fy": 2000.0, "cx": 640.0, "cy": 360.0, "mount": "forward"}


def read(tmp_path: Path, data: object) -> CameraModel:
    path = tmp_path / "camera.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return CameraModel.from_json(path, CameraMountSettings())


def test_a_calibration_scales_with_the_picture(tmp_path: Path) -> None:
    half = read(tmp_path, GOOD).scaled_to(640, 360)
    assert half.fx == 1000.0
    assert half.cx == pytest.approx(319.75)


def test_a_calibration_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibration is for 1280x720 pixels, the frames have 640x480"):
        read(tmp_path, GOOD).scaled_to(640, 480)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('{"width": ' + "9" * 5000 + "}", "not a JSON file"),
        ([], "found list"),
        ({key: value for key, value in GOOD.items() if key != "fx"}, "fx is missing"),
        (GOOD | {"fx": 0}, "fx: found 0, allowed is 1 to"),
        (GOOD | {"fx": "long"}, "fx: found 'long', allowed is a number"),
        ('{"width": NaN, "height": 720, "fx": 1, "fy": 1, "cx": 1, "cy": 1}', "width: found nan"),
        (GOOD | {"distortion": [1, 2]}, "distortion: allowed"),
        (GOOD | {"mount": "sideways"}, "mount: found 'sideways'"),
        (GOOD | {"mount": {"tilt": 3}}, "unknown key 'tilt'"),
        (GOOD | {"mount": {"offset_m": [1]}}, "offset_m: allowed"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_in_one_line(tmp_path: Path, data: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, data)
    assert "camera.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_before_a_calibration_is_harmless(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff" + json.dumps(GOOD)).fx == 2000.0


def test_a_missing_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"camera\.json: cannot be read"):
        CameraModel.from_json(tmp_path / "camera.json", CameraMountSettings())


def test_a_mount_in_the_calibration_overrides_the_configured_one(tmp_path: Path) -> None:
    model = read(tmp_path, GOOD | {"mount": {"pitch_deg": 10.0, "offset_m": [0.1, 0.0, 0.0]}})
    view = view_of(pose(), model=model)
    assert centre_of(view)[1] == pytest.approx(1.9 * math.tan(math.radians(10)), abs=2e-3)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not WALL_01.exists(), reason="../shared/flight/wall-01 is not here")
def test_known_cracks_and_joints_fall_on_their_pixels_in_a_real_video() -> None:
    """The known wall, put through telemetry and geometry, covers the dark lines of the picture to two pixels."""
    source = TlogPoseSource(WALL_01 / "telemetry.tlog")
    model = CameraModel.from_json(WALL_01 / "camera.json", CameraMountSettings())
    projector = WallProjector(model, [NORTH_WALL], SurfaceSettings(), VehicleSettings())
    truth = cv2.imread(str(WALL_01 / "truth.png"), cv2.IMREAD_GRAYSCALE)
    assert truth is not None
    with (WALL_01 / "frames.csv").open() as file:
        times = [float(row["time_boot_s"]) for row in csv.DictReader(file)]
    capture = cv2.VideoCapture(str(WALL_01 / "video.mp4"))
    off = []
    for index in range(420):
        if not capture.grab():
            break
        if index % 35:
            continue
        _, picture = capture.retrieve()
        view = projector.view(source.at(round(times[index] * 1e9)), 1280, 720)
        assert isinstance(view, WallView)
        corners = np.array([[0.0, 0.0], [1280.0, 0.0], [1280.0, 720.0], [0.0, 720.0]])
        places = view.to_face(corners).place
        on_truth = np.column_stack([places[:, 0] * 1000 - 0.5, 1536 - places[:, 1] * 1000 - 0.5])
        turn = cv2.getPerspectiveTransform(on_truth.astype(np.float32), corners.astype(np.float32))
        lines = (cv2.warpPerspective(truth, turn, (1280, 720), flags=cv2.INTER_NEAREST) == 255).astype(np.float32)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((9, 9), np.uint8)).astype(np.float32)
        if lines.sum() < 500:
            continue
        reach = 12
        kernel = lines[reach:-reach, reach:-reach]
        score = cv2.matchTemplate(dark, kernel, cv2.TM_CCORR)
        _, _, _, (dx, dy) = cv2.minMaxLoc(score)
        off.append(math.hypot(dx - reach, dy - reach))
    assert len(off) >= 8
    assert float(np.median(off)) <= 2.0
