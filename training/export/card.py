"""What must someone know who wants to rely on this model? The bundle's `CARD.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.evaluation.calibration import Calibration
from training.evaluation.evaluate import SetResult, bar_table, by_group_table, markdown_table
from training.evaluation.threshold import Bar, Choice, Scored, rates_at
from training.export.parity import MAX_RECALL_DIFFERENCE, MIN_AGREEMENT, Agreement


@dataclass(frozen=True, slots=True)
class Speed:
    """Time of the 8-bit file as a share of the float file's, per tile on one thread, by batch size; and on which CPU."""

    ratio: Mapping[int, float]
    cpu: str
    vnni: bool


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything the card tells beside the manifest's facts."""

    facts: Mapping[str, Any]
    licences: Sequence[Mapping[str, Any]]
    calibration: Calibration
    choice: Choice
    bars: Sequence[Bar]
    results: Sequence[SetResult]
    differences: Mapping[str, Mapping[str, float]]
    agreements: Sequence[Agreement]
    validation: Sequence[Scored]
    quantisation: str
    speed: Speed | None
    commands: Sequence[str]
    model: str
    limit: int | None = None


def render(card: CardFacts) -> str:
    """The card as Markdown."""
    facts = card.facts
    trial = f"**A trial: at most {card.limit} tiles of each set were used. Not for flight.**" if card.limit else ""
    parts = [
        f"# {facts['name']} {facts['version']}",
        f"{facts['architecture']}, {facts['parameters']:,} parameters. Says for a tile of {facts['input']['tile_px']} x "
        f"{facts['input']['tile_px']} pixels of a concrete surface whether it shows a crack, and where in the tile. "
        f"Licence: {facts['licence']}",
        trial,
        _training(card),
        _operating_point(card),
        _results(card),
        _limits(card),
        _parity(card),
        _repeat(card),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _training(card: CardFacts) -> str:
    training = card.facts["training"]
    lines = ["## Training", "", "| | |", "|---|---|"]
    for label, key, unit in (
        ("configuration", "config", ""), ("seed", "seed", ""), ("commit", "commit", ""), ("steps", "steps", ""), ("hours (CPU)", "hours", ""),
    ):  # fmt: skip
        value = training.get(key)
        if value is not None:
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            lines.append(f"| {label} | {text}{unit} |")
    lines += ["", "| data set | SHA-256 | training tiles or photographs | licence |", "|---|---|---|---|"]
    for row in card.licences:
        digest = str(row.get("sha256") or "–")[:16]
        lines.append(f"| {row['name']} | `{digest}` | {row.get('train_tiles') or '–'} | {row.get('licence') or '–'} |")
    lines += [
        "",
        "Sets named *external* below were never trained on and decided nothing; they were evaluated once, at this export.",
    ]
    return "\n".join(lines)


def _operating_point(card: CardFacts) -> str:
    point = card.facts["operating_point"]
    calibration = card.calibration
    if calibration.kept:
        said = (
            f"Temperature {calibration.temperature:.3f} and bias {calibration.bias:+.3f} were kept, because on held-out groups "
            f"they lower the negative log-likelihood from {calibration.nll_before:.4f} to {calibration.nll_after:.4f} nats a tile. "
            "The probability is meant at even odds of crack and no crack."
        )
    else:
        said = (
            f"Temperature and bias did not help on held-out groups (negative log-likelihood {calibration.nll_before:.4f} without, "
            f"{calibration.nll_after:.4f} with) and were left out."
        )
    lines = [
        "## Operating point",
        "",
        f"`crack` from p = {point['threshold_p']:.4f} on (logit {card.choice.threshold_logit:+.3f}). {point['wanted']} Fitted on: {point['fitted_on']}. {said}",
        "",
        "| validation set | measure | wanted | reached | share of the allowed error used |",
        "|---|---|---|---|---|",
    ]
    for result in card.choice.results:
        lines.append(
            f"| {result.bar.set} ({result.total} tiles) | {result.bar.kind} | {100 * result.bar.wanted:.1f} | "
            f"{100 * result.value:.1f} | {result.used:.2f} |"
        )
    lines += [
        "",
        "The curve: what other thresholds give on the validation sets (recall / specificity, per cent).",
        "",
        _curve(card),
    ]
    return "\n".join(lines)


def _curve(card: CardFacts) -> str:
    names = [item.name for item in card.validation]
    lines = ["| logit | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for step in (-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4):
        threshold = card.choice.threshold_logit + step * card.calibration.temperature
        row = [f"{threshold:+.2f}" + (" **(chosen)**" if step == 0 else "")]
        for item in card.validation:
            rates = rates_at(item, threshold)
            row.append(
                " / ".join(f"{100 * rates[key]:.1f}" if key in rates else "–" for key in ("recall", "specificity"))
            )
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _results(card: CardFacts) -> str:
    default = card.facts["default_file"]
    worst = max(
        ((abs(value), key, name) for key, row in card.differences.items() for name, value in row.items()),
        default=(0.0, "–", "–"),
    )
    return "\n".join(
        [
            f"## Results of the file that flies ({default})",
            "",
            "Per cent, with 95 % intervals: by tile (Clopper-Pearson), F1 and areas under curves by photograph (bootstrap of groups).",
            "`<` marks a figure below its stated bar.",
            "",
            markdown_table(card.results, card.bars),
            "Tiles of one photograph are not independent. By photograph or twin group the intervals are:",
            "",
            by_group_table(card.results),
            "Against the stated bars:",
            "",
            bar_table(card.results, card.bars),
            f"Largest difference between the 8-bit and the float file on any of these rates: {100 * worst[0]:.2f} points ({worst[1]}, {worst[2]}).",
        ]
    )


def _limits(card: CardFacts) -> str:
    band = card.facts["gsd_mm_px"]
    missed = []
    for bar in card.bars:
        for row in card.results:
            reached = row.metrics.by_tile.get(bar.kind) or row.metrics.kinds.get(bar.kind)
            if row.name == bar.set and reached is not None and reached.value < bar.wanted:
                missed.append(f"{row.key} {bar.kind} {100 * reached.value:.1f} % (wanted {100 * bar.wanted:.1f} %)")
    return "\n".join(
        [
            "## What the figures can and cannot support",
            "",
            "* They hold for tiles like those of the sets. No set shows bridge piers as a drone sees them in service; UAV75, the quays "
            "and the drone tiles come nearest, and they are small: read the intervals by photograph, not the figures.",
            "* Validation sets chose the checkpoint, threshold and calibration: their figures are somewhat too good. Test and external sets "
            "decided nothing.",
            "* METU is easy: a single threshold on darkness reaches 97 % accuracy there. A high figure on it says little about a bridge.",
            "* A tile is a crack if enough of it is marked; hairlines that are cut at the edge of a tile are not judged, nor are tiles of doubt.",
            "* No statement about crack width, depth or danger. A tile that was not good enough to judge is *unknown*, never sound.",
            f"* Ground sampling distance: {band['min']:g} to {band['max']:g} mm/px (nominal {band['nominal']:g}). {band['basis']}",
            "* p is calibrated at even odds on the validation sets. On a sound bridge cracks are rare, so most calls at the threshold may be false: "
            "the agent asks for several looks before it believes one.",
            ("* Below its bar: " + "; ".join(missed) + ".")
            if missed
            else "* Every stated bar is reached on the sets above (see the intervals).",
        ]
    )


def _parity(card: CardFacts) -> str:
    lines = [
        "## Parity",
        "",
        f"The export refuses unless both files give the same verdict as PyTorch on at least {100 * MIN_AGREEMENT:g} % of the validation tiles, and "
        f"the same recall within {100 * MAX_RECALL_DIFFERENCE:g} points, at the operating point.",
        "",
        "| | tiles | same verdict | recall | specificity | logit difference rms / max |",
        "|---|---|---|---|---|---|",
    ]
    for agreement in card.agreements:
        lines.append(
            f"| {agreement.reference} – {agreement.other} | {agreement.tiles} | {100 * agreement.same_verdict:.2f} % | "
            f"{100 * agreement.recall_reference:.2f} – {100 * agreement.recall_other:.2f} | "
            f"{100 * agreement.specificity_reference:.2f} – {100 * agreement.specificity_other:.2f} | "
            f"{agreement.rms_logit:.3g} / {agreement.max_logit:.3g} |"
        )
    lines += ["", f"8-bit file: {card.quantisation}"]
    if card.speed is not None:
        ratios = ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in card.speed.ratio.items())
        kind = "with VNNI" if card.speed.vnni else "without VNNI"
        lines += [
            "",
            f"Time of the 8-bit file as a share of the float file's, one thread, {card.speed.cpu} ({kind}): {ratios}.",
        ]
    return "\n".join(lines)


def _repeat(card: CardFacts) -> str:
    return "\n".join(["## How to repeat it", "", "```", *card.commands, "```"])


def threshold_rule(choice: Choice) -> str:
    """One sentence for manifest and card."""
    worst = choice.worst
    return (
        "Threshold with the smallest worst share of allowed error, (1 - rate) / (1 - wanted), over the stated bars of all validation "
        f"sets, float and 8-bit file; decided by {worst.bar.set} {worst.bar.kind} ({100 * worst.value:.1f} % of wanted "
        f"{100 * worst.bar.wanted:.1f} %, share {worst.used:.2f})."
    )
