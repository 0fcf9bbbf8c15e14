from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")

from training.config import TrainConfig, load_config, read_settings
from training.data.cache import SYNTHETIC_VERSION
from training.engine.memory import SETTINGS
from training.engine.train import Trainer
from training.errors import ConfigError, DataError
from training.evaluation.metrics import clopper_pearson
from training.evaluation.settings import overridden
from training.evaluation.threshold import Scored
from training.models import create, parameter_count
from training.page import read_sections
from training.study.plan import (
    Planned,
    Point,
    calibration_point,
    factor_points,
    factors_of,
    folder_name,
    grid_points,
    planned,
    points,
    steps_of,
    train_config,
)
from training.study.report import ALL_SETS, measure_cell, point_results, pooled, statements, write_report
from training.study.run import Outcome, Study
from training.study.settings import Setting, StudySettings

from .conftest import REPOSITORY

pytestmark = pytest.mark.training

COMMANDS = REPOSITORY / "config/training/commands"


def content(**changes: Any) -> dict[str, Any]:
    """A small plan: OPNet at 64 px, learning rate and width."""
    return {
        "name": "small",
        "models": {
            "opnet": {
                "model": {"name": "opnet"},
                "loss": {"cell_weight": 0.0},
                "base": {"lr": 1e-3, "batch": 4, "preset": "none", "sources": "METU", "px": 64, "width": 0.25},
            }
        },
        "sources": {"METU": {"metu-ccic": 1}},
        "factors": {"lr": [1e-3, 1e-4], "batch": [], "pos_weight": [], "preset": [], "px": [], "width": []},
        "budget": {"steps": 3},
        "calibration_steps": 4,
        "validation": ["metu-ccic", "uav75"],
        "limit": 12,
        "resamples": 20,
        **changes,
    }


def made(**changes: Any) -> StudySettings:
    return StudySettings.model_validate(content(**changes))


FACTORS = {
    "lr": [1e-3, 1e-4],
    "batch": [4, 2],
    "pos_weight": [1, 3],
    "preset": ["none", "published"],
    "px": [64, 96],
    "width": [0.25, 0.5],
}


# --- the plan ---


def test_one_factor_at_a_time_changes_one_thing_and_runs_the_base_once() -> None:
    settings = made(factors=FACTORS)
    base = settings.models["opnet"].base
    changed = [point.differs(base) for point in points(settings)]
    assert changed.count({}) == 1
    assert all(len(one) <= 1 for one in changed)
    assert [one for one in changed if one] == [
        {"lr": 1e-4},
        {"batch": 2},
        {"pos_weight": 3.0},
        {"preset": "published"},
        {"px": 96},
        {"width": 0.5},
    ]


def test_the_grid_is_all_eight_combinations_and_shares_runs_with_the_factors() -> None:
    settings = made(factors=FACTORS, grid=True)
    grid = grid_points(settings, "opnet")
    assert len({(p.setting.lr, p.setting.batch, p.setting.pos_weight) for p in grid}) == len(grid) == 8
    assert len(points(settings)) == len(points(made(factors=FACTORS))) + 4
    assert len(set(points(settings))) == len(points(settings))


def test_further_seeds_come_after_all_points_of_the_first() -> None:
    runs = planned(made(seeds=[5, 2]))
    assert [run.seed for run in runs] == [5, 5, 2, 2]


def test_a_network_without_width_has_no_such_factor() -> None:
    models = content()["models"] | {
        "mobilenetv2": {
            "model": {"name": "mobilenetv2"},
            "base": {"lr": 1e-3, "batch": 4, "sources": "METU", "px": 64},
        }
    }
    settings = made(models=models, factors=FACTORS)
    assert "width" in factors_of(settings, "opnet")
    assert "width" not in factors_of(settings, "mobilenetv2")
    assert factor_points(settings, "mobilenetv2", "width") == []


def test_the_base_is_among_the_levels_even_if_they_do_not_name_it() -> None:
    settings = made(factors=content()["factors"] | {"px": [96, 128]})
    assert factors_of(settings, "opnet")["px"] == [64, 96, 128]


def test_every_level_reaches_the_training_run() -> None:
    settings = made(sources={"METU": {"metu-ccic": 1}, "both": {"metu-ccic": 1, "uav75": 3}})
    setting = Setting(lr=0.002, batch=6, pos_weight=3, preset="published", sources="both", px=96, width=0.5)
    config = train_config(settings, Planned(Point("opnet", setting), 9), 40)
    stage = config.stages[0]
    assert (stage.lr, stage.batch, stage.preset, stage.px, stage.steps) == (0.002, 6, "published", 96, 40)
    assert stage.sources == {"metu-ccic": 1, "uav75": 3}
    assert (config.loss.pos_weight, config.loss.cell_weight, config.seed) == (3, 0, 9)
    assert config.model.options == {"width": 0.5}
    assert stage.max_minutes is None


def test_levels_that_do_not_change_the_network_see_equally_many_tiles() -> None:
    settings = made(factors=FACTORS, budget={"minutes": 2})
    base = settings.models["opnet"].base
    speeds = {calibration_point(settings, point) for point in points(settings)}
    assert {(p.setting.px, p.setting.width) for p in speeds} == {(64, 0.25), (96, 0.25), (64, 0.5)}
    small = Point("opnet", Setting.model_validate(base.model_dump() | {"batch": 2}))
    assert steps_of(settings, Point("opnet", base), 10.0) == 2 * 60 * 10 // 4
    assert steps_of(settings, small, 10.0) == 2 * steps_of(settings, Point("opnet", base), 10.0)
    by_steps = made(factors=FACTORS, budget={"steps": 30})
    assert steps_of(by_steps, Point("opnet", base), None) == 30
    assert steps_of(by_steps, small, None) == 60


def test_a_changed_run_has_a_folder_of_its_own() -> None:
    settings = made()
    run = planned(settings)[0]
    folder = folder_name(train_config(settings, run, 3))
    assert folder_name(train_config(settings, run, 4)) != folder
    assert folder_name(train_config(settings, Planned(run.point, 2), 3)) != folder
    assert folder_name(train_config(made(limit=None, resamples=500, grid=True), run, 3)) == folder


@pytest.mark.parametrize(("share", "same"), [(0, True), (1, False)])
def test_another_way_of_drawing_is_another_run_where_pictures_are_drawn(
    share: int, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made(sources={"METU": {"metu-ccic": 1} | ({"synthetic": share} if share else {})})
    config = train_config(settings, planned(settings)[0], 3)
    before = folder_name(config)
    monkeypatch.setattr("training.study.plan.SYNTHETIC_VERSION", SYNTHETIC_VERSION + 1)
    assert (folder_name(config) == before) is same


@pytest.mark.parametrize("name", ["walls-external", "brickwork-external", "nha12d"])
def test_external_sets_are_refused_by_name_both_for_training_and_for_judging(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content(validation=[name])))
    with pytest.raises(ConfigError, match=f"'{name}' is an external test and must not decide"):
        read_settings(path, StudySettings)
    path.write_text(yaml.safe_dump(content(sources={"METU": {name: 1}})))
    with pytest.raises(ConfigError, match=f"'{name}' may not be trained on"):
        read_settings(path, StudySettings)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"budget": {}}, "one of steps and minutes"),
        ({"budget": {"steps": 3, "minutes": 1}}, "one of steps and minutes"),
        ({"seeds": [1, 1]}, "found twice: 1"),
        ({"judged_px": 100}, "multiples of 32"),
        ({"factors": {"lr": [1e-3, 5.0]}}, r"s\.yaml: factors\.lr\.1: .*less than or equal to 0\.1"),
        ({"factors": {"batch": [1]}}, r"s\.yaml: factors\.batch\.0: .*greater than or equal to 2"),
        ({"factors": {"pos_weight": [0]}}, r"s\.yaml: factors\.pos_weight\.0: .*greater than 0"),
        ({"factors": {"px": [100]}}, r"s\.yaml: factors\.px\.0: .*multiple of 32"),
        ({"factors": {"px": [1024]}}, r"s\.yaml: factors\.px\.0: .*less than or equal to 512"),
        ({"factors": {"width": [9]}}, r"s\.yaml: factors\.width\.0: .*less than or equal to 8"),
        (
            {"models": {"m": content()["models"]["opnet"] | {"factors": {"lr": [5.0]}}}},
            r"s\.yaml: models\.m\.factors\.lr\.0: .*less than or equal to 0\.1",
        ),
        ({"factors": {"sources": ["other"]}}, "mixture 'other' is unknown; allowed are METU"),
        ({"models": {"x": {"model": {"name": "nix"}, "base": content()["models"]["opnet"]["base"]}}}, "'nix' is unkn"),
        (
            {"models": {"m": {"model": {"name": "mobilenetv2"}, "base": content()["models"]["opnet"]["base"]}}},
            "mobilenetv2 has no width",
        ),
    ],
)
def test_impossible_plans_are_refused_with_what_is_allowed(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content(**change)))
    with pytest.raises(ConfigError, match=what):
        read_settings(path, StudySettings)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    models = {
        "m": {
            "model": {"name": "mobilenetv2", "options": {"pretrained": str(tmp_path / "no.pt")}},
            "base": {"lr": 1e-3, "batch": 4, "sources": "METU", "px": 64},
        }
    }
    with pytest.raises(ConfigError, match=r"m\.model\.options\.pretrained: .*no\.pt is not there"):
        Study(made(models=models), tmp_path)


@pytest.mark.parametrize("name", ["study", "study-full"])
def test_the_committed_plans_hold_the_published_studies_of_both_models(name: str) -> None:
    settings = read_settings(COMMANDS / f"{name}.yaml", StudySettings)
    for model in ("opnet", "mobilenetv2"):
        factors = factors_of(settings, model)
        assert set(factors["lr"]) == {1e-3, 1e-4}
        assert set(factors["batch"]) == {64, 32}
        assert set(factors["pos_weight"]) == {1, 3}
        assert set(factors["preset"]) == {"none", "published", "field"}
        assert len(factors["sources"]) == 6
        assert len(factors["px"]) >= 3
    assert "width" in factors_of(settings, "opnet")


# --- width of OPNet ---


def test_width_one_is_the_published_network_and_another_one_is_narrower() -> None:
    assert parameter_count(create("opnet")) == 389_633
    shapes = {key: value.shape for key, value in create("opnet").state_dict().items()}
    assert {key: value.shape for key, value in create("opnet", width=1.0).state_dict().items()} == shapes
    half = create("opnet", width=0.5)
    assert half.channels == 128
    assert 3 < 389_633 / parameter_count(half) < 4.1
    with pytest.raises(ValueError, match="width must be a number above 0"):
        create("opnet", width=0)


# --- the figures ---


def scored(logits: list[float], labels: list[int], groups: list[str], name: str = "uav75") -> Scored:
    return Scored(
        name,
        np.array(logits, dtype=np.float64),
        np.array(labels, dtype=np.bool_),
        tuple("crack" if label else "plain" for label in labels),
        tuple(groups),
    )


def test_several_seeds_are_a_mean_and_their_spread_stands_beside_it() -> None:
    groups = [str(index) for index in range(8)]
    labels = [1, 1, 1, 1, 0, 0, 0, 0]
    mine = {
        1: scored([1, 1, 1, 1, -1, -1, -1, -1], labels, groups),
        2: scored([1, 1, -1, -1, -1, -1, -1, -1], labels, groups),
    }
    cell = measure_cell(mine, None, "recall", 200, "uav75")
    assert cell is not None
    assert cell.value == 0.75
    assert cell.seeds == (1.0, 0.5)
    assert cell.by_tile == clopper_pearson(3, 4)
    assert cell.by_photograph is not None
    assert cell.by_photograph[0] < 0.75 < cell.by_photograph[1] <= 1
    assert cell.verdict == "base"


def test_a_difference_is_shown_only_where_its_interval_leaves_out_zero() -> None:
    rng = np.random.default_rng(3)
    labels = [index % 2 for index in range(200)]
    groups = [str(index // 2) for index in range(200)]
    noise = rng.normal(0, 1, 200)
    good = scored(list(np.where(labels, 2.0, -2.0) + noise), labels, groups)
    bad = scored(list(rng.normal(0, 1, 200)), labels, groups)
    for mine, base, verdict in ((good, bad, "higher"), (bad, good, "lower"), (good, good, "not shown")):
        cell = measure_cell({1: mine}, {1: base}, "auroc", 200, "uav75")
        assert cell is not None
        assert cell.verdict == verdict


def test_differences_are_taken_between_equal_seeds_alone() -> None:
    labels, groups = [1, 1, 0, 0], ["a", "b", "c", "d"]
    right, wrong = scored([1, 1, -1, -1], labels, groups), scored([-1, -1, 1, 1], labels, groups)
    cell = measure_cell({1: right, 2: wrong}, {1: wrong}, "recall", 50, "uav75")
    assert cell is not None
    assert cell.difference is not None
    assert cell.difference.value == 1.0
    other = measure_cell({2: wrong}, {1: wrong}, "recall", 50, "uav75")
    assert other is not None
    assert other.difference is None


def test_photographs_of_different_sets_stay_different_when_sets_are_put_together() -> None:
    both = pooled([scored([1], [1], ["1"], "metu-ccic"), scored([1, -1], [1, 0], ["1", "1"], "uav75")])
    assert both.name == ALL_SETS
    assert both.groups == ("metu-ccic/1", "uav75/1", "uav75/1")


def test_a_set_of_cracks_alone_has_recall_and_nothing_else() -> None:
    quay = {1: scored([1, -1], [1, 1], ["a", "b"], "omu-quay")}
    assert measure_cell(quay, None, "auroc", 20, "omu-quay") is None
    assert measure_cell(quay, None, "specificity", 20, "omu-quay") is None
    assert measure_cell(quay, None, "recall", 20, "omu-quay") is not None


def test_findings_name_the_level_and_the_direction() -> None:
    settings = made(resamples=100)
    labels = [index % 2 for index in range(80)]
    groups = [str(index) for index in range(80)]
    right = scored(list(np.where(labels, 1.0, -1.0)), labels, groups)
    blind = scored([-1.0] * 80, labels, groups)
    base, lower = planned(settings)
    outcomes = [Outcome(base, 3, 1.0, 5.0, (right,)), Outcome(lower, 3, 1.0, 5.0, (blind,))]
    said = statements(settings, point_results(settings, outcomes))
    assert said == ["opnet, learning rate: 0.0001: AUROC lower by 50.0 points, recall lower by 100.0 points."]


def test_models_without_any_factor_are_held_against_each_other(tmp_path: Path) -> None:
    one = content()["models"]["opnet"]
    without: dict[str, list[float]] = {name: [] for name in content()["factors"]}
    settings = made(models={"opnet": one, "wider": one | {"base": one["base"] | {"width": 0.5}}}, factors=without)
    labels, groups = [index % 2 for index in range(8)], [str(index) for index in range(8)]
    right, blind = scored(list(np.where(labels, 1.0, -1.0)), labels, groups), scored([-1.0] * 8, labels, groups)
    outcomes = [Outcome(run, 3, 1.0, 5.0, (s,)) for run, s in zip(planned(settings), (right, blind), strict=True)]
    _, _, sections = read_sections(write_report(settings, outcomes, {}, tmp_path))
    (beside,) = [section for section in sections if section.title == "The models beside each other"]
    assert [row[:2] for row in beside.tables[0].rows] == [["opnet", "base"], ["wider", "base"]]
    assert [row[5].split(" ")[0] for row in beside.tables[0].rows] == ["100.0", "50.0"]  # AUROC
    assert len(beside.tables) == 2
    assert "Nothing can be compared yet." not in sections[1].paragraphs
    alone = write_report(made(factors=without), outcomes[:1], {}, tmp_path / "alone")
    _, _, sections = read_sections(alone)
    assert [section.title for section in sections] == ["Plan", "What was found"]
    assert sections[1].paragraphs == ["Nothing can be compared yet."]


# --- carried out ---


@pytest.fixture
def here(data_root: Path, cache: Path, splits: Path) -> dict[str, str]:
    return {"root": str(data_root), "cache": str(cache), "splits": str(splits)}


def test_a_killed_study_goes_on_within_its_run_and_ends_with_the_same_weights(
    here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made(data=here, budget={"steps": 4}, checkpoint_minutes=1e-9, validation=["metu-ccic"])
    run = planned(settings)[0]
    whole = Study(settings, tmp_path / "whole").carry_out(run)
    study = Study(settings, tmp_path / "killed")
    config = study.config(run)
    assert config is not None
    taken: list[int] = []
    step = Trainer._step

    def counted(self: Trainer, *arguments: Any) -> Any:
        if len(taken) == 3:
            taken.append(-1)
            raise KeyboardInterrupt
        taken.append(self.progress.step)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        study.carry_out(run)
    assert study.state(run) == "begun"
    again = study.carry_out(run)
    assert taken == [0, 1, 2, -1, 3]
    assert study.state(run) == "done"
    assert np.array_equal(again.scored[0].logits, whole.scored[0].logits)
    assert not (study.run_folder(config) / "last.pt").exists()


def test_weights_without_a_readable_summary_are_trained_again(here: dict[str, str], tmp_path: Path) -> None:
    study = Study(made(data=here, budget={"steps": 2}, validation=["metu-ccic"]), tmp_path)
    run = planned(study.settings)[0]
    first = study.carry_out(run)
    config = study.config(run)
    assert config is not None
    folder = study.run_folder(config)
    (judged,) = folder.glob("judged-*.json")
    for damage in ('{"steps": ', "[]", None):
        judged.unlink()
        assert study.state(run) == "trained"
        if damage is None:
            (folder / "summary.json").unlink()
        else:
            (folder / "summary.json").write_text(damage)
        assert study.state(run) == "new"
        again = study.carry_out(run)
        assert np.array_equal(again.scored[0].logits, first.scored[0].logits)
        assert json.loads((folder / "summary.json").read_text())["steps"] == 2


def test_minutes_become_steps_once_and_stay_so(here: dict[str, str], tmp_path: Path) -> None:
    settings = made(data=here, budget={"minutes": 0.001}, validation=["metu-ccic"])
    study = Study(settings, tmp_path)
    run = planned(settings)[0]
    assert study.config(run) is None
    assert study.state(run) == "new"
    done = study.carry_out(run)
    (measured,) = study.calibrations().values()
    assert done.steps == max(1, round(0.001 * 60 * measured["tiles_per_s"] / 4))
    file = tmp_path / "calibrations.json"
    # a speed at which other steps come out, however fast this machine was: what is written down decides
    speed = (done.steps + 5) * 4 / (0.001 * 60)
    file.write_text(json.dumps({key: value | {"tiles_per_s": speed} for key, value in study.calibrations().items()}))
    assert steps_of(settings, run.point, study.calibrate(run.point)) == done.steps + 5
    assert study.state(run) == "new"
    assert not (tmp_path / "calibration").exists()


def test_repetitions_are_left_out_when_the_hours_are_used_up(here: dict[str, str], tmp_path: Path) -> None:
    settings = made(data=here, seeds=[1, 2], hours=1e-9, validation=["metu-ccic"], budget={"steps": 1})
    lines: list[str] = []
    over: list[int] = []
    outcomes = Study(settings, tmp_path).carry_out_all(over.append, lines.append)
    assert [outcome.run.seed for outcome in outcomes] == [1, 1]
    assert sum(over) == 4
    assert sum("left out" in line for line in lines) == 2


def test_the_command_says_its_plan_runs_it_once_runs_what_is_new_and_makes_the_report_anew(
    here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import cli

    for key, value in SETTINGS.items():  # else the command starts the process anew, and the tests end
        monkeypatch.setenv(key, value)

    cli._register_further_commands()
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content(data=here)))
    arguments = ["study", "--config", str(path), "--out", str(tmp_path / "out")]
    folder = tmp_path / "out" / "small"

    def ask(*more: str) -> str:
        done = CliRunner().invoke(cli.app, [*arguments, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    with pytest.raises(DataError, match="no run of this plan is done"):
        CliRunner().invoke(cli.app, [*arguments, "--report-only"], catch_exceptions=False)
    assert not (folder / "runs").exists()
    ask()
    weights = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/final.pt")}
    assert len(weights) == 2
    assert isinstance(load_config(next(iter(weights)).with_name("config.yaml")), TrainConfig)

    rows = list(csv.DictReader((folder / "study.csv").open()))
    assert {row["changed"] for row in rows} == {"base", "lr"}
    assert {row["set"] for row in rows} == {ALL_SETS, "metu-ccic", "uav75"}
    for row in rows:
        assert 0 <= float(row["photograph_low"]) <= float(row["photograph_high"]) <= 1
        assert (row["tile_low"] == "") == (row["measure"] == "auroc")
        assert (row["difference"] == "") == (row["changed"] == "base")
        assert (row["steps"], row["tiles"]) == ("3", "12")
    written = json.loads((folder / "study.json").read_text())
    assert [point["changed"] for point in written["points"]] == [{}, {"lr": 1e-4}]
    assert "data" not in written["settings"]
    title, _, sections = read_sections(folder / "index.html")
    assert title == "Parameter studies: small"
    assert [section.title for section in sections] == ["Plan", "What was found", "Learning rate"]
    assert all(picture.path.is_file() for section in sections for picture in section.pictures)
    assert "(lr.svg)" in (folder / "study.md").read_text()

    path.write_text(yaml.safe_dump(content(data=here, factors=content()["factors"] | {"pos_weight": [1, 3]})))
    plan = ask("--plan")
    assert "3 runs, 2 done, 1 to train" in plan
    assert len(list(folder.glob("runs/*"))) == 2
    ask()
    assert len(list(folder.glob("runs/*/final.pt"))) == 3
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    before = (folder / "study.csv").read_bytes()
    (folder / "study.csv").unlink()
    assert "pos_weight" in before.decode()
    ask("--report-only")
    assert (folder / "study.csv").read_bytes() == before


def test_another_limit_judges_anew_without_training_anew(here: dict[str, str], tmp_path: Path) -> None:
    settings = made(data=here, validation=["metu-ccic"], budget={"steps": 1})
    run = planned(settings)[0]
    study = Study(settings, tmp_path)
    study.carry_out(run)
    config = study.config(run)
    assert config is not None
    weights = study.run_folder(config) / "final.pt"
    stamp = weights.stat().st_mtime_ns
    other = Study(overridden(settings, data={}, limit=None, judged_px=96), tmp_path)
    assert other.state(run) == "trained"
    assert len(other.carry_out(run).scored[0].labels) != 0
    assert other.state(run) == study.state(run) == "done"
    assert weights.stat().st_mtime_ns == stamp
    assert not math.isnan(float(other.carry_out(run).scored[0].logits[0]))


def test_the_committed_comparison_of_architectures_gives_each_the_same_time_and_mixture() -> None:
    settings = read_settings(COMMANDS / "study-architectures.yaml", StudySettings)
    assert {study.model.name for study in settings.models.values()} >= {
        "opnet",
        "mobilenetv2",
        "vgg16",
        "resnet18",
        "efficientnet-b0",
    }
    runs = planned(settings)
    assert len(runs) == len(settings.models)
    assert len({(study.base.sources, study.base.px, study.base.batch) for study in settings.models.values()}) == 1
    assert settings.pretrained().keys() == {"mobilenetv2 from ImageNet"}  # the others come with a package
