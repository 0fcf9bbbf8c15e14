"""Which command says where data come from, downloads them, and checks that they are what they should be?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.data.loaders import DatasetFacts, SourcesSettings

DEFAULT = Path("config/training/commands/sources.yaml")
Config = Annotated[Path, typer.Option(help="Facts of the data sets.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data sets.")]
Name = Annotated[str, typer.Argument(help="A data set.")]

_MB: Final = 1_000_000
_PIP: Final = "pip install "
_HASH_IN_NAME: Final = re.compile(r"-([0-9a-f]{8,64})\.pth?$")
_DIFFERENT: Final = "different"


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
    from rich import box
    from rich.table import Table

    settings = _settings(config, root)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("name", "role", "there", "get"):
        table.add_column(column, no_wrap=True)  # a name that is cut is no name
    table.add_column("licence; size", overflow="fold")
    for facts in settings.datasets:
        package = package_of(facts)
        there = is_installed(package) if package else bool(_places(settings, facts))
        how = "download" if facts.url else "package" if package else "by hand" if facts.page else "not public"
        table.add_row(facts.name, facts.role, "yes" if there else "no", how, f"{facts.licence}; {facts.size}")
    console.print(table)


def package_of(facts: DatasetFacts) -> str | None:
    """Return the Python package that brings a data set or weights, if one does."""
    page = facts.page or ""
    return page.removeprefix(_PIP).split()[0] if page.startswith(_PIP) else None


def is_installed(package: str) -> bool:
    """Whether a Python package is there."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _places(settings: SourcesSettings, facts: DatasetFacts) -> list[Path]:
    """Where a data set lies: as it was downloaded, as the archive that is read, unpacked."""
    names = dict.fromkeys((facts.file, f"{facts.name}.zip", facts.name))
    return [settings.root / name for name in names if (settings.root / name).exists()]


def expected_of(facts: DatasetFacts, locked: Mapping[str, str]) -> tuple[str | None, Literal["sha256", "md5"]]:
    """Return what a file must hash to, and how.

    The publisher's SHA-256, else its MD5, else what the first download recorded, else the beginning of the SHA-256 that
    PyTorch puts into the names of its files (`mobilenet_v2-b0353104.pth`), else None.
    """
    if facts.sha256 is None and facts.md5 is not None:
        return facts.md5, "md5"
    named = _HASH_IN_NAME.search(facts.file)
    return facts.sha256 or locked.get(facts.name) or (named[1] if named else None), "sha256"


def show_command(name: Name, config: Config = DEFAULT, root: Root = None) -> None:
    """Print all that is known about one data set."""
    shown = _find(_settings(config, root), name).model_dump()
    for key, value in shown.items():
        if key in {"layout", "side_px", "labels"} and shown["layout"] is None:
            continue  # read by code of its own
        said = ", ".join(value) or None if key == "overlaps" else value
        console.print(f"{key:<9} {'none known' if said is None else said}", soft_wrap=True, markup=False)


def get_command(name: Name, config: Config = DEFAULT, root: Root = None) -> None:
    """Download a data set; run it again to continue."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from training.data.fetch import fetch
    from training.errors import DataError

    settings = _settings(config, root)
    facts = _find(settings, name)
    target = settings.root / facts.file
    for path in _places(settings, facts):
        raise DataError(f"{path}: is there already; `crack-training sources verify` checks it")
    if facts.url is None:
        raise DataError(_by_hand(facts, target))
    locked = read_lock(settings.lock)
    expected, algorithm = expected_of(facts, locked)
    with Progress("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        try:
            sha256 = fetch(facts.url, target, expected=expected, algorithm=algorithm, report=report)
        except DataError as error:
            by_hand = f"; by hand: {facts.page}, expected as {target}" if facts.page else ""
            raise DataError(f"{error}{by_hand}") from error
    if expected is None:
        console.print("no published checksum; recorded on first download", soft_wrap=True)
    settings.lock.parent.mkdir(parents=True, exist_ok=True)
    settings.lock.write_text(json.dumps(locked | {name: sha256}, indent=2) + "\n", encoding="utf-8")
    console.print(f"{target}: sha256 {sha256}", soft_wrap=True)
    if facts.role != "weights":
        console.print(f"laid out as: {facts.arrange}", soft_wrap=True, markup=False)


def _by_hand(facts: DatasetFacts, target: Path) -> str:
    """Say where a data set without a direct address is, and where it is to lie."""
    if package_of(facts):
        return f"{facts.name}: comes as a Python package: {facts.page}"
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

    settings = _settings(config, root)
    locked = read_lock(settings.lock)
    table, differs = Table(), False
    for column in ("name", "state", "file"):
        table.add_column(column, no_wrap=True)
    sizes = [path.stat().st_size for facts in settings.datasets if (path := settings.root / facts.file).is_file()]
    with progress_bar("checksums, MB", sum(size // _MB for size in sizes)) as advance:
        for facts in settings.datasets:
            state = _state(facts, settings, locked, advance)
            differs |= state == _DIFFERENT
            table.add_row(facts.name, state, facts.file)
    console.print(table)
    if differs:
        raise typer.Exit(1)


def _state(
    facts: DatasetFacts, settings: SourcesSettings, locked: Mapping[str, str], advance: Callable[[int], None]
) -> str:
    """Say in words how a data set stands; `advance` is told the megabytes that were read."""
    from training.data.fetch import digest_of

    package = package_of(facts)
    if package:
        return "package; installed" if is_installed(package) else "package; not installed"
    path = settings.root / facts.file
    if not path.is_file():
        others = _places(settings, facts)
        return "absent" if not others else "unpacked; not checked" if others[0].is_dir() else "as zip; not checked"
    expected, algorithm = expected_of(facts, locked)
    if expected is None:
        advance(path.stat().st_size // _MB)
        return "no checksum known"
    read = 0

    def report(count: int) -> None:
        nonlocal read
        before, read = read // _MB, read + count
        advance(read // _MB - before)

    return "ok" if digest_of(path, algorithm, report).startswith(expected) else _DIFFERENT
