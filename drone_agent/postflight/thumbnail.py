"""What did it look like? Evidence images as small JPEGs inside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import SightingRecord

_SIDE_PX = 264
_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a data URI, and where in it the tile lies (left, top, width, height; per cent), None if unknown."""

    uri: str
    box: tuple[float, float, float, float] | None


def thumbnail(flight: Flight, sighting: SightingRecord) -> Thumbnail | None:
    """The thumbnail of a sighting's evidence; None if the image was not kept or cannot be read."""
    path = flight.image_path(sighting.image)
    if path is None:
        return None
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not ok:
        return None
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.tobytes()).decode("ascii")
    return Thumbnail(uri, _box(sighting, width, height))


def _box(sighting: SightingRecord, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Where the tile lies in the image; None where it is the whole image, or not known."""
    if sighting.tile is None or sighting.image_corner is None:
        return None
    (x, y, side), (left, top) = sighting.tile, sighting.image_corner
    if side >= width and side >= height:
        return None
    share = (100 * (x - left) / width, 100 * (y - top) / height, 100 * side / width, 100 * side / height)
    return share if all(-1.0 <= value <= 101.0 for value in share) else None
