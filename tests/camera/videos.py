"""What do tests need of recordings? Real video files whose frames tell their own number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from drone_agent.values import Image

WIDTH, HEIGHT = 128, 96


def numbered_image(number: int) -> Image:
    """A picture from which `read_number` tells `number` (0 to 255), compressed or not: black and white bars."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            image[:, bit * 16 : (bit + 1) * 16] = 255
    return image


def read_number(image: Image) -> int:
    """What `numbered_image` has written."""
    return sum((int(image[:, bit * 16 + 4 : bit * 16 + 12].mean()) > 127) << bit for bit in range(8))


def make_video(path: Path, count: int, *, fps: float = 10.0, fourcc: str = "MJPG") -> Path:
    """Writes `count` numbered frames; the format follows the file's ending."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(count):
        writer.write(numbered_image(number))
    writer.release()
    return path


def state_frame_count(path: Path, count: int) -> None:
    """Makes the header of an AVI file say `count` frames, whatever it holds."""
    data = bytearray(path.read_bytes())
    main, stream = data.index(b"avih"), data.index(b"strh")
    data[main + 8 + 16 : main + 8 + 20] = count.to_bytes(4, "little")
    data[stream + 8 + 32 : stream + 8 + 36] = count.to_bytes(4, "little")
    path.write_bytes(data)


def spoil_frames(path: Path, numbers: Sequence[int]) -> None:
    """Overwrites the contents of some frames of an AVI file with zeros."""
    data = bytearray(path.read_bytes())
    at = data.index(b"movi") + 4
    number = 0
    while data[at : at + 4] == b"00dc":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if number in numbers:
            data[at + 8 : at + 8 + length] = bytes(length)
        number += 1
        at += 8 + length + length % 2
    assert max(numbers) < number
    path.write_bytes(data)


def write_times(path: Path, count: int, *, start_s: float = 50.0, fps: float = 10.0) -> Path:
    """Writes a frames.csv with `count` rows."""
    rows = [f"{n},{start_s + n / fps:.6f},{1.7e9 + n / fps:.6f}" for n in range(count)]
    path.write_text("\n".join(["frame,time_boot_s,unix_s", *rows]) + "\n", encoding="utf-8")
    return path
