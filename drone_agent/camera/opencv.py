"""How do frames come out of a video file, a V4L2 device or a network stream? OpenCV's FFmpeg and V4L2."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drone_agent.camera.frames_csv import FrameTimes
from drone_agent.camera.redact import redact
from drone_agent.camera.settings import CameraSettings
from drone_agent.errors import CameraLost, InputError
from drone_agent.values import Frame, Image

log = logging.getLogger(__name__)

_FASTEST_FPS = 1000.0
_MOST_FRAMES = 10**9
_PATIENCE_FRAMES = 64


def silence_decoders() -> None:
    """Keeps FFmpeg and OpenCV from writing to stderr past the log; to be called before anything is opened."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoFileCamera:
    """Implements `ports.Camera` for a recording: every frame, in order, none dropped.

    The time of a frame is that of `frames.csv` where given, else its number over the file's frame rate, from 0.
    """

    def __init__(self, path: Path, times: FrameTimes | None = None, *, fps: float | None = None) -> None:
        """Opens the file and reads its first frame.

        Args:
            path: the video.
            times: when each frame was taken.
            fps: replaces the frame rate that the file states; no effect with `times`.

        Raises:
            InputError: missing, not a video, cut short before its first frame; or `times` has another number of rows
                than the file has frames.
        """
        self._path = path
        self._times = times
        self.problems: list[str] = []
        self._capture = _open_file(path)
        first = _next(self._capture)
        if first is None:
            self._capture.release()
            raise InputError(f"{path}: opens as a video, but not one frame can be decoded")
        self._first: Image | None = first
        self._height, self._width = first.shape[:2]
        self._stated = _frame_count(self._capture)
        self._fps = self._rate(fps)
        self._read = 0
        self._next_index = 0
        self._start_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        # Whether the file's own time stamps follow its frame rate; and whether a frame was lost to damage since.
        self._steady = math.isfinite(self._fps)
        self._damaged = False
        if times is not None and self._stated != len(times):
            self._check_length(times)

    @property
    def total_frames(self) -> int | None:
        """Rows of `frames.csv`, else what the container says; None if it says nothing."""
        return self._stated if self._times is None else len(self._times)

    def frames(self) -> Iterator[Frame]:
        """Yields every frame once.

        A damaged place is skipped: the file's time stamps tell how many frames it cost (`dropped_before`), so that
        those behind it keep their number and time. What was lost is summed up in `problems` at the end.
        """
        image = self._first
        self._first = None
        while image is not None:
            index = self._index()
            if self._times is not None and index >= len(self._times):
                self._report_untimed(self._times)
                return
            dropped = index - self._next_index
            self._next_index = index + 1
            self._read += 1
            yield self._frame(index, image, dropped)
            image = self._advance()
        self._report_missing()

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {
            "backend": "opencv-ffmpeg",
            "source": str(self._path),
            "width": self._width,
            "height": self._height,
            "fps": self._fps,
            "codec": _fourcc(self._capture),
            "frames_stated": self._stated,
            "frames_read": self._read,
            "times": "frame rate" if self._times is None else str(self._times.path),
            "policy": "block",
            "problems": list(self.problems),
        }

    def close(self) -> None:
        """Releases the file; may be called twice."""
        self._capture.release()

    def _frame(self, index: int, image: Image, dropped: int) -> Frame:
        if self._times is None:
            return Frame(index, round(index / self._fps * 1e9), image, dropped)
        return Frame(index, self._times.t_mono_ns[index], image, dropped, self._times.unix_s[index])

    def _index(self) -> int:
        """The number of the frame that was read last."""
        elapsed_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) - self._start_ms
        place = elapsed_ms / 1000 * self._fps
        if self._damaged:
            return max(self._next_index, round(place))
        self._steady = self._steady and abs(place - self._next_index) < 0.5
        return self._next_index

    def _advance(self) -> Image | None:
        """The next frame that can be decoded; None at the end."""
        image = _next(self._capture)
        if image is not None:
            return image
        # The end of the file and a damaged place look the same. Asking again costs microseconds.
        missing = max((self.total_frames or 0) - self._next_index, 0)
        for _ in range(missing + _PATIENCE_FRAMES):
            image = _next(self._capture)
            if image is None:
                continue
            if not self._steady:
                self._problem(
                    f"{self._path}: damaged behind frame {self._next_index - 1}; its time stamps are irregular, so the "
                    "frames behind it cannot be numbered and were not looked at"
                )
                return None
            self._damaged = True
            return image
        return None

    def _rate(self, wanted: float | None) -> float:
        stated = float(self._capture.get(cv2.CAP_PROP_FPS))
        if wanted is not None:
            return wanted
        if math.isfinite(stated) and 0 < stated <= _FASTEST_FPS:
            return stated
        if self._times is None:
            raise InputError(f"{self._path}: states {stated:g} frames a second; give the times in a frames.csv")
        return math.nan

    def _check_length(self, times: FrameTimes) -> None:
        """The container may lie, so the frames are counted before the recording is refused."""
        found = _count(self._path)
        stated = "no number" if self._stated is None else f"{self._stated} frames"
        if found != len(times):
            self.close()
            raise InputError(
                f"{times.path}: {len(times)} rows, but {self._path} has {found} frames (its header says {stated}); "
                "the rule is one row for each frame, so this table belongs to another recording"
            )
        self._problem(f"{self._path}: the header says {stated}, {found} can be read, as in {times.path}")

    def _report_missing(self) -> None:
        expected = self.total_frames
        if expected is not None and self._read < expected:
            self._problem(
                f"{self._path}: {self._read} frames could be read of the {expected} it should hold; "
                f"{expected - self._read} are lost (file cut short or damaged)"
            )
        elif expected is not None and self._read > expected:
            self._problem(f"{self._path}: the header says {expected} frames, {self._read} were read")

    def _report_untimed(self, times: FrameTimes) -> None:
        rest = 1
        while self._capture.grab():
            rest += 1
        self._problem(
            f"{self._path}: {rest} frames after the last of the {len(times)} rows of {times.path} have no time "
            "and were not looked at"
        )

    def _problem(self, text: str) -> None:
        log.warning("%s", text)
        self.problems.append(text)


class OpenCvCapture:
    """A V4L2 device or a network stream, open. Reading blocks, perhaps for ever: for `supervise` alone."""

    def __init__(self, settings: CameraSettings) -> None:
        """Opens the device or stream of `settings`.

        Raises:
            CameraLost: it cannot be opened.
        """
        self._settings = settings
        self._capture = self._open_stream() if settings.source == "rtsp" else self._open_device()
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraLost(f"cannot be opened: {self._advice()}")

    def read(self) -> tuple[Image, float | None] | None:
        """The next frame and the device's time stamp (ms, the driver's clock; None where there is none), or None."""
        image = _next(self._capture)
        if image is None:
            return None
        stamp_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) if self._settings.source == "v4l2" else 0.0
        return image, stamp_ms if stamp_ms > 0 else None

    def describe(self) -> Mapping[str, Any]:
        """What the device really gives, which may differ from what was asked."""
        return {
            "width": int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            "height": int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            "fps": float(self._capture.get(cv2.CAP_PROP_FPS)),
            "codec": _fourcc(self._capture),
        }

    def release(self) -> None:
        """Closes the device."""
        self._capture.release()

    def _open_stream(self) -> cv2.VideoCapture:
        settings = self._settings
        # The only way to tell FFmpeg through OpenCV; read at each opening.
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"rtsp_transport;{settings.rtsp_transport}"
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            settings.open_timeout_ms,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            settings.read_timeout_ms,
        ]
        return cv2.VideoCapture(settings.url or "", cv2.CAP_FFMPEG, timeouts)

    def _open_device(self) -> cv2.VideoCapture:
        settings = self._settings
        device: int | str = int(settings.device) if settings.device.isdecimal() else settings.device
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if settings.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height)
        capture.set(cv2.CAP_PROP_FPS, settings.fps)
        # A queue of old pictures in the driver would make every frame late.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    def _advice(self) -> str:
        if self._settings.source == "rtsp":
            return f"no answer within {self._settings.open_timeout_ms} ms, or address or password wrong: camera.url"
        device = Path(self._settings.device)
        if not self._settings.device.isdecimal() and not device.exists():
            return "no such device: connect the camera, or set camera.device"
        return (
            "in use by another program, no right to read it, or no V4L2 camera; "
            "CSI cameras need picamera2 (Pi) or GStreamer (Jetson)"
        )


def source_name(settings: CameraSettings) -> str:
    """The source as it may be written down, without secrets."""
    if settings.source == "rtsp":
        return redact(settings.url or "")
    if settings.source == "v4l2":
        return settings.device
    return settings.path or ""


def _open_file(path: Path) -> cv2.VideoCapture:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size == 0:
        raise InputError(f"{path}: the video is empty (0 bytes)")
    try:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    except cv2.error as error:
        raise InputError(f"{path}: not a video that can be decoded ({error.err or error.code})") from error
    if not capture.isOpened():
        capture.release()
        if _is_mp4_without_index(path, size):
            raise InputError(f"{path}: cut short, the index (moov) of the MP4 is missing; the recording was not closed")
        raise InputError(f"{path}: not a video that can be decoded ({size} bytes)")
    return capture


def _is_mp4_without_index(path: Path, size: int) -> bool:
    """Whether the file begins as an MP4, but none of its top-level boxes is `moov`."""
    at = 0
    with path.open("rb") as stream:
        while at + 8 <= size:
            stream.seek(at)
            header = stream.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if at == 0 and kind != b"ftyp":
                return False
            if kind == b"moov":
                return at + length > size
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                break
            at += length
    return at > 0


def _next(capture: cv2.VideoCapture) -> Image | None:
    try:
        good, image = capture.read()
    except cv2.error as error:
        log.warning("frame could not be decoded: %s", error.err or error.code)
        return None
    if not good or image is None or image.size == 0:
        return None
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.asarray(image, np.uint8)


def _frame_count(capture: cv2.VideoCapture) -> int | None:
    stated = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return int(stated) if math.isfinite(stated) and 0 < stated < _MOST_FRAMES else None


def _count(path: Path) -> int:
    capture = _open_file(path)
    found = 0
    while capture.grab():
        found += 1
    capture.release()
    return found


def _fourcc(capture: cv2.VideoCapture) -> str:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    if code <= 0:
        return ""
    return "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)).strip("\0 ")
