"""What was found about nets of which one is to be exported: tables, a figure, and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.evaluation.candidates import Candidate, difference, draw_shares, view_by_view
from training.evaluation.metrics import Estimate
from training.evaluation.threshold import RECALL_WEIGHT, Bar, BarResult
from training.page import Picture, Section, Table, render_markdown, write_page


def write_candidates(
    found: Sequence[Candidate],
    bars: Sequence[Sequence[Bar]],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    areas: Sequence[str],
    views: int,
    resamples: int,
    seed: int,
) -> Path:
    """Write figure, `candidates.json`, `candidates.md` and `index.html`; return the page.

    Args:
        found: the nets; the others are compared with the first.
        bars: of each, those that chose its threshold.
        settings: what was judged how, for the JSON.
        folder: of the results.
        areas: sets whose areas are averaged, as far as each net was judged on them.
        views: of each tile.
        resamples: draws of photographs.
        seed: of the draws.
    """
    folder.mkdir(parents=True, exist_ok=True)
    areas = [name for name in areas if all(name in item.areas for item in found)]
    first = found[0]
    apart = [difference(first, other, areas, resamples=resamples, seed=seed) if areas else None for other in found[1:]]
    content = {
        "settings": dict(settings),
        "candidates": [item.to_dict() for item in found],
        "areas": areas,
        "compared_with": first.label,
        "difference": [None if item is None else [_or_none(value) for value in item.as_list()] for item in apart],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "candidates.json").write_text(text + "\n", encoding="utf-8")
    chart = folder / "shares.svg"
    draw_shares(found, chart)
    shown = "as they are" if views == 1 else f"each in {views} views"
    sections = [
        Section(
            "At the threshold that the bars choose",
            (
                (
                    f"Validation tiles, {shown}; float weights. A bar's share is (1 - rate) / (1 - wanted), missed "
                    f"cracks counting {RECALL_WEIGHT:g} times: 1 meets the bar, of cracks {RECALL_WEIGHT:g}. The "
                    "threshold has the smallest worst share."
                ),
            ),
            (_standing(found, areas, apart), _each_bar(found)),
            (Picture(chart, "Share of the allowed error that each deciding bar uses up."),),
        )
    ]
    if views > 1:
        sections.append(Section("View by view", (), (_each_view(found, bars, views),)))
    sections.append(Section("Every kind of tile", (), (_each_kind(found),)))
    summary = (
        f"{', '.join(item.label for item in found)}: judged alike by the validation sets. Nothing else may choose."
    )
    title = "Candidates"
    page = write_page(folder / "index.html", title, summary, sections)
    (folder / "candidates.md").write_text(
        render_markdown(title, summary, sections, lambda picture: picture.name), encoding="utf-8"
    )
    return page


def _standing(found: Sequence[Candidate], areas: Sequence[str], apart: Sequence[Estimate | None]) -> Table:
    headings = [
        "net",
        "threshold (logit)",
        "worst share",
        "bars missed",
        "mean area",
        f"above {found[0].label}, points",
    ]
    rows = []
    for item, more in zip(found, [None, *apart], strict=True):
        missed = [_bar(row) for row in item.bars if row.value < row.bar.wanted]
        rows.append(
            [
                item.label,
                f"{item.choice.threshold_logit:+.2f}",
                f"{item.bars[0].used:.2f} ({_bar(item.bars[0])})",
                ", ".join(missed) or "none",
                f"{100 * sum(item.areas[name] for name in areas) / len(areas):.2f}" if areas else "–",
                "–" if more is None else _points(more),
                *(f"{100 * item.areas[name]:.1f}" for name in areas),
            ]
        )
    note = (
        "In brackets the 95 % interval of the difference, photographs drawn with replacement, the same for both nets. "
        "One that holds 0 says that these photographs do not tell the two apart."
    )
    return Table([*headings, *(f"AUROC {name}" for name in areas)], rows, note)


def _each_bar(found: Sequence[Candidate]) -> Table:
    rows = []
    for row in found[0].bars:
        cells = []
        for item in found:
            same = [other for other in item.bars if (other.bar.set, other.bar.kind) == (row.bar.set, row.bar.kind)]
            cells.append(f"{100 * same[0].value:.1f}" if same else "–")
        rows.append([row.bar.set, row.bar.kind, f"{100 * row.bar.wanted:g}", str(row.total), *cells])
    note = "Per cent judged rightly. Views of one tile are not independent: four of them are not four photographs."
    return Table(["set", "kind", "wanted", "tiles", *(item.label for item in found)], rows, note)


def _each_view(found: Sequence[Candidate], bars: Sequence[Sequence[Bar]], views: int) -> Table:
    names = ["as they are", "mirrored", "upside down", "both"][:views]
    rows = []
    for item, deciding in zip(found, bars, strict=True):
        worst = [max(rows_of, key=lambda row: row.used) for rows_of in view_by_view(item, deciding, views)]
        rows.append([item.label, *(f"{row.used:.2f} ({_bar(row)} {100 * row.value:.1f})" for row in worst)])
    note = "Worst share of the allowed error in each view alone, at the threshold of all."
    return Table(["net", *names], rows, note)


def _each_kind(found: Sequence[Candidate]) -> Table:
    rows = [
        [name, kind, *(f"{100 * item.kinds[name][kind]:.1f}" for item in found)]
        for name in found[0].kinds
        for kind in found[0].kinds[name]
    ]
    note = "Per cent judged rightly, also of kinds that have no bar and decide nothing."
    return Table(["set", "kind", *(item.label for item in found)], rows, note)


def _bar(row: BarResult) -> str:
    return f"{row.bar.set} {row.bar.kind}"


def _points(more: Estimate) -> str:
    interval = "no interval" if math.isnan(more.low) else f"{100 * more.low:+.2f} to {100 * more.high:+.2f}"
    return f"{100 * more.value:+.2f} ({interval})"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
