"""How does a folder of pictures become a flight? In the natural order of their names, at a given rate."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drone_agent.camera.frames_csv import FrameTimes
from drone_agent.errors import InputError
from drone_agent.values import Frame, Image
from drone_agent.vision.preprocess import read_image

log = logging.getLogger(__name__)
