"""Do the files that fly judge as the net that was trained? If not, nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.threshold import Scored

MIN_AGREEMENT = 0.995
MAX_RECALL_DIFFERENCE = 0.002
MAX_SET_DIFFERENCE = 0.005
"""Difference between float and 8 bit on a rate with a bar that makes the export look for a better way of rounding."""


class ParityError(Exception):
    """The exported files do not judge as the trained net; the message says by how much."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two scorers compare at one threshold.

    `same_verdict` is the share of tiles with the same verdict; recalls are over all cracks, specificities over all
    others; `max_logit` and `rms_logit` are differences of the raw logits.
    """

    reference: str
    other: str
    tiles: int
    same_verdict: float
    recall_reference: float
    recall_other: float
    specificity_reference: float
    specificity_other: float
    max_logit: float
    rms_logit: float

    @property
    def recall_difference(self) -> float:
        """Absolute difference of the recalls (0..1)."""
        return abs(self.recall_reference - self.recall_other)

    @property
    def passed(self) -> bool:
        """Whether both bounds are kept."""
        return self.same_verdict >= MIN_AGREEMENT and self.recall_difference <= MAX_RECALL_DIFFERENCE + 1e-12

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for the manifest."""
        return {
            "tiles": self.tiles,
            "same_verdict": round(self.same_verdict, 6),
            "recall": [round(self.recall_reference, 6), round(self.recall_other, 6)],
            "specificity": [round(self.specificity_reference, 6), round(self.specificity_other, 6)],
            "max_logit_difference": float(f"{self.max_logit:.4g}"),
            "rms_logit_difference": float(f"{self.rms_logit:.4g}"),
        }

    def __str__(self) -> str:
        recalls = f"{100 * self.recall_reference:.2f} and {100 * self.recall_other:.2f} %"
        return (
            f"{self.reference} and {self.other}: same verdict on {100 * self.same_verdict:.2f} % of {self.tiles} tiles "
            f"(needed {100 * MIN_AGREEMENT:g} %), recall {recalls} "
            f"(may differ by {100 * MAX_RECALL_DIFFERENCE:g} points)"
        )


def compare(
    reference: Sequence[Scored], other: Sequence[Scored], names: tuple[str, str], threshold_logit: float
) -> Agreement:
    """Compares two scorers over the same sets, joined.

    Raises:
        ValueError: if the sets are not the same tiles, or there are none.
    """
    labels = np.concatenate([item.labels for item in reference])
    if not len(labels) or not np.array_equal(labels, np.concatenate([item.labels for item in other])):
        raise ValueError("both scorers must have scored the same tiles")
    first = np.concatenate([item.logits for item in reference])
    second = np.concatenate([item.logits for item in other])
    a, b = first >= threshold_logit, second >= threshold_logit
    difference = np.abs(first - second)
    return Agreement(
        reference=names[0],
        other=names[1],
        tiles=len(labels),
        # a logit that is not finite is a disagreement, whatever the comparison says
        same_verdict=float(((a == b) & np.isfinite(first) & np.isfinite(second)).mean()),
        recall_reference=_mean(a[labels]),
        recall_other=_mean(b[labels]),
        specificity_reference=_mean(~a[~labels]),
        specificity_other=_mean(~b[~labels]),
        max_logit=float(difference.max()),
        rms_logit=float(np.sqrt((difference**2).mean())),
    )


def gate(agreements: Sequence[Agreement]) -> None:
    """Lets pass what agrees.

    Raises:
        ParityError: if any comparison breaks a bound; names all that do.
    """
    broken = [str(agreement) for agreement in agreements if not agreement.passed]
    if broken:
        raise ParityError("not exported, the files do not judge as the trained net. " + ". ".join(broken))


def _mean(values: npt.NDArray[np.bool_]) -> float:
    """Mean, 1 of nothing: without cracks no crack is missed."""
    return float(values.mean()) if len(values) else 1.0
