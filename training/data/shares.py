"""How large did each part of a split become, by data set and class?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.data.leakage import FIXED, LABELS, without_test
from training.data.splits import SPLITS, SplitRow
from training.figures import COLOURS, figure
from training.page import Picture, Section, Table, write_page

Counts = dict[tuple[str, str], dict[str, int]]
"""Photographs of each part, by data set and class."""


def count(rows: Sequence[SplitRow]) -> Counts:
    """Count the photographs of each data set and class in each part, empty parts as 0."""
    found = Counter((row.source, row.label, row.split) for row in rows)
    keys = dict.fromkeys((row.source, row.label) for row in rows)
    return {key: {split: found[*key, split] for split in SPLITS} for key in keys}


def draw(counts: Counts, path: Path) -> Path:
    """Draw one bar for each data set and class, divided into the parts; numbers are photographs."""
    with figure(path, height_in=1.2 + 0.4 * len(counts)) as drawn:
        axes = drawn.subplots()
        axes.set_axisbelow(True)
        left = [0.0] * len(counts)
        for split, colour in zip(SPLITS, COLOURS, strict=False):
            shares = [100 * parts[split] / sum(parts.values()) for parts in counts.values()]
            axes.barh(range(len(counts)), shares, left=left, height=0.6, color=colour, label=split)
            for row, (parts, share) in enumerate(zip(counts.values(), shares, strict=True)):
                if parts[split]:
                    at = left[row] + share / 2
                    axes.text(at, row, str(parts[split]), ha="center", va="center", color="white", fontsize=7)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(counts)), [f"{source}, {LABELS[label]}" for source, label in counts])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the photographs, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return path


def write_shares(rows: Sequence[SplitRow], folder: Path) -> Path:
    """Write `shares.json`, `shares.svg` and the page `shares.html`; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = count(rows)
    content = [{"source": source, "label": label, **parts} for (source, label), parts in counts.items()]
    (folder / "shares.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    cells = [
        [source, LABELS[label], *(str(parts[split]) for split in SPLITS)] for (source, label), parts in counts.items()
    ]
    groups = {(row.source, row.group) for row in rows}
    section = Section(
        "Photographs of each part",
        [f"{len(rows)} photographs in {len(groups)} groups. No group is divided; a publisher's parts are kept."],
        [Table(["data set", "class", *SPLITS], cells)],
        [Picture(draw(counts, folder / "shares.svg"), "Share of each part; the numbers are photographs")],
    )
    tested = {row.source for row in rows if row.split == "test"}
    untested = sorted({row.source for row in rows} - tested)
    summary = f"70/15/15 by photograph and twin group. {FIXED}{without_test(untested)}"
    return write_page(folder / "shares.html", "Split by group", summary, [section])
