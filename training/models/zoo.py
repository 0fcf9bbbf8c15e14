"""Which known architectures serve as a baseline, and where do their ImageNet weights come from?

Each is torchvision's feature extractor with the same head: a linear layer on every cell, averaged. That is "global
average pooling, dropout, linear" in another order. ImageNet's scaling is folded into the first convolution; the fold is
exact except within the border that the convolution pads, where zero means another grey level.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.vgg import cfgs, make_layers

from training.models.base import CellClassifier, Pooling
from training.models.scaling import fold_imagenet
from training.models.weights import read_weights


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
        ValueError: it holds no weights, or those of another network.
    """
    network = torchvision_models.mobilenet_v2(weights=None)
    if pretrained is not None:
        state = _imagenet_state(pretrained, torchvision_models.MobileNet_V2_Weights.IMAGENET1K_V1)
        _fold_into_batch_norm(state, "features.0.0.weight", "features.0.1.running_mean")
        network.load_state_dict(state)
    return CellClassifier(
        network.features, network.last_channel, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness
    )


def resnet18(
    *, dropout: float = 0.0, pooling: Pooling = "mean", lse_sharpness: float = 1.0, pretrained: str | None = None
) -> CellClassifier:
    """Build ResNet-18 with one linear logit: 11,177,025 parameters; arguments and errors as for `mobilenetv2`."""
    network = torchvision_models.resnet18(weights=None)
    if pretrained is not None:
        state = _imagenet_state(pretrained, torchvision_models.ResNet18_Weights.IMAGENET1K_V1)
        _fold_into_batch_norm(state, "conv1.weight", "bn1.running_mean")
        network.load_state_dict(state)
    channels = network.fc.in_features
    features = nn.Sequential(*(module for name, module in network.named_children() if name not in {"avgpool", "fc"}))
    return CellClassifier(features, channels, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness)


def efficientnet_b0(
    *, dropout: float = 0.2, pooling: Pooling = "mean", lse_sharpness: float = 1.0, pretrained: str | None = None
) -> CellClassifier:
    """Build EfficientNet-B0 with one linear logit: 4,008,829 parameters; arguments and errors as for `mobilenetv2`."""
    network = torchvision_models.efficientnet_b0(weights=None)
    if pretrained is not None:
        state = _imagenet_state(pretrained, torchvision_models.EfficientNet_B0_Weights.IMAGENET1K_V1)
        _fold_into_batch_norm(state, "features.0.0.weight", "features.0.1.running_mean")
        network.load_state_dict(state)
    channels = network.features[-1][0].out_channels
    return CellClassifier(network.features, channels, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness)


def vgg16(
    *, dropout: float = 0.5, pooling: Pooling = "mean", lse_sharpness: float = 1.0, pretrained: str | None = None
) -> CellClassifier:
    """Build VGG-16's thirteen convolutions with one linear logit: 14,715,201 parameters.

    The published network ends in three fully connected layers that hold 124 of its 138 million parameters and fix the
    size of its input. Here the linear head of the other models takes their place. Arguments and errors as for
    `mobilenetv2`; without batch norm the shift of the fold goes into the bias of the first convolution.
    """
    # torchvision's builder would also draw the 124 million numbers of the layers that are not used
    features = make_layers(cfgs["D"])
    for module in features.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    if pretrained is not None:
        state = _imagenet_state(pretrained, torchvision_models.VGG16_Weights.IMAGENET1K_V1)
        theirs = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        theirs["0.weight"], shift = fold_imagenet(theirs["0.weight"])
        theirs["0.bias"] = theirs["0.bias"] + shift
        features.load_state_dict(theirs)
    return CellClassifier(features, 512, dropout=dropout, pooling=pooling, lse_sharpness=lse_sharpness)


BUILDERS: Final[dict[str, Callable[..., CellClassifier]]] = {
    "mobilenetv2": mobilenetv2,
    "resnet18": resnet18,
    "efficientnet-b0": efficientnet_b0,
    "vgg16": vgg16,
}


def _imagenet_state(pretrained: str, weights: torchvision_models.WeightsEnum) -> dict[str, Tensor]:
    if pretrained == "torchvision":
        # the names of torchvision's files carry the beginning of their SHA-256
        downloaded: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        return downloaded
    state = read_weights(Path(pretrained), otherwise="'torchvision' to download them")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _fold_into_batch_norm(state: dict[str, Tensor], weight_key: str, mean_key: str) -> None:
    """Fold ImageNet's scaling and channel order into the first convolution and the batch norm behind it."""
    weight, shift = fold_imagenet(state[weight_key])
    state[weight_key] = weight
    state[mean_key] = state[mean_key] - shift


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """Return the convolution that meets the picture."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise ValueError("the model has no convolution")
