"""The log of the shipped demo flight is held against a reference; renew it with `pytest tests/replay --update-golden`."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drone_agent.app import ReplayRequest, replay_flight
from drone_agent.config import load_config
from drone_agent.flightlog.reader import normalised_events
from drone_agent.simulation.recording import shipped_recording

GOLDEN = Path(__file__).parent / "demo.golden.jsonl.gz"
MODEL = "mobilenetv2"

# The integer part of the model is exact on every processor; the float part and the video decoder may round differently.
ABSOLUTE = 0.02
RELATIVE = 0.005


def replay_demo(out: Path) -> Path:
    flight = shipped_recording()
    config, layers = load_config("replay", None, [f"vision.model={MODEL}"])
    request = ReplayRequest(flight.video, flight.telemetry, flight.frames_csv, flight.camera, out)
    outcome = replay_flight(config, request, layers=layers)
    assert outcome.error is None
    return outcome.folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replay_demo(tmp_path_factory.mktemp("first"))


def differences(found: Any, golden: Any, where: str) -> Iterator[str]:
    if isinstance(golden, dict) and isinstance(found, dict):
        for key in sorted({*golden, *found}):
            yield from differences(found.get(key), golden.get(key), f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        for index, (left, right) in enumerate(zip(found, golden, strict=True)):
            yield from differences(left, right, f"{where}[{index}]")
    elif isinstance(golden, float) or isinstance(found, float):
        if found is None or golden is None or not math.isclose(found, golden, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{where}: found {found}, golden {golden}"
    elif found != golden:
        yield f"{where}: found {found}, golden {golden}"


def test_the_demo_flight_gives_the_golden_log(demo: Path, update_golden: bool) -> None:
    events = normalised_events(demo)
    if update_golden:
        lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
        GOLDEN.write_bytes(gzip.compress(lines.encode(), mtime=0))
    golden = [json.loads(line) for line in gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()]
    found = json.loads(json.dumps(events))
    assert [event["kind"] for event in found] == [event["kind"] for event in golden]
    different = [
        line
        for left, right in zip(found, golden, strict=True)
        for line in differences(left, right, f"event {right['seq']}")
    ]
    assert different[:10] == []


def test_two_replays_give_the_same_log_and_the_same_images(demo: Path, tmp_path: Path) -> None:
    again = replay_demo(tmp_path)
    assert normalised_events(again) == normalised_events(demo)
    images = sorted(path.name for path in (demo / "images").iterdir())
    assert images
    assert images == sorted(path.name for path in (again / "images").iterdir())
    for name in images:
        assert (again / "images" / name).read_bytes() == (demo / "images" / name).read_bytes()


def test_every_frame_of_the_recording_is_in_the_log(demo: Path) -> None:
    frames = [event for event in normalised_events(demo) if event["kind"] == "frame"]
    listed = shipped_recording().frames_csv.read_text().splitlines()[1:]
    assert [event["data"]["index"] for event in frames] == [int(line.split(",")[0]) for line in listed]
