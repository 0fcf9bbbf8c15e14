from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from training.models import MODELS, create, parameter_count
from training.models.opnet import Context
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


def test_context_costs_138_thousand_parameters() -> None:
    assert parameter_count(create("opnet-lse", context=(2, 4))) == 527_361
    assert parameter_count(create("opnet-lse", context=())) == 389_633


def test_context_starts_as_the_identity_and_can_learn_to_look_around() -> None:
    torch.manual_seed(1)
    block = Context(8, 2)
    features = torch.rand(2, 8, 9, 9)
    assert torch.equal(block(features), features)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    moved = features.clone()
    moved[:, :, 4, 4] += 1
    changed = (block.eval()(moved) - block(features)).abs().amax(dim=(0, 1)) > 0
    assert {tuple(place) for place in changed.nonzero().tolist()} == {(y, x) for y in (2, 4, 6) for x in (2, 4, 6)}


def test_a_trained_net_is_widened_without_a_change_of_its_logits() -> None:
    torch.manual_seed(1)
    trained = create("opnet-lse", lse_sharpness=4.0)
    trained.train()(tiles())  # the batch norms have seen something
    wide = create("opnet-lse", lse_sharpness=4.0, context=(2, 4))
    wide.start_from(trained.state_dict())
    with torch.inference_mode():
        expected, found = trained.eval()(tiles()), wide.eval()(tiles())
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    again = create("opnet-lse", lse_sharpness=4.0, context=(2, 4))
    again.start_from(wide.state_dict())
    assert all(torch.equal(value, wide.state_dict()[key]) for key, value in again.state_dict().items())


def test_only_added_blocks_may_be_missing() -> None:
    plain, wide = create("opnet-lse"), create("opnet-lse", context=(2,))
    state = plain.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing.*head\.bias"):
        wide.start_from({key: value for key, value in state.items() if key != "head.bias"})
    with pytest.raises(RuntimeError, match=r"Unexpected.*colour"):
        wide.start_from({**state, "colour": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected.*backbone\.16"):
        plain.start_from(wide.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        wide.start_from(create("opnet-lse", width=0.5).state_dict())


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [
        ("opnet", "context", [0], "a list of whole numbers of 1 or more"),
        ("opnet", "context", (2, -1), "a list of whole numbers of 1 or more"),
        ("opnet-lse", "context", [2.5], "a list of whole numbers of 1 or more"),
        ("opnet", "context", [True], "a list of whole numbers of 1 or more"),
        ("opnet", "context", 2, "a list of whole numbers of 1 or more"),
        ("opnet", "context", "24", "a list of whole numbers of 1 or more"),
        ("opnet", "pooling", "top", "'mean' or 'lse'"),
        ("mobilenetv2", "pooling", None, "'mean' or 'lse'"),
        ("opnet", "pooling", ["lse"], "'mean' or 'lse'"),
        ("opnet-lse", "lse_sharpness", 0, "a number above 0"),
        ("mobilenetv2", "lse_sharpness", "sharp", "a number above 0"),
        ("opnet-lse", "lse_sharpness", float("nan"), "a number above 0"),
        ("opnet", "width", "two", "a number above 0"),
        ("opnet", "width", -1, "a number above 0"),
        ("opnet", "width", True, "a number above 0"),
        ("opnet", "dropout", "half", "a number from 0 to 1"),
        ("resnet18", "dropout", 1.5, "a number from 0 to 1"),
        ("efficientnet-lite0", "stochastic_depth", -0.1, "a number from 0 to 1"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_with_what_is_allowed(
    name: str, option: str, value: object, allowed: str
) -> None:
    with pytest.raises(ValueError, match=rf"^options\.{option} must be {allowed}, found {re.escape(repr(value))}$"):
        create(name, **{option: value})


@pytest.mark.parametrize("pooling", ["mean", "lse"])
def test_both_poolings_and_whole_numbers_are_taken(pooling: str) -> None:
    model = create("opnet", pooling=pooling, lse_sharpness=4, width=1, dropout=0, context=[2, 4])
    assert model.pooling == pooling


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
    with pytest.raises(ValueError, match=r"'vgg99' is unknown \(is 'vgg16' meant\?\); allowed: .*opnet"):
        create("vgg99")
    with pytest.raises(ValueError, match=r"options\.dropuot .*'dropout' meant.*allowed: .*pooling"):
        create("opnet", dropuot=0.1)
    with pytest.raises(ValueError, match=r"options\.colour of model 'opnet-lse': unknown; allowed: "):
        create("opnet-lse", colour=1)
    assert "mobilenetv2" in MODELS


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet-lite0"])
def test_weights_of_another_network_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(create("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match="ImageNet weights"):
        create(name, pretrained=str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"w\.pth: not a readable file of weights"):
        create(name, pretrained=str(path))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds no weights"):
        create(name, pretrained=str(path))


def test_a_download_of_torchvision_is_held_against_the_hash_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def get_state_dict(_self: object, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options)
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", get_state_dict)
    with pytest.raises(ValueError, match="invalid hash value"):
        create("mobilenetv2", pretrained="torchvision")
    assert asked["check_hash"] is True
