"""What does a flight log say? Reads it back, whatever state the flight left it in.

Tolerant of what a pulled battery leaves behind (a torn or zero-filled last line, no manifest, no end) and of kinds
and keys that are newer than this program; each of these is said in `Flight.problems`, never passed over. Strict
about the schema's number, because a log of another schema would be misread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from drone_agent.errors import FlightLogError, InputError
from drone_agent.flightlog.files import why
from drone_agent.flightlog.manifest import verify_manifest
from drone_agent.flightlog.schema import (
    RECORDS,
    SCHEMA,
    SEGMENT_GLOB,
    SESSION_FILE,
    CleanSampleRecord,
    CoverageRecord,
    EndRecord,
    FaceRecord,
    FrameRecord,
    FramesDroppedRecord,
    NoteRecord,
    OrderRecord,
    PoseGapRecord,
    Record,
    RefusalRecord,
    ResultRecord,
    SessionStarted,
    SightingRecord,
)

_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One line as it stands in the log."""

    seq: int
    t_mono_ns: int
    kind: str
    data: Mapping[str, Any]
    utc_iso: str
    utc_valid: bool


@dataclass(frozen=True, slots=True)
class CoverageCell:
    """What is known of one cell of a face at the end of the flight."""

    column: int
    row: int
    good_looks: int
    unknown_looks: int
    log_odds: float | None


@dataclass(frozen=True)
class Flight:
    """One flight, read from its folder with `Flight.open`.

    `problems` says in plain lines what is wrong with the log itself (torn line, lost events, changed files). The
    typed accessors skip events whose particulars do not fit the schema and name them in `problems` as well.
    """

    folder: Path
    session: Mapping[str, Any]
    events: tuple[LoggedEvent, ...]
    problems: tuple[str, ...]
    clean: bool
    """Whether the flight ended cleanly: there is a manifest."""
    records: Mapping[str, tuple[Record, ...]] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Flight:
        """Reads the flight in `folder`; with `verify` every file is hashed and held against the manifest.

        Raises:
            InputError: `folder` is not a flight's folder.
            FlightLogError: The log cannot be read, or has another schema.
        """
        segments = _segments(folder)
        problems: list[str] = []
        session = _session(folder, problems)
        events = tuple(_events(segments, problems))
        problems += _lost(events)
        records = _records(events, problems)
        manifest = verify_manifest(folder) if verify else None
        problems += manifest or []
        clean = (folder / "manifest.json").is_file()
        if not clean:
            problems.append("no manifest.json: the flight did not end cleanly, files may be incomplete")
        return cls(folder, session, events, tuple(problems), clean, records)

    def of_kind(self, kind: str) -> list[LoggedEvent]:
        """All events of one kind as they stand in the log, in order."""
        return [event for event in self.events if event.kind == kind]

    def _all(self, kind: str, record: type[_R]) -> list[_R]:
        return [entry for entry in self.records.get(kind, ()) if isinstance(entry, record)]

    @property
    def name(self) -> str:
        """The flight's name: what session.json says, else the folder's."""
        return str(self.session.get("flight") or self.folder.resolve().name)

    @property
    def started(self) -> SessionStarted | None:
        """How the (first) session began."""
        return next(iter(self._all("session_started", SessionStarted)), None)

    @cached_property
    def faces(self) -> dict[str, FaceRecord]:
        """The faces by name; a face that was said twice counts as it was said last."""
        return {face.name: face for face in self._all("face", FaceRecord)}

    @cached_property
    def frames(self) -> list[FrameRecord]:
        """All frames, in order."""
        return self._all("frame", FrameRecord)

    @cached_property
    def sightings(self) -> list[SightingRecord]:
        """All confirmed sightings, in order."""
        return self._all("sighting", SightingRecord)

    @property
    def clean_samples(self) -> list[CleanSampleRecord]:
        """The random sample of clear tiles."""
        return self._all("clean_sample", CleanSampleRecord)

    @property
    def orders(self) -> list[OrderRecord]:
        """Spray orders."""
        return self._all("spray_order", OrderRecord)

    @property
    def refusals(self) -> list[RefusalRecord]:
        """Refused sprays."""
        return self._all("spray_refused", RefusalRecord)

    @property
    def results(self) -> list[ResultRecord]:
        """What became of the orders."""
        return self._all("spray_result", ResultRecord)

    @property
    def pose_gaps(self) -> list[PoseGapRecord]:
        """Stretches without a pose."""
        return self._all("pose_gap", PoseGapRecord)

    @property
    def dropped_frames(self) -> int:
        """Frames that the camera took and the agent did not see; each drop counted once.

        The count is in the frames themselves; `frames_dropped` events cover those for which no frame followed.
        """
        in_frames = sum(frame.dropped_before for frame in self.frames)
        in_events = sum(drop.count for drop in self._all("frames_dropped", FramesDroppedRecord))
        return max(in_frames, in_events)

    def notes(self, *kinds: str) -> list[tuple[str, NoteRecord]]:
        """Notes of the given kinds (`warning`, `error`, `camera_lost`, `telemetry_problem`) and their kind."""
        wanted = [(kind, note) for kind in kinds for note in self._all(kind, NoteRecord)]
        return sorted(wanted, key=lambda pair: pair[1].t_mono_ns)

    def cells(self, face: str) -> list[CoverageCell]:
        """The cells of `face` as the last coverage event left each, by row and column."""
        merged: dict[tuple[int, int], CoverageCell] = {}
        for event in self._all("coverage", CoverageRecord):
            if event.face == face:
                for column, row, good, unknown, log_odds in event.cells:
                    merged[row, column] = CoverageCell(column, row, good, unknown, log_odds)
        return [merged[key] for key in sorted(merged)]

    @property
    def ended(self) -> EndRecord | None:
        """The end of the (last) session; None if the flight was cut off."""
        ends = self._all("session_ended", EndRecord)
        return ends[-1] if ends else None

    def image_path(self, image: str | None) -> Path | None:
        """The file of an image named in an event; None if it was not kept or lies outside the folder."""
        if not image:
            return None
        path = (self.folder / image).resolve()
        inside = path.is_relative_to(self.folder.resolve())
        return path if inside and path.is_file() else None


def normalised_events(folder: Path) -> list[dict[str, Any]]:
    """The events as two replays of the same recording must have them: without `utc` and every `host_*` key.

    Raises:
        InputError, FlightLogError: As `Flight.open`.
    """
    return [
        {"seq": event.seq, "t_mono_ns": event.t_mono_ns, "kind": event.kind, "data": _without_host(event.data)}
        for event in Flight.open(folder).events
    ]


def last_seq(folder: Path) -> int:
    """The highest sequence number in the log, 0 for an empty one; torn lines are passed over."""
    return max((event.seq for event in _events(_segments(folder), [])), default=0)


def _without_host(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_host(item) for key, item in value.items() if key != "utc" and not key.startswith("host_")}
    if isinstance(value, list):
        return [_without_host(item) for item in value]
    return value


def _segments(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a flight")
    segments = sorted(folder.glob(SEGMENT_GLOB))
    if not segments:
        raise InputError(f"{folder}: not a flight's folder (no events-0001.jsonl in it)")
    return segments


def _session(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    path = folder / SESSION_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{SESSION_FILE} is missing: configuration and model are not known")
        return {}
    except (OSError, ValueError) as error:
        problems.append(
            f"{SESSION_FILE} cannot be read ({type(error).__name__}): configuration and model are not known"
        )
        return {}
    if not isinstance(document, dict):
        problems.append(f"{SESSION_FILE} is not a JSON object: configuration and model are not known")
        return {}
    _check_schema(path, document.get("schema"))
    return document


def _check_schema(where: object, schema: object) -> None:
    if schema != SCHEMA:
        raise FlightLogError(f"{where}: written with schema {schema!r}; this program reads schema {SCHEMA}")


def _events(segments: Sequence[Path], problems: list[str]) -> Iterator[LoggedEvent]:
    for path in segments:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FlightLogError(f"cannot read {path}: {why(error)}") from error
        lines = content.split(b"\n")
        # whatever follows the last newline was being written when the power went
        torn = lines.pop()
        for number, line in enumerate(lines, start=1):
            event = _parse(path, number, line)
            if event is not None:
                yield event
            elif line.strip(b"\x00\r\t "):
                problems.append(f"{path.name}, line {number}: not readable, one event is lost")
        if torn:
            what = "zero-filled" if not torn.strip(b"\x00") else "torn"
            problems.append(f"{path.name}: the last line is {what} ({len(torn)} bytes left out)")


def _parse(path: Path, number: int, line: bytes) -> LoggedEvent | None:
    """One line; None if it is damaged. Raises FlightLogError for another schema."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    if "schema" in document:
        _check_schema(f"{path}, line {number}", document["schema"])
    seq, t_mono_ns, kind = document.get("seq"), document.get("t_mono_ns"), document.get("kind")
    data, utc = document.get("data"), document.get("utc")
    if not (isinstance(seq, int) and isinstance(t_mono_ns, int) and isinstance(kind, str) and isinstance(data, dict)):
        return None
    stamp = utc if isinstance(utc, dict) else {}
    return LoggedEvent(seq, t_mono_ns, kind, data, str(stamp.get("iso", "")), bool(stamp.get("valid", False)))


def _lost(events: Sequence[LoggedEvent]) -> list[str]:
    """Jumps in the sequence numbers."""
    problems = []
    expected = 1
    for event in events:
        if event.seq > expected:
            problems.append(f"events {expected} to {event.seq - 1} are missing")
        elif event.seq < expected:
            problems.append(f"event number {event.seq} comes after {expected - 1}")
        expected = event.seq + 1
    return problems


def _records(events: Sequence[LoggedEvent], problems: list[str]) -> dict[str, tuple[Record, ...]]:
    records: dict[str, list[Record]] = {}
    unknown: dict[str, int] = {}
    for event in events:
        record = RECORDS.get(event.kind)
        if record is None:
            unknown[event.kind] = unknown.get(event.kind, 0) + 1
            continue
        try:
            entry = record.model_validate({**event.data, "t_mono_ns": event.t_mono_ns})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            problems.append(f"event {event.seq} ({event.kind}) is left out: {key}: {first['msg']}")
            continue
        records.setdefault(event.kind, []).append(entry)
    problems += [f"{count} events of the unknown kind {kind!r} are left out" for kind, count in sorted(unknown.items())]
    return {kind: tuple(entries) for kind, entries in records.items()}
