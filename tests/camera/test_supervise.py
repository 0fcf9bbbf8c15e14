import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drone_agent.camera.settings import CameraSettings
from drone_agent.camera.supervise import LiveCamera, exposure_ns
from drone_agent.clock import ManualClock, SystemClock
from drone_agent.errors import CameraLost
from drone_agent.ports import Clock
from drone_agent.values import Image
from tests.camera.videos import make_video, numbered_image, read_number

POLL_S = 0.005


class LoopingVideo:
    """A live camera made of a real file: after its last frame it starts over, or ends if told so."""

    def __init__(self, path: Path, *, rounds: int | None = None, stamps: Iterator[float] | None = None) -> None:
        self._path = path
        self._rounds = rounds
        self._stamps = stamps
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self.released = threading.Event()

    def read(self) -> tuple[Image, float | None] | None:
        good, image = self._capture.read()
        if not good:
            if self._rounds is not None:
                self._rounds -= 1
                if self._rounds == 0:
                    return None
            self._capture.open(str(self._path), cv2.CAP_FFMPEG)
            good, image = self._capture.read()
            assert good
        return np.asarray(image, np.uint8), next(self._stamps) if self._stamps else None

    def describe(self) -> Mapping[str, Any]:
        return {"width": int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))}

    def release(self) -> None:
        self._capture.release()
        self.released.set()


class HangingCamera:
    """Gives a few frames, then blocks in its driver until the test lets it go."""

    def __init__(self, frames: int, let_go: threading.Event, hangs: threading.Event | None = None) -> None:
        self._left = frames
        self._let_go = let_go
        self._hangs = hangs or threading.Event()
        self.released = threading.Event()

    def read(self) -> tuple[Image, float | None] | None:
        if self._left == 0:
            self._hangs.set()
            self._let_go.wait(60.0)
            return None
        self._left -= 1
        return numbered_image(self._left), None

    def describe(self) -> Mapping[str, Any]:
        return {}

    def release(self) -> None:
        self.released.set()


class TickingClock(ManualClock):
    """While `runs` is set each look at it moves it on by 50 ms: waiting for a stall needs no wall-clock time."""

    def __init__(self, runs: threading.Event) -> None:
        super().__init__()
        self._runs = runs
        self._lock = threading.Lock()

    def now_mono_ns(self) -> int:
        with self._lock:
            if self._runs.is_set():
                self.sleep(0.05)
            return super().now_mono_ns()


def settings(**changes: Any) -> CameraSettings:
    return CameraSettings.model_validate({"reconnect_first_ms": 10, "reconnect_max_ms": 20, **changes})


def camera_of(
    openings: list[Callable[[], Any]], clock: Clock | None = None, name: str = "test camera", **changes: Any
) -> LiveCamera:
    """A camera whose n-th opening is the n-th of `openings`; after them every opening fails."""
    rest = iter(openings)

    def open_capture() -> Any:
        opening = next(rest, None)
        if opening is None:
            raise CameraLost("cannot be opened: no such device")
        return opening()

    return LiveCamera(open_capture, clock or ManualClock(), settings(**changes), name=name, poll_s=POLL_S)


def after(hangs: threading.Event, make: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """An opening that ends the time in which the clock runs."""

    def opening() -> Any:
        hangs.clear()
        return make(*args)

    return opening


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "loop.avi", 8)


def test_frames_come_in_order_and_missed_ones_are_counted(video: Path) -> None:
    capture = LoopingVideo(video)
    camera = camera_of([lambda: capture], SystemClock())
    frames = camera.frames()
    last = -1
    for _ in range(30):
        frame = next(frames)
        assert frame.index == last + 1 + frame.dropped_before
        assert read_number(frame.image) == frame.index % 8
        last = frame.index
    assert camera.total_frames is None
    camera.close()
    assert next(frames, None) is None
    assert capture.released.wait(30.0)
    assert camera.problems == []


def test_an_ended_source_is_opened_again_and_its_frames_go_on_counting(video: Path) -> None:
    camera = camera_of([lambda: LoopingVideo(video, rounds=1)] * 3, reconnect_attempts=1)
    indices: list[int] = []
    with pytest.raises(CameraLost, match="no such device"):
        indices.extend(frame.index for frame in camera.frames())
    assert indices == sorted(set(indices))
    # Each opening shows at least its last frame, and the counting never starts anew.
    assert indices[-1] == 23
    assert [problem for problem in camera.problems if "no more frames" in problem] == [
        "camera test camera: it gave no more frames"
    ] * 3


def test_a_camera_that_cannot_be_opened_is_lost_after_the_allowed_attempts() -> None:
    clock = ManualClock()
    camera = camera_of([], clock, reconnect_attempts=4, reconnect_first_ms=100, reconnect_max_ms=300)
    with pytest.raises(
        CameraLost, match=r"test camera: cannot be opened: no such device; attempts without a new frame: 5"
    ):
        next(camera.frames())
    # 100 + 200 + 300 + 300 ms of pauses.
    assert clock.now_mono_ns() == pytest.approx(900e6, abs=1e6)
    assert len(camera.problems) == 5


def test_a_hung_read_is_noticed_by_missing_frames_and_the_source_is_opened_again(video: Path) -> None:
    let_go, hangs = threading.Event(), threading.Event()
    hanging = HangingCamera(1, let_go, hangs)
    camera = camera_of([lambda: hanging, after(hangs, LoopingVideo, video)], TickingClock(hangs))
    frames = camera.frames()
    assert read_number(next(frames).image) == 0
    assert read_number(next(frames).image) in range(8)
    assert "no new frame for" in camera.problems[0]
    assert camera.describe()["hung_threads"] == 1
    assert camera.describe()["reconnects"] == 1
    camera.close()
    let_go.set()
    assert hanging.released.wait(30.0)


def test_a_second_hung_thread_ends_the_flight() -> None:
    let_go, hangs = threading.Event(), threading.Event()
    opening = after(hangs, HangingCamera, 1, let_go, hangs)
    camera = camera_of([opening, opening], TickingClock(hangs), reconnect_attempts=50)
    with pytest.raises(CameraLost, match="a second capture thread hangs"):
        list(camera.frames())
    let_go.set()


def test_a_hung_opening_is_noticed_too(video: Path) -> None:
    let_go, hangs = threading.Event(), threading.Event()

    def hang() -> Any:
        hangs.set()
        let_go.wait(60.0)
        raise CameraLost("at last")

    camera = camera_of([hang, after(hangs, LoopingVideo, video)], TickingClock(hangs))
    assert next(camera.frames()).index >= 0
    assert "no new frame" in camera.problems[0]
    let_go.set()


def test_frames_of_an_abandoned_thread_never_arrive(video: Path) -> None:
    let_go, hangs = threading.Event(), threading.Event()
    late = numbered_image(200)

    class LateCamera(HangingCamera):
        def read(self) -> tuple[Image, float | None] | None:
            if self._left == 0:
                self._hangs.set()
                self._let_go.wait(60.0)
                return late, None
            return super().read()

    capture = LateCamera(1, let_go, hangs)
    camera = camera_of([lambda: capture, after(hangs, LoopingVideo, video)], TickingClock(hangs))
    frames = camera.frames()
    next(frames)
    next(frames)
    let_go.set()
    assert capture.released.wait(30.0)
    assert all(read_number(next(frames).image) < 8 for _ in range(20))
    camera.close()


def test_the_same_picture_handed_out_again_is_no_sign_of_life(video: Path) -> None:
    capture = LoopingVideo(video, stamps=itertools.chain([1.0], itertools.repeat(2.0)))
    always = threading.Event()
    always.set()
    camera = camera_of([lambda: capture], TickingClock(always), reconnect_attempts=0, open_timeout_ms=60_000)
    indices: list[int] = []
    with pytest.raises(CameraLost, match="no new frame"):
        indices.extend(frame.index for frame in camera.frames())
    assert indices[-1] == 1


def test_closing_from_another_thread_ends_a_camera_that_waits() -> None:
    let_go = threading.Event()
    camera = camera_of([lambda: HangingCamera(1, let_go)], ManualClock())
    frames = camera.frames()
    next(frames)
    closer = threading.Thread(target=camera.close)
    closer.start()
    assert next(frames, None) is None
    let_go.set()
    closer.join(30.0)
    camera.close()


def test_leaving_the_loop_releases_the_device(video: Path) -> None:
    capture = LoopingVideo(video)
    for _ in camera_of([lambda: capture], SystemClock()).frames():
        break
    assert capture.released.wait(30.0)


@pytest.mark.parametrize(
    ("now_ns", "stamp_ms", "expected_ns"),
    [
        (5_000_000_000, None, 5_000_000_000),
        (5_000_000_000, 4_970.0, 4_970_000_000),
        # Another clock (boot time with suspend, or wall time): the time of arrival is the better one.
        (5_000_000_000, 9_000.0, 5_000_000_000),
        (5_000_000_000, 1_700_000_000_000.0, 5_000_000_000),
        (5_000_000_000, 100.0, 5_000_000_000),
    ],
)
def test_the_drivers_stamp_is_believed_only_on_the_monotonic_clock(
    now_ns: int, stamp_ms: float | None, expected_ns: int
) -> None:
    assert exposure_ns(now_ns, stamp_ms) == expected_ns
