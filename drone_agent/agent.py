"""What becomes of a frame? The loop from camera to sprayer, one frame after the other."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from drone_agent.errors import AgentError, CameraLost, FlightLogError
from drone_agent.flightlog.quota import CleanSampler
from drone_agent.inspection.inspection import Inspection, Observation
from drone_agent.inspection.projection import FaceInfo, NoView, View
from drone_agent.marking.lead import FacePosition, face_position
from drone_agent.marking.marker import Marker
from drone_agent.ports import Camera, Clock, FlightLog, Notifier, PoseSource
from drone_agent.values import Event, Frame, Image, NoPose, Pose, Sighting, SprayOrder, Tile, Verdict
from drone_agent.vision.pipeline import FrameScores, Vision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agent is made of; `app` puts it together.

    `follow` is called with each frame before anything else looks at it: a replay sets its clock there. `host_ns` is
    the host's monotonic clock for measuring how long the work takes; no decision depends on it. `evidence_scale` is
    the side of an evidence image in tiles. Without telemetry there is no `marker`: paint without a place is out of the
    question. `notes` is what was found wrong with the telemetry before the flight. `camera_offset_m` (forward, right,
    down) and `camera_rpy` (rad) say how the camera sits on the vehicle.
    """

    camera: Camera
    vision: Vision
    poses: PoseSource | None
    inspection: Inspection
    marker: Marker | None
    log: FlightLog
    clock: Clock
    notifier: Notifier
    sampler: CleanSampler
    follow: Callable[[Frame], None]
    host_ns: Callable[[], int]
    coverage_every_ns: int = 2_000_000_000
    evidence_scale: float = 2.0
    camera_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What was counted over the flight; stages in host nanoseconds."""

    frames: int = 0
    tiles: int = 0
    cracks: int = 0
    unknown: int = 0
    dropped: int = 0
    unplaced: int = 0
    sightings: int = 0
    orders: int = 0
    refusals: int = 0
    stages: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Gap:
    """Frames in a row that could not be put on the structure for one reason."""

    from_ns: int
    to_ns: int
    frames: int
    reason: str


class Agent:
    """One flight, from the first frame to the manifest."""

    def __init__(self, parts: Parts, *, mode: str, source: str) -> None:
        """`mode` is `replay` or `run`; `source` says what is looked at, without secrets."""
        self._parts = parts
        self._mode = mode
        self._source = source
        self._tally = Tally()
        self._gap: _Gap | None = None
        self._coverage_at_ns: int | None = None

    def fly(
        self, *, stopped: Callable[[], bool], on_frame: Callable[[int | None], None], max_frames: int | None = None
    ) -> tuple[Tally, AgentError | None]:
        """Processes frames until the source ends, `stopped` says so, or something breaks; always closes the log.

        Returns:
            The counts, and the error that ended the flight early (already recorded, as far as that was possible).
        """
        error: AgentError | None = None
        started_ns = self._parts.host_ns()
        # Also what a bug leaves behind: only a flight that came to its end says so.
        reason = "error"
        try:
            self._begin()
            for frame in self._timed_frames():
                self._step(frame)
                on_frame(self._parts.camera.total_frames)
                if stopped():
                    reason = "interrupted"
                    break
                if max_frames is not None and self._tally.frames >= max_frames:
                    reason = "max_frames"
                    break
            else:
                reason = "completed"
        except AgentError as broken:
            error = broken
        finally:
            # Whatever happened: first the valve, then the log.
            late = self._close_valve()
            self._parts.notifier.stopping()
            late = self._finish(reason, error, self._parts.host_ns() - started_ns) or late
        return self._tally, error or late

    def _begin(self) -> None:
        parts = self._parts
        self._write("session_started", {"mode": self._mode, "source": self._source})
        for face in parts.inspection.faces:
            self._write("face", face_data(face))
        for note in parts.notes:
            self._write("telemetry_problem", {"detail": note})
        if parts.marker is not None and parts.marker.relaxed:
            lifted = ", ".join(parts.marker.relaxed)
            self._write("warning", {"detail": f"interlocks lifted for bench and replay: {lifted}"})
        parts.notifier.ready()

    def _step(self, frame: Frame) -> None:
        parts, tally = self._parts, self._tally
        parts.follow(frame)
        now_ns = parts.clock.now_mono_ns()
        host_ms: dict[str, float] = {}
        with self._stage("pose", host_ms):
            pose = parts.poses.at(frame.t_mono_ns) if parts.poses else None
            height_px, width_px = frame.image.shape[:2]
            view = parts.inspection.view(pose, width_px, height_px)
        with self._stage("vision", host_ms):
            seen = parts.vision.score(frame, gsd_mm_px=None if isinstance(view, NoView) else view.gsd_mm_px)
        with self._stage("inspection", host_ms):
            observation = parts.inspection.observe(frame, pose, seen.scores)
        tally.frames += 1
        with self._stage("log", host_ms):
            self._record_frame(frame, pose, view, seen, observation, host_ms)
            for sighting in observation.sightings:
                self._record_sighting(frame, sighting, pose)
            self._sample_clean(frame, seen, observation)
        with self._stage("marking", host_ms):
            self._mark(now_ns, pose, observation)
        self._record_coverage(now_ns)
        parts.notifier.alive()

    def _mark(self, now_ns: int, pose: Pose | NoPose | None, observation: Observation) -> None:
        parts = self._parts
        if parts.marker is None or parts.poses is None:
            return
        vehicle = parts.poses.vehicle(now_ns)
        where = self._before_face(pose, observation.face)
        for sighting in observation.offers:
            answer = parts.marker.consider(now_ns, sighting, vehicle, where)
            if isinstance(answer, SprayOrder):
                parts.inspection.mark(sighting.place)
                self._tally.orders += 1
            else:
                self._tally.refusals += 1
        parts.marker.tick(now_ns, vehicle)

    def _before_face(self, pose: Pose | NoPose | None, name: str | None) -> FacePosition | None:
        face = next((face for face in self._parts.inspection.faces if face.name == name), None)
        if face is None or face.origin_ned_m is None or face.along_bearing is None or not isinstance(pose, Pose):
            return None
        return face_position(
            pose,
            face=face.name,
            origin_ned=face.origin_ned_m,
            along_bearing=face.along_bearing,
            camera_body_m=self._parts.camera_offset_m,
            camera_rpy=self._parts.camera_rpy,
        )

    def _record_frame(
        self,
        frame: Frame,
        pose: Pose | NoPose | None,
        view: View | NoView,
        seen: FrameScores,
        observation: Observation,
        host_ms: dict[str, float],
    ) -> None:
        tally = self._tally
        reasons = Counter(score.reason or "unknown" for score in seen.scores if score.verdict is Verdict.UNKNOWN)
        cracks = sum(score.verdict is Verdict.CRACK for score in seen.scores)
        tally.tiles += len(seen.scores)
        tally.cracks += cracks
        tally.unknown += reasons.total()
        if frame.dropped_before:
            tally.dropped += frame.dropped_before
            self._write("frames_dropped", {"count": frame.dropped_before}, frame.t_mono_ns)
        no_view = observation.no_view
        if no_view is not None:
            tally.unplaced += 1
        self._follow_gap(frame, no_view)
        data: dict[str, Any] = {
            "index": frame.index,
            "unix_s": frame.unix_s,
            "dropped_before": frame.dropped_before,
            "pose": pose_data(pose) if isinstance(pose, Pose) else None,
            "no_pose": no_view.reason if no_view else None,
            "tiles": len(seen.scores),
            "cracks": cracks,
            "unknown": reasons.total(),
            "unknown_reasons": dict(sorted(reasons.items())),
            "p_max": max((score.p_crack for score in seen.scores if score.p_crack is not None), default=None),
            "sharpness": seen.sharpness,
            "brightness": seen.brightness,
            "gsd_mm_px": observation.gsd_mm_px,
            "footprint": _finite_points(observation.footprint),
            "hits": [
                [hit.tile.x_px, hit.tile.y_px, hit.tile.size_px, hit.p_crack, hit.along, hit.height]
                for hit in observation.hits
            ],
            "host_ms": dict(host_ms),
        }
        if not isinstance(view, NoView):
            data["range_m"] = view.range_m
        self._write("frame", data, frame.t_mono_ns)

    def _record_sighting(self, frame: Frame, sighting: Sighting, pose: Pose | NoPose | None) -> None:
        parts = self._parts
        self._tally.sightings += 1
        data = sighting_data(sighting)
        camera = pose_data(pose) if isinstance(pose, Pose) else {}
        metadata = {
            **data,
            "kind": "sighting",
            "description": f"CrackScout sighting {sighting.sighting_id}",
            "yaw_deg": camera.get("yaw_deg"),
            **{f"camera_{key}": camera.get(key) for key in ("lat_deg", "lon_deg", "alt_amsl_m")},
        }
        picture, corner = evidence_crop(frame.image, sighting.tile, parts.evidence_scale)
        data["image_corner"] = list(corner)
        data["image"] = parts.log.image(f"sighting-{sighting.sighting_id:04d}", picture, metadata) or None
        self._write("sighting", data, sighting.t_mono_ns)

    def _sample_clean(self, frame: Frame, seen: FrameScores, observation: Observation) -> None:
        sampler = self._parts.sampler
        if sampler.rate <= 0:
            return
        centres = {look.score.tile: look.quad.mean(axis=0) for look in observation.looks}
        for score in seen.scores:
            if score.verdict is not Verdict.CLEAR:
                continue
            rate = sampler.draw(frame.index, score.tile)
            if rate is None:
                continue
            tile = score.tile
            centre = centres.get(tile)
            data = {
                "frame": frame.index,
                "tile": [tile.x_px, tile.y_px, tile.size_px],
                "p": score.p_crack,
                "along": None if centre is None else float(centre[0]),
                "height": None if centre is None else float(centre[1]),
                "rate": rate,
            }
            name = f"clean-{sampler.kept:04d}"
            picture, _ = evidence_crop(frame.image, tile, 1.0)
            data["image"] = self._parts.log.image(name, picture, {**data, "kind": "clean_sample"}) or None
            self._write("clean_sample", data, frame.t_mono_ns)

    def _record_coverage(self, now_ns: int, *, final: bool = False) -> None:
        due = self._coverage_at_ns is None or now_ns - self._coverage_at_ns >= self._parts.coverage_every_ns
        if not (due or final):
            return
        self._coverage_at_ns = now_ns
        for delta in self._parts.inspection.coverage_delta():
            self._write("coverage", {"face": delta.face, "cells": [list(cell) for cell in delta.cells]}, now_ns)

    def _follow_gap(self, frame: Frame, no_view: NoView | None) -> None:
        gap = self._gap
        if gap is not None and (no_view is None or no_view.reason != gap.reason):
            self._write_gap(gap)
            gap = self._gap = None
        if no_view is None:
            return
        if gap is None:
            self._gap = _Gap(frame.t_mono_ns, frame.t_mono_ns, 1, no_view.reason)
        else:
            gap.to_ns, gap.frames = frame.t_mono_ns, gap.frames + 1

    def _write_gap(self, gap: _Gap) -> None:
        data = {"from_ns": gap.from_ns, "to_ns": gap.to_ns, "frames": gap.frames, "reason": gap.reason}
        self._write("pose_gap", data, gap.to_ns)

    def _close_valve(self) -> AgentError | None:
        if self._parts.marker is None:
            return None
        try:
            self._parts.marker.close(self._parts.clock.now_mono_ns())
        except AgentError as error:
            return error
        return None

    def _finish(self, reason: str, error: AgentError | None, host_ns: int) -> AgentError | None:
        """Writes the end of the story, as far as the log still takes it."""
        parts, tally = self._parts, self._tally
        now_ns = parts.clock.now_mono_ns()
        late: AgentError | None = None
        try:
            if self._gap is not None:
                self._write_gap(self._gap)
            self._record_coverage(now_ns, final=True)
            for problem in parts.camera.problems:
                self._write("warning", {"detail": problem}, now_ns)
            if error is not None:
                kind = "camera_lost" if isinstance(error, CameraLost) else "error"
                self._write(kind, {"detail": str(error)}, now_ns)
            seconds = host_ns / 1e9
            self._write(
                "session_ended",
                {
                    "frames": tally.frames,
                    "tiles": tally.tiles,
                    "cracks": tally.cracks,
                    "unknown": tally.unknown,
                    "dropped": tally.dropped,
                    "unplaced": tally.unplaced,
                    "sightings": tally.sightings,
                    "orders": tally.orders,
                    "refusals": tally.refusals,
                    "reason": reason,
                    "detail": str(error) if error else None,
                    "host_seconds": seconds,
                    "host_fps": tally.frames / seconds if seconds > 0 else None,
                    "host_stage_ms": {name: ns / 1e6 for name, ns in sorted(tally.stages.items())},
                },
                now_ns,
            )
        except FlightLogError as broken:
            late = broken
        # The log last: its manifest covers what the others still wrote.
        for close in (parts.camera.close, *([parts.poses.close] if parts.poses else []), parts.log.close):
            try:
                close()
            except AgentError as broken:
                late = late or broken
        return late

    def _timed_frames(self) -> Iterator[Frame]:
        frames = self._parts.camera.frames()
        while True:
            started_ns = self._parts.host_ns()
            frame = next(frames, None)
            self._tally.stages["decode"] += self._parts.host_ns() - started_ns
            if frame is None:
                return
            yield frame

    @contextmanager
    def _stage(self, name: str, host_ms: dict[str, float]) -> Iterator[None]:
        started_ns = self._parts.host_ns()
        yield
        took_ns = self._parts.host_ns() - started_ns
        self._tally.stages[name] += took_ns
        host_ms[name] = took_ns / 1e6

    def _write(self, kind: str, data: dict[str, Any], t_mono_ns: int | None = None) -> None:
        at_ns = self._parts.clock.now_mono_ns() if t_mono_ns is None else t_mono_ns
        self._parts.log.event(Event(kind, at_ns, data))


def evidence_crop(image: Image, tile: Tile, scale: float) -> tuple[Image, tuple[int, int]]:
    """The tile with what surrounds it: a square of `scale` tiles, moved inwards at the border of the frame.

    Returns:
        The crop (BGR uint8, a view) and its top left corner in pixels of the frame.
    """
    height_px, width_px = image.shape[:2]
    side = round(tile.size_px * scale)
    left = max(0, min(tile.x_px + tile.size_px // 2 - side // 2, width_px - side))
    top = max(0, min(tile.y_px + tile.size_px // 2 - side // 2, height_px - side))
    return image[top : top + side, left : left + side], (left, top)


def pose_data(pose: Pose) -> dict[str, Any]:
    """A pose as the flight log writes it (degrees)."""
    geo = pose.geo
    return {
        "north_m": pose.north_m,
        "east_m": pose.east_m,
        "down_m": pose.down_m,
        "roll_deg": math.degrees(pose.roll),
        "pitch_deg": math.degrees(pose.pitch),
        "yaw_deg": math.degrees(pose.yaw) % 360.0,
        "lat_deg": geo.lat_deg if geo else None,
        "lon_deg": geo.lon_deg if geo else None,
        "alt_amsl_m": geo.alt_amsl_m if geo else None,
        "sigma_m": pose.sigma_m,
        "gap_ms": pose.gap_ns / 1e6,
        "range_m": pose.range_m,
    }


def sighting_data(sighting: Sighting) -> dict[str, Any]:
    """A sighting as the flight log writes it (degrees)."""
    place, geo, tile = sighting.place, sighting.geo, sighting.tile
    return {
        "id": sighting.sighting_id,
        "face": place.face,
        "along": place.along,
        "height": place.height,
        "unit": place.unit,
        "cell": list(place.cell),
        "log_odds": sighting.log_odds,
        "looks": sighting.looks,
        "p_max": sighting.p_max,
        "sigma_m": sighting.sigma_m,
        "lat_deg": geo.lat_deg if geo else None,
        "lon_deg": geo.lon_deg if geo else None,
        "alt_amsl_m": geo.alt_amsl_m if geo else None,
        "frame": sighting.frame_index,
        "tile": [tile.x_px, tile.y_px, tile.size_px],
        "range_m": sighting.range_m,
        "incidence_deg": None if sighting.incidence is None else math.degrees(sighting.incidence),
        "gsd_mm_px": sighting.gsd_mm_px,
    }


def face_data(face: FaceInfo) -> dict[str, Any]:
    """A face of the structure as the flight log writes it (degrees)."""
    return {
        "name": face.name,
        "unit": face.unit,
        "cell": face.cell,
        "how": face.how,
        "origin_ned": face.origin_ned_m,
        "along_bearing_deg": None if face.along_bearing is None else math.degrees(face.along_bearing) % 360.0,
        "length": face.length,
        "height": face.height,
        "detail": face.detail,
    }


def _finite_points(points: npt.NDArray[np.float64] | None) -> list[list[float]] | None:
    if points is None or not np.isfinite(points).all():
        return None
    return [[float(along), float(height)] for along, height in points]
