"""Which command trains a model?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from training.progress import console


def register(app: typer.Typer) -> None:
    """Adds `train` to the command line."""
    app.command("train")(train_command)


def train_command(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. config/training/opnet.yaml.")],
    runs: Annotated[Path, typer.Option(help="Results go to a folder here, named after the run.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from last.pt.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Delete what an earlier run left, and begin again.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as configured.")] = None,
) -> None:
    """Train a model. Started by torchrun, several processes train it together."""
    from training.engine.memory import keep_freed_memory

    keep_freed_memory()  # starts the process anew, so before anything else
    from training.config import load_config

    settings = load_config(config)
    if device is not None:
        if device not in {"auto", "cpu", "cuda"}:
            raise typer.BadParameter("allowed are auto, cpu and cuda", param_hint="--device")
        settings = settings.model_copy(update={"device": device})
    from training.engine.distributed import joined
    from training.engine.train import Trainer, delete_run, refuse_to_overwrite
    from training.engine.watching import SILENT, watching

    folder = runs / settings.name
    if resume and anew:
        raise typer.BadParameter("--resume goes on, --anew begins again: give one of them", param_hint="--anew")
    if not resume and not anew:
        refuse_to_overwrite(folder)
    with joined(settings.device) as world, watching(console, logging.getLogger("train").info) as watcher:
        trainer = Trainer(settings, config, folder, watcher=watcher if world.first else SILENT, world=world)
        if resume:
            trainer.resume()
        elif world.first:
            delete_run(folder)
        trainer.run()
    if world.first:
        summary = trainer.summary()
        speed = (
            f"{summary['tiles_per_s']} tiles a second, "
            f"a step takes {summary['step_over_compute']} times its computation"
            if summary["steps"]
            else "nothing was learnt"
        )
        console.print(
            f"{trainer.folder / 'best.pt'}: criterion {summary['criterion']:.4f} at step {summary['best_step']} of "
            f"{summary['steps']}; {speed}; curves in {trainer.folder / 'curves.svg'}",
            soft_wrap=True,
            highlight=False,
        )
