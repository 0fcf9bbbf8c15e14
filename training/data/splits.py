"""Which photograph belongs to training, validation or test? Decided once, by group, and written to CSV.

The groups are the photographs (or sites, or videos) that tiles were cut from, joined wherever two pictures are twins. A
group never spans two splits. `INDEX.sha256` holds the hash of each CSV in the format of `sha256sum`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from training.data.sources import Item
from training.data.twins import connected
from training.errors import DataError

SPLITS: Final = ("train", "val", "test")
SHARES: Final = (0.70, 0.15, 0.15)
INDEX: Final = "INDEX.sha256"
COLUMNS: Final = ("source", "path", "group", "label", "split")


@dataclass(frozen=True)
class SplitRow:
    """Where one photograph belongs; `label` is "crack", "none" or "mask" (decided crop by crop)."""

    source: str
    path: str
    group: str
    label: str
    split: str


class Listed(Protocol):
    """A data set whose photographs are listed, decoded or not."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def items(self) -> list[Item]:
        """Its photographs."""


def make_split(
    photographs: Listed, *, seed: int, twins: Sequence[tuple[int, int]], marked: Sequence[bool] | None = None
) -> list[SplitRow]:
    """Divide a data set into 70/15/15 by group, stratified by label; fixed parts of the publisher are kept.

    A photograph whose label its mask decides counts by whether the mask marks a crack or a box, and a group of them by
    whether any of its photographs does. The committed splits are drawn so: of the built-in sets those with masks have
    fixed parts, or a crack in each photograph.

    Where twins join photographs of different fixed parts, the whole group goes to
    the part that is evaluated, so that nothing seen in training is tested on.

    Args:
        photographs: the data set.
        seed: decides the draw.
        twins: positions of its twins, as `training.data.copies` finds them.
        marked: whether the mask of each photograph marks a crack or a box; None: not known, all masks count alike.
    """
    items = photographs.items
    groups = joined_groups(items, twins)
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    split_of: dict[str, str] = {}
    strata: dict[str, list[str]] = defaultdict(list)
    for group, indices in members.items():
        parts = {items[index].part for index in indices} - {None}
        if parts:
            split_of[group] = next(part for part in ("test", "val", "train") if part in parts)
        else:
            strata[_stratum(items, indices, marked)].append(group)
    for label in sorted(strata):
        split_of.update(_draw(sorted(strata[label]), members, random.Random(f"{seed}/{photographs.name}/{label}")))
    return [
        SplitRow(photographs.name, item.path, groups[index], _label(item), split_of[groups[index]])
        for index, item in enumerate(items)
    ]


def make_published_split(photographs: Listed, *, seed: int, twins: Sequence[tuple[int, int]]) -> list[SplitRow]:
    """Divide a data set into 70/15/15 as is usually published: file by file at random, stratified by label alone.

    Twins and tiles of one photograph fall into different parts, so what is measured on the test part is too good. It is
    there to show by how much. The column `group` still names the true group.
    """
    items = photographs.items
    groups = joined_groups(items, twins)
    strata: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        strata[_label(item)].append(index)
    split_of: dict[int, str] = {}
    for label, indices in sorted(strata.items()):
        random.Random(f"{seed}/{photographs.name}/{label}/as published").shuffle(indices)
        ends = (round(SHARES[0] * len(indices)), round((SHARES[0] + SHARES[1]) * len(indices)))
        for place, index in enumerate(indices):
            split_of[index] = SPLITS[sum(place >= end for end in ends)]
    return [
        SplitRow(photographs.name, item.path, groups[index], _label(item), split_of[index])
        for index, item in enumerate(items)
    ]


def _stratum(items: Sequence[Item], indices: Sequence[int], marked: Sequence[bool] | None) -> str:
    """Name what a group is drawn among; its name decides the draw, so that of marked masks is the label's."""
    label = _label(items[indices[0]])
    if label != "mask" or marked is None or any(marked[index] for index in indices):
        return label
    return "mask, sound"


def _label(item: Item) -> str:
    return {True: "crack", False: "none", None: "mask"}[item.label]


def joined_groups(items: Sequence[Item], twins: Sequence[tuple[int, int]]) -> list[str]:
    """Name the group of each photograph: the publisher's groups, joined wherever two of their pictures are twins."""
    first: dict[str, int] = {}
    pairs = list(twins)
    for index, item in enumerate(items):
        pairs.append((first.setdefault(item.group, index), index))
    return [items[root].group for root in connected(len(items), pairs)]


def _draw(groups: list[str], members: dict[str, list[int]], rng: random.Random) -> dict[str, str]:
    """Fill the splits up to their shares of photographs, group after group in random order."""
    rng.shuffle(groups)
    total = sum(len(members[group]) for group in groups)
    filled = dict.fromkeys(SPLITS, 0)
    split_of = {}
    for group in groups:
        # the split that lacks most of its share takes the next group
        split = max(SPLITS, key=lambda name: SHARES[SPLITS.index(name)] * total - filled[name])
        split_of[group] = split
        filled[split] += len(members[group])
    return split_of


def write_split(rows: list[SplitRow], folder: Path) -> Path:
    """Write the CSV of one data set and renew its line in the index of hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.source, row.path, row.group, row.label, row.split) for row in rows)
    path = folder / f"{rows[0].source}.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    index = _read_index(folder)
    index[path.name] = hashlib.sha256(text.getvalue().encode()).hexdigest()
    lines = (f"{digest}  {name}\n" for name, digest in sorted(index.items()))
    (folder / INDEX).write_text("".join(lines), encoding="utf-8")
    return path


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    pairs = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {name: digest for digest, name in pairs}


def read_split(source: str, folder: Path) -> list[SplitRow]:
    """Read the committed split of a data set.

    Raises:
        DataError: there is none, or it is not the file whose hash is in the index.
    """
    path = folder / f"{source}.csv"
    if not path.is_file():
        raise DataError(f"{path}: no split of {source}; run `crack-training split`")
    content = path.read_bytes()
    if _read_index(folder).get(path.name) != hashlib.sha256(content).hexdigest():
        raise DataError(
            f"{path}: its SHA-256 is not the one in {INDEX}; restore the file or run `crack-training split`"
        )
    return [SplitRow(**row) for row in csv.DictReader(io.StringIO(content.decode("utf-8")))]


def indices_of(photographs: Listed, rows: list[SplitRow], split: str) -> list[int]:
    """Return the positions of the photographs that belong to `split`.

    Raises:
        DataError: a photograph is not in the list.
    """
    return [index for index, row in enumerate(in_order(photographs, rows)) if row.split == split]


def in_order(photographs: Listed, rows: list[SplitRow]) -> list[SplitRow]:
    """Return the row of each photograph, in the order of the photographs.

    Raises:
        DataError: a photograph is not in the list.
    """
    row_of = {row.path: row for row in rows}
    missing = [item.path for item in photographs.items if item.path not in row_of]
    if missing:
        raise DataError(
            f"{photographs.name}: {len(missing)} photographs are in no split (first: {missing[0]}); "
            "run `crack-training split`"
        )
    return [row_of[item.path] for item in photographs.items]
