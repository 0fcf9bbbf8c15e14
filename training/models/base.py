"""What do all crack models have in common? A logit for each place, and one for the tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from training.models.scaling import scale

Pooling = Literal["mean", "lse"]


class AddedBlock(nn.Module):
    """A block that starts as the identity: a checkpoint from before it was added may lack it."""


class CellClassifier(nn.Module):
    """A convolutional network whose linear head is applied to every cell of the last feature map.

    A linear head on globally averaged features is the average of the same head on each cell. So a network "global
    average pooling, dropout, linear" says at no cost *where* it sees a crack, and remains exactly the published one.

    Args:
        backbone: maps scaled tiles [N, 3, H, W] to features [N, C, h, w].
        channels: C.
        dropout: share of feature channels dropped while training. A whole channel is dropped at once, which is the same
            as dropout on the averaged features.
        pooling: how cells become the tile's logit: their mean (as published), or log-sum-exp, which lets a few cells
            that a thin crack fills decide.
        lse_sharpness: r in ``log(mean(exp(r * cells))) / r``; large values approach the maximum.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        *,
        dropout: float,
        pooling: Pooling = "mean",
        lse_sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = channels
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, 1, kernel_size=1)
        self.pooling: Pooling = pooling
        self.lse_sharpness = lse_sharpness

    def start_from(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a network of the same kind, which may lack this one's added blocks.

        Raises:
            RuntimeError: other weights are missing, unknown or of another shape.
        """
        added = tuple(f"{name}." for name, module in self.named_modules() if isinstance(module, AddedBlock))
        mine = self.state_dict()
        kept = {key: value for key, value in mine.items() if key not in state and key.startswith(added)}
        self.load_state_dict({**kept, **state})

    def features(self, tiles: Tensor) -> Tensor:
        """Map tiles [N, 3, H, W] (BGR, 0..255, uint8 or float) to the last feature map [N, C, h, w]."""
        maps: Tensor = self.backbone(scale(tiles))
        return maps

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn features [N, C, h, w] into the logit [N] and the cells [N, h, w]."""
        cells: Tensor = self.head(self.dropout(features)).squeeze(1)
        return self.pool(cells), cells

    def pool(self, cells: Tensor) -> Tensor:
        """Turn cells [N, h, w] into the tile's logit [N]."""
        flat = cells.flatten(1)
        if self.pooling == "mean":
            return flat.mean(dim=1)
        sharpness = self.lse_sharpness
        return (torch.logsumexp(flat * sharpness, dim=1) - torch.log(torch.tensor(float(flat.shape[1])))) / sharpness

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Classify tiles.

        Args:
            tiles: [N, 3, H, W], BGR, 0..255, uint8 or float; H and W multiples of 32.

        Returns:
            logit [N] (positive means crack at p > 0.5) and cells [N, h, w]; with mean pooling ``logit ==
            cells.mean()``.
        """
        return self.classify(self.features(tiles))


def parameter_count(module: nn.Module) -> int:
    """Count the trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
