"""Which known architectures serve as a baseline, and where do their ImageNet weights come from?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from training.models.base import CellClassifier, Pooling
from training.models.scaling import fold_imagenet


def mobilenetv2(
    *, dropout: float = 0.2, pooling: Pooling = "mean", lse_sharpness: float = 1.0, pretrained: str | None = None
) -> CellClassifier:
    """Build MobileNetV2 1.0 with one linear logit: 2,225,153 parameters.

    Args:
        dropout: before the head, 0.2 as in torchvision.
        pooling: "mean" as published.
        lse_sharpness: see `CellClassifier`.
        pretrained: path of an ImageNet state dict with torchvision's keys (any float type), "torchvision" for
            torchvision's own download, None for random weights (a checkpoint will be loaded).

    Raises:
        FileNotFoundError: the file with the weights is not there.
    """
    network = mobilenet_v2(weights=None)
    if pretrained is not None:
        state = _imagenet_state(pretrained)
        _adapt_first_convolution(state)
        network.load_state_dict(state)
    return CellClassifier(
        network.features, network.last_channel, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness
    )


def _imagenet_state(pretrained: str) -> dict[str, Tensor]:
    if pretrained == "torchvision":
        downloaded: dict[str, Tensor] = MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
        return downloaded
    path = Path(pretrained)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: ImageNet weights not found; give their path, or 'torchvision' to download them"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _adapt_first_convolution(state: dict[str, Tensor]) -> None:
    """Fold ImageNet's scaling and channel order into the first convolution and the batch norm behind it."""
    weight, shift = fold_imagenet(state["features.0.0.weight"])
    state["features.0.0.weight"] = weight
    state["features.0.1.running_mean"] = state["features.0.1.running_mean"] - shift


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """Return the convolution that meets the picture."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise ValueError("the model has no convolution")
