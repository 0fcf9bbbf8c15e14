"""Which command compares nets before one is exported?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, field_validator

from training.config import read_settings
from training.evaluation.settings import Common, overridden
from training.progress import console, progress_bar

DEFAULT = Path("config/training/commands/candidates.yaml")


class CandidatesSettings(Common):
    """`candidates`."""

    sets: list[str] = Field(
        default=["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete"],
        min_length=1,
        description="validation sets; test and external sets choose nothing",
    )
    drawn: bool = Field(default=True, description="whether freshly drawn walls (`relief`) are judged, too, in one view")
    views: int = Field(default=4, ge=1, le=4, description="of each tile: as it is, mirrored, upside down, both")
    areas: list[str] = Field(
        default=["uav75", "uavcrack", "relief"], min_length=1, description="sets whose areas are averaged"
    )
    out: Path = Field(default=Path("runs/candidates"), description="folder of the results")

    @field_validator("sets")
    @classmethod
    def _validation_only(cls, names: list[str]) -> list[str]:
        from training.data.dataset import evaluation_splits

        for name in names:
            if "val" not in evaluation_splits(name):
                raise ValueError(f"{name!r} has no validation part, and only such sets may choose")
        return names


def register(app: typer.Typer) -> None:
    """Adds `candidates` to the command line."""
    app.command("candidates")(candidates_command)


def candidates_command(
    models: Annotated[
        list[Path], typer.Argument(help="Checkpoints or bundles; the others are compared with the first.")
    ],
    config: Annotated[Path, typer.Option(help="Sets, views and places.")] = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Results. Default: the configuration's.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set, for trials.")] = None,
) -> None:
    """Judge several nets alike by the validation sets: which of them is to be exported?"""
    import torch

    from training.data.dataset import RELIEF, evaluation_tiles
    from training.errors import TrainingError
    from training.evaluation.candidates import in_views, weigh
    from training.evaluation.candidates_report import write_candidates
    from training.evaluation.evaluate import TorchScorer, keep_freed_memory, open_checkpoint, thin
    from training.evaluation.threshold import Scored, bars_for, deciding_bars
    from training.files import require_folder

    try:
        settings = overridden(
            read_settings(config, CandidatesSettings),
            data={"root": data, "cache": cache, "splits": splits},
            out=out,
            limit=limit,
        )
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        opened = [open_checkpoint(path) for path in models]
        labels = _labels(models)
        folder = require_folder(settings.out)
        places = settings.data
        pairs = [(name, "val", settings.views) for name in settings.sets]
        pairs += [(RELIEF, "drawn", 1)] if settings.drawn else []
        scored: list[list[Scored]] = [[] for _ in models]
        for name, split, views in pairs:
            tiles = thin(evaluation_tiles(name, split, places.root, places.cache, places.splits), settings.limit)
            for place, (label, (_, net)) in enumerate(zip(labels, opened, strict=True)):
                with progress_bar(f"{label}: {name}", views * len(tiles)) as advance:
                    scored[place].append(in_views(TorchScorer(net), tiles, views, advance))
        found, bars = [], []
        for label, (content, _), items in zip(labels, opened, scored, strict=True):
            trained_on = {str(row["name"]) for row in content.get("data") or ()}
            at_hand = [bar for bar in bars_for(str(content["model"])) if bar.set in settings.sets]
            bars.append(deciding_bars(at_hand, trained_on))
            found.append(weigh(label, items, bars[-1]))
        page = write_candidates(
            found, bars, settings.model_dump(mode="json", exclude={"data", "threads", "out"}), folder,
            areas=settings.areas, views=settings.views, resamples=settings.resamples, seed=settings.seed,
        )  # fmt: skip
    except (TrainingError, ValueError) as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"{page}, candidates.md, candidates.json", soft_wrap=True)


def _labels(models: Sequence[Path]) -> list[str]:
    """Name each net: a bundle with its version, a checkpoint by its run, by their paths where that is not enough."""
    from training.evaluation.evaluate import identity
    from training.export.bundle import read_manifest

    named = [
        f"{found['label']} {read_manifest(path).version}" if path.is_dir() else str(found["label"])
        for path, found in ((path, identity(path)) for path in models)
    ]
    return [str(path) if named.count(name) > 1 else name for path, name in zip(models, named, strict=True)]
