"""What must someone know who wants to rely on this model? The bundle's `CARD.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.evaluation.calibration import Bin, Calibration
from training.evaluation.evaluate import SetResult, bar_table, by_group_table, markdown_table
from training.evaluation.threshold import RECALL_WEIGHT, Bar, Choice, Scored, rates_at
from training.export.measured import Measured
from training.export.origins import Origin
from training.export.parity import MAX_RECALL_DIFFERENCE, MIN_AGREEMENT, Agreement

_CURVE_STEPS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """Time of the 8-bit file as a share of the float file's, per tile on one thread, by batch size; on which CPU."""

    ratio: Mapping[int, float]
    cpu: str
    vnni: bool


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that the card tells.

    Attributes:
        facts: the manifest without `files`.
        calibration: fitted on the validation sets.
        reliability: of the calibrated probabilities there.
        choice: of the threshold.
        bars: what was wanted of a bundle of this name.
        results: of the default file, all sets.
        differences: 8-bit minus float, by set and rate (0..1).
        agreements: between PyTorch and the files.
        validation: logits of the 8-bit file.
        quantisation: how the 8-bit file was made.
        speed: of the 8-bit file, None if not measured.
        commands: to repeat it.
        measured: what a robustness sweep found, None without one.
        limit: at most so many tiles of each set were used; None means all.
        origins: runs that the weights rest on, and what each was to them.
    """

    facts: Mapping[str, Any]
    calibration: Calibration
    reliability: Sequence[Bin]
    choice: Choice
    bars: Sequence[Bar]
    results: Sequence[SetResult]
    differences: Mapping[str, Mapping[str, float]]
    agreements: Sequence[Agreement]
    validation: Sequence[Scored]
    quantisation: str
    speed: Speed | None
    commands: Sequence[str]
    limit: int | None = None
    measured: Measured | None = None
    origins: Sequence[Origin] = ()


def render(card: CardFacts) -> str:
    """The card as Markdown."""
    environment = Environment(
        loader=PackageLoader("training.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML
    )
    return environment.get_template("card.md.j2").render(
        card=card,
        facts=card.facts,
        percent=lambda value: f"{100 * value:.1f}",
        curve=_curve(card),
        results=markdown_table(card.results, card.bars),
        by_group=by_group_table(card.results),
        against_bars=bar_table(card.results, card.bars),
        worst=max(
            ((abs(value), key, rate) for key, row in card.differences.items() for rate, value in row.items()),
            default=(0.0, "–", "–"),
        ),
        missed=_missed(card),
        min_agreement=MIN_AGREEMENT,
        recall_weight=RECALL_WEIGHT,
        max_recall_difference=MAX_RECALL_DIFFERENCE,
    )


def threshold_rule(choice: Choice) -> str:
    """How the threshold was chosen, in a sentence for manifest and card."""
    worst = choice.worst
    return (
        "Threshold with the smallest worst share of allowed error, (1 - rate) / (1 - wanted), over the stated bars of "
        f"all validation sets, float and 8-bit file; decided by {worst.bar.set} {worst.bar.kind} "
        f"({100 * worst.value:.1f} % of wanted {100 * worst.bar.wanted:.1f} %, share {worst.used:.2f}). "
        f"Missed cracks count {RECALL_WEIGHT:g} times."
    )


def _curve(card: CardFacts) -> str:
    """Recall and specificity of each validation set around the chosen threshold, as a Markdown table."""
    names = [item.name for item in card.validation]
    lines = ["| p | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for step in _CURVE_STEPS:
        threshold = card.choice.threshold_logit + step * card.calibration.temperature
        row = [f"{card.calibration.p_crack(threshold):.4f}" + (" **(chosen)**" if step == 0 else "")]
        for item in card.validation:
            rates = rates_at(item, threshold)
            values = (f"{100 * rates[key]:.1f}" if key in rates else "–" for key in ("recall", "specificity"))
            row.append(" / ".join(values))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _missed(card: CardFacts) -> list[str]:
    """Which figures lie below their bar."""
    found = []
    for bar in card.bars:
        for row in card.results:
            reached = row.metrics.by_tile.get(bar.kind) or row.metrics.kinds.get(bar.kind)
            if row.name == bar.set and reached is not None and reached.value < bar.wanted:
                found.append(f"{row.key} {bar.kind} {100 * reached.value:.1f} % (wanted {100 * bar.wanted:.1f} %)")
    return found
