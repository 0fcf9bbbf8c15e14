"""What does training get to see? Sheets of every preset, of every effect alone, and of the drawn pictures.

Tiles are made by the very code that makes training batches, from a sampler of one photograph.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from training.config import Strict
from training.data import augment
from training.data.augment import Image, Preset, View
from training.data.mixture import RECIPES, SYNTHETIC, THINGS, Mixture, SourceSampler, load_samplers
from training.data.omissions import UNSURE
from training.data.published import published_transforms
from training.data.sources import BOX, CRACK, JOINT, SOURCES, added_sources
from training.errors import DataError
from training.figures import figure
from training.page import Picture, Section, Table, write_page
from training.progress import Step

PRESETS: Final[tuple[Preset, ...]] = ("none", "published", "field")
_GAP_PX: Final = 6
_DRAWS: Final = 60
_CRACK_BGR: Final = (0, 94, 213)
_UNSURE_BGR: Final = (140, 185, 240)
_JOINT_BGR: Final = (178, 114, 0)


def trainable() -> list[str]:
    """Name all sources that a training run may draw from, those added by configuration among them."""
    known = SOURCES | added_sources()
    return [*(name for name, source in known.items() if source.role == "train"), SYNTHETIC]


class PreviewData(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")
    cache: Path = Field(default=Path("data/cache"), description="folder for decoded pictures; not committed")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")
    synthetic_count: int = Field(default=6000, ge=2, description="pictures drawn for the source 'synthetic'")
    synthetic_relief: bool = Field(default=True, description="whether two in five of them are in relief")
    synthetic_upright: float = Field(default=0.0, ge=0, le=1, description="share of their cracks upright or level")
    synthetic_seed: int = Field(default=1, ge=0, description="decides them; a training run takes its own seed")


class PreviewSettings(Strict):
    """`augment-preview`."""

    data: PreviewData = PreviewData()
    out: Path = Field(default=Path("runs/augment-preview"), description="folder of the results")
    sources: list[str] = Field(
        default=["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete", SYNTHETIC],
        min_length=1,
        description="training sources; each gets a sheet",
    )
    effects_source: str = Field(default="uav75", description="source of the tile that every effect is shown on")
    photographs: int = Field(default=3, ge=1, le=12, description="photographs of each source")
    variants: int = Field(default=7, ge=1, le=16, description="tiles of each photograph and preset")
    drawn: int = Field(default=24, ge=1, le=120, description="synthetic pictures on their sheet")
    px: int = Field(default=224, ge=64, le=512, multiple_of=32, description="side of the tiles")
    timing_tiles: int = Field(default=32, ge=2, le=1024, description="tiles of a batch that is timed")
    timing_rounds: int = Field(default=5, ge=1, le=100, description="timed batches of each preset; the median counts")
    seed: int = Field(default=1, ge=0, description="decides which photographs and which tiles")

    @model_validator(mode="after")
    def _sources_are_known(self) -> PreviewSettings:
        allowed = trainable()
        strange = [name for name in [*self.sources, self.effects_source] if name not in allowed]
        if strange:
            raise ValueError(
                f"sources, effects_source: {', '.join(strange)} unknown to training; allowed are {', '.join(allowed)}"
            )
        if self.effects_source not in self.sources:
            raise ValueError(f"effects_source: {self.effects_source} is not among the sources")
        return self


@dataclass(frozen=True)
class Effect:
    """One effect alone.

    Attributes:
        name: of the effect.
        span: its range in words.
        chance: share of the field preset's tiles that have it, 1 for all of them.
        views: captions and tiles, from its weak to its strong end, or from one end to the other.
    """

    name: str
    span: str
    chance: float
    views: list[tuple[str, Image]]


@dataclass(frozen=True)
class Timing:
    """What a preset costs: milliseconds of processor time a tile, and the ratio to the preset "none"."""

    preset: Preset
    ms_a_tile: float
    ratio: float


def preview(settings: PreviewSettings, step: Step) -> Path:
    """Draw all sheets, time the presets, write figures, `preview.json` and `index.html`; return the page.

    All on one thread: on pictures as small as these, torch's threads cost more than they save.

    Raises:
        DataError: a data set or its split is missing, or an external one is named.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _preview(settings, step)
    finally:
        torch.set_num_threads(threads)


def _preview(settings: PreviewSettings, step: Step) -> Path:
    data = settings.data
    samplers = load_samplers(
        settings.sources,
        data.root,
        data.cache,
        data.splits,
        synthetic_count=data.synthetic_count,
        seed=data.synthetic_seed,
        relief=data.synthetic_relief,
        upright=data.synthetic_upright,
    )
    with step("sheets", len(samplers) + 3 + settings.timing_rounds) as advance:
        sheets = []
        for name, sampler in samplers.items():
            sheets.append(_preset_sheet(sampler, settings, settings.out / f"presets-{name}.png"))
            advance(1)
        effects = field_effects(samplers[settings.effects_source], settings.px, settings.seed)
        _effects_sheet(effects, settings.out / "effects.png")
        advance(1)
        if THINGS in samplers:
            _things_sheet(samplers, settings, settings.out / "things.png")
        advance(1)
        if SYNTHETIC in samplers:
            _synthetic_sheet(samplers[SYNTHETIC], settings.drawn, settings.out / "synthetic.png")
        advance(1)
        timings = time_presets(samplers, settings, advance)
    return _write(settings, samplers, sheets, effects, timings)


def examples(sampler: SourceSampler, count: int) -> list[int]:
    """Choose photographs spread evenly over a source; cracked and sound ones in turn where each has one label."""
    labels = [sampler.photographs.items[index].label for index in sampler.indices]
    pools = [
        [index for index, label in zip(sampler.indices, labels, strict=True) if label is wanted]
        for wanted in (True, False, None)
    ]
    pools = [pool for pool in pools if pool]
    chosen = []
    for number in range(count):
        pool = pools[number % len(pools)]
        share = (number // len(pools) + 0.5) / -(-count // len(pools))
        chosen.append(pool[int(len(pool) * share)])
    return list(dict.fromkeys(chosen))


def variants(sampler: SourceSampler, preset: Preset, *, px: int, count: int, seed: int) -> dict[str, NDArray[Any]]:
    """Make a training batch of a source; see `Mixture`. Tiles come as uint8 [N, S, S, 3], BGR."""
    weights = {sampler.name: 1.0}
    samplers = {sampler.name: sampler}
    mixture = Mixture(samplers, weights, px=px, batch=count, preset=preset, seed=seed, stage=0, steps=1)
    return _first_batch(mixture)


def with_things(
    samplers: dict[str, SourceSampler], name: str, *, px: int, count: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Make a training batch of a source in which all that may be collages, or have things in front, are or have."""
    mixture = Mixture(
        samplers, {name: 1.0}, px=px, batch=count, preset="field", seed=seed, stage=0, steps=1, collaged=1.0,
        in_front=1.0,
    )  # fmt: skip
    return _first_batch(mixture)


def _first_batch(mixture: Mixture) -> dict[str, NDArray[Any]]:
    batch = mixture[0]
    return {
        "tiles": batch["tiles"].permute(0, 2, 3, 1).numpy(),
        "labels": batch["labels"].numpy(),
        "cracks": batch["cracks"].numpy(),
    }


def time_presets(
    samplers: dict[str, SourceSampler], settings: PreviewSettings, advance: Callable[[int], None]
) -> list[Timing]:
    """Time batches of all sources in equal shares, the presets in turn."""
    spent: dict[Preset, list[float]] = {preset: [] for preset in PRESETS}
    weights = dict.fromkeys(samplers, 1.0)
    size, rounds = settings.timing_tiles, settings.timing_rounds
    mixtures = {
        preset: Mixture(
            samplers, weights, px=settings.px, batch=size, preset=preset, seed=settings.seed, stage=0, steps=rounds + 1
        )
        for preset in PRESETS
    }
    for mixture in mixtures.values():
        _ = mixture[rounds]  # warm up: pages of the cache, first calls
    for turn in range(rounds):
        for preset, mixture in mixtures.items():
            start = time.process_time()
            _ = mixture[turn]
            spent[preset].append(1000 * (time.process_time() - start) / size)
        advance(1)
    cost = {preset: float(np.median(values)) for preset, values in spent.items()}
    return [Timing(preset, cost[preset], cost[preset] / cost["none"]) for preset in PRESETS]


def time_generator(calls: int = 2000) -> float:
    """Milliseconds that it costs the published preset to seed torch's generator and put it back, once a tile."""
    start = time.process_time()
    for number in range(calls):
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(number)
        torch.default_generator.set_state(before)
    return 1000 * (time.process_time() - start) / calls


def field_effects(sampler: SourceSampler, px: int, seed: int) -> list[Effect]:
    """Show every effect of the field preset alone, on one tile, at the ends of its range."""
    index, x, y = _spot(sampler)
    photograph = np.asarray(sampler.photographs.images[index])
    side = photograph.shape[0]
    tile = augment.cut(photograph, View(x, y, min(px, side)), px)
    rng = np.random.default_rng(seed)
    chances = {change: chance for chance, change in (*augment.ON_THE_WALL, *augment.IN_THE_CAMERA)}
    blur = chances[augment.blur]
    whole, parts = RECIPES["metu-ccic"].zoom, RECIPES["uav75"].zoom
    noise = rng.standard_normal((px, px, 3)).astype(np.float32)

    def looks(values: tuple[float, ...], caption: str, change: Callable[[float], Image]) -> list[tuple[str, Image]]:
        return [(caption.format(value), change(value)) for value in values]

    def span(ends: tuple[float, float]) -> tuple[float, float, float]:
        return ends[0], sum(ends) / 2, ends[1]

    def about(strength: float) -> tuple[float, float, float]:
        return -strength, 0.0, strength

    def balanced(blue_to_red: float) -> Image:
        return augment.relight(tile, balance=(-blue_to_red, 0.0, blue_to_red))

    zooms = (parts[0], 1.0, parts[1])
    tones = tuple(float(np.exp(value)) for value in about(augment.TONE_CURVE))
    draws = {
        "hair": augment.draw_hair,
        "wire or painted line": augment.draw_cable,
        "synthetic joint": augment.draw_joint,
        "mark of paint": augment.draw_paint,
        "stains": augment.draw_stains,
        "colour": augment.mix_colours,
    }
    return [
        Effect(
            "scale",
            f"UAV75 {parts[0]} to {parts[1]} photograph pixels a tile pixel; METU's whole pictures {whole[0]} to "
            f"{whole[1]} of their side",
            1.0,
            looks(zooms, "GSD x {:g}", lambda zoom: augment.cut(photograph, View(x, y, px * zoom), px)),
        ),
        Effect(
            "rotation",
            "quarter turns, mirrored or not; 40 % of the tiles by up to 45 degrees more",
            0.4,
            looks(
                (-45.0, 0.0, 45.0),
                "{:+.0f} degrees",
                lambda angle: augment.cut(photograph, View(x, y, min(px, side), float(np.deg2rad(angle))), px),
            ),
        ),
        Effect(
            "focus blur",
            f"deviation {augment.FOCUS_SIGMA_PX[0]} to {augment.FOCUS_SIGMA_PX[1]} px",
            blur * augment.FOCUS_SHARE,
            looks(span(augment.FOCUS_SIGMA_PX), "{:.1f} px", lambda sigma: augment.focus_blur(tile, sigma)),
        ),
        Effect(
            "motion blur",
            f"{', '.join(str(value) for value in augment.MOTION_PX)} px, any direction",
            blur * (1 - augment.FOCUS_SHARE),
            looks(
                tuple(float(value) for value in augment.MOTION_PX),
                "{:.0f} px",
                lambda length: augment.motion_blur(tile, int(length), np.pi / 5),
            ),
        ),
        Effect(
            "loss of resolution",
            f"{augment.RESOLUTION[0]} to {augment.RESOLUTION[1]} of the side",
            chances[augment.resample],
            looks(
                span(augment.RESOLUTION)[::-1], "{:.0%} of the side", lambda share: augment.lose_resolution(tile, share)
            ),
        ),
        Effect(
            "sharpening",
            f"unsharp mask {augment.SHARPENING[0]} to {augment.SHARPENING[1]}",
            chances[augment.overdo_sharpness],
            looks(span(augment.SHARPENING), "{:.2f}", lambda strength: augment.sharpen(tile, strength)),
        ),
        Effect(
            "noise",
            f"{augment.NOISE[0]:g} to {augment.NOISE[1]:g} grey levels; half of it grey",
            augment.NOISE_CHANCE,
            looks(span(augment.NOISE), "{:.0f} levels", lambda deviation: augment.add_noise(tile, noise, deviation)),
        ),
        Effect(
            "JPEG",
            f"quality {augment.JPEG_QUALITY[0]} to {augment.JPEG_QUALITY[1]}",
            augment.JPEG_CHANCE,
            looks(
                span(augment.JPEG_QUALITY)[::-1], "quality {:.0f}", lambda quality: augment.compress(tile, int(quality))
            ),
        ),
        Effect(
            "exposure",
            f"mean +- {augment.BRIGHTNESS:.0%}",
            1.0,
            looks(about(augment.BRIGHTNESS), "{:+.0%}", lambda value: augment.relight(tile, brightness=value)),
        ),
        Effect(
            "contrast",
            f"+- {augment.CONTRAST:.0%}",
            1.0,
            looks(about(augment.CONTRAST), "{:+.0%}", lambda value: augment.relight(tile, contrast=value)),
        ),
        Effect(
            "tone curve",
            f"exponent {tones[0]:.2f} to {tones[2]:.2f}",
            1.0,
            looks(tones, "exponent {:.2f}", lambda value: augment.relight(tile, exponent=value)),
        ),
        Effect(
            "white balance",
            f"each channel +- {augment.WHITE_BALANCE:.0%}",
            1.0,
            looks(about(augment.WHITE_BALANCE), "red {:+.0%}, blue opposite", balanced),
        ),
        Effect(
            "shadow edge",
            f"down to {augment.SHADOW_GAIN[0]} to {augment.SHADOW_GAIN[1]}, edge {augment.SHADOW_EDGE_PX[0]} to "
            f"{augment.SHADOW_EDGE_PX[1]} px",
            chances[augment.cast_shadow],
            [
                (
                    f"down to {gain:.2f}, edge {edge:.1f} px",
                    augment.shadow_edge(tile, angle_rad=0.6, offset_px=0.0, softness_px=edge, gain=gain),
                )
                for gain, edge in zip(span(augment.SHADOW_GAIN)[::-1], span(augment.SHADOW_EDGE_PX)[::-1], strict=True)
            ],
        ),
        *(
            Effect(
                name,
                f"least, middling and most visible of {_DRAWS} draws",
                chances[change],
                _by_visibility(tile, [change(tile, np.random.default_rng((seed, number))) for number in range(_DRAWS)]),
            )
            for name, change in draws.items()
        ),
    ]


def _by_visibility(tile: Image, varied: list[Image]) -> list[tuple[str, Image]]:
    """Pick the least, the middling and the most changed; a draw beside the tile, which changes nothing, is left out."""
    changes = [float(np.abs(picture.astype(np.int16) - tile).mean()) for picture in varied]
    order = [int(place) for place in np.argsort(changes) if changes[place] > 0]
    if not order:
        raise DataError("augment-preview: an effect of the field preset changed no tile")
    picks = {"least": order[0], "middling": order[len(order) // 2], "most": order[-1]}
    return [(name, varied[place]) for name, place in picks.items()]


def _spot(sampler: SourceSampler) -> tuple[int, float, float]:
    """Find a photograph and a place in it (x, y in pixels) to show effects on: the middle of a marked crack, if any."""
    masks = sampler.photographs.masks
    for index in sampler.indices:
        marked = np.argwhere(np.asarray(masks[index]) == CRACK) if masks is not None else np.empty((0, 2))
        if len(marked):
            y, x = marked[np.argmin(np.linalg.norm(marked - marked.mean(axis=0), axis=1))]
            return index, float(x), float(y)
    side = sampler.photographs.images.shape[1]
    return examples(sampler, 1)[0], side / 2, side / 2


def _strip(tiles: list[Image] | NDArray[np.uint8], marks: list[tuple[int, int, int]] | None = None) -> Image:
    """Lay tiles [S, S, 3] (BGR) side by side, each framed in its colour if there are colours."""
    parts = []
    for number, tile in enumerate(tiles):
        colour = marks[number] if marks is not None else (255, 255, 255)
        frame = max(2, tile.shape[0] // 45)
        framed = cv2.copyMakeBorder(
            np.ascontiguousarray(tile), frame, frame, frame, frame, cv2.BORDER_CONSTANT, value=colour
        )
        parts.append(cv2.copyMakeBorder(framed, 0, 0, 0, _GAP_PX, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.asarray(np.hstack(parts), np.uint8)


def _outlined(tile: Image, cracks: Image) -> Image:
    """Trace the mask at a distance of a few pixels, so that the crack itself stays to be seen."""
    marked = (cracks == CRACK).astype(np.uint8)
    around = cv2.dilate(marked, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)))
    contours, _ = cv2.findContours(around, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.ascontiguousarray(tile), contours, -1, (0, 230, 255), 1), np.uint8)


def _rgb(image: Image) -> Image:
    return np.ascontiguousarray(image[:, :, ::-1])


def _preset_sheet(sampler: SourceSampler, settings: PreviewSettings, path: Path) -> Picture:
    chosen = examples(sampler, settings.photographs)
    rows = len(chosen) * len(PRESETS)
    width = 13.5
    tile_in = (width - 2.6) / settings.variants
    with figure(path, width_in=width, height_in=max(rows * tile_in * 1.04, len(chosen) * 2.4) + 0.5) as drawn:
        drawn.set_layout_engine("none")
        grid = drawn.add_gridspec(
            rows, 2, width_ratios=[2.2, width - 2.6], left=0.01, right=0.995, top=1 - 0.4 / drawn.get_figheight(),
            bottom=0.01, wspace=0.07, hspace=0.04,
        )  # fmt: skip
        for place, index in enumerate(chosen):
            block = slice(place * len(PRESETS), (place + 1) * len(PRESETS))
            original = drawn.add_subplot(grid[block, 0])
            original.imshow(_rgb(np.asarray(sampler.photographs.images[index])))
            original.set_title(Path(sampler.photographs.items[index].path).name, fontsize=7)
            original.axis("off")
            for row, preset in enumerate(PRESETS):
                made = variants(
                    sampler.only(index),
                    preset,
                    px=settings.px,
                    count=settings.variants,
                    seed=settings.seed + place,
                )
                tiles = [_outlined(*pair) for pair in zip(made["tiles"], made["cracks"], strict=True)]
                frames = [_CRACK_BGR if label else _JOINT_BGR for label in made["labels"]]
                axes = drawn.add_subplot(grid[block.start + row, 1])
                axes.imshow(_rgb(_strip(tiles, frames)), interpolation="antialiased")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
                axes.set_ylabel(preset, fontsize=9)
        drawn.suptitle(f"{sampler.name}: one photograph, tiles of each preset", fontsize=11, y=0.995, va="top")
    return Picture(
        path,
        f"{sampler.name}: left the photograph as it is cached, right {settings.variants} tiles of each preset. Frame: "
        "orange for the label crack, blue for sound; yellow line: around the mask of the crack.",
    )


def _effects_sheet(effects: list[Effect], path: Path) -> None:
    columns = 2  # so that a tile of 224 px is shown about pixel for pixel
    rows = -(-len(effects) // columns)
    with figure(path, width_in=14.0, height_in=rows * 2.75 + 0.2) as drawn:
        drawn.set_layout_engine("none")
        grid = drawn.add_gridspec(rows, columns, left=0.01, right=0.99, top=0.985, bottom=0.01, wspace=0.03, hspace=0.2)
        for number, effect in enumerate(effects):
            axes = drawn.add_subplot(grid[number // columns, number % columns])
            strip = _strip([tile for _, tile in effect.views])
            axes.imshow(_rgb(strip), interpolation="antialiased")
            axes.axis("off")
            axes.set_title(f"{effect.name} ({effect.chance:.0%} of tiles)", fontsize=9, loc="left", fontweight="bold")
            step = strip.shape[1] / len(effect.views)
            for place, (caption, _) in enumerate(effect.views):
                axes.text((place + 0.48) * step, strip.shape[0] * 1.01, caption, ha="center", va="top", fontsize=7)


def _things_sheet(samplers: dict[str, SourceSampler], settings: PreviewSettings, path: Path) -> None:
    columns, width = 2 * settings.variants, 14.0
    names = [THINGS, *(name for name in samplers if name != THINGS)]
    tile_in = width / columns
    with figure(path, width_in=width, height_in=len(names) * (tile_in + 0.25) + 0.1) as drawn:
        drawn.set_layout_engine("none")
        grid = drawn.add_gridspec(len(names), 1, left=0.005, right=0.995, top=0.97, bottom=0.005, hspace=0.25)
        for row, name in enumerate(names):
            made = with_things(samplers, name, px=settings.px, count=columns, seed=settings.seed)
            tiles = [_outlined(*pair) for pair in zip(made["tiles"], made["cracks"], strict=True)]
            frames = [_CRACK_BGR if label else _JOINT_BGR for label in made["labels"]]
            axes = drawn.add_subplot(grid[row, 0])
            axes.imshow(_rgb(_strip(tiles, frames)), interpolation="antialiased")
            axes.axis("off")
            title = "collages" if name == THINGS else "things in front"
            axes.set_title(f"{name}: {title}", fontsize=8, loc="left")


def _synthetic_sheet(sampler: SourceSampler, count: int, path: Path) -> None:
    images, masks = sampler.photographs.images, sampler.photographs.masks
    if masks is None:
        raise DataError(f"{sampler.name}: has no masks to show")
    columns = 4
    chosen = range(min(count, len(images)))
    lines = []
    for start in range(0, len(chosen), columns):
        pairs: list[Image] = []
        for index in chosen[start : start + columns]:
            pairs += [np.asarray(images[index]), _painted(np.asarray(masks[index]))]
        pairs += [np.full_like(pairs[0], 255)] * (2 * columns - len(pairs))
        lines.append(_strip(pairs))
    sheet = np.asarray(np.vstack(lines), np.uint8)
    width = 14.0
    with figure(path, width_in=width, height_in=width * sheet.shape[0] / sheet.shape[1]) as drawn:
        drawn.set_layout_engine("none")
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.imshow(_rgb(sheet), interpolation="antialiased")
        axes.axis("off")


def _painted(mask: Image) -> Image:
    """Paint a mask: cracks orange, joints blue, boxes grey, cracks that the mask leaves out light orange."""
    painted = np.full((*mask.shape, 3), 245, np.uint8)
    painted[mask == JOINT] = _JOINT_BGR
    painted[mask == BOX] = (160, 160, 160)
    painted[mask == UNSURE] = _UNSURE_BGR
    painted[mask == CRACK] = _CRACK_BGR
    return painted


def _write(
    settings: PreviewSettings,
    samplers: dict[str, SourceSampler],
    sheets: list[Picture],
    effects: list[Effect],
    timings: list[Timing],
) -> Path:
    generator_ms = time_generator()
    transforms = [repr(transform) for transform in published_transforms(settings.px).transforms]
    content = {
        "settings": settings.model_dump(mode="json"),
        "published": transforms,
        "recipes": {name: asdict(sampler.recipe) for name, sampler in samplers.items()},
        "effects": [{"name": item.name, "range": item.span, "chance": item.chance} for item in effects],
        "timing": [asdict(timing) for timing in timings],
        "generator_ms_a_tile": generator_ms,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "preview.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    timing = Table(
        ("preset", "ms of one core a tile", "ratio to none"),
        [(row.preset, f"{row.ms_a_tile:.2f}", f"{row.ratio:.1f}") for row in timings],
        f"Median of {settings.timing_rounds} batches of {settings.timing_tiles} tiles of {settings.px} px, all sources "
        "in equal shares, reading included. Seeding torch's generator and putting it back, as the published preset "
        f"must, costs {generator_ms:.3f} ms of that.",
    )
    sections = [
        Section(
            "Presets",
            (
                "published: " + "; ".join(transforms) + ". What the rotation has no pixel for is black, as published.",
                "field: scale, place, quarter and free turns, stretch; then what the sheet of effects shows.",
                "none: crop, mirror and quarter turns, nothing else.",
            ),
            (timing,),
            sheets,
        ),
        Section(
            "Effects of the field preset, one at a time",
            (f"On one tile of {settings.effects_source}; exposure, contrast, tone and white balance vary together.",),
            (
                Table(
                    ("effect", "range", "share of tiles"),
                    [(item.name, item.span, f"{item.chance:.0%}") for item in effects],
                ),
            ),
            (Picture(settings.out / "effects.png", "Each effect at the ends and in the middle of its range."),),
        ),
    ]
    if THINGS in samplers:
        caption = (
            "Everyday photographs put together, and things in front of the other sources' tiles. A stage's collaged "
            "and in_front say how many tiles are made so; here all are that may be: a crack that nobody marked is "
            "never covered, nor so much of one that the tile would be unsure. Frame: orange crack, blue sound."
        )
        sections.append(Section("Everyday things", (), (), (Picture(settings.out / "things.png", caption),)))
    if SYNTHETIC in samplers:
        caption = "Drawn pictures and their masks: orange crack, blue joint. Every second one is sound."
        sections.append(Section("Synthetic pictures", (), (), (Picture(settings.out / "synthetic.png", caption),)))
    summary = "Tiles as training sees them, made by the code that makes its batches."
    return write_page(settings.out / "index.html", "Augmentation", summary, sections)
