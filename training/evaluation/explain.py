"""Where does a model see what it calls a crack? Three maps of a tile, and the same maps of a net that knows nothing.

* **Cells**: the net's own logit of each place, at no further cost.
* **Grad-CAM** (Selvaraju et al., ICCV 2017) on the last feature map and on an earlier, finer one. On the last feature
  map it brings nothing new with these nets: the head is linear in each cell, so the gradient, averaged over the places,
  is the head's weight divided by their number, with mean and with log-sum-exp pooling alike. What is left are the cells
  without the head's bias, cut off at zero. Between the earlier map and the logit there are convolutions, so that one
  may differ.
* **Integrated Gradients** (Sundararajan et al., ICML 2017) on the pixels, from a tile of grey level 127, which is zero
  after the scaling inside the net. Their sum should be the difference of the two logits; where too much is missing the
  steps are doubled, and what is still missing is reported.

The control (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): the same architecture with random
weights. A map that looks as good there shows edges of the picture, not what was learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
GRAD_CAM: Final = "Grad-CAM, last layer"
GRAD_CAM_EARLIER: Final = "Grad-CAM, earlier layer"
GRADIENTS: Final = "Integrated Gradients"
METHODS: Final = (CELLS, GRAD_CAM, GRAD_CAM_EARLIER, GRADIENTS)

_SIDE_PX: Final = 224
"""Side of the tiles for which the size of a feature map is stated."""
_EARLIER_CELLS: Final = 14
"""Cells along a side that the earlier feature map has at least, twice as many as the last one of most nets."""
_COMPARED_PX: Final = 28
"""Side to which maps are averaged before they are compared: finer ones would compare single pixels."""


@dataclass(frozen=True, slots=True)
class Maps:
    """What speaks for a crack, by place.

    Attributes:
        cells: [h, w], logits.
        logit: of the tile.
        grad_cam: [h, w], of the last feature map, 0 and above; None for a model without gradients.
        grad_cam_earlier: [h', w'], of an earlier feature map, 0 and above; None also where no such layer is explained.
        gradients: [S, S], integrated gradients summed over the channels (logits); None for a model without gradients,
            and where they were left out.
        delta: sum of the integrated gradients minus the difference between the logits of tile and baseline.
        distance: that difference of the logits.
        n_steps: with which the integrated gradients were taken; 0 where there are none.
    """

    cells: Map
    logit: float
    grad_cam: Map | None = None
    grad_cam_earlier: Map | None = None
    gradients: Map | None = None
    delta: float = float("nan")
    distance: float = float("nan")
    n_steps: int = 0

    def of(self, method: str, smooth_px: float = 0.0) -> Map | None:
        """The map of a method; integrated gradients smoothed by a Gaussian of `smooth_px` where that is above 0."""
        if method == CELLS:
            return self.cells
        if method == GRAD_CAM:
            return self.grad_cam
        if method == GRAD_CAM_EARLIER:
            return self.grad_cam_earlier
        if self.gradients is None or smooth_px == 0:
            return self.gradients
        return np.asarray(
            cv2.GaussianBlur(self.gradients, (0, 0), smooth_px, borderType=cv2.BORDER_REFLECT), np.float32
        )


@dataclass(frozen=True, slots=True)
class Refinement:
    """How many steps Integrated Gradients take: doubled for a tile until little enough of its difference is missing.

    Attributes:
        n_steps: points on the way from the baseline to the tile, at first.
        most_steps: no more than these; `n_steps` or more.
        missing_share: of the difference between the logits of tile and baseline that may be missing (0..1).
        missing_logit: what may always be missing (logits), for tiles that the net tells little from the baseline.
    """

    n_steps: int = 32
    most_steps: int = 256
    missing_share: float = 0.05
    missing_logit: float = 0.05

    def steps(self) -> Iterator[int]:
        """The numbers of steps that are tried, in their order."""
        n_steps = self.n_steps
        while n_steps < self.most_steps:
            yield n_steps
            n_steps *= 2
        yield self.most_steps

    def suffices(self, delta: float, distance: float) -> bool:
        """Whether a sum that misses the difference `distance` of the logits by `delta` is near enough."""
        return abs(delta) <= max(self.missing_share * abs(distance), self.missing_logit)


class Explainer:
    """Draws the maps of a PyTorch net.

    Args:
        net: is put into evaluation mode, and its weights are frozen.
        layer: of the backbone, for the second Grad-CAM, as PyTorch names it ("13" or "17.conv"); None takes
            `earlier_layer`. The last layer is explained in any case, and only once.
        refinement: of Integrated Gradients; None takes the usual one.
        batch: tiles that go through the net at once.

    Raises:
        ConfigError: the backbone has no such layer.
    """

    def __init__(
        self,
        net: CellClassifier,
        *,
        layer: str | None = None,
        refinement: Refinement | None = None,
        batch: int = 8,
    ) -> None:
        self._net = net.eval().requires_grad_(requires_grad=False)
        self._refinement = refinement if refinement is not None else Refinement()
        self._batch = batch
        last = last_layer(net)
        self._layers = {GRAD_CAM: last}
        earlier = layer if layer is not None else earlier_layer(net)
        if earlier is not None and earlier != last:
            self._layers[GRAD_CAM_EARLIER] = earlier
        self._grad_cams = {
            method: LayerGradCam(self._logit, _layer_of(net, name)) for method, name in self._layers.items()
        }
        self._gradients = IntegratedGradients(self._logit)

    def layers(self) -> dict[str, str]:
        """Say which layer each Grad-CAM explains: its name, kind, channels and size for tiles of 224 px."""
        shapes = _shapes(self._net, list(self._layers.values()))
        described = {}
        for method, name in self._layers.items():
            channels, height, width = shapes[name]
            kind = type(_layer_of(self._net, name)).__name__
            described[method] = f"backbone.{name}, {kind}, {channels} channels, {height} x {width}"
        return described

    def explain(
        self,
        tiles: Image,
        progress: Callable[[int], None] | None = None,
        *,
        n_steps: int | None = None,
        integrated: Sequence[bool] | None = None,
    ) -> list[Maps]:
        """Draw the maps of tiles.

        Args:
            tiles: uint8 [N, S, S, 3], BGR.
            progress: is told how many tiles were done.
            n_steps: of Integrated Gradients, whatever is missing then; None refines them.
            integrated: which of the tiles get Integrated Gradients, one for each; None: all.
        """
        found = []
        for tile, wanted in zip(tiles, [True] * len(tiles) if integrated is None else integrated, strict=True):
            tried = self._refinement.steps() if n_steps is None else iter([n_steps])
            found.append(self._explain(tile, tried if wanted else None))
            if progress is not None:
                progress(1)
        return found

    def _explain(self, tile: Image, tried: Iterator[int] | None) -> Maps:
        picture = torch.from_numpy(np.array(tile[None])).permute(0, 3, 1, 2).to(torch.float32)
        with torch.no_grad():
            logits, cells = self._net(torch.cat([picture, torch.full_like(picture, MEAN)]))
        grad_cams = {
            method: _map(grad_cam.attribute(picture.clone().requires_grad_(), relu_attributions=True)[0, 0])
            for method, grad_cam in self._grad_cams.items()
        }
        found = Maps(
            cells=_map(cells[0]),
            logit=float(logits[0]),
            grad_cam=grad_cams[GRAD_CAM],
            grad_cam_earlier=grad_cams.get(GRAD_CAM_EARLIER),
        )
        if tried is None:
            return found
        distance = float(logits[0] - logits[1])
        n_steps = next(tried)
        gradients, delta = self._integrated(picture, n_steps, distance)
        while not self._refinement.suffices(delta, distance) and (more := next(tried, None)) is not None:
            n_steps = more
            gradients, delta = self._integrated(picture, n_steps, distance)
        return replace(found, gradients=_map(gradients[0].sum(dim=0)), delta=delta, distance=distance, n_steps=n_steps)

    def _integrated(self, picture: Tensor, n_steps: int, distance: float) -> tuple[Tensor, float]:
        """Integrated gradients [1, 3, S, S] and how far their sum lies above the difference of the logits."""
        gradients = self._gradients.attribute(
            picture.clone().requires_grad_(), baselines=MEAN, n_steps=n_steps, internal_batch_size=self._batch
        ).detach()
        return gradients, float(gradients.sum(dtype=torch.float64)) - distance

    def _logit(self, tiles: Tensor) -> Tensor:
        logit: Tensor = self._net(tiles)[0]
        return logit


def last_layer(net: CellClassifier) -> str:
    """Name of the backbone's last part, whose output is the last feature map."""
    return [name for name, _ in net.backbone.named_children()][-1]


def earlier_layer(net: CellClassifier) -> str | None:
    """Name of the backbone's last part with 14 x 14 cells or more at 224 px behind which a convolution follows.

    "13" of MobileNetV2, "5" of EfficientNet-Lite. The last map of OPNet has 14 x 14 cells itself, so it is "11" (28 x
    28), in front of the last convolution. None where no part is like that.
    """
    parts = list(net.backbone.named_children())
    shapes = _shapes(net, [name for name, _ in parts])
    convolves = [any(isinstance(module, nn.Conv2d) for module in part.modules()) for _, part in parts]
    found = [
        name
        for index, (name, _) in enumerate(parts)
        if min(shapes[name][1:]) >= _EARLIER_CELLS and any(convolves[index + 1 :])
    ]
    return found[-1] if found else None


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


def completeness(maps: Sequence[Maps], refinement: Refinement) -> dict[str, float]:
    """How well integrated gradients add up to the difference between the logits of tile and baseline.

    Args:
        maps: with integrated gradients; at least one.
        refinement: says how much may be missing.

    Returns:
        Of the size of what is missing: median, 90th percentile and greatest (logits), and the median share of the
        difference. Of the tiles: how many there are, how many took more steps than the first, and of how many more is
        missing than allowed.
    """
    missing = np.abs([item.delta for item in maps])
    distance = np.abs([item.distance for item in maps])
    return {
        "median_logits": float(np.median(missing)),
        "percentile_90_logits": float(np.percentile(missing, 90)),
        "greatest_logits": float(missing.max()),
        "median_share": float(np.median(missing / np.maximum(distance, 1e-9))),
        "tiles": len(maps),
        "refined": sum(item.n_steps > refinement.n_steps for item in maps),
        "missing_too_much": sum(not refinement.suffices(item.delta, item.distance) for item in maps),
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


def _shapes(net: CellClassifier, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Channels, rows and columns of what parts of the backbone put out for a tile of 224 px."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _given, made: shapes.update({name: tuple(made.shape)[1:]})

    hooks = [_layer_of(net, name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, _SIDE_PX, _SIDE_PX))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _map(values: Tensor) -> Map:
    return np.asarray(values.detach().numpy(), np.float32)
