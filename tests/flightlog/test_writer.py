from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drone_agent.clock import ManualClock, UtcStamp
from drone_agent.errors import FlightLogError
from drone_agent.flightlog.manifest import verify_manifest
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import plain
from drone_agent.flightlog.settings import FlightLogSettings
from drone_agent.flightlog.writer import FlightLogWriter, find_unfinished, read_boot_id
from drone_agent.ports import FlightLog
from drone_agent.values import Event
from tests.flightlog.flights import BOOT_ID, concrete_tile

TILE = concrete_tile(1, crack=True)
NO_RESERVE: dict[str, Any] = {"min_free_mb": 0.0}


def make(root: Path, *, threaded: bool = False, clock: ManualClock | None = None, **settings: Any) -> FlightLogWriter:
    free_bytes = settings.pop("free_bytes", None)
    return FlightLogWriter.create(
        root,
        clock=clock or ManualClock(),
        settings=FlightLogSettings.model_validate({**NO_RESERVE, **settings}),
        session={"mode": "run"},
        boot_id=BOOT_ID,
        threaded=threaded,
        free_bytes=free_bytes,
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted(folder.glob("events-*.jsonl")) for line in path.read_bytes().splitlines()
    ]


def is_healthy(log: FlightLogWriter) -> bool:
    return log.healthy


@pytest.fixture
def fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files (not folders) that were fsynced, in order."""
    real, names = os.fsync, []

    def spy(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return names


class FullDisk:
    """Makes every write to a segment fail after `room` bytes, as a full disk does: half a line may get through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writer: FlightLogWriter) -> None:
        self.room: int | None = 0
        outer = self

        class Limited(io.FileIO):
            def write(self, data: Any, /) -> int:
                if outer.room is None:
                    return super().write(data)
                if outer.room == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                part = bytes(data)[: outer.room]
                outer.room -= len(part)
                return super().write(part)

        assert writer._file is not None
        limited = Limited(writer._file.name, "r+b")
        limited.seek(0, os.SEEK_END)
        monkeypatch.setattr(writer, "_file", limited)


def test_writer_is_a_flight_log(tmp_path: Path) -> None:
    log: FlightLog = make(tmp_path)
    assert log.folder.is_dir()
    log.close()


def test_folder_is_named_by_counter_and_boot_not_by_date(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    assert [first.folder.name, second.folder.name] == ["flight-0001-3fa2b1c4", "flight-0002-3fa2b1c4"]


def test_counter_goes_on_after_the_highest_even_if_earlier_flights_were_deleted(tmp_path: Path) -> None:
    (tmp_path / "flight-0041-aaaaaaaa").mkdir()
    assert make(tmp_path).folder.name == "flight-0042-3fa2b1c4"


def test_a_flight_is_never_overwritten(tmp_path: Path) -> None:
    def create() -> FlightLogWriter:
        return FlightLogWriter.create(
            tmp_path,
            clock=ManualClock(),
            settings=FlightLogSettings(),
            session={},
            boot_id="b",
            name="wall",
            threaded=False,
        )

    create().close()
    with pytest.raises(FlightLogError, match="already exists"):
        create()


def test_session_json_holds_what_was_given_and_how_it_began(tmp_path: Path) -> None:
    clock = ManualClock(5, UtcStamp("2025-06-12T09:30:00.000+00:00", valid=True))
    session = json.loads((make(tmp_path, clock=clock).folder / "session.json").read_text())
    assert session["mode"] == "run"
    assert session["boot_id"] == BOOT_ID
    assert session["started"] == {"t_mono_ns": 5, "utc": {"iso": "2025-06-12T09:30:00.000+00:00", "valid": True}}


def test_a_line_has_the_keys_of_the_schema_in_order_and_rounded_numbers(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.event(
        Event(
            "sighting",
            7,
            {
                "zebra": 1,
                "lat_deg": np.float64(47.123456789123),
                "height": 2.34567891,
                "p_max": np.float32(0.1),
                "face": "wall",
                "id": np.int64(1),
                "cell": np.array([3, 4]),
                "range_m": float("nan"),
                "incidence_deg": -0.00001,
            },
        )
    )
    text = (log.folder / "events-0001.jsonl").read_text()
    assert text == (
        '{"schema":1,"seq":1,"t_mono_ns":7,"utc":{"iso":"1970-01-01T00:00:00.000+00:00","valid":false},"kind":"sighting",'
        '"data":{"id":1,"face":"wall","height":2.3457,"cell":[3,4],"p_max":0.1,"lat_deg":47.12345679,"range_m":null,'
        '"incidence_deg":0.0,"zebra":1}}\n'
    )


def test_what_has_no_place_in_a_log_is_refused(tmp_path: Path) -> None:
    log = make(tmp_path)
    with pytest.raises(TypeError, match="frame: a object"):
        log.event(Event("warning", 0, {"frame": object()}))


def test_segments_stay_below_their_size_and_keep_the_order(tmp_path: Path) -> None:
    log = make(tmp_path, segment_mb=0.001)
    for number in range(40):
        log.event(Event("warning", number, {"detail": "x" * 60}))
    log.close()
    segments = sorted(log.folder.glob("events-*.jsonl"))
    assert len(segments) > 4
    assert all(path.stat().st_size <= 1000 for path in segments)
    assert [line["seq"] for line in lines(log.folder)] == list(range(1, 41))


def test_a_line_longer_than_a_segment_is_still_kept(tmp_path: Path) -> None:
    log = make(tmp_path, segment_mb=0.001)
    log.event(Event("warning", 0, {"detail": "y" * 5000}))
    log.event(Event("warning", 1, {"detail": "z"}))
    log.close()
    assert [len(line["data"]["detail"]) for line in lines(log.folder)] == [5000, 1]


def test_important_events_are_forced_to_the_card_at_once(tmp_path: Path, fsyncs: list[str]) -> None:
    log = make(tmp_path, fsync="important", fsync_every_s=10.0)
    fsyncs.clear()
    log.event(Event("frame", 0, {}))
    assert fsyncs == []
    log.event(Event("sighting", 0, {}))
    assert fsyncs == ["events-0001.jsonl"]


def test_ordinary_events_are_forced_to_the_card_by_the_clock_that_was_given(tmp_path: Path, fsyncs: list[str]) -> None:
    clock = ManualClock()
    log = make(tmp_path, clock=clock, fsync="interval", fsync_every_s=2.0)
    fsyncs.clear()
    log.event(Event("sighting", 0, {}))
    assert fsyncs == []
    clock.set(2_000_000_000)
    log.event(Event("frame", 0, {}))
    assert fsyncs == ["events-0001.jsonl"]
    log.event(Event("frame", 0, {}))
    assert fsyncs == ["events-0001.jsonl"]


def test_an_image_is_whole_or_absent(tmp_path: Path, fsyncs: list[str]) -> None:
    log = make(tmp_path)
    fsyncs.clear()
    assert log.image("sighting-0001", TILE, {"id": 1}) == "images/sighting-0001.jpg"
    # fsynced under its temporary name before the rename, its folder after it
    assert fsyncs == ["sighting-0001.jpg.tmp", "images"]
    assert [path.name for path in (log.folder / "images").iterdir()] == ["sighting-0001.jpg"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_an_image_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="image name"):
        make(tmp_path).image(name, TILE, {})


def test_a_clean_end_leaves_hashes_of_everything(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.event(Event("session_started", 0, {}))
    log.image("sighting-0001", TILE, {})
    source = tmp_path / "recording.tlog"
    source.write_bytes(b"mavlink")
    assert log.attach(source, "telemetry.tlog").read_bytes() == b"mavlink"
    assert verify_manifest(log.folder) is None
    log.close()
    log.close()
    manifest = json.loads((log.folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"events-0001.jsonl", "images/sighting-0001.jpg", "session.json", "telemetry.tlog"}
    assert verify_manifest(log.folder) == []


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.image("a", TILE, {})
    log.image("b", TILE, {})
    log.close()
    (log.folder / "images/a.jpg").unlink()
    (log.folder / "images/b.jpg").write_bytes(b"other")
    (log.folder / "report.html").write_text("added later")
    problems = verify_manifest(log.folder)
    assert problems == [
        "images/a.jpg: listed in the manifest, but missing",
        "images/b.jpg: changed since the flight ended",
    ]


def test_an_attachment_that_cannot_be_read_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    log = make(tmp_path)
    with pytest.raises(FlightLogError, match=r"cannot copy .*nothere.tlog"):
        log.attach(tmp_path / "nothere.tlog", "telemetry.tlog")
    assert not list(log.folder.glob("telemetry*"))


def test_a_folder_that_cannot_be_created_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlightLogError, match="cannot create a flight folder") as caught:
        make(tmp_path / "file" / "flights")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount nothing; a user meets a plain read-only folder")
def test_a_read_only_file_system_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match="cannot create a flight folder"):
        make(Path("/proc/flights"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(FlightLogError, match="permission denied"):
        make(tmp_path / "flights")


def test_a_full_disk_is_an_error_and_what_was_written_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make(tmp_path)
    log.event(Event("session_started", 0, {}))
    disk = FullDisk(monkeypatch, log)
    disk.room = 25
    with pytest.raises(FlightLogError, match="the disk is full"):
        log.event(Event("frame", 1, {"index": 0}))
    assert not is_healthy(log)
    assert [line["kind"] for line in lines(log.folder)] == ["session_started"]

    disk.room = None
    log.event(Event("frame", 2, {"index": 1}))
    assert is_healthy(log)
    assert [(line["seq"], line["t_mono_ns"]) for line in lines(log.folder)] == [(1, 0), (3, 2)]
    log.close()
    assert "events 2 to 2 are missing" in Flight.open(log.folder).problems


def test_after_a_full_disk_there_is_no_manifest_and_close_says_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make(tmp_path)
    FullDisk(monkeypatch, log)
    with pytest.raises(FlightLogError):
        log.event(Event("frame", 1, {}))
    log.close()
    assert not (log.folder / "manifest.json").exists()


def test_a_failing_image_becomes_a_warning_and_the_events_go_on(tmp_path: Path) -> None:
    log = make(tmp_path)
    (log.folder / "images").rmdir()
    assert log.image("sighting-0001", TILE, {}) == ""
    log.event(Event("frame", 1, {}))
    assert [line["kind"] for line in lines(log.folder)] == ["warning", "frame"]
    assert "sighting-0001 was not kept" in lines(log.folder)[0]["data"]["detail"]
    assert log.stats.images_refused == 1


def test_an_image_that_cannot_be_encoded_becomes_a_warning(tmp_path: Path) -> None:
    log = make(tmp_path)
    assert log.image("bad", np.zeros((0, 0, 3), np.uint8), {}) == ""
    assert "cannot be encoded" in lines(log.folder)[0]["data"]["detail"]


def test_when_space_gets_short_samples_stop_first_then_findings_never_events(tmp_path: Path) -> None:
    free = [80_000_000]
    log = make(tmp_path, min_free_mb=100.0, free_bytes=lambda _folder: free[0])
    log._space._look_every = 1
    assert log.image("clean-1", TILE, {"kind": "clean_sample"}) == ""
    assert log.image("clean-2", TILE, {"kind": "clean_sample"}) == ""
    assert log.image("sighting-1", TILE, {}) == "images/sighting-1.jpg"
    free[0] = 40_000_000
    log._space._until_look = 0
    assert log.image("sighting-2", TILE, {}) == ""
    log.event(Event("frame", 1, {}))
    details = [line["data"].get("detail", "") for line in lines(log.folder)]
    assert [detail.split(" no longer")[0] for detail in details] == ["clean samples are", "images are", ""]
    assert "80 MB free, 100 MB" in details[0]


def test_resume_continues_the_numbers_in_a_new_segment(tmp_path: Path) -> None:
    first = make(tmp_path)
    for number in range(3):
        first.event(Event("frame", number, {"index": number}))
    with (first.folder / "events-0001.jsonl").open("ab") as file:
        file.write(b'{"schema":1,"seq":4,"t_mo')
    assert find_unfinished(tmp_path, BOOT_ID) == first.folder
    assert find_unfinished(tmp_path, "ffffffff-0000") is None

    again = FlightLogWriter.resume(first.folder, clock=ManualClock(), settings=FlightLogSettings(), threaded=False)
    again.event(Event("frame", 9, {"index": 3}))
    again.close()
    flight = Flight.open(first.folder)
    assert [event.seq for event in flight.events] == [1, 2, 3, 4]
    assert flight.problems == ("events-0001.jsonl: the last line is torn (25 bytes left out)",)
    assert find_unfinished(tmp_path, BOOT_ID) is None
    with pytest.raises(FlightLogError, match="has ended"):
        FlightLogWriter.resume(first.folder, clock=ManualClock(), settings=FlightLogSettings())


def test_resume_needs_a_flight(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match="no events here"):
        FlightLogWriter.resume(tmp_path, clock=ManualClock(), settings=FlightLogSettings())


def test_the_thread_writes_the_same_bytes_as_the_caller_would(tmp_path: Path) -> None:
    content = []
    for threaded in (False, True):
        log = make(tmp_path, threaded=threaded, queue_length=8)
        for number in range(100):
            if number % 10 == 0:
                log.image(f"sighting-{number:04d}", TILE, {"id": number})
            log.event(Event("frame", number, {"index": number}))
        log.close()
        files = sorted(path for path in log.folder.rglob("*") if path.is_file() and path.name[0] not in "ms")
        content.append([path.read_bytes() for path in files])
        assert log.stats.events == 100
        assert log.stats.images == 10
    assert content[0] == content[1]


def test_a_full_queue_blocks_and_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make(tmp_path, threaded=True, queue_length=8)
    gate, real = threading.Event(), log._append

    def slow(*args: Any) -> None:
        gate.wait(30)
        real(*args)

    monkeypatch.setattr(log, "_append", slow)
    sent = threading.Event()

    def produce() -> None:
        for number in range(60):
            log.event(Event("frame", number, {"index": number}))
        sent.set()

    producer = threading.Thread(target=produce)
    producer.start()
    assert not sent.wait(0.3)
    gate.set()
    producer.join(30)
    log.close()
    assert [line["data"]["index"] for line in lines(log.folder)] == list(range(60))
    assert log.stats.queue_peak >= 8


def test_a_spray_order_is_with_the_kernel_before_event_returns(tmp_path: Path) -> None:
    log = make(tmp_path, threaded=True)
    for number in range(20):
        log.event(Event("frame", number, {}))
        log.event(Event("spray_order", number, {"order_id": number}))
        assert lines(log.folder)[-1]["data"]["order_id"] == number
    log.close()


def test_a_failure_in_the_thread_reaches_the_caller_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make(tmp_path, threaded=True)
    FullDisk(monkeypatch, log)
    with pytest.raises(FlightLogError, match="the disk is full"):
        log.event(Event("spray_order", 0, {}))
    assert not log.healthy
    log.close()
    assert not (log.folder / "manifest.json").exists()


def test_a_failure_that_nobody_was_told_of_comes_out_at_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make(tmp_path, threaded=True)
    FullDisk(monkeypatch, log)
    log.event(Event("frame", 0, {}))
    with pytest.raises(FlightLogError, match="the disk is full"):
        log.close()


def test_a_programming_error_in_the_thread_does_not_kill_it_silently(tmp_path: Path) -> None:
    log = make(tmp_path, threaded=True)
    log.event(Event("frame", 0, {"x": object()}))
    with pytest.raises(FlightLogError, match="a object cannot be written"):
        log.close()


def test_the_thread_gives_a_sign_of_life_without_work(tmp_path: Path) -> None:
    beat = threading.Event()
    log = FlightLogWriter.create(
        tmp_path, clock=ManualClock(), settings=FlightLogSettings(), session={}, boot_id="b", on_beat=beat.set
    )
    for _ in range(2):
        beat.clear()
        assert beat.wait(30)
    log.close()


def test_an_image_may_be_changed_by_the_caller_after_it_was_handed_over(tmp_path: Path) -> None:
    log = make(tmp_path, threaded=True)
    image = np.full((64, 64, 3), 200, np.uint8)
    log.image("a", image, {})
    image[:] = 0
    log.close()
    import cv2

    kept = cv2.imread(str(log.folder / "images/a.jpg"))
    assert kept is not None
    assert kept.mean() > 190


@pytest.mark.parametrize("use", [lambda log: log.event(Event("frame", 0, {})), lambda log: log.image("a", TILE, {})])
def test_a_closed_log_takes_nothing_more(tmp_path: Path, use: Callable[[FlightLogWriter], object]) -> None:
    log = make(tmp_path)
    log.close()
    with pytest.raises(FlightLogError, match="closed"):
        use(log)


def test_boot_id_is_the_kernels_or_says_that_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("3fa2b1c4-0d6e\n")
    assert read_boot_id(tmp_path / "id") == "3fa2b1c4-0d6e"
    assert read_boot_id(tmp_path / "none") == "noboot"


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    from tests.flightlog.flights import wall_flight

    first = wall_flight(tmp_path / "a", name="f", frames=30, sightings=4)
    second = wall_flight(tmp_path / "b", name="f", frames=30, sightings=4)
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


@pytest.mark.parametrize("key", ["lat_deg", "lon_deg", "camera_lat_deg", "camera_lon_deg"])
def test_every_wgs84_coordinate_keeps_the_digits_of_a_millimetre(key: str) -> None:
    assert plain({key: 47.481418171234}) == {key: 47.48141817}
