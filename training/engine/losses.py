"""What is minimised: the tile's label, and where masks say so the label of each cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.data.mixture import UNKNOWN_CELLS
from training.data.sources import CRACK


def tile_loss(logits: Tensor, labels: Tensor, *, pos_weight: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy of tiles.

    Args:
        logits: float [N].
        labels: float [N], 0 or 1.
        pos_weight: weight of the cracks.
        smoothing: s moves the labels to s/2 and 1 - s/2.

    Returns:
        The mean, a scalar.
    """
    soft = labels * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=torch.tensor(pos_weight))


def cell_targets(cracks: Tensor, labels: Tensor, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Label each cell by the crack pixels in it.

    Args:
        cracks: uint8 [N, S, S]: 255 crack, 0 none, `UNKNOWN_CELLS` unknown.
        labels: float [N].
        cells: (h, w) of the feature map.

    Returns:
        targets and weights, float [N, h, w]: 1 where a crack passes; weight 0 where nobody knows. In a cracked tile,
        cells next to a crack have weight 0 if they are not cracked themselves: masks are a pixel or two off.
    """
    marked = (cracks == CRACK).to(torch.float32).unsqueeze(1)
    targets = functional.adaptive_max_pool2d(marked, cells)
    near = functional.max_pool2d(targets, kernel_size=3, stride=1, padding=1)
    known = (cracks[:, 0, 0] != UNKNOWN_CELLS).to(torch.float32)[:, None, None, None]
    weights = known * (1 - (near - targets))
    return targets.squeeze(1), weights.squeeze(1).expand(len(labels), *cells)


def cell_loss(cells: Tensor, targets: Tensor, weights: Tensor, *, pos_weight: float) -> Tensor:
    """Binary cross entropy of cells [N, h, w], averaged over the weights; 0 if nothing is known."""
    loss = functional.binary_cross_entropy_with_logits(
        cells, targets, weight=weights, pos_weight=torch.tensor(pos_weight), reduction="sum"
    )
    return loss / weights.sum().clamp(min=1.0)
