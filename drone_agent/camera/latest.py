"""How does a live camera hand its frames over? One slot that always holds the newest, and counts what it replaced."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Taken(Generic[T]):
    """What a `take` found: the newest item, or nothing; how many were dropped before it; why no more will come."""

    item: T | None
    dropped: int = 0
    closed: str | None = None


class LatestSlot(Generic[T]):
    """One item between two threads: putting never waits, taking waits for something new."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._dropped = 0
        self._closed: str | None = None

    def put(self, item: T) -> None:
        """Puts the newest item; one that nobody took is dropped and counted. Ignored once closed."""
        with self._changed:
            if self._closed is not None:
                return
            if self._item is not None:
                self._dropped += 1
            self._item = item
            self._changed.notify()

    def close(self, reason: str) -> None:
        """Says that nothing more will come, and why; what is in the slot can still be taken. The first reason stays."""
        with self._changed:
            if self._closed is None:
                self._closed = reason
            self._changed.notify()

    def take(self, timeout_s: float) -> Taken[T]:
        """Takes the item, waiting up to `timeout_s` for one; without `item` and `closed` the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed is not None, timeout_s)
            if self._item is None:
                return Taken(None, closed=self._closed)
            taken = Taken(self._item, self._dropped)
            self._item, self._dropped = None, 0
            return taken
