"""Which command writes the experiment journal?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.progress import console


def register(app: typer.Typer) -> None:
    """Adds `journal` to the command line."""
    app.command("journal")(journal_command)


def journal_command(
    config: Annotated[Path, typer.Option(help="What goes into it.")] = Path("config/training/commands/journal.yaml"),
    out: Annotated[Path | None, typer.Option(help="Its folder, instead of the configuration's.")] = None,
) -> None:
    """Put the experiment journal together from what the runs left: one HTML page and the same as Markdown."""
    from training.config import read_settings
    from training.journal.build import build
    from training.journal.settings import JournalConfig

    settings = read_settings(config, JournalConfig)
    standing = settings.out
    if out is not None:
        settings = settings.model_copy(update={"out": out})
    page = build(settings, standing)
    console.print(f"{page} and journal.md", soft_wrap=True)
