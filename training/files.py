"""How are files written so that a kill or an error leaves the old ones, told apart, and put where they should be?"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import ConfigError


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place, in UTF-8, and then rename it.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_sha256(names: Iterable[str]) -> str:
    """SHA-256 of names in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Make a folder beside `target` to write in, and remove it at the end with what is left in it.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def put_in_place(work: Path, target: Path) -> None:
    """Rename what lies in `work` into the folder `target`, over what has the same names there: all of it or nothing.

    A folder cannot be renamed over a full one, so the old files and folders step aside first. What else lies in
    `target` stays as it is. Both folders must lie on one file system.

    Raises:
        OSError: something cannot be renamed; then `target` is as it was.
    """
    target.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    names = sorted(path.name for path in work.iterdir())
    try:
        for name in names:
            if (target / name).exists():
                (target / name).rename(aside / name)
            (work / name).rename(target / name)
    except OSError:
        for name in names:
            if not (work / name).exists():
                (target / name).rename(work / name)
            if (aside / name).exists():
                (aside / name).rename(target / name)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def require_folder(path: Path) -> Path:
    """Return a place for results, which need not be there yet.

    Raises:
        ConfigError: it is a file, or lies below one.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{there}: is a file, the results need a folder; give another --out")
    return path
