from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drone_agent.app import ReplayRequest, replay_flight
from drone_agent.camera.opencv import VideoFileCamera
from drone_agent.config import load_config
from drone_agent.flightlog.reader import normalised_events
from drone_agent.values import Frame
from tests.flights import make_short_flight


def test_a_bug_in_flight_still_closes_the_log_and_never_says_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = make_short_flight(tmp_path / "recording", frames=4)
    config, _ = load_config("replay", None, [f"vision.model={flight.model}"])
    whole = VideoFileCamera.frames

    def two_frames_and_a_bug(camera: VideoFileCamera) -> Iterator[Frame]:
        for frame in whole(camera):
            if frame.index == 2:
                raise ZeroDivisionError
            yield frame

    monkeypatch.setattr(VideoFileCamera, "frames", two_frames_and_a_bug)
    with pytest.raises(ZeroDivisionError):
        replay_flight(config, ReplayRequest(flight.video, out=tmp_path / "out"))
    folder = tmp_path / "out" / "flight-0001-replay"
    end = normalised_events(folder)[-1]
    assert end["kind"] == "session_ended"
    assert end["data"]["reason"] == "error"
    assert end["data"]["frames"] == 2
    assert (folder / "manifest.json").is_file()
