from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

pytest.importorskip("torch", reason="needs the [training] extra")

import torch
from torch import nn

from training.evaluation.evaluate import OnnxScorer, TorchScorer
from training.export.onnx import ExportError, Scaling, pad_channels, set_metadata, split_scaling, to_onnx
from training.export.quantize import (
    METHODS,
    Histogram,
    Method,
    choose_range,
    correct_biases,
    correct_logit,
    observe,
    preprocess,
    quantise,
    sensitivities,
)
from training.models import CellClassifier, create

Quantised8 = tuple[onnx.ModelProto, Scaling, dict[str, Histogram], onnx.ModelProto, onnx.ModelProto]
Tiles = npt.NDArray[np.uint8]


def settled(name: str, tiles: Tiles, **options: Any) -> CellClassifier:
    """A net with random weights whose batch normalisation has seen tiles, so that its activations are of a normal size."""
    torch.manual_seed(1)
    net = create(name, **options)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # an added block would start as the identity
        net.head.weight.mul_(30)
        net.train()
        for _ in range(4):
            net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
        net.eval()
        logit, _ = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
        assert net.head.bias is not None
        net.head.bias.sub_(logit.median())
    return net


def concrete(count: int, seed: int = 0) -> Tiles:
    """Grey tiles of different brightness and grain, every second with a dark line."""
    rng = np.random.default_rng(seed)
    tiles = rng.normal(
        rng.uniform(70, 200, (count, 1, 1, 1)), rng.uniform(3, 25, (count, 1, 1, 1)), (count, 224, 224, 3)
    )
    for index in range(0, count, 2):
        x = int(rng.integers(20, 200))
        tiles[index, :, x : x + 5] *= 0.4
    return np.clip(tiles, 0, 255).astype(np.uint8)


TILES = concrete(8)


@pytest.fixture(scope="module")
def opnet() -> CellClassifier:
    return settled("opnet", TILES)


@pytest.fixture(scope="module")
def exported(opnet: CellClassifier) -> onnx.ModelProto:
    return to_onnx(opnet)


def test_float_file_gives_the_logits_of_the_net(opnet: CellClassifier, exported: onnx.ModelProto) -> None:
    expected = TorchScorer(opnet).logits(TILES)
    assert expected.std() > 0.05
    np.testing.assert_allclose(OnnxScorer(exported).logits(TILES), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("opnet-lse", {"lse_sharpness": 4.0}),
        ("opnet-lse", {"lse_sharpness": 4.0, "context": (2, 4)}),
        ("mobilenetv2", {}),
    ],
)
def test_other_nets_agree_too(name: str, options: dict[str, Any]) -> None:
    net = settled(name, TILES[:6], **options)
    np.testing.assert_allclose(
        OnnxScorer(to_onnx(net)).logits(TILES[:4]), TorchScorer(net).logits(TILES[:4]), atol=1e-3
    )


def test_input_is_bytes_of_any_batch_and_mean_of_cells_is_the_logit(exported: onnx.ModelProto) -> None:
    session = ort.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    assert (given.name, given.type, given.shape[1:]) == ("tiles", "tensor(uint8)", [224, 224, 3])
    for batch in (1, 3):
        logit, cells = session.run(["logit", "cells"], {"tiles": TILES[:batch]})
        assert logit.shape == (batch,)
        assert cells.shape == (batch, 14, 14)
        np.testing.assert_allclose(cells.mean(axis=(1, 2)), logit, atol=1e-5)


def test_batch_normalisation_is_folded(exported: onnx.ModelProto) -> None:
    assert "BatchNormalization" not in {node.op_type for node in exported.graph.node}


def test_scaling_is_cut_off_exactly(opnet: CellClassifier, exported: onnx.ModelProto) -> None:
    core, scaling = split_scaling(exported)
    assert (scaling.mean, scaling.std) == (127, 64.0)
    session = ort.InferenceSession(core.SerializeToString(), providers=["CPUExecutionProvider"])
    scaled = (TILES.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 64
    np.testing.assert_allclose(
        session.run(["logit"], {"scaled": scaled})[0], TorchScorer(opnet).logits(TILES), atol=1e-4
    )


class _Scaled(nn.Module):
    def __init__(self, mean: Any, factor: float = 1 / 64) -> None:
        super().__init__()
        self.mean, self.factor = mean, factor
        self.head = nn.Conv2d(3, 1, 3)

    def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = self.head((tiles.float() - self.mean) * self.factor).squeeze(1)
        return cells.mean(dim=(1, 2)), cells


@pytest.mark.parametrize(
    ("mean", "what"),
    [
        (127.5, "whole number"),
        (torch.tensor([100.0, 110.0, 120.0]).reshape(1, 3, 1, 1), "one number"),
        (-300.0, "whole number"),
    ],
)
def test_scaling_that_bytes_cannot_carry_is_refused(mean: Any, what: str) -> None:
    with pytest.raises(ExportError, match=what):
        split_scaling(to_onnx(_Scaled(mean)))


def test_a_net_that_cannot_be_traced_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, _: torch.Tensor) -> None:
            raise ValueError("no such shape")

    with pytest.raises(ExportError, match="no such shape"):
        to_onnx(Broken())


def test_the_fourth_byte_is_ignored(exported: onnx.ModelProto) -> None:
    core, scaling = split_scaling(exported)
    core = preprocess(core)
    histograms = observe(core, scaling, TILES)
    three, four = (quantise(core, scaling, histograms, method=METHODS[0], channels=channels) for channels in (3, 4))
    np.testing.assert_allclose(OnnxScorer(three).logits(TILES), OnnxScorer(four).logits(TILES), atol=1e-5)
    session = ort.InferenceSession(four.SerializeToString(), providers=["CPUExecutionProvider"])
    for value in (0, 255):
        wide = np.concatenate([TILES[:2], np.full_like(TILES[:2, ..., :1], value)], axis=3)
        np.testing.assert_allclose(
            session.run(["logit"], {"tiles": wide})[0], OnnxScorer(three).logits(TILES[:2]), atol=1e-5
        )


def test_padding_needs_one_first_convolution() -> None:
    with pytest.raises(ExportError, match="one convolution"):
        pad_channels(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), 4)


@pytest.fixture(scope="module")
def quantised(exported: onnx.ModelProto) -> Quantised8:
    core, scaling = split_scaling(exported)
    core = preprocess(core)
    histograms = observe(core, scaling, TILES)
    plain = quantise(core, scaling, histograms, method=METHODS[0], channels=4)
    return core, scaling, histograms, plain, correct_biases(plain, core, scaling, TILES[:8])


def test_8_bit_logits_are_near_the_float_ones_and_bias_correction_brings_them_nearer(
    opnet: CellClassifier, quantised: Quantised8
) -> None:
    expected = TorchScorer(opnet).logits(TILES)
    *_, plain, corrected = quantised
    before = np.abs(OnnxScorer(plain).logits(TILES) - expected).mean()
    after = np.abs(OnnxScorer(corrected).logits(TILES) - expected).mean()
    assert after < 0.25 * expected.std()
    assert after < before


def test_context_is_quantised_too_and_keeps_the_logits() -> None:
    net = settled("opnet-lse", TILES, lse_sharpness=4.0, context=(2, 4))
    core, scaling = split_scaling(to_onnx(net))
    core = preprocess(core)
    model = quantise(core, scaling, observe(core, scaling, TILES), method=METHODS[0], channels=4)
    weights = [item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8]
    assert sum(len(item.dims) == 4 for item in weights) == 4 + 2 * 2
    expected = TorchScorer(net).logits(TILES)
    assert np.abs(OnnxScorer(model).logits(TILES) - expected).mean() < 0.1 * expected.std()


def test_the_bytes_are_the_quantised_input(quantised: Quantised8) -> None:
    model = quantised[-1]
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    first = next(node for node in model.graph.node if "tiles" in node.input)
    assert first.op_type == "Transpose"
    follows = next(node for node in model.graph.node if first.output[0] in node.input)
    assert follows.op_type == "DequantizeLinear"
    assert constants[follows.input[1]] == np.float32(1 / 64)
    assert constants[follows.input[2]] == 127
    assert constants[follows.input[2]].dtype == np.uint8
    assert not {"Cast", "Sub", "Mul", "Div"} & {node.op_type for node in model.graph.node}


def test_weights_have_7_bits_so_that_no_sum_of_two_products_saturates(quantised: Quantised8) -> None:
    model = quantised[-1]
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = [value for value in constants.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 4
    assert all(np.abs(value.astype(int)).max() <= 64 for value in weights)
    assert np.iinfo(np.int16).max >= 2 * 255 * 64


def test_an_older_runtime_is_not_put_off_by_operator_sets_that_nobody_uses(
    exported: onnx.ModelProto, quantised: Quantised8
) -> None:
    for model in (exported, quantised[-1]):
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]


def test_the_head_stays_in_float_and_the_rest_does_not(quantised: Quantised8) -> None:
    model = quantised[-1]
    quantised_outputs = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    in_float = [node for node in convolutions if node.output[0] not in quantised_outputs]
    assert [node.name for node in in_float] == ["/net/head/Conv"]
    assert len(convolutions) == 5


def test_layers_can_be_left_in_float_the_most_sensitive_first(quantised: Quantised8) -> None:
    core, scaling, histograms, *_ = quantised
    order = sensitivities(core, scaling, histograms, TILES[:4], method=METHODS[0], channels=4)
    assert len(order) == 3
    model = quantise(core, scaling, histograms, method=METHODS[0], channels=4, keep_float=order[:1])
    weights = [
        item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 4
    ]
    assert len(weights) == 3


def test_ranges_hold_zero_and_clip_only_tails() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[:200] = 100_000
    counts[-1] = 1
    outlier = Histogram(0.0, 100.0, counts)
    assert choose_range(outlier, Method("minmax")) == (0.0, 100.0)
    for method in (Method("percentile", 99.99), Method("mse")):
        low, high = choose_range(outlier, method)
        assert low == 0.0
        assert 9 < high < 60, method
    low, high = choose_range(Histogram(5.0, 6.0, np.ones(2048, dtype=np.int64)), Method("minmax"))
    assert (low, high) == (0.0, 6.0)
    with pytest.raises(ValueError, match="minmax"):
        choose_range(outlier, Method("guess"))


def test_metadata_is_replaced_not_doubled(exported: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    set_metadata(model, {"a": "1", "b": "2"})
    set_metadata(model, {"a": "3"})
    assert {item.key: item.value for item in model.metadata_props} == {"a": "3", "b": "2"}
    assert len(model.metadata_props) == 2


def test_a_float_input_is_not_scored(exported: onnx.ModelProto) -> None:
    core, _ = split_scaling(exported)
    with pytest.raises(ValueError, match="uint8"):
        OnnxScorer(core)


@pytest.mark.parametrize("shift", [-1.5, 0.8])
def test_a_shift_that_is_left_in_the_logit_is_taken_out(quantised: Quantised8, shift: float) -> None:
    core, scaling, _, _, model = quantised
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    (bias,) = [
        item
        for item in shifted.graph.initializer
        if list(item.dims) == [1] and item.data_type == 1 and "head" in item.name
    ]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(shift), bias.name))
    moved = OnnxScorer(shifted).logits(TILES) - OnnxScorer(model).logits(TILES)
    assert np.allclose(moved, shift, atol=1e-4)
    mended = correct_logit(shifted, core, scaling, TILES)
    again = correct_logit(model, core, scaling, TILES)
    assert np.allclose(OnnxScorer(mended).logits(TILES), OnnxScorer(again).logits(TILES), atol=1e-4)
