"""Is everything there that a flight needs, and if not, what is to be done?"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from drone_agent.config import AgentConfig, load_config, merged
from drone_agent.errors import AgentError, CameraLost
from drone_agent.values import Tile

# What pip calls them; what flies needs all of them.
_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "pymavlink",
    "gpiozero",
    "PyYAML",
    "pydantic",
    "pymap3d",
    "pillow",
)
_OPENCV_NAMES = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
_LITTLE_SPACE_GB = 2.0
_NO_SPACE_GB = 0.2


class Level(IntEnum):
    """How serious: a flight may start with warnings, not with failures."""

    OK = 0
    WARNING = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One thing that was looked at: what was found, and what to do about it."""

    part: str
    level: Level
    found: str
    advice: str = ""


def run_checks(profile: str | None, file: Path | None, overrides: Sequence[str], out: Path) -> Iterator[CheckLine]:
    """Yields one line for Python, each package, the configuration, the model, the camera, the marking and the disk."""
    yield _python()
    yield _packages()
    try:
        config, layers = load_config(profile, file, overrides)
    except AgentError as error:
        yield CheckLine("configuration", Level.FAILED, str(error), "mend the named key")
    else:
        yield CheckLine("configuration", Level.OK, " + ".join(layers))
        yield _model(config)
        yield _camera(config)
        yield _marking(config)
    yield _disk(out)


def _python() -> CheckLine:
    # Older ones cannot be installed into: pip refuses them.
    return CheckLine("Python", Level.OK, sys.version.split()[0])


def _packages() -> CheckLine:
    versions: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        names = _OPENCV_NAMES if name.startswith("opencv") else (name,)
        found = next((f"{one} {importlib.metadata.version(one)}" for one in names if _installed(one)), None)
        (versions if found else missing).append(found or name)
    if missing:
        return CheckLine("packages", Level.FAILED, f"missing: {', '.join(missing)}", "pip install crackscout")
    return CheckLine("packages", Level.OK, ", ".join(versions))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _model(config: AgentConfig) -> CheckLine:
    from drone_agent.vision.ort import open_classifier

    try:
        classifier = open_classifier(config.vision)
        grey = np.full((224, 224, 3), 128, np.uint8)
        score = classifier.score(grey, [Tile(0, 0, 224)])[0]
    except AgentError as error:
        return CheckLine(
            "model", Level.FAILED, str(error), "name another bundle (vision.model) or install the package again"
        )
    about = classifier.describe()
    found = f"{about.get('name')} {about.get('file')}, hash right, runs"
    if score.p_crack is None:
        return CheckLine("model", Level.FAILED, f"{found}, but gives no finite score", "use another bundle")
    return CheckLine("model", Level.OK, found)


def _camera(config: AgentConfig) -> CheckLine:
    from drone_agent.app import open_live_camera

    try:
        # One try: a missing camera is told at once.
        camera = open_live_camera(merged(config, {"camera": {"reconnect_attempts": 0}}))
    except AgentError as error:
        return _no_camera(error)
    try:
        frame = next(iter(camera.frames()), None)
    except CameraLost as error:
        return _no_camera(error)
    finally:
        camera.close()
    if frame is None:
        return CheckLine("camera", Level.WARNING, "opened, but gave no frame", "see docs/troubleshooting.md, camera")
    height, width = frame.image.shape[:2]
    return CheckLine("camera", Level.OK, f"{width}x{height}")


def _no_camera(error: AgentError) -> CheckLine:
    # A replay needs none, so a missing camera does not fail the check.
    return CheckLine("camera", Level.WARNING, str(error), "needed for `run` only: connect it, or set camera.source")


def _marking(config: AgentConfig) -> CheckLine:
    marking = config.marking
    if marking.armed and marking.paints:
        return CheckLine(
            "marking", Level.WARNING, f"ARMED, sprayer {marking.sprayer}: paint may be released", "read docs/safety.md"
        )
    return CheckLine("marking", Level.OK, f"sprayer {marking.sprayer}, no paint")


def _disk(out: Path) -> CheckLine:
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"crackscout")
        free_gb = shutil.disk_usage(place).free / 1e9
    except OSError as error:
        return CheckLine("disk", Level.FAILED, f"{out}: cannot be written: {error.strerror}", "choose another --out")
    found = f"{out}: {free_gb:.1f} GB free"
    if free_gb < _NO_SPACE_GB:
        return CheckLine("disk", Level.FAILED, found, "make room before the flight")
    if free_gb < _LITTLE_SPACE_GB:
        return CheckLine("disk", Level.WARNING, found, "about 1 GB an hour is needed; make room")
    return CheckLine("disk", Level.OK, found)
