"""How does a PyTorch net become an ONNX graph that takes camera bytes as they are?

The graph takes `tiles`, uint8 [N, 224, 224, C], BGR, and does the scaling itself, so the agent cannot get it wrong.
Batch normalisation is folded into the convolutions. `split_scaling` takes the scaling out again, for the quantiser: a
scaling by one mean and one standard deviation is exactly a quantisation with scale `1 / std` and zero point `mean`.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.errors import TrainingError

INPUT_NAME = "tiles"
LOGIT_NAME = "logit"
CELLS_NAME = "cells"
SCALED_NAME = "scaled"
TILE_PX = 224
OPSET = 17
"""Read by every ONNX Runtime since 1.12, also by the builds for JetPack."""

log = logging.getLogger(__name__)


class ExportError(TrainingError):
    """The net cannot be exported; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """`scaled = (byte - mean) / std`; `mean` is a whole number, so that zero padding means exactly `mean`."""

    mean: int
    std: float


class _ByteTiles(nn.Module):
    """Takes NHWC bytes as a camera gives them and hands NCHW to the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`tiles` uint8 [N, H, W, 3] -> logit [N], cells [N, h, w]."""
        logit, cells = self.net(tiles.permute(0, 3, 1, 2))
        return logit, cells


def to_onnx(net: nn.Module, *, tile_px: int = TILE_PX) -> onnx.ModelProto:
    """Traces `net` into an ONNX graph with 3-channel byte input and dynamic batch.

    Args:
        net: takes uint8 [N, 3, H, W] (BGR) and returns `(logit [N], cells [N, h, w])`; scales by one mean and std.
        tile_px: side of a tile (px).

    Raises:
        ExportError: if the net is not of that form, or the traced graph is not valid.
    """
    was_training = net.training
    net.eval()
    example = torch.randint(0, 256, (2, tile_px, tile_px, 3), dtype=torch.uint8)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _tracer_is_quiet():
            path = Path(folder) / "traced.onnx"
            # The tracing exporter: needs no further package, and folds the batch normalisation of a net in eval mode.
            torch.onnx.export(
                _ByteTiles(net).eval(),
                (example,),
                path,
                input_names=[INPUT_NAME],
                output_names=[LOGIT_NAME, CELLS_NAME],
                dynamic_axes={INPUT_NAME: {0: "N"}, LOGIT_NAME: {0: "N"}, CELLS_NAME: {0: "N"}},
                opset_version=OPSET,
                dynamo=False,
            )
            model = onnx.load(str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"the net cannot be traced to ONNX: {str(error).splitlines()[0]}") from error
    finally:
        net.train(was_training)
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        raise ExportError("batch normalisation was not folded: is the net in eval mode?")
    onnx.checker.check_model(model, full_check=True)
    return model


def split_scaling(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Scaling]:
    """Cuts the scaling off a graph made by `to_onnx`.

    Returns:
        The rest, with a float32 input `scaled` [N, 3, H, W], and the scaling that was cut off.

    Raises:
        ExportError: if the graph does not begin with one scalar scaling, or its mean is not a whole number of a byte.
    """
    core = onnx.ModelProto()
    core.CopyFrom(model)
    graph = core.graph
    tile_px = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    cut, name, scaling = _leading_scaling(graph)
    for node in cut:
        graph.node.remove(node)
    for node in graph.node:
        for i, source in enumerate(node.input):
            if source == name:
                node.input[i] = SCALED_NAME
    del graph.input[:]
    shape = ["N", 3, tile_px or TILE_PX, tile_px or TILE_PX]
    graph.input.append(helper.make_tensor_value_info(SCALED_NAME, TensorProto.FLOAT, shape))
    _drop_unused(graph)
    return core, scaling


def _leading_scaling(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], str, Scaling]:
    """The nodes from the bytes to the scaled tiles, the tensor that they end in, and what they do."""
    constants = _constants(graph)
    scale, offset = 1.0, 0.0
    name = INPUT_NAME
    cut: list[onnx.NodeProto] = []
    while True:
        users = [node for node in graph.node if name in node.input]
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type in {"Sub", "Add", "Mul", "Div"} and node.input[0] == name and node.input[1] in constants:
            value = constants[node.input[1]]
            if value.size != 1:
                raise ExportError(f"the scaling must be one number for all channels, {node.op_type} has {value.size}")
            number = float(value.reshape(()))
            scale, offset = _affine(node.op_type, scale, offset, number)
        elif node.op_type not in {"Transpose", "Cast", "Identity"}:
            break
        cut.append(node)
        name = node.output[0]
    if not any(node.op_type == "Cast" for node in cut) or scale <= 0:
        raise ExportError("the graph does not begin with bytes that are cast and scaled")
    std = 1.0 / scale
    mean = -offset * std
    # Close to a whole number is enough (float32 constants), but not a mean of 127.5: then the padding would be off.
    if not 0 <= round(mean) <= 255 or abs(mean - round(mean)) > 1e-3:
        raise ExportError(f"the mean of the scaling must be a whole number from 0 to 255, it is {mean:.4f}")
    return cut, name, Scaling(mean=round(mean), std=std)


def pad_channels(core: onnx.ModelProto, channels: int) -> onnx.ModelProto:
    """Lets the core graph (input `scaled`) take `channels` >= 3 channels; those beyond the third are ignored.

    The weights of the first convolution get zeros for them, so the logits stay the same. Four bytes a pixel suit
    the 8-bit kernels better than three.

    Raises:
        ExportError: if the input does not go straight into one ungrouped convolution.
    """
    if channels == 3:
        return core
    padded = onnx.ModelProto()
    padded.CopyFrom(core)
    graph = padded.graph
    users = [node for node in graph.node if SCALED_NAME in node.input]
    if len(users) != 1 or users[0].op_type != "Conv":
        raise ExportError("a fourth channel needs a net that begins with one convolution")
    weight_name = users[0].input[1]
    weight = next((item for item in graph.initializer if item.name == weight_name), None)
    if weight is None:
        raise ExportError("the weights of the first convolution are not constant")
    array = numpy_helper.to_array(weight)
    wide = np.zeros((array.shape[0], channels, *array.shape[2:]), dtype=array.dtype)
    wide[:, :3] = array
    weight.CopyFrom(numpy_helper.from_array(wide, weight_name))
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    return padded


def set_metadata(model: onnx.ModelProto, properties: dict[str, str]) -> None:
    """Writes `properties` into the model's `metadata_props` (replacing what was there under the same keys)."""
    kept = [(item.key, item.value) for item in model.metadata_props if item.key not in properties]
    del model.metadata_props[:]
    for key, value in [*kept, *properties.items()]:
        model.metadata_props.add(key=key, value=value)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Checks and writes `model`. Raises ExportError if it is not valid."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ExportError(f"{path.name}: not a valid ONNX graph: {str(error).splitlines()[0]}") from error
    path.write_bytes(model.SerializeToString())


def head_nodes(model: onnx.ModelProto) -> list[str]:
    """Names the nodes from the last feature map to `cells` and `logit`.

    They cost little and decide the verdict: the quantiser leaves them in float.
    """
    graph = model.graph
    producer = {output: node for node in graph.node for output in node.output}
    constants = _constants(graph)
    names: list[str] = []

    def back(tensor: str) -> None:
        node = producer.get(tensor)
        if node is None or node.name in names:
            return
        if node.op_type in {"Relu", "Clip", "MaxPool", "HardSwish", "HardSigmoid", "Sigmoid"}:
            return
        if node.op_type == "Conv":
            weight = constants.get(node.input[1])
            if weight is None or weight.shape[0] != 1:
                return
        names.append(node.name)
        for source in node.input:
            back(source)

    back(CELLS_NAME)
    back(LOGIT_NAME)
    return names


def _affine(op: str, scale: float, offset: float, number: float) -> tuple[float, float]:
    """`scale * x + offset` after one more arithmetic node with the constant `number`."""
    if op == "Sub":
        return scale, offset - number
    if op == "Add":
        return scale, offset + number
    if op == "Mul":
        return scale * number, offset * number
    return scale / number, offset / number


def _constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """All constant tensors of the graph, by name: initializers and Constant nodes."""
    found = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Removes constants that nothing reads any more."""
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] not in used]:
        graph.node.remove(node)
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)


@contextlib.contextmanager
def _tracer_is_quiet() -> Iterator[None]:
    """The tracing exporter announces its age at every call; that is known and chosen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
