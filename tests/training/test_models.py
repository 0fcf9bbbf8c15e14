from __future__ import annotations

import pytest
import torch

from training.models import MODELS, create, parameter_count
from training.models.scaling import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, fold_imagenet, scale

pytestmark = pytest.mark.training


def tiles(count: int = 2, px: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, px, px), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("opnet", 389_633),
        ("opnet-lse", 389_633),
        ("mobilenetv2", 2_225_153),
        ("resnet18", 11_177_025),
        ("efficientnet-b0", 4_008_829),
        ("vgg16", 14_715_201),
    ],
)
def test_models_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert parameter_count(create(name)) == parameters


@pytest.mark.parametrize("name", ["opnet", "mobilenetv2"])
def test_logit_is_the_mean_of_the_cells(name: str) -> None:
    model = create(name).eval()
    with torch.inference_mode():
        logit, cells = model(tiles())
    assert logit.shape == (2,)
    torch.testing.assert_close(logit, cells.mean(dim=(1, 2)))


def test_cells_and_mean_equal_the_published_order_of_pooling_and_linear_head() -> None:
    model = create("opnet").eval()
    with torch.inference_mode():
        features = model.features(tiles())
        published = torch.nn.functional.linear(features.mean(dim=(2, 3)), model.head.weight.flatten(1), model.head.bias)
        torch.testing.assert_close(model(tiles())[0], published.squeeze(1), atol=1e-5, rtol=1e-4)


def test_log_sum_exp_lies_between_mean_and_maximum() -> None:
    model = create("opnet-lse", lse_sharpness=3.0).eval()
    with torch.inference_mode():
        logit, cells = model(tiles())
    assert bool((logit >= cells.mean(dim=(1, 2)) - 1e-5).all())
    assert bool((logit <= cells.amax(dim=(1, 2)) + 1e-5).all())


def test_dropout_acts_while_training_only() -> None:
    features = torch.ones(1, 256, 2, 2)
    model = create("opnet")
    assert not torch.equal(model.train().classify(features)[0], model.classify(features)[0])
    assert torch.equal(model.eval().classify(features)[0], model.classify(features)[0])


def test_grey_127_is_exactly_zero_after_scaling() -> None:
    assert float(scale(torch.full((1, 3, 1, 1), 127, dtype=torch.uint8)).abs().max()) == 0.0


def test_folded_convolution_sees_bgr_as_the_imagenet_one_saw_rgb() -> None:
    bgr = tiles().float()
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (IMAGENET_MEAN_RGB, IMAGENET_STD_RGB))
    expected = torch.nn.functional.conv2d((bgr.flip(1) / 255 - mean) / std, weight)
    folded, shift = fold_imagenet(weight)
    found = torch.nn.functional.conv2d(scale(bgr), folded) + shift[None, :, None, None]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_unknown_models_and_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="opnet"):
        create("vgg99")
    with pytest.raises(ValueError, match="colour"):
        create("opnet", colour=1)
    assert "mobilenetv2" in MODELS
