"""Which tiles is a model judged on? Fixed sets, the same for everybody.

evaluation_tiles("uav75", "val", Path("../shared/data")) -> EvaluationSet
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from drone_agent.vision.preprocess import to_tile
from training.data.cache import Photographs, draw_walls, load_photographs
from training.data.omissions import as_published
from training.data.sources import CRACK, added_sources, get_source
from training.data.splits import indices_of, read_split
from training.data.tiles import kind_of
from training.errors import DataError

TILE_PX: Final = 224
SPLITS_FOLDER: Final = Path("config/training/splits")
UAV75_CROPS_PX: Final = (160, 227, 320)
EVERYDAY_CROP_SHARE: Final = 0.5
NHA12D_FRAME: Final = (1080, 1920)
"""Rows and columns of its frames; in the cache they are squares, mirrored below."""

PUBLISHED: Final = "published-masks"
"""The validation part of a set by its published masks alone, cracks that they leave out counting as sound."""

EVALUATION_SETS: Final[dict[str, tuple[str, ...]]] = {
    "metu-ccic": ("val", "test"),
    "uav75": ("val", PUBLISHED),
    "omu-quay": ("val",),
    "uavcrack": ("val", "test"),
    "not-concrete": ("val", "test"),
    "walls-external": ("test",),
    "brickwork-external": ("test",),
    "nha12d": ("test",),
}
"""Which splits each set has. External sets have a test alone, and training never sees them."""

RELIEF: Final = "relief"
DRAWN_SETS: Final[dict[str, tuple[str, ...]]] = {RELIEF: ("drawn",)}
"""Sets that are drawn, not photographed. They tell networks apart where no photograph may; judged only when named."""
RELIEF_COUNT: Final = 600
RELIEF_SEED: Final = 999
RELIEF_TEXTURES: Final = ("metu-ccic", "uav75")
"""On grain of their validation photographs, so that nothing in the pictures has been trained on."""
CRACKED: Final = ("crack", "trace")
"""Kinds of tiles that count as cracked. A trace is a whole picture that its set calls cracked, while its mask shows
less of the crack than the rule in `training.data.tiles` asks for: judged like the others, but it decides nothing."""
_WALL_KINDS: Final = {"masonry": "negative", "concrete": "plain", "cracked": "crack"}


def evaluation_splits(name: str) -> tuple[str, ...]:
    """Return the splits of a set, also of a drawn one or one that is added by configuration; none of an unknown one."""
    known = EVALUATION_SETS | DRAWN_SETS
    if name in known:
        return known[name]
    source = added_sources().get(name)
    if source is None:
        return ()
    return ("test",) if source.role == "external" else ("val", "test")


@dataclass(frozen=True)
class Origin:
    """Where a tile was cut: number of the decoded photograph, corner and side of the square in its pixels."""

    index: int
    top: int
    left: int
    side: int


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled tiles in a fixed order.

    Attributes:
        name: the set, e.g. "uav75".
        tiles: uint8 [N, 224, 224, 3], BGR.
        labels: bool [N], True is crack.
        groups: photograph or twin group of each tile; intervals are resampled by it.
        kinds: "crack", "trace", "joint", "plain" or "negative" of each tile.
        masks: uint8 [N, 224, 224], 255 where a crack is, or None where the set has no masks.
        origins: where each tile was cut, so that it can be cut anew at another scale; None for tiles made otherwise.
    """

    name: str
    tiles: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    groups: list[str]
    kinds: list[str]
    masks: NDArray[np.uint8] | None = None
    origins: list[Origin] | None = None

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels)

    def subset(self, indices: NDArray[np.intp]) -> EvaluationSet:
        """Return the tiles at `indices`."""
        return EvaluationSet(
            self.name,
            self.tiles[indices],
            self.labels[indices],
            [self.groups[index] for index in indices],
            [self.kinds[index] for index in indices],
            None if self.masks is None else self.masks[indices],
            None if self.origins is None else [self.origins[index] for index in indices],
        )


@dataclass(frozen=True)
class _Cut:
    """One tile before it is put into the set."""

    image: NDArray[np.uint8]
    kind: str
    group: str
    origin: Origin
    mask: NDArray[np.uint8] | None = None


def evaluation_tiles(
    name: str, split: str, root: Path, cache: Path = Path("data/cache"), splits: Path = SPLITS_FOLDER
) -> EvaluationSet:
    """Return the fixed tiles of a set.

    METU, walls, brickwork and quay: each whole picture shrunk to a tile. UAV75: crops of 160, 227 and 320 px on a grid,
    labelled by the rule in `training.data.tiles`, unsure ones left out; "published-masks" is the validation part once
    more by the published masks alone. Drone tiles: whole pictures (all cracked)
    and those of their quarters that show no crack. Whole pictures that count as cracked are "trace" where their mask
    shows too little of it. Everyday photographs: whole, and four crops of half the side.
    NHA12D: each whole frame laid out with tiles of 224 px, as the agent lays it out, labelled by the same rule.
    Relief: drawn walls, whole: sound masonry ("negative"), sound concrete ("plain"), and concrete with cracks carved
    into it, those left out of which too little is seen. A set added by configuration: whole pictures where they have a
    label, else crops as of UAV75.

    Args:
        name: a key of `EVALUATION_SETS` or `DRAWN_SETS`, or a set added by configuration.
        split: "val", "test", "published-masks" or "drawn", as `evaluation_splits` has it.
        root: folder of the data sets (zip or unpacked).
        cache: folder for the decoded pictures.
        splits: folder of the committed splits.

    Raises:
        ValueError: unknown set or split.
        DataError: the data set is not under `root` or not as expected.
    """
    allowed = evaluation_splits(name)
    if not allowed:
        raise ValueError(f"evaluation set {name!r} is unknown; allowed: {', '.join([*EVALUATION_SETS, *DRAWN_SETS])}")
    if split not in allowed:
        raise ValueError(f"{name} has no split {split!r}; allowed: {', '.join(allowed)}")
    if name == RELIEF:
        textures = [_part(of, "val", root, cache, splits)[:2] for of in RELIEF_TEXTURES]
        photographs = draw_walls(textures, cache, RELIEF_COUNT, RELIEF_SEED)
        indices, groups = _all(photographs)
    else:
        photographs, indices, groups = _part(name, "val" if split == PUBLISHED else split, root, cache, splits)
    if split == PUBLISHED and photographs.masks is not None:
        photographs = replace(photographs, masks=as_published(photographs.masks))
    cutter = _CUTTERS.get(name, _whole if name in EVALUATION_SETS else _by_annotation)
    cuts = [cut for index in indices for cut in cutter(photographs, index, groups[index])]
    if not cuts:
        raise DataError(f"{name}: the split {split!r} holds no tile")
    masks = [cut.mask for cut in cuts if cut.mask is not None]
    return EvaluationSet(
        name=name,
        tiles=np.stack([to_tile(cut.image, TILE_PX) for cut in cuts]),
        labels=np.array([cut.kind in CRACKED for cut in cuts]),
        groups=[cut.group for cut in cuts],
        kinds=[cut.kind for cut in cuts],
        masks=np.stack([_shrink_mask(mask) for mask in masks]) if len(masks) == len(cuts) else None,
        origins=[cut.origin for cut in cuts],
    )


def _part(name: str, split: str, root: Path, cache: Path, splits: Path) -> tuple[Photographs, list[int], list[str]]:
    """Return a set's photographs, the indices of those in the split, and the group of each."""
    source = get_source(name, for_training=False)
    photographs = load_photographs(source, root, cache)
    if source.role == "external":
        return photographs, *_all(photographs)
    rows = read_split(name, splits)
    group_of = {row.path: row.group for row in rows}
    return photographs, indices_of(photographs, rows, split), [group_of[item.path] for item in photographs.items]


def _all(photographs: Photographs) -> tuple[list[int], list[str]]:
    return list(range(len(photographs.items))), [item.group for item in photographs.items]


def _all_of(photographs: Photographs, index: int) -> Origin:
    return Origin(index, 0, 0, photographs.images.shape[1])


def _shrink_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a mask to a tile so that a crack of one pixel stays connected."""
    marked = ((mask == CRACK) * np.float32(1)).astype(np.float32)
    interpolation = cv2.INTER_AREA if mask.shape[0] > TILE_PX else cv2.INTER_LINEAR
    share = cv2.resize(marked, (TILE_PX, TILE_PX), interpolation=interpolation)
    return np.where(share > 0.2, np.uint8(CRACK), np.uint8(0))


def _whole(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    label = photographs.items[index].label
    mask = None if photographs.masks is None else np.asarray(photographs.masks[index])
    kind = "negative" if label is False else "crack" if mask is None or kind_of(mask) == "crack" else "trace"
    return [_Cut(np.asarray(photographs.images[index]), kind, group, _all_of(photographs, index), mask)]


def _quay(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    return [_Cut(np.asarray(photographs.images[index]), "crack", group, _all_of(photographs, index))]


def _grid(frame: tuple[int, int], crop: int) -> list[tuple[int, int]]:
    """Return the corners (top, left) of crops that cover a photograph (rows, columns) evenly."""
    tops, lefts = (_starts(side, crop) for side in frame)
    return [(top, left) for top in tops for left in lefts]


def _starts(side: int, crop: int) -> list[int]:
    count = -(-side // crop)
    return [round(step * (side - crop) / max(1, count - 1)) for step in range(count)]


def _uav75(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    return [cut for crop in UAV75_CROPS_PX for cut in _masked_crops(photographs, index, group, crop)]


def _by_annotation(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    if photographs.items[index].label is not None:
        return _whole(photographs, index, group)
    side = photographs.images.shape[1]
    sizes = [crop for crop in UAV75_CROPS_PX if crop <= side] or [side]
    return [cut for crop in sizes for cut in _masked_crops(photographs, index, group, crop)]


def _frame(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    return _masked_crops(photographs, index, group, TILE_PX, NHA12D_FRAME)


def _masked_crops(
    photographs: Photographs, index: int, group: str, crop: int, frame: tuple[int, int] | None = None
) -> list[_Cut]:
    image, masks = photographs.images[index], photographs.masks
    if masks is None:
        raise DataError(f"{photographs.name}: has no masks to label crops by")
    cuts = []
    for top, left in _grid(frame or (image.shape[0], image.shape[1]), crop):
        area = (slice(top, top + crop), slice(left, left + crop))
        mask = np.asarray(masks[index][area])
        kind = kind_of(mask)
        if kind is not None:
            cuts.append(_Cut(np.asarray(image[area]), kind, group, Origin(index, top, left, crop), mask))
    return cuts


def _drone_tiles(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    quarters = _masked_crops(photographs, index, group, photographs.images.shape[1] // 2)
    return [*_whole(photographs, index, group), *(cut for cut in quarters if cut.kind == "plain")]


def _everyday(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    image = np.asarray(photographs.images[index])
    crop = int(image.shape[0] * EVERYDAY_CROP_SHARE)
    origins = [Origin(index, top, left, crop) for top, left in _grid((image.shape[0], image.shape[1]), crop)]
    return [
        _Cut(image[at.top : at.top + at.side, at.left : at.left + at.side], "negative", group, at)
        for at in (_all_of(photographs, index), *origins)
    ]


def _drawn_wall(photographs: Photographs, index: int, group: str) -> list[_Cut]:
    if photographs.masks is None:
        raise DataError(f"{photographs.name}: has no masks to label walls by")
    mask = np.asarray(photographs.masks[index])
    kind = _WALL_KINDS[photographs.items[index].path.split("/")[0]]
    if kind == "crack" and kind_of(mask) != "crack":
        return []
    return [_Cut(np.asarray(photographs.images[index]), kind, group, _all_of(photographs, index), mask)]


_CUTTERS: Final[dict[str, Callable[[Photographs, int, str], list[_Cut]]]] = {
    "uav75": _uav75,
    "omu-quay": _quay,
    "uavcrack": _drone_tiles,
    "not-concrete": _everyday,
    "nha12d": _frame,
    RELIEF: _drawn_wall,
}
