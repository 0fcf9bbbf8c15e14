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
    from training.data.cache import Photographs
    from training.data.splits import SplitRow

DEFAULT: Final = Path("config/training/commands/split.yaml")
GROUPED: Final = "by group"
PUBLISHED: Final = "as published"


class Places(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")
    cache: Path = Field(default=Path("data/cache"), description="folder for decoded pictures; not committed")


class SplitSettings(Strict):
    """How data sets are divided."""

    data: Places = Places()
    sets: list[str] = Field(default=[], description="data sets; empty: all that may be trained on and are there")
    out: Path = Field(default=Path("config/training/splits"), description="folder of the splits by group")
    published: Path = Field(
        default=Path("config/training/splits-as-published"), description="folder of the random splits by file"
    )
    results: Path = Field(default=Path("runs/split"), description="folder of the comparison of the two")
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
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the splits by group.")] = None,
    published: Annotated[Path | None, typer.Option(help="Folder of the random splits by file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the draw.")] = None,
) -> None:
    """Divide all training data sets 70/15/15 by photograph and twin group, and write the CSV files."""
    from training.config import read_settings

    settings = read_settings(config, SplitSettings)
    places = {key: value for key, value in {"root": root, "cache": cache}.items() if value is not None}
    changes = {"out": out, "published": published, "results": results, "seed": seed}
    settings = settings.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
        | {"data": settings.data.model_copy(update=places)}
    )
    (draw_published if as_published else draw_grouped)(settings)


def draw_grouped(settings: SplitSettings) -> None:
    """Write the splits by group.

    Raises:
        DataError: a data set is unknown, an external test, or not there.
    """
    from training.data.splits import make_split, write_split
    from training.data.twins import twin_pairs

    for photographs in _opened(settings):
        rows = make_split(photographs, seed=settings.seed, twins=twin_pairs(photographs.images))
        _say(write_split(rows, settings.out), rows)


def draw_published(settings: SplitSettings) -> None:
    """Write the random splits by file, and compare them with the splits by group, which must be there.

    Raises:
        DataError: a data set is unknown, an external test, or not there, or has no split by group, or an old one.
    """
    from training.data.leakage import LABELS, Leak, as_dict, leaks, write_report
    from training.data.splits import in_order, make_published_split, read_split, write_split
    from training.data.twins import twin_pairs
    from training.errors import DataError

    if settings.published.resolve() == settings.out.resolve():
        raise DataError(f"{settings.published}: holds the splits by group; random ones must go to another folder")
    comparison: dict[str, list[Leak]] = {GROUPED: [], PUBLISHED: []}
    for photographs in _opened(settings):
        grouped = in_order(photographs, read_split(photographs.name, settings.out))
        twins = twin_pairs(photographs.images)
        rows = make_published_split(photographs, seed=settings.seed, twins=twins)
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


def _opened(settings: SplitSettings) -> list[Photographs]:
    """Open the data sets, all the missing ones named."""
    from training.data.cache import load_photographs
    from training.data.sources import SOURCES, Archive, added_sources, get_source
    from training.errors import DataError

    sources = [get_source(name, for_training=True) for name in settings.sets]
    opened = []
    known = (SOURCES | added_sources()).values()
    for source in sources or [source for source in known if source.role != "external"]:
        try:
            Archive.find(settings.data.root, source.name)
        except DataError as error:
            if sources:
                raise
            console.print(f"{source.name}: left out: {error}", soft_wrap=True)
            continue
        opened.append(source)
    if not opened:
        raise DataError(f"{settings.data.root}: holds no data set that may be trained on")
    with progress_bar("opening the data sets", len(opened)) as advance:
        found = []
        for source in opened:
            found.append(load_photographs(source, settings.data.root, settings.data.cache))
            advance(1)
    return found


def _say(path: Path, rows: Sequence[SplitRow]) -> None:
    counts = Counter(row.split for row in rows)
    shares = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    groups = len({row.group for row in rows})
    console.print(f"{path}: {len(rows)} photographs in {groups} groups: {shares}", soft_wrap=True)
