"""What does a line of the flight log say: kinds, keys, units, and how many digits are worth keeping.

A flight is a folder::

    session.json          configuration, model, host, boot id; written once at the start
    events-0001.jsonl     one event a line; further segments follow when one is full or after a restart
    images/*.jpg          evidence, named by the events
    telemetry.tlog        raw MAVLink, as received
    manifest.json         SHA-256 of every file; its absence says that the flight did not end cleanly

A line is ``{"schema":1,"seq":n,"t_mono_ns":..,"utc":{"iso":..,"valid":..},"kind":..,"data":{..}}``. `seq` rises by
one within a flight, also over a restart: a jump means that an event was lost. `t_mono_ns` is the time of the event on
the log's monotonic clock; `utc` is only an annotation. Angles are degrees here, radians inside the agent.

Numbers are rounded when they are written, by their key (see `DIGITS`): 8 decimals for latitude and longitude are
1 mm, 4 for metres are 0.1 mm, 4 for a probability. More would be noise and differ from machine to machine. A number
that is not finite becomes null.

Keys that begin with ``host_`` tell of the machine (durations, loads); they and `utc` are left out when two logs are
compared. Readers ignore keys and kinds that they do not know, and refuse another `schema` number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

SCHEMA = 1

SESSION_FILE = "session.json"
MANIFEST_FILE = "manifest.json"
IMAGE_FOLDER = "images"
TELEMETRY_FILE = "telemetry.tlog"
SEGMENT_GLOB = "events-[0-9][0-9][0-9][0-9].jsonl"


def segment_name(number: int) -> str:
    """File name of segment `number` (from 1)."""
    return f"events-{number:04d}.jsonl"


class Record(BaseModel):
    """Base of what a reader gets: frozen, unknown keys ignored, so that newer logs with more keys stay readable."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    t_mono_ns: int
    """Time of the event on the log's monotonic clock (ns)."""


class SessionStarted(Record):
    """The agent began to look."""

    mode: str = "run"
    source: str = ""


class FaceRecord(Record):
    """A face of the structure and where its grid lies.

    `unit` is m or px; cell (c, r) covers along [c, c+1) x `cell` and height [r, r+1) x `cell`. For a face in metres
    `origin_ned` (north, east, down; m) is the point along = 0, height = 0 and `along_bearing_deg` the direction of
    growing along. `length` and `height` are the known extent, None where it is open.
    """

    name: str
    unit: Literal["m", "px"] = "m"
    cell: float
    how: str = ""
    origin_ned: tuple[float, float, float] | None = None
    along_bearing_deg: float | None = None
    length: float | None = None
    height: float | None = None
    detail: str | None = None


class PoseRecord(BaseModel):
    """Pose of the vehicle at a frame: NED (m), attitude (degrees), WGS 84, and how good it was."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    north_m: float
    east_m: float
    down_m: float
    roll_deg: float
    pitch_deg: float
    yaw_deg: float
    lat_deg: float | None = None
    lon_deg: float | None = None
    alt_amsl_m: float | None = None
    sigma_m: float | None = None
    gap_ms: float | None = None
    range_m: float | None = None


class FrameRecord(Record):
    """One frame: what was seen in how many tiles, and whether it could be placed.

    `footprint` are the corners of the picture on the face (along, height). Each of `hits` is a tile called crack:
    x, y, size (px), p, along, height (the last two null without a place).
    """

    index: int
    unix_s: float | None = None
    dropped_before: int = 0
    pose: PoseRecord | None = None
    no_pose: str | None = None
    tiles: int = 0
    cracks: int = 0
    unknown: int = 0
    unknown_reasons: dict[str, int] = {}
    p_max: float | None = None
    sharpness: float | None = None
    brightness: float | None = None
    gsd_mm_px: float | None = None
    footprint: tuple[tuple[float, float], ...] | None = None
    hits: tuple[tuple[float | None, ...], ...] = ()
    host_ms: dict[str, float] = {}


class CoverageRecord(Record):
    """Cells of a face that changed since the last such event: column, row, good looks, unknown looks, log-odds."""

    face: str
    cells: tuple[tuple[int, int, int, int, float | None], ...] = ()


class SightingRecord(Record):
    """A place whose evidence passed the bound.

    `image` is relative to the flight folder; `image_corner` is its top left corner in pixels of the frame.
    """

    id: int
    face: str
    along: float
    height: float
    unit: Literal["m", "px"] = "m"
    cell: tuple[int, int]
    log_odds: float | None = None
    looks: int = 0
    p_max: float | None = None
    sigma_m: float | None = None
    lat_deg: float | None = None
    lon_deg: float | None = None
    alt_amsl_m: float | None = None
    frame: int | None = None
    tile: tuple[int, int, int] | None = None
    image_corner: tuple[int, int] | None = None
    range_m: float | None = None
    incidence_deg: float | None = None
    gsd_mm_px: float | None = None
    image: str | None = None


class CleanSampleRecord(Record):
    """A tile that was called clear and kept for review; `rate` is the probability with which it was drawn."""

    frame: int
    tile: tuple[int, int, int]
    p: float | None = None
    along: float | None = None
    height: float | None = None
    rate: float | None = None
    image: str | None = None


class Impact(BaseModel):
    """Where paint is expected."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    face: str
    along: float
    height: float


class OrderRecord(Record):
    """Paint was ordered (in a dry run: would have been)."""

    order_id: int
    sighting_id: int
    open_at_ns: int
    open_ms: int
    impact: Impact | None = None
    impact_sigma_m: float | None = None


class RefusalRecord(Record):
    """No paint, and every reason why."""

    sighting_id: int
    reasons: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


class ResultRecord(Record):
    """What became of an order, and how that is known."""

    order_id: int
    executed: bool
    evidence: str = ""
    opened_at_ns: int | None = None
    closed_at_ns: int | None = None
    measured_ms: float | None = None
    detail: str = ""


class ValveRecord(Record):
    """The valve moved: opened or closed for an order, or was told to close outside a pulse (no order)."""

    order_id: int | None = None
    evidence: str = ""
    measured_ms: float | None = None
    reason: str = ""


class PoseGapRecord(Record):
    """A stretch of frames that could not be placed."""

    from_ns: int
    to_ns: int
    frames: int = 0
    reason: str = ""


class FramesDroppedRecord(Record):
    """Frames that the camera took and the agent did not see."""

    count: int


class NoteRecord(Record):
    """Something the reader should know: camera_lost, telemetry_problem, warning, error."""

    detail: str = ""


class EndRecord(Record):
    """The end, and why; without it the flight was cut off. `host_stage_ms` are totals over the flight."""

    frames: int = 0
    tiles: int = 0
    cracks: int = 0
    unknown: int = 0
    dropped: int = 0
    unplaced: int = 0
    sightings: int = 0
    orders: int = 0
    refusals: int = 0
    reason: str = "completed"
    detail: str | None = None
    host_seconds: float | None = None
    host_fps: float | None = None
    host_stage_ms: dict[str, float] = {}


RECORDS: Mapping[str, type[Record]] = {
    "session_started": SessionStarted,
    "face": FaceRecord,
    "frame": FrameRecord,
    "coverage": CoverageRecord,
    "sighting": SightingRecord,
    "clean_sample": CleanSampleRecord,
    "spray_order": OrderRecord,
    "spray_refused": RefusalRecord,
    "spray_result": ResultRecord,
    "valve_opened": ValveRecord,
    "valve_closed": ValveRecord,
    "valve_off": ValveRecord,
    "pose_gap": PoseGapRecord,
    "frames_dropped": FramesDroppedRecord,
    "camera_lost": NoteRecord,
    "telemetry_problem": NoteRecord,
    "warning": NoteRecord,
    "error": NoteRecord,
    "session_ended": EndRecord,
}
"""The record of every known kind."""

IMPORTANT_KINDS = frozenset(
    {
        "session_started",
        "face",
        "sighting",
        "spray_order",
        "spray_refused",
        "spray_result",
        "valve_opened",
        "valve_closed",
        "valve_off",
        "camera_lost",
        "error",
        "session_ended",
    }
)
"""Kinds that are forced to the card at once under the policy `important`."""

WRITE_AHEAD_KINDS = frozenset({"spray_order"})
"""Kinds whose `event` call returns only when the line has been handed to the kernel.

A crash of the agent between order and valve must not leave the ledger ignorant of the order."""

DIGITS: Mapping[str, int] = {
    "unix_s": 6,
    "log_odds": 3,
    "sharpness": 3,
    "brightness": 3,
    "rate": 10,
}
"""Decimals by key; then by the key's ending, see `_DIGITS_BY_ENDING`; else 4."""

_DIGITS_BY_ENDING = (("lat_deg", 8), ("lon_deg", 8), ("_ms", 3), ("_deg", 4), ("_m", 4), ("_mm_px", 4), ("_s", 4))
_DIGITS_ELSE = 4


def _digits(key: str) -> int:
    known = DIGITS.get(key)
    if known is not None:
        return known
    for ending, digits in _DIGITS_BY_ENDING:
        if key.endswith(ending):
            return digits
    return _DIGITS_ELSE


def plain(value: Any, key: str = "") -> Any:
    """Turns `value` into JSON values: numpy numbers and arrays, tuples, enums and paths included.

    Floats are rounded by `key` (elements of a list by the list's key); -0.0 becomes 0.0, NaN and infinities null.

    Raises:
        TypeError: `value` holds something that has no place in a log.
    """
    if value is None or isinstance(value, bool | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, np.generic):
        return plain(value.item(), key)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return round(value, _digits(key)) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v, str(k)) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), key)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item, key) for item in items]
    if isinstance(value, PurePath):
        return str(value)
    msg = f"{key or 'value'}: a {type(value).__name__} cannot be written to the flight log"
    raise TypeError(msg)


def _ordered(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """`data` with the kind's own keys first, in the schema's order, the others sorted behind them."""
    record = RECORDS.get(kind)
    known = [key for key in record.model_fields if key in data] if record else []
    rest = sorted(key for key in data if key not in known)
    return {key: data[key] for key in (*known, *rest)}


def encode_line(
    seq: int, t_mono_ns: int, utc_iso: str, kind: str, data: Mapping[str, Any], *, utc_valid: bool
) -> bytes:
    """One line of the log, newline included, UTF-8; keys always in the same order."""
    line = {
        "schema": SCHEMA,
        "seq": seq,
        "t_mono_ns": int(t_mono_ns),
        "utc": {"iso": utc_iso, "valid": utc_valid},
        "kind": kind,
        "data": _ordered(kind, plain(data)),
    }
    return (json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n").encode()
