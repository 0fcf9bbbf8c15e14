"""Which command says where data come from, downloads them, and checks that they are what they should be?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.progress import console

if TYPE_CHECKING:
    from training.data.loaders import DatasetFacts, SourcesSettings

DEFAULT = Path("config/training/commands/sources.yaml")
Config = Annotated[Path, typer.Option(help="Facts of the data sets.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data sets.")]
Name = Annotated[str, typer.Argument(help="A data set.")]


def register(app: typer.Typer) -> None:
    """Adds `sources` and its sub-commands to the command line."""
    group = typer.Typer(help="Where the data come from: list, show, get, verify.", invoke_without_command=True)
    group.callback()(_table_alone)
    group.command("list")(list_command)
    group.command("show")(show_command)
    group.command("get")(get_command)
    group.command("verify")(verify_command)
    app.add_typer(group, name="sources")


def _table_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_command()


def _settings(config: Path, root: Path | None) -> SourcesSettings:
    from training.config import read_settings
    from training.data.loaders import SourcesSettings

    settings = read_settings(config, SourcesSettings)
    return settings.model_copy(update={"root": root}) if root else settings


def _find(settings: SourcesSettings, name: str) -> DatasetFacts:
    from training.errors import DataError

    for facts in settings.datasets:
        if facts.name == name:
            return facts
    raise DataError(f"data set {name!r} is unknown; allowed: {', '.join(facts.name for facts in settings.datasets)}")


def list_command(config: Config = DEFAULT, root: Root = None) -> None:
    """Print a table of all data sets and whether they are there."""
    from rich.table import Table

    settings = _settings(config, root)
    table = Table()
    for column in ("name", "role", "there", "get"):
        table.add_column(column, no_wrap=True)  # a name that is cut is no name
    table.add_column("licence")
    table.add_column("size")
    for facts in settings.datasets:
        there = any((settings.root / name).exists() for name in (facts.file, facts.name))
        how = "download" if facts.url else "by hand" if facts.page else "not public"
        table.add_row(facts.name, facts.role, "yes" if there else "no", how, facts.licence, facts.size)
    console.print(table)


def show_command(name: Name, config: Config = DEFAULT, root: Root = None) -> None:
    """Print all that is known about one data set."""
    shown = _find(_settings(config, root), name).model_dump()
    for key, value in shown.items():
        if key in {"layout", "side_px", "labels"} and shown["layout"] is None:
            continue  # read by code of its own
        console.print(f"{key:<9} {'none known' if value is None else value}", soft_wrap=True, markup=False)


def get_command(name: Name, config: Config = DEFAULT, root: Root = None) -> None:
    """Download a data set; run it again to continue."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from training.data.fetch import fetch
    from training.errors import DataError

    settings = _settings(config, root)
    facts = _find(settings, name)
    target = settings.root / facts.file
    for path in (target, settings.root / name):
        if path.exists():
            raise DataError(f"{path}: is there already; `crack-training sources verify` checks it")
    if facts.url is None:
        raise DataError(_by_hand(facts, target))
    locked = read_lock(settings.lock)
    algorithm = "md5" if facts.sha256 is None and facts.md5 is not None else "sha256"
    expected = facts.sha256 or facts.md5 or locked.get(name)
    with Progress("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        sha256 = fetch(facts.url, target, expected=expected, algorithm=algorithm, report=report)
    if expected is None:
        console.print("no published checksum; recorded on first download", soft_wrap=True)
    settings.lock.parent.mkdir(parents=True, exist_ok=True)
    settings.lock.write_text(json.dumps(locked | {name: sha256}, indent=2) + "\n", encoding="utf-8")
    console.print(f"{target}: sha256 {sha256}", soft_wrap=True)


def _by_hand(facts: DatasetFacts, target: Path) -> str:
    """Say where a data set without a direct address is, and where it is to lie."""
    where = f"get it from {facts.page}" if facts.page else "neither is a page that has it; take your copy"
    if facts.role == "weights":
        return f"{facts.name}: no direct address is known; {where}; {facts.arrange}; expected as {target}"
    return (
        f"{facts.name}: no direct address is known; {where} and put it at {target} "
        f"or unpacked at {target.with_name(facts.name)}/; laid out as: {facts.arrange}"
    )


def read_lock(path: Path) -> dict[str, str]:
    """Read the checksums recorded at first downloads; none where there is no file.

    Raises:
        DataError: the file is not what `get` wrote.
    """
    from training.errors import DataError

    if not path.exists():
        return {}
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: is not a table of checksums ({error}); delete it to record anew") from error


def verify_command(config: Config = DEFAULT, root: Root = None) -> None:
    """Compare what is there with its checksum; ends with code 1 if anything differs."""
    from rich.table import Table

    from training.data.fetch import digest_of

    settings = _settings(config, root)
    locked = read_lock(settings.lock)
    table, differs = Table(), False
    for column in ("name", "state", "file"):
        table.add_column(column, no_wrap=True)
    for facts in settings.datasets:
        path = settings.root / facts.file
        algorithm = "md5" if facts.sha256 is None and facts.md5 is not None else "sha256"
        expected = facts.sha256 or facts.md5 or locked.get(facts.name)
        if not path.is_file():
            state = "unpacked; not checked" if (settings.root / facts.name).is_dir() else "absent"
        elif expected is None:
            state = "no checksum known"
        else:
            state = "ok" if digest_of(path, algorithm) == expected else "different"
        differs |= state == "different"
        table.add_row(facts.name, state, facts.file)
    console.print(table)
    if differs:
        raise typer.Exit(1)
