"""Is the live camera still alive, and if not, who wakes it up? A capture thread, watched from outside.

A read may block for ever once a stream is lost, whatever time-out the library was given. So reading happens in a thread
of its own, and only new frames count as a sign of life. A thread that hangs cannot be ended: one may be left behind,
a second one means that the process must be started again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from drone_agent.camera.latest import LatestSlot
from drone_agent.camera.settings import CameraSettings
from drone_agent.errors import CameraLost
from drone_agent.ports import Clock
from drone_agent.values import Frame, Image

log = logging.getLogger(__name__)

_MAX_PROBLEMS = 200
_JOIN_S = 2.0
# A driver's stamp is believed if it lies in the recent past of the monotonic clock.
_OLDEST_STAMP_NS = 1_000_000_000


class Capture(Protocol):
    """An open device or stream; every call may block."""

    def read(self) -> tuple[Image, float | None] | None:
        """The next frame and the driver's time stamp (ms) or None; None when there are no more frames."""

    def describe(self) -> Mapping[str, Any]:
        """What the device really gives."""

    def release(self) -> None:
        """Closes it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    t_mono_ns: int
    image: Image


class _Worker(threading.Thread):
    """Opens the capture, reads it until told to stop or nothing comes, and always says why it ended."""

    def __init__(self, open_capture: Callable[[], Capture], clock: Clock) -> None:
        super().__init__(name="camera", daemon=True)
        self.slot: LatestSlot[_Shot] = LatestSlot()
        self.facts: Mapping[str, Any] = {}
        self._open_capture = open_capture
        self._clock = clock
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Asks the thread to end after its current read."""
        self._stopped.set()

    def run(self) -> None:
        reason = "the capture thread died"
        try:
            capture = self._open_capture()
            try:
                self.facts = capture.describe()
                reason = self._pump(capture)
            finally:
                capture.release()
        except CameraLost as error:
            reason = str(error)
        finally:
            self.slot.close(reason)

    def _pump(self, capture: Capture) -> str:
        last_stamp_ms = -1.0
        while not self._stopped.is_set():
            taken = capture.read()
            now_ns = self._clock.now_mono_ns()
            if taken is None:
                return "it gave no more frames"
            image, stamp_ms = taken
            if stamp_ms is not None:
                if stamp_ms == last_stamp_ms:
                    # The driver handed out the same picture again: no sign of life.
                    continue
                last_stamp_ms = stamp_ms
            self.slot.put(_Shot(exposure_ns(now_ns, stamp_ms), image))
        return "it was stopped"


class LiveCamera:
    """Implements `ports.Camera` for a source that does not wait: the newest frame is given, missed ones are counted."""

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        clock: Clock,
        settings: CameraSettings,
        *,
        name: str,
        poll_s: float = 0.1,
    ) -> None:
        """Nothing is opened yet: that happens in the capture thread, because opening may hang too.

        Args:
            open_capture: opens the source; raises CameraLost where it cannot.
            clock: stamps the frames, judges stalls, and waits between attempts.
            settings: time-outs and pauses.
            name: the source, without secrets.
            poll_s: how often a missing frame is looked into.
        """
        self._open_capture = open_capture
        self._clock = clock
        self._settings = settings
        self._name = name
        self._poll_s = poll_s
        self._closed = threading.Event()
        self._worker: _Worker | None = None
        self._hung: list[_Worker] = []
        self._next_index = 0
        self._dropped = 0
        self._reconnects = 0
        self.problems: list[str] = []

    @property
    def total_frames(self) -> int | None:
        """None: nobody knows."""
        return None

    def frames(self) -> Iterator[Frame]:
        """Yields the newest frame, each once, and opens the source again when it stalls or ends.

        The index counts every frame that the source gave, so dropped ones leave a gap.

        Raises:
            CameraLost: the allowed attempts are used up without a new frame, or a second capture thread hangs.
        """
        attempt = 0
        try:
            while not self._closed.is_set():
                before = self._next_index
                reason = yield from self._until_lost()
                if self._closed.is_set():
                    return
                attempt = 1 if self._next_index > before else attempt + 1
                self._problem(f"camera {self._name}: {reason}")
                if attempt > self._settings.reconnect_attempts:
                    raise CameraLost(f"camera {self._name}: {reason}; attempts without a new frame: {attempt}")
                self._pause(attempt)
                self._reconnects += 1
        finally:
            self._stop_worker()

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {
            "backend": f"opencv-{self._settings.source}",
            "source": self._name,
            **(self._worker.facts if self._worker else {}),
            "policy": "latest",
            "frames": self._next_index,
            "dropped": self._dropped,
            "reconnects": self._reconnects,
            "hung_threads": len(self._hung),
            "problems": list(self.problems),
        }

    def close(self) -> None:
        """Ends `frames` at its next look, and the capture thread; from any thread or signal handler, and twice."""
        self._closed.set()
        self._stop_worker()

    def _until_lost(self) -> Generator[Frame, None, str]:
        """Yields frames of one opening; returns why it ended."""
        worker = self._worker = _Worker(self._open_capture, self._clock)
        worker.start()
        seen_ns = self._clock.now_mono_ns()
        limit_ms = self._settings.stall_timeout_ms + self._settings.open_timeout_ms
        while not self._closed.is_set():
            taken = worker.slot.take(self._poll_s)
            now_ns = self._clock.now_mono_ns()
            if taken.item is not None:
                seen_ns, limit_ms = now_ns, self._settings.stall_timeout_ms
                self._dropped += taken.dropped
                index = self._next_index + taken.dropped
                self._next_index = index + 1
                yield Frame(index, taken.item.t_mono_ns, taken.item.image, taken.dropped)
                # What the consumer took for itself is no stall of the camera.
                seen_ns = self._clock.now_mono_ns()
            elif taken.closed is not None:
                worker.join(_JOIN_S)
                return taken.closed
            elif now_ns - seen_ns > limit_ms * 1_000_000:
                self._abandon(worker)
                return f"no new frame for {(now_ns - seen_ns) / 1e9:.1f} s"
        return "it was closed"

    def _abandon(self, worker: _Worker) -> None:
        worker.stop()
        worker.slot.close("it was given up")
        self._worker = None
        self._hung = [other for other in self._hung if other.is_alive()]
        if self._hung:
            raise CameraLost(f"camera {self._name}: a second capture thread hangs in the driver; start the agent again")
        self._hung.append(worker)

    def _stop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.stop()
        worker.slot.close("it was stopped")
        if worker is not threading.current_thread() and worker.is_alive():
            worker.join(_JOIN_S)

    def _pause(self, attempt: int) -> None:
        pause_ms = min(self._settings.reconnect_first_ms * 2 ** min(attempt - 1, 20), self._settings.reconnect_max_ms)
        until_ns = self._clock.now_mono_ns() + pause_ms * 1_000_000
        while not self._closed.is_set() and (left_ns := until_ns - self._clock.now_mono_ns()) > 0:
            self._clock.sleep(min(self._poll_s, left_ns / 1e9))

    def _problem(self, text: str) -> None:
        log.warning("%s", text)
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == _MAX_PROBLEMS:
            self.problems.append("further problems of the camera are in the log only")


def exposure_ns(now_ns: int, stamp_ms: float | None) -> int:
    """The driver's stamp on the monotonic clock if it can be that clock's, else the time of arrival."""
    if stamp_ms is None:
        return now_ns
    stamp_ns = round(stamp_ms * 1e6)
    return stamp_ns if 0 <= now_ns - stamp_ns <= _OLDEST_STAMP_NS else now_ns
