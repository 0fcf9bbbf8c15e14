from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drone_agent.clock import ManualClock
from drone_agent.errors import FlightLogError, InputError
from drone_agent.flightlog.reader import Flight, normalised_events
from drone_agent.values import Event
from tests.flightlog.flights import empty_flight, new_log, wall_flight


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wall_flight(tmp_path_factory.mktemp("flights"), frames=60, sightings=6)


def write_lines(folder: Path, *lines: Any, name: str = "events-0001.jsonl") -> None:
    folder.mkdir(exist_ok=True)
    text = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in text))


def line(seq: int, kind: str = "frame", **data: Any) -> dict[str, Any]:
    utc = {"iso": "1970-01-01T00:00:00+00:00", "valid": False}
    return {"schema": 1, "seq": seq, "t_mono_ns": seq, "utc": utc, "kind": kind, "data": data}


def test_a_whole_flight_is_read_back(wall: Path) -> None:
    flight = Flight.open(wall, verify=True)
    assert flight.problems == ()
    assert flight.clean
    assert flight.name == wall.name
    assert flight.started is not None
    assert flight.started.source == "video.mp4"
    assert len(flight.frames) == 60
    assert [s.id for s in flight.sightings] == [1, 2, 3, 4, 5, 6]
    assert len(flight.orders) == len(flight.results) == 5
    assert [r.reasons for r in flight.refusals] == [("cool_down",)]
    assert flight.dropped_frames == 3
    assert flight.ended is not None
    assert flight.ended.reason == "completed"
    first = flight.sightings[0]
    image = flight.image_path(first.image)
    assert image is not None
    assert image.read_bytes()[:2] == b"\xff\xd8"
    assert first.cell == (int(first.along / 0.05), int(first.height / 0.05))


def test_coverage_is_what_was_said_last_of_each_cell(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    log.event(Event("coverage", 0, {"face": "a", "cells": [[1, 0, 1, 0, -1.0], [0, 0, 1, 0, -1.0]]}))
    log.event(Event("coverage", 1, {"face": "a", "cells": [[1, 0, 2, 1, 4.5]]}))
    log.event(Event("coverage", 1, {"face": "b", "cells": [[1, 0, 9, 9, None]]}))
    log.close()
    cells = Flight.open(log.folder).cells("a")
    assert [(c.column, c.row, c.good_looks, c.unknown_looks, c.log_odds) for c in cells] == [
        (0, 0, 1, 0, -1.0),
        (1, 0, 2, 1, 4.5),
    ]


def test_a_torn_last_line_is_left_out_and_said(wall: Path, tmp_path: Path) -> None:
    content = (wall / "events-0001.jsonl").read_bytes()
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / "events-0001.jsonl").write_bytes(content[:-40])
    flight = Flight.open(folder)
    assert len(flight.events) == content.count(b"\n") - 1
    assert any("torn" in problem for problem in flight.problems)
    assert any("session.json is missing" in problem for problem in flight.problems)
    assert flight.ended is None
    assert not flight.clean


def test_a_zero_filled_tail_is_left_out_and_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1))
    with (tmp_path / "f/events-0001.jsonl").open("ab") as file:
        file.write(bytes(4096))
    flight = Flight.open(tmp_path / "f")
    assert [event.seq for event in flight.events] == [1]
    assert any("zero-filled (4096 bytes" in problem for problem in flight.problems)


def test_a_damaged_line_in_the_middle_costs_itself_only(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1), b'{"schema":1,"seq":2,"t_\xff\xfe', line(3), b"[1]", b'{"schema":1,"seq":"x"}')
    flight = Flight.open(tmp_path / "f")
    assert [event.seq for event in flight.events] == [1, 3]
    text = "\n".join(flight.problems)
    assert "line 2: not readable" in text
    assert "line 4: not readable" in text
    assert "line 5: not readable" in text
    assert "events 2 to 2 are missing" in text


def test_segments_are_read_in_order(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(3), name="events-0002.jsonl")
    write_lines(tmp_path / "f", line(1), line(2), name="events-0001.jsonl")
    assert [event.seq for event in Flight.open(tmp_path / "f").events] == [1, 2, 3]


def test_unknown_kinds_and_keys_are_tolerated_and_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1, "frame", index=0, novelty=1), line(2, "moon_phase"), line(3, "moon_phase"))
    flight = Flight.open(tmp_path / "f")
    assert [frame.index for frame in flight.frames] == [0]
    assert "2 events of the unknown kind 'moon_phase' are left out" in flight.problems
    assert len(flight.of_kind("moon_phase")) == 2


def test_an_event_that_does_not_fit_its_kind_is_left_out_and_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1, "sighting", id="many"), line(2, "frame", index=0))
    flight = Flight.open(tmp_path / "f")
    assert flight.sightings == []
    assert len(flight.frames) == 1
    assert any(problem.startswith("event 1 (sighting) is left out: ") for problem in flight.problems)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1), {**line(2), "schema": 2})
    with pytest.raises(FlightLogError, match="line 2: written with schema 2; this program reads schema 1"):
        Flight.open(tmp_path / "f")


def test_another_schema_in_the_session_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", line(1))
    (tmp_path / "f/session.json").write_text('{"schema": 9}')
    with pytest.raises(FlightLogError, match="schema 9"):
        Flight.open(tmp_path / "f")


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x00"])
def test_a_damaged_session_is_said_and_the_events_are_read(tmp_path: Path, content: str) -> None:
    write_lines(tmp_path / "f", line(1))
    (tmp_path / "f/session.json").write_text(content)
    flight = Flight.open(tmp_path / "f")
    assert flight.session == {}
    assert len(flight.events) == 1
    assert any("session.json" in problem for problem in flight.problems)


def test_a_folder_without_a_flight_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Flight.open(tmp_path / "nothing")
    with pytest.raises(InputError, match="not a flight's folder"):
        Flight.open(tmp_path)


def test_an_image_name_cannot_lead_out_of_the_folder(wall: Path) -> None:
    flight = Flight.open(wall)
    (wall.parent / "secret.txt").write_text("x")
    assert flight.image_path("../secret.txt") is None
    assert flight.image_path("/etc/hostname") is None
    assert flight.image_path("images/none.jpg") is None
    assert flight.image_path("") is None


def test_normalised_events_leave_out_utc_and_everything_of_the_host(tmp_path: Path) -> None:
    log = new_log(tmp_path, clock=ManualClock())
    log.event(
        Event("frame", 3, {"index": 0, "host_ms": {"model": 3.0}, "pose": {"utc": "x", "host_x": 1, "yaw_deg": 2}})
    )
    log.close()
    assert normalised_events(log.folder) == [
        {"seq": 1, "t_mono_ns": 3, "kind": "frame", "data": {"index": 0, "pose": {"yaw_deg": 2}}}
    ]


def test_a_lost_camera_is_among_the_notes(tmp_path: Path) -> None:
    flight = Flight.open(empty_flight(tmp_path))
    assert [(kind, note.detail) for kind, note in flight.notes("camera_lost", "error")] == [
        ("camera_lost", "no frame within 5.0 s")
    ]
    assert flight.frames == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cut=st.integers(0, 20_000), noise=st.binary(max_size=40), where=st.integers(0, 20_000))
def test_no_damage_stops_the_reader_or_invents_events(
    wall: Path, tmp_path: Path, cut: int, noise: bytes, where: int
) -> None:
    content = (wall / "events-0001.jsonl").read_bytes()[: 20_000 - cut]
    where = min(where, len(content))
    damaged = content[:where] + noise + content[where + len(noise) :]
    (tmp_path / "events-0001.jsonl").write_bytes(damaged)
    try:
        flight = Flight.open(tmp_path)
    except FlightLogError:
        assert b'"schema":1,"seq"' in content
        assert noise
        return
    assert len(flight.events) <= damaged.count(b"\n")
    whole = {event.seq for event in Flight.open(wall).events}
    untouched = [event.seq for event in flight.events if event.seq in whole]
    assert len(untouched) >= content.count(b"\n") - 1 - max(1, noise.count(b"\n") + 2)
