"""What can be asked of training from the command line? Each command is a thin function."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from training.config import load_config
from training.engine.memory import keep_freed_memory
from training.errors import TrainingError

app = typer.Typer(help="Train, evaluate and export the models that fly.", no_args_is_help=True, add_completion=False)
console = Console()


@app.callback()
def _start(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. config/training/opnet.yaml.")],
    runs: Annotated[Path, typer.Option(help="Results go to a folder here, named after the run.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from last.pt.")] = False,
) -> None:
    """Train a model."""
    settings = load_config(config)
    keep_freed_memory()
    from training.engine.train import Trainer

    trainer = Trainer(settings, config, runs / settings.name, report=logging.getLogger("train").info)
    if resume:
        trainer.resume()
    trainer.run()
    console.print(f"{trainer.folder / 'best.pt'}: criterion {trainer.progress.best:.4f}")


@app.command()
def split(
    root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("../shared/data"),
    out: Annotated[Path, typer.Option(help="Folder of the committed splits.")] = Path("config/training/splits"),
    cache: Annotated[Path, typer.Option(help="Folder for decoded pictures.")] = Path("data/cache"),
    seed: Annotated[int, typer.Option(help="Decides the draw.")] = 1,
) -> None:
    """Divide all training data sets 70/15/15 by photograph and twin group, and write the CSV files."""
    from training.data.cache import load_photographs
    from training.data.sources import SOURCES
    from training.data.splits import make_split, write_split

    for source in SOURCES.values():
        if source.role == "external":
            continue
        rows = make_split(load_photographs(source, root, cache), seed=seed)
        counts = Counter(row.split for row in rows)
        path = write_split(rows, out)
        shares = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        console.print(f"{path}: {len(rows)} photographs in {len({row.group for row in rows})} groups: {shares}")


COMMAND_MODULES: Final = (
    "training.data.sources_command",
    "training.data.audit_command",
    "training.data.split_command",
    "training.data.preview_command",
    "training.models.command",
    "training.engine.command",
    "training.evaluation.commands",
    "training.evaluation.cross_command",
    "training.evaluation.robustness_command",
    "training.evaluation.explain_command",
    "training.study.command",
    "training.export.commands",
    "training.journal.command",
)
"""Each brings `register(app)`; what a command needs is imported when it runs."""


def _register_further_commands() -> None:
    """Add the commands of the packages that bring their own."""
    for name in COMMAND_MODULES:
        if _is_there(name):
            importlib.import_module(name).register(app)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    """Run the command line; expected errors become one line and exit code 2."""
    _register_further_commands()
    try:
        app()
    except TrainingError as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        sys.exit(2)
