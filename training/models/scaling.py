"""What does a pixel value become before the first convolution?

One scalar mean and one scalar standard deviation serve all three channels, so the uint8 picture itself is the quantised
tensor (scale 1/64, zero point 127): an int8 model needs no arithmetic before its first convolution, and the value that
pads a border (zero after scaling) is exactly the grey level 127.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

MEAN: Final = 127.0
"""Grey level (0..255) that becomes zero."""

STD: Final = 64.0
"""Grey levels per unit."""

IMAGENET_MEAN_RGB: Final = (0.485, 0.456, 0.406)
"""Mean of the pictures (0..1, RGB) that the ImageNet weights expect (torchvision)."""

IMAGENET_STD_RGB: Final = (0.229, 0.224, 0.225)
"""Standard deviation (0..1, RGB) that the ImageNet weights expect (torchvision)."""


def scale(tiles: Tensor) -> Tensor:
    """Scale tiles of grey levels to what the networks see.

    Args:
        tiles: [N, 3, H, W], BGR, 0..255, uint8 or float.

    Returns:
        float32 [N, 3, H, W], ``(tiles - 127) / 64``; the memory layout is kept.
    """
    return (tiles.to(torch.float32) - MEAN) * (1.0 / STD)


def fold_imagenet(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rewrite an ImageNet first convolution (RGB, mean and std per channel) for BGR tiles scaled by `scale`.

    With v a grey level and y = (v - 127) / 64, torchvision's input is ``(v / 255 - m) / s = a * y + b`` with
    ``a = 64 / (255 s)`` and ``b = (127 / 255 - m) / s``. The factor goes into the weights; the constant becomes a
    shift of each output, which the batch norm that follows must subtract from its running mean.

    Args:
        weight: [O, 3, k, k], channels RGB.

    Returns:
        The new weight [O, 3, k, k], channels BGR, and the shift [O] that the old convolution would have added.
    """
    mean = torch.tensor(IMAGENET_MEAN_RGB, dtype=weight.dtype)
    std = torch.tensor(IMAGENET_STD_RGB, dtype=weight.dtype)
    factor = STD / (255.0 * std)
    constant = (MEAN / 255.0 - mean) / std
    shift = (weight.sum(dim=(2, 3)) * constant).sum(dim=1)
    return (weight * factor[None, :, None, None]).flip(1).contiguous(), shift
