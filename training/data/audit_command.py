"""Which command looks the data sets over?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import Field

from training.config import Strict
from training.progress import console, progress_bar

DEFAULT: Final = Path("config/training/commands/audit.yaml")


class Places(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")


class AuditSettings(Strict):
    """What is looked over, and how closely."""

    data: Places = Places()
    sets: list[str] = Field(default=[], description="data sets; empty: all that are there")
    out: Path = Field(default=Path("runs/audit"), description="folder of the results")
    samples: int = Field(default=24, ge=1, le=200, description="tiles of a sample sheet")
    order_lags: int = Field(
        default=10_000, ge=10, description="farthest distance in file numbers that the order is measured over"
    )
    random_pairs: int = Field(
        default=20_000, ge=100, description="random pairs that neighbours in file-name order are compared with"
    )
    seed: int = Field(default=1, ge=0, description="decides samples and random pairs")


def register(app: typer.Typer) -> None:
    """Adds `audit` to the command line."""
    app.command("audit")(audit_command)


def audit_command(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; all that are there if none is named.")] = None,
    config: Annotated[Path, typer.Option(help="What is looked over.")] = DEFAULT,
    root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
) -> None:
    """Count, look for broken files and twins, measure order and the trivial baseline, and draw it all on one page."""
    from training.config import read_settings
    from training.data.audit import audit, write_audit
    from training.data.sources import SOURCES, Archive, added_sources, get_source
    from training.errors import DataError

    settings = read_settings(config, AuditSettings)
    given = {"root": root, "splits": splits}
    places = settings.data.model_copy(update={key: value for key, value in given.items() if value is not None})
    settings = settings.model_copy(update={"data": places} | ({"out": out} if out else {}))
    settings.out.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before the work
    wanted = names or settings.sets
    known = list(SOURCES | added_sources())
    reports = []
    for name in wanted or known:
        source = get_source(name, for_training=False)
        try:
            archive = Archive.find(places.root, name)
        except DataError as error:
            if wanted:
                raise
            console.print(f"{name}: left out: {error}", soft_wrap=True)
            continue
        report = audit(source, archive, settings, progress_bar)
        console.print(f"{name}: {report.in_a_line()}", soft_wrap=True)
        reports.append(report)
    if not reports:
        raise DataError(f"{places.root}: holds none of the data sets {', '.join(known)}")
    console.print(str(write_audit(reports, settings.out)), soft_wrap=True)
