"""What does a pixel become? The one definition of reading and resizing, shared by the flying code and by training.

Everything after this (scaling, mean and deviation, order of channels) lives inside the exported model: it takes
uint8 BGR as it comes from here.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from drone_agent.errors import InputError as InputError  # noqa: PLC0414 - training knows it from here
from drone_agent.values import Image, Tile

TILE_PX = 224

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_PNG_START = b"\x89PNG\r\n\x1a\n"


def read_image(source: Path | bytes) -> Image:
    """Reads one picture from a file or from the bytes of a file.

    Greyscale is repeated on three channels, alpha is dropped, 16 bit is scaled to 8. The EXIF
    orientation is applied: the picture comes upright, as the photographer saw it.

    Args:
        source: path of a file, or the contents of one (any format that OpenCV reads: JPEG, PNG, TIFF, WebP, BMP).

    Returns:
        BGR uint8 of shape (height, width, 3).

    Raises:
        InputError: the file is missing, unreadable, empty, cut short, or no picture; names the path and why.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read_bytes(source)
    if not data:
        raise InputError(f"{name}: the file is empty (0 bytes)")
    # libjpeg fills what is missing with grey and calls it a success; grey would then be scored as sound concrete.
    if _is_cut_short(data):
        raise InputError(f"{name}: the picture is cut short (its end is missing after {len(data)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{name}: cannot be decoded ({error.err or error.code})") from error
    if image is None:
        raise InputError(f"{name}: not a picture that can be decoded ({len(data)} bytes)")
    return np.ascontiguousarray(image, dtype=np.uint8)


def to_tile(image: Image, size_px: int = TILE_PX) -> Image:
    """Resizes a whole picture to one square tile, each axis on its own (a picture that is not square is stretched).

    Shrinking averages areas (`INTER_AREA`: nothing aliases, fine cracks fade but do not vanish), enlarging is cubic. A
    picture that already has the size is returned as it is, without a copy.

    Args:
        image: uint8 of shape (height, width, channels), any size from 1 x 1.
        size_px: side of the tile.

    Returns:
        uint8 of shape (size_px, size_px, channels).
    """
    height, width = image.shape[:2]
    shrunk = (min(width, size_px), min(height, size_px))
    if shrunk != (width, height):
        image = np.asarray(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA), np.uint8)
    if shrunk != (size_px, size_px):
        image = np.asarray(cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_CUBIC), np.uint8)
    return image


def crop(image: Image, tile: Tile) -> Image:
    """Cuts `tile` out of `image`: a view, no copy.

    Raises:
        ValueError: the tile does not lie inside the picture.
    """
    height, width = image.shape[:2]
    right, bottom = tile.x_px + tile.size_px, tile.y_px + tile.size_px
    if tile.x_px < 0 or tile.y_px < 0 or tile.size_px < 1 or right > width or bottom > height:
        raise ValueError(f"{tile} does not lie inside a picture of {width}x{height}")
    return image[tile.y_px : bottom, tile.x_px : right]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. Other formats, and JPEGs with a broken header, are left to the decoder."""
    if data.startswith(_PNG_START):
        return b"IEND" not in data
    if not data.startswith(_JPEG_START):
        return False
    # An EXIF thumbnail has an end mark of its own: walk the segments to the first scan, then look behind it.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _JPEG_SCAN:
            return data.find(_JPEG_END, at) < 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 4 > len(data)
