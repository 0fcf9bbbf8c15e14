"""How bad may a picture be before cracks are missed?

The threshold stays where it is; the validation tiles get worse, level by level. A level is compared with the
undisturbed state of the same tiles, so the fall of recall is a paired difference. Every set weighs the same, and
intervals come from a bootstrap that draws photographs within each set. Where recall falls by the stated share is found
by linear interpolation between the two levels around it, three times: for the measured fall, and for the two ends of
its interval. Between those two the truth may lie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from training.evaluation.disturb import DISTURBANCES, Disturbance, Subjects
from training.evaluation.evaluate import Scorer
from training.evaluation.metrics import Estimate, Rate, rate, without_spread
from training.evaluation.picture_quality import measure
from training.evaluation.threshold import Scored
from training.progress import Step

Kind = Literal["recall", "specificity"]
KINDS: Final[tuple[Kind, Kind]] = ("recall", "specificity")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spread:
    """10th, 50th and 90th percentile of a measure over tiles."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Level:
    """What one level of a disturbance does.

    Attributes:
        level: in the disturbance's unit.
        by_set: recall and specificity of each set by tile, with Clopper-Pearson intervals.
        rates: recall and specificity as the mean over sets, with the interval by photograph.
        falls: undisturbed minus disturbed, same tiles, mean over sets, with the interval by photograph.
        tiles: number of tiles that were scored.
        left_out: number of tiles of which nobody knows any more what they show.
        sharpness: of the tiles that were not enlarged from fewer pixels, as the agent measures it.
        brightness: of all tiles, as the agent measures it (0-255).
    """

    level: float
    by_set: dict[str, dict[str, Rate]]
    rates: dict[str, Estimate]
    falls: dict[str, Estimate]
    tiles: int
    left_out: int
    sharpness: Spread
    brightness: Spread


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a rate has fallen by the stated share, going away from the undisturbed level in one direction.

    Attributes:
        kind: "recall" or "specificity".
        side: "below" or "above" the undisturbed level.
        level: of the measured fall; None if it is not reached up to `last`.
        earliest: where the interval's upper end reaches it: up to here a fall is excluded at 95 %.
        latest: where the interval's lower end reaches it: from here on a fall is certain at 95 %.
        last: the outermost level that was tried.
        sharpness: median sharpness at `level`, None without a level.
        brightness: median brightness at `level`.
        sharpness_latest: median sharpness at `latest`, None without it.
        brightness_latest: likewise.
    """

    kind: Kind
    side: Literal["below", "above"]
    level: float | None
    earliest: float | None
    latest: float | None
    last: float
    sharpness: float | None
    brightness: float | None
    sharpness_latest: float | None
    brightness_latest: float | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """One disturbance at all its levels (rising, the undisturbed one among them) and where the rates fall."""

    name: str
    levels: tuple[Level, ...]
    limits: tuple[Limit, ...]

    @property
    def disturbance(self) -> Disturbance:
        """What was done to the tiles."""
        return DISTURBANCES[self.name]

    def limit(self, kind: Kind, side: Literal["below", "above"]) -> Limit | None:
        """The limit of a kind on a side, None where no level lies on that side."""
        return next((item for item in self.limits if (item.kind, item.side) == (kind, side)), None)


@dataclass(frozen=True)
class Robustness:
    """A whole sweep.

    Attributes:
        threshold_logit: from which a tile is a crack, at every level.
        fall: the share (0..1) by which a rate may fall.
        undisturbed: the level at which nothing is done.
        sweeps: one for each disturbance.
        sharpness: of every undisturbed tile that was not enlarged.
        brightness: of every undisturbed tile.
    """

    threshold_logit: float
    fall: float
    undisturbed: Level
    sweeps: tuple[Sweep, ...]
    sharpness: tuple[float, ...]
    brightness: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Verdicts:
    """Which tiles of a set were judged (`kept`), and which of them rightly; the rest of `right` means nothing."""

    right: Bools
    kept: Bools


def sweep(
    scorer: Scorer,
    threshold_logit: float,
    subjects: Sequence[Subjects],
    levels: Mapping[str, Sequence[float]],
    *,
    undisturbed: Sequence[Scored],
    fall: float,
    resamples: int,
    seed: int,
    step: Step,
) -> Robustness:
    """Scores all tiles at all levels.

    Args:
        scorer: the model.
        threshold_logit: a tile is called a crack from here on.
        subjects: the sets.
        levels: by name of the disturbance; the neutral level is not among them.
        undisturbed: the same sets as scored without any disturbance.
        fall: share (0..1) of recall whose loss is looked for.
        resamples: of the bootstrap.
        seed: of directions, noise and bootstrap.
        step: progress.
    """
    start = [
        _Verdicts((item.logits >= threshold_logit) == item.labels, np.ones(len(item.labels), dtype=np.bool_))
        for item in undisturbed
    ]
    measures = [[measure(np.asarray(tile)) for tile in item.tiles.tiles] for item in subjects]
    sharpness = [
        [value.sharpness for index, value in enumerate(values) if not item.enlarged(index)]
        for item, values in zip(subjects, measures, strict=True)
    ]
    brightness = [[value.brightness for value in values] for values in measures]
    reference = _at(_level(0.0, subjects, start, start, sharpness, brightness, resamples, seed), 0.0)
    sweeps = []
    for name, wanted in levels.items():
        if not wanted:
            continue
        found = [_at(reference, DISTURBANCES[name].neutral)]
        with step(DISTURBANCES[name].title, len(wanted) * sum(len(item) for item in subjects)) as advance:
            for value in sorted(wanted):
                verdicts, sharp, bright = [], [], []
                for item in subjects:
                    one = _judge(scorer, threshold_logit, item, name, value, seed)
                    verdicts.append(one[0])
                    sharp.append(one[1])
                    bright.append(one[2])
                    advance(len(item))
                found.append(_level(value, subjects, start, verdicts, sharp, bright, resamples, seed))
        ordered = tuple(sorted(found, key=lambda level: level.level))
        sweeps.append(Sweep(name, ordered, limits_of(DISTURBANCES[name], ordered, fall)))
    return Robustness(
        threshold_logit,
        fall,
        reference,
        tuple(sweeps),
        tuple(value for values in sharpness for value in values),
        tuple(value for values in brightness for value in values),
    )


def _judge(
    scorer: Scorer, threshold_logit: float, item: Subjects, name: str, level: float, seed: int
) -> tuple[_Verdicts, list[float], list[float]]:
    """Verdicts on the disturbed tiles of a set, and their sharpness and brightness."""
    right, kept = np.zeros(len(item), dtype=np.bool_), np.zeros(len(item), dtype=np.bool_)
    sharpness, brightness = [], []
    tiles = []
    for index in range(len(item)):
        tile = item.disturbed(name, level, index, seed)
        if tile is None:
            continue
        kept[index] = True
        tiles.append(tile)
        quality = measure(tile)
        brightness.append(quality.brightness)
        if not item.enlarged(index):
            sharpness.append(quality.sharpness)
    if tiles:
        right[kept] = (scorer.logits(np.stack(tiles)) >= threshold_logit) == item.tiles.labels[kept]
    return _Verdicts(right, kept), sharpness, brightness


def _level(
    value: float,
    subjects: Sequence[Subjects],
    before: Sequence[_Verdicts],
    after: Sequence[_Verdicts],
    sharpness: Sequence[Sequence[float]],
    brightness: Sequence[Sequence[float]],
    resamples: int,
    seed: int,
) -> Level:
    by_set: dict[str, dict[str, Rate]] = {}
    rates: dict[str, Estimate] = {}
    falls: dict[str, Estimate] = {}
    for kind in KINDS:
        groups: list[npt.NDArray[np.str_]] = []
        good: list[Floats] = []
        lost: list[Floats] = []
        for item, old, new in zip(subjects, before, after, strict=True):
            of = new.kept & (item.tiles.labels == (kind == "recall"))
            if not of.any():
                continue
            by_set.setdefault(item.tiles.name, {})[kind] = rate(int(new.right[of].sum()), int(of.sum()))
            groups.append(np.asarray(item.tiles.groups, dtype=str)[of])
            good.append(new.right[of].astype(np.float64))
            lost.append(old.right[of].astype(np.float64) - new.right[of])
        if groups:
            rates[kind] = mean_over_sets(good, groups, resamples=resamples, seed=seed)
            falls[kind] = mean_over_sets(lost, groups, bounds=(-1.0, 1.0), resamples=resamples, seed=seed)
    return Level(
        level=value,
        by_set=by_set,
        rates=rates,
        falls=falls,
        tiles=sum(int(new.kept.sum()) for new in after),
        left_out=sum(int((~new.kept).sum()) for new in after),
        sharpness=_spread([v for values in sharpness for v in values]),
        brightness=_spread([v for values in brightness for v in values]),
    )


def _at(level: Level, value: float) -> Level:
    """The undisturbed level in its place on an axis; compared with itself nothing falls, and that is certain."""
    return replace(level, level=value, falls=dict.fromkeys(level.falls, Estimate(0.0, 0.0, 0.0)))


def mean_over_sets(
    values: Sequence[Floats],
    groups: Sequence[npt.NDArray[np.str_]],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    resamples: int,
    seed: int,
) -> Estimate:
    """Mean over sets of the mean over tiles, with a bootstrap that draws photographs within each set.

    Args:
        values: for each set one value a tile (1 right and 0 wrong, or a difference of those).
        groups: photograph of each tile.
        bounds: least and largest possible value of a tile.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        The mean and its 95 % interval. Where no tile of a set differs from its others the bootstrap has no width; then
        it is that of `training.evaluation.metrics.without_spread` over all photographs. NaN if a set has fewer than
        two.
    """
    value = float(np.mean([part.mean() for part in values]))
    draws, drawable, photographs = np.zeros(resamples), resamples > 0, 0
    rng = np.random.default_rng(seed)
    for part, group in zip(values, groups, strict=True):
        names, membership = np.unique(group, return_inverse=True)
        photographs += len(names)
        drawable = drawable and len(names) > 1
        sums, counts = np.bincount(membership, weights=part), np.bincount(membership)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        draws += (times @ sums) / (times @ counts)
    if not drawable:
        return Estimate(value, float("nan"), float("nan"))
    if all(np.ptp(part) == 0 for part in values):
        return without_spread(value, photographs, bounds)
    low, high = (float(end) for end in np.percentile(draws / len(values), [2.5, 97.5]))
    return Estimate(value, low, high)


def limits_of(disturbance: Disturbance, levels: Sequence[Level], fall: float) -> tuple[Limit, ...]:
    """Where recall and specificity fall by `fall`, on each side of the undisturbed level."""
    found = []
    below = [level for level in reversed(levels) if level.level <= disturbance.neutral]
    above = [level for level in levels if level.level >= disturbance.neutral]
    sides: tuple[tuple[Literal["below", "above"], list[Level]], ...] = (("below", below), ("above", above))
    for side, outwards in sides:
        if len(outwards) < 2:
            continue
        for kind in KINDS:
            usable = [level for level in outwards if kind in level.falls]
            if len(usable) < 2:
                continue
            places = [level.level for level in usable]
            falls = [level.falls[kind] for level in usable]
            sharpness = [level.sharpness.median for level in usable]
            brightness = [level.brightness.median for level in usable]
            spacing = disturbance.spacing
            at = crossing(places, [item.value for item in falls], fall, spacing)
            latest = crossing(places, [0.0, *(item.low for item in falls[1:])], fall, spacing)
            found.append(
                Limit(
                    kind=kind,
                    side=side,
                    level=at,
                    earliest=crossing(places, [0.0, *(item.high for item in falls[1:])], fall, spacing),
                    latest=latest,
                    last=places[-1],
                    sharpness=_between(at, places, sharpness, spacing),
                    brightness=_between(at, places, brightness, spacing),
                    sharpness_latest=_between(latest, places, sharpness, spacing),
                    brightness_latest=_between(latest, places, brightness, spacing),
                )
            )
    return tuple(found)


def crossing(
    levels: Sequence[float], falls: Sequence[float], bound: float, spacing: Literal["linear", "log"] = "linear"
) -> float | None:
    """The first level, going outwards, at which the fall reaches `bound`; None if it never does.

    Args:
        levels: from the undisturbed one outwards.
        falls: at each level, 0 at the first; NaN is passed over.
        bound: the fall that is looked for, above 0.
        spacing: whether levels or their logarithms are interpolated linearly.
    """
    known = [(level, value) for level, value in zip(levels, falls, strict=True) if not math.isnan(value)]
    for (near, small), (far, large) in itertools.pairwise(known):
        if large >= bound > small:
            share = (bound - small) / (large - small)
            if spacing == "log":
                return math.exp(math.log(near) + share * (math.log(far) - math.log(near)))
            return near + share * (far - near)
    return None


def _between(
    level: float | None, levels: Sequence[float], values: Sequence[float], spacing: Literal["linear", "log"]
) -> float | None:
    """A measure at a level between two of the sweep; None without a level, or where nothing was measured."""
    if level is None:
        return None
    order = np.argsort(levels)
    places = np.asarray(levels, dtype=np.float64)[order]
    if spacing == "log":
        places, level = np.log(places), math.log(level)
    value = float(np.interp(level, places, np.asarray(values, dtype=np.float64)[order]))
    return None if math.isnan(value) else value


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(float("nan"), float("nan"), float("nan"))
    low, median, high = (float(value) for value in np.percentile(values, [10, 50, 90]))
    return Spread(low, median, high)


def to_dict(found: Robustness) -> dict[str, Any]:
    """JSON values; what could not be measured is null."""
    return {
        "threshold_logit": found.threshold_logit,
        "fall": found.fall,
        "undisturbed": _clean(asdict(found.undisturbed) | {"level": None}),
        "disturbances": {
            item.name: {
                "title": item.disturbance.title,
                "unit": item.disturbance.unit,
                "neutral": item.disturbance.neutral,
                "levels": [_clean(asdict(level)) for level in item.levels],
                "limits": [_clean(asdict(limit)) for limit in item.limits],
            }
            for item in found.sweeps
        },
    }


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
