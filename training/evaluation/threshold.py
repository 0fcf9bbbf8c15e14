"""From which logit on is a tile called a crack? Chosen on validation data, so that no set pays for another.

The rule: for each stated bar (a set, a kind of tile, a wanted rate) take the share of its allowed error that a
threshold uses up, `(1 - rate) / (1 - wanted)`: 1 meets the bar exactly, below 1 there is room. Missed cracks count
`RECALL_WEIGHT` times. The threshold with the smallest worst share wins; equal ones are compared by their second worst,
and so on. Where a set was scored by several files, a threshold on which they agree is preferred to one that is better
by less than `SLACK`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError

SLACK = 0.02
"""Difference of shares below which two thresholds count as equally good: less than any of the sets can tell."""


class ThresholdError(TrainingError, ValueError):
    """No threshold can be chosen; the message says why."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A wanted rate: the share of the tiles of `kind` in the set that must be judged rightly.

    `kind` is a kind of tile ("crack", "trace", "joint", "plain", "negative"), or "recall" or "specificity" for all
    tiles of a class. A weight above 1 makes errors against this bar dearer.
    """

    set: str
    kind: str
    wanted: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.wanted < 1:
            raise ThresholdError(f"bar {self.set}/{self.kind}: wanted must lie between 0 and 1, found {self.wanted}")


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The logits of one set and what is known about its tiles (all of length N)."""

    name: str
    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.bool_]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]

    def of_kind(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which tiles belong to `kind` (see `Bar`)."""
        if kind == "recall":
            return self.labels
        if kind == "specificity":
            return ~self.labels
        return np.asarray([item == kind for item in self.kinds], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class BarResult:
    """What a bar came to at the chosen threshold; `used` is the share of the allowed error times the bar's weight."""

    bar: Bar
    value: float
    used: float
    total: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen threshold; `gap` is the distance between the two logits in whose middle it lies."""

    threshold_logit: float
    gap: float
    results: tuple[BarResult, ...]

    @property
    def worst(self) -> BarResult:
        """The bar that decided."""
        return max(self.results, key=lambda result: result.used)

    @property
    def sets(self) -> list[str]:
        """The sets that had a say, each once."""
        return list(dict.fromkeys(result.bar.set for result in self.results))

    def by_bar(self) -> list[BarResult]:
        """One result a bar; where a set was scored by several files, the worse."""
        found: dict[Bar, BarResult] = {}
        for result in self.results:
            if result.bar not in found or result.used > found[result.bar].used:
                found[result.bar] = result
        return list(found.values())


RECALL_WEIGHT = 1.5
"""A missed crack is a safety risk, a false alarm is paint on a sound bridge: missed ones count so much more."""

_MUST: dict[str, tuple[Bar, ...]] = {
    "opnet": (
        Bar("metu-ccic", "recall", 0.995),
        Bar("metu-ccic", "specificity", 0.985),
        Bar("uav75", "crack", 0.75),
        Bar("uav75", "joint", 0.93),
        Bar("uav75", "plain", 0.93),
        Bar("omu-quay", "recall", 0.80),
        Bar("uavcrack", "recall", 0.92),
        Bar("not-concrete", "specificity", 0.96),
        Bar("walls-external", "recall", 0.85),
        Bar("walls-external", "specificity", 0.85),
        Bar("brickwork-external", "specificity", 0.85),
    ),
    "mobilenetv2": (
        Bar("metu-ccic", "recall", 0.998),
        Bar("metu-ccic", "specificity", 0.99),
        Bar("uav75", "crack", 0.88),
        Bar("uav75", "joint", 0.97),
        Bar("uav75", "plain", 0.96),
        Bar("omu-quay", "recall", 0.90),
        Bar("uavcrack", "recall", 0.97),
        Bar("not-concrete", "specificity", 0.99),
        Bar("walls-external", "recall", 0.94),
        Bar("walls-external", "specificity", 0.90),
        Bar("brickwork-external", "specificity", 0.97),
    ),
}


def bars_for(name: str) -> tuple[Bar, ...]:
    """The bars that a bundle of this name has to meet (small nets those of OPNet, all others those of MobileNetV2)."""
    return tuple(
        replace(bar, weight=RECALL_WEIGHT) if bar.kind in {"recall", "crack"} else bar
        for bar in _MUST["opnet" if name.startswith("opnet") else "mobilenetv2"]
    )


def deciding_bars(bars: Sequence[Bar], trained_on: Collection[str]) -> tuple[Bar, ...]:
    """The bars that choose the threshold: those of the sets that the weights were trained on.

    What a net has never been shown anything of cannot say where its threshold lies; all its figures are on the card all
    the same. Without a set that has cracks and one without, or where nothing is known of the training, all bars decide.
    Recall is decided by the cracks that are surely there: a picture with a trace of one (`training.data.dataset`) may
    be missed or not, and is judged all the same.
    """
    found = tuple(bar for bar in bars if bar.set in trained_on)
    sides = {bar.kind in {"recall", "crack"} for bar in found}
    deciding = found if sides == {True, False} else tuple(bars)
    return tuple(replace(bar, kind="crack") if bar.kind == "recall" else bar for bar in deciding)


def choose(scored: Sequence[Scored], bars: Sequence[Bar]) -> Choice:
    """The threshold that balances all bars (see above).

    A set may be given several times, for example as scored by the float and by the 8-bit file: then both count, and of
    equally good thresholds the one is taken at which they differ least.

    Args:
        scored: validation sets. Bars of sets that are not among them are left out.
        bars: what is wanted.

    Raises:
        ThresholdError: if no bar applies, or only one side is asked for (then always or never would be best).
    """
    applied = _applied(scored, bars)
    sides = {bool(item.labels[item.of_kind(bar.kind)][0]) for bar, item in applied}
    if sides != {True, False}:
        raise ThresholdError("a threshold needs validation sets with cracks and validation sets without")
    logits = _logits(scored)
    if len(logits) < 2:
        raise ThresholdError("the model gives every tile the same logit")
    candidates = (logits[1:] + logits[:-1]) / 2
    gaps = logits[1:] - logits[:-1]
    used = np.empty((len(applied), len(candidates)))
    for row, (bar, item) in enumerate(applied):
        used[row] = bar.weight * (1 - _rate(item, bar.kind, candidates)) / (1 - bar.wanted)
    ranked = np.round(-np.sort(-used, axis=0), 9)
    near = np.flatnonzero(ranked[0] <= ranked[0].min() + SLACK)
    differing = _disagreements(scored, candidates[near])
    near = near[differing == differing.min()]
    # lexsort takes its last key as the first: worst share, second worst, ..., then the widest gap
    best = int(near[np.lexsort((-gaps[near], *ranked[::-1, near]))[0]])
    return Choice(float(candidates[best]), float(gaps[best]), _results(applied, float(candidates[best])))


def at_threshold(scored: Sequence[Scored], bars: Sequence[Bar], threshold_logit: float) -> Choice:
    """What a threshold that was chosen before comes to; sets and bars as for `choose`.

    Raises:
        ThresholdError: if no bar applies, or a logit is not finite.
    """
    applied = _applied(scored, bars)
    if not applied:
        raise ThresholdError("none of the validation sets has a bar")
    logits = _logits(scored)
    place = int(np.searchsorted(logits, threshold_logit, side="left"))
    gap = float(logits[place] - logits[place - 1]) if 0 < place < len(logits) else float("inf")
    return Choice(threshold_logit, gap, _results(applied, threshold_logit))


def for_recall(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_], wanted: float) -> float:
    """The highest threshold whose recall is at least `wanted`, in the middle of the gap below the last crack kept.

    Raises:
        ThresholdError: if there is no crack among the tiles, or `wanted` is not above 0 and at most 1.
    """
    if not 0 < wanted <= 1:
        raise ThresholdError(f"wanted recall must be above 0 and at most 1, found {wanted}")
    cracks = np.sort(np.asarray(logits, dtype=np.float64)[labels])
    if not len(cracks):
        raise ThresholdError("there is no crack among the validation tiles")
    # a rate of 0.95 of 20 must not become 20 because 0.95 * 20 is 19.000000000000004
    misses = int(np.floor(len(cracks) * (1 - wanted) + 1e-9))
    kept = cracks[misses]
    below = np.unique(np.asarray(logits, dtype=np.float64))
    below = below[below < kept]
    middle = (kept + below[-1]) / 2 if len(below) else kept
    # between neighbouring floats there is nothing, and the middle is one of them
    return float(middle) if not len(below) or middle > below[-1] else float(kept)


def rates_at(
    item: Scored, threshold_logit: float, kinds: Sequence[str] = ("recall", "specificity")
) -> Mapping[str, float]:
    """The share of each kind of tile (see `Bar`) that is judged rightly, as far as the set has such tiles."""
    at = np.asarray([threshold_logit])
    return {kind: float(_rate(item, kind, at)[0]) for kind in kinds if item.of_kind(kind).any()}


def _applied(scored: Sequence[Scored], bars: Sequence[Bar]) -> list[tuple[Bar, Scored]]:
    """Each bar with each scoring of its set."""
    return [(bar, item) for bar in bars for item in scored if item.name == bar.set and item.of_kind(bar.kind).any()]


def _logits(scored: Sequence[Scored]) -> npt.NDArray[np.float64]:
    """All logits, each once, in order.

    Raises:
        ThresholdError: one is not finite.
    """
    logits = np.unique(np.concatenate([item.logits for item in scored]))
    if not np.isfinite(logits).all():
        raise ThresholdError("the model gave a logit that is not finite")
    return logits


def _results(applied: Sequence[tuple[Bar, Scored]], threshold_logit: float) -> tuple[BarResult, ...]:
    """What each bar comes to at a threshold."""
    found = []
    for bar, item in applied:
        value = rates_at(item, threshold_logit, [bar.kind])[bar.kind]
        used = bar.weight * (1 - value) / (1 - bar.wanted)
        found.append(BarResult(bar, value, used, int(item.of_kind(bar.kind).sum())))
    return tuple(found)


def _disagreements(scored: Sequence[Scored], thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each threshold the number of tiles on which two scorings of a set differ, and of cracks that one finds less.

    The second counts twice, it is what a difference in recall is made of.
    """
    found = np.zeros(len(thresholds), dtype=np.int64)
    by_name: dict[str, Scored] = {}
    net = np.zeros(len(thresholds), dtype=np.int64)
    for item in scored:
        first = by_name.setdefault(item.name, item)
        if first is item or len(first.labels) != len(item.labels):
            continue
        for index, threshold in enumerate(thresholds):
            a, b = first.logits >= threshold, item.logits >= threshold
            found[index] += int((a != b).sum())
            net[index] += int(a[item.labels].sum()) - int(b[item.labels].sum())
    return np.asarray(found + 2 * np.abs(net), dtype=np.int64)


def _rate(item: Scored, kind: str, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of the tiles of `kind` judged rightly, for each threshold."""
    of = item.of_kind(kind)
    values = np.sort(item.logits[of])
    below = np.searchsorted(values, thresholds, side="left") / len(values)
    return 1 - below if item.labels[of][0] else below
