"""What is the agent made of? Puts adapters behind ports as configured; the only module that knows them all."""

from __future__ import annotations

import logging
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drone_agent import __version__
from drone_agent.agent import Agent, Parts, Tally
from drone_agent.camera.factory import open_camera, open_recording
from drone_agent.camera.frames_csv import FrameTimes, read_frame_times
from drone_agent.camera.opencv import silence_decoders
from drone_agent.clock import ManualClock, SystemClock, UtcStamp, utc_from_unix
from drone_agent.config import AgentConfig
from drone_agent.errors import AgentError, ConfigError, InputError, LinkLost, SprayerError
from drone_agent.flightlog.manifest import file_sha256
from drone_agent.flightlog.quota import CleanSampler
from drone_agent.flightlog.reader import normalised_events
from drone_agent.flightlog.schema import TELEMETRY_FILE
from drone_agent.flightlog.telemetry import TelemetryRecorder
from drone_agent.flightlog.writer import FlightLogWriter, find_unfinished, read_boot_id
from drone_agent.health.notify import NullNotifier, notifier_from_environment
from drone_agent.inspection.inspection import Inspection
from drone_agent.inspection.projection import ImageProjector, Projector
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.ledger import Ledger, restore
from drone_agent.marking.marker import Marker
from drone_agent.marking.spray_test import SprayTestResult, spray_test
from drone_agent.ports import Camera, Clock
from drone_agent.values import Event, Frame, Pose
from drone_agent.vehicle.clocksync import check_same_flight
from drone_agent.vehicle.geometry import CameraModel, WallProjector, configured_faces, fit_face
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.patient import PatientPoses
from drone_agent.vehicle.tlog import TlogPoseSource
from drone_agent.vision.bundle import Bundle
from drone_agent.vision.ort import open_classifier
from drone_agent.vision.pipeline import Vision, open_vision, vision_with
from drone_agent.vision.preprocess import read_image
from drone_agent.vision.settings import VisionSettings

log = logging.getLogger(__name__)

# Enough poses for a stable direction, few enough to cost nothing.
_FACE_POSES = 200
_REPLAY_BOOT = "replay"
_LIVE_FACE_POSES = 40
# A pose is known between two samples: ask for one that telemetry has already passed.
_POSE_LAG_NS = 150_000_000


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
    classifier = open_classifier(config.vision)
    bundle, vision = classifier.bundle, vision_with(classifier, config.vision)
    times = read_frame_times(request.frames) if request.frames else None
    silence_decoders()
    camera = open_recording(request.source, read_image, times=times)
    poses = TlogPoseSource(request.telemetry, config.vehicle) if request.telemetry else None
    projector = _projector(config, request, poses, times)
    offset_m, rpy = _camera_on_vehicle(projector)
    config.marking.check_evidence(config.inspection.confirm_log_odds)
    clock = ManualClock()
    session = _session(config, layers, camera, bundle, vision, "replay")
    session["inputs"] = _input_hashes(request)
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
        camera_offset_m=offset_m,
        camera_rpy=rpy,
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
    """Looks and records with the configured camera, and with the configured vehicle if there is one.

    Without `vehicle.link.connection` the cells are image cells and nothing is marked. A flight of this boot that was
    cut off is continued: its ledger is restored before anything may be ordered.

    Raises:
        AgentError: before the first frame: camera, vehicle, model, configuration or output folder cannot be used.
    """
    connected = config.vehicle.link.connection is not None
    config.marking.check_evidence(config.inspection.confirm_log_odds)
    if config.marking.armed and config.marking.paints and not connected:
        raise ConfigError(
            f"marking.armed: found true with sprayer {config.marking.sprayer}, but vehicle.link.connection is not set; "
            "allowed is marking.armed: false, or a connection"
        )
    clock = SystemClock()
    classifier = open_classifier(config.vision)
    bundle, vision = classifier.bundle, vision_with(classifier, config.vision)
    camera = open_live_camera(config, clock)
    writer, ledger = _live_log(config, out, clock, _session(config, layers, camera, bundle, vision, "run"))
    with ExitStack() as cleanup:
        # Until the agent takes over, an error must not leave the log open or the valve unattended.
        cleanup.callback(writer.close)
        link: MavlinkLink | None = None
        marker: Marker | None = None
        projector = _image_projector(config)
        if connected:
            recorder = TelemetryRecorder(writer.folder / TELEMETRY_FILE)
            cleanup.callback(recorder.close)
            link = _open_link(config, clock, lambda _t_ns, packet: recorder.record(clock.unix_us(), packet))
            cleanup.callback(link.close)
            sprayer = build_sprayer(config.marking, clock, link)
            marker = Marker(config.marking, sprayer, ledger, writer.event)
            cleanup.callback(lambda: marker.close(clock.now_mono_ns()) if marker else None)
            link.on_change(lambda change: marker.interrupt(change) if marker and change != "arm" else None)
            projector = _live_projector(config, camera, link, clock, stopped)
        offset_m, rpy = _camera_on_vehicle(projector)
        parts = Parts(
            camera=camera,
            vision=vision,
            poses=None if link is None else PatientPoses(link, clock, config.vehicle.max_pose_gap_s),
            inspection=Inspection(config.inspection, projector),
            marker=marker,
            log=writer,
            clock=clock,
            notifier=notifier_from_environment(),
            sampler=CleanSampler(config.flightlog.clean_samples, writer.folder.name),
            follow=lambda _frame: None,
            host_ns=clock.now_mono_ns,
            camera_offset_m=offset_m,
            camera_rpy=rpy,
        )
        agent = Agent(parts, mode="run", source=str(camera.describe().get("source", "camera")))
        tally, error = agent.fly(stopped=stopped, on_frame=on_frame, max_frames=max_frames)
    return Outcome(writer.folder, _summary(tally, parts.inspection), error)


def run_spray_test(
    config: AgentConfig,
    *,
    pulses: int,
    open_ms: int,
    no_vehicle: bool,
    confirm: Callable[[str], bool],
    say: Callable[[str], None],
) -> SprayTestResult:
    """Pulses of the configured valve, on the ground; see `marking.spray_test`.

    Raises:
        SprayerError: the vehicle is armed or unknown, or the valve cannot be set up.
        ConfigError: count or length out of bounds.
        LinkLost: the configured vehicle does not answer.
    """
    clock = SystemClock()
    link = None
    if config.vehicle.link.connection is not None:
        if no_vehicle:
            raise SprayerError(
                f"--no-vehicle: vehicle.link.connection is set ({config.vehicle.link.connection}), so the vehicle is "
                "asked whether it is armed"
            )
        link = _open_link(config, clock, None)
    try:
        return spray_test(
            config.marking,
            clock,
            pulses=pulses,
            open_ms=open_ms,
            confirm=confirm,
            say=say,
            vehicle=None if link is None else lambda: link.vehicle(clock.now_mono_ns()),
            no_vehicle=no_vehicle,
            link=link,
        )
    finally:
        if link is not None:
            link.close()


def image_scorer(settings: VisionSettings, *, file: str | None = None) -> Vision:
    """What scores single pictures, for the `score` command; on the ground, so with more threads than in flight.

    Raises:
        ModelRejected: the bundle cannot be used.
    """
    silence_decoders()
    return open_vision(settings.model_copy(update={"file": file, "threads": min(4, os.cpu_count() or 1)}))


def open_live_camera(config: AgentConfig, clock: Clock | None = None) -> Camera:
    """The configured camera.

    Raises:
        CameraLost: it cannot be opened.
    """
    silence_decoders()
    return open_camera(config.camera, clock or SystemClock(), read_image)


def _projector(
    config: AgentConfig,
    request: ReplayRequest,
    poses: TlogPoseSource | None,
    times: FrameTimes | None,
) -> Projector:
    if poses is None or request.telemetry is None:
        if request.camera is not None:
            raise InputError(f"--camera {request.camera} needs --telemetry: without positions nothing can be placed")
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


def _live_log(
    config: AgentConfig, out: Path, clock: SystemClock, session: Mapping[str, Any]
) -> tuple[FlightLogWriter, Ledger]:
    """A new flight, or the one of this boot that was cut off, with what it has already marked."""
    boot_id = read_boot_id()
    unfinished = find_unfinished(out, boot_id)
    if unfinished is None:
        writer = FlightLogWriter.create(
            out, clock=clock, settings=config.flightlog, session=session, boot_id=boot_id, threaded=True
        )
        return writer, Ledger()
    ledger = restore(normalised_events(unfinished), clock.now_mono_ns())
    writer = FlightLogWriter.resume(unfinished, clock=clock, settings=config.flightlog)
    detail = f"continued after a restart: {ledger.count} orders, {ledger.open_ns / 1e6:.0f} ms of open time restored"
    writer.event(Event("warning", clock.now_mono_ns(), {"detail": detail}))
    log.warning("%s: %s", unfinished, detail)
    return writer, ledger


def _open_link(config: AgentConfig, clock: SystemClock, record: Callable[[int, bytes], None] | None) -> MavlinkLink:
    switch = config.marking.arming_switch
    command = switch.command_id if switch.source == "command" else None
    link = MavlinkLink(config.vehicle.link, config.vehicle, clock, arming_command=command, record=record)
    try:
        link.wait_for_autopilot(config.vehicle.link.reconnect_s)
    except LinkLost:
        link.close()
        raise
    return link


def _live_projector(
    config: AgentConfig, camera: Camera, link: MavlinkLink, clock: SystemClock, stopped: Callable[[], bool]
) -> Projector:
    about = camera.describe()
    width, height = int(about.get("width") or config.camera.width), int(about.get("height") or config.camera.height)
    model = CameraModel.from_settings(config.vehicle.mount, width, height)
    walls = configured_faces(config.surface)
    if not walls:
        walls = (fit_face(_first_poses(link, clock, stopped), model, config.surface.standoff_m),)
    return WallProjector(model, walls, config.surface, config.vehicle)


def _first_poses(link: MavlinkLink, clock: SystemClock, stopped: Callable[[], bool]) -> list[Pose]:
    """Two seconds of poses, from the first on; the face is fitted to where the camera looks then."""
    poses: list[Pose] = []
    while len(poses) < _LIVE_FACE_POSES and not stopped():
        clock.sleep(0.05)
        pose = link.at(clock.now_mono_ns() - _POSE_LAG_NS)
        if isinstance(pose, Pose):
            poses.append(pose)
    return poses


def _camera_on_vehicle(projector: Projector) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Offset (forward, right, down; m) and roll, pitch, yaw (rad) of the camera, as calibrated or configured."""
    if not isinstance(projector, WallProjector):
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    camera = projector.camera
    right, down, forward = (camera.mount[:, axis] for axis in range(3))
    pitch = math.asin(float(np.clip(-forward[2], -1.0, 1.0)))
    rpy = (math.atan2(float(right[2]), float(down[2])), pitch, math.atan2(float(forward[1]), float(forward[0])))
    return camera.offset_m, rpy


def _image_projector(config: AgentConfig) -> Projector:
    return ImageProjector(config.inspection.image.cell_px)


def _input_hashes(request: ReplayRequest) -> dict[str, dict[str, str]]:
    """SHA-256 of every file that went in; a folder of pictures is named without one."""
    hashes: dict[str, dict[str, str]] = {}
    for path in (request.source, request.telemetry, request.frames, request.camera):
        if path is not None:
            hashes[path.name] = {"sha256": file_sha256(path)} if path.is_file() else {}
    return hashes


def _session(
    config: AgentConfig, layers: Sequence[str], camera: Camera, bundle: Bundle, vision: Vision, mode: str
) -> dict[str, Any]:
    return {
        "mode": mode,
        "agent_version": __version__,
        "config_layers": list(layers),
        "config": config.model_dump(mode="json"),
        "model": {**vision.describe(), **_model_facts(bundle)},
        "camera": camera.describe(),
        "sprayer": {"kind": config.marking.sprayer, "paints": config.marking.paints, "armed": config.marking.armed},
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
        unit, digits = ("m²", 2) if _unit(inspection, face.face) == "m" else ("px²", 0)
        summary[f"seen of {face.face}"] = (
            f"{face.seen_area:.{digits}f} {unit}, in view but not judged {face.unknown_area:.{digits}f} {unit}"
        )
    return summary


def _unit(inspection: Inspection, name: str) -> str:
    return next(face.unit for face in inspection.faces if face.name == name)
