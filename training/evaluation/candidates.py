"""Which of several nets is to be exported? All are judged alike, by the validation sets alone.

Each is given the threshold that the stated bars choose for it. Then four things tell them apart: the share of the
allowed error that each bar uses up there, what becomes of tiles that have no bar, the areas under the curves, and how
sure the difference of these is. Validation sets are small, and nets were chosen by the very tiles before; mirrored to
the left, upside down and both, the same photographs are tiles that no choice has seen, so four views of each count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.data.dataset import EvaluationSet
from training.evaluation.evaluate import Progress, Scorer, score
from training.evaluation.metrics import Estimate, auroc
from training.evaluation.threshold import Bar, BarResult, Choice, Scored, at_threshold, choose, rates_at
from training.figures import COLOURS, figure

View = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
VIEWS: Final[tuple[View, ...]] = (
    lambda tiles: tiles,
    lambda tiles: tiles[:, :, ::-1],
    lambda tiles: tiles[:, ::-1],
    lambda tiles: tiles[:, ::-1, ::-1],
)
"""Tiles [N, S, S, 3] as they are, mirrored left to right, upside down, and both."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A net as the validation sets see it.

    Attributes:
        label: what it is called.
        choice: its threshold, and what each deciding bar comes to there.
        scored: its logits of each set, all views of a set one after another.
        areas: under the receiver operating characteristic, by set that has both classes (0..1).
        kinds: share judged rightly of each kind of tile, by set.
    """

    label: str
    choice: Choice
    scored: dict[str, Scored]
    areas: dict[str, float]
    kinds: dict[str, dict[str, float]]

    @property
    def bars(self) -> list[BarResult]:
        """What each deciding bar comes to, the one that uses up most first."""
        return sorted(self.choice.by_bar(), key=lambda row: -row.used)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "label": self.label,
            "threshold_logit": self.choice.threshold_logit,
            "bars": [
                {"set": row.bar.set, "kind": row.bar.kind, "wanted": row.bar.wanted, "value": row.value}
                | {"used": row.used, "tiles": row.total}
                for row in self.bars
            ],
            "auroc": self.areas,
            "kinds": self.kinds,
        }


def in_views(scorer: Scorer, tiles: EvaluationSet, views: int, progress: Progress | None = None) -> Scored:
    """Score a set in the first so many of `VIEWS`; each view's tiles follow those of the one before."""
    parts = [score(scorer, replace(tiles, tiles=view(tiles.tiles)), progress) for view in VIEWS[:views]]
    return Scored(
        name=tiles.name,
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        kinds=sum((part.kinds for part in parts), ()),
        groups=sum((part.groups for part in parts), ()),
    )


def weigh(label: str, scored: Sequence[Scored], bars: Sequence[Bar]) -> Candidate:
    """Give a net the threshold that its bars choose, and see what it comes to.

    Args:
        label: what the net is called.
        scored: its logits of the validation sets, and of further ones that have no bar.
        bars: those that decide.

    Raises:
        ThresholdError: no threshold can be chosen.
    """
    deciding = {bar.set for bar in bars}
    choice = choose([item for item in scored if item.name in deciding], bars)
    return Candidate(
        label=label,
        choice=choice,
        scored={item.name: item for item in scored},
        areas={item.name: auroc(item.logits, item.labels) for item in scored if 0 < item.labels.mean() < 1},
        kinds={item.name: dict(rates_at(item, choice.threshold_logit, sorted({*item.kinds}))) for item in scored},
    )


def view_by_view(candidate: Candidate, bars: Sequence[Bar], views: int) -> list[list[BarResult]]:
    """What the bars come to in each view alone, at the threshold of all; in the order of `bars`, as far as they apply.

    Raises:
        ThresholdError: no bar applies.
    """
    found, deciding = [], {bar.set for bar in bars}
    for view in range(views):
        part = [_one_view(item, view, views) for name, item in candidate.scored.items() if name in deciding]
        found.append(at_threshold(part, bars, candidate.choice.threshold_logit).by_bar())
    return found


def difference(first: Candidate, other: Candidate, sets: Sequence[str], *, resamples: int, seed: int) -> Estimate:
    """How much larger the second net's mean area is (0..1), with an interval by photograph.

    Both are judged on the same draws of photographs, so what is hard in a photograph does not count as a difference.

    Args:
        first: the net that is compared with.
        other: the net that may be better.
        sets: those whose areas are averaged; both classes must be in each.
        resamples: draws of photographs.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for name in sets:
        pair = first.scored[name], other.scored[name]
        names, membership = np.unique(np.asarray(pair[0].groups, dtype=str), return_inverse=True)
        for number in range(resamples):
            times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
            weights = times[membership].astype(np.float64)
            areas = [auroc(item.logits, item.labels, weights) for item in pair]
            drawn[number] += (areas[1] - areas[0]) / len(sets)
    value = float(np.mean([other.areas[name] - first.areas[name] for name in sets]))
    known = drawn[~np.isnan(drawn)]  # a draw may hold no photograph of one class
    if not len(known):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def draw_shares(candidates: Sequence[Candidate], path: Path) -> None:
    """Draw the share of the allowed error that each bar uses up, a dot for each net; beyond 1 a bar is missed."""
    rows = [(row.bar.set, row.bar.kind) for row in candidates[0].bars][::-1]
    with figure(path, width_in=7.5, height_in=1.3 + 0.34 * len(rows) + 0.2 * len(candidates)) as drawn:
        axes = drawn.add_subplot()
        for number, candidate in enumerate(candidates):
            used = {(row.bar.set, row.bar.kind): row.used for row in candidate.bars}
            shift = 0.5 * ((number + 0.5) / len(candidates) - 0.5)
            axes.plot(
                [used.get(row, np.nan) for row in rows],
                np.arange(len(rows)) - shift,
                "o",
                color=COLOURS[number % len(COLOURS)],
                label=candidate.label,
            )
        axes.axvline(1, color="#666666", linewidth=1)
        axes.set_xlim(left=-0.03)
        axes.set_yticks(range(len(rows)), [" ".join(row) for row in rows])
        axes.set_xlabel("share of the allowed error that is used up, missed cracks counting more (1: the bar)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=min(3, len(candidates)), fontsize=8)


def _one_view(item: Scored, view: int, views: int) -> Scored:
    """Take the tiles of one view out of a set that was scored in several."""
    tiles = len(item.labels) // views
    part = slice(view * tiles, (view + 1) * tiles)
    return Scored(item.name, item.logits[part], item.labels[part], item.kinds[part], item.groups[part])
