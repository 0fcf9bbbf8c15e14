from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.distributions import Bernoulli, kl_divergence

from training.config import LossConfig
from training.data.mixture import UNKNOWN_CELLS
from training.data.sources import CRACK, JOINT
from training.engine.losses import (
    cell_loss,
    cell_targets,
    distillation_loss,
    focal_loss,
    joint_tiles,
    tile_loss,
)

pytestmark = pytest.mark.training

logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=8)


def test_tile_loss_weighs_cracks_and_smooths_labels() -> None:
    logits, labels = torch.tensor([0.0]), torch.tensor([1.0])
    assert float(tile_loss(logits, labels, pos_weight=3.0)) == pytest.approx(3 * math.log(2))
    sure = torch.tensor([20.0])
    assert float(tile_loss(sure, labels, smoothing=0.1)) == pytest.approx(1.0, abs=1e-3)


@given(logit_lists, st.floats(0.1, 5), st.floats(0, 0.4))
def test_focal_loss_without_focus_is_cross_entropy(values: list[float], pos_weight: float, smoothing: float) -> None:
    logits = torch.tensor(values)
    labels = (torch.arange(len(values)) % 2).float()
    plain = tile_loss(logits, labels, pos_weight=pos_weight, smoothing=smoothing)
    focal = focal_loss(logits, labels, gamma=0.0, pos_weight=pos_weight, smoothing=smoothing)
    assert float(focal) == pytest.approx(float(plain), rel=1e-4, abs=1e-6)


def test_focal_loss_is_the_published_formula() -> None:
    probability = 0.9
    logits = torch.tensor([math.log(probability / (1 - probability))] * 2)
    labels = torch.tensor([1.0, 0.0])
    right = -0.25 * (1 - probability) ** 2 * math.log(probability)
    wrong = -0.75 * probability**2 * math.log(1 - probability)
    assert float(focal_loss(logits, labels, gamma=2.0, alpha=0.25)) == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_focal_loss_of_sure_answers_has_finite_gradients() -> None:
    logits = torch.tensor([-200.0, 200.0, 200.0, -200.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(focal_loss(logits, torch.tensor([1.0, 0.0, 1.0, 0.0]), gamma=2.0), logits)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_gradients_of_focal_loss_are_those_of_double_precision(gamma: float) -> None:
    values = [-100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0]
    labels = torch.tensor([1.0, 0.0]).repeat_interleave(len(values))
    found = {}
    for kind in (torch.float32, torch.float64):
        logits = torch.tensor(values * 2, dtype=kind, requires_grad=True)
        (found[kind],) = torch.autograd.grad(focal_loss(logits, labels.to(kind), gamma=gamma), logits)
    assert torch.isfinite(found[torch.float32]).all()
    torch.testing.assert_close(found[torch.float32].double(), found[torch.float64], rtol=1e-4, atol=1e-8)


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=8))
def test_focal_loss_is_the_power_of_what_is_missing(values: list[float]) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    crack = logits.sigmoid()
    expected = -((1 - crack) ** 2) * crack.log()
    assert float(focal_loss(logits, torch.ones_like(logits), gamma=2.0)) == pytest.approx(float(expected.mean()))


@given(logit_lists, st.floats(0.5, 8))
def test_distillation_is_the_divergence_of_the_softened_answers(values: list[float], temperature: float) -> None:
    teacher = torch.tensor(values, dtype=torch.float64)
    student = teacher.flip(0) * 0.5 + 0.3
    expected = kl_divergence(Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature)).mean()
    found = distillation_loss(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * float(expected), rel=1e-6, abs=1e-9)
    assert float(found) >= 0


def test_a_student_that_agrees_has_nothing_to_learn_from_its_teacher() -> None:
    logits = torch.tensor([-3.0, 0.5, 4.0], requires_grad=True)
    loss = distillation_loss(logits, logits.detach(), temperature=2.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-7)
    assert gradient.abs().max() < 1e-6


def test_gradients_of_distillation_keep_their_size_whatever_the_temperature() -> None:
    sizes = []
    for temperature in (10.0, 40.0):
        logits = torch.tensor([1.0], requires_grad=True)
        loss = distillation_loss(logits, torch.tensor([3.0]), temperature=temperature)
        sizes.append(float(torch.autograd.grad(loss, logits)[0].abs()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_cells_are_labelled_by_the_cracks_in_them() -> None:
    cracks = torch.zeros(3, 64, 64, dtype=torch.uint8)
    cracks[0, 5, :20] = CRACK
    cracks[1] = UNKNOWN_CELLS
    targets, weights = cell_targets(cracks, torch.tensor([1.0, 1.0, 0.0]), (4, 4))
    assert targets[0].tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert weights[0].tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [1] * 4, [1] * 4]
    assert float(weights[1].sum()) == 0
    assert float(weights[2].sum()) == 16


def test_joints_count_where_there_is_no_crack() -> None:
    cracks = torch.zeros(3, 64, 64, dtype=torch.uint8)
    cracks[:2, 40, :] = JOINT
    cracks[0, 5, :20] = CRACK
    labels = torch.tensor([1.0, 0.0, 0.0])
    assert joint_tiles(cracks, labels).tolist() == [False, True, False]
    targets, weights = cell_targets(cracks, labels, (4, 4), joint_weight=3.0)
    assert targets[1].sum() == 0
    assert weights[0].tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [3] * 4, [1] * 4]
    assert weights[1].tolist() == [[1] * 4, [1] * 4, [3] * 4, [1] * 4]
    assert float(weights[2].sum()) == 16


@pytest.mark.parametrize("loss", [tile_loss, lambda *args, **kwargs: focal_loss(*args, gamma=2.0, **kwargs)])
def test_a_tile_counts_by_its_weight(loss: Callable[..., torch.Tensor]) -> None:
    logits, labels = torch.tensor([1.0, -0.5]), torch.tensor([0.0, 1.0])
    alone = [float(loss(logits[[row]], labels[[row]])) for row in (0, 1)]
    found = loss(logits, labels, weights=torch.tensor([3.0, 1.0]))
    assert float(found) == pytest.approx((3 * alone[0] + alone[1]) / 2, rel=1e-5)


def test_a_teacher_is_heeded_tile_by_tile() -> None:
    student, teacher = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    found = distillation_loss(student, teacher, temperature=2.0, weights=torch.tensor([1.0, 0.0, 1.0]))
    heeded = distillation_loss(student[[0, 2]], teacher[[0, 2]], temperature=2.0)
    assert float(found) == pytest.approx(2 / 3 * float(heeded), rel=1e-5)


def test_cell_loss_is_zero_where_nothing_is_known() -> None:
    nothing = torch.zeros(2, 4, 4)
    assert float(cell_loss(torch.randn(2, 4, 4), nothing, nothing, pos_weight=3.0)) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "hinge"},
        {"focal_alpha": 1.0},
        {"focal_gamma": -1},
        {"teacher_temperature": 0},
        {"joint_weight": 0},
        {"label_smoothing": 0.5},
    ],
)
def test_impossible_losses_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        LossConfig.model_validate(wrong)
