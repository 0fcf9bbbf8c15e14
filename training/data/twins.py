"""Which pictures are copies of one another? Byte-identical, re-encoded, mirrored or turned by quarter turns.

Pictures are compared as small grey thumbnails, normalised to mean 0 and length 1, so that the scalar product is their
correlation. The eight symmetries of the square of one are compared with the plain thumbnail of the other.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

COARSE_PX: Final = 16
FINE_PX: Final = 48
COARSE_CORRELATION: Final = 0.97
"""Candidates. Re-encoded METU twins reach 0.99 even where the concrete is almost uniform."""
FINE_CORRELATION: Final = 0.90
"""Verification on the larger thumbnail."""
MEAN_DIFFERENCE: Final = 3.0
"""Largest mean difference of grey levels between verified thumbnails."""


def symmetries(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the eight mirrored and turned versions of pictures [N, S, S], the plain one first."""
    mirrored = images[:, :, ::-1]
    return [np.rot90(version, turns, axes=(1, 2)) for version in (images, mirrored) for turns in range(4)]


def thumbnails(images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Shrink pictures [N, H, W, 3] to grey float32 [N, side, side]."""
    small = np.empty((len(images), side, side), np.float32)
    for index, image in enumerate(images):
        grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_BGR2GRAY)
        small[index] = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return small


def _normalise(images: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def twin_pairs(images: NDArray[np.uint8], *, block: int = 1000) -> list[tuple[int, int]]:
    """Find all pairs of near-duplicates.

    Args:
        images: uint8 [N, H, W, 3], all of one size.
        block: rows compared at once; bounds the memory (block x N x 4 bytes).

    Returns:
        Index pairs (a, b) with a < b.
    """
    fine = thumbnails(images, FINE_PX)
    coarse = _shrink(fine)
    plain = _normalise(coarse)
    candidates: set[tuple[int, int, int]] = set()
    for version, turned in enumerate(symmetries(coarse)):
        other = _normalise(np.ascontiguousarray(turned))
        for start in range(0, len(plain), block):
            correlation = other[start : start + block] @ plain.T
            for row, column in np.argwhere(correlation > COARSE_CORRELATION):
                if start + row < column:
                    candidates.add((int(start + row), int(column), version))
    return sorted({(a, b) for a, b, version in candidates if _same(fine[a], fine[b], version)})


def _shrink(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    factor = FINE_PX // COARSE_PX
    shape = (len(fine), COARSE_PX, factor, COARSE_PX, factor)
    return np.asarray(fine.reshape(shape).mean(axis=(2, 4)), np.float32)


def _same(first: NDArray[np.float32], second: NDArray[np.float32], version: int) -> bool:
    turned = np.ascontiguousarray(symmetries(first[None])[version])
    correlation = float((_normalise(turned) @ _normalise(second[None]).T).item())
    return correlation > FINE_CORRELATION and float(np.abs(turned[0] - second).mean()) < MEAN_DIFFERENCE


def connected(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Name the connected component of each of `count` nodes by its smallest member."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(node) for node in range(count)]
