"""How does a flight get onto the card, so that a pulled battery loses nothing that mattered?

`FlightLogWriter` implements `ports.FlightLog`. Events are appended to segments; what has been written stays valid
whatever happens next. With a thread, `event` and `image` hand over to a bounded queue and wait when it is full:
nothing is dropped. Without one (replay, tests) they write before they return, and the same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from drone_agent.clock import UtcStamp
from drone_agent.errors import FlightLogError
from drone_agent.flightlog.evidence_image import encode_evidence
from drone_agent.flightlog.files import fsync_folder, why, write_atomically
from drone_agent.flightlog.manifest import write_manifest
from drone_agent.flightlog.quota import SpaceGuard
from drone_agent.flightlog.reader import last_seq
from drone_agent.flightlog.schema import (
    IMAGE_FOLDER,
    IMPORTANT_KINDS,
    MANIFEST_FILE,
    SCHEMA,
    SEGMENT_GLOB,
    SESSION_FILE,
    WRITE_AHEAD_KINDS,
    encode_line,
    segment_name,
)
from drone_agent.flightlog.settings import FlightLogSettings
from drone_agent.ports import Clock
from drone_agent.values import Event, Image

log = logging.getLogger(__name__)

_FLIGHT_NAME = re.compile(r"flight-(\d+)-[0-9a-z]+")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# the thread wakes at least this often, to fsync what is due and to report that it is alive
_THREAD_WAKES_S = 0.25
_JOIN_S = 30.0


@dataclass(frozen=True, slots=True)
class _WaitingEvent:
    """An event in the queue, stamped when it was handed over; `written` is set when it has been dealt with."""

    event: Event
    utc: UtcStamp
    written: threading.Event | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _WaitingImage:
    """An image in the queue."""

    name: str
    image: Image
    metadata: Mapping[str, Any]
    utc: UtcStamp


_Waiting = queue.Queue[_WaitingEvent | _WaitingImage | None]


@dataclass(frozen=True, slots=True)
class WriterStats:
    """What the writer has done so far; `images_refused` were not kept for want of space or because of an error."""

    events: int = 0
    images: int = 0
    images_refused: int = 0
    bytes_written: int = 0
    queue_peak: int = 0


def read_boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The kernel's boot id: tells flights of different boots apart where no clock can. `noboot` if there is none."""
    try:
        return path.read_text(encoding="ascii").strip() or "noboot"
    except (OSError, UnicodeDecodeError):
        return "noboot"


def find_unfinished(root: Path, boot_id: str) -> Path | None:
    """The newest flight of this boot that has no manifest (the agent crashed and was restarted), or None."""
    suffix = f"-{_prefix(boot_id)}"
    numbered = [(_number(path), path) for path in root.glob("flight-*") if path.name.endswith(suffix)]
    newest = max((entry for entry in numbered if entry[0]), default=None)
    if newest is None or (newest[1] / MANIFEST_FILE).exists() or not any(newest[1].glob(SEGMENT_GLOB)):
        return None
    return newest[1]


def _prefix(boot_id: str) -> str:
    return re.sub(r"[^0-9a-z]", "", boot_id.lower())[:8] or "noboot"


def _number(path: Path) -> int:
    match = _FLIGHT_NAME.fullmatch(path.name)
    return int(match.group(1)) if match else 0


def _new_folder(root: Path, boot_id: str, name: str | None) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            folder = root / name
            folder.mkdir()
        else:
            number = max((_number(path) for path in root.glob("flight-*")), default=0) + 1
            folder = root / f"flight-{number:04d}-{_prefix(boot_id)}"
            folder.mkdir()
        (folder / IMAGE_FOLDER).mkdir()
        fsync_folder(root)
    except FileExistsError as error:
        raise FlightLogError(
            f"{error.filename}: already exists; a flight is never overwritten: choose another name or folder"
        ) from error
    except OSError as error:
        raise FlightLogError(f"cannot create a flight folder in {root}: {why(error)}") from error
    return folder


class FlightLogWriter:
    """Writes one flight. Use `create` for a new one, `resume` for one that a crash cut off."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        settings: FlightLogSettings,
        threaded: bool,
        next_seq: int = 1,
        next_segment: int = 1,
        on_beat: Callable[[], None] | None = None,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        """Opens segment `next_segment` in `folder`, which must exist.

        Args:
            folder: The flight's folder.
            clock: Times the fsyncs and stamps events with UTC.
            settings: See `FlightLogSettings`.
            threaded: Write in a thread of its own (live) or before `event` returns (replay).
            next_seq: Sequence number of the first event.
            next_segment: Number of the first segment.
            on_beat: Called by the writer thread each time it wakes (at least every 0.25 s): its sign of life.
            free_bytes: How much room a folder's file system has; asks the system by default.

        Raises:
            FlightLogError: The segment cannot be created.
        """
        self._folder = folder
        self._clock = clock
        self._settings = settings
        self._on_beat = on_beat or _nobody
        self._seq = next_seq
        self._segment = next_segment
        self._segment_limit = round(settings.segment_mb * 1_000_000)
        self._fsync_every_ns = round(settings.fsync_every_s * 1e9)
        self._space = SpaceGuard(folder, settings.min_free_mb, free_bytes)
        self._stats = WriterStats()
        self._file: io.FileIO | None = None
        self._size = 0
        self._unsynced = False
        self._last_fsync_ns = clock.now_mono_ns()
        self._failure: FlightLogError | None = None
        self._failed = False
        self._images_stopped: dict[bool, bool] = {}
        self._closed = False
        self._queue: _Waiting | None = None
        self._thread: threading.Thread | None = None
        self._open_segment()
        if threaded:
            self._queue = queue.Queue(settings.queue_length)
            self._thread = threading.Thread(target=self._run, args=(self._queue,), name="flightlog", daemon=True)
            self._thread.start()

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        clock: Clock,
        settings: FlightLogSettings,
        session: Mapping[str, Any],
        boot_id: str,
        name: str | None = None,
        threaded: bool = True,
        on_beat: Callable[[], None] | None = None,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> FlightLogWriter:
        """Creates the folder of a new flight in `root`, writes its `session.json` and opens the log.

        The folder is `name`, or a counter and the boot id (`flight-0001-3fa2b1c4`): a Pi has no clock battery, a date
        may be wrong or come twice. `session` (JSON values) is kept as it is, with schema, flight name, boot id, and
        the time of the start in front.

        Raises:
            FlightLogError: The folder exists already, or cannot be written.
        """
        folder = _new_folder(root, boot_id, name)
        utc = clock.utc()
        document = {
            "schema": SCHEMA,
            "flight": folder.name,
            "boot_id": boot_id,
            "started": {"t_mono_ns": clock.now_mono_ns(), "utc": {"iso": utc.iso, "valid": utc.valid}},
            **session,
        }
        try:
            content = json.dumps(document, indent=1, ensure_ascii=False, default=str).encode() + b"\n"
            write_atomically(folder / SESSION_FILE, content)
        except OSError as error:
            raise FlightLogError(f"cannot write {folder / SESSION_FILE}: {why(error)}") from error
        return cls(folder, clock=clock, settings=settings, threaded=threaded, on_beat=on_beat, free_bytes=free_bytes)

    @classmethod
    def resume(
        cls,
        folder: Path,
        *,
        clock: Clock,
        settings: FlightLogSettings,
        threaded: bool = True,
        on_beat: Callable[[], None] | None = None,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> FlightLogWriter:
        """Goes on with a flight that was cut off: a new segment in the same folder, `seq` continues.

        Raises:
            FlightLogError: `folder` is no flight, has ended cleanly, or cannot be written.
        """
        if (folder / MANIFEST_FILE).exists():
            raise FlightLogError(f"{folder}: this flight has ended; start a new one")
        segments = sorted(folder.glob(SEGMENT_GLOB))
        if not segments:
            raise FlightLogError(f"{folder}: no events here that could be continued")
        return cls(
            folder,
            clock=clock,
            settings=settings,
            threaded=threaded,
            next_seq=last_seq(folder) + 1,
            next_segment=int(segments[-1].stem.removeprefix("events-")) + 1,
            on_beat=on_beat,
            free_bytes=free_bytes,
        )

    @property
    def folder(self) -> Path:
        """The flight's folder."""
        return self._folder

    @property
    def stats(self) -> WriterStats:
        """What was written so far."""
        return self._stats

    @property
    def healthy(self) -> bool:
        """Whether the last write succeeded and the writer thread, if there is one, lives."""
        return not self._failed and (self._thread is None or self._closed or self._thread.is_alive())

    def event(self, event: Event) -> None:
        """Appends one event; waits while the queue is full.

        A kind of `WRITE_AHEAD_KINDS` is with the kernel when this returns, so that a crash cannot lose it.

        Raises:
            FlightLogError: This event, or with a thread an earlier one, could not be written.
            TypeError: `event.data` holds something that has no place in a log.
        """
        self._check_open()
        utc = self._clock.utc()
        if self._queue is None:
            self._append(event, utc)
            return
        written = threading.Event() if event.kind in WRITE_AHEAD_KINDS else None
        self._put(self._queue, _WaitingEvent(event, utc, written))
        if written is not None:
            while not written.wait(_THREAD_WAKES_S):
                self._check_thread()
            self._raise_failure()

    def image(self, name: str, image: Image, metadata: Mapping[str, Any]) -> str:
        """Keeps one evidence image (BGR uint8, copied at once) as `images/<name>.jpg`.

        `metadata` is described in `evidence_image`; `"kind": "clean_sample"` marks an image that may be left out
        when space gets short. `utc` is added from the clock if it is missing.

        Returns:
            The path relative to the flight folder; "" where it is already known that the image is not kept. A
            failure is recorded as a `warning` event, it does not stop the flight.

        Raises:
            FlightLogError: The warning could not be written either, or an earlier event.
            ValueError: `name` is not usable as a file name.
        """
        if not _IMAGE_NAME.fullmatch(name):
            raise ValueError(f"image name {name!r}: letters, digits, '_', '-' and '.' are allowed")
        self._check_open()
        if self._out_of_room(name, clean=metadata.get("kind") == "clean_sample"):
            self._count_refused_image()
            return ""
        utc = self._clock.utc()
        if self._queue is None:
            kept = self._keep_image(_WaitingImage(name, image, metadata, utc))
            return _image_path(name) if kept else ""
        self._put(self._queue, _WaitingImage(name, image.copy(), dict(metadata), utc))
        return _image_path(name)

    def attach(self, source: Path, name: str) -> Path:
        """Copies a file into the flight (the recording's telemetry, say), whole or not at all.

        Raises:
            FlightLogError: It cannot be read or written.
        """
        target = self._folder / name
        temporary = target.with_name(target.name + ".tmp")
        try:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            fsync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise FlightLogError(f"cannot copy {source} to {target}: {why(error)}") from error
        return target

    def close(self) -> None:
        """Writes what is waiting, forces it to the card and writes the manifest; may be called twice.

        After a failure there is no manifest: the flight did not end cleanly, and a reader can tell.

        Raises:
            FlightLogError: Something could not be written that nobody has been told of yet.
        """
        if self._closed:
            return
        self._closed = True
        if self._queue is not None and self._thread is not None:
            self._stop_thread(self._queue, self._thread)
        try:
            self._close_segment()
            if not self._failed:
                write_manifest(self._folder)
        except OSError as error:
            if not self._failed:
                raise FlightLogError(f"cannot finish the flight log {self._folder}: {why(error)}") from error
        self._raise_failure()

    # --- the caller's side of the queue ---

    def _put(self, waiting: _Waiting, item: _WaitingEvent | _WaitingImage) -> None:
        while True:
            self._check_thread()
            try:
                waiting.put(item, timeout=_THREAD_WAKES_S)
            except queue.Full:
                continue
            self._stats = replace(self._stats, queue_peak=max(self._stats.queue_peak, waiting.qsize()))
            return

    def _out_of_room(self, name: str, *, clean: bool) -> bool:
        """Whether images have to give way to events; said once in the log each time it begins."""
        problem = self._space.refuses(clean=clean)
        if problem is not None and not self._images_stopped.get(clean, False):
            what = "clean samples are" if clean else "images are"
            self.event(self._warning(f"{what} no longer kept, from {name} on: {problem}"))
        self._images_stopped[clean] = problem is not None
        return problem is not None

    def _count_refused_image(self) -> None:
        self._stats = replace(self._stats, images_refused=self._stats.images_refused + 1)

    def _warning(self, detail: str) -> Event:
        log.warning("%s", detail)
        return Event("warning", self._clock.now_mono_ns(), {"detail": detail})

    def _check_open(self) -> None:
        if self._closed:
            raise FlightLogError(f"{self._folder}: this flight log is closed")

    def _check_thread(self) -> None:
        self._raise_failure()
        if self._thread is not None and not self._thread.is_alive():
            raise FlightLogError(f"{self._folder}: the writer thread has died")

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _stop_thread(self, waiting: _Waiting, thread: threading.Thread) -> None:
        while thread.is_alive():
            try:
                waiting.put(None, timeout=_THREAD_WAKES_S)
            except queue.Full:
                continue
            break
        thread.join(_JOIN_S)
        if thread.is_alive():
            self._failed = True
            raise FlightLogError(f"{self._folder}: the disk did not take the last events within {_JOIN_S:.0f} s")

    # --- the writer's side ---

    def _run(self, waiting: _Waiting) -> None:
        while True:
            self._on_beat()
            try:
                item = waiting.get(timeout=_THREAD_WAKES_S)
            except queue.Empty:
                self._try(self._fsync_if_due)
                continue
            if item is None:
                return
            self._try(partial(self._handle, item))
            if isinstance(item, _WaitingEvent) and item.written is not None:
                item.written.set()

    def _try(self, action: Callable[[], object]) -> None:
        """Runs `action`; what goes wrong is kept for the next caller."""
        try:
            action()
        except FlightLogError as error:
            self._failure = self._failure or error
        except Exception as error:
            log.exception("flight log writer")
            self._failed = True
            self._failure = self._failure or FlightLogError(f"{self._folder}: {type(error).__name__}: {error}")

    def _handle(self, item: _WaitingEvent | _WaitingImage) -> None:
        if isinstance(item, _WaitingEvent):
            self._append(item.event, item.utc)
        else:
            self._keep_image(item)

    def _append(self, event: Event, utc: UtcStamp) -> None:
        line = encode_line(self._seq, event.t_mono_ns, utc.iso, event.kind, event.data, utc_valid=utc.valid)
        # the number is used up even if the write fails: the gap tells the reader that an event is missing
        self._seq += 1
        try:
            file = self._file
            if file is None or (self._size and self._size + len(line) > self._segment_limit):
                file = self._next_segment()
            self._write(file, line)
            self._unsynced = True
            if self._settings.fsync == "important" and event.kind in IMPORTANT_KINDS:
                self._fsync()
            else:
                self._fsync_if_due()
        except OSError as error:
            self._failed = True
            raise FlightLogError(f"cannot write {self._folder / segment_name(self._segment)}: {why(error)}") from error
        self._failed = False
        self._stats = replace(
            self._stats, events=self._stats.events + 1, bytes_written=self._stats.bytes_written + len(line)
        )

    def _write(self, file: io.FileIO, line: bytes) -> None:
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            # half a line must not stand before the next whole one; shortening works on a full disk too
            with contextlib.suppress(OSError):
                file.truncate(self._size)
                file.seek(self._size)
            raise
        self._size += len(line)

    def _fsync_if_due(self) -> None:
        now = self._clock.now_mono_ns()
        due = self._settings.fsync != "close" and now - self._last_fsync_ns >= self._fsync_every_ns
        if self._unsynced and due:
            self._fsync()

    def _fsync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._unsynced = False
        self._last_fsync_ns = self._clock.now_mono_ns()

    def _open_segment(self) -> io.FileIO:
        path = self._folder / segment_name(self._segment)
        try:
            # exclusive and unbuffered: nobody's segment is overwritten, and a line is with the kernel at once
            file = path.open("xb", buffering=0)
            fsync_folder(self._folder)
        except OSError as error:
            raise FlightLogError(f"cannot create {path}: {why(error)}") from error
        self._file, self._size = file, 0
        return file

    def _next_segment(self) -> io.FileIO:
        self._close_segment()
        self._segment += 1
        return self._open_segment()

    def _close_segment(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with file:
                os.fsync(file.fileno())
            self._unsynced = False

    def _keep_image(self, item: _WaitingImage) -> bool:
        problem = self._write_image(item.name, item.image, item.metadata, item.utc)
        if problem is None:
            self._stats = replace(self._stats, images=self._stats.images + 1)
            return True
        self._count_refused_image()
        self._append(self._warning(f"image {item.name} was not kept: {problem}"), item.utc)
        return False

    def _write_image(self, name: str, image: Image, metadata: Mapping[str, Any], utc: UtcStamp) -> str | None:
        """Writes the image; what went wrong, or None."""
        stamped = {"utc": {"iso": utc.iso, "valid": utc.valid}, **metadata}
        try:
            content = encode_evidence(image, stamped, quality=self._settings.jpeg_quality)
            durable = self._settings.fsync != "close"
            write_atomically(self._folder / IMAGE_FOLDER / f"{name}.jpg", content, durable=durable)
        except OSError as error:
            return why(error)
        except (cv2.error, ValueError) as error:
            return f"it cannot be encoded ({str(error).splitlines()[0]})"
        self._stats = replace(self._stats, bytes_written=self._stats.bytes_written + len(content))
        return None


def _image_path(name: str) -> str:
    return f"{IMAGE_FOLDER}/{name}.jpg"


def _nobody() -> None:
    """The beat that nobody listens to."""
