"""How often is the model right, and within what bounds is that known?

Two kinds of interval stand side by side. Clopper-Pearson treats every tile as independent; the bootstrap by group
resamples photographs, because tiles of one photograph succeed or fail together. The wider one is the honest one. All
are two-sided; what a count supports from one side is said by `training.evaluation.statement`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

CONFIDENCE = 0.95
RESAMPLES = 1000
_ROUNDING = 1e-9

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure and the ends of its 95 % interval. `value` is NaN where nothing could be measured."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """`[value, low, high]`, as the manifest wants it."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True, slots=True)
class Rate(Estimate):
    """`hits` of `total`, with the Clopper-Pearson interval."""

    hits: int
    total: int


def clopper_pearson(hits: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934).

    Always two-sided, also where nothing or everything was hit: 100 of 100 gives 0.9638 to 1. An interval that changed
    to one side there would hold the rate less often than `confidence` says.

    Args:
        hits: successes, 0 to `total`.
        total: trials; with 0 the interval is (0, 1).
        confidence: least coverage.

    Raises:
        ValueError: if `hits` is not between 0 and `total`.
    """
    if not 0 <= hits <= total:
        raise ValueError(f"hits must be from 0 to total: {hits} of {total}")
    if total == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(1 - tail, hits + 1, total - hits))
    return low, high


def rate(hits: int, total: int) -> Rate:
    """`hits / total` with its Clopper-Pearson interval; NaN of 0."""
    low, high = clopper_pearson(hits, total)
    return Rate(hits / total if total else float("nan"), low, high, hits, total)


def without_spread(
    value: float, photographs: int, bounds: tuple[float, float] = (0.0, 1.0), confidence: float = CONFIDENCE
) -> Estimate:
    """The interval of a figure that is the same in every photograph, so that a bootstrap cannot tell how sure it is.

    The rule of three, exact and two-sided: a kind of photograph of which none was seen among G has a share of at most
    `1 - ((1 - confidence) / 2)^(1/G)` (of 4: 60 %, of 10: 31 %), and can move the figure by no more than that. Where
    all are right or none is, these are the ends of `clopper_pearson` over the photographs.

    Args:
        value: the figure.
        photographs: G, how many it comes from, 1 or more.
        bounds: least and largest possible value.
        confidence: least coverage.
    """
    _, unseen = clopper_pearson(0, photographs, confidence)
    low, high = max(bounds[0], value - unseen), min(bounds[1], value + unseen)
    return Estimate(value, min(value, low), max(value, high))


def photographs_of(groups: Sequence[str], of: Bools) -> int:
    """How many photographs the tiles `of` come from."""
    return len(np.unique(np.asarray(groups, dtype=str)[of]))


def bootstrap_by_group(
    statistic: Callable[[Floats], float],
    groups: Sequence[str],
    *,
    photographs: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap that draws whole groups with replacement (Field and Welsh, JRSS B 69, 2007).

    Where all draws give the same, as with a recall of 100 %, the interval is that of `without_spread`.

    Args:
        statistic: of the weights of all tiles (how often each was drawn; float64 [N]); draws for which it is NaN are
            left out.
        groups: photograph or twin group of each tile, length N.
        photographs: how many of the groups the statistic rests on: those of its class, for AUROC those of the class
            that has fewer; None: all.
        bounds: least and largest possible value of the statistic.
        resamples: number of draws.
        confidence: coverage.
        seed: the same seed gives the same interval.

    Returns:
        The statistic with all weights 1, and the interval; the interval is (NaN, NaN) with fewer than two photographs.
    """
    value = statistic(np.ones(len(groups)))
    names, membership = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    photographs = len(names) if photographs is None else photographs
    if photographs < 2:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        result = statistic(times[membership].astype(np.float64))
        if not np.isnan(result):
            drawn.append(result)
    if not drawn:
        return Estimate(value, float("nan"), float("nan"))
    if np.ptp(drawn) < _ROUNDING:
        return without_spread(value, photographs, bounds, confidence)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def auroc(scores: Floats, labels: Bools, weights: Floats | None = None) -> float:
    """Area under the receiver operating characteristic: chance that a crack scores higher than a sound tile.

    Equal scores count half. NaN if one class is absent.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    positive, negative = _sums_by_score(scores, labels, weights)
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total)


def auprc(scores: Floats, labels: Bools, weights: Floats | None = None) -> float:
    """Average precision: sum over thresholds of (recall step) x precision, without interpolation.

    NaN if there is no positive.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    positive, negative = _sums_by_score(scores, labels, weights)
    if positive.sum() == 0:
        return float("nan")
    hits = np.cumsum(positive[::-1])
    called = hits + np.cumsum(negative[::-1])
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return float((positive[::-1] * precision).sum() / positive.sum())


def share(hit: Bools, of: Bools) -> Callable[[Floats], float]:
    """The weighted share of `hit` among the tiles `of`, as a statistic for `bootstrap_by_group`."""

    def statistic(weights: Floats) -> float:
        total = float(weights[of].sum())
        return float(weights[of & hit].sum()) / total if total else float("nan")

    return statistic


def f1(verdicts: Bools, labels: Bools) -> Callable[[Floats], float]:
    """Harmonic mean of precision and recall, as a statistic for `bootstrap_by_group`; NaN without positives."""

    def statistic(weights: Floats) -> float:
        hits = float(weights[verdicts & labels].sum())
        wrong = float(weights[verdicts != labels].sum())
        if not weights[labels].sum():
            return float("nan")
        return 2 * hits / (2 * hits + wrong)

    return statistic


@dataclass(frozen=True, slots=True)
class SetMetrics:
    """What a model reaches on one set at one threshold.

    `by_tile` are Clopper-Pearson rates of `recall`, `specificity`, `accuracy`; `by_group` bootstrap estimates of those
    and of `f1`, `auroc`, `auprc`; `kinds` and `kinds_by_group` the share judged rightly for each kind of tile, both
    ways. What a set cannot say (specificity where all tiles are cracks) is absent.
    """

    n_positive: int
    n_negative: int
    n_groups: int
    by_tile: dict[str, Rate]
    by_group: dict[str, Estimate]
    kinds: dict[str, Rate]
    kinds_by_group: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "n_groups": self.n_groups,
            "by_tile": {
                key: {"value": r.value, "low": r.low, "high": r.high, "hits": r.hits, "total": r.total}
                for key, r in self.by_tile.items()
            },
            "by_group": {
                key: {"value": e.value, "low": _number(e.low), "high": _number(e.high)}
                for key, e in self.by_group.items()
            },
            "kinds": {
                key: {"value": r.value, "low": r.low, "high": r.high, "hits": r.hits, "total": r.total}
                for key, r in self.kinds.items()
            },
            "kinds_by_group": {
                key: {"value": e.value, "low": _number(e.low), "high": _number(e.high)}
                for key, e in self.kinds_by_group.items()
            },
        }


def measure(
    logits: npt.NDArray[np.floating],
    labels: Bools,
    groups: Sequence[str],
    kinds: Sequence[str],
    threshold_logit: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SetMetrics:
    """All figures of one set.

    Args:
        logits: [N].
        labels: [N], True is crack.
        groups: photograph or twin group of each tile.
        kinds: what each tile shows ("crack", "trace", "joint", "plain", "negative").
        threshold_logit: a tile is called a crack from this logit on.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    scores = np.asarray(logits, dtype=np.float64)
    verdicts = scores >= threshold_logit
    right = verdicts == labels
    everything = np.ones(len(labels), dtype=np.bool_)
    parts = {"recall": labels, "specificity": ~labels, "accuracy": everything}
    if labels.all() or not labels.any():
        del parts["accuracy"]
    statistics: dict[str, Callable[[Floats], float]] = {}
    by_tile: dict[str, Rate] = {}
    photographs: dict[str, int] = {}
    for key, of in parts.items():
        if of.any():
            by_tile[key] = rate(int((right & of).sum()), int(of.sum()))
            statistics[key] = share(right, of)
            photographs[key] = photographs_of(groups, of)
    if "accuracy" in by_tile:
        fewer = min(photographs["recall"], photographs["specificity"])
        photographs |= dict.fromkeys(("f1", "auroc", "auprc"), fewer)
        statistics["f1"] = f1(verdicts, labels)
        statistics["auroc"] = lambda weights: auroc(scores, labels, weights)
        statistics["auprc"] = lambda weights: auprc(scores, labels, weights)

    def by_photograph(statistic: Callable[[Floats], float], photographs: int) -> Estimate:
        return bootstrap_by_group(statistic, groups, photographs=photographs, resamples=resamples, seed=seed)

    kind_of = np.asarray(kinds, dtype=str)
    of_kind = {str(kind): kind_of == kind for kind in np.unique(kind_of)}
    return SetMetrics(
        int(labels.sum()),
        int((~labels).sum()),
        len(set(groups)),
        by_tile,
        {key: by_photograph(statistic, photographs[key]) for key, statistic in statistics.items()},
        {kind: rate(int((right & of).sum()), int(of.sum())) for kind, of in of_kind.items()},
        {kind: by_photograph(share(right, of), photographs_of(groups, of)) for kind, of in of_kind.items()},
    )


def _sums_by_score(scores: Floats, labels: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of the positives and of the negatives at each distinct score, in rising order of score."""
    distinct, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights=weights * labels, minlength=len(distinct)).astype(np.float64)
    negative = np.bincount(place, weights=weights * ~labels, minlength=len(distinct)).astype(np.float64)
    return positive, negative


def _number(value: float) -> float | None:
    """NaN is not JSON."""
    return None if np.isnan(value) else value
