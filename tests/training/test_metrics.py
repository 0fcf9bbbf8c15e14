from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the [training] extra")
pytest.importorskip("sklearn", reason="needs the [training] extra")

from scipy.stats import binom
from sklearn import metrics as metrics_of

from training.evaluation.calibration import balanced_weights, calibrate, fit, reliability
from training.evaluation.metrics import (
    SetMetrics,
    auprc,
    auroc,
    bootstrap_by_group,
    clopper_pearson,
    f1,
    measure,
    rate,
    share,
)
from training.evaluation.threshold import Scored


@pytest.mark.parametrize("total", [1, 4, 30, 100])
def test_an_interval_holds_every_rate_at_least_95_times_in_100(total: int) -> None:
    ends = np.array([clopper_pearson(hits, total) for hits in range(total + 1)])
    for true in np.linspace(0.001, 0.999, 333):
        held = (ends[:, 0] <= true) & (true <= ends[:, 1])
        assert binom.pmf(np.arange(total + 1), total, true)[held].sum() >= 0.95


def test_all_hits_leave_a_two_sided_bound() -> None:
    assert clopper_pearson(100, 100) == pytest.approx((0.9638, 1.0), abs=5e-5)
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 0.0362), abs=5e-5)


def test_clopper_pearson_known_value() -> None:
    # Clopper and Pearson's table: 8 of 10 at 95 %
    low, high = clopper_pearson(8, 10)
    assert low == pytest.approx(0.4439, abs=1e-4)
    assert high == pytest.approx(0.9748, abs=1e-4)


def test_nothing_measured_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert np.isnan(rate(0, 0).value)
    with pytest.raises(ValueError, match="hits"):
        clopper_pearson(3, 2)


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_interval_holds_the_rate(case: tuple[int, int]) -> None:
    hits, total = case
    found = rate(hits, total)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.integers(0, 2**32 - 1))
def test_areas_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.4
    labels[:2] = True, False
    scores = np.round(rng.normal(size=60) + labels, 1)  # with ties
    weights = rng.integers(0, 4, 60).astype(float)
    weights[:2] = 1
    assert auroc(scores, labels, weights) == pytest.approx(
        metrics_of.roc_auc_score(labels, scores, sample_weight=weights)
    )
    expected = metrics_of.average_precision_score(labels, scores, sample_weight=weights)
    assert auprc(scores, labels, weights) == pytest.approx(expected)
    verdicts = scores > 0.5
    expected = metrics_of.f1_score(labels, verdicts, sample_weight=weights, zero_division=0)
    assert f1(verdicts, labels)(weights) == pytest.approx(expected)


def test_areas_of_one_class_are_undefined() -> None:
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))
    assert np.isnan(auprc(np.array([1.0, 2.0]), np.array([False, False])))


def test_bootstrap_draws_photographs_not_tiles() -> None:
    # 10 photographs of 100 tiles, each wholly right or wholly wrong: as uncertain as 10 tiles, not as 1,000
    groups = [f"photo {i // 100}" for i in range(1000)]
    right = np.array([i // 100 < 8 for i in range(1000)])
    everything = np.ones(1000, dtype=bool)
    by_photograph = bootstrap_by_group(share(right, everything), groups, resamples=400, seed=3)
    by_tile = bootstrap_by_group(share(right, everything), [str(i) for i in range(1000)], resamples=400, seed=3)
    assert by_photograph.value == by_tile.value == pytest.approx(0.8)
    assert by_photograph.high - by_photograph.low > 5 * (by_tile.high - by_tile.low)


def test_bootstrap_repeats_with_its_seed() -> None:
    right = np.arange(50) % 3 > 0
    groups = [str(i % 12) for i in range(50)]
    everything = np.ones(50, dtype=bool)
    first, second = (bootstrap_by_group(share(right, everything), groups, resamples=200, seed=5) for _ in range(2))
    assert first == second


def test_one_photograph_gives_no_interval() -> None:
    found = bootstrap_by_group(share(np.array([True, False]), np.array([True, True])), ["a", "a"])
    assert found.value == 0.5
    assert np.isnan(found.low)


def in_photographs(right: list[float], photographs: int, tiles: int = 12) -> SetMetrics:
    """Cracks of so many photographs, and sound tiles of ten others, of which every second is wholly wrong."""
    labels = np.arange(2 * tiles) < tiles
    logits = np.concatenate([np.resize(right, tiles), np.where(np.arange(tiles) % 2, 1.0, -1.0)])
    groups = [f"c{i % photographs}" for i in range(tiles)] + [f"s{i % 10}" for i in range(tiles)]
    return measure(logits, labels, groups, ["any"] * (2 * tiles), 0.0, resamples=100)


def test_a_rate_of_nothing_but_hits_is_as_sure_as_its_photographs_allow() -> None:
    found = in_photographs([2.0], 4).by_group["recall"]
    assert found.as_list() == pytest.approx([1.0, 0.025 ** (1 / 4), 1.0])
    assert (found.low, found.high) == pytest.approx(clopper_pearson(4, 4))
    none = in_photographs([-2.0], 4).by_group["recall"]
    assert none.as_list() == pytest.approx([0.0, 0.0, 1 - 0.025 ** (1 / 4)])
    # wrong in every photograph alike: nothing varies either
    alike = in_photographs([2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0], 4, 8).by_group["recall"]
    assert alike.low == 0.0
    assert alike.high == pytest.approx(1.0)


def test_two_classes_that_never_mix_are_as_sure_as_the_photographs_of_the_rarer_allow() -> None:
    labels = np.arange(24) < 4
    found = measure(np.where(labels, 1.0, -1.0), labels, [str(i) for i in range(24)], ["any"] * 24, 0.0, resamples=50)
    for key in ("auroc", "auprc", "f1"):
        assert found.by_group[key].as_list() == pytest.approx([1.0, 0.025 ** (1 / 4), 1.0]), key
    assert found.by_group["accuracy"].low == pytest.approx(0.025 ** (1 / 24))


def test_a_class_of_one_photograph_has_no_interval_whatever_the_other_has() -> None:
    found = in_photographs([2.0, -2.0], 1).by_group
    assert found["recall"].value == 0.5
    assert np.isnan([found["recall"].low, found["auroc"].low]).all()
    assert found["specificity"].low < found["specificity"].high


def test_a_difference_that_is_nowhere_has_an_interval_on_both_sides() -> None:
    groups = [str(i) for i in range(4)]
    found = bootstrap_by_group(lambda _weights: 0.0, groups, bounds=(-1.0, 1.0), resamples=10)
    unseen = 1 - 0.025 ** (1 / 4)
    assert found.as_list() == pytest.approx([0.0, -unseen, unseen])


def test_measure_counts_by_hand() -> None:
    logits = np.array([2.0, 1.0, -1.0, -2.0, 0.5, -3.0])
    labels = np.array([True, True, True, False, False, False])
    kinds = ["crack", "crack", "crack", "joint", "joint", "plain"]
    found = measure(logits, labels, list("aabbcc"), kinds, 0.5, resamples=50)
    assert (found.by_tile["recall"].hits, found.by_tile["recall"].total) == (2, 3)
    assert found.by_tile["specificity"].value == pytest.approx(2 / 3)
    assert found.by_tile["accuracy"].value == pytest.approx(4 / 6)
    assert found.by_group["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert {kind: value.hits for kind, value in found.kinds.items()} == {"crack": 2, "joint": 1, "plain": 1}
    by_photograph = found.kinds_by_group
    assert {kind: value.value for kind, value in by_photograph.items()} == {"crack": 2 / 3, "joint": 0.5, "plain": 1.0}
    assert by_photograph["crack"].low < found.kinds["crack"].value < by_photograph["crack"].high
    assert np.isnan(by_photograph["plain"].low)  # of one photograph
    assert found.n_groups == 3


def test_a_set_of_cracks_alone_has_no_specificity() -> None:
    found = measure(np.array([1.0, -1.0]), np.array([True, True]), ["a", "b"], ["crack"] * 2, 0.0, resamples=20)
    assert set(found.by_tile) == {"recall"}
    assert set(found.by_group) == {"recall"}


def _logistic_set(temperature: float, bias: float, seed: int = 0, tiles: int = 3000) -> Scored:
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, tiles)
    labels = rng.random(tiles) < 1 / (1 + np.exp(-true))
    return Scored(
        "s", (true - bias) * temperature, labels, ("crack",) * tiles, tuple(str(i // 3) for i in range(tiles))
    )


def test_calibration_finds_the_temperature_and_bias_that_were_put_in() -> None:
    scored = _logistic_set(3.0, 0.7)
    temperature, bias = fit(scored.logits, scored.labels, np.ones(len(scored.labels)))
    assert temperature == pytest.approx(3.0, rel=0.15)
    assert bias == pytest.approx(0.7, abs=0.15)
    found = calibrate([scored])
    assert found.kept
    assert found.nll_after < found.nll_before


def test_calibration_that_does_not_help_is_not_kept() -> None:
    rng = np.random.default_rng(1)
    # what is learnt on few tiles of noise does not hold on others
    scored = Scored("s", rng.normal(0, 0.02, 12), np.arange(12) % 2 == 0, ("crack",) * 12, tuple("abcdefghijkl"))
    found = calibrate([scored])
    assert not found.kept
    assert (found.temperature, found.bias) == (1.0, 0.0)
    assert found.nll_after >= found.nll_before


def test_classes_weigh_the_same_whatever_the_sets_hold() -> None:
    many = Scored("many", np.zeros(90), np.arange(90) < 10, ("x",) * 90, ("g",) * 90)
    few = Scored("few", np.zeros(5), np.ones(5, dtype=bool), ("x",) * 5, ("g",) * 5)
    weights = balanced_weights([many, few])
    labels = np.concatenate([many.labels, few.labels])
    assert weights[labels].sum() == pytest.approx(weights[~labels].sum()) == pytest.approx(1.0)
    assert weights[90:].sum() == pytest.approx(0.5)


def test_reliability_of_a_perfect_forecast_is_the_diagonal() -> None:
    p = np.repeat([0.05, 0.95], 100)
    labels = np.concatenate([np.arange(100) < 5, np.arange(100) < 95])
    bins = reliability(p, labels, np.ones(200))
    assert [(bin_.tiles, round(bin_.cracks, 2), round(bin_.mean_p, 2)) for bin_ in bins] == [
        (100, 0.05, 0.05),
        (100, 0.95, 0.95),
    ]
