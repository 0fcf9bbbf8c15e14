"""How does a folder of pictures become a flight? In the natural order of their names, at a given rate."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drone_agent.camera.frames_csv import FrameTimes
from drone_agent.errors import InputError
from drone_agent.values import Frame, Image

log = logging.getLogger(__name__)

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


class FolderCamera:
    """Implements `ports.Camera` for pictures in a folder.

    A file that cannot be read is skipped, counted as dropped, and named in `problems`. The frame's index is the file's
    place in the order, so that times stay right.
    """

    def __init__(
        self,
        folder: Path,
        read: Callable[[Path], Image],
        times: FrameTimes | None = None,
        *,
        fps: float = 1.0,
    ) -> None:
        """Lists the folder; sub-folders are not searched.

        Args:
            folder: where the pictures are.
            read: decodes a file to BGR uint8 and raises InputError where it cannot.
            times: when each picture was taken, one row for each file.
            fps: pictures a second, from 0; no effect with `times`.

        Raises:
            InputError: the folder cannot be read, holds no pictures, or not one for each row of `times`.
        """
        self._folder = folder
        self._read = read
        self._times = times
        self._fps = fps
        self.problems: list[str] = []
        self._skipped = 0
        try:
            names = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({error.strerror or error})") from error
        if not names:
            raise InputError(f"{folder}: no pictures, looked for {', '.join(sorted(PICTURES))}")
        if times is not None and len(times) != len(names):
            raise InputError(
                f"{times.path}: {len(times)} rows, but {folder} has {len(names)} pictures; "
                "the rule is one row for each picture"
            )
        self._paths = sorted(names, key=lambda path: natural_key(path.name))

    @property
    def total_frames(self) -> int | None:
        """How many pictures there are, readable or not."""
        return len(self._paths)

    def frames(self) -> Iterator[Frame]:
        """Yields the readable pictures.

        Raises:
            InputError: after the last file, if none could be read.
        """
        dropped = 0
        for index, path in enumerate(self._paths):
            try:
                image = self._read(path)
            except InputError as error:
                dropped += 1
                self._skipped += 1
                log.warning("picture skipped: %s", error)
                self.problems.append(f"picture skipped: {error}")
                continue
            yield self._frame(index, image, dropped)
            dropped = 0
        if self._skipped == len(self._paths):
            raise InputError(f"{self._folder}: none of the {len(self._paths)} pictures can be read")

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {
            "backend": "folder",
            "source": str(self._folder),
            "pictures": len(self._paths),
            "skipped": self._skipped,
            "fps": self._fps if self._times is None else None,
            "times": "frame rate" if self._times is None else str(self._times.path),
            "policy": "block",
            "problems": list(self.problems),
        }

    def close(self) -> None:
        """Nothing is held open."""

    def _frame(self, index: int, image: Image, dropped: int) -> Frame:
        if self._times is None:
            return Frame(index, round(index / self._fps * 1e9), image, dropped)
        return Frame(index, self._times.t_mono_ns[index], image, dropped, self._times.unix_s[index])


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts `img2` before `img10`, whatever the case; numbers come before letters."""
    parts = re.findall(r"\d+|\D+", name)
    return (*((0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in parts), (1, name))
