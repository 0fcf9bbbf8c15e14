"""What a user may hand in by mistake: one clear line, the right exit code, and nothing recorded is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drone_agent.flightlog.reader import Flight, normalised_events
from tests.flights import ShortFlight, make_short_flight
from tests.vision.bundles import make_bundle

SECONDS = 120


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> ShortFlight:
    return make_short_flight(tmp_path_factory.mktemp("recording"), frames=6)


@pytest.fixture
def flight(recording: ShortFlight, tmp_path: Path) -> ShortFlight:
    """A copy that a test may spoil."""
    folder = tmp_path / "recording"
    shutil.copytree(recording.folder, folder)
    return ShortFlight(
        folder, folder / "video.avi", folder / "telemetry.tlog", folder / "frames.csv", folder / "camera.json",
        folder / "model", recording.frames,
    )  # fmt: skip


def agent(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "250"}
    command = [sys.executable, "-m", "drone_agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that begins with `error:`; a traceback is no answer."""
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_missing_video_is_named(flight: ShortFlight, tmp_path: Path) -> None:
    flight.video.unlink()
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 2
    assert str(flight.video) in complaint(done)
    assert not (tmp_path / "out").exists()


def test_a_text_file_is_no_video(flight: ShortFlight, tmp_path: Path) -> None:
    flight.video.write_text("not a video at all\n" * 50)
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 2
    assert str(flight.video) in complaint(done)


def test_a_truncated_video_without_a_table_keeps_the_frames_that_are_there(flight: ShortFlight, tmp_path: Path) -> None:
    data = flight.video.read_bytes()
    flight.video.write_bytes(data[: len(data) // 2])
    done = agent("replay", flight.video, "--model", flight.model, "--out", tmp_path / "out", "--no-report")
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        events = normalised_events(tmp_path / "out" / "flight-0001-replay")
        read = sum(event["kind"] == "frame" for event in events)
        assert 0 < read < flight.frames
        assert any(
            "could be read" in str(event["data"].get("detail")) for event in events if event["kind"] == "warning"
        )
    else:
        assert str(flight.video) in complaint(done)


def test_a_video_whose_header_lies_is_flown_and_the_lie_recorded(flight: ShortFlight, tmp_path: Path) -> None:
    # AVI: dwTotalFrames of the main header and dwLength of the stream header are the only two places that count.
    data = bytearray(flight.video.read_bytes())
    main, stream = data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32
    for place in (main, stream):
        data[place : place + 4] = (flight.frames + 40).to_bytes(4, "little")
    flight.video.write_bytes(data)
    done = agent("replay", flight.video, "--model", flight.model, "--out", tmp_path / "out", "--no-report")
    assert done.returncode == 0, done.stderr
    events = normalised_events(tmp_path / "out" / "flight-0001-replay")
    assert sum(event["kind"] == "frame" for event in events) == flight.frames


@pytest.mark.parametrize("rows", [3, 9])
def test_a_table_of_the_wrong_length_names_both_numbers(flight: ShortFlight, tmp_path: Path, rows: int) -> None:
    lines = flight.frames_csv.read_text().splitlines()
    last = lines[-1].split(",")
    for extra in range(flight.frames, rows):
        lines.append(f"{extra},{float(last[1]) + extra},{float(last[2]) + extra}")
    flight.frames_csv.write_text("\n".join(lines[: rows + 1]) + "\n")
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 2
    assert f"{rows} rows" in complaint(done)
    assert str(flight.frames) in complaint(done)


def test_telemetry_of_another_flight_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    lines = flight.frames_csv.read_text().splitlines()
    moved = [lines[0]]
    for line in lines[1:]:
        frame, boot, unix = line.split(",")
        moved.append(f"{frame},{boot},{float(unix) + 86_400:.6f}")
    flight.frames_csv.write_text("\n".join(moved) + "\n")
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 2
    assert "another flight" in complaint(done)


def test_telemetry_with_a_torn_tail_is_used_and_the_tear_recorded(flight: ShortFlight, tmp_path: Path) -> None:
    flight.telemetry.write_bytes(flight.telemetry.read_bytes()[:-11])
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    events = normalised_events(tmp_path / "out" / "flight-0001-replay")
    assert any("torn" in event["data"]["detail"] for event in events if event["kind"] == "telemetry_problem")
    assert sum(event["kind"] == "frame" for event in events) == flight.frames


def test_telemetry_that_is_no_telemetry_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    flight.telemetry.write_bytes(b"\x00" * 4096)
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 2
    assert str(flight.telemetry) in complaint(done)


def test_telemetry_without_a_table_of_frames_says_what_is_missing(flight: ShortFlight, tmp_path: Path) -> None:
    done = agent(
        "replay", flight.video, "--telemetry", flight.telemetry, "--model", flight.model, "--out", tmp_path / "out"
    )
    assert done.returncode == 2
    assert "--frames" in complaint(done)


def test_a_bundle_with_a_wrong_hash_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    with (flight.model / "model.onnx").open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\x00\x01\x02")
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 5
    assert "model.onnx" in complaint(done)
    assert not (tmp_path / "out").exists()


def test_a_corrupt_onnx_with_the_right_hash_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    import hashlib
    import json

    rubbish = b"this is no protobuf" * 100
    (flight.model / "model.onnx").write_bytes(rubbish)
    manifest = json.loads((flight.model / "manifest.json").read_text())
    for entry in manifest["files"].values():
        entry["sha256"] = hashlib.sha256(rubbish).hexdigest()
        entry["bytes"] = len(rubbish)
    (flight.model / "manifest.json").write_text(json.dumps(manifest))
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 5
    assert "model.onnx" in complaint(done)


def test_an_unknown_model_lists_the_known_ones(flight: ShortFlight, tmp_path: Path) -> None:
    done = agent("replay", flight.video, "--model", "no-such-net", "--out", tmp_path / "out")
    assert done.returncode == 5
    assert "no-such-net" in complaint(done)
    assert "opnet" in complaint(done)


def test_an_output_folder_that_is_a_file_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 6
    assert "out" in complaint(done)
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_refused(flight: ShortFlight, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 6
    assert "out" in complaint(done)


def test_a_file_system_that_is_read_only_is_refused(flight: ShortFlight) -> None:
    # /proc takes no folders from anybody, root included.
    done = agent(*flight.arguments(Path("/proc/flights")))
    assert done.returncode == 6
    assert "/proc/flights" in complaint(done)


def test_a_full_disk_ends_the_flight_with_what_was_recorded_intact(flight: ShortFlight, tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk: the kernel refuses the write in the middle of the flight.
    telemetry_free = ["replay", flight.video, "--model", flight.model, "--out", tmp_path / "out", "--no-report"]
    command = " ".join(map(str, [sys.executable, "-m", "drone_agent", *telemetry_free]))
    script = f"ulimit -f 8; trap '' XFSZ; exec {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 6, done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    opened = Flight.open(tmp_path / "out" / "flight-0001-replay")
    assert opened.frames, "the frames before the failure must be readable"
    assert not (tmp_path / "out" / "flight-0001-replay" / "manifest.json").exists()


def test_a_killed_replay_leaves_a_readable_flight(flight: ShortFlight, tmp_path: Path) -> None:
    done = agent(*flight.arguments(tmp_path / "out"))
    assert done.returncode == 0
    folder = tmp_path / "out" / "flight-0001-replay"
    (folder / "manifest.json").unlink()
    segment = folder / "events-0001.jsonl"
    segment.write_bytes(segment.read_bytes()[:-40])
    report = agent("report", folder)
    assert report.returncode == 0, report.stderr
    assert (folder / "report.html").is_file()


def test_a_folder_that_is_no_flight_is_refused(tmp_path: Path) -> None:
    done = agent("report", tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in complaint(done)


def test_a_wrong_setting_names_file_line_and_key(flight: ShortFlight, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("surface:\n  standof_m: 3\n")
    done = agent(*flight.arguments(tmp_path / "out"), "--config", mine)
    assert done.returncode == 2
    assert "mine.yaml:2: surface.standof_m: unknown key" in complaint(done)


def test_the_helper_bundle_itself_is_sound(tmp_path: Path) -> None:
    assert agent("check", "--model", make_bundle(tmp_path / "m"), "--out", tmp_path).returncode == 0
