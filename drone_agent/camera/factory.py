"""Which camera is meant? From settings or a path to something that gives frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drone_agent.camera.folder import FolderCamera
from drone_agent.camera.frames_csv import FrameTimes
from drone_agent.camera.opencv import OpenCvCapture, VideoFileCamera, source_name
from drone_agent.camera.settings import CameraSettings
from drone_agent.camera.supervise import LiveCamera
from drone_agent.errors import InputError
from drone_agent.ports import Clock
from drone_agent.values import Image


def open_recording(
    source: Path,
    read_image: Callable[[Path], Image],
    *,
    times: FrameTimes | None = None,
    fps: float | None = None,
) -> VideoFileCamera | FolderCamera:
    """A recording: a video file, or a folder of pictures.

    Args:
        source: the file or folder.
        read_image: decodes one picture to BGR uint8; raises InputError where it cannot.
        times: when each frame was taken (`frames_csv.read_frame_times`).
        fps: frames a second where there is no table: for a folder 1 if not given, for a video what the file states.

    Raises:
        InputError: the source or the table cannot be used, or they do not belong together.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.is_dir():
        return FolderCamera(source, read_image, times, fps=fps or 1.0)
    return VideoFileCamera(source, times, fps=fps)


def open_camera(
    settings: CameraSettings, clock: Clock, read_image: Callable[[Path], Image]
) -> LiveCamera | VideoFileCamera | FolderCamera:
    """The camera of the settings. A live one is opened by its first `frames()`, which raises CameraLost if it must.

    Raises:
        InputError: a video or folder of pictures cannot be used.
    """
    if settings.source == "video":
        return open_recording(Path(settings.path or ""), read_image)
    if settings.source == "images":
        return open_recording(Path(settings.path or ""), read_image, fps=settings.fps)
    return LiveCamera(lambda: OpenCvCapture(settings), clock, settings, name=source_name(settings))
