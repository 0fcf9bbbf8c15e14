"""How does the float graph become one of 8-bit integers, with as little as possible lost?

QDQ format, U8 activations (one scale a tensor), S8 weights (one scale a channel, 7 bits: without VNNI the sum of two
U8 x S8 products is kept in 16 bits and saturates with 8-bit weights). The bytes of the camera are the quantised input.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.export.onnx import (
    INPUT_NAME,
    LOGIT_NAME,
    SCALED_NAME,
    TILE_PX,
    ExportError,
    Scaling,
    head_nodes,
    pad_channels,
)

FLOAT_SCHEME = "float32, batch normalisation folded"
SCHEME = "QDQ U8 activations, S8 per-channel weights, 7 bit (no VNNI needed)"
_BINS = 2048
_SAMPLES_PER_TENSOR_AND_TILE = 20_000
_BATCH = 4
_QUANTISED_OPS = ["Conv", "MaxPool", "Relu", "Clip", "Add", "GlobalAveragePool", "Mul", "Sigmoid", "HardSwish"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Histogram:
    """What a tensor's values looked like: counts over `_BINS` equal steps from `low` to `high` (sampled)."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Method:
    """How a range is chosen from a histogram: `minmax`, `percentile` (share of the values inside) or `mse`."""

    kind: str
    percentile: float = 100.0

    @property
    def name(self) -> str:
        """For logs and cards, for example `percentile 99.99`."""
        return f"percentile {self.percentile:g}" if self.kind == "percentile" else self.kind


METHODS = (Method("minmax"), Method("percentile", 99.999), Method("percentile", 99.99), Method("mse"))


def observe(
    core: onnx.ModelProto,
    scaling: Scaling,
    tiles: npt.NDArray[np.uint8],
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Histogram]:
    """Runs the float core over the calibration tiles and counts what every activation looks like.

    Args:
        core: graph with the float input `scaled` (see `split_scaling`).
        scaling: the scaling that was cut off.
        tiles: uint8 [N, H, W, 3], BGR.
        threads: of ONNX Runtime.
        seed: which values of a large tensor are sampled for the histogram (extremes are exact).
        progress: called with the number of tiles done since the last call; two passes are made.
    """
    probe = onnx.shape_inference.infer_shapes(core)
    have = {item.name for item in probe.graph.output}
    floats = {
        item.name: item
        for item in probe.graph.value_info
        if item.type.tensor_type.elem_type == TensorProto.FLOAT and len(item.type.tensor_type.shape.dim) == 4
    }
    produced = [name for node in probe.graph.node if node.op_type != "Constant" for name in node.output]
    probe.graph.output.extend([floats[name] for name in produced if name in floats and name not in have])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]

    def run() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        for start in range(0, len(tiles), _BATCH):
            batch = tiles[start : start + _BATCH]
            yield from zip(names, session.run(names, {SCALED_NAME: _scaled(batch, scaling)}), strict=True)
            if progress is not None:
                progress(len(batch))

    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for name, values in run():
        low[name] = min(low.get(name, np.inf), float(values.min()))
        high[name] = max(high.get(name, -np.inf), float(values.max()))
    for name in names:
        # a tensor that never changes (a gate of an untrained net) still needs steps that float32 can tell apart
        high[name] = max(high[name], low[name] + max(1e-6, 1e-2 * abs(low[name])))
    rng = np.random.default_rng(seed)
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in names}
    for name, values in run():
        flat = values.reshape(-1)
        wanted = _SAMPLES_PER_TENSOR_AND_TILE * len(values)
        if flat.size > wanted:
            flat = flat[rng.integers(0, flat.size, wanted)]
        counts[name] += np.histogram(flat, bins=_BINS, range=(low[name], high[name]))[0]
    return {name: Histogram(low[name], high[name], counts[name]) for name in names}


def choose_range(histogram: Histogram, method: Method) -> tuple[float, float]:
    """The range that 256 steps shall cover; values outside are clipped. Always holds 0."""
    low, high = histogram.low, histogram.high
    if method.kind == "percentile":
        low, high = _percentile_range(histogram, method.percentile)
    elif method.kind == "mse":
        low, high = _mse_range(histogram)
    elif method.kind != "minmax":
        raise ValueError(f"calibration method {method.kind!r}: allowed are minmax, percentile, mse")
    return min(low, 0.0), max(high, 0.0)


def quantise(
    core: onnx.ModelProto,
    scaling: Scaling,
    histograms: dict[str, Histogram],
    *,
    method: Method,
    channels: int = 3,
    keep_float: Sequence[str] = (),
    reduce_range: bool = True,
) -> onnx.ModelProto:
    """Makes the 8-bit graph with byte input `tiles` [N, H, W, channels].

    Args:
        core: pre-processed graph with the float input `scaled` [N, 3, H, W].
        scaling: the scaling that was cut off; becomes scale and zero point of the input.
        histograms: from `observe`.
        method: how ranges are chosen.
        channels: 3, or 4 with one ignored byte a pixel.
        keep_float: further nodes (by name) to leave in float; the head always is.
        reduce_range: 7-bit weights; needed for CPUs without VNNI.

    Raises:
        ExportError: if the graph does not have the expected form.
    """
    padded = pad_channels(core, channels)
    model = onnx.ModelProto()
    model.CopyFrom(padded)
    ranges: dict[str, TensorData] = {}
    for name, histogram in histograms.items():
        low, high = choose_range(histogram, method)
        ranges[name] = TensorData(lowest=np.float32(low), highest=np.float32(high))
    ranges[SCALED_NAME] = TensorData(
        lowest=np.float32((0 - scaling.mean) / scaling.std), highest=np.float32((255 - scaling.mean) / scaling.std)
    )
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=[*head_nodes(model), *keep_float],
        op_types_to_quantize=_QUANTISED_OPS,
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised = onnx.ModelProto()
    quantised.CopyFrom(quantizer.model.model)
    _bytes_are_the_input(quantised, scaling, channels)
    # The pre-processing declares every operator set that it knows; an older runtime refuses those it does not know.
    used = {node.domain for node in quantised.graph.node}
    for opset in [opset for opset in quantised.opset_import if opset.domain not in used]:
        quantised.opset_import.remove(opset)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def sensitivities(
    core: onnx.ModelProto,
    scaling: Scaling,
    histograms: dict[str, Histogram],
    tiles: npt.NDArray[np.uint8],
    *,
    method: Method,
    channels: int = 3,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Names of the convolutions, the one first whose return to float mends the logits most.

    Measured, not guessed: each is left in float once, all others are in 8 bits. The first layer is left out, it must
    take bytes.
    """
    head = set(head_nodes(core))
    first = next(node.name for node in core.graph.node if SCALED_NAME in node.input)
    names = [node.name for node in core.graph.node if node.op_type == "Conv" and node.name not in {*head, first}]
    expected = _logits(core, _scaled(tiles, scaling), SCALED_NAME, threads)
    wide = tiles if channels == 3 else np.concatenate([tiles, np.zeros_like(tiles[..., :1])], axis=3)
    spread = {}
    for name in names:
        model = quantise(core, scaling, histograms, method=method, channels=channels, keep_float=[name])
        spread[name] = float((_logits(model, wide, INPUT_NAME, threads) - expected).std())
        if progress is not None:
            progress(1)
    return sorted(names, key=lambda name: spread[name])


def correct_biases(
    quantised: onnx.ModelProto,
    core: onnx.ModelProto,
    scaling: Scaling,
    tiles: npt.NDArray[np.uint8],
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> onnx.ModelProto:
    """Takes out the mean error that rounding weights and activations leaves in each channel of each convolution.

    Layer by layer, so that what an earlier correction mended is not mended twice; the float head comes last (Nagel et
    al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2, with data).

    Args:
        quantised: from `quantise`.
        core: the float graph that it was made of.
        scaling: the scaling of the input.
        tiles: uint8 [N, H, W, 3], BGR; a few dozen are enough.
        threads: of ONNX Runtime.
        progress: called with 1 after each layer.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantised)
    initializers = {item.name: item for item in corrected.graph.initializer}
    producer = {node.output[0]: node for node in corrected.graph.node}
    convolutions = [node for node in corrected.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    core_producer = {name: node for node in core.graph.node for name in node.output}

    def before_activation(name: str) -> str:
        # the quantiser absorbs ReLU and ReLU6 into the range of the convolution, which then carries their output's name
        node = core_producer[name]
        return before_activation(node.input[0]) if node.op_type in {"Relu", "Clip"} else name

    sources = {
        node.output[0]: before_activation(node.output[0]) for node in convolutions if node.output[0] in core_producer
    }
    means = _channel_means(core, sorted(set(sources.values())), _scaled(tiles, scaling), SCALED_NAME, threads)
    expected = {name: means[source] for name, source in sources.items()}
    channels = corrected.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    wide = tiles if channels == 3 else np.concatenate([tiles, np.zeros_like(tiles[..., :1])], axis=3)
    for node in convolutions:
        name = node.output[0]
        if name not in expected:
            continue
        found = _channel_means(_until(corrected, name), [name], wide, INPUT_NAME, threads)[name]
        missing = expected[name] - found
        bias = producer.get(node.input[2])
        if bias is not None and bias.op_type == "DequantizeLinear":
            scale = numpy_helper.to_array(initializers[bias.input[1]])
            steps = initializers[bias.input[0]]
            values = numpy_helper.to_array(steps) + np.round(missing / scale).astype(np.int64)
            steps.CopyFrom(numpy_helper.from_array(values.astype(np.int32), steps.name))
        elif node.input[2] in initializers:
            item = initializers[node.input[2]]
            item.CopyFrom(
                numpy_helper.from_array(np.asarray(numpy_helper.to_array(item) + missing, np.float32), item.name)
            )
        if progress is not None:
            progress(1)
    return corrected


def correct_logit(
    quantised: onnx.ModelProto,
    core: onnx.ModelProto,
    scaling: Scaling,
    tiles: npt.NDArray[np.uint8],
    *,
    threads: int = 1,
) -> onnx.ModelProto:
    """Takes the typical error that is left in the logit out of the head's bias.

    Pooling by log-sum-exp follows the largest cells, whose error is not the mean error that `correct_biases` takes out;
    adding a number to every cell adds it to the logit, whichever the pooling. The median is taken, so that the few
    tiles that 8 bits judge quite differently do not move all others.

    Args:
        quantised: from `correct_biases`.
        core: the float graph that it was made of.
        scaling: the scaling of the input.
        tiles: uint8 [N, H, W, 3], BGR.
        threads: of ONNX Runtime.

    Raises:
        ExportError: the head is not one float convolution with a bias.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantised)
    initializers = {item.name: item for item in corrected.graph.initializer}
    heads = [
        initializers[node.input[2]]
        for node in corrected.graph.node
        if node.op_type == "Conv"
        and len(node.input) == 3
        and node.input[2] in initializers
        and list(initializers[node.input[2]].dims) == [1]
    ]
    if len(heads) != 1:
        raise ExportError(f"the head must be one float convolution with a bias, found {len(heads)}")
    channels = corrected.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    wide = tiles if channels == 3 else np.concatenate([tiles, np.zeros_like(tiles[..., :1])], axis=3)
    missing = _logits(core, _scaled(tiles, scaling), SCALED_NAME, threads) - _logits(
        quantised, wide, INPUT_NAME, threads
    )
    bias = numpy_helper.to_array(heads[0]) + np.float32(np.median(missing))
    heads[0].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), heads[0].name))
    return corrected


def _logits(
    model: onnx.ModelProto, inputs: npt.NDArray[np.generic], input_name: str, threads: int
) -> npt.NDArray[np.float64]:
    """Logits of all inputs, with every optimisation of the runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run([LOGIT_NAME], {input_name: inputs[start : start + _BATCH]})[0]
        for start in range(0, len(inputs), _BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def _channel_means(
    model: onnx.ModelProto, names: Sequence[str], inputs: npt.NDArray[np.generic], input_name: str, threads: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean of each channel of the tensors `names` (NCHW) over all inputs and places."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend([helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for start in range(0, len(inputs), _BATCH):
        batch = inputs[start : start + _BATCH]
        for name, values in zip(names, session.run(list(names), {input_name: batch}), strict=True):
            total = values.mean(axis=(2, 3), dtype=np.float64).sum(axis=0)
            sums[name] = sums[name] + total if name in sums else total
    return {name: total / len(inputs) for name, total in sums.items()}


def _until(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The part of a graph that computes the tensor `name`, with that as its only output."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    needed, kept = {name}, []
    for node in reversed(list(graph.node)):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [item for item in graph.initializer if item.name in needed]
    kept.reverse()
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return part


def _scaled(tiles: npt.NDArray[np.uint8], scaling: Scaling) -> npt.NDArray[np.float32]:
    """What the float core takes: [N, 3, H, W]."""
    return ((tiles.transpose(0, 3, 1, 2).astype(np.float32) - scaling.mean) / np.float32(scaling.std)).astype(
        np.float32
    )


def preprocess(core: onnx.ModelProto) -> onnx.ModelProto:
    """Shape inference and graph clean-up as the quantiser wants it (`quant_pre_process`)."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "core.onnx", Path(folder) / "ready.onnx"
        source.write_bytes(core.SerializeToString())
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        ready = onnx.load(str(target))
    for i, node in enumerate(ready.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return ready


def _bytes_are_the_input(model: onnx.ModelProto, scaling: Scaling, channels: int) -> None:
    """Replaces float input and QuantizeLinear by the camera's bytes: they already are the quantised tensor."""
    graph = model.graph
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == SCALED_NAME]
    if len(quantizers) != 1 or sum(SCALED_NAME in node.input for node in graph.node) != 1:
        raise ExportError("the first layer of the net was not quantised")
    quantizer = quantizers[0]
    new: dict[str, npt.NDArray[Any]] = {
        quantizer.input[1]: np.array(1.0 / scaling.std, dtype=np.float32),
        quantizer.input[2]: np.array(scaling.mean, dtype=np.uint8),
    }
    for item in graph.initializer:
        if item.name in new:
            item.CopyFrom(numpy_helper.from_array(new[item.name], item.name))
    tile_px = graph.input[0].type.tensor_type.shape.dim[2].dim_value or TILE_PX
    position = list(graph.node).index(quantizer)
    transpose = helper.make_node(
        "Transpose", [INPUT_NAME], [quantizer.output[0]], name="tiles_to_planes", perm=[0, 3, 1, 2]
    )
    graph.node.remove(quantizer)
    graph.node.insert(position, transpose)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", tile_px, tile_px, channels]))
    del graph.value_info[:]


def _percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """The range that leaves `(100 - percentile) / 2` percent of the values outside at either end."""
    share = np.cumsum(histogram.counts) / max(1, int(histogram.counts.sum()))
    tail = (1 - percentile / 100) / 2
    step = (histogram.high - histogram.low) / _BINS
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail, side="left"))
    return histogram.low + first * step, histogram.low + min(last + 1, _BINS) * step


def _mse_range(histogram: Histogram) -> tuple[float, float]:
    """The range with the smallest expected squared error of clipping and of 255 equal steps; both ends are searched."""
    step = (histogram.high - histogram.low) / _BINS
    centres = histogram.low + (np.arange(_BINS) + 0.5) * step
    counts = histogram.counts.astype(np.float64)

    def error(low: float, high: float) -> float:
        clipped = np.clip(centres, low, high)
        width = (high - low) / 255
        inside = (centres >= low) & (centres <= high)
        return float((counts * ((centres - clipped) ** 2 + inside * width**2 / 12)).sum())

    shares = np.linspace(0.3, 1.0, 57)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    for _ in range(2):
        high = max(histogram.high, 0.0) * min(shares, key=lambda s: error(low, max(histogram.high, 0.0) * s + 1e-9))
        low = min(histogram.low, 0.0) * min(shares, key=lambda s: error(min(histogram.low, 0.0) * s, high + 1e-9))
    return low, high
