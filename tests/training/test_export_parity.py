from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="needs the [training] extra")

from training.evaluation.threshold import Bar, Scored
from training.export.parity import ParityError, compare, gate


def scored(logits: npt.NDArray[np.float64]) -> list[Scored]:
    labels = np.arange(len(logits)) % 2 == 0
    return [Scored("a", logits.astype(float), labels, ("x",) * len(logits), ("g",) * len(logits))]


BASE = np.where(np.arange(1000) % 2 == 0, 2.0, -2.0)


def flipped(count: int, *, cracks: bool) -> list[Scored]:
    logits = BASE.copy()
    logits[(0 if cracks else 1) : 2 * count : 2] *= -1
    return scored(logits)


@pytest.mark.parametrize(
    ("other", "passes"),
    [
        (scored(BASE), True),
        (scored(BASE + 0.5), True),
        (flipped(1, cracks=True), True),  # 0.2 points of 500 cracks
        (flipped(2, cracks=True), False),  # 0.4 points
        (flipped(5, cracks=False), True),  # 99.5 % agree, recall untouched
        (flipped(6, cracks=False), False),
        (scored(BASE - 5), False),
        (scored(np.full(1000, np.nan)), False),
    ],
)
def test_gate(other: list[Scored], passes: bool) -> None:
    agreement = compare(scored(BASE), other, ("torch", "int8"), 0.0)
    assert agreement.passed == passes
    if passes:
        gate([agreement])
    else:
        with pytest.raises(ParityError, match="torch and int8"):
            gate([agreement])


def test_recall_may_not_change_even_if_few_verdicts_do() -> None:
    # 3 flips each way: recall and specificity stay, 99.4 % agree
    logits = BASE.copy()
    logits[:6] *= -1
    agreement = compare(scored(BASE), scored(logits), ("torch", "int8"), 0.0)
    assert agreement.same_verdict == pytest.approx(0.994)
    assert not agreement.passed


def test_different_tiles_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same tiles"):
        compare(scored(BASE), scored(BASE[:10]), ("torch", "int8"), 0.0)


def test_another_rounding_is_sought_for_rates_with_a_bar_alone_and_not_for_one_tile() -> None:
    from training.export.pipeline import _worst_difference

    bars = [Bar("a", "recall", 0.9), Bar("b", "specificity", 0.9)]
    base = scored(BASE)
    assert _worst_difference(base, flipped(5, cracks=True), 0.0, bars) == pytest.approx(0.01)
    assert _worst_difference(base, flipped(1, cracks=True), 0.0, bars) == 0.0
    assert _worst_difference(base, flipped(5, cracks=False), 0.0, bars) == 0.0  # this set has no bar for sound tiles
