from pathlib import Path

import cv2
import pytest

from drone_agent.camera.factory import open_camera, open_recording
from drone_agent.camera.folder import FolderCamera
from drone_agent.camera.frames_csv import read_frame_times
from drone_agent.camera.opencv import VideoFileCamera
from drone_agent.camera.settings import CameraSettings
from drone_agent.camera.supervise import LiveCamera
from drone_agent.clock import ManualClock
from drone_agent.errors import CameraLost, InputError
from drone_agent.vision.preprocess import read_image
from tests.camera.videos import make_video, numbered_image, write_times


def test_a_file_is_a_video_and_a_folder_is_a_series_of_pictures(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.avi", 3)
    assert cv2.imwrite(str(tmp_path / "a.png"), numbered_image(0))
    times = read_frame_times(write_times(tmp_path / "frames.csv", 3))
    assert isinstance(open_recording(video, read_image, times=times), VideoFileCamera)
    assert isinstance(open_recording(tmp_path, read_image), FolderCamera)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_recording(tmp_path / "nowhere.mp4", read_image)


def test_the_settings_choose_the_camera(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.avi", 3)
    clock = ManualClock()
    camera = open_camera(CameraSettings(source="video", path=str(video)), clock, read_image)
    assert [frame.index for frame in camera.frames()] == [0, 1, 2]
    assert cv2.imwrite(str(tmp_path / "a.png"), numbered_image(0))
    assert isinstance(open_camera(CameraSettings(source="images", path=str(tmp_path)), clock, read_image), FolderCamera)


def test_a_live_camera_that_is_not_there_is_lost_at_its_first_frame() -> None:
    settings = CameraSettings(source="v4l2", device="/dev/no-such-camera", reconnect_attempts=0)
    camera = open_camera(settings, ManualClock(), read_image)
    assert isinstance(camera, LiveCamera)
    with pytest.raises(CameraLost, match=r"/dev/no-such-camera: cannot be opened: no such device"):
        next(iter(camera.frames()))


def test_no_password_reaches_the_log_the_facts_or_the_error() -> None:
    settings = CameraSettings(
        source="rtsp", url="rtsp://admin:geheim@127.0.0.1:9/x", reconnect_attempts=0, open_timeout_ms=500
    )
    camera = open_camera(settings, ManualClock(), read_image)
    with pytest.raises(CameraLost) as caught:
        next(iter(camera.frames()))
    assert isinstance(camera, LiveCamera)
    for text in (str(caught.value), str(camera.describe()), str(camera.problems)):
        assert "geheim" not in text
        assert "127.0.0.1" in text
