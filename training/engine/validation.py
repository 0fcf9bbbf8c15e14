"""How good is the network right now, on each validation set? A quick look while training, not the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.dataset import EvaluationSet
from training.engine.stopping import COLUMN, recall_at_specificity
from training.models import CellClassifier


@dataclass(frozen=True)
class Quick:
    """Results on one set at p = 0.5; None where the set lacks positives or negatives."""

    name: str
    recall: float | None
    specificity: float | None
    auroc: float | None
    logits: NDArray[np.float64] = field(repr=False)
    labels: NDArray[np.bool_] = field(repr=False)

    def score(self) -> float:
        """Return the mean of what is known of recall, specificity and AUROC."""
        known = [value for value in (self.recall, self.specificity, self.auroc) if value is not None]
        return float(np.mean(known))

    def row(self) -> dict[str, float]:
        """Return columns for the history."""
        values = {"recall": self.recall, "specificity": self.specificity, "auroc": self.auroc}
        return {f"{self.name}/{key}": round(value, 4) for key, value in values.items() if value is not None}


def auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    """Return the share of (positive, negative) pairs in the right order, ties as half; None without such pairs."""
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        return None
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    equal = np.searchsorted(ordered, positives, side="right") - below
    return float((below + 0.5 * equal).mean() / len(negatives))


def predict(model: CellClassifier, tiles: NDArray[np.uint8], batch: int) -> NDArray[np.float64]:
    """Return the logits [N] of tiles uint8 [N, 224, 224, 3], computed where the model is."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    with torch.inference_mode():
        for start in range(0, len(tiles), batch):
            block = torch.from_numpy(np.ascontiguousarray(tiles[start : start + batch])).permute(0, 3, 1, 2)
            logits.append(model(block.to(device))[0].cpu().numpy())
    return np.concatenate(logits).astype(np.float64)


def validate(model: CellClassifier, sets: list[EvaluationSet], batch: int) -> list[Quick]:
    """Judge the model on each set at p = 0.5."""
    results = []
    for tiles in sets:
        logits = predict(model, tiles.tiles, batch)
        called, labels = logits > 0, tiles.labels
        results.append(
            Quick(
                tiles.name,
                float(called[labels].mean()) if labels.any() else None,
                float((~called[~labels]).mean()) if (~labels).any() else None,
                auroc(logits, labels),
                logits,
                labels,
            )
        )
    return results


def criterion(results: list[Quick], weights: dict[str, float]) -> float:
    """Return the weighted mean of the scores: what decides which moment of a run is kept."""
    return float(
        np.average([result.score() for result in results], weights=[weights[result.name] for result in results])
    )


def stopping_row(results: list[Quick], specificity: float) -> dict[str, float]:
    """Return columns for the history: `stopping.COLUMN` of all tiles pooled, and of each set that has both labels."""
    logits = np.concatenate([result.logits for result in results])
    labels = np.concatenate([result.labels for result in results])
    values = {COLUMN: recall_at_specificity(logits, labels, specificity)} | {
        f"{result.name}/{COLUMN}": recall_at_specificity(result.logits, result.labels, specificity)
        for result in results
    }
    return {key: round(value, 5) for key, value in values.items() if value is not None}
