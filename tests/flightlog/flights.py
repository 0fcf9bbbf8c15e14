"""Synthetic flights, written through the real writer: three passes along a wall, or a video without telemetry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymap3d

from drone_agent.clock import ManualClock, UtcStamp
from drone_agent.flightlog.settings import FlightLogSettings
from drone_agent.flightlog.writer import FlightLogWriter
from drone_agent.values import Event, Image

BOOT_ID = "3fa2b1c4-0d6e-4a7b-9c1f-2e8d5a6b7c90"
HOME = (47.3769, 8.5417, 408.0)
STANDOFF_M, GSD_MM, WIDTH_PX, HEIGHT_PX = 2.0, 1.0, 1280, 720
CELL_M = 0.05
FPS = 6.0
UTC_START = "2025-06-12T09:30:"

# cracks on the face as polylines (along, height; m)
CRACKS = (
    ((0.95, 2.18), (1.25, 2.42), (1.42, 2.75), (1.80, 3.02), (2.05, 3.40)),
    ((5.52, 2.12), (5.48, 2.45), (5.60, 2.80)),
    ((8.30, 3.05), (8.75, 3.12), (9.05, 3.10)),
)

MODEL = {
    "name": "opnet",
    "version": "0.1.0",
    "architecture": "OPNet",
    "parameters": 389633,
    "file": "model.int8.onnx",
    "sha256": "9f2c4e0b7a1d5c3e8f60a2b4c6d8e0f1a3b5c7d9e1f3a5b7c9d1e3f5a7b9c1d3",
    "threshold_p": 0.42,
    "gsd_mm_px": {"nominal": 1.0, "min": 0.1, "max": 2.0},
    "operating_point": {
        "threshold_p": 0.42,
        "fitted_on": "validation",
        "wanted": "recall >= 0.99",
        "recall": 0.991,
        "specificity": 0.982,
    },
    "metrics": {
        "metu-ccic test": {"recall": [0.991, 0.985, 0.995], "specificity": [0.982, 0.975, 0.988], "n_positive": 1480},
        "walls-external": {"recall": [0.78, 0.72, 0.83], "specificity": [0.71, 0.58, 0.81], "n_positive": 253},
    },
}

SESSION: dict[str, Any] = {
    "mode": "replay",
    "agent": {"version": "0.1.0"},
    "model": MODEL,
    "camera": {"backend": "video", "source": "video.mp4", "width": WIDTH_PX, "height": HEIGHT_PX},
    "poses": {"backend": "tlog", "source": "telemetry.tlog"},
    "sprayer": {"kind": "dry_run"},
    "inputs": {"video.mp4": {"sha256": "0f" * 32}, "telemetry.tlog": {"sha256": "ab" * 32}},
    "config": {"profile": "replay", "marking": {"armed": False}, "vision": {"overlap": 0.0}},
    "host": {"machine": "aarch64", "model": "Raspberry Pi 5"},
}


def concrete_tile(seed: int, *, crack: bool, side: int = 224) -> Image:
    """A patch of grey with pores, and a dark line across it."""
    rng = np.random.default_rng(seed)
    base = cv2.GaussianBlur(rng.normal(165, 40, (side, side)).astype(np.float32), (0, 0), 9)
    base = 165 + (base - base.mean()) * 6 + rng.normal(0, 5, (side, side))
    for x, y, r in zip(rng.integers(0, side, 14), rng.integers(0, side, 14), rng.integers(1, 4, 14), strict=True):
        cv2.circle(base, (int(x), int(y)), int(r), 120.0, -1)
    if crack:
        y = rng.uniform(60, side - 60)
        points = []
        for x in range(-8, side + 16, 8):
            points.append((x, round(y)))
            y += rng.normal(0, 7)
        cv2.polylines(base, [np.array(points, np.int32)], isClosed=False, color=58.0, thickness=2, lineType=cv2.LINE_AA)
    grey = np.clip(base, 0, 255).astype(np.uint8)
    return np.stack([grey, grey, np.clip(grey * 0.98, 0, 255).astype(np.uint8)], axis=-1)


def _crack_cells() -> Iterator[tuple[int, int]]:
    seen = set()
    for line in CRACKS:
        for (a0, h0), (a1, h1) in itertools.pairwise(line):
            steps = max(2, math.ceil(math.hypot(a1 - a0, h1 - h0) / 0.01))
            for k in range(steps + 1):
                cell = (int((a0 + (a1 - a0) * k / steps) / CELL_M), int((h0 + (h1 - h0) * k / steps) / CELL_M))
                if cell not in seen:
                    seen.add(cell)
                    yield cell


def new_log(root: Path, *, name: str | None = None, clock: ManualClock, **session: Any) -> FlightLogWriter:
    """A synchronous writer without the reserve of free space (a test machine may be full)."""
    return FlightLogWriter.create(
        root,
        clock=clock,
        settings=FlightLogSettings(min_free_mb=0.0, fsync="close"),
        session={**SESSION, **session},
        boot_id=BOOT_ID,
        name=name,
        threaded=False,
    )


def wall_flight(
    root: Path, *, name: str | None = None, frames: int = 201, sightings: int = 25, end: str | None = "completed"
) -> Path:
    """Three passes along a wall of 10 x 1.6 m; `end` None: the power was pulled."""
    clock = ManualClock(40_000_000_000, UtcStamp(UTC_START + "00.000+00:00", valid=True))
    log = new_log(root, name=name, clock=clock)
    rng = np.random.default_rng(7)

    def say(kind: str, **data: Any) -> None:
        log.event(Event(kind, clock.now_mono_ns(), data))

    say("session_started", mode="replay", source="video.mp4")
    say(
        "face",
        name="wall",
        unit="m",
        cell=CELL_M,
        how="fitted",
        origin_ned=[STANDOFF_M, 0.0, 0.0],
        along_bearing_deg=90.0,
        length=10.0,
        height=None,
        detail="fitted to the range of 180 frames",
    )
    per_pass = max(1, math.ceil(frames / 3))
    looks: dict[tuple[int, int], list[int]] = {}
    cracks = list(_crack_cells())
    enough = 3 if frames >= 150 else 1
    stride = max(1, len(cracks) // max(1, sightings))
    due = cracks[::stride][:sightings]
    made: list[tuple[int, int]] = []
    orders = refusals = order_id = 0
    gap: list[int] = []
    dropped_total = 0
    for index in range(frames):
        clock.set(
            40_000_000_000 + round(index * 1e9 / FPS),
            UtcStamp(f"{UTC_START}{(index / FPS) % 60:06.3f}+00:00", valid=True),
        )
        leg, step = divmod(index, per_pass)
        fraction = step / max(1, per_pass - 1)
        east = 0.45 + 9.1 * (fraction if leg % 2 == 0 else 1 - fraction) + rng.normal(0, 0.01)
        up = 2.32 + 0.48 * leg + rng.normal(0, 0.015)
        blurred = leg == 0 and 0.30 < fraction < 0.52
        lost = leg == 2 and 0.45 < fraction < 0.68
        dropped = 3 if index == per_pass else 0
        dropped_total += dropped
        half_w, half_h = WIDTH_PX * GSD_MM / 2000, HEIGHT_PX * GSD_MM / 2000
        corners = [(east - half_w, up + half_h), (east + half_w, up + half_h)]
        corners += [(east + half_w, up - half_h), (east - half_w, up - half_h)]
        pose = None
        if not lost:
            lat, lon, alt = pymap3d.ned2geodetic(0.0, east, -up, *HOME)
            pose = {
                "north_m": rng.normal(0, 0.02),
                "east_m": east,
                "down_m": -up,
                "roll_deg": rng.normal(0, 0.8),
                "pitch_deg": rng.normal(0, 0.8),
                "yaw_deg": rng.normal(0, 0.5) % 360,
                "lat_deg": float(lat),
                "lon_deg": float(lon),
                "alt_amsl_m": float(alt),
                "sigma_m": 0.08,
                "gap_ms": 20.0,
                "range_m": None,
            }
        changed: dict[tuple[int, int], list[int]] = {}
        new: list[tuple[int, int]] = []
        if not lost:
            for column in range(math.ceil((east - half_w) / CELL_M), int((east + half_w) / CELL_M)):
                for row in range(math.ceil((up - half_h) / CELL_M), int((up + half_h) / CELL_M)):
                    entry = looks.setdefault((column, row), [0, 0])
                    entry[1 if blurred else 0] += 1
                    changed[column, row] = entry
            new = [c for c in due if c not in made and c in changed and looks[c][0] >= enough and not blurred][:2]
        dim = int(rng.integers(0, 2))
        hits = [[640, 224, 224, 0.91, (c + 0.5) * CELL_M, (r + 0.5) * CELL_M] for c, r in new]
        say(
            "frame",
            index=index,
            unix_s=1749720600.0 + index / FPS,
            dropped_before=dropped,
            pose=pose,
            no_pose="gap" if lost else None,
            tiles=15,
            cracks=len(hits),
            unknown=15 if blurred else dim,
            unknown_reasons={"blur": 15} if blurred else {"flat": dim} if dim else {},
            p_max=0.91 if hits else float(rng.uniform(0, 0.3)),
            sharpness=18.0 if blurred else float(rng.normal(120, 8)),
            brightness=float(128 + 20 * math.sin(index / 30) + rng.normal(0, 1)),
            gsd_mm_px=None if lost else GSD_MM,
            footprint=None if lost else corners,
            hits=hits,
            host_ms={"decode": float(rng.uniform(2, 4)), "model": float(rng.uniform(55, 70))},
        )
        if lost:
            gap.append(clock.now_mono_ns())
        elif gap:
            say("pose_gap", from_ns=gap[0], to_ns=gap[-1], frames=len(gap), reason="gap")
            gap = []
        if changed:
            say("coverage", face="wall", cells=[[c, r, g, u, -1.2 * g] for (c, r), (g, u) in sorted(changed.items())])
        for column, row in new:
            made.append((column, row))
            number = len(made)
            along, height = (column + 0.5) * CELL_M, (row + 0.5) * CELL_M
            lat, lon, alt = (float(v) for v in pymap3d.ned2geodetic(STANDOFF_M, along, -height, *HOME))
            p_max = float(rng.uniform(0.6, 0.995))
            sighting = {
                "id": number,
                "face": "wall",
                "along": along,
                "height": height,
                "unit": "m",
                "cell": [column, row],
                "log_odds": float(rng.uniform(3.0, 9.0)),
                "looks": looks[column, row][0],
                "p_max": p_max,
                "sigma_m": 0.09,
                "lat_deg": lat,
                "lon_deg": lon,
                "alt_amsl_m": alt,
                "frame": index,
                "tile": [640, 224, 224],
                "range_m": STANDOFF_M,
                "incidence_deg": float(rng.uniform(0, 12)),
                "gsd_mm_px": GSD_MM,
            }
            assert pose is not None
            meta = {**sighting, "camera_lat_deg": pose["lat_deg"], "camera_lon_deg": pose["lon_deg"], "yaw_deg": 0.0}
            image = log.image(f"sighting-{number:04d}", concrete_tile(number, crack=True), meta)
            say("sighting", **sighting, image=image)
            if number % 5 == 0:
                refusals += 1
                say(
                    "spray_refused",
                    sighting_id=number,
                    reasons=["cool_down", "impact_sigma"] if number % 10 == 0 else ["cool_down"],
                    details=["0.3 s since the last order, 2.0 s needed", "0.14 m, at most 0.10 m"][: 2 - number % 2],
                )
            else:
                order_id += 1
                orders += 1
                opens = clock.now_mono_ns() + 120_000_000
                say(
                    "spray_order",
                    order_id=order_id,
                    sighting_id=number,
                    open_at_ns=opens,
                    open_ms=150,
                    impact={"face": "wall", "along": along + 0.01, "height": height - 0.02},
                    impact_sigma_m=0.07,
                )
                say(
                    "spray_result",
                    order_id=order_id,
                    executed=True,
                    evidence="dry_run",
                    opened_at_ns=opens,
                    closed_at_ns=opens + 150_000_000,
                    detail="end of order",
                )
        if index % 40 == 20:
            image = log.image(f"clean-{index:06d}", concrete_tile(1000 + index, crack=False), {"kind": "clean_sample"})
            say(
                "clean_sample",
                frame=index,
                tile=[224, 224, 224],
                p=0.03,
                along=east,
                height=up,
                rate=0.002,
                image=image,
            )
    if dropped_total:
        say("frames_dropped", count=dropped_total)
    say("telemetry_problem", detail="telemetry.tlog: 37 bytes at the end are not a whole message")
    say("warning", detail="no range finder in the log: the configured stand-off of 2.00 m is used")
    if end is None:
        return log.folder
    say(
        "session_ended",
        frames=frames,
        sightings=len(made),
        orders=orders,
        refusals=refusals,
        reason=end,
        detail="" if end == "completed" else "stopped by the operator",
        host_seconds=14.7,
        host_fps=frames / 14.7,
        host_stage_ms={
            "decode": 3.0 * frames,
            "vision": 61.2 * frames,
            "inspection": 1.1 * frames,
            "log": 0.6 * frames,
        },
    )
    log.close()
    return log.folder


def image_flight(root: Path, *, name: str | None = None, frames: int = 30, sightings: int = 4) -> Path:
    """A video without telemetry: one face in pixels of the image."""
    clock = ManualClock(0)
    log = new_log(root, name=name, clock=clock, poses=None)
    cell = 32.0
    log.event(Event("session_started", 0, {"mode": "replay", "source": "phone.mp4"}))
    face = {"name": "image", "unit": "px", "cell": cell, "how": "image", "length": 1280, "height": 720}
    log.event(Event("face", 0, face))
    for index in range(frames):
        clock.set(round(index * 1e9 / 30))
        now = clock.now_mono_ns()
        frame = {"index": index, "pose": None, "no_pose": "no_telemetry", "tiles": 15, "cracks": 1, "p_max": 0.8}
        log.event(Event("frame", now, {**frame, "sharpness": 90.0 + index, "brightness": 120.0}))
        cells = [[c, r, index + 1, 0, -0.5] for c in range(35) for r in range(21)]
        log.event(Event("coverage", now, {"face": "image", "cells": cells}))
        if index < sightings:
            image = log.image(f"sighting-{index + 1:04d}", concrete_tile(index, crack=True), {"id": index + 1})
            place = {"along": 400.0 + 40 * index, "height": 300.0, "unit": "px", "cell": [12 + index, 9]}
            data = {"id": index + 1, "face": "image", **place, "log_odds": 4.0, "looks": 3, "p_max": 0.8}
            log.event(Event("sighting", now, {**data, "frame": index, "tile": [300, 200, 224], "image": image}))
            refusal = {"sighting_id": index + 1, "reasons": ["no_position"], "details": ["no telemetry"]}
            log.event(Event("spray_refused", now, refusal))
    log.event(Event("session_ended", clock.now_mono_ns(), {"frames": frames, "reason": "completed"}))
    log.close()
    return log.folder


def empty_flight(root: Path, *, name: str | None = None) -> Path:
    """A flight whose camera was lost before the first frame."""
    clock = ManualClock(0)
    log = new_log(root, name=name, clock=clock)
    log.event(Event("session_started", 0, {"mode": "run", "source": "/dev/video0"}))
    log.event(Event("camera_lost", 5_000_000_000, {"detail": "no frame within 5.0 s"}))
    ended = {"frames": 0, "sightings": 0, "reason": "error", "detail": "no frame within 5.0 s"}
    log.event(Event("session_ended", 5_000_000_000, ended))
    log.close()
    return log.folder
