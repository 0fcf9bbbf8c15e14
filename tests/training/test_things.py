from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.random import Generator
from pydantic import ValidationError

from training.config import StageConfig
from training.data.augment import Image
from training.data.mixture import THINGS, UNKNOWN_CELLS, Mixture, SourceSampler, load_samplers
from training.data.omissions import UNSURE
from training.data.sources import CRACK, JOINT
from training.data.things import BAR_PX, collage, outline, pattern, put_in_front
from training.data.tiles import kind_of
from training.errors import DataError

pytestmark = pytest.mark.training

SIDE = 192
GREY = np.full((SIDE, SIDE, 3), 140, np.uint8)
RED = (20, 20, 220)


def red(_: Generator, side: int) -> Image:
    return np.full((side, side, 3), RED, np.uint8)


@pytest.fixture(scope="module")
def samplers(data_root: Path, splits: Path, cache: Path) -> dict[str, SourceSampler]:
    names = ["metu-ccic", "uav75", "omu-quay", "uavcrack", THINGS]
    return load_samplers(names, data_root, cache, splits, synthetic_count=2, seed=1)


def drawn(
    samplers: dict[str, SourceSampler], names: list[str], *, collaged: float = 0.0, in_front: float = 0.0
) -> dict[str, torch.Tensor]:
    """A batch without changes of light and blur, so that what is not covered stays as it was."""
    weights = dict.fromkeys(names, 1.0)
    return Mixture(
        samplers, weights, px=96, batch=32, preset="none", seed=3, stage=0, steps=2, collaged=collaged,
        in_front=in_front,
    )[1]  # fmt: skip


def cracked_mask(value: int = CRACK) -> Image:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(mask, (90, 0), (100, SIDE - 1), value, 4)
    return mask


def test_a_thing_is_never_as_thin_as_a_crack() -> None:
    """Opened with a disk, a crack is gone; of a thing most is left."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    assert BAR_PX[0] * SIDE / 224 > 5
    seen = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        cover = outline(rng, SIDE, float(rng.uniform(0.12, 0.75)))
        assert cover.shape == (SIDE, SIDE)
        assert cover.dtype == np.uint8
        solid = (cover >= 128).astype(np.uint8)
        if solid.sum() < 200:  # hardly on the tile
            continue
        seen += 1
        assert cv2.morphologyEx(solid, cv2.MORPH_OPEN, disk).sum() > 0.85 * solid.sum(), seed
    assert seen > 200


def test_things_are_rounded_cornered_and_bars_from_border_to_border() -> None:
    rims = []
    for seed in range(200):
        cover = outline(np.random.default_rng(seed), SIDE, 0.2) >= 128
        rims.append(sum(bool(rim.any()) for rim in (cover[0], cover[-1], cover[:, 0], cover[:, -1])))
    assert 0.2 < np.mean([touched >= 2 for touched in rims]) < 0.45  # bars, and a few things in a corner
    assert np.mean([touched == 0 for touched in rims]) > 0.3


def test_a_collage_shows_several_looks_and_repeats_with_its_seed() -> None:
    shades: list[int] = []

    def numbered(_: Generator, side: int) -> Image:
        shades.append(10 * len(shades) % 250)
        return np.full((side, side, 3), shades[-1], np.uint8)

    made = [collage(GREY, numbered, np.random.default_rng(4)) for _ in range(2)]
    looks = len(shades) // 2
    assert looks >= 2
    shades.clear()
    again = collage(GREY, numbered, np.random.default_rng(4))
    assert np.array_equal(again, made[0])
    assert (GREY == 140).all()
    assert len(np.unique(again.reshape(-1, 3), axis=0)) > looks


def test_a_pattern_repeats_at_its_period_in_two_colours() -> None:
    found = set()
    for seed in range(60):
        drawn_pattern = pattern(np.random.default_rng(seed), SIDE)
        assert drawn_pattern.shape == (SIDE, SIDE, 3)
        spectrum = np.abs(np.fft.fft2(drawn_pattern.astype(float).sum(axis=2) - drawn_pattern.mean() * 3))
        y, x = np.unravel_index(int(spectrum.argmax()), spectrum.shape)
        cycles = float(np.hypot(min(y, SIDE - y), min(x, SIDE - x)))
        if cycles > 0:
            found.add(round(SIDE / cycles))
    assert min(found) >= 4  # a lattice has diagonals that lie closer than its lines
    assert max(found) <= 60
    assert len(found) > 10


def test_what_is_hidden_is_marked_no_more_and_what_is_seen_stays() -> None:
    mask, changed = cracked_mask(), 0
    for seed in range(120):
        tile, left = put_in_front(GREY, mask, red, np.random.default_rng(seed))
        assert left is not None
        assert kind_of(left) == "crack"
        covered = np.abs(tile.astype(int) - RED).max(axis=2) <= 8
        assert not (left[covered] == CRACK).any()
        untouched = (tile == GREY).all(axis=2)
        assert np.array_equal(left[untouched], mask[untouched])
        changed += not np.array_equal(left, mask)
    assert changed > 20


@pytest.mark.parametrize("value", [CRACK, JOINT])
def test_no_thing_hides_a_whole_crack_or_joint(value: int) -> None:
    short = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(short, (80, 96), (112, 100), value, 4)
    kind = kind_of(short)
    assert kind in {"crack", "joint"}
    kept = 0
    for seed in range(200):
        tile, left = put_in_front(GREY, short, red, np.random.default_rng(seed))
        assert left is not None
        assert kind_of(left) == kind
        kept += np.array_equal(tile, GREY)
    assert kept > 5  # where a thing would have hidden too much


def test_nothing_is_put_on_a_tile_whose_mask_says_too_little() -> None:
    """A picture whose set calls it cracked for a trace: its few pixels could be hidden, and its label would stay."""
    trace = np.zeros((SIDE, SIDE), np.uint8)
    trace[:3, :3] = CRACK
    assert kind_of(trace) is None
    unmarked = cracked_mask(UNSURE)
    for seed in range(20):
        for mask in (trace, unmarked):
            tile, left = put_in_front(GREY, mask, red, np.random.default_rng(seed))
            assert tile is GREY
            assert left is mask


def test_unmarked_cracks_are_never_covered(samplers: dict[str, SourceSampler]) -> None:
    names = ["metu-ccic", "omu-quay"]
    plain, covered = drawn(samplers, names), drawn(samplers, names, in_front=1.0)
    unmarked = (plain["labels"] > 0) & (plain["cracks"][:, 0, 0] == UNKNOWN_CELLS)
    assert 0 < int(unmarked.sum()) < len(unmarked)
    assert torch.equal(plain["tiles"][unmarked], covered["tiles"][unmarked])
    changed = (plain["tiles"] != covered["tiles"]).flatten(1).any(dim=1)
    assert torch.equal(changed, ~unmarked)
    assert torch.equal(plain["labels"], covered["labels"])
    assert not covered["cracks"][~unmarked].any()


def test_everyday_tiles_become_collages_and_others_get_things_in_front_as_often_as_asked(
    samplers: dict[str, SourceSampler],
) -> None:
    names = ["uav75", THINGS]
    plain = drawn(samplers, names)
    everyday = plain["source"] == names.index(THINGS)
    for shares, among in (({"collaged": 1.0}, everyday), ({"in_front": 1.0}, ~everyday)):
        made = drawn(samplers, names, **shares)
        changed = (made["tiles"] != plain["tiles"]).flatten(1).any(dim=1)
        assert not bool(changed[~among].any())
        assert float(changed[among].float().mean()) > 0.8
        assert torch.equal(made["labels"], plain["labels"])
        marked = (made["cracks"] == CRACK).flatten(1).any(dim=1)
        assert torch.equal(marked, made["labels"] > 0)
    some = drawn(samplers, names, collaged=0.5)
    share = float((some["tiles"] != plain["tiles"]).flatten(1).any(dim=1)[everyday].float().mean())
    assert 0.2 < share < 0.8


def test_things_need_photographs_of_them(samplers: dict[str, SourceSampler]) -> None:
    alone = {"uav75": samplers["uav75"]}
    with pytest.raises(DataError, match=f"collaged, in_front: need the photographs of {THINGS}; there are uav75"):
        drawn(alone, ["uav75"], in_front=0.1)
    stage: dict[str, Any] = {"name": "a", "px": 64, "steps": 100, "batch": 8, "lr": 1e-3}
    for name in ("collaged", "in_front"):
        for sources in ({"uav75": 1.0}, {"uav75": 1.0, THINGS: 0.0}):
            with pytest.raises(ValidationError, match=f"{name}: shows everyday photographs, so sources must have"):
                StageConfig.model_validate(stage | {"sources": sources, name: 0.2})
        with pytest.raises(ValidationError, match=f"{name}: is of the field preset, the stage has preset: published"):
            StageConfig.model_validate(stage | {"sources": {THINGS: 1.0}, name: 0.2, "preset": "published"})
        with pytest.raises(ValidationError, match=f"{name}\n.*less than or equal to 1"):
            StageConfig.model_validate(stage | {"sources": {THINGS: 1.0}, name: 1.2})
