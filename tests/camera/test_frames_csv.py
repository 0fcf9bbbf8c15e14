import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.camera.frames_csv import read_frame_times
from drone_agent.errors import InputError
from tests.camera.videos import write_times


def write(folder: Path, text: str) -> Path:
    path = folder / "frames.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_times_are_nanoseconds_of_the_boot_clock(tmp_path: Path) -> None:
    times = read_frame_times(write(tmp_path, "frame,time_boot_s,unix_s\n0,52.199000,1795351412.766818\n1,52.365667,\n"))
    assert times.t_mono_ns == (52_199_000_000, 52_365_667_000)
    assert times.unix_s == (1795351412.766818, None)
    assert len(times) == 2


def test_a_table_from_a_spreadsheet_is_understood(tmp_path: Path) -> None:
    text = "\ufefftime_boot_s, frame, remark\r\n1.5, 0, start\r\n1.7, 1,\r\n"
    assert read_frame_times(write(tmp_path, text)).t_mono_ns == (1_500_000_000, 1_700_000_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column frame is missing, found nothing"),
        ("frame,unix_s\n0,1\n", "column time_boot_s is missing, found frame, unix_s"),
        ("frame;time_boot_s\n0;1\n", "column frame is missing"),
        ("frame,time_boot_s\n", "no rows"),
        ("frame,time_boot_s\n1,1.0\n", "line 2: frame found '1', expected 0"),
        ("frame,time_boot_s\n0,1.0\n2,1.1\n", "line 3: frame found '2', expected 1"),
        ("frame,time_boot_s\n0,1.0\n0,1.1\n", "line 3: frame found '0', expected 1"),
        ("frame,time_boot_s\n0,abc\n", "line 2: time_boot_s found 'abc'"),
        ("frame,time_boot_s\n0,\n", "line 2: time_boot_s found ''"),
        ("frame,time_boot_s\n0\n", "line 2: time_boot_s found None"),
        ("frame,time_boot_s\n0,nan\n", "line 2: time_boot_s found 'nan'"),
        ("frame,time_boot_s\n0,inf\n", "line 2: time_boot_s found 'inf'"),
        ("frame,time_boot_s\n0,-1\n", "line 2: time_boot_s found '-1'"),
        (
            "frame,time_boot_s\n0,1795351412.7\n",
            "line 2: time_boot_s found '1795351412.7', expected seconds from 0 up to",
        ),
        ("frame,time_boot_s\n0,2.0\n1,2.0\n", "line 3: time_boot_s found 2.0, expected more than the 2.000000 before"),
        ("frame,time_boot_s\n0,2.0\n1,1.0\n", "line 3: time_boot_s found 1.0"),
        ("frame,time_boot_s,unix_s\n0,2.0,x\n", "line 2: unix_s found 'x'"),
        ('frame,time_boot_s\n0,"2.0\n', "not a table"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_frame_times(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read"):
        read_frame_times(tmp_path / "nowhere.csv")
    path = tmp_path / "frames.csv"
    path.write_bytes(b"frame,time_boot_s\n0,\xff\xfe\n")
    with pytest.raises(InputError, match="not a text file"):
        read_frame_times(path)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_either_understood_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("csv") / "frames.csv"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        assert len(read_frame_times(path)) >= 1


@given(count=st.integers(1, 50), start=st.floats(0, 4e6), fps=st.floats(1, 200))
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, start: float, fps: float
) -> None:
    path = write_times(tmp_path_factory.mktemp("csv") / "frames.csv", count, start_s=start, fps=fps)
    times = read_frame_times(path)
    assert len(times) == count
    for index, t_mono_ns in enumerate(times.t_mono_ns):
        assert abs(t_mono_ns / 1e9 - (start + index / fps)) < 1e-5
