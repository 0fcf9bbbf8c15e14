"""What is OPNet? Four plain convolution blocks and one linear logit, 389,633 parameters, as published.

The variant `opnet-lse` pools by log-sum-exp, and may look around: a cell of the published network sees 46 px, too few
to tell a crack from a joint, the mortar of a brick wall or an edge.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from training.models.base import AddedBlock, CellClassifier, Pooling, require_above_0

WIDTHS = (32, 64, 128, 256)
DROPOUT = 0.5


class Context(AddedBlock):
    """Adds to each cell what its surroundings say: a dilated depthwise 3x3 convolution and a 1x1 convolution.

    The last batch norm starts at zero, so the block starts as the identity and a trained network can be widened by it.

    Args:
        channels: of the features.
        dilation: distance of the cells that are looked at.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(channels)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            last,
        )
        self.end = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, C, h, w], 0 or more, to features of the same shape, 0 or more."""
        widened: Tensor = self.end(features + self.layers(features))
        return widened


def opnet(
    *,
    pooling: Pooling = "mean",
    lse_sharpness: float = 1.0,
    dropout: float = DROPOUT,
    width: float = 1.0,
    context: Sequence[int] = (),
) -> CellClassifier:
    """Build OPNet: 4 x (3x3 convolution with bias, batch norm, ReLU, 2x2 max pooling), average, dropout, linear.

    Args:
        pooling: "mean" as published; "lse" is the variant `opnet-lse` with the same convolutions.
        lse_sharpness: see `CellClassifier`.
        dropout: 0.5 as published.
        width: multiplies the channels of all blocks; 1 as published.
        context: dilations of `Context` blocks behind the convolutions; none as published. (2, 4) let a cell see 238 px
            instead of 46 for 138 k parameters and 4 % more multiplications.

    Raises:
        ValueError: `width` is not a number above 0, a dilation is not a whole number of 1 or more, or as for
            `CellClassifier`.
    """
    require_above_0("width", width)
    listed = isinstance(context, list | tuple)
    if not listed or any(type(dilation) is not int or dilation < 1 for dilation in context):
        raise ValueError(f"options.context must be a list of whole numbers of 1 or more, found {context!r}")
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
    layers += [Context(channels, dilation) for dilation in context]
    return CellClassifier(
        nn.Sequential(*layers), channels, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness
    )
