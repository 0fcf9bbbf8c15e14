"""How many evaluated photographs were, in truth, seen in training? Compared between two ways of splitting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.data.splits import SplitRow
from training.figures import CRACK_COLOUR, SOUND_COLOUR, figure
from training.page import Picture, Section, Table, write_page

EVALUATED: Final = ("val", "test")
LESSON: Final = (
    "A twin is a copy, re-encoded, mirrored or turned by a quarter turn. A model that has learnt a training picture by "
    "heart knows its twin as well, so figures measured on such test files are too good."
)
FIXED: Final = (
    "A set whose parts are fixed, by its publisher or, where it is too small to be drawn from, by site, keeps them."
)
"""The exception to the shares of a split by group."""
LABELS: Final = {"crack": "crack", "none": "no crack", "mask": "labelled by mask"}
"""Labels of a split's rows, as a reader is told them."""


@dataclass(frozen=True)
class Leak:
    """What one part of one class shares with the training part.

    Attributes:
        source: data set.
        label: "crack", "none" or "mask".
        split: "val" or "test".
        files: photographs in it.
        twins: of these, such that a twin (copy, encoded again, mirrored, turned) is trained on.
        relatives: of these, such that anything of the same group (photograph, film, twins of twins) is trained on.
    """

    source: str
    label: str
    split: str
    files: int
    twins: int
    relatives: int


def leaks(rows: Sequence[SplitRow], twins: Sequence[tuple[int, int]]) -> list[Leak]:
    """Count what each evaluated part shares with training.

    Args:
        rows: of one data set, in the order of its photographs.
        twins: positions of twins, as `training.data.copies` finds them.
    """
    twin_trained = [False] * len(rows)
    for pair in twins:
        for index, other in (pair, pair[::-1]):
            twin_trained[index] |= rows[other].split == "train"
    groups = {row.group for row in rows if row.split == "train"}
    parts: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.split in EVALUATED:
            parts[row.source, row.label, row.split].append(index)
    return [
        Leak(
            *part,
            files=len(indices),
            twins=sum(twin_trained[index] for index in indices),
            relatives=sum(rows[index].group in groups for index in indices),
        )
        for part, indices in sorted(parts.items())
    ]


Comparison = Mapping[str, Sequence[Leak]]
"""Leaks of all data sets, by the name of the way of splitting."""


def as_dict(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return the comparison as it is written to JSON."""
    return {
        name: [
            {
                "source": leak.source,
                "label": leak.label,
                "split": leak.split,
                "files": leak.files,
                "with_a_twin_in_training": leak.twins,
                "with_a_relative_in_training": leak.relatives,
            }
            for leak in found
        ]
        for name, found in comparison.items()
    }


def _share(hits: int, total: int) -> str:
    return f"{hits} of {total} ({100 * hits / total:.1f} %)" if total else "none"


def table(comparison: Comparison) -> Table:
    """Return one row for each data set, class and part; two columns for each way of splitting."""
    found: dict[tuple[str, str, str], dict[str, Leak]] = defaultdict(dict)
    for name, all_leaks in comparison.items():
        for leak in all_leaks:
            found[leak.source, leak.label, leak.split][name] = leak
    rows = []
    for (source, label, split), by_name in sorted(found.items()):
        cells = [source, LABELS[label], split]
        for name in comparison:
            one = by_name.get(name)
            cells += ["-", "-"] if one is None else [_share(one.twins, one.files), _share(one.relatives, one.files)]
        rows.append(cells)
    headings = ["data set", "class", "part"]
    headings += [f"{name}: {what} in training" for name in comparison for what in ("a twin", "a relative")]
    note = "-: that way of splitting leaves this part empty. Relatives: the same photograph or film, or twins of twins."
    return Table(headings, rows, note)


def draw(comparison: Comparison, path: Path) -> Path:
    """Draw which share of the test files (validation where there is no test) is related to a training file."""
    bars: dict[tuple[str, str], dict[str, Leak]] = defaultdict(dict)
    for name, all_leaks in comparison.items():
        for leak in all_leaks:
            known = bars[leak.source, leak.label].get(name)
            if known is None or leak.split == "test":
                bars[leak.source, leak.label][name] = leak
    colours = (SOUND_COLOUR, CRACK_COLOUR)
    with figure(path, height_in=1.2 + 0.55 * len(bars)) as drawn:
        axes = drawn.subplots()
        for place, name in enumerate(comparison):
            at = [row + 0.36 * (place - 0.5) for row in range(len(bars))]
            found = [by_name.get(name) for by_name in bars.values()]
            related = [100 * leak.relatives / leak.files if leak else 0.0 for leak in found]
            twins = [100 * leak.twins / leak.files if leak else 0.0 for leak in found]
            axes.barh(at, related, height=0.33, color=colours[place], alpha=0.35, label=f"{name}: a relative")
            axes.barh(at, twins, height=0.33, color=colours[place], label=f"{name}: a twin")
            for y, widest, one in zip(at, related, found, strict=True):
                said = f"{100 * one.twins / one.files:.0f} / {widest:.0f} %" if one else "part is empty"
                axes.text(widest + 1, y, said, va="center", fontsize=7)
        axes.set_yticks(range(len(bars)), [f"{source}\n{LABELS[label]}" for source, label in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xlabel("share of the test files with a twin / a relative in training, %")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=2)
    return path


def without_test(names: Sequence[str]) -> str:
    """Say in a sentence, with a space before it, which data sets have no test part; nothing if all have one."""
    return f" Without a test part: {', '.join(names)}." if names else ""


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write the page with table and figure; return its path. The split by group is the first of the two."""
    picture = draw(comparison, folder / "leakage.svg")
    section = Section(
        "What the test files share with training",
        [LESSON],
        [table(comparison)],
        [Picture(picture, "Share of the test files that are related to a training file, under both ways of splitting")],
    )
    ways = "70/15/15 by photograph and twin group, against a random draw file by file as it is usually published."
    grouped = next(iter(comparison.values()), ())
    tested = {leak.source for leak in grouped if leak.split == "test"}
    untested = sorted({leak.source for leak in grouped} - tested)
    summary = f"{ways} By group: {FIXED}{without_test(untested)}"
    return write_page(folder / "index.html", "Two ways of splitting", summary, [section])
