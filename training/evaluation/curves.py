"""Which recall costs which specificity? Curves over all thresholds, reliability, and where the scores lie."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.evaluation.calibration import (
    Bin,
    Calibration,
    balanced_weights,
    expected_error,
    held_out_p,
    probabilities,
    reliability,
)
from training.evaluation.evaluate import SetResult
from training.evaluation.threshold import Scored
from training.figures import COLOURS, CRACK_COLOUR, SOUND_COLOUR, figure

Floats = npt.NDArray[np.float64]

_STYLES: Final = ("-", "--", ":", "-.")
_MOST_POINTS: Final = 400


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Rates of one set for rising thresholds; None for a class that the set does not have."""

    key: str
    thresholds: Floats
    recall: Floats | None
    specificity: Floats | None


def curve_of(key: str, item: Scored) -> Curve:
    """The rates of a set at every threshold at which they change (and one beyond the last)."""
    values = np.unique(item.logits)
    thresholds = np.append(values, np.nextafter(values[-1], np.inf))
    rates: dict[bool, Floats | None] = {True: None, False: None}
    for label in rates:
        of = np.sort(item.logits[item.labels == label])
        if len(of):
            below = np.searchsorted(of, thresholds, side="left") / len(of)
            rates[label] = np.asarray(1 - below if label else below, np.float64)
    return Curve(key, np.asarray(thresholds, np.float64), rates[True], rates[False])


def write_curves(curves: Sequence[Curve], path: Path) -> Path:
    """All curves as CSV (`set,threshold_logit,recall,specificity`), long ones thinned evenly."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "threshold_logit", "recall", "specificity"])
        for curve in curves:
            for index in _thinned(len(curve.thresholds)):
                rates = [None if part is None else f"{part[index]:.6f}" for part in (curve.recall, curve.specificity)]
                writer.writerow([curve.key, f"{curve.thresholds[index]:.6f}", *rates])
    return path


def _thinned(count: int) -> npt.NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(np.intp))


def draw_operating_points(curves: Sequence[Curve], results: Sequence[SetResult], path: Path) -> Path:
    """Recall against specificity of each set that has both, with the chosen point and its intervals."""
    both = [
        (curve, row)
        for curve, row in zip(curves, results, strict=True)
        if curve.recall is not None and curve.specificity is not None
    ]
    with figure(path, width_in=6.5, height_in=5.5) as drawn:
        axes = drawn.add_subplot()
        lowest = 100.0
        for index, (curve, row) in enumerate(both):
            if curve.recall is None or curve.specificity is None:
                continue
            colour = COLOURS[index % len(COLOURS)]
            style = _STYLES[index // len(COLOURS) % len(_STYLES)]
            axes.plot(100 * curve.specificity, 100 * curve.recall, style, color=colour, lw=1.3, label=row.key)
            rates = row.metrics.by_tile
            x, y = rates["specificity"], rates["recall"]
            axes.errorbar(
                100 * x.value,
                100 * y.value,
                xerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]],
                yerr=[[100 * (y.value - y.low)], [100 * (y.high - y.value)]],
                fmt="o",
                color=colour,
                ms=5,
                capsize=2,
                lw=1,
            )
            lowest = min(lowest, 100 * x.low, 100 * y.low)
        floor = max(0.0, 10 * np.floor(lowest / 10) - 10)
        axes.set_xlim(floor, 100.5)
        axes.set_ylim(floor, 100.5)
        axes.set_xlabel("specificity (per cent)")
        axes.set_ylabel("recall (per cent)")
        axes.legend(loc="lower left", fontsize=8)
    return path


def draw_against_threshold(curves: Sequence[Curve], threshold_logit: float, path: Path) -> Path:
    """Recall and specificity of every set against the threshold."""
    with figure(path, width_in=9.0, height_in=4.2) as drawn:
        axes = None
        for column, kind in enumerate(("recall", "specificity")):
            axes = drawn.add_subplot(1, 2, column + 1, sharey=axes)
            for index, curve in enumerate(curves):
                rates = curve.recall if kind == "recall" else curve.specificity
                if rates is not None:
                    style = _STYLES[index // len(COLOURS) % len(_STYLES)]
                    colour = COLOURS[index % len(COLOURS)]
                    axes.plot(curve.thresholds, 100 * rates, style, color=colour, lw=1.2, label=curve.key)
            axes.axvline(threshold_logit, color="#555555", lw=1, ls=":")
            axes.set_xlim(*_middle(curves, threshold_logit))
            axes.set_ylim(0, 101)
            axes.set_xlabel("threshold (logit)")
            axes.set_ylabel(f"{kind} (per cent)")
            axes.legend(fontsize=7, loc="lower left" if kind == "recall" else "lower right")
    return path


def _middle(curves: Sequence[Curve], threshold_logit: float) -> tuple[float, float]:
    """A range of logits that holds nearly all scores and the threshold."""
    everything = np.concatenate([curve.thresholds for curve in curves])
    low, high = np.percentile(everything, [1, 99])
    return float(min(low, threshold_logit - 1)), float(max(high, threshold_logit + 1))


def draw_histograms(keys: Sequence[str], scored: Sequence[Scored], threshold_logit: float, path: Path) -> Path:
    """Where the logits of cracks and of sound tiles lie, one small plot for each set."""
    rows = -(-len(keys) // 3)
    everything = np.concatenate([item.logits for item in scored])
    low, high = np.percentile(everything, [0.2, 99.8])
    edges = np.linspace(min(low, threshold_logit - 0.5), max(high, threshold_logit + 0.5), 41)
    with figure(path, width_in=9.0, height_in=2.2 * rows) as drawn:
        for index, (key, item) in enumerate(zip(keys, scored, strict=True)):
            axes = drawn.add_subplot(rows, 3, index + 1)
            for label, colour, name in ((False, SOUND_COLOUR, "sound"), (True, CRACK_COLOUR, "crack")):
                of = np.clip(item.logits[item.labels == label], edges[0], edges[-1])
                if len(of):
                    axes.hist(of, edges.tolist(), color=colour, alpha=0.6, label=f"{name} ({len(of)})")
            axes.axvline(threshold_logit, color="#000000", lw=1, ls=":")
            axes.set_title(key, fontsize=9)
            axes.legend(fontsize=6, loc="upper left")
            if index // 3 == rows - 1 or index + 3 >= len(keys):
                axes.set_xlabel("logit", fontsize=8)
    return path


@dataclass(frozen=True)
class Reliability:
    """How far p can be believed, without and with temperature and bias.

    Attributes:
        title: which tiles.
        before: of `sigmoid(logit)`.
        after: with the fit.
        error_before: expected calibration error, likewise.
        error_after: expected calibration error, likewise.
    """

    title: str
    before: list[Bin]
    after: list[Bin]
    error_before: float
    error_after: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""

        def rows(bins: Sequence[Bin]) -> list[dict[str, float]]:
            return [
                {"low": b.low, "high": b.high, "mean_p": b.mean_p, "cracks": b.cracks, "tiles": b.tiles} for b in bins
            ]

        return {
            "tiles": self.title,
            "before": rows(self.before),
            "after": rows(self.after),
            "expected_calibration_error": {"before": self.error_before, "after": self.error_after},
        }


def reliabilities(
    validation: Sequence[Scored], others: Sequence[Scored], calibration: Calibration | None, *, bins: int
) -> list[Reliability]:
    """On validation tiles every group is judged by a fit on the others; on all other tiles by the fit on validation.

    Args:
        validation: validation sets; nothing is said of them without both classes.
        others: test and external sets.
        calibration: the fit on `validation`, None if there was none; one that was not kept changes nothing.
        bins: bars of the diagram.
    """
    found = []
    if calibration is not None and validation:
        fitted = held_out_p(validation)
        found.append(_reliability("validation, judged by a fit on other groups", validation, fitted, bins))
    if others and any(item.labels.any() for item in others) and not all(item.labels.all() for item in others):
        logits = np.concatenate([item.logits for item in others])
        temperature, bias = (1.0, 0.0) if calibration is None else (calibration.temperature, calibration.bias)
        fitted = probabilities(logits, temperature, bias)
        found.append(_reliability("test and external, judged by the fit on validation", others, fitted, bins))
    return found


def _reliability(title: str, scored: Sequence[Scored], fitted: Floats, bins: int) -> Reliability:
    labels = np.concatenate([item.labels for item in scored])
    weights = balanced_weights(scored)
    raw = probabilities(np.concatenate([item.logits for item in scored]), 1.0, 0.0)
    return Reliability(
        title,
        reliability(raw, labels, weights, bins=bins),
        reliability(fitted, labels, weights, bins=bins),
        expected_error(raw, labels, weights, bins=bins),
        expected_error(fitted, labels, weights, bins=bins),
    )


def draw_reliability(found: Sequence[Reliability], path: Path) -> Path:
    """Share of cracks against p; the size of a dot tells the number of tiles."""
    with figure(path, width_in=4.5 * max(1, len(found)), height_in=4.4) as drawn:
        for column, item in enumerate(found):
            axes = drawn.add_subplot(1, len(found), column + 1)
            axes.plot([0, 1], [0, 1], color="#999999", lw=1)
            total = sum(bar.tiles for bar in item.before)
            for bars, colour, name, error in (
                (item.before, COLOURS[7], "as the net gives it", item.error_before),
                (item.after, COLOURS[0], "temperature and bias", item.error_after),
            ):
                x, y = [bar.mean_p for bar in bars], [bar.cracks for bar in bars]
                axes.plot(x, y, color=colour, lw=1.2, label=f"{name}: error {error:.3f}")
                axes.scatter(x, y, [10 + 150 * bar.tiles / total for bar in bars], color=colour, alpha=0.7)
            axes.set_xlabel("p(crack)")
            axes.set_ylabel("share of cracks (classes and sets weighing the same)")
            axes.set_title(item.title, fontsize=8)
            axes.legend(fontsize=7, loc="upper left")
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
    return path
