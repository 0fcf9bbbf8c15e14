"""When is more training useless, and which moment is kept? Recall at a fixed specificity says both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMN = "recall_at_specificity"
"""Of the history: pooled over all tiles of all validation sets, with one threshold for all, as the drone flies with
one. With the name of a set in front: of that set alone, with its own threshold."""


def recall_at_specificity(logits: NDArray[np.float64], labels: NDArray[np.bool_], specificity: float) -> float | None:
    """Return the largest recall that any threshold reaches while it passes enough of the sound tiles.

    Args:
        logits: [N]; a tile is called cracked if its logit is above the threshold.
        labels: [N], True is crack.
        specificity: share of the sound tiles that must be passed, 0..1.

    Returns:
        The recall, or None without cracks or without sound tiles.
    """
    cracked, sound = logits[labels], np.sort(logits[~labels])
    if not len(cracked) or not len(sound):
        return None
    false_alarms = math.floor((1 - specificity) * len(sound) + 1e-9)
    if false_alarms >= len(sound):
        return 1.0
    threshold = sound[len(sound) - 1 - false_alarms]
    return float((cracked > threshold).mean())


def merit(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return by what a validation's moment is kept, the larger the better: what stops a stage, then the criterion.

    Args:
        row: of the history; without `COLUMN` the criterion alone counts.
    """
    return float(row.get(COLUMN, 0.0)), float(row["criterion"])


def has_stalled(values: Sequence[float], patience: int) -> bool:
    """Tell whether the last `patience` values all failed to exceed the best before them."""
    if len(values) <= patience:
        return False
    return max(values[-patience:]) <= max(values[:-patience])
