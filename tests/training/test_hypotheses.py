from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.dataset import EvaluationSet
from training.data.sources import CRACK
from training.evaluation.hypotheses import (
    HYPOTHESES,
    Hypothesis,
    crack_contrast,
    crack_width_px,
    draw_effects,
    put_to_test,
)
from training.evaluation.hypotheses_command import _page
from training.evaluation.threshold import Scored
from training.page import read_sections, render_markdown

pytestmark = pytest.mark.training

THIN = next(hypothesis for hypothesis in HYPOTHESES if hypothesis.name == "thin")
JOINT = next(hypothesis for hypothesis in HYPOTHESES if hypothesis.name == "joint")


def cracked(width: int, depth: int = 80) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((224, 224), np.uint8)
    cv2.line(mask, (0, 60), (223, 150), CRACK, width)
    tile = np.full((224, 224, 3), 160, np.uint8)
    tile[mask > 0] -= depth
    return tile, mask


def widths(count: int = 40) -> EvaluationSet:
    pairs = [cracked(1 + index % 8) for index in range(count)]
    return EvaluationSet(
        "walls",
        np.stack([tile for tile, _ in pairs]),
        np.ones(count, np.bool_),
        [f"photograph {index // 2}" for index in range(count)],
        ["crack"] * count,
        np.stack([mask for _, mask in pairs]),
    )


def scored(tiles: EvaluationSet, logits: np.ndarray) -> Scored:
    return Scored(tiles.name, logits.astype(np.float64), tiles.labels, tuple(tiles.kinds), tuple(tiles.groups))


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_width_is_measured_in_pixels(width: int) -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[100 : 100 + width] = CRACK
    assert crack_width_px(np.zeros((224, 224, 3), np.uint8), mask, "crack") == pytest.approx(width, abs=0.5)


def test_contrast_is_measured_in_grey_levels() -> None:
    tile, mask = cracked(4, depth=50)
    assert crack_contrast(tile, mask, "crack") == pytest.approx(50, abs=2)


def test_a_model_that_misses_thin_cracks_supports_that_thin_cracks_are_missed() -> None:
    tiles = widths()
    logits = np.array([index % 8 - 2.5 for index in range(40)])
    found = put_to_test(THIN, tiles, scored(tiles, logits), 0.0, resamples=100)
    assert found is not None
    assert found.verdict == "supported"
    assert found.effect.high < 0.5
    assert found.median_wrong < found.median_right


def test_a_model_that_misses_wide_cracks_refutes_it() -> None:
    tiles = widths()
    logits = np.array([2.5 - index % 8 for index in range(40)])
    found = put_to_test(THIN, tiles, scored(tiles, logits), 0.0, resamples=100)
    assert found is not None
    assert found.verdict == "refuted"


def test_misses_at_random_decide_nothing() -> None:
    tiles = widths()
    logits = np.where(np.random.default_rng(3).random(40) < 0.5, 1.0, -1.0)
    found = put_to_test(THIN, tiles, scored(tiles, logits), 0.0, resamples=200)
    assert found is not None
    assert found.verdict == "undecided"
    assert found.effect.low < 0.5 < found.effect.high


def test_few_errors_are_not_tested() -> None:
    tiles = widths()
    logits = np.ones(40)
    logits[:3] = -1
    found = put_to_test(THIN, tiles, scored(tiles, logits), 0.0)
    assert found is not None
    assert found.verdict == "too few errors"
    assert found.to_dict()["effect"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda hypothesis: hypothesis.name)
def test_every_quantity_is_a_finite_number(hypothesis: Hypothesis) -> None:
    tile, mask = cracked(3)
    assert np.isfinite(hypothesis.quantity(tile, mask, "crack"))
    assert np.isfinite(hypothesis.quantity(np.zeros_like(tile), np.zeros_like(mask), "plain"))


def test_a_set_without_the_class_or_without_masks_says_nothing() -> None:
    tiles = widths()
    assert put_to_test(JOINT, tiles, scored(tiles, np.ones(40)), 0.0) is None
    bare = EvaluationSet(tiles.name, tiles.tiles, tiles.labels, tiles.groups, tiles.kinds, None)
    assert put_to_test(THIN, bare, scored(bare, np.ones(40)), 0.0) is None


def test_effects_are_drawn(tmp_path: Path) -> None:
    tiles = widths()
    logits = np.array([index % 8 - 2.5 for index in range(40)])
    found = put_to_test(THIN, tiles, scored(tiles, logits), 0.0, resamples=50)
    assert found is not None
    draw_effects([found], tmp_path / "effects.svg")
    assert "<svg" in (tmp_path / "effects.svg").read_text()


def test_the_command_judges_a_bundle_at_its_own_threshold(
    data_root: Path, splits: Path, cache: Path, tmp_path: Path
) -> None:
    import json

    from typer.testing import CliRunner

    from tests.training.conftest import REPOSITORY
    from training.cli import app
    from training.evaluation import hypotheses_command

    if not any(command.name == "hypotheses" for command in app.registered_commands):
        hypotheses_command.register(app)
    config = tmp_path / "hypotheses.yaml"
    config.write_text(
        f"sets: [uav75/val]\nroot: {data_root}\ncache: {cache}\nsplits: {splits}\nout: {tmp_path}\nresamples: 20\n"
    )
    bundle = REPOSITORY / "exported_models/opnet"
    done = CliRunner().invoke(app, ["hypotheses", str(bundle), "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "opnet/hypotheses.json").read_text())
    names = {row["name"] for row in content["tested"]}
    assert {"thin", "joint"} <= names
    assert content["file"] == "int8"
    assert (tmp_path / "opnet/index.html").is_file()


def test_every_quantity_is_told_with_its_unit() -> None:
    assert all(re.search(r"\(.+\)$", hypothesis.measured) for hypothesis in HYPOTHESES)
    assert THIN.measured.endswith("(px)")


def test_unknown_sets_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    from training.errors import ConfigError
    from training.evaluation.hypotheses_command import hypotheses_command

    config = tmp_path / "hypotheses.yaml"
    config.write_text("sets: [mars]\n")
    with pytest.raises(ConfigError, match=r"hypotheses\.yaml.*mars.*uav75/val"):
        hypotheses_command(tmp_path, config)


def test_the_page_says_so_where_no_tile_is_wrong(tmp_path: Path) -> None:
    tiles = widths()
    found = put_to_test(THIN, tiles, scored(tiles, np.arange(1.0, 41.0)), 0.0, resamples=10)
    assert found is not None
    chart = tmp_path / "effects.svg"
    draw_effects([found], chart)
    page = _page(tmp_path, "model", "int8", [(tiles.name, found)], chart).read_text(encoding="utf-8")
    plain = page.replace(' class="short"', "").replace(' class="long"', "")
    assert f"<td>0</td><td>40</td><td>{THIN.measured}</td><td>–</td>" in plain
    assert ">nan<" not in page


def test_errors_of_one_photograph_have_an_effect_without_an_interval(tmp_path: Path) -> None:
    tiles = widths()
    groups = ["spoiled" if index < 8 else group for index, group in enumerate(tiles.groups)]
    tiles = EvaluationSet(tiles.name, tiles.tiles, tiles.labels, groups, tiles.kinds, tiles.masks)
    found = put_to_test(THIN, tiles, scored(tiles, np.where(np.arange(40) < 8, -1.0, 1.0)), 0.0, resamples=10)
    assert found is not None
    assert found.verdict == "undecided"
    chart = tmp_path / "effects.svg"
    draw_effects([found], chart)
    page = _page(tmp_path, "model", "int8", [(tiles.name, found)], chart)
    text = f"{found.effect.value:.2f} (–: all in one photograph)"
    title, summary, sections = read_sections(page)
    assert text in page.read_text(encoding="utf-8")
    assert text in render_markdown(title, summary, sections, str)
    assert "nan" not in render_markdown(title, summary, sections, str)
