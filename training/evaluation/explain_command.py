"""Which command tells where a model errs and what it looks at?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import Field, ValidationInfo, field_validator

from training.config import read_settings
from training.evaluation.settings import Common, overridden
from training.progress import console, progress_bar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from training.data.dataset import EvaluationSet
    from training.evaluation.evaluate import Subject
    from training.evaluation.explain import Explainer, Maps, Refinement
    from training.evaluation.explain_report import Measured
    from training.evaluation.gallery import Mistake, OperatingPoint
    from training.evaluation.metrics import Estimate
    from training.evaluation.pointing import TilePoint
    from training.evaluation.threshold import Scored
    from training.models import CellClassifier
    from training.page import Picture

DEFAULT_CONFIG: Final = Path("config/training/commands/explain.yaml")

_FITTED_TILES: Final = 16
"""Tiles to which the batch normalisation of a net with random weights is fitted."""

Pair = tuple[str, str]


class ExplainSettings(Common):
    """`explain`."""

    sets: list[str] = Field(default_factory=list, description="NAME or NAME/SPLIT of the gallery; empty: all")
    limit: int | None = Field(default=400, ge=10, description="at most so many tiles of each set; null: all")
    worst: int = Field(default=12, ge=1, le=60, description="errors of each kind on a contact sheet")
    examples: int = Field(default=2, ge=0, le=10, description="tiles of each verdict that are drawn with their maps")
    pointing_sets: list[str] = Field(
        default=["uav75/val", "uavcrack/val", "uavcrack/test", "walls-external/test", "nha12d/test"],
        description="NAME or NAME/SPLIT of sets with masks on which it is measured; empty: none",
    )
    tiles_per_set: int | None = Field(default=None, ge=2, description="cracked tiles of each of these; null: all")
    integrated_tiles: int | None = Field(
        default=60,
        ge=2,
        description="how many of them get Integrated Gradients too, which take nearly all of the time; null: all",
    )
    tolerance_px: float = Field(default=15.0, ge=0, le=100, description="distance from the mask that still counts")
    layer: str | None = Field(
        default=None,
        description="of the backbone, for a second Grad-CAM; null: the last one with 14 x 14 cells or more",
    )
    n_steps: int = Field(default=32, ge=2, le=1000, description="steps of Integrated Gradients at first")
    most_steps: int = Field(
        default=256,
        ge=2,
        le=4096,
        description="steps up to which they are doubled where too much is missing",
    )
    missing_share: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="of the difference between the logits of tile and grey tile that their sum may miss (0..1)",
    )
    missing_logit: float = Field(default=0.05, ge=0, description="logits that their sum may always miss")
    smooth_px: float = Field(
        default=4.0, ge=0, le=32, description="Gaussian over Integrated Gradients before their maximum is looked for"
    )
    controls: int = Field(
        default=3, ge=0, le=50, description="nets with random weights, to which the tiles are shown in turn; 0: none"
    )
    resamples: int = Field(default=1000, ge=10, description="draws of the bootstrap by photograph")

    @field_validator("most_steps")
    @classmethod
    def _not_below_the_first(cls, most_steps: int, info: ValidationInfo) -> int:
        n_steps = info.data.get("n_steps")
        if n_steps is not None and most_steps < n_steps:
            raise ValueError(f"must be n_steps ({n_steps}) or more, found {most_steps}")
        return most_steps

    def refinement(self) -> Refinement:
        """Of Integrated Gradients."""
        from training.evaluation.explain import Refinement

        return Refinement(self.n_steps, self.most_steps, self.missing_share, self.missing_logit)


def register(app: typer.Typer) -> None:
    """Adds `explain` to the command line."""
    app.command("explain")(explain_command)


def explain_command(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints (.pt), folders of bundles, or ONNX files of them.")],
    config: Annotated[Path, typer.Option(help="Sets, sizes and places.")] = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="Results go to a folder here, named after the model.")] = Path(
        "runs/explain"
    ),
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the bundle whose threshold a checkpoint takes.")
    ] = None,
    threshold_p: Annotated[float | None, typer.Option(help="Probability from which on a tile is a crack.")] = None,
    sets: Annotated[list[str] | None, typer.Option(help="NAME or NAME/SPLIT of the gallery, repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set.")] = None,
    tiles_per_set: Annotated[int | None, typer.Option(min=2, help="Cracked tiles of each set with masks.")] = None,
    integrated_tiles: Annotated[
        int | None, typer.Option(min=2, help="How many of them get Integrated Gradients, too.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
) -> None:
    """Show the worst errors, draw what the model looks at, and measure whether that is the crack."""
    import cv2
    import torch

    from training.data.dataset import evaluation_tiles
    from training.errors import ConfigError
    from training.evaluation.evaluate import keep_freed_memory, parse_sets, thin

    settings = overridden(
        read_settings(config, ExplainSettings),
        data={"root": data, "cache": cache, "splits": splits},
        sets=sets or None,
        limit=limit,
        tiles_per_set=tiles_per_set,
        integrated_tiles=integrated_tiles,
    )
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    keep_freed_memory()
    try:
        pairs = parse_sets(settings.sets)
        masked_pairs = parse_sets(settings.pointing_sets) if settings.pointing_sets else []
    except ValueError as error:
        raise ConfigError(f"{config}: sets: {error}") from error
    # Opened first: reading all tiles takes minutes, and what cannot be opened is told at once.
    opened = [_open(model, settings, out, bundle, threshold_p) for model in models]
    places = settings.data
    whole = {
        pair: evaluation_tiles(*pair, places.root, places.cache, places.splits)
        for pair in dict.fromkeys([*pairs, *masked_pairs])
    }
    gallery = {pair: Drawn(thin(whole[pair], settings.limit), whole[pair]) for pair in pairs}
    masked = {}
    for pair in masked_pairs:
        cracks = cracks_with_masks(whole[pair])
        if cracks is None:
            console.print(f"{'/'.join(pair)}: no cracked tile with a mask; not measured", soft_wrap=True)
        else:
            masked[pair] = Drawn(thin(cracks, settings.tiles_per_set), cracks)
    for model in opened:
        page = _explain_one(model, settings, gallery, masked)
        console.print(f"{page}, explain.md, explain.json, errors.csv", soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tiles that were drawn from a set, and all that they were drawn from."""

    tiles: EvaluationSet
    whole: EvaluationSet

    def cracks(self) -> tuple[int, int]:
        """How many cracked tiles there are, and of how many."""
        return int(self.tiles.labels.sum()), int(self.whole.labels.sum())

    def sound(self) -> tuple[int, int]:
        """How many tiles without a crack there are, and of how many."""
        return int((~self.tiles.labels).sum()), int((~self.whole.labels).sum())


def cracks_with_masks(tiles: EvaluationSet) -> EvaluationSet | None:
    """The cracked tiles whose mask is not empty; None where the set has none."""
    import numpy as np

    if tiles.masks is None:
        return None
    marked = (tiles.masks > 127).any(axis=(1, 2))
    indices = np.flatnonzero(marked & tiles.labels)
    return tiles.subset(indices) if len(indices) else None


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that can be explained.

    Attributes:
        model: as it was given.
        who: what tells its weights from others.
        subject: gives its verdicts.
        point: where it is judged; None: to be chosen on the validation sets.
        content: of the checkpoint that gradients are taken of; empty where there is none.
        explainer: draws the maps that need gradients; None where there is no such checkpoint.
        folder: for its results; its name is the model's label.
    """

    model: Path
    who: dict[str, Any]
    subject: Subject
    point: OperatingPoint | None
    content: dict[str, Any]
    explainer: Explainer | None
    folder: Path


def _open(model: Path, settings: ExplainSettings, out: Path, bundle: Path | None, threshold_p: float | None) -> Opened:
    """Open a model and check what was asked of it."""
    from training.evaluation.evaluate import identity, open_subjects
    from training.evaluation.explain import Explainer
    from training.files import require_folder

    who = identity(model)
    subject = open_subjects(model, "default", settings.threads)[0]
    label = str(who["label"]) if subject.label == "torch" else f"{who['label']}-{subject.label}"
    folder = require_folder(out / label)
    point = _given_point(subject, model, bundle, threshold_p)
    content, net = _with_gradients(model)
    explainer = None if net is None else Explainer(net, layer=settings.layer, refinement=settings.refinement())
    return Opened(model, who, subject, point, content, explainer, folder)


def _explain_one(
    opened: Opened,
    settings: ExplainSettings,
    drawn_gallery: dict[Pair, Drawn],
    drawn_masked: dict[Pair, Drawn],
) -> Path:
    """Explain one model; return its page."""
    from training.evaluation.evaluate import score
    from training.evaluation.explain import completeness
    from training.evaluation.explain_report import (
        RANDOM,
        TRAINED,
        Counts,
        Explained,
        draw_bars,
        plain_statements,
        write_report,
    )
    from training.evaluation.gallery import mistakes, write_errors

    subject, explainer, folder, label = opened.subject, opened.explainer, opened.folder, opened.folder.name
    gallery = {pair: item.tiles for pair, item in drawn_gallery.items()}
    masked = {pair: item.tiles for pair, item in drawn_masked.items()}
    scored: dict[Pair, Scored] = {}
    for pair, tiles in gallery.items():
        with progress_bar(f"{label}: {'/'.join(pair)}", len(tiles)) as advance:
            scored[pair] = score(subject.scorer, tiles, advance)
    point = opened.point or _chosen_point(subject, opened.model, scored)
    folder.mkdir(parents=True, exist_ok=True)
    errors = {pair: mistakes(item, point) for pair, item in scored.items()}
    write_errors(folder / "errors.csv", errors, gallery)
    sheets = {"/".join(pair): _sheets(folder, pair, gallery[pair], errors[pair], settings.worst) for pair in gallery}
    examples, drawn = (
        _examples(folder, label, explainer, gallery, scored, point, settings) if explainer is not None else ([], [])
    )
    measured, seen, random = _measure(label, opened.content, subject, explainer, masked, point, settings)
    chart = draw_bars(folder / "pointing.svg", measured) if measured else None
    missing = {}
    if explainer is not None:
        for network, maps in ((TRAINED, [*drawn, *seen]), (RANDOM, random)):
            integrated = [item for item in maps if item.gradients is not None]
            if integrated:
                missing[network] = completeness(integrated, settings.refinement())
    found = Explained(
        label=label,
        point=point,
        tiles={"/".join(pair): Counts(*item.cracks(), *item.sound()) for pair, item in drawn_gallery.items()},
        masked={"/".join(pair): item.cracks() for pair, item in drawn_masked.items()},
        errors={"/".join(pair): items for pair, items in errors.items()},
        sheets=sheets,
        examples=examples,
        measured=measured,
        chart=chart,
        layers=explainer.layers() if explainer is not None else {},
        completeness=missing,
        maps_of="" if explainer is None or subject.label == "torch" else "the float file of the same bundle",
        settings=settings.model_dump(mode="json", exclude={"data"}),
    )
    result = {
        "model": opened.who | {"file": subject.label},
        "operating_point": {
            "threshold_logit": point.threshold_logit,
            "temperature": point.temperature,
            "bias": point.bias,
            "basis": point.basis,
        },
        "settings": found.settings,
        "sets": {key: asdict(counts) | {"errors": len(found.errors[key])} for key, counts in found.tiles.items()},
        "grad_cam_layers": found.layers,
        "integrated_gradients": missing,
        "measured": [item.to_dict() for item in measured],
    }
    (folder / "explain.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for line in plain_statements(measured):
        console.print(f"  {line}", soft_wrap=True, highlight=False)
    return write_report(found, folder)


def _with_gradients(model: Path) -> tuple[dict[str, Any], CellClassifier | None]:
    """Open what gradients can be taken of: a checkpoint, or the float file of a bundle as the network that it was.

    Returns:
        What it holds and the network; nothing for a single ONNX file, or where a bundle's network is not known.
    """
    from training.engine.checkpoint import CheckpointError
    from training.evaluation.evaluate import open_checkpoint

    if model.suffix == ".onnx":
        return {}, None
    try:
        return open_checkpoint(model)
    except CheckpointError as error:
        if not model.is_dir():
            raise
        console.print(f"{error}: no maps that need gradients", soft_wrap=True)
        return {}, None


def _given_point(
    subject: Subject, model: Path, bundle: Path | None, threshold_p: float | None
) -> OperatingPoint | None:
    """Where the model is judged, as asked for or at its bundle's point; None where neither is given.

    Raises:
        ConfigError: `threshold_p` is not between 0 and 1.
        ExportError: the bundle cannot be read.
    """
    from training.errors import ConfigError
    from training.evaluation.evaluate import logit_of
    from training.evaluation.gallery import OperatingPoint
    from training.export.bundle import read_manifest

    temperature, bias, own = 1.0, 0.0, None
    folder = bundle
    if folder is None and subject.threshold_logit is not None:
        folder = model if model.is_dir() else model.parent
    if folder is not None:
        own = read_manifest(folder).operating_point
        temperature, bias = own.temperature, own.bias
    if threshold_p is not None:
        try:
            threshold = logit_of(threshold_p, temperature, bias)
        except ValueError as error:
            raise ConfigError(f"--threshold-p: {error}") from error
        return OperatingPoint(threshold, temperature, bias, "as asked for")
    if own is not None and folder is not None:
        threshold = logit_of(own.threshold_p, temperature, bias)
        return OperatingPoint(threshold, temperature, bias, f"the operating point of the bundle {folder.name}")
    return None


def _chosen_point(subject: Subject, model: Path, scored: dict[Pair, Scored]) -> OperatingPoint:
    """Where the model is judged, chosen on the validation sets at hand.

    Raises:
        DataError: they do not suffice.
    """
    from training.errors import DataError
    from training.evaluation.evaluate import choose_for, role_of
    from training.evaluation.gallery import OperatingPoint
    from training.evaluation.threshold import ThresholdError

    validation = [item for pair, item in scored.items() if role_of(*pair) == "validation"]
    try:
        choice = choose_for(subject, validation)
    except ThresholdError as error:
        raise DataError(f"{model}: {error}; add such sets, or give --threshold-p or --bundle") from error
    return OperatingPoint(choice.threshold_logit, 1.0, 0.0, f"chosen on the validation sets {', '.join(choice.sets)}")


def _sheets(folder: Path, pair: Pair, tiles: EvaluationSet, found: Sequence[Mistake], worst: int) -> list[Picture]:
    from training.evaluation.gallery import ErrorKind, draw_sheet, of_error
    from training.page import Picture

    pictures = []
    kinds: tuple[ErrorKind, ...] = ("false positive", "false negative")
    for error in kinds:
        items = of_error(found, error)
        if items:
            path = folder / f"{'-'.join(pair)}-{error.replace(' ', '-')}s.png"
            title = f"{'/'.join(pair)}: the worst {min(worst, len(items))} of {len(items)} {error}s"
            draw_sheet(path, tiles, items[:worst], title)
            pictures.append(Picture(path, f"{title}; cyan: outline of the mask, where there is one"))
    return pictures


def _examples(
    folder: Path,
    label: str,
    explainer: Explainer,
    gallery: dict[Pair, EvaluationSet],
    scored: dict[Pair, Scored],
    point: OperatingPoint,
    settings: ExplainSettings,
) -> tuple[list[Picture], list[Maps]]:
    """Draw tiles of each verdict with their maps, one figure for each set; also return the maps."""
    import numpy as np

    from training.evaluation.explain_report import Example, draw_examples
    from training.page import Picture

    pictures, drawn = [], []
    for pair, tiles in gallery.items():
        called = scored[pair].logits >= point.threshold_logit
        verdicts = {
            "found": called & tiles.labels,
            "missed": ~called & tiles.labels,
            "false alarm": called & ~tiles.labels,
            "passed": ~called & ~tiles.labels,
        }
        # drawn at random: the worst ones are in the gallery
        rng = np.random.default_rng(settings.seed)
        picks = [
            (verdict, int(index))
            for verdict, of in verdicts.items()
            for index in rng.permutation(np.flatnonzero(of))[: settings.examples]
        ]
        if not picks:
            continue
        with progress_bar(f"{label}: maps of {'/'.join(pair)}", len(picks)) as advance:
            maps = explainer.explain(tiles.tiles[[index for _, index in picks]], advance)
        drawn += maps
        examples = [
            Example(
                verdict,
                tiles.tiles[index],
                None if tiles.masks is None else tiles.masks[index],
                found,
                tiles.groups[index],
                tiles.kinds[index],
            )
            for (verdict, index), found in zip(picks, maps, strict=True)
        ]
        path = draw_examples(folder / f"{'-'.join(pair)}-maps.png", examples)
        pictures.append(Picture(path, f"{'/'.join(pair)}: tiles drawn at random from each verdict, with their maps"))
    return pictures, drawn


def _measure(
    label: str,
    content: dict[str, Any],
    subject: Subject,
    explainer: Explainer | None,
    masked: dict[Pair, EvaluationSet],
    point: OperatingPoint,
    settings: ExplainSettings,
) -> tuple[list[Measured], list[Maps], list[Maps]]:
    """Play the pointing game on each set; also return the maps of the trained net and of random weights.

    Integrated Gradients of random weights take as many steps as those of the trained net took on the same tile: nets
    with random weights tell so little from the grey tile that hardly any number of steps would do.
    """
    from training.errors import DataError
    from training.evaluation.evaluate import OnnxScorer
    from training.evaluation.explain import Explainer, Maps, random_nets
    from training.evaluation.explain_report import RANDOM, TRAINED

    measured: list[Measured] = []
    seen: list[Maps] = []
    seen_random: list[Maps] = []
    for pair, tiles in masked.items():
        controls: list[Explainer] = []
        if explainer is not None and settings.controls:
            nets = random_nets(
                content["model"],
                content["options"],
                tiles.tiles[:_FITTED_TILES],
                count=settings.controls,
                seed=settings.seed,
            )
            controls = [Explainer(net, layer=settings.layer, refinement=settings.refinement()) for net in nets]
        count = len(tiles) * (2 if controls else 1)
        integrated = _integrated(len(tiles), settings)
        with progress_bar(f"{label}: pointing game, {'/'.join(pair)}", count) as advance:
            if explainer is not None:
                maps = explainer.explain(tiles.tiles, advance, integrated=integrated)
            elif isinstance(subject.scorer, OnnxScorer):
                maps = []
                for index in range(len(tiles)):
                    logit, cells = subject.scorer.run(tiles.tiles[index : index + 1])
                    maps.append(Maps(cells[0], float(logit[0])))
                    advance(1)
            else:
                raise DataError(f"{label}: neither a checkpoint nor a bundle")
            random = [
                controls[index % len(controls)].explain(
                    tiles.tiles[index : index + 1],
                    advance,
                    n_steps=maps[index].n_steps,
                    integrated=integrated[index : index + 1],
                )[0]
                for index in range(len(tiles) if controls else 0)
            ]
        seen += maps
        seen_random += random
        measured += figures(pair, tiles, maps, random, TRAINED, point, settings)
        if random:
            measured += figures(pair, tiles, random, [], RANDOM, point, settings)
    return measured, seen, seen_random


def _integrated(count: int, settings: ExplainSettings) -> list[bool]:
    """Which of `count` tiles get Integrated Gradients: drawn at random, and the same for every model."""
    from training.evaluation.evaluate import some_of

    chosen = set(some_of(count, settings.integrated_tiles, seed=settings.seed).tolist())
    return [index in chosen for index in range(count)]


def figures(
    pair: Pair,
    tiles: EvaluationSet,
    maps: Sequence[Maps],
    random: Sequence[Maps],
    network: str,
    point: OperatingPoint,
    settings: ExplainSettings,
) -> list[Measured]:
    """Pointing game and energy of every method: of all cracks and, for the trained net, of those that it finds.

    A method is judged on the tiles that have such a map.

    Args:
        pair: set and split.
        tiles: cracked ones with their masks.
        maps: of each tile.
        random: the control, of the same tiles in the same order; empty without one.
        network: whose maps they are.
        point: says which cracks are found.
        settings: tolerance, smoothing and bootstrap.

    Raises:
        ValueError: the set has no masks.
    """
    from training.evaluation.evaluate import role_of
    from training.evaluation.explain import METHODS
    from training.evaluation.explain_report import ALL_CRACKS, FOUND_CRACKS, TRAINED, Measured
    from training.evaluation.pointing import summarise

    if tiles.masks is None:
        raise ValueError(f"{tiles.name}: has no masks")
    parts = {ALL_CRACKS: list(range(len(tiles)))}
    if network == TRAINED:
        parts[FOUND_CRACKS] = [index for index, item in enumerate(maps) if item.logit >= point.threshold_logit]
    measured = []
    for method in METHODS:
        points = _points(maps, method, tiles.masks, settings)
        control = _points(random, method, tiles.masks, settings)
        for name, wanted in parts.items():
            indices = [index for index in wanted if index in points]
            if not indices:
                continue
            similar = _similarity(maps, random, method, tiles.groups, settings) if name == ALL_CRACKS else None
            pointing = summarise(
                [points[index] for index in indices],
                [tiles.groups[index] for index in indices],
                control=[control[index] for index in indices] if control else [],
                resamples=settings.resamples,
                seed=settings.seed,
            )
            measured.append(Measured("/".join(pair), role_of(*pair), network, method, name, pointing, similar))
    return measured


def _points(
    maps: Sequence[Maps], method: str, masks: npt.NDArray[np.uint8], settings: ExplainSettings
) -> dict[int, TilePoint]:
    """What the maps of one method say about the tiles that have one, by number of the tile."""
    from training.evaluation.explain import GRADIENTS
    from training.evaluation.pointing import judge

    points = {}
    for index, item in enumerate(maps):
        values = item.of(method)
        if values is None:
            continue
        smoothed = item.of(method, settings.smooth_px) if method == GRADIENTS else None
        points[index] = judge(values, masks[index], settings.tolerance_px, pointing_at=smoothed)
    return points


def _similarity(
    maps: Sequence[Maps],
    random: Sequence[Maps],
    method: str,
    groups: Sequence[str],
    settings: ExplainSettings,
) -> Estimate | None:
    """Mean rank correlation of the maps of one method with those of random weights; None where there is none."""
    import numpy as np

    from training.evaluation.explain import similarity
    from training.evaluation.pointing import mean_by_photograph

    found: list[float] = []
    photographs: list[str] = []
    if not random:
        return None
    for item, control, group in zip(maps, random, groups, strict=True):
        mine, other = item.of(method), control.of(method)
        value = float("nan") if mine is None or other is None else similarity(mine, other)
        if not np.isnan(value):
            found.append(value)
            photographs.append(group)
    if not found:
        return None
    return mean_by_photograph(np.array(found), photographs, resamples=settings.resamples, seed=settings.seed)
