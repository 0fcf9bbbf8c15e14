"""The live loop with real parts: a decoder behind the supervised camera, MAVLink over loopback, the log's thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from drone_agent.app import run_live
from drone_agent.config import AgentConfig, load_config
from drone_agent.errors import ConfigError
from drone_agent.flightlog.reader import normalised_events
from drone_agent.flightlog.schema import MANIFEST_FILE, TELEMETRY_FILE
from drone_agent.vehicle.tlog import Damage, records
from tests.fakes.autopilot import FakeAutopilot
from tests.flights import ShortFlight, make_short_flight


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> ShortFlight:
    return make_short_flight(tmp_path_factory.mktemp("recording"))


def settings(recording: ShortFlight, *more: str) -> AgentConfig:
    """A network stream that is a file: decoded by FFmpeg as a stream would be, and opened again at its end."""
    config, _ = load_config(
        None,
        None,
        [
            "camera.source=rtsp",
            f"camera.url={recording.video}",
            "camera.reconnect_first_ms=10",
            f"vision.model={recording.model}",
            "vision.quality.enabled=false",
            *more,
        ],
    )
    return config


def test_every_frame_gets_the_pose_of_its_moment(recording: ShortFlight, tmp_path: Path) -> None:
    with FakeAutopilot() as autopilot:
        config = settings(recording, f"vehicle.link.connection={autopilot.connection}")
        outcome = run_live(config, tmp_path, max_frames=6)
    assert outcome.error is None
    frames = [event["data"] for event in normalised_events(outcome.folder) if event["kind"] == "frame"]
    assert len(frames) == 6
    placed = [frame for frame in frames if frame["no_pose"] is None]
    assert placed, [frame["no_pose"] for frame in frames]
    assert all(frame["pose"]["gap_ms"] <= 300 for frame in placed)


def test_every_packet_of_the_autopilot_is_kept(recording: ShortFlight, tmp_path: Path) -> None:
    with FakeAutopilot() as autopilot:
        outcome = run_live(
            settings(recording, f"vehicle.link.connection={autopilot.connection}"), tmp_path, max_frames=3
        )
    damage = Damage()
    kept = list(records((outcome.folder / TELEMETRY_FILE).read_bytes(), damage))
    assert len(kept) > 10
    assert damage == Damage()
    assert TELEMETRY_FILE in (outcome.folder / MANIFEST_FILE).read_text()


def test_a_disarmed_vehicle_gets_no_paint_and_the_log_says_why(recording: ShortFlight, tmp_path: Path) -> None:
    with FakeAutopilot() as autopilot:
        config = settings(
            recording,
            f"vehicle.link.connection={autopilot.connection}",
            "marking.armed=true",
            "inspection.min_looks=1",
            "inspection.confirm_log_odds=0.5",
        )
        outcome = run_live(config, tmp_path, max_frames=12)
    events = normalised_events(outcome.folder)
    refusals = [event["data"]["reasons"] for event in events if event["kind"] == "spray_refused"]
    assert refusals, "nothing was offered to the gate, so the test shows nothing"
    assert all("vehicle_disarmed" in reasons for reasons in refusals), refusals
    assert not [event for event in events if event["kind"] == "spray_order"]


def test_a_flight_that_was_cut_off_is_continued_with_its_ledger(recording: ShortFlight, tmp_path: Path) -> None:
    with FakeAutopilot() as autopilot:
        config = settings(recording, f"vehicle.link.connection={autopilot.connection}")
        first = run_live(config, tmp_path, max_frames=2)
        (first.folder / MANIFEST_FILE).unlink()
        second = run_live(config, tmp_path, max_frames=2)
    assert second.folder == first.folder
    events = normalised_events(second.folder)
    assert any("continued after a restart" in str(event["data"].get("detail")) for event in events)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_paint_needs_a_vehicle(recording: ShortFlight, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vehicle\.link\.connection is not set"):
        run_live(settings(recording, "marking.armed=true", "marking.sprayer=gpio"), tmp_path)
    assert list(tmp_path.iterdir()) == []
