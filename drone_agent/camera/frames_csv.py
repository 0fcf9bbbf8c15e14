"""When exactly was each frame of a recording exposed? Reads `frames.csv`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drone_agent.errors import InputError

# The autopilot's boot clock is 32 bits of milliseconds.
_MAX_BOOT_S = 2**32 / 1000
_FRAME, _BOOT, _UNIX = "frame", "time_boot_s", "unix_s"


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """One row for each frame: ns on the autopilot's boot clock, and unix seconds on the host's (None if not given)."""

    path: Path
    t_mono_ns: tuple[int, ...]
    unix_s: tuple[float | None, ...]

    def __len__(self) -> int:
        return len(self.t_mono_ns)


def read_frame_times(path: Path) -> FrameTimes:
    """Reads a table with the columns `frame, time_boot_s` and, if wanted, `unix_s`; other columns are ignored.

    Frames are numbered from 0 without a gap, boot times rise.

    Raises:
        InputError: the file is unreadable, empty, or a row breaks these rules; names the line.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from error
    try:
        rows = list(_rows(path, text.splitlines()))
    except csv.Error as error:
        raise InputError(f"{path}: not a table of comma-separated values ({error})") from error
    if not rows:
        raise InputError(f"{path}: no rows, expected one for each frame of the video")
    return FrameTimes(path, tuple(t_mono_ns for t_mono_ns, _ in rows), tuple(unix_s for _, unix_s in rows))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, float | None]]:
    reader = csv.DictReader(lines, skipinitialspace=True, strict=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if missing := [name for name in (_FRAME, _BOOT) if name not in columns]:
        found = ", ".join(columns) or "nothing"
        raise InputError(f"{path}: line 1: column {missing[0]} is missing, found {found[:100]}")
    previous_ns = -1
    for expected, row in enumerate(reader):
        where = f"{path}: line {reader.line_num}"
        frame = row[_FRAME]
        if frame is None or not frame.strip().isdecimal() or int(frame) != expected:
            raise InputError(f"{where}: frame found {frame!r}, expected {expected} (numbered from 0 without a gap)")
        t_mono_ns = round(_number(where, _BOOT, row[_BOOT], 0.0, _MAX_BOOT_S) * 1e9)
        if t_mono_ns <= previous_ns:
            raise InputError(
                f"{where}: {_BOOT} found {row[_BOOT]}, expected more than the {previous_ns / 1e9:.6f} before"
            )
        previous_ns = t_mono_ns
        unix = row.get(_UNIX)
        yield t_mono_ns, _number(where, _UNIX, unix, 0.0, math.inf) if unix and unix.strip() else None


def _number(where: str, column: str, text: str | None, low: float, high: float) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        limit = f" up to {high:.0f}" if math.isfinite(high) else ""
        raise InputError(f"{where}: {column} found {text!r}, expected seconds from {low:g}{limit}")
    return value
