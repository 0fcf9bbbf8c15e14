from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")

from training.config import ModelConfig, TrainConfig, read_settings
from training.errors import ConfigError
from training.evaluation import cross
from training.evaluation.cross import (
    Row,
    RowResult,
    conditions,
    own_threshold,
    row_config,
    row_folder,
    summary,
    threshold_sets,
    train_row,
    value_of,
)
from training.evaluation.evaluate import open_subjects, result
from training.evaluation.settings import CrossSettings, Places, RowSettings, TrainRowsSettings
from training.evaluation.threshold import SLACK, Scored, rates_at
from training.page import read_sections

from .conftest import REPOSITORY
from .test_evaluate import made

pytestmark = pytest.mark.training

TRAIN = TrainRowsSettings(sources={"METU": {"metu-ccic": 1.0}, "quay": {"omu-quay": 0.5, "not-concrete": 0.5}})


def test_a_row_looks_at_nothing_but_its_own_sets_while_it_trains() -> None:
    quay = row_config("quay + Everyday!", TRAIN.sources["quay"], TRAIN, Places(), seed=3, threads=1)
    assert set(quay.validation.sets) == set(quay.stages[0].sources) == {"omu-quay", "not-concrete"}
    assert quay.name == "row-quay-everyday"
    assert (quay.seed, quay.stages[0].steps, quay.stages[0].max_minutes) == (3, TRAIN.steps, None)


def test_every_row_is_trained_in_the_same_way() -> None:
    runs = [row_config(label, shares, TRAIN, Places(), 1, 1) for label, shares in TRAIN.sources.items()]
    first, second = (run.model_dump(exclude={"name", "validation"}) for run in runs)
    for run in (first, second):
        del run["stages"][0]["sources"]
    assert first == second


def test_another_budget_is_another_folder_and_the_same_one_is_not_trained_twice(tmp_path: Path) -> None:
    config = row_config("METU", TRAIN.sources["METU"], TRAIN, Places(), 1, 1)
    longer = TRAIN.model_copy(update={"steps": 2 * TRAIN.steps})
    other = row_config("METU", TRAIN.sources["METU"], longer, Places(), 1, 1)
    folder = row_folder(config, tmp_path)
    assert folder != row_folder(other, tmp_path)
    calls: list[bool] = []

    def killed(config: TrainConfig, path: Path, folder: Path, resume: bool) -> None:
        calls.append(resume)
        assert read_settings(path, TrainConfig) == config
        (folder / "last.pt").touch()
        raise KeyboardInterrupt

    def finished(config: TrainConfig, path: Path, folder: Path, resume: bool) -> None:
        calls.append(resume)
        (folder / "final.pt").touch()

    with pytest.raises(KeyboardInterrupt):
        train_row(config, folder, killed)
    assert train_row(config, folder, finished) == folder / "final.pt"
    train_row(config, folder, finished)
    assert calls == [False, True]


def test_a_row_chooses_its_threshold_on_its_own_sets_if_they_have_both_classes() -> None:
    sets = {name: made(name, *counts) for name, counts in {"a": (30, 30), "b": (30, 30), "c": (30, 0)}.items()}
    assert threshold_sets(Row("r", Path(), ("a",)), sets) == [sets["a"]]
    assert threshold_sets(Row("r", Path(), ("c",)), sets) == list(sets.values())
    assert threshold_sets(Row("r", Path(), ()), sets) == list(sets.values())
    threshold, how = own_threshold([sets["a"]])
    everywhere = [min(rates_at(sets["a"], float(logit)).values()) for logit in sets["a"].logits]
    assert min(rates_at(sets["a"], threshold).values()) >= max(everywhere) - 0.1 * SLACK
    assert how.endswith(": a")


def cell(name: str, row: str, *, right: bool) -> RowResult:
    labels = np.arange(40) < 20
    logits = np.where(labels == right, 1.0, -1.0)
    item = Scored(name, logits, labels, ("crack",) * 40, tuple(str(i % 10) for i in range(40)))
    return RowResult(Row(row, Path(), ("uav75",)), 0.0, "", (result(item, "test", 0.0, resamples=10),))


def test_the_summary_keeps_own_and_other_sets_apart() -> None:
    text = summary([cell("uav75", "r", right=True), cell("metu-ccic", "r", right=False)])
    assert "auroc 100.0 on sets of its own kind, 0.0 on others" in text
    assert "recall 100.0 on sets of its own kind, 0.0 on others" in text


def test_the_page_says_on_how_many_tiles_and_how_its_own_rows_were_trained() -> None:
    rows = [cell("uav75", label, right=True) for label in ("METU", "ours 0.1.0", "quay")]
    given = [RowSettings(label="ours", model=Path("ours"))]
    said = conditions(rows, CrossSettings(rows=given, train=TRAIN, limit=600))
    assert said == (
        "At most 600 tiles of each set were judged, drawn at random. Trained for this matrix, to compare what they were "
        "trained on: METU, quay. Each is opnet-lse from random weights after 700 steps, 64 tiles of 96 px a step. "
        "Models that exist, as they are: ours 0.1.0."
    )
    assert conditions(rows[1:2], CrossSettings(rows=given)) == (
        "All tiles of each set were judged. Models that exist, as they are: ours 0.1.0."
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"model": ModelConfig(name="mobilenetv2", options={"pretrained": "x.pt"})},
            "mobilenetv2 from ImageNet weights",
        ),
        ({"model": ModelConfig(name="opnet-lse", init=Path("a/best.pt"))}, "from the weights of a/best.pt after"),
        ({"minutes": 2.0}, "after 700 steps or 2 minutes, 64 tiles"),
    ],
)
def test_where_rows_start_and_when_they_end_is_told(changes: dict[str, Any], what: str) -> None:
    settings = CrossSettings(train=TRAIN.model_copy(update=changes))
    assert what in conditions([cell("uav75", "METU", right=True)], settings)


def test_a_set_of_cracks_alone_has_no_auroc() -> None:
    item = made("c", 10, 0)
    assert value_of(result(item, "test", 0.0, resamples=10), "auroc") is None
    assert value_of(result(item, "test", 0.0, resamples=10), "specificity") is None


def test_figures_in_the_matrix_can_be_read_at_the_width_of_a_page_and_stay_in_their_cells(
    tmp_path: Path, figures_of: Callable[[ModuleType], list[Any]]
) -> None:
    rows = []
    for label in ("METU", "quay"):
        one = cell("uav75", label, right=True)
        rows.append(replace(one, results=one.results * 11))
    figures = figures_of(cross)
    cross.draw_matrix(rows, tmp_path / "cross.svg")
    (drawn,) = figures
    page_px = 62 * 16 - 48  # body of the page
    shrunk = min(1.0, page_px / (drawn.get_figwidth() * 100))
    for axes in drawn.axes:
        width = axes.get_window_extent().width / 11
        assert len(axes.texts) >= 22
        for text in axes.texts:
            assert text.get_fontsize() * 100 / 72 * shrunk >= 8
            assert text.get_window_extent().width < width


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "at least one row"),
        ({"train": {"sources": {"walls": {"walls-external": 1}}}}, "may not be trained on"),
        ({"rows": [{"label": "a", "model": "x"}, {"label": "a", "model": "y"}]}, "found twice: a"),
    ],
)
def test_impossible_matrices_are_refused(content: dict[str, object], what: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=what):
        read_settings(path, CrossSettings)


def test_the_committed_configuration_is_valid_and_trains_each_source() -> None:
    settings = read_settings(REPOSITORY / "config/training/commands/cross.yaml", CrossSettings)
    assert settings.train is not None
    seen = {name for shares in settings.train.sources.values() for name in shares}
    assert seen == {"metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete"}


def test_a_bundle_is_named_with_its_version() -> None:
    from training.evaluation.cross_command import _label
    from training.export.bundle import read_manifest

    folder = REPOSITORY / "exported_models/opnet"
    expected = f"ours {read_manifest(folder).version}"
    assert _label("ours", open_subjects(folder, "default", 1)[0]) == expected
    assert _label("ours", open_subjects(folder / "model.onnx", "default", 1)[0]) == expected
    checkpoint = replace(open_subjects(folder, "default", 1)[0], label="torch", version=None)
    assert _label("ours", checkpoint) == "ours"


def test_the_command_trains_rows_once_and_writes_the_matrix(
    data_root: Path, cache: Path, splits: Path, tmp_path: Path
) -> None:
    from training import cli

    config = tmp_path / "cross.yaml"
    content = {
        "data": {"root": str(data_root), "cache": str(cache), "splits": str(splits)},
        "sets": ["metu-ccic/test", "walls-external"],
        "limit": 10,
        "resamples": 20,
        "train": {
            "sources": {"METU": {"metu-ccic": 1}, "UAV75": {"uav75": 1}},
            "steps": 2,
            "px": 64,
            "batch": 4,
        },
    }
    config.write_text(yaml.safe_dump(content))
    cli._register_further_commands()
    arguments = ["cross", "--config", str(config), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").glob("*/final.pt")}
    assert len(weights) == 2
    written = json.loads((tmp_path / "out" / "cross.json").read_text())
    assert [row["trained_on"] for row in written["rows"]] == [["metu-ccic"], ["uav75"]]
    assert all(row["threshold_rule"].endswith(row["trained_on"][0]) for row in written["rows"])
    cells = list(csv.DictReader((tmp_path / "out" / "cross.csv").open()))
    assert [(row["row"], row["set"], row["trained_on"]) for row in cells] == [
        ("METU", "metu-ccic", "yes"),
        ("METU", "walls-external", "no"),
        ("UAV75", "metu-ccic", "no"),
        ("UAV75", "walls-external", "no"),
    ]
    several = [row for row in cells if row["set"] == "metu-ccic"]
    assert all(0 <= float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) <= 1 for row in several)
    assert {row["auroc_low"] for row in cells if row["set"] == "walls-external"} == {""}  # one photograph of each class
    page = (tmp_path / "out" / "cross.html").read_text()
    assert "data:image/svg+xml" in page
    (how,) = read_sections(tmp_path / "out" / "cross.html")[2][0].paragraphs
    assert "At most 10 tiles of each set" in how
    assert "from random weights after 2 steps, 4 tiles of 64 px a step" in how
    assert how in page
    assert how in (tmp_path / "out" / "cross.md").read_text()
    CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert weights == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").glob("*/final.pt")}
