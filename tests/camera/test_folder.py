from pathlib import Path

import cv2
import pytest

from drone_agent.camera.folder import FolderCamera, natural_key
from drone_agent.camera.frames_csv import read_frame_times
from drone_agent.errors import InputError
from drone_agent.vision.preprocess import read_image
from tests.camera.videos import numbered_image, read_number, write_times


def make_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), numbered_image(number))
    return folder


def test_pictures_come_in_the_natural_order_of_their_names(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", ["img1.png", "IMG2.jpg", "img9.png", "img10.png", "img100.png"])
    (folder / "notes.txt").write_text("no picture")
    camera = FolderCamera(folder, read_image, fps=2.0)
    frames = list(camera.frames())
    assert [read_number(frame.image) for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.t_mono_ns for frame in frames] == [n * 500_000_000 for n in range(5)]
    assert camera.total_frames == 5
    assert camera.problems == []


def test_an_unreadable_picture_is_skipped_named_and_counted_and_shifts_no_time(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", [f"{n}.png" for n in range(5)])
    (folder / "1.png").write_bytes(b"\xff")
    (folder / "2.png").write_bytes(b"")
    times = read_frame_times(write_times(tmp_path / "frames.csv", 5))
    camera = FolderCamera(folder, read_image, times)
    frames = list(camera.frames())
    assert [frame.index for frame in frames] == [0, 3, 4]
    assert [frame.dropped_before for frame in frames] == [0, 2, 0]
    assert [frame.t_mono_ns for frame in frames] == [times.t_mono_ns[n] for n in (0, 3, 4)]
    assert [frame.unix_s for frame in frames] == [times.unix_s[n] for n in (0, 3, 4)]
    assert len(camera.problems) == 2
    assert str(folder / "1.png") in camera.problems[0]
    assert camera.describe()["skipped"] == 2


def test_a_folder_without_one_readable_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff")
    with pytest.raises(InputError, match="none of the 1 pictures can be read"):
        list(FolderCamera(tmp_path, read_image).frames())


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        FolderCamera(tmp_path, read_image)
    with pytest.raises(InputError, match="cannot be listed"):
        FolderCamera(tmp_path / "nowhere", read_image)


def test_a_table_of_another_length_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", ["a.png", "b.png"])
    times = read_frame_times(write_times(tmp_path / "frames.csv", 3))
    with pytest.raises(InputError, match=r"3 rows, but .* has 2 pictures"):
        FolderCamera(folder, read_image, times)


def test_numbers_are_compared_as_numbers() -> None:
    names = ["b", "a10", "a2", "A1", "10", "9", "a2b"]
    assert sorted(names, key=natural_key) == ["9", "10", "A1", "a2", "a2b", "a10", "b"]
