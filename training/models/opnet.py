"""What is OPNet? Four plain convolution blocks and one linear logit, 389,633 parameters, as published."""

from __future__ import annotations

from torch import nn

from training.models.base import CellClassifier, Pooling

WIDTHS = (32, 64, 128, 256)
DROPOUT = 0.5


def opnet(
    *, pooling: Pooling = "mean", lse_sharpness: float = 1.0, dropout: float = DROPOUT, width: float = 1.0
) -> CellClassifier:
    """Build OPNet: 4 x (3x3 convolution with bias, batch norm, ReLU, 2x2 max pooling), average, dropout, linear.

    Args:
        pooling: "mean" as published; "lse" is the variant `opnet-lse` with the same convolutions.
        lse_sharpness: see `CellClassifier`.
        dropout: 0.5 as published.
        width: multiplies the channels of all blocks; 1 as published.

    Raises:
        ValueError: `width` is not above 0.
    """
    if width <= 0:
        raise ValueError(f"opnet: width must be above 0, found {width}")
    layers: list[nn.Module] = []
    channels = 3
    for published in WIDTHS:
        wanted = max(1, round(published * width))
        layers += [
            nn.Conv2d(channels, wanted, kernel_size=3, padding=1),
            nn.BatchNorm2d(wanted),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
        channels = wanted
    return CellClassifier(
        nn.Sequential(*layers), channels, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness
    )
