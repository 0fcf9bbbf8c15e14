from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.training.conftest import REPOSITORY
from training.config import read_settings
from training.data.dataset import EvaluationSet
from training.errors import ConfigError
from training.evaluation.candidates import VIEWS, difference, in_views, view_by_view, weigh
from training.evaluation.candidates_command import CandidatesSettings, _labels, register
from training.evaluation.threshold import Bar, Scored, choose
from training.page import read_sections

pytestmark = pytest.mark.training

BUNDLES = REPOSITORY / "exported_models"
BARS = (Bar("a", "crack", 0.9), Bar("a", "plain", 0.9))


class FirstCorner:
    """Says how bright the upper left pixel is, so that each view of a tile answers by another corner."""

    def logits(self, tiles: npt.NDArray[np.uint8], progress: Any = None) -> npt.NDArray[np.float32]:
        if progress is not None:
            progress(len(tiles))
        return np.asarray(tiles)[:, 0, 0, 0].astype(np.float32)


def scored(name: str, cracks: list[float], sound: list[float]) -> Scored:
    tiles = len(cracks) + len(sound)
    return Scored(
        name,
        np.array([*cracks, *sound], np.float64),
        np.array([True] * len(cracks) + [False] * len(sound)),
        ("crack",) * len(cracks) + ("plain",) * len(sound),
        tuple(f"photograph {number}" for number in range(tiles)),
    )


def test_each_view_shows_every_tile_another_way() -> None:
    tiles = np.zeros((2, 4, 4, 3), np.uint8)
    for number, (row, column) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        tiles[:, row, column] = 10 * number + 1
    tiles[1] += 100
    given = EvaluationSet("a", tiles, np.array([True, False]), ["one", "two"], ["crack", "plain"])
    done: list[int] = []
    for views in (1, 2, 4):
        found = in_views(FirstCorner(), given, views, done.append)
        assert found.logits.tolist() == [
            value for corner in (1, 11, 21, 31)[:views] for value in (corner, corner + 100)
        ]
        assert found.labels.tolist() == [True, False] * views
        assert found.kinds == ("crack", "plain") * views
        assert found.groups == ("one", "two") * views
    assert done == [2] * 7
    assert len(VIEWS) == 4


def test_a_candidate_has_the_threshold_that_export_would_choose() -> None:
    sets = [scored("a", [2.0, 1.0, -1.0], [-2.0, -0.5, 0.5]), scored("drawn", [3.0], [9.0, -9.0])]
    found = weigh("net", sets, BARS)
    assert found.choice == choose(sets[:1], BARS)
    assert found.areas == {"a": pytest.approx(7 / 9), "drawn": 0.5}
    assert found.kinds["drawn"] == {"crack": 1.0, "plain": 0.5}
    assert [row.used for row in found.bars] == sorted((row.used for row in found.bars), reverse=True)


def test_views_are_judged_one_by_one_at_the_threshold_of_all() -> None:
    one = Scored("a", np.array([2.0, -2.0]), np.array([True, False]), ("crack", "plain"), ("x", "y"))
    other = Scored("a", np.array([-3.0, -2.5]), np.array([True, False]), ("crack", "plain"), ("x", "y"))
    both = Scored(
        "a", np.concatenate([one.logits, other.logits]), np.array([True, False] * 2), one.kinds * 2, one.groups * 2
    )
    found = weigh("net", [both, scored("drawn", [1.0], [0.0])], BARS)
    rows = [{row.bar.kind: row.value for row in view} for view in view_by_view(found, BARS, 2)]
    right = [
        {"crack": bool(crack >= found.choice.threshold_logit), "plain": bool(plain < found.choice.threshold_logit)}
        for crack, plain in (one.logits, other.logits)
    ]
    assert rows == right


def test_the_difference_of_two_nets_is_paired_by_photograph() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 3, 80)  # what makes one photograph harder than another is the same for both nets
    cracks, sound = hard[:40] + 1.0, hard[40:]
    first = weigh("first", [scored("a", list(cracks), list(sound))], BARS)
    better = weigh("better", [scored("a", list(cracks + 0.7), list(sound))], BARS)
    same = difference(first, first, ["a"], resamples=50, seed=2)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    more = difference(first, better, ["a"], resamples=200, seed=2)
    assert more.value == pytest.approx(better.areas["a"] - first.areas["a"])
    assert 0 < more.low < more.value < more.high
    alone = abs(better.areas["a"] - 0.5)
    assert more.high - more.low < alone  # paired: far less than either area is unsure by
    assert difference(first, better, ["a"], resamples=200, seed=2) == more


def test_the_committed_configuration_is_read_and_is_the_default() -> None:
    assert read_settings(REPOSITORY / "config/training/commands/candidates.yaml", CandidatesSettings) == (
        CandidatesSettings()
    )


def test_only_validation_sets_may_choose(tmp_path: Path) -> None:
    config = tmp_path / "candidates.yaml"
    for name in ("walls-external", "nowhere"):
        config.write_text(f"sets: [uav75, {name}]\n")
        with pytest.raises(ConfigError, match=f"{name}.*has no validation part, and only such sets may choose"):
            read_settings(config, CandidatesSettings)


def test_nets_are_named_so_that_they_can_be_told_apart(tmp_path: Path) -> None:
    other = Path(shutil.copytree(BUNDLES / "opnet", tmp_path / "other"))
    version = json.loads((other / "manifest.json").read_text())["version"]
    assert _labels([BUNDLES / "opnet"]) == [f"opnet {version}"]
    assert _labels([BUNDLES / "opnet", other]) == [str(BUNDLES / "opnet"), str(other)]


def test_the_command_compares_two_nets_and_the_page_says_what_tells_them_apart(
    data_root: Path, splits: Path, cache: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    config = tmp_path / "candidates.yaml"
    settings = {"sets": ["uav75", "metu-ccic"], "drawn": False, "areas": ["uav75", "relief"], "resamples": 20}
    config.write_text(yaml.safe_dump(settings))
    places = ["--data", str(data_root), "--cache", str(cache), "--splits", str(splits), "--limit", "10"]
    models = [str(BUNDLES / "opnet"), str(BUNDLES / "opnet-lse")]
    out = tmp_path / "out"
    arguments = ["candidates", *models, "--config", str(config), "--out", str(out), *places]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    content = json.loads((out / "candidates.json").read_text(encoding="utf-8"))
    assert content["areas"] == ["uav75"]  # nothing was drawn
    labels = [item["label"] for item in content["candidates"]]
    assert [label.split()[0] for label in labels] == ["opnet", "opnet-lse"]
    assert content["compared_with"] == labels[0]
    for item in content["candidates"]:
        assert {(row["set"], row["kind"]) for row in item["bars"]} == {
            ("uav75", "crack"), ("uav75", "joint"), ("uav75", "plain"), ("metu-ccic", "crack"),
            ("metu-ccic", "specificity"),
        } - ({("uav75", "crack"), ("uav75", "joint"), ("uav75", "plain")} if item["label"] == labels[0] else set())  # fmt: skip
    title, summary, sections = read_sections(out / "index.html")
    assert title == "Candidates"
    assert all(label in summary for label in labels)
    assert [section.title for section in sections] == [
        "At the threshold that the bars choose", "View by view", "Every kind of tile",
    ]  # fmt: skip
    difference_of = content["difference"][0]
    assert f"{100 * difference_of[0]:+.2f}" in sections[0].tables[0].rows[1][5]
    assert (out / "candidates.md").read_text(encoding="utf-8").startswith("# Candidates\n")
    assert "<svg" in (out / "shares.svg").read_text(encoding="utf-8")
    before = (out / "candidates.json").read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (out / "candidates.json").read_bytes() == before

    damaged = tmp_path / "net.pt"
    damaged.write_bytes(b"nothing")
    refused = CliRunner().invoke(app, ["candidates", str(damaged), "--config", str(config), *places])
    assert refused.exit_code == 2
    assert "net.pt" in refused.output
