from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

from tests.training.conftest import texture
from training.config import StageConfig
from training.data import synthetic
from training.data.augment import (
    RECOLOURED,
    Appearance,
    Preset,
    compress,
    draw_stains,
    focus_blur,
    motion_blur,
    relight,
    shadow_edge,
)
from training.data.mixture import TURNED, Mixture, SourceSampler, load_samplers
from training.data.published import PublishedPipeline, picture_side_px, published_transforms
from training.data.sources import CRACK, JOINT
from training.data.tiles import kind_of, label_of
from training.errors import DataError

pytestmark = pytest.mark.training

NAMES = ["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On pictures as small as these, torch's threads cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samplers(data_root: Path, splits: Path, cache: Path) -> dict[str, SourceSampler]:
    return load_samplers(NAMES, data_root, cache, splits, synthetic_count=2, seed=1)


def batches(samplers: dict[str, SourceSampler], preset: Preset, px: int = 96) -> Mixture:
    weights = dict.fromkeys(NAMES, 1.0)
    return Mixture(samplers, weights, px=px, batch=10, preset=preset, seed=4, stage=1, steps=4)


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_published_list_is_exactly_the_published_one() -> None:
    assert [repr(transform) for transform in published_transforms(224).transforms] == [
        (
            "RandomResizedCrop(size=(224, 224), scale=(0.8, 1.0), ratio=(0.75, 1.3333333333333333), "
            "interpolation=bilinear, antialias=True)"
        ),
        "RandomHorizontalFlip(p=0.5)",
        "RandomVerticalFlip(p=0.5)",
        "RandomRotation(degrees=[-45.0, 45.0], interpolation=nearest, expand=False, fill=0)",
        "ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.8, 1.2))",
    ]


def test_what_the_published_pipeline_draws_fills_the_published_ranges() -> None:
    crop, _, _, rotation, jitter = published_transforms(224).transforms
    picture = [torch.zeros(3, 227, 227, dtype=torch.uint8)]
    drawn: dict[str, list[float]] = {"area": [], "angle": [], "brightness": [], "contrast": [], "saturation": []}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        for _ in range(400):
            box = crop.make_params(picture)
            drawn["area"].append(box["height"] * box["width"] / 227**2)
            assert 0.74 < box["width"] / box["height"] < 1.35
            drawn["angle"].append(rotation.make_params(picture)["angle"])
            factors = jitter.make_params(picture)
            assert factors["hue_factor"] is None
            for name in ("brightness", "contrast", "saturation"):
                drawn[name].append(factors[f"{name}_factor"])
    ranges = {
        "area": (0.8, 1.0),
        "angle": (-45, 45),
        "brightness": (0.7, 1.3),
        "contrast": (0.7, 1.3),
        "saturation": (0.8, 1.2),
    }
    for name, (low, high) in ranges.items():
        slack = 0.02 * (high - low) + (0.005 if name == "area" else 0)  # the crop's sides are whole pixels
        assert low - slack <= min(drawn[name]) < low + 0.06 * (high - low) + slack, name
        assert high - 0.06 * (high - low) - slack < max(drawn[name]) <= high + slack, name


def test_the_corners_of_turned_tiles_are_filled_with_black_before_the_colours_change() -> None:
    pipeline, white = PublishedPipeline(96), np.full((97, 97, 3), 255, np.uint8)
    tiles = [pipeline(white, None, np.random.default_rng(seed)).tile.astype(int) for seed in range(40)]
    corners, middles = (np.array([tile[at, at, 0] for tile in tiles]) for at in (0, 48))
    assert np.mean(middles - corners > 0.7 * 0.7 * 255 - 3) > 0.9
    assert (corners == 0).any()
    assert ((corners > 0) & (corners < 100)).any()  # less contrast lifts black


def test_a_tile_depends_on_the_generator_given_and_on_nothing_else() -> None:
    pipeline, picture = PublishedPipeline(96), texture(np.random.default_rng(1), 227)
    tiles = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        tiles.append(pipeline(picture, None, np.random.default_rng(5)).tile)
    assert np.array_equal(tiles[0], tiles[1])
    assert not np.array_equal(tiles[0], pipeline(picture, None, np.random.default_rng(6)).tile)


def test_the_global_generator_of_torch_is_left_as_it_was(samplers: dict[str, SourceSampler]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    _ = batches(samplers, "published")[0]
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_left_as_it_was_when_a_transform_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        PublishedPipeline(96)(np.zeros((0, 0, 3), np.uint8), None, np.random.default_rng(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("preset", ["none", "published", "field"])
def test_a_batch_is_the_same_in_any_worker_process(samplers: dict[str, SourceSampler], preset: Preset) -> None:
    mixture = batches(samplers, preset)
    loaded = list(DataLoader(mixture, batch_size=None, num_workers=2))
    assert all(same(batch, mixture[step]) for step, batch in enumerate(loaded))
    assert not same(loaded[0], loaded[1])


def test_a_line_in_the_mask_stays_on_the_line_in_the_picture() -> None:
    mask = np.zeros((227, 227), np.uint8)
    cv2.line(mask, (30, 0), (190, 226), CRACK, 3)
    picture = np.where(mask[:, :, None] == CRACK, np.uint8(250), np.uint8(10)).repeat(3, axis=2)
    wide = np.ones((5, 5), np.uint8)  # both are rounded to whole pixels twice
    for seed in range(25):
        varied = PublishedPipeline(224)(picture, mask, np.random.default_rng(seed))
        assert varied.mask is not None
        assert set(np.unique(varied.mask)) <= {0, CRACK}
        bright, marked = varied.tile[:, :, 1] > 110, varied.mask == CRACK
        assert marked.sum() > 300
        assert not (bright & ~(cv2.dilate(marked.astype(np.uint8), wide) > 0)).any()
        assert not (marked & ~(cv2.dilate(bright.astype(np.uint8), wide) > 0)).any()


def test_colours_are_mixed_as_red_green_blue_not_the_other_way_round() -> None:
    blue = np.zeros((97, 97, 3), np.uint8)
    blue[:, :, 0] = 200
    for seed in range(20):
        middle = PublishedPipeline(96)(blue, None, np.random.default_rng(seed)).tile[48, 48].astype(int)
        # blue weighs 0.11 in torchvision's grey, red 0.30: less saturation adds at most a fifth of the grey
        assert middle[0] > 100
        assert middle[1] < 40


@pytest.mark.parametrize("px", [64, 96, 224])
def test_labels_of_published_tiles_follow_their_masks(samplers: dict[str, SourceSampler], px: int) -> None:
    pipeline, rng = PublishedPipeline(px), np.random.default_rng(2)
    seen = set()
    for name in ("uav75", "uavcrack"):
        for _ in range(12):
            tile, label, mask = samplers[name].sample_published(rng, pipeline, px)
            assert mask is not None
            assert tile.shape == (px, px, 3)
            assert label_of(mask) is label
            seen.add(kind_of(mask))
    assert {"crack", "joint"} <= seen


def test_whole_pictures_are_varied_whole_and_large_ones_cut_to_the_published_size() -> None:
    assert picture_side_px(224) == 227
    assert picture_side_px(112) == 113.5


def test_what_cannot_be_found_is_an_error_not_an_endless_search(
    samplers: dict[str, SourceSampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.mixture.MOST_TRIES", 48)
    boxed = samplers["omu-quay"]
    sound = SourceSampler(boxed.photographs, boxed.indices, replace(boxed.recipe, kinds={"plain": 1.0}))
    rng, pipeline = np.random.default_rng(1), PublishedPipeline(224)
    with pytest.raises(DataError, match="omu-quay: 48 tries at plain"):
        sound.sample_published(rng, pipeline, 224)
    with pytest.raises(DataError, match="omu-quay: 48 tries at plain"):
        sound.sample(rng, 224, rotate=True)


def test_a_sampler_of_one_photograph_shows_no_other(samplers: dict[str, SourceSampler]) -> None:
    index = samplers["uav75"].indices[1]
    assert samplers["uav75"].only(index).indices == [index]


@pytest.mark.parametrize("preset", ["none", "field"])
def test_the_other_presets_draw_place_then_look_from_one_generator_for_each_tile(
    samplers: dict[str, SourceSampler], preset: Preset
) -> None:
    """Runs in progress go on with the batches they began with: the order of draws is fixed."""
    batch = batches(samplers, preset)[2]
    look = Appearance("field", 4) if preset == "field" else None
    sources = np.random.default_rng((4, 1, 2)).choice(len(NAMES), 10, p=np.full(len(NAMES), 1 / len(NAMES)))
    for row, source in enumerate(sources):
        rng = np.random.default_rng((4, 1, 2, row + 1))
        tile, label, _ = samplers[NAMES[source]].sample(rng, 96, rotate=preset == "field")
        expected = tile if look is None else look(tile, rng)
        assert np.array_equal(batch["tiles"][row].permute(1, 2, 0).numpy(), expected)
        assert bool(batch["labels"][row]) is label


def test_effects_at_rest_change_nothing_and_grow_with_their_strength() -> None:
    tile = texture(np.random.default_rng(9), 96)

    def change(varied: np.ndarray) -> float:
        return float(np.abs(varied.astype(int) - tile).mean())

    assert change(relight(tile)) < 1.0  # the table rounds down
    assert change(relight(tile, brightness=0.1)) < change(relight(tile, brightness=0.3))
    assert change(focus_blur(tile, 0.3)) < change(focus_blur(tile, 1.3))
    assert change(motion_blur(tile, 3, 0.4)) < change(motion_blur(tile, 7, 0.4))
    assert change(compress(tile, 91)) < change(compress(tile, 35))


def test_motion_blurs_along_its_direction_only() -> None:
    rows = np.repeat((np.arange(64) % 8 < 4).astype(np.uint8)[:, None] * 255, 64, axis=1)[:, :, None].repeat(3, axis=2)
    assert np.array_equal(motion_blur(rows, 7, 0.0), rows)
    assert float(motion_blur(rows, 7, np.pi / 2).std()) < 0.7 * float(rows.std())


def test_a_shadow_darkens_one_side_to_its_gain() -> None:
    tile = np.full((96, 96, 3), 200, np.uint8)
    shaded = shadow_edge(tile, angle_rad=0.0, offset_px=0.0, softness_px=4.0, gain=0.5)
    assert shaded[:, :40].min() == 200
    assert shaded[:, 56:].max() == 100


def test_brightening_does_not_wash_out_a_bright_wall() -> None:
    vary = Appearance("field", 1)
    bright = np.full((96, 96, 3), 215, np.uint8)
    bright[48:50] = 150  # a pale crack
    kept = []
    for seed in range(200):
        varied = vary(bright, np.random.default_rng(seed)).astype(int)
        kept.append(np.abs(varied[49] - varied[20]).mean() > 3)
    assert np.mean(kept) > 0.93


def test_stains_have_the_colours_of_walls() -> None:
    tile = np.full((96, 96, 3), 150, np.uint8)
    for seed in range(60):
        stained = draw_stains(tile, np.random.default_rng(seed)).astype(int)
        change = (stained - 150).reshape(-1, 3)
        strongest = change[np.abs(change).sum(axis=1).argmax()]
        if strongest.min() < -15:
            assert strongest[0] <= strongest[2] + 6  # blue (the first) is never what is left over
    assert np.array_equal(draw_stains(tile, np.random.default_rng(5)), draw_stains(tile, np.random.default_rng(5)))


def test_a_transplanted_crack_that_cannot_be_seen_is_drawn_instead() -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 120:126] = CRACK
    invisible = synthetic.Donor(np.full((256, 256), 0.99, np.float32), mask)
    for seed in range(12):
        canvas, marked = np.full((256, 256, 3), 150, np.float32), np.zeros((256, 256), np.uint8)
        cracked = synthetic._crack_it(canvas.copy(), marked, [invisible], np.random.default_rng(seed))
        assert np.count_nonzero(marked == CRACK)
        assert float((canvas - cracked)[marked == CRACK].mean()) > synthetic.MIN_DARKENING


@pytest.mark.parametrize("cracked", [False, True])
def test_masonry_among_cracked_pictures_is_rare_and_its_mortar_is_joint(cracked: bool) -> None:
    share = [
        float((synthetic.draw(np.full((256, 256, 3), 150, np.uint8), rng, cracked=cracked).mask == JOINT).mean())
        for rng in map(np.random.default_rng, range(60))
    ]
    masonry = sum(value > 0.08 for value in share)  # more than a few straight joints cover
    assert masonry <= 12 if cracked else masonry >= 15


@pytest.mark.parametrize("uneven", [0.0, 1.0])
def test_a_drawn_joint_is_straight_dark_where_it_is_marked_and_reaches_both_borders(uneven: float) -> None:
    columns = np.mgrid[:256, :256].astype(np.float32)[1]
    rows = np.mgrid[:256, :256][0]
    for seed in range(8):
        mask = np.zeros((256, 256), np.uint8)
        gain = synthetic._joint(
            rows, columns - 100, mask, np.random.default_rng(seed), depth=0.5, width=3.0, uneven=uneven, ridge=0.0
        )
        marked = mask == JOINT
        assert marked.any(axis=1).all()
        assert abs(float(np.nonzero(marked)[1].mean()) - 100) < 1.5
        assert np.ptp(np.nonzero(marked)[1]) < 16
        assert float(gain[marked].mean()) < (0.85 if uneven else 0.75)
        assert float(gain[:, :80].min()) == 1.0
        depths = gain[:, 98:103].min(axis=1)
        assert np.ptp(depths) < 1e-6 if uneven == 0 else np.ptp(depths) > 0.2


def test_joints_do_not_hide_marked_cracks() -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 98:103] = CRACK
    rows, columns = np.mgrid[:256, :256]
    synthetic._joint(
        rows, (columns - 100).astype(np.float32), mask, np.random.default_rng(1), depth=0.5, width=9.0, uneven=0.0,
        ridge=0.2,
    )  # fmt: skip
    assert (mask[:, 98:103] == CRACK).all()
    assert (mask == JOINT).any()


def test_a_stage_turns_and_recolours_as_the_field_preset_does_and_no_other_preset_does() -> None:
    stage = {"name": "a", "px": 64, "steps": 100, "batch": 8, "lr": 1e-3, "sources": {"uav75": 1.0}}
    usual = StageConfig.model_validate(stage)
    assert (usual.turned, usual.recoloured) == (TURNED, RECOLOURED)
    for name in ("turned", "recoloured"):
        for preset in ("none", "published"):
            with pytest.raises(
                ValidationError, match=f"{name}: is of the field preset, the stage has preset: {preset}"
            ):
                StageConfig.model_validate(stage | {"preset": preset, name: 0.1})
        with pytest.raises(ValidationError, match=f"{name}\n.*less than or equal to 1"):
            StageConfig.model_validate(stage | {name: 1.5})


def test_so_many_tiles_lose_their_colour_as_a_stage_asks_for(samplers: dict[str, SourceSampler]) -> None:
    red = np.full((96, 96, 3), (50, 70, 180), np.uint8)

    def grey(recoloured: float) -> float:
        look = Appearance("field", 4, recoloured=recoloured)
        varied = [look(red, np.random.default_rng(seed)).reshape(-1, 3) for seed in range(300)]
        medians = [np.median(tile, axis=0) for tile in varied]
        return float(np.mean([median.max() < 1.4 * median.min() for median in medians]))

    assert grey(0.0) < 0.02  # paint or a shadow may cover a tile
    assert 0.15 < grey(1.0) < 0.35  # grey, or of a saturation near 0
    stages = [
        Mixture(samplers, {"uav75": 1.0}, px=64, batch=8, preset="field", seed=4, stage=0, steps=1, recoloured=share)
        for share in (0.3, 1.0)
    ]
    usual = Mixture(samplers, {"uav75": 1.0}, px=64, batch=8, preset="field", seed=4, stage=0, steps=1)
    assert same(usual[0], stages[0][0])
    assert not same(usual[0], stages[1][0])
