"""Which command compares the architectures?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from training.config import Strict, read_settings
from training.progress import console, progress_bar

DEFAULT = Path("config/training/commands/models.yaml")


class ModelsConfig(Strict):
    """What is compared."""

    models: list[str] = Field(min_length=1, description="names of the registry, in the order of the table")
    reference: str = Field(default="opnet", description="whose float file's time is 1")
    latency: bool = Field(default=True, description="whether ONNX Runtime is timed")
    quantised: bool = Field(default=True, description="whether 8-bit files are made, for their size and time alone")
    rounds: int = Field(default=12, ge=5, description="rounds of the interleaved timing")
    out: Path = Field(default=Path("runs/models"), description="folder for table, figure and page")
    seed: int = Field(default=1, ge=0, description="of the random weights and tiles")


def register(app: typer.Typer) -> None:
    """Adds `models` to the command line."""
    app.command("models")(models_command)


def models_command(
    config: Annotated[Path, typer.Option(help="What is compared.")] = DEFAULT,
    only: Annotated[list[str] | None, typer.Option(help="Only these models, repeatable.")] = None,
    latency: Annotated[bool | None, typer.Option("--latency/--no-latency", help="Time ONNX Runtime.")] = None,
    layers: Annotated[str | None, typer.Option(metavar="NAME", help="Show the layers of one model instead.")] = None,
) -> None:
    """Compare the architectures: parameters, mult-adds, size of the file, time a tile as a ratio."""
    from training.errors import ConfigError
    from training.models.compare import compare, layer_summary, require_known, rich_table, write

    settings = read_settings(config, ModelsConfig)
    try:
        if layers is not None:
            require_known([layers])
            console.print(layer_summary(layers), highlight=False, markup=False, soft_wrap=True)
            return
        names = only or settings.models
        require_known([*names, settings.reference])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    wanted_latency = settings.latency if latency is None else latency
    rows = compare(
        names,
        reference=settings.reference,
        quantised=settings.quantised,
        rounds=settings.rounds if wanted_latency else 0,
        seed=settings.seed,
        step=progress_bar,
    )
    console.print(rich_table(rows, settings.reference))
    page = write(rows, settings.reference, settings.out)
    console.print(f"{page}, models.json and models.md", soft_wrap=True)
