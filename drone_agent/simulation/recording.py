"""How is a flight past a pier with known cracks made, file by file, without a drone?

The folder has the form of every recorded flight, so that the agent replays it and the evaluation measures it like a
real one: `video.mp4`, `frames.csv`, `telemetry.tlog`, `camera.json`, and the truth that the agent never sees,
`truth.json` and `truth.png`. Picture and telemetry come from the same poses; the telemetry has no error beyond its
resolution.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.errors import InputError
from drone_agent.simulation.flight import Flight, Wobble
from drone_agent.simulation.pier import CRACK, JOINT, Pier, make_pier
from drone_agent.simulation.renderer import Board, Pinhole, Renderer, footprint, riverbank
from drone_agent.simulation.telemetry import Site, write_tlog
from drone_agent.values import GeoPoint, Image

# Whole degrees: nobody will take it for the place of a real bridge.
ORIGIN = GeoPoint(lat_deg=47.0, lon_deg=8.0, alt_amsl_m=500.0)
FIRST_PASS_UTC = datetime(2026, 5, 4, 9, 0, 0, tzinfo=UTC)

CAMERA = Pinhole(width=640, height=480, fx=1680.0, fy=1680.0, cx=319.5, cy=239.5)
_FPS = 6.0
_EXPOSURE_S = 0.002
_NOISE = 1.0
_STANDOFF_M = 1.6
_SPEED_M_S = 0.36
_PIER_FOOT_M = 1.5
_PASS_SPACING_M = 0.38
_FIRST_PASS_BOOT_S = 60.0
_LEAD_S = 3.0
_TURN_M = 0.25
_CELL_PX = 50
_TRUTH_MM_PX = 1.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Recording:
    """The files of one recorded flight, and how many frames it has."""

    folder: Path
    video: Path
    frames_csv: Path
    telemetry: Path
    camera: Path
    truth_json: Path
    truth_png: Path
    frames: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What is filmed: the pier, its place in the world, and the flight past it; reproducible from the seed."""

    pier: Pier
    board: Board
    flight: Flight
    site: Site
    frame_times_s: tuple[float, ...]
    camera: Pinhole


def make_scene(seed: int, pier_m: tuple[float, float] = (4.0, 1.2), passes: int = 2, camera: Pinhole = CAMERA) -> Scene:
    """Builds pier, flight and the camera's exposure times (boot time, s) without rendering anything.

    Args:
        seed: seed of everything random.
        pier_m: (width, height) of the face shown.
        passes: how often the vehicle flies past; they lie centred on the face, 0.38 m apart.
        camera: what films; the default sees 0.95 mm a pixel from the stand-off of 1.6 m.
    """
    pier = make_pier(seed, *pier_m)
    board = Board(pier.texture, pier.mm_px, _STANDOFF_M, 0.0, _PIER_FOOT_M)
    rng = np.random.default_rng([seed, 1])
    middle = _PIER_FOOT_M + 0.5 * pier_m[1]
    heights = tuple(middle + (k - 0.5 * (passes - 1)) * _PASS_SPACING_M for k in range(passes))
    flight = Flight(rng, _FIRST_PASS_BOOT_S, (_TURN_M, pier_m[0] - _TURN_M), heights, _SPEED_M_S)
    boot_unix_s = FIRST_PASS_UTC.timestamp() - _FIRST_PASS_BOOT_S
    count = int((flight.end_s - flight.start_s) * _FPS) + 1
    # A free-running camera drifts a little against its nominal rate and jitters by a line or two of the readout.
    period_s = 1.0 / _FPS * (1.0 + rng.normal(0.0, 2e-4))
    times = flight.start_s + 0.021 + period_s * np.arange(count) + rng.normal(0.0, 0.0012, count)
    site = Site(ORIGIN, boot_unix_s, _STANDOFF_M)
    return Scene(pier, board, flight, site, tuple(float(t) for t in np.round(times, 6)), camera)


def shipped_recording() -> Recording:
    """The recording that travels with the package: `make_recording` with its defaults, made once.

    It is kept as files because a golden log needs the same pixels everywhere, and encoders and
    random generators differ.

    Raises:
        InputError: if the package was installed without it.
    """
    folder = Path(__file__).parent / "recordings" / "pier-01"
    try:
        frames = len((folder / "frames.csv").read_text(encoding="ascii").splitlines()) - 1
    except OSError as error:
        raise InputError(f"the demo recording is missing from this installation: {folder}") from error
    return _paths(folder, frames)


def make_recording(
    folder: Path,
    seed: int = 1,
    progress: Progress | None = None,
    pier_m: tuple[float, float] = (4.0, 1.2),
    passes: int = 2,
    camera: Pinhole = CAMERA,
) -> Recording:
    """Flies past a seeded pier and writes the recording into `folder`, which is created.

    The same seed gives the same files, up to what another version of numpy, OpenCV or its video encoder changes.

    Args:
        folder: where the files go; existing ones of the same name are replaced.
        seed: seed of pier, flight and camera noise.
        progress: called with (frames done, frames in all) after each frame.
        pier_m: (width, height) of the face shown.
        passes: how often the vehicle flies past.
        camera: what films.

    Raises:
        InputError: if the folder cannot be written or the video encoder is missing.
    """
    recording = _paths(folder, 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scene = make_scene(seed, pier_m, passes, camera)
        _write_video(recording.video, scene, np.random.default_rng([seed, 2]), progress)
        _write_frames_csv(recording.frames_csv, scene)
        flight = scene.flight
        tlog = write_tlog(
            flight, scene.site, flight.start_s - _LEAD_S, flight.end_s + _LEAD_S, np.random.default_rng([seed, 3])
        )
        recording.telemetry.write_bytes(tlog)
        _write_json(recording.camera, _camera_facts(scene.camera))
        mask = scene.pier.truth(_TRUTH_MM_PX)
        recording.truth_png.write_bytes(cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
        _write_json(recording.truth_json, _truth_facts(scene, mask, seed))
    except OSError as error:
        raise InputError(f"the recording cannot be written to {folder}: {error.strerror or error}") from error
    return _paths(folder, len(scene.frame_times_s))


def pictures(scene: Scene, rng: np.random.Generator) -> Iterator[Image]:
    """Yields the frames of a scene as the camera saw them, in order, before any video encoder."""
    renderer = Renderer(scene.camera, scene.board, riverbank(0, north_m=14.0), _STANDOFF_M)
    # Automatic exposure hunts a little.
    exposure = Wobble(rng, rms=0.025, low_hz=0.03, high_hz=0.4)
    for t_s in scene.frame_times_s:
        shutter = [scene.flight.pose(t_s + share * _EXPOSURE_S) for share in (-0.33, 0.0, 0.33)]
        yield renderer.picture(shutter, gain=1.0 + exposure.at(t_s), noise=_NOISE, rng=rng)


def _paths(folder: Path, frames: int) -> Recording:
    return Recording(
        folder=folder,
        video=folder / "video.mp4",
        frames_csv=folder / "frames.csv",
        telemetry=folder / "telemetry.tlog",
        camera=folder / "camera.json",
        truth_json=folder / "truth.json",
        truth_png=folder / "truth.png",
        frames=frames,
    )


def _write_video(path: Path, scene: Scene, rng: np.random.Generator, progress: Progress | None) -> None:
    size = (scene.camera.width, scene.camera.height)
    # MPEG-4 part 2 is the one compact encoder that every OpenCV wheel carries.
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), _FPS, size)
    if not writer.isOpened():
        raise InputError(f"no video can be written to {path}: folder not writable, or OpenCV without the mp4v encoder")
    total = len(scene.frame_times_s)
    try:
        for done, picture in enumerate(pictures(scene, rng), start=1):
            writer.write(picture)
            if progress is not None:
                progress(done, total)
    finally:
        writer.release()


def _write_frames_csv(path: Path, scene: Scene) -> None:
    lines = ["frame,time_boot_s,unix_s"]
    lines += [f"{k},{t_s:.6f},{scene.site.boot_unix_s + t_s:.6f}" for k, t_s in enumerate(scene.frame_times_s)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    """Writes one key a line, and one item a line in lists of objects, so that long polylines stay readable."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        else:
            text = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")


def _camera_facts(camera: Pinhole) -> dict[str, Any]:
    return {
        "width": camera.width,
        "height": camera.height,
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "distortion": [0, 0, 0, 0, 0],
        "mount": "forward (camera z = body x)",
        "gsd_mm_px_at_standoff": round(1000.0 * _STANDOFF_M / camera.fx, 4),
    }


def _truth_facts(scene: Scene, mask: Image, seed: int) -> dict[str, Any]:
    pier, foot = scene.pier, scene.board.height_m
    crack, joint = _cells(mask == CRACK), _cells(mask == JOINT)
    return {
        "wall_plane_north_m": scene.board.north_m,
        "wall_east_m": [0.0, pier.width_m],
        "wall_height_m": [foot, round(foot + pier.height_m, 6)],
        "gsd_mm_px": _TRUTH_MM_PX,
        "standoff_m": _STANDOFF_M,
        "truth_png": "255 crack, 128 joint; row 0 = top, column 0 = east 0",
        "frames": len(scene.frame_times_s),
        "fps": _FPS,
        "crack_cells_5cm": int(crack.sum()),
        "joint_cells_5cm": int((joint & ~crack).sum()),
        "cells": int(crack.size),
        "seen_fraction": round(seen_fraction(scene), 4),
        "origin": "LOCAL_POSITION_NED origin of the log",
        "origin_wgs84": {"lat_deg": ORIGIN.lat_deg, "lon_deg": ORIGIN.lon_deg, "alt_amsl_m": ORIGIN.alt_amsl_m},
        "seed": seed,
        "cracks": [
            {
                "width_mm": item.width_mm,
                "parent": item.parent,
                "points_along_height_m": np.round(item.points, 4).tolist(),
                "widths_mm": np.round(item.widths_mm, 2).tolist(),
            }
            for item in pier.cracks
        ],
    }


def _cells(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which cells of 5 cm hold a pixel of `mask` (1 mm a pixel); cells that the edge cuts are left out."""
    rows, cols = mask.shape[0] // _CELL_PX, mask.shape[1] // _CELL_PX
    blocks = mask[mask.shape[0] - rows * _CELL_PX :, : cols * _CELL_PX].reshape(rows, _CELL_PX, cols, _CELL_PX)
    return np.asarray(blocks.any(axis=(1, 3)))


def seen_fraction(scene: Scene) -> float:
    """Share of the face that lay inside at least one frame, counted on a grid of 1 cm."""
    grid = np.zeros((round(scene.pier.height_m * 100.0), round(scene.pier.width_m * 100.0)), dtype=np.uint8)
    for t_s in scene.frame_times_s:
        face = footprint(scene.camera, scene.flight.pose(t_s), scene.board)
        cv2.fillConvexPoly(grid, np.round(100.0 * face - 0.5).astype(np.int32), (1,))
    return float(grid.mean())
