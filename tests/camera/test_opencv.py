import shutil
from pathlib import Path

import numpy as np
import pytest

from drone_agent.camera.frames_csv import read_frame_times
from drone_agent.camera.opencv import OpenCvCapture, VideoFileCamera
from drone_agent.camera.settings import CameraSettings
from drone_agent.errors import CameraLost, InputError
from tests.camera.videos import HEIGHT, WIDTH, make_video, read_number, spoil_frames, state_frame_count, write_times

SHARED = Path(__file__).parents[3] / "shared" / "flight" / "wall-01"


def numbers(camera: VideoFileCamera) -> list[int]:
    return [read_number(frame.image) for frame in camera.frames()]


@pytest.mark.parametrize(("name", "fourcc"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG")])
def test_every_frame_of_a_file_comes_once_and_in_order(tmp_path: Path, name: str, fourcc: str) -> None:
    camera = VideoFileCamera(make_video(tmp_path / name, 30, fourcc=fourcc))
    frames = list(camera.frames())
    assert [read_number(frame.image) for frame in frames] == list(range(30))
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.t_mono_ns for frame in frames] == [n * 100_000_000 for n in range(30)]
    assert all(frame.dropped_before == 0 and frame.unix_s is None for frame in frames)
    assert frames[0].image.shape == (HEIGHT, WIDTH, 3)
    assert frames[0].image.dtype == np.uint8
    assert camera.problems == []
    assert camera.total_frames == 30


def test_frames_take_their_times_from_the_table(tmp_path: Path) -> None:
    times = read_frame_times(write_times(tmp_path / "frames.csv", 5))
    frames = list(VideoFileCamera(make_video(tmp_path / "a.avi", 5), times).frames())
    assert [frame.t_mono_ns for frame in frames] == list(times.t_mono_ns)
    assert [frame.unix_s for frame in frames] == list(times.unix_s)


def test_a_given_rate_replaces_the_one_of_the_file(tmp_path: Path) -> None:
    frames = list(VideoFileCamera(make_video(tmp_path / "a.avi", 3), fps=4.0).frames())
    assert [frame.t_mono_ns for frame in frames] == [0, 250_000_000, 500_000_000]


@pytest.mark.parametrize("rows", [1, 19, 21, 500])
def test_a_table_of_another_length_is_refused_before_the_first_frame(tmp_path: Path, rows: int) -> None:
    path = make_video(tmp_path / "a.avi", 20)
    times = read_frame_times(write_times(tmp_path / "frames.csv", rows))
    with pytest.raises(InputError) as caught:
        VideoFileCamera(path, times)
    message = str(caught.value)
    assert f"{rows} rows" in message
    assert "20 frames" in message
    assert "one row for each frame" in message


@pytest.mark.parametrize("stated", [8, 200])
def test_a_header_that_lies_is_reported_and_no_frame_is_lost(tmp_path: Path, stated: int) -> None:
    path = make_video(tmp_path / "a.avi", 20)
    state_frame_count(path, stated)
    camera = VideoFileCamera(path)
    assert camera.total_frames == stated
    assert numbers(camera) == list(range(20))
    assert len(camera.problems) == 1
    assert str(stated) in camera.problems[0]
    assert "20" in camera.problems[0]


@pytest.mark.parametrize("stated", [8, 200])
def test_a_table_that_fits_the_frames_is_believed_against_a_header_that_lies(tmp_path: Path, stated: int) -> None:
    path = make_video(tmp_path / "a.avi", 20)
    state_frame_count(path, stated)
    camera = VideoFileCamera(path, read_frame_times(write_times(tmp_path / "frames.csv", 20)))
    assert camera.total_frames == 20
    assert numbers(camera) == list(range(20))
    assert len(camera.problems) == 1


def test_frames_behind_the_last_row_are_counted_and_not_looked_at(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 20)
    state_frame_count(path, 15)
    times = read_frame_times(write_times(tmp_path / "frames.csv", 15))
    camera = VideoFileCamera(path, times)
    assert numbers(camera) == list(range(15))
    assert camera.problems == [
        f"{path}: 5 frames after the last of the 15 rows of {times.path} have no time and were not looked at"
    ]


def test_frames_behind_a_damaged_place_keep_their_number_and_time(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 40)
    spoil_frames(path, [12, 13, 14, 30])
    times = read_frame_times(write_times(tmp_path / "frames.csv", 40))
    camera = VideoFileCamera(path, times)
    frames = list(camera.frames())
    expected = [n for n in range(40) if n not in {12, 13, 14, 30}]
    assert [read_number(frame.image) for frame in frames] == expected
    assert [frame.index for frame in frames] == expected
    assert [frame.t_mono_ns for frame in frames] == [times.t_mono_ns[n] for n in expected]
    assert {frame.index: frame.dropped_before for frame in frames if frame.dropped_before} == {15: 3, 31: 1}
    assert camera.problems == [
        f"{path}: 36 frames could be read of the 40 it should hold; 4 are lost (file cut short or damaged)"
    ]


def test_a_file_that_was_cut_short_gives_what_it_holds_and_says_what_is_lost(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    camera = VideoFileCamera(path)
    found = numbers(camera)
    assert 5 < len(found) < 40
    assert found == list(range(len(found)))
    assert len(camera.problems) == 1
    assert f"{len(found)} " in camera.problems[0]
    assert "40" in camera.problems[0]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "empty (0 bytes)"),
        (b"\0", "not a video that can be decoded (1 bytes)"),
        (b"this is a text\n" * 100, "not a video that can be decoded"),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(contents)
    with pytest.raises(InputError) as caught:
        VideoFileCamera(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_an_mp4_that_was_never_closed_is_named_as_such(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20, fourcc="mp4v")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])
    with pytest.raises(InputError, match=r"cut short, the index \(moov\) of the MP4 is missing"):
        VideoFileCamera(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        VideoFileCamera(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="cannot be read"):
        VideoFileCamera(tmp_path)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 3)
    spoil_frames(path, [0, 1, 2])
    with pytest.raises(InputError, match=r"not one frame can be decoded|not a video"):
        VideoFileCamera(path)


def test_stopping_early_is_no_problem_and_closing_twice_neither(tmp_path: Path) -> None:
    camera = VideoFileCamera(make_video(tmp_path / "a.avi", 20))
    frames = camera.frames()
    assert read_number(next(frames).image) == 0
    camera.close()
    camera.close()
    assert camera.problems == []


def test_the_flight_log_is_told_the_facts(tmp_path: Path) -> None:
    camera = VideoFileCamera(make_video(tmp_path / "a.avi", 4))
    list(camera.frames())
    facts = camera.describe()
    assert facts["width"] == WIDTH
    assert facts["height"] == HEIGHT
    assert facts["fps"] == pytest.approx(10.0)
    assert facts["frames_read"] == facts["frames_stated"] == 4
    assert facts["policy"] == "block"


def test_a_device_that_is_not_there_cannot_be_opened() -> None:
    with pytest.raises(CameraLost, match="no such device"):
        OpenCvCapture(CameraSettings(source="v4l2", device="/dev/no-such-camera"))


def test_a_stream_that_does_not_answer_is_lost_and_keeps_its_password_to_itself() -> None:
    # Port 9 of this machine refuses at once.
    settings = CameraSettings(source="rtsp", url="rtsp://admin:geheim@127.0.0.1:9/stream", open_timeout_ms=500)
    with pytest.raises(CameraLost) as caught:
        OpenCvCapture(settings)
    assert "geheim" not in str(caught.value)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded flight is not in ../shared")
def test_the_recorded_flight_is_read_to_its_last_frame() -> None:
    times = read_frame_times(SHARED / "frames.csv")
    camera = VideoFileCamera(SHARED / "video.mp4", times)
    assert camera.total_frames == 786
    stamps = [frame.t_mono_ns for frame in camera.frames()]
    assert stamps == list(times.t_mono_ns)
    assert camera.problems == []


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded flight is not in ../shared")
def test_a_hole_in_the_recorded_flight_moves_no_other_frame(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    shutil.copy(SHARED / "video.mp4", path)
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(3_000_000)
        stream.write(bytes(50_000))
    whole = VideoFileCamera(SHARED / "video.mp4").frames()
    camera = VideoFileCamera(path)
    last, compared = -1, 0
    for frame in camera.frames():
        assert frame.index == last + 1 + frame.dropped_before
        last = frame.index
        # Before the hole, and behind the next key frame: up to there the decoder patches.
        if frame.index in {100, 350, 600, 780}:
            reference = next(f for f in whole if f.index == frame.index)
            assert np.array_equal(reference.image, frame.image)
            compared += 1
    assert last == 785
    assert compared == 4
    assert "lost" in camera.problems[-1]
