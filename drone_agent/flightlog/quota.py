"""Which images are kept: every finding, and a random sample of what was called clear.

Without clear tiles nobody can estimate afterwards what the model missed on this very structure. The sample is drawn
by hashing the tile's name with the session's seed (Poisson sampling), so that a replay draws the same tiles, whatever
the order. The rate halves after every batch, because nobody knows in advance how long a flight is; each sample
records the rate it was drawn at, and an estimate weights it by 1 / rate (Horvitz and Thompson, 1952).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from drone_agent.flightlog.settings import CleanSampleSettings
from drone_agent.values import Tile

_MB = 1_000_000
# asking the file system for every image would cost more than it tells
_IMAGES_BETWEEN_LOOKS = 16


class CleanSampler:
    """Draws the sample of clear tiles: the same tiles for the same seed."""

    def __init__(self, settings: CleanSampleSettings, seed: str) -> None:
        """`seed` names the session: the flight's name, or a fixed word in a replay."""
        self._settings = settings
        self._seed = seed
        self._rate = settings.rate
        self._kept = 0

    @property
    def kept(self) -> int:
        """How many tiles were drawn so far."""
        return self._kept

    @property
    def rate(self) -> float:
        """The probability with which the next tile is drawn (0 when the sample is full)."""
        return self._rate if self._kept < self._settings.max_images else 0.0

    def draw(self, frame_index: int, tile: Tile) -> float | None:
        """The rate at which this clear tile was drawn, or None: not in the sample."""
        rate = self.rate
        if rate <= 0.0:
            return None
        name = f"{self._seed}:{frame_index}:{tile.x_px}:{tile.y_px}:{tile.size_px}".encode()
        uniform = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2.0**64
        if uniform >= rate:
            return None
        self._kept += 1
        if self._kept % self._settings.batch == 0:
            self._rate /= 2.0
        return rate


class SpaceGuard:
    """Keeps room for the events: clean samples stop first, then findings' images, events never."""

    def __init__(
        self, folder: Path, min_free_mb: float, free_bytes: Callable[[Path], int] | None = None, *, look_every: int = 0
    ) -> None:
        """`free_bytes` asks the file system (injected by tests); `look_every` images (0: a sensible default)."""
        self._folder = folder
        self._min_free = min_free_mb * _MB
        self._free_bytes = free_bytes or _free_bytes
        self._look_every = look_every or _IMAGES_BETWEEN_LOOKS
        self._until_look = 0
        self._free = 0

    def refuses(self, *, clean: bool) -> str | None:
        """Why an image cannot be kept now, or None. `clean`: it is only a sample of a clear tile."""
        if self._min_free <= 0.0:
            return None
        if self._until_look == 0:
            self._free = self._free_bytes(self._folder)
            self._until_look = self._look_every
        self._until_look -= 1
        floor = self._min_free if clean else self._min_free / 2.0
        if self._free >= floor:
            return None
        return f"{self._free / _MB:.0f} MB free, {floor / _MB:.0f} MB are kept for the events"


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        # a disk that cannot be asked will say so at the next write
        return 2**63
