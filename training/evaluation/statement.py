"""What do the numbers support, and what not? Plain sentences that are computed from the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import beta

from training.evaluation.evaluate import JUDGED, Role
from training.evaluation.threshold import Scored

CONFIDENCE: Final = 0.95
CLAIMS: Final = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999)
"""Recalls of which it is said whether they are supported."""
WANTED: Final = 0.999
FEW_PHOTOGRAPHS: Final = 20
WIDE: Final = 0.10
"""A set whose bound lies this far below the measured rate is called too small."""


def supported(misses: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The largest rate that `misses` in `total` independent trials support: the one-sided Clopper-Pearson bound.

    Raises:
        ValueError: `misses` is not between 0 and `total`.
    """
    if not 0 <= misses <= total:
        raise ValueError(f"misses must be from 0 to total: {misses} of {total}")
    return 0.0 if misses == total else float(beta.ppf(1 - confidence, total - misses, misses + 1))


def needed(wanted: float, misses: int = 0, confidence: float = CONFIDENCE) -> int:
    """The least number of trials with so many misses that supports a rate."""
    if misses == 0:
        low = math.ceil(math.log(1 - confidence) / math.log(wanted) - 1e-9)
        return max(1, low)
    low, high = misses + 1, misses + 2
    while supported(misses, high, confidence) < wanted:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if supported(misses, middle, confidence) >= wanted else (middle + 1, high)
    return low


def most_misses(wanted: float, total: int, confidence: float = CONFIDENCE) -> int | None:
    """How many misses in `total` still support a rate; None if not even none does."""
    if supported(0, total, confidence) < wanted:
        return None
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if supported(middle, total, confidence) >= wanted else (low, middle - 1)
    return low


@dataclass(frozen=True, slots=True)
class Support:
    """What one class of one set supports.

    Attributes:
        key: the set.
        role: of the set.
        kind: "recall" or "specificity".
        wrong: tiles judged wrongly.
        tiles: of the class.
        photographs: that they come from.
        photographs_wrong: with at least one tile judged wrongly.
        by_tile: largest rate that is supported if every tile were independent.
        by_photograph: largest share of photographs without any error that is supported; tiles of one photograph fail
            together, so this is the claim that does not pretend to more than there is.
        traces: how many of the tiles show a mere trace of their crack (`training.data.dataset.CRACKED`).
    """

    key: str
    role: Role
    kind: str
    wrong: int
    tiles: int
    photographs: int
    photographs_wrong: int
    by_tile: float
    by_photograph: float
    traces: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "set": self.key,
            "role": self.role,
            "kind": self.kind,
            "wrong": self.wrong,
            "tiles": self.tiles,
            "photographs": self.photographs,
            "photographs_wrong": self.photographs_wrong,
            "supported_by_tile": round(self.by_tile, 6),
            "supported_by_photograph": round(self.by_photograph, 6),
            "traces": self.traces,
        }


def supports(key: str, role: Role, item: Scored, threshold_logit: float) -> list[Support]:
    """What a scored set supports at a threshold, for each class that it has."""
    found = []
    wrong = (item.logits >= threshold_logit) != item.labels
    groups = np.asarray(item.groups, dtype=str)
    for kind, of in (("recall", item.labels), ("specificity", ~item.labels)):
        if not of.any():
            continue
        photographs = len(np.unique(groups[of]))
        spoiled = len(np.unique(groups[of & wrong]))
        misses, tiles = int((of & wrong).sum()), int(of.sum())
        found.append(
            Support(
                key,
                role,
                kind,
                misses,
                tiles,
                photographs,
                spoiled,
                supported(misses, tiles),
                supported(spoiled, photographs),
                int((of & item.of_kind("trace")).sum()),
            )
        )
    return found


def statement(found: Sequence[Support], *, threshold: str, calibration: str, limit: int | None = None) -> list[str]:
    """Whole sentences: what is supported, what is not, and what decided what.

    Args:
        found: of all sets.
        threshold: how the threshold was chosen, a sentence.
        calibration: what came of it, a sentence.
        limit: at most so many tiles of each set were used.
    """
    text = []
    if limit is not None:
        text.append(f"A trial: at most {limit} tiles of each set were used. Nothing here is a result.")
    text.append(threshold)
    decided = _keys_of("validation", found)
    if decided:
        text.append(
            f"{_and(decided)} chose the moment of training, the threshold and the calibration, so their figures are "
            "somewhat too good and support nothing below. Test sets chose none of these; external sets were never "
            "trained on."
        )
    drawn = _keys_of("drawn", found)
    if drawn:
        text.append(
            f"{_and(drawn)} {'is' if len(drawn) == 1 else 'are'} drawn, not photographed: that tells networks apart "
            "and supports nothing about a real structure."
        )
    published = _keys_of("published", found)
    if published:
        text.append(
            f"{_and(published)} {'is a validation set' if len(published) == 1 else 'are validation sets'} once more, "
            "by the published masks alone: they leave cracks out, and a network that finds these is charged with false "
            "alarms. The figures are there to be compared with what others report."
        )
    traces = [f"{item.key} ({item.traces} of {item.tiles:,})" for item in found if item.traces]
    if traces:
        text.append(
            f"Of the cracked pictures of {_and(traces)} the mask shows no more than a trace. They count in every "
            "recall; where bars choose the threshold they have no say."
        )
    judged = [item for item in found if item.role in JUDGED]
    text += [_sentence(item) for item in judged if item.kind == "recall"]
    text += _largest_claim(judged)
    text += [_sentence(item) for item in judged if item.kind == "specificity"]
    text += _too_small(judged)
    text += _missing(judged)
    text += _rare(judged)
    text.append(calibration)
    text.append(
        "All this holds for tiles like those of the sets. No set shows a bridge pier in service as a drone sees it; "
        "what other concrete, light and cameras do to these figures is not measured here."
    )
    return text


def _keys_of(role: Role, found: Sequence[Support]) -> list[str]:
    return sorted({item.key for item in found if item.role == role})


def _sentence(item: Support) -> str:
    thing = "cracked tiles" if item.kind == "recall" else "sound tiles"
    error = ("misses" if item.wrong != 1 else "miss") if item.kind == "recall" else "false alarms"
    if item.kind == "specificity" and item.wrong == 1:
        error = "false alarm"
    claims = [claim for claim in CLAIMS if item.by_tile >= claim]
    round_claim = f", so {100 * claims[-1]:g} % can be claimed" if claims else ""
    return (
        f"{item.key}: {item.wrong:,} {error} in {item.tiles:,} {thing} support a {item.kind} of "
        f"{_percent(item.by_tile)} at 95 % if tiles were independent{round_claim}. They come from "
        f"{item.photographs:,} photographs, {item.photographs_wrong:,} of them with an error: at 95 % at least "
        f"{_percent(item.by_photograph)} of such photographs are without one."
    )


def _largest_claim(judged: Sequence[Support]) -> list[str]:
    recalls = [item for item in judged if item.kind == "recall"]
    if not recalls:
        return []
    best = max(recalls, key=lambda item: item.by_tile)
    enough = best.by_tile >= WANTED
    verdict = "it is" if enough else "it is not"
    text = (
        f"The largest recall that any set supports is {_percent(best.by_tile)} ({best.key}). For {100 * WANTED:g} % to "
        f"be supported ({verdict}) there would have to be no miss in {needed(WANTED):,} independent cracks, or at most "
        f"{most_misses(WANTED, 20000)} in 20,000."
    )
    if not enough:
        allowed = most_misses(WANTED, best.tiles)
        size = f"{best.key} has {best.tiles:,}"
        text += (
            f" {size}: too few for it even without a miss."
            if allowed is None
            else f" {size}: at most {allowed} misses would do, there are {best.wrong}."
        )
    return [text]


def _too_small(judged: Sequence[Support]) -> list[str]:
    small = []
    for item in judged:
        rate = 1 - item.wrong / item.tiles
        if item.photographs < FEW_PHOTOGRAPHS:
            small.append(f"{item.key} {item.kind} ({item.photographs} photographs)")
        elif rate - item.by_tile > WIDE:
            small.append(
                f"{item.key} {item.kind} ({item.tiles} tiles, bound {100 * (rate - item.by_tile):.0f} points lower)"
            )
    if not small:
        return []
    return [f"Too small to say more than the direction: {_and(small)}."]


def _missing(judged: Sequence[Support]) -> list[str]:
    if not judged:
        return ["No test or external set was evaluated, so nothing is supported: validation figures are no evidence."]
    missing = [kind for kind in ("recall", "specificity") if all(item.kind != kind for item in judged)]
    return [f"No test or external set says anything about {_and(missing)}."] if missing else []


def _rare(judged: Sequence[Support]) -> list[str]:
    """What the rates mean where cracks are rare: measured recall, and as many false alarms as the counts allow."""
    recalls = {item.key: item for item in judged if item.kind == "recall"}
    false_of: dict[str, float] = {}
    for item in judged:
        if item.kind == "specificity" and item.key in recalls:
            recall = recalls[item.key]
            hits, false = 1 * (1 - recall.wrong / recall.tiles), 99 * (1 - item.by_tile)
            false_of[item.key] = false / (hits + false)
    if not false_of:
        return []
    best, worst = min(false_of, key=lambda key: false_of[key]), max(false_of, key=lambda key: false_of[key])
    span = f"{100 * false_of[best]:.0f} ({best})"
    if worst != best:
        span += f" to {100 * false_of[worst]:.0f} ({worst})"
    text = (
        f"Where 1 tile in 100 is cracked, {span} of 100 calls of a single tile may be false, if there are as many "
        "false alarms as the counts allow at 95 %: a call is a reason to look again, not a finding."
    )
    return [text]


def _percent(value: float) -> str:
    """Rounded down: a bound must not grow in print."""
    for digits in (1, 2):
        if value < 1 - 10 ** -(digits + 1):
            return f"{math.floor(value * 10 ** (digits + 2) + 1e-6) / 10**digits:.{digits}f} %"
    return f"{math.floor(value * 1e5 + 1e-6) / 1e3:.3f} %"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
