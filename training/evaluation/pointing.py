"""Does the model look at the crack? How often a map's maximum meets it, and which share of the map lies on it.

Cracks are edges, and many maps shine at edges whatever the weights are. So the verdict is against a control: the map of
a net with random weights of the same tile, and the interval is that of the paired difference. Both figures are also
bound to rise with the area that counts as hit, so each stands beside what a random point would reach as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import RESAMPLES, Estimate, Floats, Rate, bootstrap_by_group, rate

Image = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

MARKED: Final = 127
"""Value of a mask above which a pixel is crack."""

ABOVE_CONTROL: Final = "above the control"
NO_CONTROL: Final = "no control"
TOO_FEW: Final = "too few photographs"


@dataclass(frozen=True, slots=True)
class TilePoint:
    """What one map says about one cracked tile.

    Attributes:
        hit: its maximum lies in the widened mask; False where the map is silent.
        energy: share (0..1) of its positive part in the widened mask; 0 where the map is silent.
        chance: share (0..1) of the tile that the widened mask covers: what a random point hits, and what a constant
            map reaches.
        reachable: some cell's centre lies in the widened mask, so that a map of this resolution can hit at all.
        silent: the map has no positive value anywhere.
    """

    hit: bool
    energy: float
    chance: float
    reachable: bool
    silent: bool


@dataclass(frozen=True, slots=True)
class Pointing:
    """What the maps of one method reach on the cracked tiles of a set.

    Attributes:
        hits: the pointing game, with the Clopper-Pearson interval by tile.
        hits_by_group: the same with the bootstrap interval by photograph.
        energy: mean share of the positive attribution in the widened mask, bootstrap by photograph.
        chance: mean share of the tile that the widened mask covers.
        hits_above: `hits` minus `chance` of the same tiles, bootstrap by photograph.
        energy_above: `energy` minus `chance` of the same tiles, bootstrap by photograph.
        hits_above_control: `hits` minus those of the control on the same tiles, bootstrap by photograph; None without
            a control.
        energy_above_control: the same of `energy`.
        reachable: share of the tiles on which a map of this resolution can hit.
        silent: tiles on which the map had no positive value.
        photographs: how many the tiles come from.
    """

    hits: Rate
    hits_by_group: Estimate
    energy: Estimate
    chance: float
    hits_above: Estimate
    energy_above: Estimate
    reachable: float
    silent: int
    photographs: int
    hits_above_control: Estimate | None = None
    energy_above_control: Estimate | None = None

    @property
    def verdict(self) -> str:
        """Whether the maximum meets the crack more often than that of the control, beyond doubt at 95 %."""
        return _against_control(self.hits_above_control)

    @property
    def energy_verdict(self) -> str:
        """Whether more of the map lies on the crack than of the control's, beyond doubt at 95 %."""
        return _against_control(self.energy_above_control)

    @property
    def verdict_by_area(self) -> str:
        """Whether the maximum meets the crack more often than a random point, beyond doubt at 95 %."""
        if math.isnan(self.hits_above.low):
            return TOO_FEW
        if self.hits_above.low > 0:
            return "above chance"
        return "below chance" if self.hits_above.high < 0 else "not told from chance"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "tiles": self.hits.total,
            "photographs": self.photographs,
            "hits": self.hits.hits,
            "pointing_by_tile": _values(self.hits),
            "pointing_by_photograph": _values(self.hits_by_group),
            "pointing_above_chance": _values(self.hits_above),
            "energy_by_photograph": _values(self.energy),
            "energy_above_chance": _values(self.energy_above),
            "chance": self.chance,
            "reachable": self.reachable,
            "silent": self.silent,
            "pointing_above_control": _values_or_none(self.hits_above_control),
            "energy_above_control": _values_or_none(self.energy_above_control),
            "verdict": self.verdict,
            "energy_verdict": self.energy_verdict,
            "verdict_by_area": self.verdict_by_area,
        }


def widened(mask: Image, tolerance_px: float) -> Bools:
    """Which pixels of a tile lie at most `tolerance_px` (Euclidean) from a marked one.

    Args:
        mask: [S, S], above 127 where a crack is.
        tolerance_px: 0 leaves the mask as it is.

    Raises:
        ValueError: nothing is marked, or the tolerance is negative.
    """
    if tolerance_px < 0:
        raise ValueError(f"tolerance_px must be 0 or more, found {tolerance_px}")
    marked = mask > MARKED
    if not marked.any():
        raise ValueError("the mask marks nothing")
    distance = cv2.distanceTransform((~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= tolerance_px, np.bool_)


def enlarged(values: Map, side: int) -> Map:
    """A map [h, w] brought to the size of the tile [side, side], bilinear between the centres of the cells."""
    return np.asarray(cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def maximum_at(values: Map, side: int) -> tuple[int, int]:
    """Row and column (pixels of the tile) of the centre of the map's greatest cell; the first of equal ones."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    return _centre(int(row), values.shape[0], side), _centre(int(column), values.shape[1], side)


def judge(values: Map, mask: Image, tolerance_px: float, *, pointing_at: Map | None = None) -> TilePoint:
    """Compare a map with the mask of its tile.

    The pointing game: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016 (15 px tolerance).
    The share of the energy: Wang et al., "Score-CAM", CVPR workshops 2020.

    Args:
        values: [h, w], how much each place speaks for a crack.
        mask: [S, S], above 127 where a crack is; marks something.
        tolerance_px: how far from the mask still counts.
        pointing_at: a smoothed copy of the map [h, w], whose maximum is taken instead.

    Raises:
        ValueError: the mask marks nothing, or a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("the map holds values that are not finite")
    side = mask.shape[0]
    wanted = widened(mask, tolerance_px)
    rows = [_centre(index, values.shape[0], side) for index in range(values.shape[0])]
    columns = [_centre(index, values.shape[1], side) for index in range(values.shape[1])]
    reachable = bool(wanted[np.ix_(rows, columns)].any())
    chance = float(wanted.mean())
    positive = np.maximum(values, 0).astype(np.float32)
    if not positive.any():
        return TilePoint(hit=False, energy=0.0, chance=chance, reachable=reachable, silent=True)
    full = enlarged(positive, side).astype(np.float64)
    hit = bool(wanted[maximum_at(positive if pointing_at is None else pointing_at, side)])
    energy = float(full[wanted].sum() / full.sum())
    return TilePoint(hit=hit, energy=energy, chance=chance, reachable=reachable, silent=False)


def summarise(
    points: Sequence[TilePoint],
    groups: Sequence[str],
    *,
    control: Sequence[TilePoint] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Pointing:
    """The figures of one method on one set.

    Args:
        points: of each tile; at least one.
        groups: photograph of each tile.
        control: what the map of the control says about the same tiles, in the same order; empty without a control.
        resamples: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no tile, not one group for each, or a control of other tiles.
    """
    if not points or len(points) != len(groups):
        raise ValueError(f"one group for each tile is needed, found {len(points)} tiles and {len(groups)} groups")
    if control and [point.chance for point in control] != [point.chance for point in points]:
        raise ValueError("the control must be of the same tiles in the same order")
    hit, energy = _hit_and_energy(points)
    chance = np.array([point.chance for point in points])
    hits_above_control = energy_above_control = None

    def by_photograph(values: Floats, least: float = 0.0) -> Estimate:
        return mean_by_photograph(values, groups, bounds=(least, 1.0), resamples=resamples, seed=seed)

    if control:
        control_hit, control_energy = _hit_and_energy(control)
        hits_above_control = by_photograph(hit - control_hit, -1.0)
        energy_above_control = by_photograph(energy - control_energy, -1.0)
    return Pointing(
        hits=rate(int(hit.sum()), len(points)),
        hits_by_group=by_photograph(hit),
        energy=by_photograph(energy),
        chance=float(chance.mean()),
        hits_above=by_photograph(hit - chance, -1.0),
        energy_above=by_photograph(energy - chance, -1.0),
        reachable=float(np.mean([point.reachable for point in points])),
        silent=sum(point.silent for point in points),
        photographs=len(set(groups)),
        hits_above_control=hits_above_control,
        energy_above_control=energy_above_control,
    )


def mean_by_photograph(
    values: Floats, groups: Sequence[str], *, bounds: tuple[float, float] = (0.0, 1.0), resamples: int, seed: int
) -> Estimate:
    """The mean over tiles [N], with the bootstrap interval by photograph; `bounds` are those of the values."""

    def mean(weights: Floats) -> float:
        total = float(weights.sum())
        return float((weights * values).sum()) / total if total else float("nan")

    return bootstrap_by_group(mean, groups, bounds=bounds, resamples=resamples, seed=seed)


def _centre(index: int, count: int, side: int) -> int:
    """Pixel in the middle of one of `count` cells along a side."""
    return min(side - 1, int((index + 0.5) * side / count))


def _hit_and_energy(points: Sequence[TilePoint]) -> tuple[Floats, Floats]:
    return (
        np.array([point.hit for point in points], dtype=np.float64),
        np.array([point.energy for point in points], dtype=np.float64),
    )


def _against_control(difference: Estimate | None) -> str:
    if difference is None:
        return NO_CONTROL
    if math.isnan(difference.low):
        return TOO_FEW
    if difference.low > 0:
        return ABOVE_CONTROL
    return "below the control" if difference.high < 0 else "not above the control"


def _values_or_none(estimate: Estimate | None) -> list[float | None] | None:
    return None if estimate is None else _values(estimate)


def _values(estimate: Estimate) -> list[float | None]:
    return [None if math.isnan(value) else value for value in estimate.as_list()]
