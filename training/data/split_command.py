"""Which command decides what is trained on and what is tested on?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import Field

from training.config import Strict
from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.data.copies import Files
    from training.data.splits import SplitRow

DEFAULT: Final = Path("config/training/commands/split.yaml")
GROUPED: Final = "by group"
PUBLISHED: Final = "as published"


class Places(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")


class SplitSettings(Strict):
    """How data sets are divided."""

    data: Places = Places()
    sets: list[str] = Field(default=[], description="data sets; empty: all that may be trained on and are there")
    out: Path = Field(default=Path("config/training/splits"), description="folder of the splits by group")
    published: Path = Field(
        default=Path("config/training/splits-as-published"), description="folder of the random splits by file"
    )
    results: Path = Field(default=Path("runs/split"), description="folder of the figures and the comparison")
    seed: int = Field(default=1, ge=0, description="decides the draw")


def register(app: typer.Typer) -> None:
    """Adds `split` to the command line."""
    app.command("split")(split_command)


def split_command(
    config: Annotated[Path, typer.Option(help="What is divided and where to.")] = DEFAULT,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Draw file by file at random, and show what that hides.")
    ] = False,
    root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the splits by group.")] = None,
    published: Annotated[Path | None, typer.Option(help="Folder of the random splits by file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of figures and comparison.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the draw.")] = None,
) -> None:
    """Divide all training data sets 70/15/15 by photograph and twin group, and write the CSV files."""
    from training.config import read_settings

    settings = read_settings(config, SplitSettings)
    places = {} if root is None else {"root": root}
    changes = {"out": out, "published": published, "results": results, "seed": seed}
    settings = settings.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
        | {"data": settings.data.model_copy(update=places)}
    )
    (draw_published if as_published else draw_grouped)(settings)


def draw_grouped(settings: SplitSettings) -> None:
    """Write the splits by group, and how large their parts became.

    Raises:
        DataError: a data set is unknown, an external test, or not there, or a photograph is damaged.
    """
    from training.data.copies import copies_in, marked_in
    from training.data.shares import write_shares
    from training.data.splits import make_split, write_split

    everything: list[SplitRow] = []
    for files in _opened(settings):
        twins, marked = copies_in(files, progress_bar), marked_in(files, progress_bar)
        rows = make_split(files, seed=settings.seed, twins=twins, marked=marked)
        _say(write_split(rows, settings.out), rows)
        everything += rows
    console.print(str(write_shares(everything, settings.results)), soft_wrap=True)


def draw_published(settings: SplitSettings) -> None:
    """Write the random splits by file, and compare them with the splits by group, which must be there.

    Raises:
        DataError: a data set is unknown, an external test, or not there, or has no split by group, or an old one.
    """
    from training.data.copies import copies_in
    from training.data.leakage import LABELS, Leak, as_dict, leaks, write_report
    from training.data.splits import in_order, make_published_split, read_split, write_split
    from training.errors import DataError

    if settings.published.resolve() == settings.out.resolve():
        raise DataError(f"{settings.published}: holds the splits by group; random ones must go to another folder")
    comparison: dict[str, list[Leak]] = {GROUPED: [], PUBLISHED: []}
    for files in _opened(settings):
        grouped = in_order(files, read_split(files.name, settings.out))
        twins = copies_in(files, progress_bar)
        rows = make_published_split(files, seed=settings.seed, twins=twins)
        _say(write_split(rows, settings.published), rows)
        comparison[GROUPED] += leaks(grouped, twins)
        comparison[PUBLISHED] += leaks(rows, twins)
    for name, found in comparison.items():
        for leak in found:
            share = f"{leak.twins} of {leak.files} ({100 * leak.twins / leak.files:.1f} %)"
            related = f"{100 * leak.relatives / leak.files:.1f} %"
            console.print(
                f"{name}: {leak.source}, {LABELS[leak.label]}, {leak.split}: {share} have a twin in training, "
                f"{related} a relative",
                soft_wrap=True,
            )
    page = write_report(comparison, settings.results)
    path = settings.results / "leakage.json"
    path.write_text(json.dumps(as_dict(comparison), indent=2) + "\n", encoding="utf-8")
    console.print(f"{path}, {page}", soft_wrap=True)


def _opened(settings: SplitSettings) -> list[Files]:
    """Open the data sets, all the missing ones named."""
    from training.data.copies import open_files
    from training.data.sources import SOURCES, Archive, added_sources, get_source
    from training.errors import DataError

    named = [get_source(name, for_training=True) for name in settings.sets]
    known = (SOURCES | added_sources()).values()
    opened = []
    for source in named or [source for source in known if source.role != "external"]:
        try:
            Archive.find(settings.data.root, source.name)
        except DataError as error:
            if named:
                raise
            console.print(f"{source.name}: left out: {error}", soft_wrap=True)
            continue
        opened.append(open_files(source, settings.data.root))
    if not opened:
        raise DataError(f"{settings.data.root}: holds no data set that may be trained on")
    return opened


def _say(path: Path, rows: Sequence[SplitRow]) -> None:
    counts = Counter(row.split for row in rows)
    shares = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    groups = len({row.group for row in rows})
    console.print(f"{path}: {len(rows)} photographs in {groups} groups: {shares}", soft_wrap=True)
