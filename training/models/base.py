"""What do all crack models have in common? A logit for each place, and one for the tile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeGuard, get_args

import torch
from torch import Tensor, nn

from training.models.scaling import scale

Pooling = Literal["mean", "lse"]
POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)


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
        lse_sharpness: r in ``log(mean(exp(r * cells))) / r``, above 0; large values approach the maximum.

    Raises:
        ValueError: `dropout`, `pooling` or `lse_sharpness` is not what it may be.
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
        if pooling not in POOLINGS:
            raise ValueError(f"options.pooling must be {' or '.join(map(repr, POOLINGS))}, found {pooling!r}")
        require_above_0("lse_sharpness", lse_sharpness)
        require_share("dropout", dropout)
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


def require_above_0(option: str, value: object) -> None:
    """Refuse what is not a finite number above 0 (configurations give options of any type).

    Raises:
        ValueError: with the option and what is allowed.
    """
    if not _is_number(value) or value <= 0:
        raise ValueError(f"options.{option} must be a number above 0, found {value!r}")


def require_share(option: str, value: object) -> None:
    """Refuse what is not a number from 0 to 1.

    Raises:
        ValueError: with the option and what is allowed.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"options.{option} must be a number from 0 to 1, found {value!r}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parameter_count(module: nn.Module) -> int:
    """Count the trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
