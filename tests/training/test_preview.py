from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from drone_agent.vision.preprocess import read_image
from tests.training.conftest import REPOSITORY, texture, write_picture
from training.config import read_settings
from training.data.copies import copies_in, open_files
from training.data.mixture import SourceSampler, load_samplers
from training.data.preview import PreviewSettings, examples, field_effects, preview, time_generator, variants
from training.data.sources import get_source
from training.data.splits import make_split, write_split
from training.errors import ConfigError
from training.progress import no_bar

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def samplers(data_root: Path, splits: Path, cache: Path) -> dict[str, SourceSampler]:
    return load_samplers(["metu-ccic", "uav75"], data_root, cache, splits, synthetic_count=2, seed=1)


@pytest.fixture(scope="module")
def page(data_root: Path, splits: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = PreviewSettings.model_validate(
        {
            "data": {"root": data_root, "cache": cache, "splits": splits, "synthetic_count": 6},
            "out": tmp_path_factory.mktemp("preview"),
            "sources": ["metu-ccic", "uav75", "not-concrete", "synthetic"],
            "photographs": 1,
            "variants": 2,
            "drawn": 3,
            "px": 64,
            "timing_tiles": 4,
            "timing_rounds": 1,
        }
    )
    return preview(settings, no_bar)


def test_the_committed_configuration_is_read_and_is_the_default() -> None:
    committed = read_settings(REPOSITORY / "config/training/commands/augment-preview.yaml", PreviewSettings)
    assert committed == PreviewSettings()


@pytest.mark.parametrize("change", ["sources: [walls-external]", "effects_source: metu", "tiles: 3", "px: 100"])
def test_what_cannot_be_shown_is_refused_by_name(tmp_path: Path, change: str) -> None:
    path = tmp_path / "preview.yaml"
    path.write_text(change + "\n")
    with pytest.raises(ConfigError, match=change.split(":", maxsplit=1)[0]):
        read_settings(path, PreviewSettings)


def test_a_set_added_by_configuration_is_shown_with_the_recipe_that_it_is_trained_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    for name in "abcdefghij":
        mask = np.zeros((128, 128), np.uint8)
        cv2.line(mask, (40, 0), (60, 127), 255, 3)
        image = texture(rng, 128)
        image[mask > 0] = 20
        write_picture(tmp_path / f"bridge/{name}.jpg", image)
        write_picture(tmp_path / f"bridge/{name}.png", mask)
    facts = {"name": "bridge", "role": "train", "licence": "CC0", "citation": "own", "file": "bridge.zip", "size": "-"}
    facts |= {"arrange": "-", "layout": "same-stem"}
    (tmp_path / "sources.yaml").write_text(
        json.dumps({"root": "-", "lock": "-", "datasets": [facts | {"side_px": 128}]})
    )
    monkeypatch.setattr("training.data.sources.DATASETS_FILE", tmp_path / "sources.yaml")
    files = open_files(get_source("bridge", for_training=True), tmp_path)
    write_split(make_split(files, seed=1, twins=copies_in(files)), tmp_path / "splits")
    settings = PreviewSettings.model_validate(
        {
            "data": {"root": tmp_path, "cache": tmp_path / "cache", "splits": tmp_path / "splits"},
            "out": tmp_path / "out",
            "sources": ["bridge"],
            "effects_source": "bridge",
            "photographs": 1,
            "variants": 1,
            "px": 64,
            "timing_tiles": 2,
            "timing_rounds": 1,
        }
    )
    preview(settings, no_bar)
    content = json.loads((tmp_path / "out/preview.json").read_text())
    assert content["recipes"]["bridge"]["zoom"] == [0.6, 1.5]
    assert (tmp_path / "out/presets-bridge.png").is_file()
    assert not (tmp_path / "out/things.png").exists()  # there are no photographs of any


def test_the_page_embeds_a_sheet_for_every_source_and_the_numbers_lie_beside_it(page: Path) -> None:
    names = {path.name for path in page.parent.glob("*.png")}
    assert names == {
        "presets-metu-ccic.png", "presets-uav75.png", "presets-not-concrete.png", "presets-synthetic.png",
        "effects.png", "things.png", "synthetic.png",
    }  # fmt: skip
    assert page.read_text(encoding="utf-8").count("data:image/png") == len(names)
    assert all(read_image(page.parent / name).std() > 10 for name in names)
    content = json.loads((page.parent / "preview.json").read_text(encoding="utf-8"))
    assert [row["preset"] for row in content["timing"]] == ["none", "published", "field"]
    assert content["timing"][0]["ratio"] == 1.0
    assert all(row["ms_a_tile"] > 0 for row in content["timing"])
    assert content["published"][0].startswith("RandomResizedCrop(size=(64, 64)")


def test_variants_of_one_photograph_differ_between_presets_and_repeat_with_the_seed(
    samplers: dict[str, SourceSampler],
) -> None:
    one = samplers["uav75"].only(samplers["uav75"].indices[0])
    tiles = {
        preset: variants(one, preset, px=64, count=3, seed=2)["tiles"] for preset in ("none", "published", "field")
    }
    assert len({picture.tobytes() for picture in tiles.values()}) == 3
    assert np.array_equal(tiles["field"], variants(one, "field", px=64, count=3, seed=2)["tiles"])


def test_examples_are_cracked_and_sound_in_turn(samplers: dict[str, SourceSampler]) -> None:
    sampler = samplers["metu-ccic"]
    chosen = examples(sampler, 4)
    assert [sampler.photographs.items[index].label for index in chosen] == [True, False, True, False]
    assert set(chosen) <= set(sampler.indices)


def test_every_effect_that_the_issue_of_augmentation_names_is_shown_and_grows(
    samplers: dict[str, SourceSampler],
) -> None:
    effects = {effect.name: effect for effect in field_effects(samplers["uav75"], 96, 1)}
    assert {
        "scale", "motion blur", "focus blur", "JPEG", "exposure", "white balance", "shadow edge", "noise",
        "synthetic joint", "wire or painted line", "hair", "stains", "mark of paint",
    } <= effects.keys()  # fmt: skip
    assert all(
        len({tile.tobytes() for _, tile in effect.views}) == len(effect.views) >= 3 for effect in effects.values()
    )
    for name in ("focus blur", "motion blur"):
        detail = [float(cv2.Laplacian(tile, cv2.CV_64F).std()) for _, tile in effects[name].views]
        assert detail[0] > detail[2], name
    levels = [float(tile.mean()) for _, tile in effects["exposure"].views]
    assert levels == sorted(levels)
    assert effects["focus blur"].chance + effects["motion blur"].chance == pytest.approx(0.36)


def test_putting_torchs_generator_back_costs_next_to_nothing() -> None:
    assert time_generator(200) < 1.0


def test_the_command_says_in_one_line_where_its_results_are(
    data_root: Path, splits: Path, cache: Path, tmp_path: Path
) -> None:
    import typer

    from training.data.preview_command import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    config = tmp_path / "preview.yaml"
    config.write_text(
        "sources: [metu-ccic]\neffects_source: metu-ccic\npx: 64\ntiming_tiles: 2\ntiming_rounds: 1\nvariants: 3\n"
    )
    options = {
        "config": config, "out": tmp_path / "out", "data": data_root, "cache": cache, "splits": splits,
        "photographs": 1, "variants": 2,
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    done = CliRunner().invoke(app, ["augment-preview", *arguments])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/index.html").is_file()
    settings = json.loads((tmp_path / "out/preview.json").read_text(encoding="utf-8"))["settings"]
    assert settings["variants"] == 2
    assert settings["data"]["root"] == str(data_root)
