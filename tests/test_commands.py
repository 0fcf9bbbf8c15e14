from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from drone_agent.agent import Agent
from drone_agent.cli import main
from drone_agent.flightlog.manifest import verify_manifest
from drone_agent.flightlog.reader import normalised_events
from drone_agent.values import Frame, Image
from tests.flights import ShortFlight, make_short_flight
from tests.vision.bundles import make_bundle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["drone-agent", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        text = capsys.readouterr()
        return code, text.out, text.err

    return call


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> ShortFlight:
    return make_short_flight(tmp_path_factory.mktemp("recording"))


def picture(path: Path, level: int, size: int = 300) -> Path:
    noise = np.random.default_rng(1).integers(-8, 9, (size, size, 3))
    image: Image = np.clip(level + noise, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), image)
    return path


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("replay", "score", "run", "report", "export", "check", "demo", "compare", "config", "spray-test"):
        assert command in out


def test_the_module_and_the_script_are_one_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drone_agent", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("drone-agent ")


def test_a_replay_processes_every_frame_and_places_what_it_finds(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    code, out, err = run(*flight.arguments(tmp_path))
    assert code == 0, err
    assert "Flight: " in out
    events = normalised_events(tmp_path / "flight-0001-replay")
    frames = [event["data"] for event in events if event["kind"] == "frame"]
    assert [frame["index"] for frame in frames] == list(range(flight.frames))
    assert all(frame["dropped_before"] == 0 for frame in frames)
    sightings = [event["data"] for event in events if event["kind"] == "sighting"]
    assert sightings
    for sighting in sightings:
        assert sighting["unit"] == "m"
        assert -90 <= sighting["lat_deg"] <= 90
        assert sighting["sigma_m"] > 0
        assert (tmp_path / "flight-0001-replay" / sighting["image"]).is_file()
    assert events[-1]["kind"] == "session_ended"
    assert events[-1]["data"]["reason"] == "completed"


def test_the_threshold_decides_what_is_found_on_the_wall(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    cells, hits = [], []
    for threshold in (0.0001, 0.5, 0.999):
        out = tmp_path / str(threshold)
        code, _, err = run(*flight.arguments(out), "--set", f"vision.threshold_p={threshold}")
        assert code == 0, err
        events = normalised_events(out / "flight-0001-replay")
        hits.append(sum(len(event["data"]["hits"]) for event in events if event["kind"] == "frame"))
        wall = {
            tuple(cell[:2]): cell[4]
            for event in events
            if event["kind"] == "coverage"
            for cell in event["data"]["cells"]
        }
        cells.append(sum(belief is not None and belief > 0 for belief in wall.values()))
        assert any(event["kind"] == "sighting" for event in events) == (threshold < 0.9)
    assert hits[0] > hits[1] > hits[2]
    assert cells[0] > cells[1] > cells[2]


def test_each_offered_sighting_is_answered_with_an_order_or_with_reasons(
    run: Run, flight: ShortFlight, tmp_path: Path
) -> None:
    run(*flight.arguments(tmp_path))
    events = normalised_events(tmp_path / "flight-0001-replay")
    seen = {event["data"]["id"] for event in events if event["kind"] == "sighting"}
    answered = {event["data"]["sighting_id"] for event in events if event["kind"] in {"spray_order", "spray_refused"}}
    assert seen
    assert seen == answered
    assert all(event["data"]["reasons"] for event in events if event["kind"] == "spray_refused")


def test_a_video_without_telemetry_is_inspected_in_pixels_and_never_marked(
    run: Run, flight: ShortFlight, tmp_path: Path
) -> None:
    code, _, err = run("replay", flight.video, "--model", flight.model, "--out", tmp_path, "--no-report")
    assert code == 0, err
    events = normalised_events(tmp_path / "flight-0001-replay")
    sightings = [event["data"] for event in events if event["kind"] == "sighting"]
    assert sightings
    assert {sighting["unit"] for sighting in sightings} == {"px"}
    assert not [event for event in events if event["kind"].startswith("spray")]


def test_max_frames_ends_the_replay_early_and_says_so(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    run(*flight.arguments(tmp_path), "--max-frames", 3)
    end = normalised_events(tmp_path / "flight-0001-replay")[-1]["data"]
    assert (end["frames"], end["reason"]) == (3, "max_frames")


def test_an_interrupted_replay_ends_its_log_and_is_not_called_done(
    run: Run, flight: ShortFlight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Agent._step
    steps: list[int] = []

    def step(agent: Agent, frame: Frame) -> None:
        real(agent, frame)
        steps.append(frame.index)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Agent, "_step", step)
    code, _, err = run(*flight.arguments(tmp_path / "out"))
    assert code == 1
    assert "interrupted" in err
    folder = next((tmp_path / "out").iterdir())
    end = normalised_events(folder)[-1]
    assert (end["kind"], end["data"]["reason"], end["data"]["frames"]) == ("session_ended", "interrupted", 3)
    assert verify_manifest(folder) == []


def test_a_warning_is_one_line_where_nobody_watches(tmp_path: Path) -> None:
    long = tmp_path / ("long-" * 30) / "pictures"
    long.mkdir(parents=True)
    picture(long / "good.png", 180)
    (long / "empty.png").write_bytes(b"")
    command = [sys.executable, "-m", "drone_agent", "replay", str(long), "--model", str(make_bundle(tmp_path / "m"))]
    done = subprocess.run([*command, "--out", str(tmp_path), "--no-report"], capture_output=True, text=True, check=True)
    told = done.stderr.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("WARNING picture skipped")
    assert "0 bytes" in told[0]


def test_a_calibration_without_telemetry_is_not_silently_ignored(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    code, _, err = run("replay", flight.video, "--camera", flight.camera, "--model", flight.model, "--out", tmp_path)
    assert code == 2
    assert "needs --telemetry" in err


def test_a_folder_of_pictures_can_be_replayed(run: Run, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        picture(pictures / f"{index}.png", 140)
    code, _, err = run(
        "replay", pictures, "--model", make_bundle(tmp_path / "m"), "--out", tmp_path / "out", "--no-report"
    )
    assert code == 0, err
    assert normalised_events(tmp_path / "out" / "flight-0001-replay")[-1]["data"]["frames"] == 3


def test_report_and_exports_are_written_from_the_flight(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    run(*flight.arguments(tmp_path))
    folder = tmp_path / "flight-0001-replay"
    code, out, err = run("report", folder)
    assert code == 0, err
    html = (folder / "report.html").read_text()
    assert "report.html" in out
    assert "sighting" in html.lower() or "finding" in html.lower()
    code, out, err = run("export", folder, "--geojson", "--csv", "--kml")
    assert code == 0, err
    written = [Path(line) for line in out.split() if Path(line).suffix in {".geojson", ".csv", ".kml"}]
    assert len(written) >= 3
    assert all(path.stat().st_size > 0 for path in written)
    geojson = next(path for path in written if path.suffix == ".geojson")
    assert json.loads(geojson.read_text())["type"] == "FeatureCollection"


def test_export_without_a_format_says_what_there_is(run: Run, tmp_path: Path) -> None:
    code, _, err = run("export", tmp_path)
    assert code == 2
    assert "--geojson, --csv, --kml, --coco" in err


def test_coco_is_written_beside_the_flight_or_where_it_is_wanted(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    run(*flight.arguments(tmp_path))
    folder = tmp_path / "flight-0001-replay"
    code, out, err = run("export", folder, "--coco")
    assert code == 0, err
    written = folder / "flight-0001-replay-coco"
    assert out.split() == [str(written)]
    assert verify_manifest(folder) == []
    code, out, err = run("export", folder, "--coco", "--to", tmp_path / "sets")
    assert code == 0, err
    wanted = tmp_path / "sets/flight-0001-replay-coco"
    assert (wanted / "instances.json").read_bytes() == (written / "instances.json").read_bytes()
    images = json.loads((wanted / "instances.json").read_text())["images"]
    assert len(images) == len(list((folder / "images").iterdir())) > 0


def test_score_writes_one_row_a_tile(run: Run, tmp_path: Path) -> None:
    model = make_bundle(tmp_path / "m")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    picture(pictures / "dark.png", 40)
    picture(pictures / "light.png", 180)
    out = tmp_path / "scores.csv"
    code, _, err = run("score", pictures, "--model", model, "--csv", out, "--as-tile")
    assert code == 0, err
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "x", "y", "size", "p_crack", "verdict"]
    assert [(Path(row["path"]).name, row["verdict"]) for row in rows] == [("dark.png", "crack"), ("light.png", "clear")]
    assert float(rows[0]["p_crack"]) > 0.9 > 0.1 > float(rows[1]["p_crack"])

    run("score", pictures, "--model", model, "--csv", out)
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # 300 px need two tiles of 224 in each direction
    assert len(rows) == 8
    assert {row["size"] for row in rows} == {"224"}


def test_score_names_what_it_cannot_read_and_scores_the_rest(run: Run, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", 40)
    bad = tmp_path / "one-byte.jpg"
    bad.write_bytes(b"\xff")
    out = tmp_path / "scores.csv"
    code, told, err = run(
        "score", bad, good, tmp_path / "missing.jpg", "--model", make_bundle(tmp_path / "m"), "--csv", out
    )
    assert code == 1
    assert str(bad) in err
    assert "missing.jpg" in err
    assert "2 unreadable" in told
    with out.open(newline="") as stream:
        assert {row["path"] for row in csv.DictReader(stream)} == {str(good)}


def test_score_never_writes_its_table_over_a_picture(run: Run, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", 40)
    before = good.read_bytes()
    (tmp_path / "link.csv").symlink_to(good)
    model = make_bundle(tmp_path / "m")
    for table in (good, tmp_path / "link.csv"):
        code, _, err = run("score", tmp_path, "--model", model, "--csv", table)
        assert code == 2
        assert "would be overwritten" in err
    assert good.read_bytes() == before


@pytest.mark.parametrize("name", ["2026", "yes", "Köln: Pfeiler 1 #2", 'it\'s "new"'])
def test_a_model_may_lie_in_a_folder_of_any_name(run: Run, tmp_path: Path, name: str) -> None:
    model = make_bundle(tmp_path / "m" / name)
    out = tmp_path / "scores.csv"
    code, _, err = run("score", picture(tmp_path / "dark.png", 40), "--model", model, "--csv", out)
    assert code == 0, err
    assert "crack" in out.read_text()


def test_the_name_of_a_model_is_text_even_if_it_looks_like_a_number(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    code, _, err = run("score", picture(tmp_path / "dark.png", 40), "--model", "2026", "--csv", out)
    assert code == 5
    assert "no such name" in err


def test_an_empty_model_name_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    dark = picture(tmp_path / "dark.png", 40)
    code, _, err = run("score", dark, "--model", "", "--csv", tmp_path / "scores.csv")
    assert code == 2
    assert "vision.model" in err
    assert len(err.strip().splitlines()) == 1


def test_decoders_do_not_write_past_the_programs_own_messages(tmp_path: Path) -> None:
    odd = tmp_path / "float.tiff"
    cv2.imwrite(str(odd), np.zeros((300, 300), np.float32))
    command = [sys.executable, "-m", "drone_agent", "score", str(odd), "--csv", str(tmp_path / "scores.csv")]
    done = subprocess.run(
        [*command, "--model", str(make_bundle(tmp_path / "m"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["not scored"]


def test_check_passes_with_warnings_where_there_is_no_camera(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        "check", "--model", make_bundle(tmp_path / "m"), "--out", tmp_path, "--set", "camera.device=/dev/none"
    )
    assert code == 0, out
    assert "camera" in out
    assert "warning" in out
    assert "hash right, runs" in out


def test_check_fails_on_a_damaged_model(run: Run, tmp_path: Path) -> None:
    model = make_bundle(tmp_path / "m")
    with (model / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    code, out, _ = run("check", "--model", model, "--out", tmp_path)
    assert code == 1
    assert "failed" in out


def test_run_looks_through_the_configured_camera(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    code, _, err = run(
        "run",
        "--model",
        flight.model,
        "--out",
        tmp_path,
        "--set",
        "camera.source=video",
        "--set",
        f"camera.path={flight.video}",
    )
    assert code == 0, err
    folder = next(tmp_path.glob("flight-0001-*"))
    assert normalised_events(folder)[-1]["data"]["frames"] == flight.frames
    assert (folder / "manifest.json").is_file()


def test_run_refuses_paint_without_positions(run: Run, flight: ShortFlight, tmp_path: Path) -> None:
    code, _, err = run(
        "run",
        "--model",
        flight.model,
        "--out",
        tmp_path,
        "--set",
        "marking.armed=true",
        "--set",
        "marking.sprayer=gpio",
    )
    assert code == 2
    assert "marking.armed" in err


def test_the_reference_can_be_printed(run: Run) -> None:
    code, out, _ = run("config", "--reference")
    assert code == 0
    assert "standoff_m: 2.0" in out


def test_spray_test_opens_the_configured_valve_and_says_when(run: Run, tmp_path: Path) -> None:
    edges = tmp_path / "edges.txt"
    code, out, err = run(
        "spray-test", "--yes", "--no-vehicle", "--open-ms", 40, "--pulses", 1,
        "--set", "marking.sprayer=trace", "--set", f"marking.trace.path={edges}",
    )  # fmt: skip
    assert code == 0, err
    assert "pulse" in out.lower()
    levels = [line.split()[1] for line in edges.read_text().splitlines()]
    assert "1" in levels
    assert levels[-1] == "0", "the valve must be left closed"


def test_spray_test_refuses_where_nobody_knows_whether_the_vehicle_is_armed(run: Run, tmp_path: Path) -> None:
    edges = tmp_path / "edges.txt"
    trace = ("--set", "marking.sprayer=trace", "--set", f"marking.trace.path={edges}")
    code, _, err = run("spray-test", "--yes", *trace)
    assert code == 7
    assert "no vehicle connection" in err
    code, _, err = run(
        "spray-test", "--yes", "--no-vehicle", *trace, "--set", "vehicle.link.connection=udpin:127.0.0.1:14999"
    )
    assert code == 7
    assert "--no-vehicle" in err
    assert not edges.exists() or "1" not in [line.split()[1] for line in edges.read_text().splitlines()]
