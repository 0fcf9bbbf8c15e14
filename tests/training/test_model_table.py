from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from rich.console import Console
from torchvision import models as torchvision_models
from torchvision.models.vgg import cfgs, make_layers
from typer.testing import CliRunner

from training.cli import app
from training.errors import ConfigError
from training.export.onnx import split_scaling, to_onnx
from training.export.quantize import Method, observe, preprocess, quantise
from training.models import MODELS, command, create
from training.models.compare import PUBLISHED_VGG, ModelRow, compare, layer_summary, mult_adds, rich_table
from training.models.scaling import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, scale
from training.progress import no_bar

pytestmark = pytest.mark.training

HEADS = {
    "mobilenetv2": {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)},
    "efficientnet-b0": {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)},
    "resnet18": {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
}
"""Torchvision's classifiers, which are loaded and dropped."""


def their_stages(name: str) -> list[torch.nn.Module]:
    """The parts of torchvision's feature extractor, in order."""
    if name == "mobilenetv2":
        return list(torchvision_models.mobilenet_v2(weights=None).features)
    if name == "efficientnet-b0":
        return list(torchvision_models.efficientnet_b0(weights=None).features)
    if name == "vgg16":
        return list(make_layers(cfgs["D"]))
    return list(torchvision_models.resnet18(weights=None).children())[:-2]


def keyed(name: str, stages: list[torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Their weights under the keys of torchvision's files."""
    residual = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    names = residual if name == "resnet18" else [f"features.{index}" for index in range(len(stages))]
    return {
        f"{part}.{key}": value
        for part, stage in zip(names, stages, strict=True)
        for key, value in stage.state_dict().items()
    }


@pytest.mark.parametrize(("name", "first"), [("mobilenetv2", 1), ("efficientnet-b0", 1), ("resnet18", 3), ("vgg16", 2)])
def test_folded_weights_see_what_torchvision_sees(name: str, first: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    stages = their_stages(name)
    for module in torch.nn.Sequential(*stages).eval().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.uniform_(module.bias, -1, 1)
    torch.save(keyed(name, stages) | HEADS.get(name, {}), tmp_path / "imagenet.pth")
    ours = create(name, pretrained=str(tmp_path / "imagenet.pth")).eval()
    own = list(ours.backbone.children())

    tiles = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = torch.tensor(IMAGENET_MEAN_RGB), torch.tensor(IMAGENET_STD_RGB)
    prepared = (tiles.flip(1).float() / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        expected = torch.nn.Sequential(*stages[:first])(prepared)
        found = torch.nn.Sequential(*own[:first])(scale(tiles))
    inner = slice(2, -2)  # nearer to the border the convolution also meets its padding, which means another grey level
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, expected, atol=1e-2)
    for theirs, mine in zip(stages[first:], own[first:], strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "vgg16"])
def test_missing_weights_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth.*'torchvision'"):
        create(name, pretrained=str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_exports_to_the_same_logits(name: str) -> None:
    torch.manual_seed(2)
    net = create(name).eval()
    session = ort.InferenceSession(to_onnx(net, tile_px=64).SerializeToString(), providers=["CPUExecutionProvider"])
    tiles = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    logit, cells = session.run(["logit", "cells"], {"tiles": tiles})
    with torch.inference_mode():
        expected, places = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    assert np.allclose(logit, expected.numpy(), atol=1e-4, rtol=1e-3)
    assert np.allclose(cells, places.numpy(), atol=1e-4, rtol=1e-3)


def test_efficientnet_b0_judges_alike_in_eight_bits() -> None:
    torch.manual_seed(4)
    net = create("efficientnet-b0")
    for module in net.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average of what is shown; else the signal dies out on its way
    with torch.no_grad():
        net(torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8))
    net.eval()
    float_model = to_onnx(net, tile_px=64)
    core, scaling = split_scaling(float_model)
    core = preprocess(core)
    tiles = np.random.default_rng(4).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    tiles[::2] //= 4  # dark and bright ones, so that the logits differ
    model = quantise(core, scaling, observe(core, scaling, tiles), method=Method("minmax"))
    wanted, found = (
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["logit"], {"tiles": tiles}
        )[0]
        for graph in (float_model, model)
    )
    assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    assert float(np.corrcoef(wanted, found)[0, 1]) > 0.9


def test_mult_adds_are_as_published() -> None:
    # MobileNetV2: 300 million (Sandler et al., 2018); OPNet: by hand, 9 x in x out x places of its four convolutions
    assert mult_adds("mobilenetv2") == pytest.approx(300e6, rel=0.05)
    channels, sides = (3, 32, 64, 128, 256), (224, 112, 56, 28)
    by_hand = sum(9 * a * b * side**2 for a, b, side in zip(channels, channels[1:], sides, strict=False))
    assert mult_adds("opnet") == pytest.approx(by_hand, rel=0.02)


def test_vgg16_gets_a_second_row_as_it_was_published() -> None:
    ours, published = compare(["vgg16"], reference="vgg16", quantised=False, rounds=0, seed=1, step=no_bar)
    assert (ours.name, ours.parameters) == ("vgg16", 14_715_201)
    # Simonyan and Zisserman 2015: 138 million; 15.5 thousand million multiplications
    assert (published.name, published.parameters) == (PUBLISHED_VGG, 138_357_544)
    assert published.mult_adds == pytest.approx(15.48e9, rel=0.001)
    assert published.fp32_bytes == 553_430_176
    console = Console(width=80, record=True, file=io.StringIO())
    timed = ModelRow("efficientnet-lite0", 3_372_289, 384_000_000, 13_390_295, 3_808_001, 0.65, 18.936)
    console.print(rich_table([timed, ours, published], "opnet"))
    text = console.export_text()
    assert "…" not in text
    assert all(whole in text for whole in ("138,357,544", "15,484", "553.43", "published"))


def test_layers_are_listed() -> None:
    text = layer_summary("opnet")
    assert text.count("Conv2d") == 5
    assert "389,633" in text


@pytest.fixture
def run(tmp_path: Path) -> tuple[CliRunner, Path]:
    if not any(known.name == "models" for known in app.registered_commands):
        command.register(app)
    config = tmp_path / "models.yaml"
    config.write_text(f"models: [opnet]\nrounds: 5\nout: {tmp_path / 'out'}\n")
    return CliRunner(), config


def test_the_table_is_written_with_ratios_to_the_reference(run: tuple[CliRunner, Path]) -> None:
    runner, config = run
    done = runner.invoke(app, ["models", "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = json.loads((config.parent / "out/models.json").read_text())
    assert row["parameters"] == 389_633
    assert row["fp32_ratio"] == 1.0
    assert 0 < row["int8_bytes"] < 0.5 * row["fp32_bytes"]
    assert (config.parent / "out/models.svg").is_file()
    assert "| opnet |" in (config.parent / "out/models.md").read_text()


def test_numbers_and_names_are_whole_in_a_terminal_of_80_columns() -> None:
    rows = [
        ModelRow("efficientnet-lite0", 3_372_289, 384_000_000, 13_390_295, 3_808_001, 0.65, 0.318),
        ModelRow("vgg16", 14_715_201, 15_360_203_313, 58_856_355, None, 18.936, None),
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(rows, "opnet"))
    text = console.export_text()
    assert "…" not in text
    assert all(whole in text for whole in ("efficientnet-lite0", "14,715,201", "15,360", "mult-adds", "18.94", "0.32│"))


def test_unknown_models_are_refused_with_the_known_ones(run: tuple[CliRunner, Path]) -> None:
    runner, config = run
    with pytest.raises(ConfigError, match=r"'alexnet'.*mobilenetv2"):
        runner.invoke(app, ["models", "--config", str(config), "--only", "alexnet"], catch_exceptions=False)


def test_no_bar_takes_steps_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with no_bar("work", 3) as advance:
        advance(3)
    assert capsys.readouterr().out == ""
