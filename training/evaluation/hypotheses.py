"""Why does a model err? Each guess is put as a sentence with a measurable quantity, and tested on the tiles.

The effect is the chance that a wrongly judged tile has more of the quantity than a rightly judged one of the same class
(the area under the curve of Mann and Whitney, 1947): 0.5 says that the quantity has nothing to do with it. Its interval
is bootstrapped by photograph. Many guesses on few errors: a supported guess is a lead, not a law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from training.data.dataset import EvaluationSet
from training.data.sources import CRACK
from training.data.tiles import touched_blocks
from training.evaluation.metrics import RESAMPLES, Estimate, auroc, bootstrap_by_group, photographs_of
from training.evaluation.threshold import Scored
from training.figures import figure

Verdict = Literal["supported", "refuted", "undecided", "too few errors"]
MIN_ERRORS: Final = 5
"""With fewer wrong (or right) tiles nothing is tested."""
_BAND_PX: Final = 10
"""A crack's surroundings, for its contrast, reach so far."""

Tile = npt.NDArray[np.uint8]
Quantity = Callable[[Tile, Tile | None, str], float]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A guess about the errors of one class.

    Attributes:
        name: short.
        statement: what is claimed.
        measured: the quantity with its unit.
        of: "missed" (cracks called sound) or "false alarm" (sound tiles called cracked).
        more: whether wrong tiles have more of the quantity, or less.
        needs_mask: whether the quantity is read off the mask.
        quantity: of (tile uint8 [S, S, 3], mask uint8 [S, S] or None, kind of the tile).
    """

    name: str
    statement: str
    measured: str
    of: Literal["missed", "false alarm"]
    more: bool
    needs_mask: bool
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Tested:
    """What became of a hypothesis on one set; `effect` is 0.5 if the quantity makes no difference."""

    set: str
    name: str
    statement: str
    measured: str
    of: str
    wrong: int
    right: int
    median_wrong: float
    median_right: float
    effect: Estimate
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        content = asdict(self)
        return {key: _json(value) for key, value in content.items()}


def crack_width_px(_tile: Tile, mask: Tile | None, _kind: str) -> float:
    """Mean width of the marked crack (px), along its middle line.

    It is as good as the mask: where every crack is marked a pixel wide it says how far the tile was enlarged. On that
    line the distance to the nearest unmarked pixel's centre is half a width and half a pixel.
    """
    assert mask is not None  # noqa: S101 - needs_mask
    marked = (mask == CRACK).astype(np.uint8)
    distance = cv2.distanceTransform(marked, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ridge = (distance > 0) & (distance >= cv2.dilate(distance, np.ones((3, 3), np.uint8)) - 1e-6)
    return float(2 * distance[ridge].mean() - 1) if ridge.any() else 0.0


def crack_contrast(tile: Tile, mask: Tile | None, _kind: str) -> float:
    """How many grey levels the crack is darker than the band around it (medians)."""
    assert mask is not None  # noqa: S101 - needs_mask
    grey = cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY)
    marked = (mask == CRACK).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _BAND_PX + 1, 2 * _BAND_PX + 1))
    near = cv2.dilate(marked, np.ones((7, 7), np.uint8))
    band = (cv2.dilate(marked, kernel) > 0) & (near == 0)
    if not band.any() or not marked.any():
        return 0.0
    return float(np.median(grey[band]) - np.median(grey[marked > 0]))


def crack_blocks(_tile: Tile, mask: Tile | None, _kind: str) -> float:
    """In how many of the 14 x 14 blocks there is crack: its length."""
    assert mask is not None  # noqa: S101 - needs_mask
    return float(touched_blocks(mask == CRACK))


def sharpness(tile: Tile, _mask: Tile | None, _kind: str) -> float:
    """Logarithm of the variance of the Laplacian (grey levels squared)."""
    grey = cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY)
    return float(np.log10(cv2.Laplacian(grey, cv2.CV_32F).var() + 1e-3))


def level(tile: Tile, _mask: Tile | None, _kind: str) -> float:
    """Mean grey level."""
    return float(cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY).mean())


def darkest_place(tile: Tile, _mask: Tile | None, _kind: str) -> float:
    """Median grey level less that of the darkest of 16 x 16 cells: what one threshold on darkness goes by."""
    grey = cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA)
    return float(np.median(grey) - cells.min())


def line_strength(tile: Tile, _mask: Tile | None, _kind: str) -> float:
    """How much darker than its surroundings the most line-like thing is (99th percentile of the black top-hat)."""
    grey = cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11))
    return float(np.percentile(cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel), 99))


def is_joint(_tile: Tile, _mask: Tile | None, kind: str) -> float:
    """1 for a tile with a joint, else 0."""
    return float(kind == "joint")


_SHARPNESS: Final = "sharpness (log10 of the Laplacian's variance in grey levels squared)"

HYPOTHESES: Final = (
    Hypothesis(
        "thin",
        "Cracks marked thinner are missed more",
        "mean width of the mask, on UAV75 (all marked a pixel wide) the zoom (px)",
        "missed",
        more=False,
        needs_mask=True,
        quantity=crack_width_px,
    ),
    Hypothesis(
        "pale",
        "Pale cracks are missed more",
        "crack darker than its surroundings by (grey levels)",
        "missed",
        more=False,
        needs_mask=True,
        quantity=crack_contrast,
    ),
    Hypothesis(
        "short",
        "Short cracks are missed more",
        "length of the crack (blocks of a 14 x 14 grid)",
        "missed",
        more=False,
        needs_mask=True,
        quantity=crack_blocks,
    ),
    Hypothesis(
        "soft",
        "Cracks in soft pictures are missed more",
        _SHARPNESS,
        "missed",
        more=False,
        needs_mask=False,
        quantity=sharpness,
    ),
    Hypothesis(
        "dark",
        "Cracks in dark pictures are missed more",
        "brightness (mean grey level, 0 to 255)",
        "missed",
        more=False,
        needs_mask=False,
        quantity=level,
    ),
    Hypothesis(
        "joint",
        "False alarms come from joints",
        "joint in the tile (1) or none (0)",
        "false alarm",
        more=True,
        needs_mask=False,
        quantity=is_joint,
    ),
    Hypothesis(
        "line",
        "False alarms come from dark lines",
        "darkest line against its surroundings (grey levels)",
        "false alarm",
        more=True,
        needs_mask=False,
        quantity=line_strength,
    ),
    Hypothesis(
        "hole",
        "False alarms come from dark places",
        "darkest place against the median (grey levels)",
        "false alarm",
        more=True,
        needs_mask=False,
        quantity=darkest_place,
    ),
    Hypothesis(
        "rough",
        "False alarms come from rough, sharp surfaces",
        _SHARPNESS,
        "false alarm",
        more=True,
        needs_mask=False,
        quantity=sharpness,
    ),
)


def put_to_test(
    hypothesis: Hypothesis,
    tiles: EvaluationSet,
    scored: Scored,
    threshold_logit: float,
    *,
    where_name: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tested | None:
    """Test one guess on one set.

    Args:
        hypothesis: the guess.
        tiles: the set; the same tiles in the same order as `scored`.
        scored: logits of the model.
        threshold_logit: a tile is called a crack from here on.
        where_name: what the set is called in results, for example with its part; empty takes its name.
        resamples: of the bootstrap by photograph.
        seed: of the bootstrap.

    Returns:
        None where the set cannot say anything: no tile of that class, or no masks.
    """
    of_class = tiles.labels if hypothesis.of == "missed" else ~tiles.labels
    if not of_class.any() or (hypothesis.needs_mask and tiles.masks is None):
        return None
    where = np.flatnonzero(of_class)
    values = np.array(
        [
            hypothesis.quantity(tiles.tiles[i], None if tiles.masks is None else tiles.masks[i], tiles.kinds[i])
            for i in where
        ]
    )
    if len(np.unique(values)) < 2:
        return None
    wrong = (scored.logits[where] >= threshold_logit) != tiles.labels[where]
    groups = [tiles.groups[i] for i in where]
    enough = min(int(wrong.sum()), int((~wrong).sum())) >= MIN_ERRORS
    effect = (
        bootstrap_by_group(
            lambda weights: auroc(values, wrong, weights),
            groups,
            photographs=min(photographs_of(groups, wrong), photographs_of(groups, ~wrong)),
            resamples=resamples,
            seed=seed,
        )
        if enough
        else Estimate(float("nan"), float("nan"), float("nan"))
    )
    return Tested(
        set=where_name or tiles.name,
        name=hypothesis.name,
        statement=hypothesis.statement,
        measured=hypothesis.measured,
        of=hypothesis.of,
        wrong=int(wrong.sum()),
        right=int((~wrong).sum()),
        median_wrong=float(np.median(values[wrong])) if wrong.any() else float("nan"),
        median_right=float(np.median(values[~wrong])) if (~wrong).any() else float("nan"),
        effect=effect,
        verdict=_verdict(effect, more=hypothesis.more) if enough else "too few errors",
    )


def _verdict(effect: Estimate, *, more: bool) -> Verdict:
    if not (effect.low > 0.5 or effect.high < 0.5):  # also where the interval is not known
        return "undecided"
    return "supported" if (effect.low > 0.5) == more else "refuted"


def draw_effects(tested: Sequence[Tested], path: Path) -> None:
    """Draw the effects with their intervals, one row for each guess and set."""
    rows = [item for item in tested if item.verdict != "too few errors"]
    colours = {"supported": "#D55E00", "refuted": "#0072B2", "undecided": "#999999"}
    with figure(path, width_in=7, height_in=1.2 + 0.28 * max(1, len(rows))) as drawn:
        axes = drawn.subplots()
        for place, item in enumerate(reversed(rows)):
            low, high = item.effect.value - item.effect.low, item.effect.high - item.effect.value
            reach = [[max(0, low)], [max(0, high)]]
            axes.errorbar([item.effect.value], [place], xerr=reach, fmt="o", ms=4, color=colours[item.verdict])
        axes.axvline(0.5, color="black", lw=0.8)
        axes.set_yticks(range(len(rows)), [f"{item.statement} ({item.set})" for item in reversed(rows)])
        axes.set_xlim(0, 1)
        axes.set_xlabel("chance that a wrong tile has more of it")


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
