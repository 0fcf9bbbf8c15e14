from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drone_agent.errors import ConfigError
from drone_agent.values import Frame, Image, Tile, TileScore, Verdict
from drone_agent.vision.bundle import GsdBand
from drone_agent.vision.pipeline import Vision, open_vision
from drone_agent.vision.settings import QualityGates, QualitySettings, TilingSettings, VisionSettings
from drone_agent.vision.tiling import plan
from tests.vision.bundles import expected_logit, make_bundle
from tests.vision.test_quality import concrete, gaussian

BAND = GsdBand(nominal=1.0, min=0.5, max=2.0)


class CountingClassifier:
    """Calls every tile clear, and remembers which it was asked about."""

    def __init__(self) -> None:
        self.asked: list[Tile] = []

    def score(self, image: Image, tiles: Sequence[Tile]) -> list[TileScore]:
        self.asked.extend(tiles)
        return [TileScore(tile, Verdict.CLEAR, -3.0, 0.05) for tile in tiles]

    def describe(self) -> Mapping[str, Any]:
        return {"name": "counting"}


def frame(image: Image) -> Frame:
    return Frame(0, 0, image)


def half_blurred() -> Image:
    image = concrete()
    image[:, 336:] = gaussian(4.0)(image)[:, 336:]
    return image


def test_every_tile_of_the_frame_has_a_verdict_in_the_order_of_the_plan() -> None:
    seen = Vision(CountingClassifier()).score(frame(concrete()))
    assert [score.tile for score in seen.scores] == list(plan(672, 448, 224, 0.0))
    assert {score.verdict for score in seen.scores} == {Verdict.CLEAR}
    assert seen.tile_px == 224
    assert seen.brightness == pytest.approx(150, abs=2)
    assert seen.sharpness > 0.4


def test_a_blurred_tile_is_unknown_and_costs_no_inference() -> None:
    classifier = CountingClassifier()
    seen = Vision(classifier).score(frame(half_blurred()))
    unknown = [score for score in seen.scores if score.verdict is Verdict.UNKNOWN]
    assert unknown
    assert {(score.reason, score.p_crack, score.logit) for score in unknown} == {("blur", None, None)}
    assert classifier.asked == [score.tile for score in seen.scores if score.verdict is Verdict.CLEAR]
    assert Tile(448, 0, 224) in {score.tile for score in unknown}


def test_a_refused_tile_can_be_scored_and_stays_unknown() -> None:
    classifier = CountingClassifier()
    seen = Vision(classifier, quality=QualitySettings(score_refused=True)).score(frame(half_blurred()))
    blurred = next(score for score in seen.scores if score.tile == Tile(448, 0, 224))
    assert (blurred.verdict, blurred.reason, blurred.p_crack) == (Verdict.UNKNOWN, "blur", 0.05)
    assert len(classifier.asked) == len(seen.scores)


def test_without_the_gate_everything_is_scored() -> None:
    seen = Vision(CountingClassifier(), quality=QualitySettings(enabled=False)).score(
        frame(np.zeros((300, 300, 3), np.uint8))
    )
    assert {score.verdict for score in seen.scores} == {Verdict.CLEAR}


def test_a_black_frame_is_unknown_and_the_model_is_not_asked() -> None:
    classifier = CountingClassifier()
    seen = Vision(classifier).score(frame(np.zeros((720, 1280, 3), np.uint8)))
    assert {(score.verdict, score.reason) for score in seen.scores} == {(Verdict.UNKNOWN, "dark")}
    assert classifier.asked == []


@pytest.mark.parametrize(
    ("gsd_mm_px", "tile_px"),
    [
        (None, 224),
        (0.5, 224),
        (1.0, 224),
        (2.0, 224),
        # Too fine: the model sees more of the wall in one tile.
        (0.4, 280),
        (0.25, 448),
        # Too coarse: less of it.
        (2.5, 179),
        (4.0, 112),
    ],
)
def test_tiles_are_resampled_into_the_band_of_the_model(gsd_mm_px: float | None, tile_px: int) -> None:
    image = concrete(size=(672, 900))
    seen = Vision(CountingClassifier(), gsd=BAND).score(frame(image), gsd_mm_px=gsd_mm_px)
    assert seen.tile_px == tile_px
    assert {score.tile.size_px for score in seen.scores} == {tile_px}
    assert {score.verdict for score in seen.scores} == {Verdict.CLEAR}


@pytest.mark.parametrize("gsd_mm_px", [0.01, 0.2, 4.2, 50.0])
def test_outside_what_resampling_reaches_every_tile_is_unknown(gsd_mm_px: float) -> None:
    classifier = CountingClassifier()
    seen = Vision(classifier, gsd=BAND).score(frame(concrete()), gsd_mm_px=gsd_mm_px)
    assert {(score.verdict, score.reason) for score in seen.scores} == {(Verdict.UNKNOWN, "gsd")}
    assert classifier.asked == []


def test_resampling_can_be_switched_off() -> None:
    vision = Vision(CountingClassifier(), TilingSettings(max_resample=1.0), gsd=BAND)
    assert {score.reason for score in vision.score(frame(concrete()), gsd_mm_px=2.4).scores} == {"gsd"}
    assert {score.reason for score in vision.score(frame(concrete()), gsd_mm_px=1.9).scores} == {None}


def test_a_frame_too_small_for_a_tile_of_the_band_is_unknown() -> None:
    vision = Vision(CountingClassifier(), gsd=BAND)
    # 100 px enlarged to 224: the model would see 0.27 mm a pixel.
    small = frame(concrete(size=(100, 100)))
    assert {score.reason for score in vision.score(small, gsd_mm_px=0.6).scores} == {"gsd"}
    assert {score.reason for score in vision.score(small, gsd_mm_px=1.5).scores} == {None}


def test_overlap_follows_the_settings() -> None:
    vision = Vision(CountingClassifier(), TilingSettings(overlap=0.5))
    assert len(vision.score(frame(concrete())).scores) == len(plan(672, 448, 224, 0.5)) == 15


@pytest.fixture
def vision(tmp_path: Path) -> Vision:
    return open_vision(VisionSettings(model=str(make_bundle(tmp_path / "b"))))


def test_a_real_model_runs_behind_the_pipeline(vision: Vision) -> None:
    image = concrete()
    image[:224, :224] = np.clip(image[:224, :224].astype(int) - 80, 0, 255)
    seen = vision.score(frame(image), gsd_mm_px=1.0)
    scores = {score.tile: score for score in seen.scores}
    assert scores[Tile(0, 0, 224)].verdict is Verdict.CRACK
    assert scores[Tile(448, 224, 224)].verdict is Verdict.CLEAR
    level = float(image[:224, :224].mean())
    assert scores[Tile(0, 0, 224)].logit == pytest.approx(expected_logit(level), abs=0.01)


def test_a_picture_as_one_tile_is_resized_whole(vision: Vision) -> None:
    image = np.full((300, 600, 3), 200, np.uint8)
    image[:, :300] = 0
    scores = vision.score_image(image, as_tile=True)
    assert [score.tile for score in scores] == [Tile(0, 0, 600)]
    assert scores[0].logit == pytest.approx(expected_logit(100), abs=0.1)
    assert scores[0].peak_x_px is not None
    assert 0 <= scores[0].peak_x_px < 300


def test_a_large_picture_is_cut_into_tiles_and_never_refused(vision: Vision) -> None:
    scores = vision.score_image(np.zeros((448, 448, 3), np.uint8))
    assert [score.tile for score in scores] == list(plan(448, 448, 224, 0.0))
    assert all(score.p_crack is not None and score.p_crack > 0.99 for score in scores)


def test_a_small_picture_is_enlarged(vision: Vision) -> None:
    scores = vision.score_image(np.full((60, 60, 3), 40, np.uint8))
    assert [score.tile for score in scores] == [Tile(0, 0, 60)]
    assert scores[0].logit == pytest.approx(expected_logit(40), abs=0.01)


def test_the_flight_log_is_told_model_and_settings(vision: Vision) -> None:
    facts = vision.describe()
    assert facts["name"] == "darkness"
    assert facts["quality"]["min_sharpness"] == QualityGates().min_sharpness
    assert facts["tiling"]["overlap"] == TilingSettings().overlap


def test_what_the_settings_leave_open_is_taken_from_the_bundle(tmp_path: Path) -> None:
    quality = {"min_sharpness": 0.9, "min_brightness": 40.0, "max_smear_px": 5.0, "basis": "measured"}
    model = str(make_bundle(tmp_path / "b", manifest={"quality": quality}))
    image = concrete()
    assert any(
        tile.verdict is not Verdict.UNKNOWN
        for tile in open_vision(VisionSettings(model=str(make_bundle(tmp_path / "plain")))).score(frame(image)).scores
    )
    measured = open_vision(VisionSettings(model=model))
    assert {tile.reason for tile in measured.score(frame(gaussian(1.0)(image))).scores} == {"blur"}
    told = measured.describe()["quality"]
    assert (told["min_sharpness"], told["min_brightness"], told["max_brightness"]) == (0.9, 40.0, 243.0)


def test_the_settings_win_over_the_bundle(tmp_path: Path) -> None:
    model = str(make_bundle(tmp_path / "b", manifest={"quality": {"min_sharpness": 2.0}}))
    own = VisionSettings(model=model, quality=QualitySettings(min_sharpness=0.28))
    assert None in {tile.reason for tile in open_vision(own).score(frame(concrete())).scores}


def test_settings_and_bundle_that_let_no_picture_pass_are_refused(tmp_path: Path) -> None:
    model = str(make_bundle(tmp_path / "b", manifest={"quality": {"max_brightness": 150.0}}))
    settings = VisionSettings(model=model, quality=QualitySettings(min_brightness=200.0))
    with pytest.raises(ConfigError, match=r"found 200, allowed is less than .* \(150\)"):
        open_vision(settings)
