"""How far does one threshold on darkness get? What a network reaches on a data set is worth what it adds to that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.scan import DarkTile
from training.evaluation.metrics import Rate, auroc, rate


@dataclass(frozen=True)
class Baseline:
    """One threshold on darkness, fitted on one part and measured on the other.

    Attributes:
        fitted_on: what the threshold was fitted on, in words.
        threshold: darkness from which on a tile is called cracked, in grey levels.
        recall: share of cracked tiles that are found.
        specificity: share of sound tiles that pass.
        accuracy: share of all tiles that are judged right.
        auroc: area under the curve, on the same tiles.
    """

    fitted_on: str
    threshold: float
    recall: Rate
    specificity: Rate
    accuracy: Rate
    auroc: float


def fit_threshold(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the threshold (score >= threshold is a crack) of the best mean of recall and specificity."""
    candidates = np.unique(scores)
    recall = 1 - np.searchsorted(np.sort(scores[labels]), candidates, side="left") / labels.sum()
    specificity = np.searchsorted(np.sort(scores[~labels]), candidates, side="left") / (~labels).sum()
    return float(candidates[int(np.argmax(recall + specificity))])


def measure_baseline(
    tiles: Sequence[DarkTile], groups: Sequence[str], split_of: Mapping[int, str] | None
) -> Baseline | str:
    """Fit the threshold and measure it, or say why that is impossible.

    Args:
        tiles: labelled tiles.
        groups: group of each photograph.
        split_of: part of each photograph by position; None if there is no split: then half of the groups (by their
            hash) is fitted on.
    """
    scores = np.array([tile.darkness for tile in tiles], np.float64)
    labels = np.array([tile.cracked for tile in tiles], np.bool_)
    if not labels.any() or labels.all():
        what = "no tile" if not len(labels) else "no sound tile" if labels.all() else "no cracked tile"
        return f"not measured: there is {what}"
    if split_of is not None:
        fitted = np.array([split_of[tile.index] == "train" for tile in tiles])
        said = "training part of the committed split"
    else:
        fitted = np.array([_in_first_half(groups[tile.index]) for tile in tiles])
        said = "half of the groups"
    for part, name in ((labels[fitted], said), (labels[~fitted], "the rest")):
        if not part.any() or part.all():
            return f"not measured: {name} holds one class alone ({int(part.sum())} cracked of {len(part)} tiles)"
    threshold = fit_threshold(scores[fitted], labels[fitted])
    rest, verdicts = labels[~fitted], scores[~fitted] >= threshold
    return Baseline(
        fitted_on=said,
        threshold=threshold,
        recall=rate(int((verdicts & rest).sum()), int(rest.sum())),
        specificity=rate(int((~verdicts & ~rest).sum()), int((~rest).sum())),
        accuracy=rate(int((verdicts == rest).sum()), len(rest)),
        auroc=auroc(scores[~fitted], rest),
    )


def _in_first_half(group: str) -> bool:
    return hashlib.sha256(group.encode()).digest()[0] < 128
