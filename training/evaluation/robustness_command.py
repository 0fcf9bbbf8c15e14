"""Which command tells how bad a picture may be?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from training.config import read_settings
from training.progress import console, progress_bar

DEFAULT_CONFIG = Path("config/training/commands/robustness.yaml")


def register(app: typer.Typer) -> None:
    """Adds `robustness` to the command line."""
    app.command("robustness")(robustness_command)


def robustness_command(
    model: Annotated[Path, typer.Argument(help="A checkpoint (.pt), a bundle's folder, or one ONNX file of a bundle.")],
    config: Annotated[Path, typer.Option(help="Levels, sets and places.")] = DEFAULT_CONFIG,
    out: Annotated[Path | None, typer.Option(help="Results. Default: runs/robustness/NAME")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set.")] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="Draws of the bootstrap by photograph.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model.")] = None,
) -> None:
    """Disturb validation tiles step by step and find where recall falls; the gates for `export --robustness`."""
    import cv2
    import torch

    from training.data.cache import load_photographs
    from training.data.dataset import evaluation_tiles
    from training.data.sources import get_source
    from training.evaluation.disturb import Subjects
    from training.evaluation.evaluate import choose_for, identity, keep_freed_memory, open_subjects, score, thin
    from training.evaluation.gates import gates_of
    from training.evaluation.robustness import sweep, to_dict
    from training.evaluation.robustness_report import limits_table, summary, write_report
    from training.evaluation.settings import RobustnessSettings, overridden
    from training.files import require_folder

    settings = overridden(
        read_settings(config, RobustnessSettings),
        data={"root": data, "cache": cache, "splits": splits},
        limit=limit,
        resamples=resamples,
        threads=threads,
    )
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    keep_freed_memory()
    subject = open_subjects(model, settings.file or "default", settings.threads)[0]
    who = identity(model)
    folder = require_folder(out or Path("runs/robustness") / str(who["label"]))
    places = settings.data
    subjects = []
    for name in settings.sets:
        tiles = thin(evaluation_tiles(name, "val", places.root, places.cache, places.splits), settings.limit)
        source = get_source(name, for_training=False)
        subjects.append(Subjects(tiles, load_photographs(source, places.root, places.cache)))
    scored = []
    for item in subjects:
        with progress_bar(f"undisturbed: {item.tiles.name}", len(item)) as advance:
            scored.append(score(subject.scorer, item.tiles, advance))
    threshold = subject.threshold_logit
    basis: Literal["of the bundle", "fitted on these validation tiles"] = "of the bundle"
    if threshold is None:
        threshold, basis = choose_for(subject, scored).threshold_logit, "fitted on these validation tiles"
    found = sweep(
        subject.scorer,
        threshold,
        subjects,
        settings.levels.model_dump(),
        undisturbed=scored,
        fall=settings.fall,
        resamples=settings.resamples,
        seed=settings.seed,
        step=progress_bar,
    )
    gates = gates_of(found)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model": who | {"file": subject.label},
        "threshold": basis,
        "limit": settings.limit,
        "seed": settings.seed,
        "resamples": settings.resamples,
        "sets": {
            item.tiles.name: {"tiles": len(item), "photographs": len(set(item.tiles.groups))} for item in subjects
        },
        **to_dict(found),
        "gates": gates.to_dict(),
    }
    (folder / "robustness.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    page = write_report(found, gates, subjects, f"Robustness of {who['label']} ({subject.label})", folder)
    console.print(summary(found), soft_wrap=True)
    for row in limits_table(found).rows:
        console.print(
            f"  {row[0]}, {row[1]}: {row[2]} (excluded up to {row[3]}, certain from {row[4]})", soft_wrap=True
        )
    for note in gates.notes:
        console.print(f"  {note}", soft_wrap=True)
    console.print(f"{page}, robustness.md, robustness.json", soft_wrap=True)
