"""Is a flight's folder complete and unchanged since it ended? Writes and verifies SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from drone_agent.errors import FlightLogError
from drone_agent.flightlog.files import write_atomically
from drone_agent.flightlog.schema import MANIFEST_FILE, SCHEMA


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # temporary names belong to a write that never finished
        if path.is_file() and name != MANIFEST_FILE and path.suffix != ".tmp":
            yield name, path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> Path:
    """Writes `manifest.json` with hash and size of every file in `folder`; returns its path. Raises OSError."""
    files = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in _files(folder)}
    document = {"schema": SCHEMA, "flight": folder.name, "files": files}
    target = folder / MANIFEST_FILE
    write_atomically(target, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    return target


def manifest_hashes(folder: Path) -> list[tuple[str, str]]:
    """Name and SHA-256 of each file as the manifest has them, by name; [] without a manifest.

    Raises:
        FlightLogError: The manifest cannot be read.
    """
    target = folder / MANIFEST_FILE
    if not target.is_file():
        return []
    try:
        files = json.loads(target.read_text(encoding="utf-8"))["files"]
        return sorted((str(name), str(entry["sha256"])) for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlightLogError(f"{target}: not a manifest that can be read ({type(error).__name__})") from error


def verify_manifest(folder: Path) -> list[str] | None:
    """What differs from the manifest, one line for each file; [] if nothing does, None if there is no manifest.

    Files that were added later (a report, an export) are no difference.

    Raises:
        FlightLogError: the manifest itself cannot be read.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return None
    problems = []
    for name, sha256 in manifest_hashes(folder):
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: listed in the manifest, but missing")
        elif file_sha256(path) != sha256:
            problems.append(f"{name}: changed since the flight ended")
    return problems
