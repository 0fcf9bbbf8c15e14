"""What is minimised: the tile's label, the teacher's opinion, and where masks say so the label of each cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.data.mixture import UNKNOWN_CELLS
from training.data.omissions import UNSURE
from training.data.sources import CRACK, JOINT


def smoothed(labels: Tensor, smoothing: float) -> Tensor:
    """Move labels [N] of 0 and 1 to s/2 and 1 - s/2 (Szegedy et al. 2016, section 7, with two classes)."""
    return labels * (1 - smoothing) + smoothing / 2


def joint_tiles(cracks: Tensor, labels: Tensor) -> Tensor:
    """Tell which sound tiles show a joint that a mask marks.

    Args:
        cracks: uint8 [N, S, S]: `JOINT` where a joint is.
        labels: float [N], 0 or 1.

    Returns:
        bool [N].
    """
    return (cracks == JOINT).flatten(1).any(dim=1) & (labels < 0.5)


def tile_loss(
    logits: Tensor, labels: Tensor, *, pos_weight: float = 1.0, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Binary cross entropy of tiles.

    Args:
        logits: float [N].
        labels: float [N], 0 or 1.
        pos_weight: weight of the cracks.
        smoothing: s moves the labels to s/2 and 1 - s/2.
        weights: float [N], of each tile; None: all 1.

    Returns:
        The sum over the tiles, each times its weight, divided by their number; a scalar.
    """
    return functional.binary_cross_entropy_with_logits(
        logits, smoothed(labels, smoothing), weight=weights, pos_weight=logits.new_tensor(pos_weight)
    )


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    alpha: float | None = None,
    pos_weight: float = 1.0,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Focal loss of tiles: cross entropy in which tiles that are already right count less.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5: ``-alpha_t (1 - p_t)^gamma log(p_t)``. With
    gamma 0 and no alpha it is `tile_loss`. Smoothed labels mix the losses of both labels by their share.

    Args:
        logits: float [N].
        labels: float [N], 0 or 1.
        gamma: how much less easy tiles count; 2 in the paper.
        alpha: weight of the cracks, 1 - alpha of the others; 0.25 in the paper; None: both 1.
        pos_weight: further weight of the cracks.
        smoothing: s moves the labels to s/2 and 1 - s/2.
        weights: float [N], of each tile; None: all 1.

    Returns:
        The sum over the tiles, each times its weight, divided by their number; a scalar.
    """
    crack_weight, sound_weight = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    soft = smoothed(labels, smoothing)
    log_crack, log_sound = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    # 1 - p is exactly 0 for sure answers, where a power below 1 has no gradient; its logarithm stays finite
    if_crack = -(gamma * log_sound).exp() * log_crack
    if_sound = -(gamma * log_crack).exp() * log_sound
    each = pos_weight * crack_weight * soft * if_crack + sound_weight * (1 - soft) * if_sound
    return (each if weights is None else each * weights).mean()


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Compare a student with its teacher, both softened by a temperature.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2, for two classes: the
    Kullback-Leibler divergence of sigmoid(student / T) from sigmoid(teacher / T), times T^2, so that its gradients keep
    their size whatever T is.

    Args:
        logits: the student's, float, of any shape.
        teacher_logits: of the same shape, without gradient.
        temperature: T; large values let small differences of the teacher's certainty count.
        weights: float [N], of each tile with all its cells; None: all 1.

    Returns:
        The mean of all answers, each times its weight, a scalar; 0 if both agree.
    """
    student, teacher = logits / temperature, teacher_logits / temperature
    crack, sound = teacher.sigmoid(), (-teacher).sigmoid()
    divergence = crack * (functional.logsigmoid(teacher) - functional.logsigmoid(student)) + sound * (
        functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    )
    if weights is not None:
        divergence = divergence * weights.reshape(-1, *[1] * (divergence.dim() - 1))
    return divergence.mean() * temperature**2


def cell_targets(
    cracks: Tensor, labels: Tensor, cells: tuple[int, int], *, joint_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Label each cell by the crack pixels in it.

    Args:
        cracks: uint8 [N, S, S]: `CRACK`, `JOINT`, `UNSURE`, 0 none of them, `UNKNOWN_CELLS` unknown.
        labels: float [N].
        cells: (h, w) of the feature map.
        joint_weight: weight of cells with a joint and no crack.

    Returns:
        targets and weights, float [N, h, w]: 1 where a crack passes; weight 0 where nobody knows or is sure. In a
        cracked tile, cells next to a crack have weight 0 if they are not cracked themselves: masks are a pixel or two
        off.
    """

    def touched(value: int) -> Tensor:
        return functional.adaptive_max_pool2d((cracks == value).to(torch.float32).unsqueeze(1), cells)

    targets = touched(CRACK)
    near = functional.max_pool2d(targets, kernel_size=3, stride=1, padding=1)
    known = (cracks[:, 0, 0] != UNKNOWN_CELLS).to(torch.float32)[:, None, None, None]
    weights = known * (1 - (near - targets)) * (1 - touched(UNSURE) * (1 - targets))
    if joint_weight != 1.0:
        weights = weights * (1 + (joint_weight - 1) * touched(JOINT) * (1 - targets))
    return targets.squeeze(1), weights.squeeze(1).expand(len(labels), *cells)


def cell_loss(
    cells: Tensor, targets: Tensor, weights: Tensor, *, pos_weight: float, known: Tensor | None = None
) -> Tensor:
    """Binary cross entropy of cells, averaged over the weights; 0 if nothing is known.

    Args:
        cells: logits, float [N, h, w].
        targets: float [N, h, w], 0 or 1.
        weights: float [N, h, w].
        pos_weight: weight of cracked cells.
        known: what the sum is divided by, if not the sum of these weights (where several processes share a batch).
    """
    loss = functional.binary_cross_entropy_with_logits(
        cells, targets, weight=weights, pos_weight=cells.new_tensor(pos_weight), reduction="sum"
    )
    return loss / (weights.sum().clamp(min=1.0) if known is None else known)
