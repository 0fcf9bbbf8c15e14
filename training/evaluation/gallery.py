"""Which tiles does a model judge most wrongly? Contact sheets and a list of all errors."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from training.data.dataset import EvaluationSet
from training.evaluation.threshold import Scored
from training.figures import figure

Image = npt.NDArray[np.uint8]
ErrorKind = Literal["false positive", "false negative"]

OUTLINE_BGR: Final = (255, 255, 0)
"""Cyan: what neither concrete nor brick is."""

_COLUMNS: Final = 6
_NAME_LENGTH: Final = 26


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """From which logit on a tile is called a crack, and which probability a logit stands for.

    `basis` says where the threshold comes from.
    """

    threshold_logit: float
    temperature: float
    bias: float
    basis: str

    def p_crack(self, logit: float) -> float:
        """Calibrated probability of a logit."""
        return float(1 / (1 + np.exp(-np.clip(logit / self.temperature + self.bias, -500, 500))))


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrongly judged tile of a set; `index` is its place there."""

    index: int
    error: ErrorKind
    logit: float
    p_crack: float
    group: str
    kind: str


def mistakes(scored: Scored, point: OperatingPoint) -> list[Mistake]:
    """All wrongly judged tiles of a set: the false positives, then the false negatives, each the worst first."""
    called = scored.logits >= point.threshold_logit
    wrong = np.flatnonzero(called != scored.labels)
    found = [
        Mistake(
            int(index),
            "false negative" if scored.labels[index] else "false positive",
            float(scored.logits[index]),
            point.p_crack(float(scored.logits[index])),
            scored.groups[index],
            scored.kinds[index],
        )
        for index in wrong
    ]
    return sorted(
        found,
        key=lambda item: (item.error == "false negative", abs(item.logit - point.threshold_logit) * -1, item.index),
    )


def of_error(found: Sequence[Mistake], error: ErrorKind) -> list[Mistake]:
    """Those of one kind, the worst first."""
    return [item for item in found if item.error == error]


def write_errors(
    path: Path, found: Mapping[tuple[str, str], Sequence[Mistake]], sets: Mapping[tuple[str, str], EvaluationSet]
) -> Path:
    """Write a CSV with one row for each error: set, tile, where it was cut, what it shows, logit and probability.

    Args:
        path: of the file.
        found: by set and split.
        sets: the same.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["set", "split", "error", "tile", "photograph", "kind", "logit", "p_crack", "top_px", "left_px", "side_px"]
        )
        for (name, split), items in found.items():
            origins = sets[name, split].origins
            for item in items:
                place = origins[item.index] if origins is not None else None
                cut = ["", "", ""] if place is None else [place.top, place.left, place.side]
                writer.writerow(
                    [
                        *(name, split, item.error, item.index, item.group, item.kind),
                        *(f"{item.logit:.4f}", f"{item.p_crack:.6f}"),
                        *cut,
                    ]
                )
    return path


def outlined(tile: Image, mask: Image | None) -> Image:
    """A copy of a tile (BGR) with the outline of its mask; without a mask, the tile."""
    drawn = np.ascontiguousarray(tile).copy()
    if mask is not None and (mask > 127).any():
        contours, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, OUTLINE_BGR, 1)
    return drawn


def draw_sheet(path: Path, tiles: EvaluationSet, worst: Sequence[Mistake], title: str) -> Path:
    """Draw errors as a contact sheet (PNG): each with logit, probability, kind and photograph.

    Args:
        path: of the file.
        tiles: the set.
        worst: what is drawn, in this order; at least one.
        title: above the sheet.
    """
    columns = min(_COLUMNS, max(3, len(worst)))
    rows = -(-len(worst) // columns)
    with figure(path, width_in=1.75 * columns, height_in=2.2 * rows + 0.35) as drawn:
        drawn.suptitle(title, fontsize=9, x=0.01, ha="left")
        for place, item in enumerate(worst):
            axes = drawn.add_subplot(rows, columns, place + 1)
            mask = None if tiles.masks is None else tiles.masks[item.index]
            axes.imshow(outlined(tiles.tiles[item.index], mask)[..., ::-1])
            axes.set_axis_off()
            text = f"logit {item.logit:+.2f}, p {item.p_crack:.3f}\n{item.kind}\n{shortened(item.group)}"
            axes.set_title(text, fontsize=6, loc="left", pad=2)
    return path


def shortened(name: str, length: int = _NAME_LENGTH) -> str:
    """A long name with its middle left out."""
    if len(name) <= length:
        return name
    kept = length - 1
    return f"{name[: kept // 2]}…{name[len(name) - (kept - kept // 2) :]}"
