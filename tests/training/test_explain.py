from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")
pytest.importorskip("captum", reason="needs the [training] extra")

from training.cli import _register_further_commands, app
from training.config import read_settings
from training.engine import checkpoint
from training.errors import ConfigError, DataError
from training.evaluation.explain import CELLS, GRAD_CAM, GRADIENTS, Explainer, random_nets, similarity
from training.evaluation.explain_command import ExplainSettings
from training.evaluation.metrics import clopper_pearson
from training.evaluation.pointing import TilePoint, judge, maximum_at, summarise, widened
from training.models import CellClassifier, create
from training.page import read_sections

from .conftest import REPOSITORY, texture

pytestmark = pytest.mark.training

CONFIG = REPOSITORY / "config/training/commands/explain.yaml"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads wait for each other on a busy machine longer than these small nets take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    rng = np.random.default_rng(3)
    found = np.stack([texture(rng, 96) for _ in range(3)])
    found[:, :, 40:44] //= 4
    return found


def net_of(name: str, pooling: str = "mean") -> CellClassifier:
    torch.manual_seed(5)
    return create(name, pooling=pooling).eval()


@pytest.mark.parametrize(("name", "pooling"), [("opnet", "mean"), ("opnet", "lse"), ("mobilenetv2", "mean")])
def test_grad_cam_of_the_last_map_is_the_cells_without_bias_cut_off_at_zero(
    name: str, pooling: str, tiles: np.ndarray
) -> None:
    net = net_of(name, pooling)
    found = Explainer(net, n_steps=2).explain(tiles[:1])[0]
    assert found.grad_cam is not None
    bias = float(net.state_dict()["head.bias"][0])
    expected = np.maximum(found.cells - bias, 0) / found.cells.size
    np.testing.assert_allclose(found.grad_cam, expected, rtol=1e-3, atol=1e-6)


def test_cells_and_logit_are_those_of_the_net(tiles: np.ndarray) -> None:
    net = net_of("opnet")
    with torch.no_grad():
        logit, cells = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    for index, found in enumerate(Explainer(net, n_steps=2).explain(tiles)):
        np.testing.assert_allclose(found.cells, cells[index].numpy(), atol=1e-5)
        assert found.logit == pytest.approx(float(logit[index]), abs=1e-5)


def test_integrated_gradients_add_up_to_the_difference_from_the_grey_tile(tiles: np.ndarray) -> None:
    net = net_of("opnet")
    found = Explainer(net, n_steps=64).explain(tiles[:1])[0]
    with torch.no_grad():
        picture = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2)
        distance = float(net(picture)[0] - net(torch.full_like(picture, 127))[0])
    assert found.gradients is not None
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert float(found.gradients.sum()) == pytest.approx(distance + found.delta, abs=1e-4)
    assert abs(found.delta) < 0.05 * abs(distance)


def test_a_grey_tile_has_nothing_to_attribute() -> None:
    found = Explainer(net_of("opnet"), n_steps=2).explain(np.full((1, 96, 96, 3), 127, np.uint8))[0]
    assert found.gradients is not None
    assert not found.gradients.any()


def test_the_layer_is_named_and_another_can_be_asked_for(tiles: np.ndarray) -> None:
    net = net_of("mobilenetv2")
    assert Explainer(net).layer() == ("backbone.18, Conv2dNormActivation, 1280 channels, 7 x 7 (the last feature map)")
    earlier = Explainer(net, layer="13", n_steps=2)
    assert earlier.layer() == "backbone.13, InvertedResidual, 96 channels, 14 x 14"
    grad_cam = earlier.explain(tiles[:1])[0].grad_cam
    assert grad_cam is not None
    assert grad_cam.shape == (6, 6)
    with pytest.raises(ConfigError, match="the backbone has no '99'; allowed: 0, 1"):
        Explainer(net, layer="99")


def test_nets_with_random_weights_differ_come_back_with_their_seed_and_are_alive(tiles: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    first, second = random_nets("mobilenetv2", {}, tiles, count=2, seed=1)
    again = random_nets("mobilenetv2", {}, tiles, count=1, seed=1)[0]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, second.head.weight)
    with torch.no_grad():
        features = first.features(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    assert float(features.std()) > 0.1


def test_the_widened_mask_reaches_as_far_as_stated() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[100, 100] = 255
    found = widened(mask, 15)
    rows, columns = np.indices(mask.shape)
    expected = np.hypot(rows - 100, columns - 100) <= 15
    # OpenCV's precise distance is exact but for float32
    assert (found != expected).sum() <= 12
    assert (widened(mask, 0) == (mask > 0)).all()
    with pytest.raises(ValueError, match="marks nothing"):
        widened(np.zeros_like(mask), 15)


def test_the_maximum_of_a_coarse_map_is_the_centre_of_its_cell() -> None:
    values = np.zeros((7, 7), np.float32)
    values[2, 6] = 1
    assert maximum_at(values, 224) == (80, 208)


def test_a_map_on_the_crack_hits_and_one_beside_it_does_not() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, 110:114] = 255
    on, beside = np.full((224, 224), -1, np.float32), np.full((224, 224), -1, np.float32)
    on[:, 111] = 2
    beside[:, 20] = 2
    hit, miss = judge(on, mask, 15), judge(beside, mask, 15)
    assert hit.hit
    assert hit.energy == pytest.approx(1.0)
    assert not miss.hit
    assert miss.energy == 0
    assert hit.chance == pytest.approx(34 / 224)
    silent = judge(np.full((7, 7), -1, np.float32), mask, 15)
    assert silent == TilePoint(hit=False, energy=0.0, chance=hit.chance, reachable=True, silent=True)


def test_a_constant_map_reaches_the_chance_level() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[30:60, 30:200] = 255
    point = judge(np.ones((7, 7), np.float32), mask, 10)
    assert point.energy == pytest.approx(point.chance)


def test_a_coarse_map_that_cannot_hit_is_said_to() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, 0] = 255
    assert not judge(np.ones((7, 7), np.float32), mask, 10).reachable
    assert judge(np.ones((14, 14), np.float32), mask, 10).reachable


def test_figures_have_both_intervals_and_stand_beside_chance() -> None:
    points = [
        TilePoint(hit=index % 4 != 0, energy=0.5, chance=0.2, reachable=True, silent=index == 0) for index in range(40)
    ]
    groups = [f"photograph {index // 4}" for index in range(40)]
    found = summarise(points, groups, resamples=200, seed=1)
    assert (found.hits.hits, found.hits.total, found.photographs, found.silent) == (30, 40, 10, 1)
    assert (found.hits.low, found.hits.high) == clopper_pearson(30, 40)
    # every photograph has the same share: what ten of them cannot exclude is a share of others up to 31 %
    unseen = 1 - 0.025 ** (1 / 10)
    assert found.hits_by_group.as_list() == pytest.approx([0.75, 0.75 - unseen, 1.0])
    assert found.hits_above.value == pytest.approx(0.55)
    assert found.energy_above.value == pytest.approx(0.3)
    assert found.verdict == "above chance"


def test_a_model_that_points_anywhere_is_not_told_from_chance() -> None:
    rng = np.random.default_rng(2)
    points = [
        TilePoint(hit=bool(rng.random() < 0.3), energy=0.3, chance=0.3, reachable=True, silent=False)
        for _ in range(200)
    ]
    found = summarise(points, [str(index // 5) for index in range(200)], resamples=300, seed=1)
    assert found.verdict == "not told from chance"
    assert summarise(points[:3], ["a"] * 3, resamples=20).verdict == "too few photographs"


def test_similarity_is_one_for_a_map_and_itself_and_unknown_for_a_constant_one() -> None:
    values = np.random.default_rng(1).normal(size=(14, 14)).astype(np.float32)
    other = np.random.default_rng(2).normal(size=(14, 14)).astype(np.float32)
    assert similarity(values, -3 * values) == pytest.approx(1.0)
    assert abs(similarity(values, other)) < 0.3
    assert np.isnan(similarity(values, np.zeros((14, 14), np.float32)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "tiny" / "best.pt"
    path.parent.mkdir()
    net = net_of("opnet")
    content = {"model": "opnet", "options": {}, "state_dict": net.state_dict(), "history": [], "step": 1}
    checkpoint.save(path, content)
    return path


def options(data_root: Path, cache: Path, splits: Path) -> list[str]:
    return ["--data", str(data_root), "--cache", str(cache), "--splits", str(splits)]


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    content |= {"sets": ["uav75/val"], "limit": 10, "examples": 1, "pointing_sets": ["uav75/val", "metu-ccic/val"]}
    content |= {"tiles_per_set": 3, "n_steps": 2, "controls": 1, "resamples": 20}
    path = tmp_path / "explain.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_committed_configuration_is_the_default() -> None:
    assert read_settings(CONFIG, ExplainSettings) == ExplainSettings()


def test_the_command_writes_errors_maps_figures_and_a_page(
    tmp_path: Path, quick: Path, model: Path, data_root: Path, cache: Path, splits: Path
) -> None:
    _register_further_commands()
    arguments = ["explain", str(model), "--config", str(quick), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits), "--threshold-p", "0.5"])
    assert result.exit_code == 0, result.output
    assert "metu-ccic/val: no cracked tile with a mask" in result.output
    folder = tmp_path / "out" / "tiny"
    content = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    assert content["operating_point"]["threshold_logit"] == pytest.approx(0.0)
    assert content["grad_cam_layer"].startswith("backbone.15, MaxPool2d, 256 channels, 14 x 14")
    rows = {(row["network"], row["method"], row["of"]): row for row in content["measured"]}
    for network in ("trained", "random weights"):
        for method in (CELLS, GRAD_CAM, GRADIENTS):
            assert rows[network, method, "all cracks"]["tiles"] == 3
    assert rows["trained", GRADIENTS, "all cracks"]["similarity_to_random"] is not None
    with (folder / "errors.csv").open(encoding="utf-8", newline="") as file:
        errors = list(csv.DictReader(file))
    assert len(errors) == content["sets"]["uav75/val"]["errors"]
    assert all((float(row["logit"]) >= 0) == (row["error"] == "false positive") for row in errors)
    assert (folder / "uav75-val-maps.png").is_file()
    titles = [section.title for section in read_sections(folder / "index.html")[2]]
    assert titles[0] == "Does it look at the crack?"
    assert "pointing.svg" in (folder / "explain.md").read_text(encoding="utf-8")


def test_a_bundle_is_explained_too_as_the_network_that_its_float_file_is(
    tmp_path: Path, quick: Path, data_root: Path, cache: Path, splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register_further_commands()
    bundle = REPOSITORY / "exported_models" / "opnet-lse"
    arguments = ["explain", str(bundle), "--config", str(quick), "--out", str(tmp_path / "out")]
    monkeypatch.chdir(REPOSITORY)
    result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits)])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "opnet-lse-int8"
    content = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    assert content["operating_point"]["basis"] == "the operating point of the bundle opnet-lse"
    assert {row["method"] for row in content["measured"]} == {CELLS, GRAD_CAM, GRADIENTS}
    assert "the float file of the same bundle" in (folder / "explain.md").read_text(encoding="utf-8")
    # where the configuration that says which network it is is not at hand, what needs no gradients is still there
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits)])
    assert result.exit_code == 0, result.output
    assert "no maps that need gradients" in " ".join(result.output.split())
    content = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in content["measured"]} == {CELLS}


def test_a_checkpoint_without_validation_sets_of_both_kinds_needs_a_threshold(
    tmp_path: Path, quick: Path, model: Path, data_root: Path, cache: Path, splits: Path
) -> None:
    _register_further_commands()
    arguments = [
        "explain",
        str(model),
        "--config",
        str(quick),
        "--out",
        str(tmp_path / "out"),
        "--sets",
        "omu-quay/val",
    ]
    result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits)])
    assert isinstance(result.exception, DataError)
    assert "give --threshold-p or --bundle" in str(result.exception)
