from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")
pytest.importorskip("captum", reason="needs the [training] extra")

from training.cli import _register_further_commands, app
from training.config import read_settings
from training.data.dataset import EvaluationSet
from training.engine import checkpoint
from training.errors import ConfigError, DataError, TrainingError
from training.evaluation.explain import (
    CELLS,
    GRAD_CAM,
    GRAD_CAM_EARLIER,
    GRADIENTS,
    METHODS,
    Explainer,
    Refinement,
    completeness,
    earlier_layer,
    random_nets,
    similarity,
)
from training.evaluation.explain_command import ExplainSettings, figures
from training.evaluation.explain_report import ALL_CRACKS, FOUND_CRACKS, RANDOM, TRAINED, plain_statements
from training.evaluation.gallery import OperatingPoint
from training.evaluation.metrics import clopper_pearson
from training.evaluation.pointing import TilePoint, judge, maximum_at, summarise, widened
from training.models import CellClassifier, create
from training.models.scaling import MEAN, STD
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


FEW_STEPS = Refinement(n_steps=2, most_steps=2)


def net_of(name: str, pooling: str = "mean") -> CellClassifier:
    torch.manual_seed(5)
    return create(name, pooling=pooling).eval()


@pytest.mark.parametrize(("name", "pooling"), [("opnet", "mean"), ("opnet", "lse"), ("mobilenetv2", "mean")])
def test_grad_cam_of_the_last_map_is_the_cells_without_bias_cut_off_at_zero(
    name: str, pooling: str, tiles: np.ndarray
) -> None:
    net = net_of(name, pooling)
    found = Explainer(net, refinement=FEW_STEPS).explain(tiles[:1])[0]
    assert found.grad_cam is not None
    bias = float(net.state_dict()["head.bias"][0])
    expected = np.maximum(found.cells - bias, 0) / found.cells.size
    np.testing.assert_allclose(found.grad_cam, expected, rtol=1e-3, atol=1e-6)


def test_cells_and_logit_are_those_of_the_net(tiles: np.ndarray) -> None:
    net = net_of("opnet")
    with torch.no_grad():
        logit, cells = net(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    for index, found in enumerate(Explainer(net, refinement=FEW_STEPS).explain(tiles)):
        np.testing.assert_allclose(found.cells, cells[index].numpy(), atol=1e-5)
        assert found.logit == pytest.approx(float(logit[index]), abs=1e-5)


def test_integrated_gradients_add_up_to_the_difference_from_the_grey_tile(tiles: np.ndarray) -> None:
    net = net_of("opnet")
    found = Explainer(net).explain(tiles[:1], n_steps=64)[0]
    with torch.no_grad():
        picture = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2)
        distance = float(net(picture)[0] - net(torch.full_like(picture, 127))[0])
    assert found.gradients is not None
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert float(found.gradients.sum()) == pytest.approx(distance + found.delta, abs=1e-4)
    assert abs(found.delta) < 0.05 * abs(distance)


def test_a_grey_tile_has_nothing_to_attribute() -> None:
    found = Explainer(net_of("opnet"), refinement=FEW_STEPS).explain(np.full((1, 96, 96, 3), 127, np.uint8))[0]
    assert found.gradients is not None
    assert not found.gradients.any()


def planted(sees: float, dead_below: float = 0.0) -> CellClassifier:
    """A net whose attribution is known: each cell is `sees` times the mean of the scaled pixel, less what is dead.

    Args:
        sees: below 0 what is darker than grey level 127 speaks for a crack, above 0 what is brighter.
        dead_below: 0: the net is linear; else a cell is 0 until its value is above this, so that the gradient jumps on
            the way from the grey tile.
    """
    colours = nn.Conv2d(3, 1, 1)
    nn.init.constant_(colours.weight, sees / 3)
    backbone = nn.Sequential(colours)
    if dead_below:
        backbone.append(nn.ReLU())
    net = CellClassifier(backbone, 1, dropout=0.0)
    nn.init.ones_(net.head.weight)
    for layer, bias in ((colours, -dead_below), (net.head, 0.0)):
        assert layer.bias is not None
        nn.init.constant_(layer.bias, bias)
    return net


def test_integrated_gradients_of_a_linear_net_are_its_weights_times_the_distance_from_grey(tiles: np.ndarray) -> None:
    found = Explainer(planted(-1.0)).explain(tiles[:1])[0]
    expected = -(tiles[0].astype(np.float64) - MEAN).mean(axis=2) / STD / 96**2
    assert found.gradients is not None
    np.testing.assert_allclose(found.gradients, expected, atol=1e-7)
    assert found.n_steps == 32
    assert found.delta == pytest.approx(0, abs=1e-5)
    # nothing stands between its only layer and the head
    assert found.grad_cam_earlier is None


def test_steps_are_doubled_up_to_the_most() -> None:
    assert list(Refinement().steps()) == [32, 64, 128, 256]
    assert list(Refinement(n_steps=48, most_steps=100).steps()) == [48, 96, 100]
    assert list(FEW_STEPS.steps()) == [2]


def test_a_sum_suffices_by_its_share_or_where_hardly_anything_is_missing() -> None:
    usual = Refinement()
    assert usual.suffices(-0.5, 10.0)
    assert not usual.suffices(0.51, -10.0)
    assert usual.suffices(0.05, 0.01)
    assert not usual.suffices(0.06, 0.01)


def test_only_a_tile_of_which_too_much_is_missing_takes_more_steps() -> None:
    black, grey = np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 127, np.uint8)
    # on the way to black the gradient jumps at a quarter of it: two points cannot know where
    net = planted(-1.0, dead_below=0.5)
    coarse = Refinement(n_steps=2, most_steps=2)
    rough = Explainer(net, refinement=coarse).explain(np.stack([black, grey]))
    assert abs(rough[0].delta) > 0.05 * rough[0].distance
    assert completeness(rough, coarse)["missing_too_much"] == 1
    fine = Refinement(n_steps=2, most_steps=256)
    refined = Explainer(net, refinement=fine).explain(np.stack([black, grey]))
    assert abs(refined[0].delta) <= 0.05 * refined[0].distance
    assert refined[0].n_steps > 2
    assert refined[1].n_steps == 2
    figures_ = completeness(refined, fine)
    assert (figures_["tiles"], figures_["refined"], figures_["missing_too_much"]) == (2, 1, 0)
    sizes = [abs(item.delta) for item in refined]
    assert figures_["percentile_90_logits"] == pytest.approx(0.9 * max(sizes) + 0.1 * min(sizes))


def test_what_no_number_of_steps_reaches_is_counted_at_the_most() -> None:
    strict = Refinement(n_steps=2, most_steps=8, missing_share=1e-6, missing_logit=0.0)
    found = Explainer(planted(-1.0, dead_below=0.5), refinement=strict).explain(np.zeros((1, 96, 96, 3), np.uint8))
    assert found[0].n_steps == 8
    assert completeness(found, strict)["missing_too_much"] == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mobilenetv2", "13"), ("efficientnet-lite0", "5"), ("opnet", "11"), ("opnet-lse", "11"), ("resnet18", "6")],
)
def test_the_earlier_layer_is_the_last_fine_one_in_front_of_a_convolution(name: str, expected: str) -> None:
    assert earlier_layer(create(name).eval()) == expected


def test_the_layers_are_named_and_another_can_be_asked_for(tiles: np.ndarray) -> None:
    net = net_of("mobilenetv2")
    last = "backbone.18, Conv2dNormActivation, 1280 channels, 7 x 7"
    usual = Explainer(net, refinement=FEW_STEPS)
    assert usual.layers() == {
        GRAD_CAM: last,
        GRAD_CAM_EARLIER: "backbone.13, InvertedResidual, 96 channels, 14 x 14",
    }
    found = usual.explain(tiles[:1])[0]
    assert found.grad_cam is not None
    assert found.grad_cam_earlier is not None
    assert (found.grad_cam.shape, found.grad_cam_earlier.shape) == ((3, 3), (6, 6))
    asked = Explainer(net, layer="6")
    assert asked.layers()[GRAD_CAM_EARLIER] == "backbone.6, InvertedResidual, 32 channels, 28 x 28"
    assert Explainer(net, layer="18").layers() == {GRAD_CAM: last}
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
    assert found.verdict_by_area == "above chance"
    assert found.verdict == found.energy_verdict == "no control"
    assert found.to_dict()["pointing_above_control"] is None


def test_a_model_that_points_anywhere_is_not_told_from_chance() -> None:
    rng = np.random.default_rng(2)
    points = [
        TilePoint(hit=bool(rng.random() < 0.3), energy=0.3, chance=0.3, reachable=True, silent=False)
        for _ in range(200)
    ]
    found = summarise(points, [str(index // 5) for index in range(200)], resamples=300, seed=1)
    assert found.verdict_by_area == "not told from chance"
    alone = summarise(points[:3], ["a"] * 3, control=points[:3], resamples=20)
    assert alone.verdict == alone.verdict_by_area == "too few photographs"


def points_of(hits: list[int], energy: float) -> list[TilePoint]:
    return [TilePoint(hit=bool(hit), energy=energy, chance=0.1, reachable=True, silent=False) for hit in hits]


def test_the_difference_to_the_control_is_paired_by_tile() -> None:
    # the photographs differ much, but on each the net hits one tile of four more than the control
    mine = points_of([1, 1, 1, 1, 1, 0, 0, 0] * 50, 0.5)
    control = points_of([1, 1, 1, 0, 0, 0, 0, 0] * 50, 0.4)
    groups = [f"photograph {index // 4}" for index in range(400)]
    found = summarise(mine, groups, control=control, resamples=200, seed=1)
    assert found.hits_by_group.low < 0.6 < 0.65 < found.hits_by_group.high
    assert found.hits_above_control is not None
    assert found.energy_above_control is not None
    # without spread among 100 photographs what was not seen can be 3.6 % of them
    assert found.hits_above_control.as_list() == pytest.approx([0.25, 0.214, 0.286], abs=1e-3)
    assert found.energy_above_control.as_list() == pytest.approx([0.1, 0.064, 0.136], abs=1e-3)
    assert found.verdict == found.energy_verdict == "above the control"
    assert summarise(control, groups, control=mine, resamples=200).verdict == "below the control"


def test_a_net_far_above_chance_is_not_above_a_control_that_is_so_too() -> None:
    rng = np.random.default_rng(4)
    mine, control = (points_of(list(rng.random(120) < 0.5), 0.3) for _ in range(2))
    found = summarise(mine, [str(index // 3) for index in range(120)], control=control, resamples=300, seed=1)
    assert found.verdict_by_area == "above chance"
    assert found.verdict == "not above the control"


def test_a_control_of_other_tiles_is_refused() -> None:
    points = points_of([1, 0], 0.5)
    with pytest.raises(ValueError, match="the same tiles"):
        summarise(points, ["a", "b"], control=points[:1])


@pytest.fixture(scope="module")
def lines() -> EvaluationSet:
    """Grey tiles with a dark line, which is the crack, and a bright one, which is none."""
    tiles, masks = np.full((6, 96, 96, 3), 127, np.uint8), np.zeros((6, 96, 96), np.uint8)
    for index in range(6):
        tiles[index, :, 10 + index : 13 + index] = 30
        masks[index, :, 10 + index : 13 + index] = 255
        tiles[index, :, 70:74] = 240
    groups = [str(index) for index in range(6)]
    return EvaluationSet("uav75", tiles, np.ones(6, np.bool_), groups, ["crack"] * 6, masks)


def test_a_control_like_the_trained_net_leaves_no_difference_and_another_one_does(lines: EvaluationSet) -> None:
    settings, point = ExplainSettings(tolerance_px=2, smooth_px=0, resamples=50), OperatingPoint(-9, 1, 0, "planted")
    dark, bright = (Explainer(planted(sees)).explain(lines.tiles) for sees in (-1.0, 1.0))
    pair = ("uav75", "val")

    same = figures(pair, lines, dark, dark, TRAINED, point, settings)
    assert {item.tiles for item in same} == {ALL_CRACKS, FOUND_CRACKS}
    for item in same:
        values = item.to_dict()
        for above in (values["pointing_above_control"], values["energy_above_control"]):
            assert above == pytest.approx([0, -0.459, 0.459], abs=1e-3)  # of six photographs
        assert values["verdict"] == values["energy_verdict"] == "not above the control"
        # the area alone would have praised it
        assert values["verdict_by_area"] == "above chance"

    for item in figures(pair, lines, dark, bright, TRAINED, point, settings):
        values = item.to_dict()
        assert values["pointing_above_control"] == pytest.approx([1, 0.541, 1], abs=1e-3)
        assert values["verdict"] == "above the control"
        if item.method == GRADIENTS:
            assert values["energy_above_control"] == pytest.approx([1, 0.541, 1], abs=1e-3)
    control = figures(pair, lines, bright, [], RANDOM, point, settings)
    assert {item.pointing.verdict for item in control} == {"no control"}


def test_the_statement_names_the_control_first_and_the_area_second(lines: EvaluationSet) -> None:
    settings, point = ExplainSettings(tolerance_px=2, smooth_px=0, resamples=50), OperatingPoint(-9, 1, 0, "planted")
    maps = Explainer(planted(-1.0)).explain(lines.tiles)
    measured = figures(("uav75", "val"), lines, maps, maps, TRAINED, point, settings)
    first, second = plain_statements([item for item in measured if item.method == GRADIENTS])
    assert "random weights on 100.0 of the same, difference 0.0 (-45.9 to 45.9); not above the control" in first
    assert second.strip().startswith("by area: a random point on ")
    assert second.endswith("; above chance")


def test_each_method_is_judged_on_the_tiles_that_have_its_map(lines: EvaluationSet) -> None:
    settings, point = ExplainSettings(tolerance_px=2, smooth_px=0, resamples=50), OperatingPoint(-9, 1, 0, "planted")
    chosen = [False, True, False, True, True, False]
    explainer, other = Explainer(planted(-1.0)), Explainer(planted(1.0))
    everything, control = explainer.explain(lines.tiles), other.explain(lines.tiles, integrated=chosen)
    some = explainer.explain(lines.tiles, integrated=chosen)
    assert [item.gradients is not None for item in some] == [item.n_steps > 0 for item in some] == chosen
    for full, part in zip(everything, some, strict=True):
        assert part.logit == full.logit
        for method in (CELLS, GRAD_CAM):
            assert np.array_equal(np.asarray(part.of(method)), np.asarray(full.of(method)))
    pair = ("uav75", "val")
    measured = {item.method: item for item in figures(pair, lines, some, control, TRAINED, point, settings)}
    assert measured[CELLS].pointing.hits.total == measured[GRAD_CAM].pointing.hits.total == 6
    assert measured[GRADIENTS].pointing.hits.total == 3
    above = measured[GRADIENTS].pointing.hits_above_control
    assert above is not None
    assert above.value == pytest.approx(1.0)  # of the same three tiles
    alone = lines.subset(np.flatnonzero(chosen))
    by_themselves = figures(pair, alone, [everything[1], everything[3], everything[4]], [], TRAINED, point, settings)
    pointing = {item.method: item.pointing for item in by_themselves}[GRADIENTS]
    assert measured[GRADIENTS].pointing.hits == pointing.hits
    assert measured[GRADIENTS].pointing.energy.value == pytest.approx(pointing.energy.value)
    with pytest.raises(ValueError, match="shorter"):
        explainer.explain(lines.tiles, integrated=[True])


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
    content |= {"tiles_per_set": 3, "n_steps": 2, "most_steps": 4, "controls": 1, "resamples": 20}
    path = tmp_path / "explain.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_committed_configuration_is_the_default() -> None:
    assert read_settings(CONFIG, ExplainSettings) == ExplainSettings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 64, "most_steps": 32}, r"most_steps.*must be n_steps \(64\) or more, found 32"),
        ({"missing_share": 0}, "missing_share"),
        ({"missing_logit": -0.1}, "missing_logit"),
    ],
)
def test_impossible_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, float], message: str) -> None:
    path = tmp_path / "explain.yaml"
    path.write_text(yaml.safe_dump(changes), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_settings(path, ExplainSettings)


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
    assert content["grad_cam_layers"] == {
        GRAD_CAM: "backbone.15, MaxPool2d, 256 channels, 14 x 14",
        GRAD_CAM_EARLIER: "backbone.11, MaxPool2d, 128 channels, 28 x 28",
    }
    rows = {(row["network"], row["method"], row["of"]): row for row in content["measured"]}
    for network in ("trained", "random weights"):
        for method in METHODS:
            assert rows[network, method, "all cracks"]["tiles"] == 3
    assert rows["trained", GRADIENTS, "all cracks"]["similarity_to_random"] is not None
    for method in METHODS:
        assert len(rows["trained", method, "all cracks"]["pointing_above_control"]) == 3
        assert rows["random weights", method, "all cracks"]["verdict"] == "no control"
    missing = content["integrated_gradients"]
    # of the trained net those of the examples come on top
    assert missing["trained"]["tiles"] > missing["random weights"]["tiles"] == 3
    counts = content["sets"]["uav75/val"]
    assert counts["cracks"] + counts["sound"] == 10
    assert "of at most 60 of each set" in (folder / "explain.md").read_text(encoding="utf-8")
    assert counts["cracks_in_set"] + counts["sound_in_set"] > 10
    text = (folder / "explain.md").read_text(encoding="utf-8")
    assert f"| uav75/val | {counts['cracks']} of {counts['cracks_in_set']} |" in text
    assert "at most 10 a set" in text
    with (folder / "errors.csv").open(encoding="utf-8", newline="") as file:
        errors = list(csv.DictReader(file))
    assert len(errors) == content["sets"]["uav75/val"]["errors"]
    assert all((float(row["logit"]) >= 0) == (row["error"] == "false positive") for row in errors)
    assert (folder / "uav75-val-maps.png").is_file()
    titles = [section.title for section in read_sections(folder / "index.html")[2]]
    assert titles[0] == "Does it look at the crack?"
    assert "pointing.svg" in (folder / "explain.md").read_text(encoding="utf-8")


def test_integrated_gradients_can_be_taken_of_fewer_tiles_than_the_other_maps(
    tmp_path: Path, quick: Path, model: Path, data_root: Path, cache: Path, splits: Path
) -> None:
    _register_further_commands()
    found = []
    for name in ("first", "again"):
        arguments = ["explain", str(model), "--config", str(quick), "--out", str(tmp_path / name)]
        arguments += ["--integrated-tiles", "2", "--threshold-p", "0.5"]
        result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits)])
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / name / "tiny" / "explain.json").read_text(encoding="utf-8")))
    assert found[0] == found[1]
    rows = {(row["network"], row["method"], row["of"]): row for row in found[0]["measured"]}
    for network in ("trained", "random weights"):
        assert rows[network, CELLS, "all cracks"]["tiles"] == rows[network, GRAD_CAM, "all cracks"]["tiles"] == 3
        assert rows[network, GRADIENTS, "all cracks"]["tiles"] == 2
    assert found[0]["integrated_gradients"]["random weights"]["tiles"] == 2


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
    assert {row["method"] for row in content["measured"]} == set(METHODS)
    assert "the float file of the same bundle" in (folder / "explain.md").read_text(encoding="utf-8")
    # where the configuration that says which network it is is not at hand, what needs no gradients is still there
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, *options(data_root, cache, splits)])
    assert result.exit_code == 0, result.output
    assert "no maps that need gradients" in " ".join(result.output.split())
    content = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in content["measured"]} == {CELLS}
    assert {row["verdict"] for row in content["measured"]} == {"no control"}
    assert "No control was measured" in (folder / "explain.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ("bad.pt", {}, r"bad\.pt"),
        ("--threshold-p=1.5", {}, "threshold_p must lie between 0 and 1, found 1.5"),
        ("--bundle=absent", {}, "absent/manifest.json: cannot be read"),
        ("--out=file", {}, r"file: is a file, the results need a folder"),
        ("--out=file/below", {}, r"file: is a file, the results need a folder"),
        ("--sets=uav75/val", {"layer": "no.such"}, "no.such"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_any_tile_is_read(
    given: str,
    changes: dict[str, str],
    message: str,
    tmp_path: Path,
    quick: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _register_further_commands()
    quick.write_text(yaml.safe_dump(yaml.safe_load(quick.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.data.dataset.evaluation_tiles", lambda *_: pytest.fail("tiles were read first"))
    Path("bad.pt").write_bytes(b"torn")
    Path("file").write_text("")
    result = CliRunner().invoke(app, ["explain", str(model), given, "--config", str(quick)])
    assert isinstance(result.exception, TrainingError)
    assert re.search(message, str(result.exception))


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
