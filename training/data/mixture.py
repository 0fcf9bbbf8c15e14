"""Which tiles does a training step see? Drawn from all sources by weight, and the same for the same seed and step.

A tile depends on (seed, stage, step, row) alone, so a run that was killed goes on with exactly the batches it would
have seen, however many processes prepare them, and processes that share a batch each draw their own rows only.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from training.data.augment import RECOLOURED, Appearance, Image, Preset, View, cut, cut_mask, log_uniform
from training.data.cache import Photographs, draw_synthetic, load_photographs
from training.data.loaders import refuse_overlaps
from training.data.omissions import UNSURE
from training.data.published import PublishedPipeline, picture_side_px
from training.data.sources import BOX, CRACK, JOINT, get_source
from training.data.splits import indices_of, read_split
from training.data.things import collage, put_in_front
from training.data.tiles import kind_of
from training.errors import DataError

log = logging.getLogger(__name__)

Kind = Literal["crack", "joint", "plain"]
TRIES: Final = 24
MOST_TRIES: Final = 40 * TRIES
SYNTHETIC: Final = "synthetic"
THINGS: Final = "not-concrete"
"""Data set whose photographs show everyday things: some of its tiles are put together, others get a thing in front."""
TEXTURES: Final = ("metu-ccic", "uav75")
"""Data sets whose sound squares synthetic pictures are drawn on."""
DONORS: Final = ("uav75", "uavcrack")
"""Data sets whose cracks and joints are put there."""
TURNED: Final = 0.4
"""Share of the tiles that are turned freely, by up to 45 degrees, if a stage does not say otherwise."""
UNKNOWN_CELLS: Final = 127
"""Value in a batch's `cracks` where nobody knows whether there is a crack."""


@dataclass(frozen=True)
class Recipe:
    """How tiles are cut from one source.

    Attributes:
        kinds: share of tiles aimed at a crack, at a joint, at neither.
        zoom: range of photograph pixels for one tile pixel; drawn evenly in its logarithm.
        whole: the range is instead the share of the photograph's side, whatever the tile's size (for photographs
            with one label: a small part might lack the crack).
        entire: share of the tiles with a crack that show the photograph whole and are a crack however little of it is
            marked (for data sets that say so of each picture).
        border: share of the tiles that reach over the border of a mosaic, which is black or white there.
        unaimed: share of the tiles with a crack or joint that are not aimed at it, but lie anywhere on a photograph, as
            those of a grid do. Of tiles that are aimed too few show it at their rim alone (of UAV75's cracks 8 %, in a
            grid 35 %).
    """

    kinds: dict[Kind, float]
    zoom: tuple[float, float]
    whole: bool = False
    entire: float = 0.0
    border: float = 0.0
    unaimed: float = 0.0


RECIPES: Final[dict[str, Recipe]] = {
    # beyond 1 the photograph is mirrored at its border: METU's cracks are much wider than those a drone sees. Not far
    # beyond: mirrored cracks meet in a V
    "metu-ccic": Recipe({"crack": 0.5, "plain": 0.5}, (0.75, 1.45), whole=True),
    # not up to the whole photograph in one tile: with cracks of a pixel nets learn to fear every line
    "uav75": Recipe({"crack": 0.55, "joint": 0.33, "plain": 0.12}, (0.62, 1.6), unaimed=0.6),
    "omu-quay": Recipe({"crack": 1.0}, (0.65, 1.4)),
    # few plain ones: these photographs hold cracks that nobody marked
    "uavcrack": Recipe({"crack": 0.92, "plain": 0.08}, (0.6, 1.5), entire=0.4, border=0.08, unaimed=0.6),
    "not-concrete": Recipe({"plain": 1.0}, (0.3, 1.0), whole=True),
    SYNTHETIC: Recipe({"crack": 0.5, "joint": 0.35, "plain": 0.15}, (0.6, 1.2), unaimed=0.6),
}


def recipe_of(photographs: Photographs) -> Recipe:
    """Return the recipe of a source; one added by configuration has that of METU, or with masks that of drone tiles."""
    if photographs.name in RECIPES:
        return RECIPES[photographs.name]
    return RECIPES["metu-ccic"] if photographs.masks is None else Recipe({"crack": 0.5, "plain": 0.5}, (0.6, 1.5))


class SourceSampler:
    """Cuts tiles of a wanted kind from the training photographs of one source."""

    def __init__(self, photographs: Photographs, indices: list[int], recipe: Recipe) -> None:
        self.photographs = photographs
        self.name = photographs.name
        self.sha256 = photographs.sha256
        self.recipe = recipe
        self.indices = indices
        self._images = photographs.images
        self._masks = photographs.masks
        labels = {index: photographs.items[index].label for index in indices}
        self._holders: dict[Kind, list[int]] = {"crack": [], "joint": [], "plain": []}
        self._spots: dict[tuple[str, int], NDArray[np.int32]] = {}
        for index in indices:
            if labels[index] is not None:
                self._holders["crack" if labels[index] else "plain"].append(index)
                continue
            self._holders["plain"].append(index)
            self._find_spots(index)

    def _find_spots(self, index: int) -> None:
        assert self._masks is not None  # noqa: S101 - only photographs without a label of their own come here
        mask = np.asarray(self._masks[index])
        for kind, marked in (("crack", (mask == CRACK) | (mask == BOX)), ("joint", mask == JOINT)):
            spots = np.argwhere(marked).astype(np.int32)
            if len(spots):
                self._holders["crack" if kind == "crack" else "joint"].append(index)
                self._spots[kind, index] = spots[:: max(1, len(spots) // 500)]

    def sample(
        self, rng: Generator, out_px: int, *, rotate: bool, turned: float = TURNED
    ) -> tuple[Image, bool, Image | None]:
        """Cut one tile.

        Args:
            rng: decides everything.
            out_px: side of the tile.
            rotate: whether it may be turned freely and stretched a little.
            turned: share of the tiles that are then turned freely.

        Returns:
            The tile [out_px, out_px, 3], its label, and its mask (None: unknown for a crack, empty for none).

        Raises:
            DataError: in `MOST_TRIES` tries no tile showed what was wanted.
        """
        for _ in range(MOST_TRIES // TRIES):
            kind = self._kind(rng)  # not at every try: what is easily found would be found too often
            entire = kind == "crack" and rng.random() < self.recipe.entire
            aimed = rng.random() >= self.recipe.unaimed
            for attempt in range(TRIES):
                index = int(rng.choice(self._holders[kind]))
                aimed |= attempt == TRIES // 2  # a rare thing is not met by chance
                if entire:
                    view = self._entire(rng)
                else:
                    view = self._view(kind, index, rng, out_px, rotate=rotate, turned=turned, aimed=aimed)
                if self._masks is None:
                    return cut(self._images[index], view, out_px), kind == "crack", None
                mask = cut_mask(self._masks[index], view, out_px)
                if kind_of(mask) == kind or (entire and (mask == CRACK).any()):
                    tile = cut(self._images[index], view, out_px)
                    if self.recipe.border and rng.random() < self.recipe.border:
                        tile, mask = _beyond_the_border(tile, mask, rng)
                    return tile, kind == "crack", None if (mask == BOX).any() else mask
        raise self._nothing_found(out_px)

    def sample_published(
        self, rng: Generator, pipeline: PublishedPipeline, px: int
    ) -> tuple[Image, bool, Image | None]:
        """Make one tile with the published pipeline.

        It varies whole photographs where the recipe is for whole ones, else squares of the published pictures' size
        (227 px for a tile of 224), aimed at a crack, a joint or neither as ever. Where there is a mask it goes the same
        way, and the tile is drawn again unless it still shows what was aimed at.

        Returns:
            As `sample`.

        Raises:
            DataError: in `MOST_TRIES` tries no tile showed what was aimed at.
        """
        for _ in range(MOST_TRIES // TRIES):
            kind = self._kind(rng)
            for _ in range(TRIES):
                index = int(rng.choice(self._holders[kind]))
                image, area = self._images[index], self._picture(kind, index, rng, px)
                if self._masks is None:
                    return pipeline(image[area], None, rng).tile, kind == "crack", None
                varied = pipeline(image[area], self._masks[index][area], rng)
                mask = varied.mask
                if mask is not None and kind_of(mask) == kind:
                    return varied.tile, kind == "crack", None if (mask == BOX).any() else mask
        raise self._nothing_found(px)

    def look(self, rng: Generator, side: int) -> Image:
        """Cut a square [side, side, 3] out of any photograph, from a sixth of it to all, turned anyhow."""
        whole = self._images.shape[1]
        index = self.indices[int(rng.integers(len(self.indices)))]
        crop_px = whole * log_uniform(rng, 0.16, 1.0)
        x, y = rng.uniform(crop_px / 2, whole - crop_px / 2, 2)
        view = View(float(x), float(y), crop_px, float(rng.uniform(0, 2 * np.pi)), mirrored=bool(rng.random() < 0.5))
        return cut(self._images[index], view, side)

    def only(self, index: int) -> SourceSampler:
        """Return a sampler of one photograph."""
        return SourceSampler(self.photographs, [index], self.recipe)

    def _nothing_found(self, px: int) -> DataError:
        wanted = ", ".join(self.recipe.kinds)
        return DataError(f"{self.name}: {MOST_TRIES} tries at {wanted} gave no tile of {px} px that shows one")

    def kinds(self) -> list[Kind]:
        """List what of its recipe the photographs show.

        Raises:
            DataError: nothing.
        """
        kinds = [kind for kind in self.recipe.kinds if self._holders[kind]]
        if not kinds:
            wanted = ", ".join(self.recipe.kinds)
            raise DataError(f"{self.name}: none of {len(self.indices)} training photographs is annotated as {wanted}")
        return kinds

    def _kind(self, rng: Generator) -> Kind:
        """Draw what the tile is to show."""
        kinds = self.kinds()
        shares = np.array([self.recipe.kinds[kind] for kind in kinds])
        return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]

    def _picture(self, kind: Kind, index: int, rng: Generator, px: int) -> tuple[slice, slice]:
        """Return rows and columns of the square that stands for a published picture."""
        whole = self._images.shape[1]
        side = whole if self.recipe.whole else min(round(picture_side_px(px)), whole)
        if (kind, index) in self._spots:
            corner = rng.choice(self._spots[kind, index]) - rng.uniform(0.08, 0.92, 2) * side
        else:
            corner = rng.uniform(0, whole - side, 2)
        top, left = (int(value) for value in np.clip(corner, 0, whole - side))
        return slice(top, top + side), slice(left, left + side)

    def _entire(self, rng: Generator) -> View:
        """Show a photograph whole, in one of its eight positions."""
        side = self._images.shape[1]
        turn = float(rng.integers(4)) * np.pi / 2
        return View(side / 2, side / 2, side, angle_rad=turn, mirrored=bool(rng.random() < 0.5))

    def _view(
        self, kind: Kind, index: int, rng: Generator, out_px: int, *, rotate: bool, turned: float, aimed: bool
    ) -> View:
        side = self._images.shape[1]
        zoom = log_uniform(rng, *self.recipe.zoom)
        if self.recipe.whole and rng.random() < 0.5:
            zoom = min(zoom, 1.0) if kind == "plain" else float(rng.uniform(self.recipe.zoom[0], 1.0))
        crop_px = side * zoom if self.recipe.whole else min(out_px * zoom, side * 1.15)
        slack = max(0.0, side - crop_px) / 2
        if aimed and (kind, index) in self._spots:
            y, x = rng.choice(self._spots[kind, index]) + rng.uniform(-0.42, 0.42, 2) * crop_px
        else:
            y, x = side / 2 + rng.uniform(-slack, slack, 2)
        turn = float(rng.integers(4)) * np.pi / 2
        if rotate and rng.random() < turned:
            turn += float(rng.uniform(-np.pi / 4, np.pi / 4))
        return View(
            centre_x=float(np.clip(x, side / 2 - slack, side / 2 + slack)),
            centre_y=float(np.clip(y, side / 2 - slack, side / 2 + slack)),
            side_px=crop_px,
            angle_rad=turn,
            mirrored=bool(rng.random() < 0.5),
            stretch=float(np.exp(rng.normal(0, 0.06))) if rotate else 1.0,
        )


def _beyond_the_border(tile: Image, mask: Image, rng: Generator) -> tuple[Image, Image]:
    """Let one side of a tile lie beyond the border of a mosaic; not if that would hide its whole crack."""
    side = tile.shape[0]
    hidden = np.zeros((side, side), np.bool_)
    hidden[: round(side * float(rng.uniform(0.1, 0.85)))] = True
    hidden = np.rot90(hidden, int(rng.integers(4)))
    level = np.uint8(0 if rng.random() < 0.85 else 255)
    left = np.where(hidden, np.uint8(0), mask)
    if (mask == CRACK).any() and not (left == CRACK).any():
        return tile, mask
    return np.where(hidden[:, :, None], level, tile), left


class Mixture(Dataset[dict[str, Tensor]]):
    """All batches of a stage, by step number.

    Args:
        samplers: by name of the source.
        weights: share of each source, normalised here.
        px: side of the tiles.
        batch: tiles a step.
        preset: "none" and "field" vary place by the sources' recipes and look by `Appearance`; "published" does both
            by `PublishedPipeline`.
        seed: with the stage's number and the step, decides the batch.
        stage: number of the stage.
        steps: how many batches there are.
        rows: which rows of each batch are drawn.
        turned: share of the tiles that the field preset turns freely.
        recoloured: share of the tiles whose colours it mixes.
        collaged: share of the tiles of everyday photographs that are put together from several.
        in_front: share of the other tiles in front of which an everyday thing is put, where the crack is marked or
            there is none.

    Raises:
        DataError: everyday things are wanted, and there is no sampler of their photographs.
    """

    def __init__(
        self,
        samplers: dict[str, SourceSampler],
        weights: dict[str, float],
        *,
        px: int,
        batch: int,
        preset: Preset,
        seed: int,
        stage: int,
        steps: int,
        rows: slice = slice(None),
        turned: float = TURNED,
        recoloured: float = RECOLOURED,
        collaged: float = 0.0,
        in_front: float = 0.0,
    ) -> None:
        if (collaged > 0 or in_front > 0) and THINGS not in samplers:
            raise DataError(f"collaged, in_front: need the photographs of {THINGS}; there are {', '.join(samplers)}")
        self._names = [name for name, weight in weights.items() if weight > 0]
        share = np.array([weights[name] for name in self._names])
        self._shares = share / share.sum()
        self._samplers = samplers
        self._px = px
        self._batch = batch
        self._published = PublishedPipeline(px) if preset == "published" else None
        self._appearance = Appearance("field" if preset == "field" else "none", seed, recoloured=recoloured)
        self._rotate = preset != "none"
        self._turned = turned
        self._collaged, self._in_front = collaged, in_front
        self._key = (seed, stage)
        self._steps = steps
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Return batch `step`.

        Returns:
            tiles uint8 [B, 3, S, S] (channels last in memory), labels float32 [B], cracks uint8 [B, S, S] (`CRACK`,
            `JOINT`, `UNSURE`, 0 for none of them, `UNKNOWN_CELLS`), source int64 [B]; B: as many as `rows` leaves of
            the batch.
        """
        everything = np.random.default_rng((*self._key, step)).choice(len(self._names), self._batch, p=self._shares)
        # from 1 on: a generator seeded with a further 0 is that of the step itself, and its tile would follow from it
        numbers, sources = np.arange(1, self._batch + 1)[self._rows], everything[self._rows]
        tiles = np.empty((len(sources), self._px, self._px, 3), np.uint8)
        cracks = np.zeros((len(sources), self._px, self._px), np.uint8)
        labels = np.empty(len(sources), np.float32)
        for row, (number, source) in enumerate(zip(numbers, sources, strict=True)):
            rng = np.random.default_rng((*self._key, step, int(number)))
            sampler = self._samplers[self._names[source]]
            if self._published is not None:
                tiles[row], label, mask = sampler.sample_published(rng, self._published, self._px)
            else:
                tile, label, mask = sampler.sample(rng, self._px, rotate=self._rotate, turned=self._turned)
                tile, mask = self._with_things(sampler.name, tile, mask, label=label, rng=rng)
                tiles[row] = self._appearance(tile, rng)
            labels[row] = label
            if mask is not None:
                kept = (mask == CRACK) | (mask == JOINT) | (mask == UNSURE)
                cracks[row] = np.where(kept, mask, np.uint8(0))
            elif label:
                cracks[row] = UNKNOWN_CELLS
        return {
            "tiles": torch.from_numpy(tiles).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(labels),
            "cracks": torch.from_numpy(cracks),
            "source": torch.from_numpy(sources.astype(np.int64)),
        }

    def _with_things(
        self, source: str, tile: Image, mask: Image | None, *, label: bool, rng: Generator
    ) -> tuple[Image, Image | None]:
        """Make a collage of some everyday tiles, and put things in front of some others."""
        share = self._collaged if source == THINGS else self._in_front
        if share == 0 or rng.random() >= share or (label and mask is None):
            return tile, mask  # a share of 0 draws nothing: the tile varies as it did before there were things
        look = self._samplers[THINGS].look
        return (collage(tile, look, rng), mask) if source == THINGS else put_in_front(tile, mask, look, rng)


def load_samplers(
    names: list[str],
    root: Path,
    cache: Path,
    splits: Path,
    *,
    synthetic_count: int,
    seed: int,
    relief: bool = False,
    upright: float = 0.0,
) -> dict[str, SourceSampler]:
    """Open the training part of each source.

    Args:
        names: of the sources.
        root: folder of the data sets.
        cache: folder of decoded pictures.
        splits: folder of the splits.
        synthetic_count: pictures that are drawn for the source `synthetic`.
        seed: decides what they show.
        relief: whether two in five of them are walls in relief.
        upright: share of the cracks on them that are upright or level.

    Raises:
        DataError: an external test set is named, a data set or its split is missing, one shows nothing that its
            recipe asks for, or two hold the same pictures.
        ConfigError: the file that tells of such pairs is not valid.
    """
    refuse_overlaps({name: {*TEXTURES, *DONORS} if name == SYNTHETIC else {name} for name in names})
    samplers = {}
    opened: dict[str, tuple[Photographs, list[int]]] = {}

    def opened_source(name: str) -> tuple[Photographs, list[int]]:
        if name not in opened:
            photographs = load_photographs(get_source(name, for_training=True), root, cache)
            opened[name] = photographs, indices_of(photographs, read_split(name, splits), "train")
        return opened[name]

    for name in names:
        if name == SYNTHETIC:
            textures = [opened_source(of) for of in TEXTURES]
            donors = [opened_source(of) for of in DONORS]
            photographs = draw_synthetic(textures, donors, cache, synthetic_count, seed, relief=relief, upright=upright)
            samplers[name] = SourceSampler(photographs, list(range(synthetic_count)), RECIPES[name])
        else:
            samplers[name] = SourceSampler(*opened_source(name), recipe_of(opened_source(name)[0]))
        samplers[name].kinds()  # what cannot be drawn from is better known before the first step
    return samplers
