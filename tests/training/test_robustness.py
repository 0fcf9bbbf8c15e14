from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")

from drone_agent.values import Tile
from drone_agent.vision.quality import assess
from drone_agent.vision.settings import QualitySettings
from training.config import read_settings
from training.data.cache import load_photographs
from training.data.dataset import EvaluationSet, evaluation_tiles
from training.data.sources import get_source
from training.errors import ConfigError
from training.evaluation import disturb
from training.evaluation.disturb import DISTURBANCES, Subjects, line_kernel, square
from training.evaluation.evaluate import score
from training.evaluation.gates import MAX_REFUSED, gates_of
from training.evaluation.metrics import Estimate
from training.evaluation.picture_quality import measure
from training.evaluation.robustness import Level, Robustness, Spread, Sweep, crossing, limits_of, mean_over_sets, sweep
from training.evaluation.robustness_report import middling_crack
from training.evaluation.settings import RobustnessSettings
from training.progress import no_bar

from .conftest import REPOSITORY, texture

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def uav75(data_root: Path, cache: Path, splits: Path) -> Subjects:
    tiles = evaluation_tiles("uav75", "val", data_root, cache, splits)
    return Subjects(tiles, load_photographs(get_source("uav75", for_training=False), data_root, cache))


@pytest.fixture(scope="module")
def metu(data_root: Path, cache: Path, splits: Path) -> Subjects:
    tiles = evaluation_tiles("metu-ccic", "val", data_root, cache, splits)
    return Subjects(tiles, load_photographs(get_source("metu-ccic", for_training=False), data_root, cache))


class Darkest:
    """Scores a tile by its darkest hundredth: blur and light take a thin dark line away from it."""

    def logits(self, tiles: np.ndarray, progress: object = None) -> np.ndarray:
        return np.array([100.0 - np.percentile(tile[..., 1], 1) for tile in tiles], dtype=np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spoil", ["none", "focus", "motion", "noise", "exposure"])
def test_sharpness_and_brightness_are_those_of_the_agent(seed: int, spoil: str) -> None:
    rng = np.random.default_rng(seed)
    tile = texture(rng, 224)
    changes = {
        "none": tile,
        "focus": disturb.focus(tile, 1.5),
        "motion": disturb.motion(tile, 9, 0.7),
        "noise": disturb.noise(tile, 12, rng),
        "exposure": disturb.exposure(tile, -2.0),
    }
    found = measure(changes[spoil])
    agent = assess(changes[spoil], [Tile(0, 0, 224)], QualitySettings().gates())[0]
    assert found.sharpness == pytest.approx(agent.sharpness, abs=1e-6)
    assert found.brightness == pytest.approx(agent.brightness, abs=1e-6)


@pytest.mark.parametrize(("length", "angle"), [(1.0, 0.0), (5.0, 0.0), (9.0, 1.0), (6.5, 2.5)])
def test_a_smear_keeps_the_light_and_has_the_stated_length(length: float, angle: float) -> None:
    kernel = line_kernel(length, angle).astype(np.float64)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    rows, columns = np.indices(kernel.shape) - kernel.shape[0] // 2
    assert (kernel * rows).sum() == pytest.approx(0.0, abs=1e-4)
    along = columns * np.cos(angle) - rows * np.sin(angle)
    across = columns * np.sin(angle) + rows * np.cos(angle)
    # a line of length L - 1 has the variance (L - 1)^2 / 12 along itself; sharing between pixels adds up to 1/4
    assert (kernel * along**2).sum() == pytest.approx((length - 1) ** 2 / 12, abs=0.5)
    assert (kernel * across**2).sum() < 0.26


def test_one_stop_less_halves_the_light_and_one_more_clips() -> None:
    tile = np.full((224, 224, 3), 200, np.uint8)
    assert (disturb.exposure(tile, -1)[0, 0, 0] / 200) ** disturb.GAMMA == pytest.approx(0.5, abs=0.01)
    assert disturb.exposure(tile, 2).min() == 255


def test_noise_has_the_stated_size() -> None:
    tile = np.full((224, 224, 3), 128, np.uint8)
    assert disturb.noise(tile, 10, np.random.default_rng(1)).std() == pytest.approx(10, rel=0.03)


def test_beyond_the_border_a_picture_is_mirrored_as_often_as_needed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    expected = np.pad(image, ((9, 11), (9, 11), (0, 0)), mode="reflect")
    assert np.array_equal(square(image, -9, -9, 25), expected)


def test_neutral_levels_of_scale_and_rotation_give_the_tile_itself(uav75: Subjects) -> None:
    for index in range(0, len(uav75), 7):
        for name in ("scale", "rotation"):
            again = uav75.disturbed(name, DISTURBANCES[name].neutral, index, 0)
            assert again is not None
            assert np.array_equal(again, uav75.tiles.tiles[index])


def test_a_farther_tile_takes_in_its_real_surroundings(uav75: Subjects) -> None:
    assert uav75.tiles.origins is not None
    checked = 0
    for index, origin in enumerate(uav75.tiles.origins):
        farther = uav75.disturbed("scale", 2.0, index, 0)
        if origin.side != 160 or farther is None:
            continue
        top, left = (min(max(start - 80, 0), 512 - 320) for start in (origin.top, origin.left))
        area = np.asarray(uav75.photographs.images[origin.index][top : top + 320, left : left + 320])
        assert np.array_equal(farther, cv2.resize(area, (224, 224), interpolation=cv2.INTER_AREA))
        checked += 1
    assert checked > 3


@pytest.fixture
def masks_as_pictures(uav75: Subjects) -> Subjects:
    """The masks take the place of the pictures: what comes out of a disturbance is the mask of what comes out."""
    masks = uav75.photographs.masks
    assert masks is not None
    pictures = dataclasses.replace(uav75.photographs, images=np.repeat(masks[..., None], 3, axis=3))
    return Subjects(uav75.tiles, pictures)


@pytest.mark.parametrize(("name", "level"), [("scale", 0.35), ("scale", 2.8), ("rotation", 30)])
def test_a_tile_that_is_cut_anew_still_shows_what_its_label_says(
    masks_as_pictures: Subjects, name: str, level: float
) -> None:
    kept = 0
    for index, kind in enumerate(masks_as_pictures.tiles.kinds):
        shown = masks_as_pictures.disturbed(name, level, index, 0)
        if shown is None:
            continue
        kept += 1
        # resizing blends the mask's values, so only presence is compared here
        assert bool((shown > 60).any()) == (kind != "plain")
    assert kept > 5


def test_a_crack_is_in_the_middle_of_the_nearer_tile(masks_as_pictures: Subjects) -> None:
    middles = []
    for index, kind in enumerate(masks_as_pictures.tiles.kinds):
        shown = masks_as_pictures.disturbed("scale", 0.5, index, 0)
        if kind == "crack" and shown is not None:
            middles.append(shown[80:144, 80:144].max())
    assert len(middles) > 5
    # a window is shifted where the photograph ends, so not every crack can be in the middle
    assert np.mean(np.array(middles) > 200) > 0.7


def test_a_crack_without_mask_is_left_out_when_nearer_and_kept_when_farther(metu: Subjects) -> None:
    crack = int(np.argmax(metu.tiles.labels))
    sound = int(np.argmin(metu.tiles.labels))
    assert metu.disturbed("scale", 0.5, crack, 0) is None
    assert metu.disturbed("scale", 0.5, sound, 0) is not None
    assert metu.disturbed("scale", 2.0, crack, 0) is not None
    with pytest.raises(ValueError, match="allowed: focus"):
        metu.disturbed("fog", 1.0, crack, 0)


def test_crossing_interpolates_and_goes_outwards() -> None:
    assert crossing([0, 1, 2], [0.0, 0.01, 0.05], 0.02) == pytest.approx(1.25)
    assert crossing([0, -1, -2], [0.0, 0.04, 0.0], 0.02) == pytest.approx(-0.5)
    assert crossing([1, 4], [0.0, 0.04], 0.02, "log") == pytest.approx(2.0)
    assert crossing([0, 1], [0.0, 0.0199], 0.02) is None
    assert crossing([0, 1, 2], [0.0, float("nan"), 0.04], 0.02) == pytest.approx(1.0)


def test_every_set_weighs_the_same_and_photographs_are_drawn() -> None:
    many, few = np.ones(90), np.zeros(10)
    groups = [np.array([str(i % 9) for i in range(90)]), np.array([str(i % 5) for i in range(10)])]
    found = mean_over_sets([many, few], groups, resamples=100, seed=0)
    # nothing varied, so the rule of three over 14 photographs is all that is known
    unseen = 1 - 0.025 ** (1 / 14)
    assert found.as_list() == pytest.approx([0.5, 0.5 - unseen, 0.5 + unseen])
    all_right = mean_over_sets([many, np.ones(10)], groups, resamples=100, seed=0)
    assert all_right.as_list() == pytest.approx([1.0, 1 - unseen, 1.0])
    nothing_fell = mean_over_sets([0 * many, few], groups, bounds=(-1.0, 1.0), resamples=100, seed=0)
    assert nothing_fell.as_list() == pytest.approx([0.0, -unseen, unseen])
    mixed = mean_over_sets([(np.arange(90) % 9 < 4).astype(float)], groups[:1], resamples=2000, seed=0)
    # 9 photographs, each wholly right or wrong: the deviation of the mean is sqrt(p q / 9)
    assert mixed.high - mixed.low == pytest.approx(2 * 1.96 * np.sqrt(4 / 9 * 5 / 9 / 9), rel=0.15)
    assert np.isnan(mean_over_sets([many], [np.array(["one"] * 90)], resamples=100, seed=0).low)


def level(at: float, fall: float, width: float, sharpness: float) -> Level:
    spread = Spread(sharpness - 0.1, sharpness, sharpness + 0.1)
    falls = {"recall": Estimate(fall, fall - width, fall + width)}
    return Level(at, {}, {"recall": Estimate(1 - fall, 0, 1)}, falls, 10, 0, spread, spread)


def blurred(*, ordinary: list[float]) -> Robustness:
    levels = (level(0, 0, 0, 0.8), level(1, 0.01, 0.005, 0.6), level(2, 0.03, 0.005, 0.4), level(3, 0.2, 0.1, 0.2))
    limits = limits_of(DISTURBANCES["focus"], levels, 0.02)
    return Robustness(0.0, 0.02, levels[0], (Sweep("focus", levels, limits),), tuple(ordinary), ())


def test_limits_name_what_is_measured_excluded_and_certain() -> None:
    (found,) = blurred(ordinary=[0.8]).sweeps[0].limits
    assert found.level == pytest.approx(1.5)
    assert found.earliest == pytest.approx(1.25)
    assert found.latest == pytest.approx(1.75)
    assert found.sharpness == pytest.approx(0.5)
    assert found.sharpness_latest == pytest.approx(0.45)


def test_a_gate_that_refuses_good_pictures_gives_way_to_the_certain_level_and_then_to_none() -> None:
    assert gates_of(blurred(ordinary=[0.8] * 20)).min_sharpness == pytest.approx(0.5)
    gives_way = gates_of(blurred(ordinary=[0.8] * 10 + [0.47] * 10))
    assert gives_way.min_sharpness == pytest.approx(0.45)
    assert gives_way.refused["min_sharpness"] <= MAX_REFUSED
    none = gates_of(blurred(ordinary=[0.8] * 10 + [0.1] * 10))
    assert none.min_sharpness is None
    assert any("would refuse 50 %" in note for note in none.notes)


def test_blur_that_hides_the_cracks_is_found_and_light_sound_tiles_stay_sound(metu: Subjects) -> None:
    scorer = Darkest()
    start = [score(scorer, metu.tiles)]
    threshold = float(np.mean([start[0].logits[start[0].labels].min(), start[0].logits[~start[0].labels].max()]))
    found = sweep(
        scorer,
        threshold,
        [metu],
        {"focus": [0.5, 8.0], "exposure": [], "jpeg": [50]},
        undisturbed=start,
        fall=0.02,
        resamples=50,
        seed=1,
        step=no_bar,
    )
    assert [item.name for item in found.sweeps] == ["focus", "jpeg"]
    focus = found.sweeps[0]
    assert found.undisturbed.rates["recall"].value == 1.0
    assert focus.levels[-1].rates["recall"].value == 0.0
    limit = focus.limit("recall", "above")
    assert limit is not None
    assert limit.level is not None
    assert 0.5 <= limit.level < 8
    assert focus.levels[0].sharpness.median > focus.levels[-1].sharpness.median


def test_external_and_test_sets_decide_no_gate(tmp_path: Path) -> None:
    for name in ("walls-external", "brickwork-external"):
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({"sets": [name]}))
        with pytest.raises(ConfigError, match="no validation part"):
            read_settings(path, RobustnessSettings)


def test_the_sheet_shows_a_crack_that_is_neither_dark_nor_bright() -> None:
    greys, cracked = [250, 128, 20, 150, 90], [True, False, True, True, True]
    tiles = np.stack([np.full((224, 224, 3), grey, np.uint8) for grey in greys])
    names = [str(grey) for grey in greys]
    assert middling_crack(EvaluationSet("any", tiles, np.array(cracked), names, names)) == 3
    assert middling_crack(EvaluationSet("any", tiles[:1], np.array([False]), names[:1], names[:1])) == 0


@pytest.mark.parametrize("levels", [{"focus": [0]}, {"scale": [1]}, {"jpeg": [0]}, {"exposure": [0]}, {"fog": [1]}])
def test_impossible_levels_are_refused(levels: dict[str, list[float]], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"levels": levels}))
    with pytest.raises(ConfigError, match="levels"):
        read_settings(path, RobustnessSettings)


def test_the_committed_configuration_states_the_defaults() -> None:
    path = REPOSITORY / "config/training/commands/robustness.yaml"
    assert read_settings(path, RobustnessSettings) == RobustnessSettings()


def test_the_command_writes_numbers_figures_and_a_page(
    data_root: Path, cache: Path, splits: Path, tmp_path: Path
) -> None:
    from training import cli
    from training.engine import checkpoint
    from training.models import create

    net = create("opnet-lse").eval()
    model = tmp_path / "tiny" / "best.pt"
    model.parent.mkdir()
    content = {"model": "opnet-lse", "options": {}, "state_dict": net.state_dict(), "config": {}, "history": []}
    checkpoint.save(model, content)
    config = tmp_path / "robustness.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "data": {"root": str(data_root), "cache": str(cache), "splits": str(splits)},
                "sets": ["metu-ccic", "not-concrete"],
                "levels": {"focus": [2], "scale": [0.5, 2], "motion": [], "noise": [], "exposure": [-2], "jpeg": [],
                           "rotation": []},
            }
        )
    )  # fmt: skip
    cli._register_further_commands()
    arguments = ["robustness", str(model), "--config", str(config), "--out", str(tmp_path / "out"), "--limit", "10"]
    done = CliRunner().invoke(cli.app, [*arguments, "--resamples", "20"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert written["model"]["label"] == "tiny"
    assert set(written["disturbances"]) == {"focus", "scale", "exposure"}
    assert [level["level"] for level in written["disturbances"]["scale"]["levels"]] == [0.5, 1.0, 2.0]
    assert "gsd_factor_max" in written["gates"]
    page = (tmp_path / "out" / "robustness.html").read_text()
    assert page.count("data:image/svg+xml") == 3
    assert "data:image/png" in page
