"""Where does a model see what it calls a crack? Three maps of a tile, and the same maps of a net that knows nothing.

* **Cells**: the net's own logit of each place, at no further cost.
* **Grad-CAM** (Selvaraju et al., ICCV 2017) on the last feature map, or on a layer asked for. On the last feature map
  it brings nothing new with these nets: the head is linear in each cell, so the gradient, averaged over the places, is
  the head's weight divided by their number, with mean and with log-sum-exp pooling alike. What is left are the cells
  without the head's bias, cut off at zero.
* **Integrated Gradients** (Sundararajan et al., ICML 2017) on the pixels, from a tile of grey level 127, which is zero
  after the scaling inside the net. Their sum should be the difference of the two logits; what is missing is reported.

The control (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): the same architecture with random
weights. A map that looks as good there shows edges of the picture, not what was learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from scipy.stats import rankdata
from torch import Tensor, nn

from training.errors import ConfigError
from training.models import CellClassifier, create
from training.models.scaling import MEAN

Image = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]

CELLS: Final = "cells"
GRAD_CAM: Final = "Grad-CAM"
GRADIENTS: Final = "Integrated Gradients"
METHODS: Final = (CELLS, GRAD_CAM, GRADIENTS)

_COMPARED_PX: Final = 28
"""Side to which maps are averaged before they are compared: finer ones would compare single pixels."""


@dataclass(frozen=True, slots=True)
class Maps:
    """What speaks for a crack, by place.

    Attributes:
        cells: [h, w], logits.
        grad_cam: [h', w'], 0 and above; None for a model without gradients.
        gradients: [S, S], integrated gradients summed over the channels (logits); None for a model without gradients.
        logit: of the tile.
        delta: sum of the integrated gradients minus the difference between the logits of tile and baseline.
        distance: that difference of the logits.
    """

    cells: Map
    grad_cam: Map | None
    gradients: Map | None
    logit: float
    delta: float = float("nan")
    distance: float = float("nan")

    def of(self, method: str, smooth_px: float = 0.0) -> Map | None:
        """The map of a method; integrated gradients smoothed by a Gaussian of `smooth_px` where that is above 0."""
        if method == CELLS:
            return self.cells
        if method == GRAD_CAM:
            return self.grad_cam
        if self.gradients is None or smooth_px == 0:
            return self.gradients
        return np.asarray(
            cv2.GaussianBlur(self.gradients, (0, 0), smooth_px, borderType=cv2.BORDER_REFLECT), np.float32
        )


class Explainer:
    """Draws the maps of a PyTorch net.

    Args:
        net: is put into evaluation mode, and its weights are frozen.
        layer: of the backbone, for Grad-CAM, as PyTorch names it ("13" or "17.conv"); None takes the last.
        n_steps: points on the way from the baseline to the tile.
        batch: tiles that go through the net at once.

    Raises:
        ConfigError: the backbone has no such layer.
    """

    def __init__(self, net: CellClassifier, *, layer: str | None = None, n_steps: int = 32, batch: int = 8) -> None:
        self._net = net.eval().requires_grad_(requires_grad=False)
        self._n_steps = n_steps
        self._batch = batch
        self._layer_name = layer if layer is not None else last_layer(net)
        self._grad_cam = LayerGradCam(self._logit, _layer_of(net, self._layer_name))
        self._gradients = IntegratedGradients(self._logit)

    def layer(self, side: int = 224) -> str:
        """Say which layer Grad-CAM explains: its name, kind, channels and size for tiles of `side` px."""
        module = _layer_of(self._net, self._layer_name)
        shapes: list[tuple[int, ...]] = []
        hook = module.register_forward_hook(lambda _module, _given, made: shapes.append(tuple(made.shape)))
        try:
            with torch.no_grad():
                self._net(torch.zeros(1, 3, side, side))
        finally:
            hook.remove()
        _, channels, height, width = shapes[0]
        last = " (the last feature map)" if self._layer_name == last_layer(self._net) else ""
        return f"backbone.{self._layer_name}, {type(module).__name__}, {channels} channels, {height} x {width}{last}"

    def explain(self, tiles: Image, progress: Callable[[int], None] | None = None) -> list[Maps]:
        """Draw the maps of tiles.

        Args:
            tiles: uint8 [N, S, S, 3], BGR.
            progress: is told how many tiles were done.
        """
        found = []
        for tile in tiles:
            found.append(self._explain(tile))
            if progress is not None:
                progress(1)
        return found

    def _explain(self, tile: Image) -> Maps:
        picture = torch.from_numpy(np.array(tile[None])).permute(0, 3, 1, 2).to(torch.float32)
        with torch.no_grad():
            logits, cells = self._net(torch.cat([picture, torch.full_like(picture, MEAN)]))
        grad_cam = self._grad_cam.attribute(picture.clone().requires_grad_(), relu_attributions=True)
        gradients = self._gradients.attribute(
            picture.clone().requires_grad_(),
            baselines=MEAN,
            n_steps=self._n_steps,
            internal_batch_size=self._batch,
        )
        gradients = gradients.detach()
        distance = float(logits[0] - logits[1])
        return Maps(
            cells=_map(cells[0]),
            grad_cam=_map(grad_cam[0, 0]),
            gradients=_map(gradients[0].sum(dim=0)),
            logit=float(logits[0]),
            delta=float(gradients.sum(dtype=torch.float64)) - distance,
            distance=distance,
        )

    def _logit(self, tiles: Tensor) -> Tensor:
        logit: Tensor = self._net(tiles)[0]
        return logit


def last_layer(net: CellClassifier) -> str:
    """Name of the backbone's last part, whose output is the last feature map."""
    return [name for name, _ in net.backbone.named_children()][-1]


def random_nets(name: str, options: dict[str, Any], tiles: Image, *, count: int, seed: int) -> list[CellClassifier]:
    """Nets of the same architecture that have learnt nothing.

    Their batch normalisation is fitted to `tiles`: with its initial statistics the signal would fade on its way
    through a deep net, and a dead net would be too easy a control.

    Args:
        name: of `training.models.MODELS`.
        options: of its builder, without `pretrained`.
        tiles: uint8 [N, S, S, 3], BGR; at least 2.
        count: how many.
        seed: the same seed gives the same weights; PyTorch's own random numbers are left where they were.
    """
    picture = torch.from_numpy(np.array(tiles)).permute(0, 3, 1, 2)
    nets = []
    for index in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + index)
            net = create(name, **options).eval()
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # a cumulative average: one pass sets the statistics
                    module.momentum = None
                    module.train()
            with torch.no_grad():
                net(picture)
        nets.append(net.eval())
    return nets


def similarity(first: Map, second: Map) -> float:
    """Spearman's rank correlation of the sizes of two maps (Adebayo et al. 2018); NaN where one is constant."""
    a, b = (rankdata(_shrunk(np.abs(values)).ravel()) for values in (first, second))
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def completeness(maps: Sequence[Maps]) -> dict[str, float]:
    """How well integrated gradients add up: median and greatest size of what is missing, and the median share.

    The share is of the difference between the logits of tile and baseline.
    """
    missing = np.abs([item.delta for item in maps])
    distance = np.abs([item.distance for item in maps])
    return {
        "median_logits": float(np.median(missing)),
        "greatest_logits": float(missing.max()),
        "median_share": float(np.median(missing / np.maximum(distance, 1e-9))),
    }


def _shrunk(values: Map) -> Map:
    if values.shape[0] <= _COMPARED_PX:
        return values
    return np.asarray(cv2.resize(values, (_COMPARED_PX, _COMPARED_PX), interpolation=cv2.INTER_AREA), np.float32)


def _layer_of(net: CellClassifier, name: str) -> nn.Module:
    try:
        return net.backbone.get_submodule(name)
    except AttributeError as error:
        allowed = ", ".join(child for child, _ in net.backbone.named_children())
        raise ConfigError(f"layer: the backbone has no {name!r}; allowed: {allowed}, or parts of these") from error


def _map(values: Tensor) -> Map:
    return np.asarray(values.detach().numpy(), np.float32)
