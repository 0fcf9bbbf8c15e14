from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torchvision import models as torchvision_models
from torchvision.models import get_model
from typer.testing import CliRunner

from training.cli import app
from training.errors import ConfigError
from training.export.onnx import to_onnx
from training.models import MODELS, command, create
from training.models.compare import layer_summary, mult_adds
from training.models.scaling import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from training.models.zoo import VGG16_PUBLISHED_PARAMETERS
from training.progress import no_bar

pytestmark = pytest.mark.training

THEIRS = {
    "mobilenetv2": "mobilenet_v2",
    "resnet18": "resnet18",
    "efficientnet-b0": "efficientnet_b0",
    "vgg16": "vgg16",
}


def their_features(network: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """What torchvision's network sees in BGR tiles that are prepared as its documentation says."""
    rgb = tiles.flip(1).float() / 255
    mean, std = torch.tensor(IMAGENET_MEAN_RGB), torch.tensor(IMAGENET_STD_RGB)
    x: torch.Tensor = (rgb - mean[:, None, None]) / std[:, None, None]
    children = dict(network.named_children())
    if "features" in children:
        return children["features"](x)  # type: ignore[no-any-return]
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = children[name](x)
    return x


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_folded_weights_see_what_torchvision_sees(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = get_model(THEIRS[name], weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    ours = create(name, pretrained=str(tmp_path / "imagenet.pth")).eval()
    # a plain picture of the grey level that the padding means to us, with a texture inside: the border is the same
    generator = torch.Generator().manual_seed(1)
    tiles = torch.full((1, 3, 256, 256), 127, dtype=torch.uint8)
    tiles[:, :, 100:156, 100:156] = torch.randint(0, 256, (1, 3, 56, 56), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = their_features(theirs, tiles), ours.features(tiles)
    inner = slice(3, 5)  # cells whose field of view lies mostly inside
    difference = (expected - found)[:, :, inner, inner].abs().max()
    assert float(difference) < 0.05 * float(expected[:, :, inner, inner].abs().max()) + 1e-6


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


def test_mult_adds_are_as_published() -> None:
    # MobileNetV2: 300 million (Sandler et al., 2018); OPNet: by hand, 9 x in x out x places of its four convolutions
    assert mult_adds("mobilenetv2") == pytest.approx(300e6, rel=0.05)
    channels, sides = (3, 32, 64, 128, 256), (224, 112, 56, 28)
    by_hand = sum(9 * a * b * side**2 for a, b, side in zip(channels, channels[1:], sides, strict=False))
    assert mult_adds("opnet") == pytest.approx(by_hand, rel=0.02)


def test_the_published_size_of_vgg16_is_torchvisions() -> None:
    with torch.device("meta"):
        network = torchvision_models.vgg16(weights=None)
    assert sum(parameter.numel() for parameter in network.parameters()) == VGG16_PUBLISHED_PARAMETERS


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


def test_unknown_models_are_refused_with_the_known_ones(run: tuple[CliRunner, Path]) -> None:
    runner, config = run
    with pytest.raises(ConfigError, match=r"'alexnet'.*mobilenetv2"):
        runner.invoke(app, ["models", "--config", str(config), "--only", "alexnet"], catch_exceptions=False)


def test_no_bar_takes_steps_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with no_bar("work", 3) as advance:
        advance(3)
    assert capsys.readouterr().out == ""
