"""What the agent needs from the outside world: one Protocol for each kind of adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from drone_agent.clock import UtcStamp
from drone_agent.values import Event, Frame, Image, NoPose, Pose, SprayOrder, SprayResult, Tile, TileScore, VehicleState


class Clock(Protocol):
    """Where time comes from."""

    def now_mono_ns(self) -> int:
        """Monotonic nanoseconds."""

    def utc(self) -> UtcStamp:
        """UTC as an annotation, with a flag that says whether to believe it."""

    def sleep(self, seconds: float) -> None:
        """Waits for `seconds`."""


class Camera(Protocol):
    """Where frames come from."""

    @property
    def total_frames(self) -> int | None:
        """How many frames there will be; None when nobody can know (live)."""

    @property
    def problems(self) -> Sequence[str]:
        """What was found wrong with the source so far, one line each; for the flight log."""

    def frames(self) -> Iterator[Frame]:
        """Yields frames in order of exposure. Raises CameraLost when the source fails; ends when it is exhausted."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log: backend, source (without secrets), size, rate."""

    def close(self) -> None:
        """Releases the device; may be called twice."""


class Classifier(Protocol):
    """How likely is a crack in each tile."""

    def score(self, image: Image, tiles: Sequence[Tile]) -> list[TileScore]:
        """Scores `tiles` of `image` (BGR uint8, HxWx3), in the same order."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log: bundle name, hash, file, threshold, providers."""


class PoseSource(Protocol):
    """Where the vehicle was at a given instant."""

    def at(self, t_mono_ns: int) -> Pose | NoPose:
        """The pose at `t_mono_ns`, interpolated; NoPose with the reason where that cannot be said."""

    def vehicle(self, t_mono_ns: int) -> VehicleState:
        """What the autopilot had said of itself up to `t_mono_ns`."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""

    def close(self) -> None:
        """Releases the link or file; may be called twice."""


class Sprayer(Protocol):
    """What opens and closes the valve."""

    def spray(self, order: SprayOrder) -> SprayResult | None:
        """Executes or starts `order`. Returns the result if it is known at once, else None: poll `results`."""

    def results(self) -> list[SprayResult]:
        """Results that became known since the last call."""

    def off(self, reason: str) -> None:
        """Closes the valve now, whatever was ordered; may be called at any time and twice."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""

    def close(self) -> None:
        """Closes the valve and releases the hardware; may be called twice."""


class FlightLog(Protocol):
    """What is kept."""

    def event(self, event: Event) -> None:
        """Appends one event. Raises FlightLogError if it cannot be kept."""

    def image(self, name: str, image: Image, metadata: Mapping[str, Any]) -> str:
        """Keeps one evidence image (BGR uint8) as `images/<name>.jpg`; returns its path relative to the folder."""

    @property
    def folder(self) -> Path:
        """The flight's folder."""

    def close(self) -> None:
        """Flushes, fsyncs and writes the manifest; may be called twice."""


class Notifier(Protocol):
    """Who is told that the agent is alive (systemd's watchdog, or nobody)."""

    def ready(self) -> None:
        """The agent has started."""

    def alive(self) -> None:
        """Every part has reported in."""

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""

    def stopping(self) -> None:
        """The agent is shutting down."""
