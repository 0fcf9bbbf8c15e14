"""Do file names tell which pictures were taken one after another? If so, a split by file name or at random leaks."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.sources import Item
from training.data.twins import Twin, normalise

MIN_FILES: Final = 30
"""A series of fewer is not measured."""
MIN_PAIRS_OF_A_LAG: Final = 5
"""A lag with fewer pairs is left out."""
LAG_BIN_SHARE: Final = 1 / 200
"""Twins' distances are counted in bins of this share of the farthest."""


@dataclass(frozen=True)
class Series:
    """Files whose names differ in one number alone, in its order.

    Attributes:
        pattern: the name with `#` for its numbers, with its folder.
        label: True crack, False none, None by mask.
        indices: positions of its photographs.
        numbers: of each.
    """

    pattern: str
    label: bool | None
    indices: list[int]
    numbers: list[int]


@dataclass(frozen=True)
class Order:
    """What the file names of one series tell.

    Attributes:
        series: the files.
        neighbour_thumbnail: mean correlation of the thumbnails of neighbours in the order.
        random_thumbnail: of random pairs.
        neighbour_colour: the same of mean colour and contrast, each centred and scaled over the series.
        random_colour: of random pairs.
        lags: distances in number that enough pairs have.
        thumbnail_at_lag: mean correlation of thumbnails at each.
        colour_at_lag: of colour and contrast: an autocorrelation, 0 without order.
        twin_distances: distance in number of each pair of twins; floating, for numbers may have any number of digits.
    """

    series: Series
    neighbour_thumbnail: float
    random_thumbnail: float
    neighbour_colour: float
    random_colour: float
    lags: NDArray[np.int64] = field(repr=False)
    thumbnail_at_lag: NDArray[np.float64] = field(repr=False)
    colour_at_lag: NDArray[np.float64] = field(repr=False)
    twin_distances: NDArray[np.float64] = field(repr=False)

    def usual_twin_distance(self) -> tuple[int, float] | None:
        """Return the middle of the bin that most distant twins fall into, and their share of it; None without twins.

        Twins next to each other (the first bin) are bursts, not a second pass, and are left out.
        """
        if not len(self.twin_distances):
            return None
        width = max(2, round(max(self.series.numbers) * LAG_BIN_SHARE))  # exact only up to 2^53, which is near enough
        distant = self.twin_distances[self.twin_distances >= width]
        if not len(distant):
            return None
        counts = np.bincount((distant // float(width)).astype(np.int64))
        fullest = int(counts.argmax())
        return fullest * width + width // 2, float(counts[fullest] / len(distant))


def find_series(items: Sequence[Item]) -> list[Series]:
    """Gather files whose names differ in one number; where several numbers vary, the one that varies most counts."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        path = PurePosixPath(item.path)
        if re.search(r"\d", path.stem):
            found[f"{path.parent}/{re.sub(r'[0-9]+', '#', path.stem)}", str(item.label)].append(index)
    series = []
    for (pattern, _), indices in sorted(found.items()):
        if len(indices) < MIN_FILES:
            continue
        numbers = [[int(n) for n in re.findall("[0-9]+", PurePosixPath(items[i].path).stem)] for i in indices]
        column = max(zip(*numbers, strict=True), key=lambda values: len(set(values)))
        order = sorted(range(len(indices)), key=column.__getitem__)
        in_order = [indices[place] for place in order]
        series.append(Series(pattern, items[indices[0]].label, in_order, [column[place] for place in order]))
    return series


def measure_order(
    series: Series,
    coarse: NDArray[np.float32],
    colours: NDArray[np.float32],
    twins: Sequence[Twin],
    *,
    farthest: int,
    random_pairs: int,
    seed: int,
) -> Order:
    """Compare neighbours with random pairs, and all pairs by their distance in number.

    Args:
        series: the files.
        coarse: thumbnails of all photographs, float32 [N, 16, 16].
        colours: of all photographs, float32 [N, 4].
        twins: of all photographs.
        farthest: largest lag.
        random_pairs: how many are drawn.
        seed: of the draw.
    """
    numbers = _within_reach(series.numbers, farthest)
    thumbnails = normalise(coarse[series.indices])
    of_series = colours[series.indices]
    scaled = (of_series - of_series.mean(axis=0)) / np.maximum(of_series.std(axis=0), 1e-6)
    scaled = np.asarray(scaled / np.sqrt(scaled.shape[1]), np.float32)
    rng = np.random.default_rng(seed)
    first = rng.integers(len(numbers), size=random_pairs)
    second = (first + rng.integers(1, len(numbers), size=random_pairs)) % len(numbers)
    lags, (at_thumbnail, at_colour) = _by_lag(numbers, [thumbnails, scaled], farthest)
    number_of = dict(zip(series.indices, series.numbers, strict=True))
    distances = [
        abs(number_of[twin.first] - number_of[twin.second])
        for twin in twins
        if twin.first in number_of and twin.second in number_of
    ]
    return Order(
        series,
        neighbour_thumbnail=_mean_product(thumbnails[:-1], thumbnails[1:]),
        random_thumbnail=_mean_product(thumbnails[first], thumbnails[second]),
        neighbour_colour=_mean_product(scaled[:-1], scaled[1:]),
        random_colour=_mean_product(scaled[first], scaled[second]),
        lags=lags,
        thumbnail_at_lag=at_thumbnail,
        colour_at_lag=at_colour,
        twin_distances=np.array(distances, np.float64),
    )


def _within_reach(numbers: Sequence[int], farthest: int) -> NDArray[np.int64]:
    """Renumber from 0 what ascends, each gap cut to one that is too far: lags up to `farthest` stay what they are."""
    gaps = [min(later - earlier, farthest + 1) for earlier, later in itertools.pairwise(numbers)]
    return np.cumsum([0, *gaps], dtype=np.int64)


def _mean_product(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float((first * second).sum(axis=1).mean())


def _by_lag(
    numbers: NDArray[np.int64], features: Sequence[NDArray[np.float32]], farthest: int, *, block: int = 500
) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Average the scalar products of all pairs by distance in number; numbers ascend."""
    pairs = np.zeros(farthest + 1)
    sums = [np.zeros(farthest + 1) for _ in features]
    for start in range(0, len(numbers), block):
        end = min(start + block, len(numbers))
        last = int(np.searchsorted(numbers, numbers[end - 1] + farthest, side="right"))
        lags = numbers[None, start:last] - numbers[start:end, None]
        wanted = (lags > 0) & (lags <= farthest)
        flat = lags[wanted]
        pairs += np.bincount(flat, minlength=farthest + 1)
        for place, feature in enumerate(features):
            products = (feature[start:end] @ feature[start:last].T)[wanted]
            sums[place] += np.bincount(flat, weights=products, minlength=farthest + 1)
    enough = np.flatnonzero(pairs >= MIN_PAIRS_OF_A_LAG)
    return enough, [total[enough] / pairs[enough] for total in sums]
