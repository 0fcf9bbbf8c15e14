from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the [training] extra")

from training.evaluation.evaluate import parse_sets, role_of
from training.evaluation.threshold import (
    SLACK,
    Bar,
    Scored,
    ThresholdError,
    at_threshold,
    bars_for,
    choose,
    for_recall,
    rates_at,
)


def scored(name: str, cracks: list[float], sound: list[float]) -> Scored:
    tiles = len(cracks) + len(sound)
    return Scored(
        name,
        np.array([*cracks, *sound], dtype=np.float64),
        np.array([True] * len(cracks) + [False] * len(sound)),
        ("crack",) * len(cracks) + ("plain",) * len(sound),
        tuple(str(i) for i in range(tiles)),
    )


BARS = (Bar("a", "recall", 0.9), Bar("a", "specificity", 0.9), Bar("b", "recall", 0.5), Bar("b", "plain", 0.9))

logits = st.lists(st.floats(-20, 20), min_size=1, max_size=15)
sets = st.tuples(logits, logits, logits, logits)


def worst_share(items: list[Scored], threshold: float) -> float:
    shares = []
    for bar in BARS:
        for item in items:
            if item.name == bar.set:
                of = item.of_kind(bar.kind)
                right = (item.logits[of] >= threshold) == item.labels[of]
                shares.append((1 - right.mean()) / (1 - bar.wanted))
    return float(max(shares))


@given(sets, st.floats(-25, 25))
def test_no_other_threshold_has_a_smaller_worst_share(
    values: tuple[list[float], list[float], list[float], list[float]], other: float
) -> None:
    items = [scored("a", values[0], values[1]), scored("b", values[2], values[3])]
    everything = np.concatenate([item.logits for item in items])
    if len(np.unique(everything)) < 2:
        return
    chosen = choose(items, BARS)
    inside = everything.min() < other <= everything.max()
    if inside:
        assert worst_share(items, chosen.threshold_logit) <= worst_share(items, other) + SLACK + 1e-6
    assert chosen.worst.used == pytest.approx(worst_share(items, chosen.threshold_logit))


@given(sets, st.floats(-3, 3))
def test_a_shift_of_all_logits_shifts_the_threshold(
    values: tuple[list[float], list[float], list[float], list[float]], shift: float
) -> None:
    rounded = [[round(v, 2) for v in part] for part in values]
    items = [scored("a", rounded[0], rounded[1]), scored("b", rounded[2], rounded[3])]
    if len(np.unique(np.concatenate([item.logits for item in items]))) < 2:
        return
    moved = [Scored(i.name, i.logits + round(shift, 2), i.labels, i.kinds, i.groups) for i in items]
    first, second = choose(items, BARS), choose(moved, BARS)
    assert second.worst.used == pytest.approx(first.worst.used, abs=SLACK)


def test_what_can_be_separated_is_separated_in_the_middle_of_the_gap() -> None:
    chosen = choose([scored("a", [3.0, 4.0], [-5.0, 1.0])], BARS[:2])
    assert chosen.threshold_logit == pytest.approx(2.0)
    assert chosen.worst.used == 0.0
    assert chosen.gap == pytest.approx(2.0)


def test_no_set_pays_for_another() -> None:
    # set a alone would be best served at 0, but then every sound tile of b were called a crack
    a = scored("a", [1.0] * 10, [-1.0] * 10)
    b = scored("b", [5.0] * 10, [0.5] * 10)
    chosen = choose([a, b], BARS)
    assert rates_at(b, chosen.threshold_logit)["specificity"] == 1.0
    assert rates_at(a, chosen.threshold_logit)["recall"] == 1.0
    assert 0.5 < chosen.threshold_logit < 1.0


def test_a_set_scored_twice_counts_twice_and_the_card_shows_the_worse() -> None:
    good = scored("a", [2.0, 2.0], [0.0, 0.0])
    worse = scored("a", [2.0, 0.5], [0.0, 1.0])
    chosen = choose([good, worse], BARS[:2])
    assert len(chosen.results) == 4
    by_bar = {result.bar.kind: result for result in chosen.by_bar()}
    assert len(by_bar) == 2
    assert max(result.used for result in by_bar.values()) == chosen.worst.used


def test_of_equally_good_thresholds_one_is_taken_on_which_the_files_agree() -> None:
    # both files separate the tiles at 0.2 to 1.0; the second rounds one crack from 5.0 to 0.9
    as_float = scored("a", [1.0, 5.0, 6.0], [-1.0, 0.2])
    as_int8 = scored("a", [1.0, 0.9, 6.0], [-1.0, 0.2])
    chosen = choose([as_float, as_int8], [Bar("a", "recall", 0.5), Bar("a", "specificity", 0.5)])
    assert 0.2 < chosen.threshold_logit < 0.9
    assert np.array_equal(as_float.logits >= chosen.threshold_logit, as_int8.logits >= chosen.threshold_logit)


@given(sets, st.floats(-25, 25))
def test_a_threshold_that_is_kept_is_judged_as_a_chosen_one_is(
    values: tuple[list[float], list[float], list[float], list[float]], other: float
) -> None:
    items = [scored("a", values[0], values[1]), scored("b", values[2], values[3])]
    assert at_threshold(items, BARS, other).worst.used == pytest.approx(worst_share(items, other))
    if len(np.unique(np.concatenate([item.logits for item in items]))) > 1:
        chosen = choose(items, BARS)
        assert at_threshold(items, BARS, chosen.threshold_logit) == chosen


def test_a_kept_threshold_says_how_far_the_next_logits_lie_and_needs_a_bar() -> None:
    item = scored("a", [2.0, 5.0], [-3.0])
    assert at_threshold([item], BARS, 1.0).gap == 5.0
    assert at_threshold([item], BARS, 9.0).gap == float("inf")
    with pytest.raises(ThresholdError, match="none of the validation sets has a bar"):
        at_threshold([scored("elsewhere", [1.0], [0.0])], BARS, 0.0)
    with pytest.raises(ThresholdError, match="not finite"):
        at_threshold([scored("a", [np.nan], [0.0])], BARS, 0.0)


def test_a_dearer_bar_pulls_the_threshold_to_its_side() -> None:
    item = scored("a", [0.0, 1.0, 2.0, 3.0], [0.5, -1.0, -2.0, 1.5])
    recall_dear = choose([item], [Bar("a", "recall", 0.9, weight=5.0), Bar("a", "specificity", 0.9)])
    assert rates_at(item, recall_dear.threshold_logit)["recall"] == 1.0
    specificity_dear = choose([item], [Bar("a", "recall", 0.9), Bar("a", "specificity", 0.9, weight=5.0)])
    assert rates_at(item, specificity_dear.threshold_logit)["specificity"] == 1.0


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ([scored("a", [1.0, 2.0], [])], "without"),
        ([scored("c", [1.0], [0.0])], "without"),
        ([scored("a", [1.0], [1.0])], "same logit"),
        ([scored("a", [float("nan")], [1.0])], "not finite"),
    ],
)
def test_nonsense_is_refused(items: list[Scored], what: str) -> None:
    with pytest.raises(ThresholdError, match=what):
        choose(items, BARS)


def test_a_bar_of_one_is_refused() -> None:
    with pytest.raises(ThresholdError, match="between 0 and 1"):
        Bar("a", "recall", 1.0)


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.lists(st.floats(-10, 10), max_size=40), st.floats(0.05, 1)
)
def test_wanted_recall_is_reached_and_no_higher_threshold_reaches_it(
    cracks: list[float], sound: list[float], wanted: float
) -> None:
    item = scored("a", cracks, sound)
    threshold = for_recall(item.logits, item.labels, wanted)
    kept = np.asarray(cracks)
    assert (kept >= threshold).mean() >= wanted - 1e-9
    higher = kept[kept >= threshold].min()
    assert (kept > higher).mean() < wanted


def test_recall_of_nothing_is_refused() -> None:
    with pytest.raises(ThresholdError, match="no crack"):
        for_recall(np.array([1.0]), np.array([False]), 0.9)


def test_every_bundle_has_bars_on_the_validation_sets() -> None:
    small, large = bars_for("opnet-lse"), bars_for("mobilenetv2")
    assert {(bar.set, bar.kind) for bar in small} == {(bar.set, bar.kind) for bar in large}
    assert all(a.wanted <= b.wanted for a, b in zip(small, large, strict=True))
    assert {bar.weight for bar in large if bar.kind in {"recall", "crack"}} == {1.5}
    assert {bar.weight for bar in large if bar.kind not in {"recall", "crack"}} == {1.0}


def test_external_sets_are_never_validation() -> None:
    for name, split in parse_sets([]):
        assert (role_of(name, split) == "external") == (name in {"walls-external", "brickwork-external", "nha12d"})
    assert parse_sets(["uav75"]) == [("uav75", "val"), ("uav75", "published-masks")]
    assert [role_of(*pair) for pair in parse_sets(["uav75"])] == ["validation", "published"]
    assert parse_sets(["metu-ccic/test"]) == [("metu-ccic", "test")]
    with pytest.raises(ValueError, match="unknown set"):
        parse_sets(["nonsense"])
