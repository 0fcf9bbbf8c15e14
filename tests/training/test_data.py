from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.training.conftest import texture
from training.data import cache as cached
from training.data import dataset, synthetic
from training.data.augment import Appearance, View, cut, cut_mask
from training.data.cache import Photographs, draw_synthetic, fit_square, load_photographs, shrink_mask
from training.data.dataset import EVALUATION_SETS, evaluation_tiles
from training.data.mixture import UNKNOWN_CELLS, Mixture, Recipe, SourceSampler, load_samplers
from training.data.sources import BOX, CRACK, JOINT, SOURCES, Archive, Item, get_source
from training.data.splits import read_split
from training.data.synthetic import Drawn, draw, lift
from training.data.tiles import kind_of, label_of
from training.errors import DataError

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def samplers(data_root: Path, splits: Path, cache: Path) -> dict[str, SourceSampler]:
    names = ["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete", "synthetic"]
    return load_samplers(names, data_root, cache, splits, synthetic_count=12, seed=1)


def mixture(samplers: dict[str, SourceSampler], weights: dict[str, float], batch: int = 16) -> Mixture:
    return Mixture(samplers, weights, px=96, batch=batch, preset="field", seed=5, stage=0, steps=9)


@pytest.mark.parametrize("name", ["walls-external", "brickwork-external"])
def test_external_tests_are_never_trained_on(name: str, data_root: Path, splits: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="never be trained on"):
        load_samplers([name], data_root, cache, splits, synthetic_count=2, seed=1)


def test_unknown_data_sets_are_refused_with_the_known_names() -> None:
    with pytest.raises(DataError, match="metu-ccic"):
        get_source("imagenet", for_training=True)


def test_zip_and_folder_give_the_same_photographs(data_root: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "uav75"), "zip", data_root / "uav75")
    zipped = load_photographs(SOURCES["uav75"], tmp_path, tmp_path / "cache")
    folder = load_photographs(SOURCES["uav75"], data_root, tmp_path / "cache")
    assert zipped.items == folder.items
    assert np.array_equal(zipped.images, folder.images)
    assert zipped.masks is not None
    assert set(np.unique(zipped.masks)) == {0, JOINT, CRACK}


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"uav75\.zip"):
        Archive.find(tmp_path, "uav75")


def test_of_two_processes_that_draw_the_same_pictures_the_first_one_done_is_kept(
    data_root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    textures, donors = (load_photographs(SOURCES[name], data_root, cache) for name in ("metu-ccic", "uav75"))
    given = ([(textures, list(range(len(textures.items))))], [(donors, [0])], tmp_path, 2, 1)
    faster: list[Photographs] = []

    def draw_black(*arguments: Any, **options: Any) -> Drawn:
        drawn = draw(*arguments, **options)
        if not faster:
            with monkeypatch.context() as other:
                other.setattr(cached, "draw", draw)
                other.setattr(os, "getpid", lambda: 1)
                faster.append(draw_synthetic(*given))
        return replace(drawn, image=np.zeros_like(drawn.image))

    monkeypatch.setattr(cached, "draw", draw_black)
    slower = draw_synthetic(*given)
    assert len(faster) == 1
    assert faster[0].images.any()
    assert np.array_equal(slower.images, faster[0].images)
    assert [path.name for path in tmp_path.iterdir()] == [f"synthetic-{slower.sha256[:12]}"]


def test_pictures_of_another_split_are_drawn_anew(data_root: Path, cache: Path, tmp_path: Path) -> None:
    textures, donors = (load_photographs(SOURCES[name], data_root, cache) for name in ("metu-ccic", "uav75"))
    everything = list(range(len(textures.items)))
    splits = [(everything, [0]), (everything[1:], [0]), (everything, [1])]
    drawn = [draw_synthetic([(textures, of)], [(donors, by)], tmp_path, 2, 1) for of, by in splits]
    assert len({item.sha256 for item in drawn}) == len(splits)
    again = draw_synthetic([(textures, everything)], [(donors, [0])], tmp_path, 2, 1)
    assert again.sha256 == drawn[0].sha256
    assert len(list(tmp_path.iterdir())) == len(splits)


def test_a_set_without_a_sound_square_ends_the_drawing_and_leaves_nothing_behind(
    data_root: Path, cache: Path, tmp_path: Path
) -> None:
    donors = load_photographs(SOURCES["uav75"], data_root, cache)
    assert donors.masks is not None
    covered = replace(donors, masks=np.full_like(donors.masks, JOINT))
    for indices in ([0, 1], []):
        with pytest.raises(DataError, match=rf"uav75: none of .* {len(indices)} photographs is sound"):
            draw_synthetic([(covered, indices)], [(donors, [0])], tmp_path, 2, 1)
        assert list(tmp_path.iterdir()) == []


def test_a_set_that_shows_nothing_of_what_its_recipe_asks_for_is_named_before_training(
    data_root: Path, splits: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_root / "omu-quay", tmp_path / "omu-quay")
    for boxes in tmp_path.glob("omu-quay/*/*.txt"):
        boxes.write_text("")
    with pytest.raises(DataError, match="omu-quay: none of 3 training photographs is annotated as crack"):
        load_samplers(["omu-quay"], tmp_path, tmp_path / "cache", splits, synthetic_count=2, seed=1)


def test_small_photographs_are_mirrored_and_large_ones_shrunk() -> None:
    small = fit_square(np.arange(6, dtype=np.uint8).reshape(2, 3), 4, cv2.INTER_NEAREST)
    assert small.shape == (4, 4)
    assert small[0].tolist() == [0, 1, 2, 1]
    assert fit_square(np.zeros((90, 60, 3), np.uint8), 40, cv2.INTER_AREA).shape == (40, 40, 3)


@pytest.mark.parametrize("value", [CRACK, BOX, JOINT])
def test_a_shrunk_mask_keeps_every_line_connected_and_thin(value: int) -> None:
    mask = np.zeros((1024, 1024), np.uint8)
    cv2.line(mask, (300, 0), (500, 1023), value, 2)
    shrunk = fit_square(mask, 256)
    assert set(np.unique(shrunk)) == {0, value}
    assert cv2.connectedComponents(shrunk)[0] == 2
    across = (shrunk == value).sum(axis=1)
    assert across.min() >= 1
    assert across.max() <= 3


def test_where_marks_meet_in_a_shrunk_mask_crack_goes_before_box_and_box_before_joint() -> None:
    mask = np.zeros((4, 16), np.uint8)
    mask[:, 0:3], mask[0, 3] = BOX, CRACK
    mask[:, 4:7], mask[0, 7] = JOINT, CRACK
    mask[:, 8:11], mask[0, 11] = JOINT, BOX
    assert shrink_mask(mask, (4, 1)).tolist() == [[CRACK, CRACK, BOX, 0]]


def test_an_axis_that_grows_does_not_lose_what_the_other_shrinks() -> None:
    mask = np.zeros((200, 1000), np.uint8)
    mask[:, 401] = CRACK
    shrunk = shrink_mask(mask, (256, 256))
    assert (shrunk.any(axis=0)).sum() == 1
    assert (shrunk == CRACK).any(axis=1).all()


def test_masks_that_fit_are_stored_as_they_are() -> None:
    mask = np.random.default_rng(1).choice(np.array([0, BOX, JOINT, CRACK], np.uint8), (90, 100))
    assert np.array_equal(fit_square(mask, 100)[:90], mask)
    assert np.array_equal(fit_square(mask, 100), fit_square(mask, 100, cv2.INTER_NEAREST))


def old_index(folder: Path) -> None:
    """Make the index of a decoded set that of an earlier version, which held no settings."""
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({key: index[key] for key in ("sha256", "paths")}))


@pytest.mark.parametrize("name", ["metu-ccic", "uavcrack"])
def test_decoded_built_in_sets_without_settings_stay_and_with_another_side_do_not(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    load_photographs(SOURCES[name], data_root, tmp_path)
    (folder,) = tmp_path.iterdir()
    for make_old in (False, True):
        if make_old:
            old_index(folder)
        before = (folder / "images.npy").stat().st_ino
        load_photographs(SOURCES[name], data_root, tmp_path)
        assert (folder / "images.npy").stat().st_ino == before
        for side in (128, SOURCES[name].side_px):
            other = load_photographs(replace(SOURCES[name], side_px=side), data_root, tmp_path)
            assert other.images.shape[1] == side
            assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_set_whose_masks_leave_cracks_out_is_decoded_anew_if_its_index_is_older_than_that(
    data_root: Path, tmp_path: Path
) -> None:
    load_photographs(SOURCES["uav75"], data_root, tmp_path)
    (folder,) = tmp_path.iterdir()
    before = (folder / "images.npy").stat().st_ino
    load_photographs(SOURCES["uav75"], data_root, tmp_path)
    assert (folder / "images.npy").stat().st_ino == before
    old_index(folder)
    assert cached.changed_settings(
        folder, SOURCES["uav75"], SOURCES["uav75"].items(Archive.find(data_root, "uav75"))
    ) == ["omissions"]
    load_photographs(SOURCES["uav75"], data_root, tmp_path)
    assert "omissions" in json.loads((folder / "index.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def line_mask(length: int, value: int = CRACK, side: int = 224) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[100:102, 4 : 4 + length] = value
    return mask


def test_long_cracks_are_positive_short_ones_unsure_none_negative() -> None:
    assert label_of(line_mask(120)) is True
    assert label_of(line_mask(20)) is None
    assert label_of(np.zeros((224, 224), np.uint8)) is False


def test_a_joint_is_sound_and_named() -> None:
    assert label_of(line_mask(200, JOINT)) is False
    assert kind_of(line_mask(200, JOINT)) == "joint"
    assert kind_of(line_mask(8, JOINT)) is None
    assert kind_of(np.zeros((224, 224), np.uint8)) == "plain"


def test_a_tile_with_the_corner_of_a_box_is_unsure() -> None:
    corner, most = np.zeros((224, 224), np.uint8), np.zeros((224, 224), np.uint8)
    corner[:20, :20] = BOX
    most[:100, :200] = BOX
    assert label_of(corner) is None
    assert label_of(most) is True


def test_an_untouched_view_is_the_photograph_itself() -> None:
    image = texture(np.random.default_rng(1), 96)
    assert np.array_equal(cut(image, View(48, 48, 96), 96), image)


def test_picture_and_mask_are_cut_alike() -> None:
    rng = np.random.default_rng(2)
    mask = np.zeros((256, 256), np.uint8)
    cv2.circle(mask, (150, 90), 30, CRACK, -1)
    image = np.repeat(mask[:, :, None], 3, axis=2)
    for _ in range(20):
        x, y, side_px = rng.uniform(100, 150), rng.uniform(100, 150), rng.uniform(90, 250)
        view = View(x, y, side_px, angle_rad=rng.uniform(0, 6), mirrored=bool(rng.integers(2)), stretch=1.1)
        pixels, marked = cut(image, view, 128)[:, :, 0] > 127, cut_mask(mask, view, 128) == CRACK
        assert (pixels ^ marked).mean() < 0.01


def test_zoomed_view_enlarges_about_its_centre() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[100:140, 60:100] = 255
    assert cut(image, View(80, 120, 40), 64)[2:-2, 2:-2].min() == 255
    assert cut(image, View(80, 120, 160), 64)[:8].max() == 0


def test_appearance_keeps_shape_and_type_and_repeats_with_the_seed() -> None:
    tile = texture(np.random.default_rng(3), 96)
    vary = Appearance("field", seed=1)
    first = [vary(tile, np.random.default_rng(seed)) for seed in range(40)]
    again = [vary(tile, np.random.default_rng(seed)) for seed in range(40)]
    assert all(picture.shape == tile.shape and picture.dtype == np.uint8 for picture in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) > 30


@pytest.mark.parametrize("cracked", [True, False])
def test_drawn_pictures_have_cracks_only_when_asked(cracked: bool) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        drawn = draw(texture(rng, 256), rng, cracked=cracked)
        assert drawn.image.shape == (256, 256, 3)
        assert bool((drawn.mask == CRACK).any()) is cracked


def photographed_crack(value: int = CRACK, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    image, mask = np.full((512, 512, 3), 160, np.uint8), np.zeros((512, 512), np.uint8)
    cv2.polylines(
        mask,
        [np.array([[0, 200], [200, 260], [300, 240], [511, 330]], np.int32)],
        isClosed=False,
        color=value,
        thickness=width,
    )
    image[mask > 0] = 64
    return image, mask


def test_what_is_lifted_is_how_much_darker_the_crack_is_and_nothing_else() -> None:
    image, mask = photographed_crack()
    donor = lift(image, mask, CRACK)
    assert donor is not None
    assert np.median(donor.shade[mask == CRACK]) == pytest.approx(65 / 161, abs=0.05)
    far = cv2.dilate(mask, np.ones((15, 15), np.uint8)) == 0
    assert np.all(donor.shade[far] == 1)


def test_little_or_wide_damage_is_not_lifted() -> None:
    image, mask = photographed_crack()
    assert lift(image, mask, JOINT) is None
    assert lift(*photographed_crack(width=30), CRACK) is None


def test_transplanted_cracks_are_dark_where_the_mask_says_so() -> None:
    donor = lift(*photographed_crack(), CRACK)
    assert donor is not None
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ground = np.full((256, 256, 3), 200, np.uint8)
        drawn = draw(ground, rng, cracked=True, cracks=[donor])
        bare = draw(ground, np.random.default_rng(seed), cracked=False, cracks=[donor])
        assert not (bare.mask == CRACK).any()
        grey = drawn.image.mean(axis=2)
        marked = drawn.mask == CRACK
        around = cv2.dilate(marked.astype(np.uint8), np.ones((21, 21), np.uint8)) > 0
        found += float(np.median(grey[marked])) < float(np.median(grey[around & ~marked]))
    assert found > 34


def test_a_transplanted_joint_is_no_crack() -> None:
    donor = lift(*photographed_crack(JOINT), JOINT)
    assert donor is not None
    masks = [
        draw(texture(np.random.default_rng(seed), 256), np.random.default_rng(seed), cracked=False, joints=[donor]).mask
        for seed in range(20)
    ]
    assert all(not (mask == CRACK).any() for mask in masks)
    assert any((mask == JOINT).any() for mask in masks)


def test_a_batch_depends_on_its_step_alone(samplers: dict[str, SourceSampler]) -> None:
    weights = dict.fromkeys(samplers, 1.0)
    first, second = mixture(samplers, weights), mixture(samplers, weights)
    first[0], first[1]
    for key, value in second[2].items():
        assert torch.equal(first[2][key], value)
    assert not torch.equal(first[2]["tiles"], first[3]["tiles"])


def test_labels_agree_with_what_is_in_the_tile(samplers: dict[str, SourceSampler]) -> None:
    batch = mixture(samplers, {"uav75": 1.0}, batch=24)[0]
    marked = (batch["cracks"] == CRACK).flatten(1).any(dim=1)
    assert torch.equal(marked, batch["labels"] > 0)
    assert 0 < float(batch["labels"].mean()) < 1


def test_cracks_without_a_mask_are_unknown_and_sound_tiles_known(samplers: dict[str, SourceSampler]) -> None:
    batch = mixture(samplers, {"metu-ccic": 1.0, "omu-quay": 1.0, "not-concrete": 1.0}, batch=24)[0]
    unknown = batch["cracks"][:, 0, 0] == UNKNOWN_CELLS
    assert torch.equal(unknown, batch["labels"] > 0)


def test_training_never_sees_a_photograph_of_another_split(samplers: dict[str, SourceSampler]) -> None:
    assert len(samplers["uav75"].indices) == 3
    assert len(samplers["omu-quay"].indices) == 3
    assert len(samplers["not-concrete"].indices) == 7


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, known in EVALUATION_SETS.items() for split in known]
)
def test_evaluation_sets_are_whole_and_always_the_same(
    name: str, split: str, data_root: Path, splits: Path, cache: Path
) -> None:
    first = evaluation_tiles(name, split, data_root, cache, splits)
    again = evaluation_tiles(name, split, data_root, cache, splits)
    assert first.tiles.shape == (len(first), 224, 224, 3)
    assert first.tiles.dtype == np.uint8
    assert np.array_equal(first.tiles, again.tiles)
    assert len(first.groups) == len(first.kinds) == len(first)
    assert [kind in {"crack", "trace"} for kind in first.kinds] == first.labels.tolist()
    if first.masks is not None and name != "walls-external":
        assert np.array_equal((first.masks == CRACK).any(axis=(1, 2)), first.labels)


def test_drawn_walls_are_masonry_concrete_and_cracks_on_grain_that_was_not_trained_on(
    data_root: Path, splits: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def watched(photographs: Photographs, indices: list[int], rng: np.random.Generator) -> Any:
        rows = {row.path: row.split for row in read_split(photographs.name, splits)}
        used.extend(rows[photographs.items[index].path] for index in indices)
        return cut_square(photographs, indices, rng)

    cut_square = cached._texture
    monkeypatch.setattr(cached, "_texture", watched)
    monkeypatch.setattr(dataset, "RELIEF_COUNT", 12)
    tiles = evaluation_tiles("relief", "drawn", data_root, cache, splits)
    assert set(used) == {"val"}
    assert tiles.kinds.count("negative") == tiles.kinds.count("plain") == 4
    assert 1 <= tiles.kinds.count("crack") <= 4
    assert [kind == "crack" for kind in tiles.kinds] == tiles.labels.tolist()
    assert tiles.masks is not None
    assert np.array_equal((tiles.masks == CRACK).any(axis=(1, 2)), tiles.labels)
    assert len(set(tiles.groups)) == len(tiles)
    used.clear()
    again = evaluation_tiles("relief", "drawn", data_root, cache, splits)
    assert np.array_equal(tiles.tiles, again.tiles)
    assert used == []
    with pytest.raises(ValueError, match=r"relief has no split 'val'; allowed: drawn"):
        evaluation_tiles("relief", "val", data_root, cache, splits)


def test_uav75_evaluates_cracks_joints_and_plain_concrete(data_root: Path, splits: Path, cache: Path) -> None:
    tiles = evaluation_tiles("uav75", "val", data_root, cache, splits)
    assert set(tiles.kinds) == {"crack", "joint", "plain"}
    assert len(set(tiles.groups)) == 2


@pytest.mark.parametrize("name", ["uavcrack", "walls-external"])
def test_a_whole_picture_whose_crack_is_hardly_in_it_is_a_trace_and_counts_as_cracked(name: str) -> None:
    masks = np.zeros((3, 256, 256), np.uint8)
    masks[0, 100:103, 20:220] = CRACK
    masks[1, 250:, 250:] = CRACK  # a corner: three blocks of the side at most are touched
    item = Item("a", True if name == "walls-external" else None, "a", part="train")
    photographs = Photographs(name, "0" * 64, [item] * 3, np.zeros((3, 256, 256, 3), np.uint8), masks)
    cuts = [dataset._CUTTERS.get(name, dataset._whole)(photographs, index, "a")[0] for index in range(3)]
    assert [cut.kind for cut in cuts] == ["crack", "trace", "trace"]
    sound = replace(photographs, items=[replace(item, label=False)] * 3)
    assert [dataset._whole(sound, index, "a")[0].kind for index in range(3)] == ["negative"] * 3
    unmasked = replace(photographs, masks=None)
    assert dataset._whole(unmasked, 1, "a")[0].kind == "crack"


def test_a_full_frame_is_laid_out_with_tiles_and_not_with_its_mirrored_border(
    data_root: Path, splits: Path, cache: Path
) -> None:
    tiles = evaluation_tiles("nha12d", "test", data_root, cache, splits)
    assert tiles.origins is not None
    assert {(at.left, at.side) for at in tiles.origins} == {(212 * column, 224) for column in range(9)}
    assert {at.top for at in tiles.origins} == {0, 214, 428, 642, 856}
    cracked = {(at.top, at.left) for at, label in zip(tiles.origins, tiles.labels, strict=True) if label}
    assert {left for _, left in cracked} == {212 * column for column in range(9)}
    assert {top for top, _ in cracked} == {428}


def test_unknown_evaluation_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metu-ccic"):
        evaluation_tiles("mars", "val", tmp_path)
    with pytest.raises(ValueError, match="no split"):
        evaluation_tiles("uav75", "test", tmp_path)


def test_a_photograph_shown_entire_is_a_crack_however_little_of_it_is_marked() -> None:
    mask = np.zeros((1, 224, 224), np.uint8)
    mask[0, 220:223, 100:103] = CRACK
    assert label_of(mask[0]) is None
    image = np.full((1, 224, 224, 3), 200, np.uint8)
    photographs = Photographs("uavcrack", "0" * 64, [Item("a", None, "a", part="train")], image, mask)
    recipe = Recipe({"crack": 1.0}, (0.6, 1.5), entire=1.0)
    sampler = SourceSampler(photographs, [0], recipe)
    seen = set()
    for seed in range(99):
        tile, label, cells = sampler.sample(np.random.default_rng(seed), 224, rotate=True)
        assert label
        assert cells is not None
        assert np.count_nonzero(cells == CRACK) == 9
        assert tile.min() == tile.max() == 200
        seen.add(tuple(int(value) for value in np.argwhere(cells == CRACK).mean(axis=0)))
    assert len(seen) == 8


def test_processes_that_share_a_batch_draw_its_rows(samplers: dict[str, SourceSampler]) -> None:
    weights = {"uav75": 2.0, "not-concrete": 1.0}

    def drawn(rows: slice) -> dict[str, torch.Tensor]:
        return Mixture(samplers, weights, px=64, batch=7, preset="field", seed=5, stage=1, steps=9, rows=rows)[3]

    whole, second = drawn(slice(None)), drawn(slice(1, None, 3))
    for key, values in whole.items():
        assert len(values) == 7
        assert torch.equal(second[key], values[1::3]), key


def _long_crack_in_a_large_photograph() -> Photographs:
    """A crack across the middle, and a short joint in a corner, so that a joint is seldom met by chance."""
    mask = np.zeros((1, 512, 512), np.uint8)
    mask[0, 250:256, :] = CRACK
    mask[0, 20:80, 30:33] = JOINT
    image = np.full((1, 512, 512, 3), 120, np.uint8)
    return Photographs("uav75", "0" * 64, [Item("a", None, "a", part="train")], image, mask)


def test_a_source_shows_each_kind_as_often_as_its_recipe_says() -> None:
    recipe = Recipe({"crack": 0.5, "joint": 0.3, "plain": 0.2}, (0.9, 1.3), unaimed=0.5)
    sampler = SourceSampler(_long_crack_in_a_large_photograph(), [0], recipe)
    rng, seen = np.random.default_rng(1), Counter[str | None]()
    for _ in range(400):
        _, _, mask = sampler.sample(rng, 96, rotate=False)
        assert mask is not None
        seen[kind_of(mask)] += 1
    for kind, share in recipe.kinds.items():
        assert abs(seen[kind] / 400 - share) < 0.08, seen


@pytest.mark.parametrize(("unaimed", "at_rim"), [(0.0, (0.0, 0.27)), (1.0, (0.33, 0.6))])
def test_unaimed_tiles_show_a_crack_at_their_rim_alone_as_often_as_a_grid(
    unaimed: float, at_rim: tuple[float, float]
) -> None:
    """The crack runs across, so of tiles placed blindly 40 % touch it in their outer fifths only."""
    sampler = SourceSampler(
        _long_crack_in_a_large_photograph(), [0], Recipe({"crack": 1.0}, (1.0, 1.0), unaimed=unaimed)
    )
    rng, rim = np.random.default_rng(2), 0
    for _ in range(200):
        _, _, mask = sampler.sample(rng, 96, rotate=False)
        assert mask is not None
        rim += not (mask[19:-19, 19:-19] == CRACK).any()
    assert at_rim[0] <= rim / 200 <= at_rim[1]


def test_a_tile_reaches_over_the_border_of_a_mosaic_and_keeps_a_crack() -> None:
    mask = np.zeros((1, 224, 224), np.uint8)
    mask[0, 60:66, 20:200] = CRACK
    image = np.full((1, 224, 224, 3), 120, np.uint8)
    photographs = Photographs("uavcrack", "0" * 64, [Item("a", None, "a", part="train")], image, mask)
    sampler = SourceSampler(photographs, [0], Recipe({"crack": 0.7, "plain": 0.3}, (0.4, 1.0), border=1.0))
    levels, cracked = set(), 0
    for seed in range(60):
        tile, label, cells = sampler.sample(np.random.default_rng(seed), 96, rotate=False)
        assert cells is not None
        beyond = (tile != 120).all(axis=2)
        assert label == bool((cells == CRACK).any())
        assert not (cells[beyond] == CRACK).any()
        assert beyond.mean() < 0.9
        cracked += label
        levels |= {int(level) for level in np.unique(tile[beyond])}
    assert levels == {0, 255}
    assert 0 < cracked < 60


def test_masonry_is_drawn_sound_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = texture(np.random.default_rng(1), 256)
    laid = []

    def lay(canvas: np.ndarray, *_: object) -> np.ndarray:
        laid.append(canvas)
        return canvas

    for name in ("_brick", "_rubble"):
        monkeypatch.setattr(synthetic, name, lay)
    for seed in range(60):
        draw(ground, np.random.default_rng(seed), cracked=True)
    assert not laid
    for seed in range(60):
        draw(ground, np.random.default_rng(seed), cracked=False)
    assert len(laid) > 10


def test_a_gap_in_masonry_is_dark_and_lies_along_one_side_of_a_brick() -> None:
    drawn = 0
    for seed in range(40):
        tint = np.full((100, 160, 3), 200, np.float32)
        synthetic._gap(tint, (30, 20, 120, 70), np.random.default_rng(seed))
        rows, columns = np.nonzero((tint != 200).any(axis=2))
        if not len(rows):
            continue
        drawn += 1
        assert tint.max() == 200
        assert tint.min() < 130
        assert rows.max() - rows.min() <= 4 or columns.max() - columns.min() <= 4
        assert rows.min() >= 17
        assert rows.max() <= 74
        inside = tint[24:67, 34:117]
        assert (inside == 200).all()
    assert drawn > 30


def test_a_brick_that_is_cracked_by_itself_is_sound_and_its_crack_ends_at_the_mortar() -> None:
    donor = lift(*photographed_crack(), CRACK)
    assert donor is not None
    mortar = np.zeros((256, 256), np.uint8)
    mortar[40:48] = mortar[120:128] = mortar[200:208] = JOINT
    mortar[:, 100:108] = JOINT
    ground = np.full((256, 256, 3), 150, np.float32)
    changed = 0
    for seed in range(40):
        mask = mortar.copy()
        fired = synthetic._fired(ground, mask, [donor], np.random.default_rng(seed))
        assert (mask == mortar).all()
        assert (fired[mortar == JOINT] == 150).all()
        changed += bool((fired < 120).any())
    assert changed > 20


def test_bricks_too_small_to_show_a_crack_stay_as_they_are() -> None:
    donor = lift(*photographed_crack(), CRACK)
    assert donor is not None
    mask = np.zeros((256, 256), np.uint8)
    mask[::16] = mask[1::16] = JOINT
    ground = np.full((256, 256, 3), 150, np.float32)
    assert (synthetic._fired(ground, mask, [donor], np.random.default_rng(1)) == ground).all()


def test_a_transplanted_joint_runs_from_border_to_border() -> None:
    image, mask = np.full((512, 512, 3), 160, np.uint8), np.zeros((512, 512), np.uint8)
    mask[:, 251:254] = JOINT
    image[mask > 0] = 64
    donor = lift(image, mask, JOINT)
    assert donor is not None
    for seed in range(60):
        marked = np.zeros((256, 256), np.uint8)
        synthetic._transplant(np.full((256, 256, 3), 160, np.float32), marked, donor, np.random.default_rng(seed))
        joint = marked == JOINT
        # it enters and leaves, if it is in the picture at all, on two sides
        sides = [joint[0].any(), joint[-1].any(), joint[:, 0].any(), joint[:, -1].any()]
        assert sum(bool(side) for side in sides) >= 2 or not joint.any()
        rows, columns = np.nonzero(joint)
        if len(rows):
            assert max(np.ptp(rows), np.ptp(columns)) > 180


def leaning(marked: np.ndarray) -> float:
    """By how many degrees marked pixels [H, W] lie off the upright or the level, 0 to 45, by their principal axis."""
    spots = np.argwhere(marked).astype(np.float64)
    rows, columns = (spots - spots.mean(axis=0)).T
    angle = 0.5 * np.degrees(np.arctan2(2 * (rows * columns).mean(), (columns**2).mean() - (rows**2).mean()))
    return float(abs((angle + 45) % 90 - 45))


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "transplanted"])
def test_cracks_that_are_asked_for_upright_or_level_are_so_and_others_lie_anyhow(drawn: bool) -> None:
    image, mask = np.full((512, 512, 3), 160, np.uint8), np.zeros((512, 512), np.uint8)
    cv2.polylines(mask, [np.array([[20, 40], [180, 170], [300, 330], [480, 470]])], False, CRACK, 3)
    image[mask > 0] = 60
    donor = lift(image, mask, CRACK)
    assert donor is not None
    lean: dict[float, list[float]] = {0.0: [], 1.0: []}
    for upright, found in lean.items():
        for seed in range(40):
            marked, rng = np.zeros((256, 256), np.uint8), np.random.default_rng(seed)
            ground = np.full((256, 256, 3), 160, np.float32)
            if drawn:
                synthetic._crack(ground, marked, rng, upright)
            else:
                synthetic._transplant(ground, marked, donor, rng, upright)
            if np.count_nonzero(marked) > 300:
                found.append(leaning(marked == CRACK))
    assert min(map(len, lean.values())) > 15
    assert np.median(lean[1.0]) < 7
    assert np.quantile(lean[1.0], 0.9) < 15  # the part in the picture bends, and a drawn one may have a branch
    assert np.median(lean[0.0]) > 12


def test_upright_cracks_are_other_pictures_in_the_cache_and_none_asked_for_changes_nothing(
    data_root: Path, splits: Path, cache: Path
) -> None:
    def sampler(**options: Any) -> Photographs:
        drawn = load_samplers(
            ["synthetic"], data_root, cache, splits, synthetic_count=8, seed=3, relief=True, **options
        )
        return drawn["synthetic"].photographs

    plain, asked, upright = sampler(), sampler(upright=0.0), sampler(upright=1.0)
    assert np.array_equal(plain.images, asked.images)
    assert np.array_equal(plain.images[::2], upright.images[::2])  # every second one is sound
    assert not np.array_equal(plain.images[1::2], upright.images[1::2])


@pytest.mark.parametrize(("turned", "wanted"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_so_many_tiles_are_turned_freely_as_a_stage_asks_for(
    samplers: dict[str, SourceSampler], turned: float, wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = []

    def watched(image: Any, view: View, out_px: int) -> Any:
        angles.append(view.angle_rad)
        return cut(image, view, out_px)

    monkeypatch.setattr("training.data.mixture.cut", watched)
    stage = Mixture(
        samplers, {"metu-ccic": 1.0}, px=64, batch=40, preset="field", seed=5, stage=0, steps=9, turned=turned
    )
    for step in range(5):
        stage[step]
    freely = [abs(angle / (np.pi / 2) - round(angle / (np.pi / 2))) > 1e-6 for angle in angles]
    assert len(angles) == 200
    assert float(np.mean(freely)) == pytest.approx(wanted, abs=0.1 if 0 < wanted < 1 else 0)
