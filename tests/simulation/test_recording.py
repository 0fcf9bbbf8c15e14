from __future__ import annotations

import csv
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pymap3d
import pytest
from pymavlink import mavutil

from drone_agent.errors import InputError
from drone_agent.simulation.pier import CRACK, Pier, make_pier
from drone_agent.simulation.recording import ORIGIN, Recording, make_recording, make_scene, shipped_recording
from drone_agent.simulation.renderer import Board, Pinhole, footprint, pixel_from_face, project
from drone_agent.values import Pose

SEED, PIER_M, PASSES = 4, (1.3, 0.7), 1


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return make_recording(tmp_path_factory.mktemp("recording"), SEED, pier_m=PIER_M, passes=PASSES)


@pytest.fixture(scope="module", params=["made", "shipped"])
def any_recording(request: pytest.FixtureRequest, recording: Recording) -> Recording:
    return recording if request.param == "made" else shipped_recording()


def messages(recording: Recording) -> list[Any]:
    log = mavutil.mavlink_connection(str(recording.telemetry))
    found = []
    while (message := log.recv_msg()) is not None:
        found.append(message)
    return found


def times(recording: Recording) -> list[tuple[float, float]]:
    with recording.frames_csv.open(newline="") as file:
        return [(float(row["time_boot_s"]), float(row["unix_s"])) for row in csv.DictReader(file)]


def frames(recording: Recording) -> list[npt.NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(recording.video), cv2.CAP_FFMPEG)
    found = []
    while (answer := video.read())[0]:
        found.append(np.asarray(answer[1], dtype=np.uint8))
    return found


def poses(recording: Recording) -> list[Pose]:
    """The pose at each frame, from the telemetry alone, by linear interpolation."""
    heard = messages(recording)
    angle = np.array([(m.time_boot_ms / 1e3, m.roll, m.pitch, m.yaw) for m in heard if m.get_type() == "ATTITUDE"])
    place = np.array([(m.time_boot_ms / 1e3, m.x, m.y, m.z) for m in heard if m.get_type() == "LOCAL_POSITION_NED"])
    found = []
    for t, _ in times(recording):
        north, east, down = (float(np.interp(t, place[:, 0], place[:, k])) for k in (1, 2, 3))
        roll, pitch, yaw = (float(np.interp(t, angle[:, 0], angle[:, k])) for k in (1, 2, 3))
        found.append(Pose(round(t * 1e9), north, east, down, roll, pitch, yaw))
    return found


def camera_and_wall(recording: Recording) -> tuple[Pinhole, Board, dict[str, Any]]:
    facts = json.loads(recording.camera.read_text())
    truth = json.loads(recording.truth_json.read_text())
    mask = cv2.imread(str(recording.truth_png), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    camera = Pinhole(*(facts[key] for key in ("width", "height", "fx", "fy", "cx", "cy")))
    wall = Board(
        np.asarray(mask, dtype=np.uint8),
        truth["gsd_mm_px"],
        truth["wall_plane_north_m"],
        truth["wall_east_m"][0],
        truth["wall_height_m"][0],
    )
    return camera, wall, truth


def test_every_file_tells_of_the_same_number_of_frames(any_recording: Recording) -> None:
    pictures = frames(any_recording)
    camera, _, truth = camera_and_wall(any_recording)
    assert len(pictures) == len(times(any_recording)) == truth["frames"] == any_recording.frames
    assert {picture.shape for picture in pictures} == {(camera.height, camera.width, 3)}


def test_frame_times_are_those_of_a_free_running_camera(any_recording: Recording) -> None:
    boot, unix = np.array(times(any_recording)).T
    steps = np.diff(boot)
    assert steps.mean() == pytest.approx(1.0 / 6.0, rel=0.002)
    assert 0.0003 < steps.std() < 0.005, "slightly irregular"
    assert (unix - boot) == pytest.approx(unix[0] - boot[0], abs=1e-5)


def test_the_telemetry_has_the_messages_and_rates_of_a_companion_link(any_recording: Recording) -> None:
    heard = messages(any_recording)
    assert {(m.get_srcSystem(), m.get_srcComponent()) for m in heard} == {(1, 1)}
    assert all(m.get_msgbuf()[0] == 0xFD for m in heard), "MAVLink 2"
    counts = Counter(m.get_type() for m in heard)
    seconds = heard[-1]._timestamp - heard[0]._timestamp
    rates = {
        "ATTITUDE": 50,
        "LOCAL_POSITION_NED": 50,
        "GLOBAL_POSITION_INT": 20,
        "DISTANCE_SENSOR": 10,
        "GPS_RAW_INT": 5,
        "EKF_STATUS_REPORT": 2,
        "RC_CHANNELS": 2,
        "SYSTEM_TIME": 1,
        "HEARTBEAT": 1,
    }
    for kind, rate_hz in rates.items():
        assert counts[kind] == pytest.approx(rate_hz * seconds, abs=2), kind
    assert counts["BAD_DATA"] == 0
    sequence = np.array([m.get_seq() for m in heard])
    assert (np.diff(sequence) % 256 == 1).all(), "no packet is missing"


def test_stamps_are_big_endian_microseconds_and_follow_the_boot_clock(any_recording: Recording) -> None:
    raw = any_recording.telemetry.read_bytes()
    assert struct.unpack(">Q", raw[:8])[0] == pytest.approx(1777885200 * 1e6, abs=60e6), "2026-05-04T09:00Z"
    heard = messages(any_recording)
    stamps = np.array([m._timestamp for m in heard])
    assert (np.diff(stamps) > 0).all()
    boot, unix = times(any_recording)[0]
    lag = [m._timestamp - (unix - boot) - m.time_boot_ms / 1e3 for m in heard if m.get_type() == "ATTITUDE"]
    assert min(lag) > 0.0
    assert max(lag) < 0.05


def test_the_telemetry_surrounds_the_frames(any_recording: Recording) -> None:
    boot = [m.time_boot_ms / 1e3 for m in messages(any_recording) if m.get_type() == "ATTITUDE"]
    first, last = times(any_recording)[0][0], times(any_recording)[-1][0]
    assert boot[0] < first - 1.0
    assert boot[-1] > last + 1.0


def test_the_vehicle_is_armed_in_auto_with_a_fix_and_a_healthy_filter(any_recording: Recording) -> None:
    for message in messages(any_recording):
        match message.get_type():
            case "HEARTBEAT":
                assert mavutil.mode_string_v10(message) == "AUTO"
                assert message.base_mode & mavutil.mavlink.MAV_MODE_FLAG_SAFETY_ARMED
            case "GPS_RAW_INT":
                assert message.fix_type == mavutil.mavlink.GPS_FIX_TYPE_RTK_FIXED
                assert message.h_acc == 25
            case "EKF_STATUS_REPORT":
                assert message.flags & mavutil.mavlink.EKF_POS_HORIZ_ABS


def test_local_and_global_position_agree(any_recording: Recording) -> None:
    heard = messages(any_recording)
    place = np.array([(m.time_boot_ms / 1e3, m.x, m.y, m.z) for m in heard if m.get_type() == "LOCAL_POSITION_NED"])
    origin = next(m for m in heard if m.get_type() == "GPS_GLOBAL_ORIGIN")
    assert (origin.latitude, origin.longitude) == (ORIGIN.lat_deg * 1e7, ORIGIN.lon_deg * 1e7)
    for message in [m for m in heard if m.get_type() == "GLOBAL_POSITION_INT"][5:-5:20]:
        ned = pymap3d.geodetic2ned(
            message.lat / 1e7, message.lon / 1e7, message.alt / 1e3, ORIGIN.lat_deg, ORIGIN.lon_deg, ORIGIN.alt_amsl_m
        )
        here = [np.interp(message.time_boot_ms / 1e3, place[:, 0], place[:, k]) for k in (1, 2, 3)]
        assert ned == pytest.approx(here, abs=0.02)


def test_the_range_finder_sees_the_wall(any_recording: Recording) -> None:
    ranges = [m.current_distance for m in messages(any_recording) if m.get_type() == "DISTANCE_SENSOR"]
    assert {m.orientation for m in messages(any_recording) if m.get_type() == "DISTANCE_SENSOR"} == {0}
    assert np.mean(ranges) == pytest.approx(160.0, abs=8.0)
    assert max(ranges) < 200


def test_cracks_are_dark_where_the_telemetry_says_they_are(any_recording: Recording) -> None:
    camera, wall, truth = camera_and_wall(any_recording)
    pictures = frames(any_recording)
    wide = [crack for crack in truth["cracks"] if crack["width_mm"] >= 1.2]
    points = np.vstack([crack["points_along_height_m"] for crack in wide])
    darker = []
    for here, picture in list(zip(poses(any_recording), pictures, strict=True))[::7]:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        surround = cv2.GaussianBlur(grey, (0, 0), 15.0)
        pixels = np.round(project(pixel_from_face(camera, here, wall), points)).astype(int)
        inside = ((pixels >= 3) & (pixels < (camera.width - 3, camera.height - 3))).all(axis=1)
        for u, v in pixels[inside]:
            darker.append(1.0 - grey[v - 1 : v + 2, u - 1 : u + 2].min() / surround[v, u])
    assert len(darker) > 300
    assert np.median(darker) > 0.3
    assert np.mean(np.array(darker) > 0.12) > 0.95


def test_a_frame_warped_back_is_the_pier(recording: Recording) -> None:
    camera, wall, _ = camera_and_wall(recording)
    pier: Pier = make_pier(SEED, *PIER_M)
    texture = cv2.resize(pier.texture, (wall.texture.shape[1], wall.texture.shape[0]), interpolation=cv2.INTER_AREA)
    expected = cv2.GaussianBlur(cv2.cvtColor(texture, cv2.COLOR_BGR2GRAY).astype(np.float32), (0, 0), 0.7)
    for here, picture in list(zip(poses(recording), frames(recording), strict=True))[::10]:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        to_face = np.linalg.inv(pixel_from_face(camera, here, wall) @ wall.face_from_texture())
        size = (wall.texture.shape[1], wall.texture.shape[0])
        back = cv2.warpPerspective(grey, to_face, size, flags=cv2.INTER_LINEAR, borderValue=(-1.0,))
        seen = cv2.erode((back >= 0).astype(np.uint8), np.ones((41, 41))) == 1
        # Fine structure only: the large-scale shading would agree even if the place were off by centimetres.
        fine = [image - cv2.GaussianBlur(image, (0, 0), 8.0) for image in (back, expected)]
        assert seen.sum() > 50_000
        assert np.corrcoef(fine[0][seen], fine[1][seen])[0, 1] > 0.8


def test_truth_counts_are_those_of_the_truth_image(any_recording: Recording) -> None:
    _, wall, truth = camera_and_wall(any_recording)
    mask = wall.texture
    rows, cols = mask.shape[0] // 50, mask.shape[1] // 50
    cracked = {(int(y) // 50, int(x) // 50) for y, x in zip(*np.nonzero(mask == CRACK), strict=True)}
    assert truth["cells"] == rows * cols
    assert truth["crack_cells_5cm"] == len(cracked)
    assert truth["wall_east_m"][1] * 1000 == mask.shape[1]


def test_seen_fraction_is_what_the_frames_cover(any_recording: Recording) -> None:
    camera, wall, truth = camera_and_wall(any_recording)
    grid = np.zeros((wall.texture.shape[0] // 10, wall.texture.shape[1] // 10), dtype=bool)
    heights, alongs = ((np.arange(n) + 0.5) / 100.0 for n in grid.shape)
    centres = np.column_stack([np.tile(alongs, len(heights)), np.repeat(heights, len(alongs))])
    for here in poses(any_recording):
        u, v = project(pixel_from_face(camera, here, wall), centres).T
        grid |= ((u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)).reshape(grid.shape)
    assert truth["seen_fraction"] == pytest.approx(grid.mean(), abs=0.02)
    assert footprint(camera, poses(any_recording)[0], wall).shape == (4, 2)


def test_the_same_seed_writes_the_same_bytes(recording: Recording, tmp_path: Path) -> None:
    again = make_recording(tmp_path / "again", SEED, pier_m=PIER_M, passes=PASSES)
    for name in ("video", "frames_csv", "telemetry", "camera", "truth_json", "truth_png"):
        assert getattr(again, name).read_bytes() == getattr(recording, name).read_bytes(), name


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    made = make_recording(tmp_path, 2, lambda done, total: calls.append((done, total)), pier_m=(0.9, 0.5), passes=1)
    assert calls == [(k, made.frames) for k in range(1, made.frames + 1)]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        make_recording(tmp_path / "file" / "out", pier_m=(0.9, 0.5), passes=1)


@pytest.mark.slow
def test_the_shipped_recording_is_what_the_defaults_make() -> None:
    scene = make_scene(1)
    shipped = shipped_recording()
    truth = json.loads(shipped.truth_json.read_text())
    assert truth["seed"] == 1
    assert [t for t, _ in times(shipped)] == pytest.approx(scene.frame_times_s, abs=1e-6)
    for kept, crack in zip(truth["cracks"], scene.pier.cracks, strict=True):
        assert np.array(kept["points_along_height_m"]) == pytest.approx(crack.points, abs=1e-3)
        assert kept["width_mm"] == crack.width_mm


def test_the_shipped_recording_is_small_enough_to_travel() -> None:
    files = [path for path in shipped_recording().folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
