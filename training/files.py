"""How is a small file written so that a kill in the middle leaves the old one, and may results go where they should?"""

from __future__ import annotations

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


def require_folder(path: Path) -> Path:
    """Return a place for results, which need not be there yet.

    Raises:
        ConfigError: it is a file, or lies below one.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{there}: is a file, the results need a folder; give another --out")
    return path
