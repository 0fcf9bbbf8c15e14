"""How do tests get a flight that is over in a second? A few frames of a wall with a dark band, with real telemetry."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drone_agent.simulation.recording import shipped_recording
from tests.vision.bundles import make_bundle


@dataclass(frozen=True)
class ShortFlight:
    """The first frames of the shipped recording, and a bundle that calls dark tiles cracks."""

    folder: Path
    video: Path
    telemetry: Path
    frames_csv: Path
    camera: Path
    model: Path
    frames: int

    def arguments(self, out: Path) -> list[str]:
        return [
            "replay", str(self.video), "--telemetry", str(self.telemetry), "--frames", str(self.frames_csv),
            "--camera", str(self.camera), "--model", str(self.model), "--out", str(out), "--no-report",
        ]  # fmt: skip


def make_short_flight(folder: Path, frames: int = 12) -> ShortFlight:
    """Cuts the shipped recording to `frames` frames and darkens a band as high as a tile in each."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = shipped_recording()
    capture = cv2.VideoCapture(str(shipped.video))
    video = folder / "video.avi"
    writer = None
    for _ in range(frames):
        ok, image = capture.read()
        assert ok
        height, width = image.shape[:2]
        if writer is None:
            writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 6.0, (width, height))
        # A band along the flight, so that a place of the wall stays dark from every viewpoint.
        patch = image[height // 2 - 115 : height // 2 + 115]
        patch[:] = np.clip(patch.astype(np.int16) - 110, 25, 255).astype(np.uint8)
        writer.write(image)
    assert writer is not None
    writer.release()
    rows = shipped.frames_csv.read_text().splitlines(keepends=True)
    frames_csv = folder / "frames.csv"
    frames_csv.write_text("".join(rows[: frames + 1]))
    telemetry = Path(shutil.copy(shipped.telemetry, folder / "telemetry.tlog"))
    camera = Path(shutil.copy(shipped.camera, folder / "camera.json"))
    return ShortFlight(folder, video, telemetry, frames_csv, camera, make_bundle(folder / "model"), frames)
