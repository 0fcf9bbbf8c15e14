import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.errors import ModelRejected
from drone_agent.values import Image, Tile, Verdict
from drone_agent.vision.bundle import load_bundle
from drone_agent.vision.ort import OrtClassifier, open_classifier, sigmoid
from drone_agent.vision.settings import VisionSettings
from tests.vision.bundles import expected_logit, make_bundle


def classifier(folder: Path, *, options: dict[str, Any] | None = None, **bundle: Any) -> OrtClassifier:
    return OrtClassifier(load_bundle(make_bundle(folder, **bundle)), **(options or {}))


def stripes() -> Image:
    """Five tiles side by side, from dark to bright."""
    image = np.zeros((224, 5 * 224, 3), np.uint8)
    for index, level in enumerate((20, 60, 100, 140, 180)):
        image[:, index * 224 : (index + 1) * 224] = level
    return image


TILES = [Tile(index * 224, 0, 224) for index in range(5)]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_each_tile_gets_its_own_score_whatever_the_batch(tmp_path: Path, channels: int, batch: int) -> None:
    scores = classifier(tmp_path / "b", channels=channels, options={"batch": batch}).score(stripes(), TILES)
    assert [score.tile for score in scores] == TILES
    for score, level in zip(scores, (20, 60, 100, 140, 180), strict=True):
        assert score.logit == pytest.approx(expected_logit(level), abs=1e-4)
        assert score.p_crack == pytest.approx(sigmoid(expected_logit(level)), abs=1e-5)
        assert score.reason is None
    assert [score.verdict for score in scores] == [Verdict.CRACK] * 2 + [Verdict.CLEAR] * 3


def test_the_order_of_the_channels_is_kept(tmp_path: Path) -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    image[:, :] = (30, 60, 90)
    for channels in (3, 4):
        score = classifier(tmp_path / str(channels), channels=channels).score(image, [Tile(0, 0, 224)])[0]
        assert score.logit == pytest.approx(expected_logit(60), abs=1e-4)


def test_temperature_and_bias_calibrate_and_the_threshold_decides(tmp_path: Path) -> None:
    image = np.full((224, 224, 3), 80, np.uint8)
    scores = classifier(tmp_path / "b", temperature=2.0, bias=-0.5, threshold_p=0.6).score(image, [Tile(0, 0, 224)])
    assert scores[0].logit == pytest.approx(2.0 / 2.0 - 0.5, abs=1e-4)
    assert scores[0].p_crack == pytest.approx(0.62246, abs=1e-4)
    assert scores[0].verdict is Verdict.CRACK
    strict = classifier(tmp_path / "b", temperature=2.0, bias=-0.5, threshold_p=0.6, options={"threshold_p": 0.63})
    assert scores[0].margin == pytest.approx(0.5 - math.log(0.6 / 0.4), abs=1e-4)
    clear = strict.score(image, [Tile(0, 0, 224)])[0]
    assert clear.verdict is Verdict.CLEAR
    assert clear.margin == pytest.approx(0.5 - math.log(0.63 / 0.37), abs=1e-4)
    assert strict.describe()["threshold_from"] == "override"


def test_the_threshold_itself_counts_as_a_crack(tmp_path: Path) -> None:
    image = np.full((224, 224, 3), 96, np.uint8)
    score = classifier(tmp_path / "b", threshold_p=0.5).score(image, [Tile(0, 0, 224)])[0]
    assert score.p_crack == 0.5
    assert score.verdict is Verdict.CRACK


@pytest.mark.parametrize("size", [112, 224, 448])
def test_the_peak_lies_in_the_strongest_cell_in_pixels_of_the_frame(tmp_path: Path, size: int) -> None:
    image = np.full((700, 900, 3), 200, np.uint8)
    tile = Tile(300, 200, size)
    cell = size / 7
    # The cell in column 5, row 2.
    left, top = round(300 + 5 * cell), round(200 + 2 * cell)
    image[top : top + round(cell), left : left + round(cell)] = 0
    score = classifier(tmp_path / "b").score(image, [tile])[0]
    assert score.peak_x_px == pytest.approx(300 + 5.5 * cell)
    assert score.peak_y_px == pytest.approx(200 + 2.5 * cell)
    assert score.cells is not None
    assert score.cells.shape == (7, 7)
    assert score.logit == pytest.approx(float(score.cells.mean()), abs=1e-3)


def test_cells_stay_as_they_are_when_the_next_frame_is_scored(tmp_path: Path) -> None:
    model = classifier(tmp_path / "b", options={"batch": 2})
    first = model.score(stripes(), TILES)
    before = [np.array(score.cells) for score in first]
    model.score(np.zeros((224, 5 * 224, 3), np.uint8), TILES)
    assert all(
        np.array_equal(score.cells, kept) for score, kept in zip(first, before, strict=True) if score.cells is not None
    )


def test_a_result_that_is_not_finite_is_unknown_and_never_clear(tmp_path: Path) -> None:
    scores = classifier(tmp_path / "b", nan_above_level=120.0).score(stripes(), TILES)
    assert [score.verdict for score in scores] == [Verdict.CRACK, Verdict.CRACK, Verdict.CLEAR] + [Verdict.UNKNOWN] * 2
    for score in scores[3:]:
        assert score.reason == "model"
        assert score.p_crack is None
        assert score.logit is None


def test_scoring_twice_gives_the_same_to_the_last_bit(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    tiles = [Tile(x, y, 224) for y in (0, 100, 224) for x in (0, 50, 224)]
    model = classifier(tmp_path / "b")
    assert [score.logit for score in model.score(image, tiles)] == [score.logit for score in model.score(image, tiles)]


def test_no_tiles_no_scores(tmp_path: Path) -> None:
    assert classifier(tmp_path / "b").score(stripes(), []) == []


def test_the_flight_log_is_told_the_facts(tmp_path: Path) -> None:
    model = classifier(tmp_path / "b", options={"threads": 1, "batch": 4})
    model.warm_up()
    facts = model.describe()
    assert facts["name"] == "darkness"
    assert facts["file"] == "fp32"
    assert facts["sha256"] == model.bundle.sha256
    assert facts["threshold_p"] == 0.5
    assert facts["threshold_from"] == "bundle"
    assert facts["providers"] == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"found cuda, but this onnxruntime has only .*CPUExecutionProvider"):
        classifier(tmp_path / "b", options={"provider": "cuda"})
    with pytest.raises(ModelRejected, match="allowed are cpu, cuda, tensorrt"):
        classifier(tmp_path / "b", options={"provider": "abacus"})


def test_the_settings_open_the_classifier(tmp_path: Path) -> None:
    settings = VisionSettings(model=str(make_bundle(tmp_path / "b")), batch=3, threshold_p=0.9)
    model = open_classifier(settings)
    assert model.threshold_p == 0.9
    assert model.describe()["batch"] == 3


@given(st.floats(-1e6, 1e6))
def test_the_logistic_is_right_for_any_logit(logit: float) -> None:
    p_crack = sigmoid(logit)
    assert 0.0 <= p_crack <= 1.0
    assert p_crack + sigmoid(-logit) == pytest.approx(1.0)
    if abs(logit) < 30:
        assert math.log(p_crack / (1 - p_crack)) == pytest.approx(logit, rel=1e-3, abs=1e-6)
