"""How can a network that ends in coarse cells say more finely where a crack is? By a neck, as in a feature pyramid.

Lin et al. 2017, "Feature Pyramid Networks for Object Detection": what the last layers understand is laid over what
earlier layers, with smaller cells, still see. A crack of a few pixels is lost in a cell of 32 px and not in one of 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from torch import Tensor, nn

WIDTH: Final = 128


class Pyramid(nn.Module):
    """A backbone whose coarse features are laid over finer ones.

    Args:
        stages: parts of the backbone, one after the other; each halves the side of its input's cells but the first.
        channels: of the output of each stage.
        width: channels of the result.
    """

    def __init__(self, stages: Sequence[nn.Sequential], channels: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(_convolution(count, width, 1) for count in channels)
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.join = nn.ReLU6(inplace=True)
        self.mend = nn.Sequential(
            _convolution(width, width, 3, groups=width),
            nn.ReLU6(inplace=True),
            _convolution(width, width, 1),
            nn.ReLU6(inplace=True),
        )

    def forward(self, tiles: Tensor) -> Tensor:
        """Map scaled tiles [N, 3, H, W] to features [N, width, h, w], the cells of the first stage."""
        levels = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            tiles = stage(tiles)
            levels.append(lateral(tiles))
        merged = levels.pop()
        while levels:
            merged = levels.pop() + self.enlarge(merged)
        features: Tensor = self.mend(self.join(merged))
        return features


Ends = Mapping[int, Sequence[int]]
"""By the side of the cells in pixels: where a backbone is cut, so that each part but the first halves the grid; nothing
where it stays whole."""


def with_cells(features: nn.Sequential, channels: int, ends: Ends, cell_px: int) -> tuple[nn.Module, int]:
    """Give a backbone finer cells.

    Args:
        features: the backbone.
        channels: of its output.
        ends: see there.
        cell_px: a key of `ends`.

    Returns:
        What gives features with cells of `cell_px`, and their channels: the backbone itself where it need not be cut.

    Raises:
        ValueError: `cell_px` is no key of `ends`.
    """
    if cell_px not in ends:
        raise ValueError(f"cell_px must be one of {sorted(ends)}, found {cell_px}")
    if not ends[cell_px]:
        return features, channels
    stages = split_at(features, ends[cell_px])
    return Pyramid(stages, [_channels(stage) for stage in stages]), WIDTH


def split_at(features: nn.Sequential, ends: Sequence[int]) -> list[nn.Sequential]:
    """Cut a backbone into parts that end before each of `ends`."""
    return [features[start:end] for start, end in pairwise((0, *ends))]


def _channels(stage: nn.Sequential) -> int:
    return [module.num_features for module in stage.modules() if isinstance(module, nn.BatchNorm2d)][-1]


def _convolution(given: int, wanted: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, wanted, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(wanted)
    )
