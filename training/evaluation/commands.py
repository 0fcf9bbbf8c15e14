"""Which commands tell how good a model is?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.evaluation.evaluate import Scorer
    from training.evaluation.threshold import Scored


def register(app: typer.Typer) -> None:
    """Adds `evaluate` to the command line."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="A checkpoint (.pt), a bundle's folder, or one ONNX file of a bundle.")],
    sets: Annotated[list[str] | None, typer.Option(help="NAME or NAME/SPLIT, repeatable. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation-*.json and .md.")] = None,
    file: Annotated[str, typer.Option(help="Of a bundle: fp32, int8 or both.")] = "both",
    threshold_p: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of the bundle's own threshold; for a "
        "checkpoint instead of the one that is fitted on the validation sets.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("../shared/data"),
    cache: Annotated[Path, typer.Option(help="Folder for decoded pictures.")] = Path("data/cache"),
    splits: Annotated[Path, typer.Option(help="Folder of the committed splits.")] = Path("config/training/splits"),
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set, for trials.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 1,
    resamples: Annotated[int, typer.Option(min=0, help="Draws of the bootstrap by photograph.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 1,
) -> None:  # fmt: skip
    """Measure recall, specificity and more on each set, with intervals by tile and by photograph."""
    import torch

    from training.data.dataset import evaluation_tiles
    from training.data.sources import DataError
    from training.engine.checkpoint import CheckpointError
    from training.evaluation.evaluate import (
        by_group_table,
        keep_freed_memory,
        markdown_table,
        parse_sets,
        result,
        rich_table,
        thin,
    )
    from training.evaluation.threshold import ThresholdError, bars_for
    from training.export.onnx import ExportError

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        pairs = parse_sets(sets or [])
        subjects = _subjects(model, file, threads)
        loaded = {pair: thin(evaluation_tiles(*pair, data, cache, splits), limit) for pair in pairs}
        for label, (scorer, name, threshold_logit) in subjects.items():
            scored = {pair: _scored(scorer, label, tiles, progress_bar) for pair, tiles in loaded.items()}
            bars = bars_for(name)
            threshold = _threshold(threshold_logit, threshold_p, list(scored.items()), name)
            results = [
                result(item, split, threshold, resamples=resamples, seed=seed) for (_, split), item in scored.items()
            ]
            title = f"{model} ({label}), crack from logit {threshold:+.3f}"
            console.print(rich_table(results, title, bars))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                content = {
                    "model": str(model),
                    "file": label,
                    "threshold_logit": threshold,
                    "limit": limit,
                    "seed": seed,
                    "resamples": resamples,
                    "sets": [row.to_dict() for row in results],
                }
                (out / f"evaluation-{label}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
                text = f"# {title}\n\n{markdown_table(results, bars)}\n`<`: below its bar.\n\n{by_group_table(results)}"
                (out / f"evaluation-{label}.md").write_text(text, encoding="utf-8")
                console.print(f"{out / f'evaluation-{label}.md'} and .json", soft_wrap=True)
    except (CheckpointError, DataError, ExportError, ThresholdError, ValueError) as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        raise typer.Exit(1) from error


def _subjects(model: Path, file: str, threads: int) -> dict[str, tuple[Scorer, str, float | None]]:
    """What is to be scored: label -> (scorer, name for the bars, threshold logit if it brings one)."""
    from training.evaluation.evaluate import OnnxScorer, TorchScorer, open_checkpoint
    from training.export.bundle import read_manifest
    from training.export.onnx import ExportError

    if not model.is_dir() and model.suffix != ".onnx":
        content, net = open_checkpoint(model)
        return {"torch": (TorchScorer(net), str(content["model"]), None)}
    folder = model if model.is_dir() else model.parent
    manifest = read_manifest(folder)
    point = manifest.operating_point
    threshold = _logit_of(point.threshold_p, point.temperature, point.bias)
    files = {key: item for key, item in manifest.files.items() if model.is_dir() or item.path == model.name}
    if model.is_dir() and file != "both":
        files = {key: item for key, item in files.items() if key == file}
    if not files:
        raise ExportError(f"{model}: no file {file!r} in the bundle; there are {', '.join(manifest.files)}")
    return {
        key: (OnnxScorer(folder / item.path, threads=threads), manifest.name, threshold) for key, item in files.items()
    }


def _scored(scorer: Scorer, label: str, tiles: Any, progress_bar: Any) -> Scored:
    from training.evaluation.evaluate import score

    with progress_bar(f"{label}: {tiles.name}", len(tiles)) as advance:
        return score(scorer, tiles, advance)


def _threshold(
    given: float | None, threshold_p: float | None, scored: list[tuple[tuple[str, str], Scored]], name: str
) -> float:
    """The logit from which on a tile is a crack: asked for, the bundle's own, or fitted on validation sets at hand."""
    from training.evaluation.evaluate import role_of
    from training.evaluation.threshold import bars_for, choose

    if threshold_p is not None:
        return _logit_of(threshold_p, 1.0, 0.0)
    if given is not None:
        return given
    return choose([item for pair, item in scored if role_of(*pair) == "validation"], bars_for(name)).threshold_logit


def _logit_of(threshold_p: float, temperature: float, bias: float) -> float:
    """The raw logit at which the calibrated probability is `threshold_p`."""
    import math

    if not 0 < threshold_p < 1:
        raise ValueError(f"threshold_p must lie between 0 and 1, found {threshold_p}")
    return (math.log(threshold_p / (1 - threshold_p)) - bias) * temperature
