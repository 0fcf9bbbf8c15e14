"""Which data did a run begin with? A record of archives and of their parts, so that it does not go on with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from training.config import TrainConfig
from training.data.mixture import DONORS, SYNTHETIC, TEXTURES, SourceSampler
from training.data.sources import Archive
from training.data.splits import read_split
from training.errors import CheckpointError
from training.files import names_sha256

Origins = dict[str, dict[str, str]]
"""By name of the set: "sha256" of its archive (of drawn pictures: of what decides them), and of the sorted names of its
photographs "train" and "val"."""

_MEANING: Final = {
    "sha256": "its data are not those that the run began with",
    "train": "its training photographs are not those that the run began with: it has been split anew",
    "val": "its validation photographs are not those that the run began with: it has been split anew",
}


def origins(config: TrainConfig, samplers: Mapping[str, SourceSampler]) -> Origins:
    """Record the sets that a run learns from and those that it is validated on.

    Args:
        config: the run.
        samplers: of its sources.

    Raises:
        DataError: a set or its split is missing.
    """
    data = config.data
    found = {name: {"sha256": sampler.sha256} for name, sampler in samplers.items()}
    for name in config.validation.sets:
        if name not in found:
            found[name] = {"sha256": Archive.find(data.root, name).sha256()}
    if SYNTHETIC in found:
        for name in {*TEXTURES, *DONORS}:
            found.setdefault(name, {})  # its archive is part of the drawn pictures' hash
    for name in found.keys() - {SYNTHETIC}:
        found[name].update(_parts(name, data.splits))
    return found


def require_same(now: Origins, before: Origins, path: Path) -> None:
    """Refuse to go on with other data than a run began with.

    Args:
        now: what is there.
        before: what the run wrote down.
        path: where it did.

    Raises:
        CheckpointError: a set is another one; the message names it.
    """
    for name, row in sorted(now.items()):
        known = before.get(name, {})
        for key, meaning in _MEANING.items():
            if row.get(key) != known.get(key):
                raise CheckpointError(f"{path}: {name}: {meaning}; start anew (--anew)")


def _parts(name: str, splits: Path) -> dict[str, str]:
    rows = read_split(name, splits)
    return {part: names_sha256(sorted(row.path for row in rows if row.split == part)) for part in ("train", "val")}
