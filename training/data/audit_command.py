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
    """Count, look for broken files and twins, measure order and the trivial baseline, and draw it all on one page.

    A data set that cannot be looked over does not end it: the others are, the page says why, and the code is 2.
    """
    from training.config import read_settings
    from training.data.audit import Failure, audit, write_audit
    from training.data.sources import SOURCES, Archive, added_sources, get_source
    from training.errors import DataError

    settings = read_settings(config, AuditSettings)
    given = {"root": root, "splits": splits}
    places = settings.data.model_copy(update={key: value for key, value in given.items() if value is not None})
    settings = settings.model_copy(update={"data": places} | ({"out": out} if out else {}))
    settings.out.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before the work
    wanted = names or settings.sets
    known = list(SOURCES | added_sources())
    reports, failures = [], []
    for source in [get_source(name, for_training=False) for name in wanted or known]:
        name = source.name
        try:
            report = audit(source, Archive.find(places.root, name), settings, progress_bar)
        except (DataError, OSError) as error:
            if not wanted and not is_there(places.root, name):
                console.print(f"{name}: left out: {error}", soft_wrap=True, markup=False)
                continue
            failures.append(Failure(name, str(error)))
            console.print(f"{name}: not audited: {error}", soft_wrap=True, markup=False)
            continue
        console.print(f"{name}: {report.in_a_line()}", soft_wrap=True, markup=False)
        reports.append(report)
    if not reports and not failures:
        raise DataError(f"{places.root}: holds none of the data sets {', '.join(known)}")
    console.print(str(write_audit(reports, settings.out, failures)), soft_wrap=True)
    if failures:
        reasons = "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)
        raise DataError(f"{len(failures)} of {len(failures) + len(reports)} data sets were not audited: {reasons}")


def is_there(root: Path, name: str) -> bool:
    """Whether something lies where a data set is read from, an archive or a folder; it may be damaged."""
    return any((root / place).exists() for place in (f"{name}.zip", name))
