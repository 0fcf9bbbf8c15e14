"""What does an evaluation look like? JSON, Markdown, figures and one HTML page for all files of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.evaluation.calibration import Calibration
from training.evaluation.curves import (
    Curve,
    Reliability,
    curve_of,
    draw_against_threshold,
    draw_histograms,
    draw_operating_points,
    draw_reliability,
    reliabilities,
    write_curves,
)
from training.evaluation.evaluate import JUDGED, SetResult, bar_table, group_rows, result_rows
from training.evaluation.statement import Support, statement, supports
from training.evaluation.threshold import Bar, Scored, ThresholdError, for_recall
from training.page import Picture, Section, Table, markdown_table, write_page

WANTED_RECALLS: Final = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold in use, and in a sentence how it was chosen."""

    logit: float
    how: str


@dataclass(frozen=True)
class FileEvaluation:
    """All that was found for one file of a model.

    Attributes:
        label: "torch", "fp32" or "int8".
        threshold: in use.
        scored: the sets that were asked for.
        results: their figures, in the same order.
        bars: wanted rates.
        calibration: fitted on the validation sets, None without them.
        validation: those sets.
        limit: at most so many tiles of each set.
    """

    label: str
    threshold: Threshold
    scored: Sequence[Scored]
    results: Sequence[SetResult]
    bars: Sequence[Bar]
    calibration: Calibration | None
    validation: Sequence[Scored]
    limit: int | None

    @property
    def supports(self) -> list[Support]:
        """What each set supports."""
        return [
            support
            for item, row in zip(self.scored, self.results, strict=True)
            for support in supports(row.key, row.role, item, self.threshold.logit)
        ]

    @property
    def statement(self) -> list[str]:
        """What can and cannot be said, in sentences."""
        return statement(
            self.supports,
            threshold=self.threshold.how,
            calibration=_calibration_sentence(self.calibration),
            limit=self.limit,
        )

    @property
    def curves(self) -> list[Curve]:
        """Rates at all thresholds."""
        return [curve_of(row.key, item) for item, row in zip(self.scored, self.results, strict=True)]

    def reliabilities(self, bins: int) -> list[Reliability]:
        """How far p can be believed."""
        others = [item for item, row in zip(self.scored, self.results, strict=True) if row.role in JUDGED]
        return reliabilities(self.validation, others, self.calibration, bins=bins)


def write_evaluation(
    found: Sequence[FileEvaluation], facts: dict[str, Any], title: str, out: Path, *, bins: int
) -> Path:
    """Writes `evaluation.json`, `.md`, `.html`, and for each file curves and figures; returns the page's path.

    Args:
        found: one for each file.
        facts: about the model and the command, for the JSON.
        title: of the page.
        out: folder; it is made.
        bins: of the reliability diagram.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = facts | {"files": {item.label: _content(item, bins) for item in found}}
    (out / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sections: list[Section] = []
    text = [f"# {title}", ""]
    for item in found:
        pictures = _draw(item, out, bins)
        write_curves(item.curves, out / f"curves-{item.label}.csv")
        every = (results_table(item), groups_table(item), support_table(item), recall_table(item))
        tables = [table for table in every if table.rows]
        lines = item.statement
        text += [f"## {item.label}: crack from logit {item.threshold.logit:+.3f}", ""]
        text += ["### What the figures support", "", *(f"* {line}" for line in lines), "", "### Figures", ""]
        text += [markdown_table(table) for table in tables]
        text += ["### Against the stated bars", "", bar_table(item.results, item.bars)]
        text += [f"![{picture.caption}]({picture.path.name})" for picture in pictures]
        text += [""]
        sections.append(
            Section(
                f"{item.label}: crack from logit {item.threshold.logit:+.3f}",
                sections=[
                    Section("What the figures support", paragraphs=lines),
                    Section("Figures", tables=tables),
                    Section("Curves", pictures=pictures),
                ],
            )
        )
    (out / "evaluation.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    summary = "Per cent with 95 % intervals; `<` marks a figure below its stated bar. Read the statement first."
    return write_page(out / "evaluation.html", title, summary, sections)


def results_table(item: FileEvaluation) -> Table:
    """All figures of all sets."""
    headings, rows = result_rows(item.results, item.bars)
    note = "95 % intervals by tile (Clopper-Pearson); F1 and areas by photograph (bootstrap). `<`: below its bar."
    return Table(headings, rows, note)


def groups_table(item: FileEvaluation) -> Table:
    """Recall and specificity by photograph."""
    headings, rows = group_rows(item.results)
    return Table(headings, rows, "Tiles of a photograph succeed or fail together: bootstrap of photographs.")


def support_table(item: FileEvaluation) -> Table:
    """What each set of photographs supports at 95 %."""
    rows = [
        [
            support.key,
            support.role,
            support.kind,
            f"{support.wrong} of {support.tiles}",
            f"{100 * support.by_tile:.2f}",
            f"{support.photographs_wrong} of {support.photographs}",
            f"{100 * support.by_photograph:.2f}",
        ]
        for support in item.supports
        if support.role not in {"drawn", "published"}
    ]
    headings = ("set", "role", "rate", "tiles judged wrongly", "supported by tile", "photographs with an error")
    note = "One-sided 95 % bounds in per cent: of the rate, and of the share of photographs without any error."
    return Table((*headings, "supported by photograph"), rows, note)


def recall_table(item: FileEvaluation) -> Table:
    """What other thresholds would cost: specificities where a recall is reached on every validation set."""
    cracked = [part for part in item.validation if part.labels.any()]
    names = [(row.key, part) for row, part in zip(item.results, item.scored, strict=True) if not part.labels.all()]
    rows = []
    for wanted in WANTED_RECALLS if cracked else ():
        logit = min(for_recall(part.logits, part.labels, wanted) for part in cracked)
        costs = [f"{100 * float((part.logits[~part.labels] < logit).mean()):.1f}" for _, part in names]
        rows.append([f"{100 * wanted:g}", f"{logit:+.3f}", *costs])
    note = "Specificity in per cent at the highest threshold that finds the wanted recall on each validation set."
    return Table(("wanted recall", "threshold (logit)", *(f"{key}" for key, _ in names)), rows, note)


def wanted_threshold(scored: Sequence[Scored], wanted: float, over: str) -> Threshold:
    """The highest threshold with a wanted recall on validation sets.

    Args:
        scored: validation sets.
        wanted: recall, 0..1.
        over: "pooled" (all cracks together, so that large sets decide) or "worst-set" (each set by itself).

    Raises:
        ThresholdError: no validation set with cracks.
    """
    cracked = [item for item in scored if item.labels.any()]
    if not cracked:
        raise ThresholdError("a wanted recall needs a validation set with cracks")
    names = ", ".join(item.name for item in cracked)
    text = f"The threshold is the highest that finds {100 * wanted:g} % of the validation cracks"
    if over == "pooled":
        logit = for_recall(
            np.concatenate([item.logits for item in scored]), np.concatenate([item.labels for item in scored]), wanted
        )
        return Threshold(logit, f"{text} of all sets together ({names}), so that large sets decide.")
    logits = {item.name: for_recall(item.logits, item.labels, wanted) for item in cracked}
    lowest = min(logits, key=lambda name: logits[name])
    return Threshold(logits[lowest], f"{text} in each set ({names}); {lowest} decided.")


def _content(item: FileEvaluation, bins: int) -> dict[str, Any]:
    fitted = item.calibration
    return {
        "threshold_logit": item.threshold.logit,
        "threshold_rule": item.threshold.how,
        "calibration": None
        if fitted is None
        else {
            "temperature": fitted.temperature,
            "bias": fitted.bias,
            "nll_before": fitted.nll_before,
            "nll_after": fitted.nll_after,
            "kept": fitted.kept,
        },
        "reliability": [part.to_dict() for part in item.reliabilities(bins)],
        "sets": [row.to_dict() for row in item.results],
        "supports": [support.to_dict() for support in item.supports],
        "statement": item.statement,
    }


def _draw(item: FileEvaluation, out: Path, bins: int) -> list[Picture]:
    curves = item.curves
    pictures = []
    if any(curve.recall is not None and curve.specificity is not None for curve in curves):
        path = draw_operating_points(curves, item.results, out / f"operating-points-{item.label}.svg")
        pictures.append(Picture(path, "Recall against specificity; dots: the chosen threshold, 95 % by tile."))
    path = draw_against_threshold(curves, item.threshold.logit, out / f"thresholds-{item.label}.svg")
    pictures.append(Picture(path, "Recall and specificity of every set against the threshold; dotted: the chosen one."))
    diagrams = item.reliabilities(bins)
    if diagrams:
        path = draw_reliability(diagrams, out / f"reliability-{item.label}.svg")
        pictures.append(
            Picture(path, "Reliability before and after temperature and bias; larger dots hold more tiles.")
        )
    path = draw_histograms(
        [curve.key for curve in curves], item.scored, item.threshold.logit, out / f"scores-{item.label}.svg"
    )
    pictures.append(Picture(path, "Logits of cracked and sound tiles; dotted: the threshold."))
    return pictures


def _calibration_sentence(fitted: Calibration | None) -> str:
    if fitted is None:
        return "Without validation sets of both classes nothing was calibrated."
    losses = f"{fitted.nll_before:.4f} without, {fitted.nll_after:.4f} with them"
    if fitted.kept:
        return (
            f"Temperature {fitted.temperature:.3f} and bias {fitted.bias:+.3f} help on held-out groups (negative "
            f"log-likelihood {losses}) and are kept; p is meant at even odds of crack and no crack."
        )
    return f"Temperature and bias do not help on held-out groups (negative log-likelihood {losses}) and are left out."
