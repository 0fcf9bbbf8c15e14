"""How does training go on from a bundle? Its float file holds all that the run's checkpoint held, but folded.

Runs are not kept in the repository, bundles are. Batch normalisation is folded into the convolutions there; here each
layer of it stands again, as the identity. That is the same network to ask, and to explain. To train it further,
`restore_norms` gives the layers statistics again, without a change of what the network answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
import yaml
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from training.errors import CheckpointError
from training.export.bundle import MANIFEST, Manifest, ModelFile, read_manifest, read_model
from training.export.onnx import ExportError
from training.models import CellClassifier, create

_TOLERANCE: Final = 1e-3


def facts(folder: Path) -> dict[str, Any]:
    """Return which bundle lies in a folder now, for whoever goes on from it: another version may lie there later.

    Returns:
        "bundle" (name and version), "sha256" of the float file, and of its run "config_path", "commit" and "hours".

    Raises:
        CheckpointError: the folder is no bundle.
    """
    manifest = _manifest(folder)
    training = manifest.training
    return {
        "bundle": f"{manifest.name} {manifest.version}",
        "sha256": manifest.files["fp32"].sha256,
        "config_path": training.config,
        "commit": training.commit,
        "hours": training.hours,
    }


def load(folder: Path) -> dict[str, Any]:
    """Read a bundle as if it were a checkpoint (see `training.engine.checkpoint`).

    What the network is stands in the configuration that the manifest names.

    Args:
        folder: with `manifest.json` and the float file.

    Returns:
        A checkpoint's content without its history, and under "bundle" its name and version.

    Raises:
        CheckpointError: it is no bundle, its configuration is not there, or the network that it names gives other
            answers with these weights.
    """
    manifest = _manifest(folder)
    training = manifest.training
    name, options = _network(folder, training.config)
    try:
        net = create(name, **options)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {training.config}: {error}") from error
    graph = _graph(folder, manifest.files["fp32"])
    _unfold(net, _convolutions(graph), folder)
    _require_same(net.eval(), graph, folder)
    return {
        **facts(folder),
        "model": name,
        "options": options,
        "state_dict": net.state_dict(),
        "config": {},
        "history": [],
        "data": [source.model_dump() for source in training.data],
        "teacher": None,
        "seed": training.seed,
        "step": training.steps,
        "criterion": None,
    }


@torch.no_grad()
def restore_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give each layer of batch normalisation the statistics of what it is shown, and gains and shifts that undo them.

    Args:
        model: any network; what it answers in evaluation mode stays the same.
        batches: tiles [N, 3, H, W], BGR, 0..255.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].double()
        seen[norm].append(torch.stack([values.mean(dim=(0, 2, 3)), (values**2).mean(dim=(0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    was_training = model.training
    model.eval()
    for tiles in batches:
        model(tiles)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if seen[norm]:
            mean, square = torch.stack(seen[norm]).mean(dim=0)
            _replace_statistics(norm, mean, (square - mean**2).clamp(min=0))


def _replace_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018 - all of ours keep them
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_((gain * (mean - norm.running_mean.double())).float())
    norm.weight.copy_((gain * (variance + norm.eps).sqrt()).float())
    norm.running_mean.copy_(mean.float())
    norm.running_var.copy_(variance.float())


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path}: cannot be read; a bundle has one")
    try:
        manifest = read_manifest(folder)
    except ExportError as error:
        raise CheckpointError(f"{path}: not the manifest of a bundle ({error})") from error
    if "fp32" not in manifest.files:
        raise CheckpointError(f"{path}: names no float file")
    return manifest


def _graph(folder: Path, file: ModelFile) -> onnx.ModelProto:
    content = read_model(folder, file)
    try:
        return onnx.load_from_string(content)
    except DecodeError as error:
        raise CheckpointError(f"{folder / file.path}: damaged, it is no ONNX file") from error


def _network(folder: Path, config: str | None) -> tuple[str, dict[str, Any]]:
    """Return name and options of the network. Old configurations need not be valid any more: one is read as it is."""
    if config is None:
        raise CheckpointError(f"{folder}: its manifest names no configuration, which would say what network it is")
    try:
        model = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["model"]
        return model["name"], {key: value for key, value in model.get("options", {}).items() if key != "pretrained"}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: its configuration {config} does not say which network it is") from error


def _convolutions(graph: onnx.ModelProto) -> list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Return weights and biases of all convolutions in the order in which they are computed."""
    values = {item.name: item for item in graph.graph.initializer}
    found = []
    for node in graph.graph.node:
        if node.op_type == "Conv":
            weight, *bias = (numpy_helper.to_array(values[name]) for name in node.input[1:])
            found.append((weight, bias[0] if bias else None))
    return found


@torch.no_grad()
def _unfold(
    net: CellClassifier, given: Sequence[tuple[NDArray[np.float32], NDArray[np.float32] | None]], folder: Path
) -> None:
    """Put folded weights into the convolutions, folded shifts into the normalisation behind each, or into its bias."""
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    shapes = [tuple(layers[place].weight.shape) for place in places]
    if shapes != [weight.shape for weight, _ in given]:
        raise CheckpointError(f"{folder}: its float file does not hold the network that its configuration names")
    for place, (weight, bias) in zip(places, given, strict=True):
        layer, norm = layers[place], layers[place + 1] if place + 1 < len(layers) else None
        shift = torch.zeros(weight.shape[0]) if bias is None else torch.from_numpy(bias.copy())
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018 - they keep them
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            norm.weight.fill_(1)
            norm.bias.copy_(shift)
            if layer.bias is not None:
                layer.bias.zero_()
        elif layer.bias is not None:
            layer.bias.copy_(shift)


def _require_same(net: CellClassifier, graph: onnx.ModelProto, folder: Path) -> None:
    """Refuse weights that were put in their places wrongly: the order of layers need not be that of the graph."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    side = given.shape[1]
    tiles = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    (expected,) = session.run(["logit"], {given.name: tiles})
    with torch.inference_mode():
        found = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))[0].numpy()
    if not np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise CheckpointError(
            f"{folder}: the network that its configuration names gives {found} with its weights, its file {expected}"
        )
