"""What is the agent made of? Puts adapters behind ports as configured; the only module that knows them all."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drone_agent import __version__
from drone_agent.agent import Agent, Parts, Tally
from drone_agent.camera.factory import open_camera, open_recording
from drone_agent.camera.frames_csv import FrameTimes, read_frame_times
from drone_agent.clock import ManualClock, SystemClock, UtcStamp, utc_from_unix
from drone_agent.config import AgentConfig
from drone_agent.errors import AgentError, ConfigError, InputError
from drone_agent.flightlog.quota import CleanSampler
from drone_agent.flightlog.schema import TELEMETRY_FILE
from drone_agent.flightlog.writer import FlightLogWriter, read_boot_id
from drone_agent.health.notify import NullNotifier, notifier_from_environment
from drone_agent.inspection.inspection import Inspection
from drone_agent.inspection.projection import ImageProjector, Projector
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.ledger import Ledger
from drone_agent.marking.marker import Marker
from drone_agent.ports import Camera, Classifier, Clock
from drone_agent.values import Frame, Pose
from drone_agent.vehicle.clocksync import check_same_flight
from drone_agent.vehicle.geometry import CameraModel, WallProjector, configured_faces, fit_face
from drone_agent.vehicle.tlog import TlogPoseSource
from drone_agent.vision.bundle import Bundle, load_bundle
from drone_agent.vision.ort import OrtClassifier
from drone_agent.vision.pipeline import Vision, open_vision
from drone_agent.vision.preprocess import read_image
from drone_agent.vision.settings import VisionSettings

log = logging.getLogger(__name__)

# Enough poses for a stable direction, few enough to cost nothing.
_FACE_POSES = 200
_REPLAY_BOOT = "replay"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What is to be replayed: a video or a folder of pictures, with what is known of its flight."""

    source: Path
    telemetry: Path | None = None
    frames: Path | None = None
    camera: Path | None = None
    out: Path = Path("flights")
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flight came to: its folder, a summary to read, and the error that ended it early."""

    folder: Path
    summary: dict[str, str]
    error: AgentError | None


def _ignore(_total: int | None) -> None:
    """Progress that nobody watches."""


def _never() -> bool:
    return False


def replay_flight(
    config: AgentConfig,
    request: ReplayRequest,
    *,
    layers: Sequence[str] = (),
    on_frame: Callable[[int | None], None] = _ignore,
    stopped: Callable[[], bool] = _never,
) -> Outcome:
    """Replays a recording through the whole agent on the recording's own clock.

    Raises:
        AgentError: before the first frame: input, model, configuration or output folder cannot be used. Later errors
            end the flight and are in the outcome.
    """
    bundle = load_bundle(config.vision.model, file=config.vision.file)
    vision = open_vision(config.vision)
    times = read_frame_times(request.frames) if request.frames else None
    camera = open_recording(request.source, read_image, frames_csv=request.frames)
    poses = TlogPoseSource(request.telemetry, config.vehicle) if request.telemetry else None
    projector = _projector(config, request, poses, times)
    clock = ManualClock()
    session = _session(config, layers, camera, bundle, vision, "replay")
    session["inputs"] = {
        "source": request.source.name,
        "telemetry": request.telemetry.name if request.telemetry else None,
        "frames": request.frames.name if request.frames else None,
        "camera": request.camera.name if request.camera else None,
    }
    session["vehicle"] = poses.describe() if poses else None
    if times:
        clock.set(times.t_mono_ns[0], _utc(times.unix_s[0]))
    writer = FlightLogWriter.create(
        request.out, clock=clock, settings=config.flightlog, session=session, boot_id=_REPLAY_BOOT, threaded=False
    )
    if request.telemetry:
        writer.attach(request.telemetry, TELEMETRY_FILE)
    marker = None
    if poses is not None:
        marker = Marker(config.marking, build_sprayer(config.marking, clock), Ledger(), writer.event)

    def follow(frame: Frame) -> None:
        clock.set(max(frame.t_mono_ns, clock.now_mono_ns()), _utc(frame.unix_s))

    parts = Parts(
        camera=camera,
        vision=vision,
        poses=poses,
        inspection=Inspection(config.inspection, projector),
        marker=marker,
        log=writer,
        clock=clock,
        notifier=NullNotifier(),
        sampler=CleanSampler(config.flightlog.clean_samples, request.source.name),
        follow=follow,
        host_ns=SystemClock().now_mono_ns,
        camera_offset_m=config.vehicle.mount.offset_m,
        notes=tuple(poses.problems) if poses else (),
    )
    agent = Agent(parts, mode="replay", source=request.source.name)
    tally, error = agent.fly(stopped=stopped, on_frame=on_frame, max_frames=request.max_frames)
    return Outcome(writer.folder, _summary(tally, parts.inspection), error)


def run_live(
    config: AgentConfig,
    out: Path,
    *,
    layers: Sequence[str] = (),
    max_frames: int | None = None,
    on_frame: Callable[[int | None], None] = _ignore,
    stopped: Callable[[], bool] = _never,
) -> Outcome:
    """Looks and records with the configured camera. Positions need the live link, so the cells are image cells here.

    Raises:
        AgentError: before the first frame: camera, model, configuration or output folder cannot be used.
    """
    if config.marking.armed and config.marking.paints:
        raise ConfigError(
            f"marking.armed: found true with sprayer {config.marking.sprayer}, but `run` has no position of the vehicle "
            "yet; allowed is marking.sprayer: dry_run, or marking.armed: false"
        )
    clock = SystemClock()
    bundle = load_bundle(config.vision.model, file=config.vision.file)
    vision = open_vision(config.vision)
    camera = open_live_camera(config, clock)
    session = _session(config, layers, camera, bundle, vision, "run")
    writer = FlightLogWriter.create(
        out, clock=clock, settings=config.flightlog, session=session, boot_id=read_boot_id(), threaded=True
    )
    parts = Parts(
        camera=camera,
        vision=vision,
        poses=None,
        inspection=Inspection(config.inspection, _image_projector(config)),
        marker=None,
        log=writer,
        clock=clock,
        notifier=notifier_from_environment(),
        sampler=CleanSampler(config.flightlog.clean_samples, writer.folder.name),
        follow=lambda _frame: None,
        host_ns=clock.now_mono_ns,
    )
    agent = Agent(parts, mode="run", source=str(camera.describe().get("source", "camera")))
    tally, error = agent.fly(stopped=stopped, on_frame=on_frame, max_frames=max_frames)
    return Outcome(writer.folder, _summary(tally, parts.inspection), error)


def image_scorer(model: str, *, file: str | None = None, threads: int | None = None) -> Vision:
    """What scores single pictures, for the `score` command.

    Raises:
        ModelRejected: the bundle cannot be used.
    """
    count = threads or min(4, os.cpu_count() or 1)
    return open_vision(VisionSettings(model=model, file=file, threads=count))


def open_classifier(settings: VisionSettings) -> Classifier:
    """The model alone, for `check`.

    Raises:
        ModelRejected: the bundle cannot be used.
    """
    return OrtClassifier(
        load_bundle(settings.model, file=settings.file), threads=settings.threads, batch=settings.batch
    )


def open_live_camera(config: AgentConfig, clock: Clock | None = None) -> Camera:
    """The configured camera.

    Raises:
        CameraLost: it cannot be opened.
    """
    return open_camera(config.camera, clock or SystemClock(), read_image)


def _projector(
    config: AgentConfig,
    request: ReplayRequest,
    poses: TlogPoseSource | None,
    times: FrameTimes | None,
) -> Projector:
    if poses is None or request.telemetry is None:
        return _image_projector(config)
    if times is None:
        raise InputError(
            f"--telemetry {request.telemetry} needs --frames: a CSV with frame,time_boot_s,unix_s that says when each "
            "frame was taken"
        )
    check_same_flight(
        [(t_ns / 1e9, unix_s) for t_ns, unix_s in zip(times.t_mono_ns, times.unix_s, strict=True)],
        poses.clock,
        telemetry=str(request.telemetry),
        recording=str(request.frames),
        max_offset_s=config.vehicle.max_clock_offset_s,
    )
    mount = config.vehicle.mount
    if request.camera is not None:
        model = CameraModel.from_json(request.camera, mount)
    else:
        width, height = _frame_size(request)
        model = CameraModel.from_settings(mount, width, height)
    walls = configured_faces(config.surface)
    if not walls:
        chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), _FACE_POSES)).astype(int)).tolist()
        found = [pose for index in chosen if isinstance(pose := poses.at(times.t_mono_ns[index]), Pose)]
        walls = (fit_face(found, model, config.surface.standoff_m),)
    return WallProjector(model, walls, config.surface, config.vehicle)


def _frame_size(request: ReplayRequest) -> tuple[int, int]:
    camera = open_recording(request.source, read_image)
    try:
        frame = next(iter(camera.frames()), None)
    finally:
        camera.close()
    if frame is None:
        raise InputError(f"{request.source}: holds no frame that can be decoded")
    return frame.image.shape[1], frame.image.shape[0]


def _image_projector(config: AgentConfig) -> Projector:
    return ImageProjector(config.inspection.image.cell_px)


def _session(
    config: AgentConfig, layers: Sequence[str], camera: Camera, bundle: Bundle, vision: Vision, mode: str
) -> dict[str, Any]:
    return {
        "mode": mode,
        "agent_version": __version__,
        "config_layers": [Path(name).name for name in layers],
        "config": config.model_dump(mode="json"),
        "model": {**vision.describe(), **_model_facts(bundle)},
        "camera": camera.describe(),
        "host": {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()},
    }


def _model_facts(bundle: Bundle) -> Mapping[str, Any]:
    manifest = bundle.manifest
    return {
        "name": bundle.name,
        "operating_point": manifest.operating_point.model_dump(),
        "metrics": dict(manifest.metrics),
    }


def _utc(unix_s: float | None) -> UtcStamp | None:
    return None if unix_s is None else utc_from_unix(unix_s)


def _summary(tally: Tally, inspection: Inspection) -> dict[str, str]:
    summary = {
        "frames": f"{tally.frames} ({tally.dropped} dropped, {tally.unplaced} without a place)",
        "tiles": f"{tally.tiles} ({tally.cracks} crack, {tally.unknown} unknown)",
        "sightings": str(tally.sightings),
        "marks": f"{tally.orders} ordered, {tally.refusals} refused",
    }
    for face in inspection.coverage():
        unit = "m²" if _unit(inspection, face.face) == "m" else "px²"
        summary[f"seen of {face.face}"] = (
            f"{face.seen_area:.2f} {unit}, not judged {face.unknown_area:.2f}, never in view {face.never_area:.2f}"
        )
    return summary


def _unit(inspection: Inspection, name: str) -> str:
    return next(face.unit for face in inspection.faces if face.name == name)
