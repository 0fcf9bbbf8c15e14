"""What must someone know who wants to rely on this model? The bundle's `CARD.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from training.evaluation.calibration import Bin, Calibration
from training.evaluation.evaluate import SetResult, bar_table, by_group_table, markdown_table, reached_bars
from training.evaluation.threshold import RECALL_WEIGHT, Bar, Choice, Scored, rates_at
from training.export.lineage import Lineage, Run, data_of, hours_of, pretrained_by
from training.export.measured import Measured
from training.export.parity import MAX_RECALL_DIFFERENCE, MAX_SET_DIFFERENCE, MIN_AGREEMENT, Agreement

_MISSED_CRACKS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
"""The curve has a row where so large a share of the validation sets' cracks is missed, and where ..."""
_FALSE_ALARMS = (0.5, 0.3, 0.2, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01, 0.005, 0.0)
"""... so large a share of their sound tiles is called cracked; each set counts alike."""
FLIES_FROM = 0.5
"""Share of the bars that a model must reach, else its card says that it must not fly."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Time of the 8-bit file as a share of the float file's, per tile on one thread, by batch size; on which CPU."""

    ratio: Mapping[int, float]
    cpu: str
    vnni: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A set as the float and the 8-bit file judge it: its split, and its role, as `role_of` says."""

    split: str
    role: str
    fp32: Scored
    int8: Scored

    @property
    def key(self) -> str:
        """For tables and the manifest, for example `metu-ccic/test`."""
        return f"{self.fp32.name}/{self.split}"


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
        pairs: logits of both files, all sets.
        agreements: between PyTorch and the files.
        quantisation: how the 8-bit file was made.
        speed: of the 8-bit file, None if not measured.
        commands: to repeat it.
        measured: what a robustness sweep found, None without one.
        limit: at most so many tiles of each set were used; None means all.
        lineage: knows the runs that the weights rest on.
        run: the key there of the run that made them.
        kept_from: the release whose threshold and calibration stay; None: both were chosen by these figures.
    """

    facts: Mapping[str, Any]
    calibration: Calibration
    reliability: Sequence[Bin]
    choice: Choice
    bars: Sequence[Bar]
    results: Sequence[SetResult]
    pairs: Sequence[Pair]
    agreements: Sequence[Agreement]
    quantisation: str
    speed: Speed | None
    commands: Sequence[str]
    lineage: Lineage
    run: str
    limit: int | None = None
    measured: Measured | None = None
    kept_from: str | None = None


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
    runs = card.lineage.ancestors(card.run)
    hours, unknown = hours_of(runs)
    missed = _missed(card)
    bars_met = len(card.bars) - len({bar for bar, _ in missed})
    differences = _differences(card)
    return environment.get_template("card.md.j2").render(
        card=card,
        facts=card.facts,
        percent=lambda value: f"{100 * value:.1f}",
        runs=_runs(card.lineage, runs),
        own=runs[-1],
        hours=hours,
        hours_unknown=unknown,
        data=data_of(runs),
        pretrained=pretrained_by(runs),
        even_odds=float(np.log(2)),
        curve=_curve(card),
        results=markdown_table(card.results, card.bars),
        by_group=by_group_table(card.results),
        against_bars=bar_table(card.results, card.bars),
        differences=differences,
        most_apart=max((abs(row.points) for row in differences), default=0.0),
        allowed_apart=100 * MAX_SET_DIFFERENCE,
        missed=missed,
        bars_met=bars_met,
        must_not_fly=bars_met < FLIES_FROM * len(card.bars),
        min_agreement=MIN_AGREEMENT,
        recall_weight=RECALL_WEIGHT,
        max_recall_difference=MAX_RECALL_DIFFERENCE,
    )


def threshold_rule(choice: Choice, validation: Sequence[str]) -> str:
    """How the threshold was chosen, in a sentence for manifest and card.

    Args:
        choice: of the threshold.
        validation: names of all validation sets, also of those that had no say in it.
    """
    worst = choice.worst
    whose = (
        "all validation sets"
        if set(choice.sets) >= set(validation)
        else f"the validation sets that the weights were trained on ({', '.join(sorted(choice.sets))})"
    )
    return (
        "Threshold with the smallest worst share of allowed error, (1 - rate) / (1 - wanted), over the stated bars of "
        f"{whose}, float and 8-bit file; decided by {worst.bar.set} {worst.bar.kind} "
        f"({100 * worst.value:.1f} % of wanted {100 * worst.bar.wanted:.1f} %, share {worst.used:.2f}). "
        f"Missed cracks count {RECALL_WEIGHT:g} times; pictures with a mere trace of one have no say."
    )


def kept_threshold(choice: Choice, release: str) -> str:
    """Where a threshold comes from that was not chosen by these figures, in two sentences for manifest and card.

    Args:
        choice: what it comes to now.
        release: name and version of the bundle that it was chosen for.
    """
    worst = choice.worst
    return (
        f"Threshold of {release}, kept. Of the stated bars {worst.bar.set} {worst.bar.kind} uses the largest share of "
        f"its allowed error by these validation sets ({100 * worst.value:.1f} % of wanted "
        f"{100 * worst.bar.wanted:.1f} %, share {worst.used:.2f}), missed cracks counting {RECALL_WEIGHT:g} times."
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    """A rate with a bar as both files have it, in per cent, and by how many tiles they differ."""

    key: str
    kind: str
    tiles: int
    fp32: float
    int8: float
    apart: int

    @property
    def points(self) -> float:
        """8-bit minus float file, in percentage points."""
        return self.int8 - self.fp32


def _differences(card: CardFacts) -> list[_Difference]:
    """What the 8-bit file changes of every rate that has a bar."""
    threshold = card.choice.threshold_logit
    found = []
    for bar in card.bars:
        for pair in card.pairs:
            of = pair.fp32.of_kind(bar.kind)
            if pair.fp32.name != bar.set or not of.any():
                continue
            rates = [rates_at(item, threshold, [bar.kind])[bar.kind] for item in (pair.fp32, pair.int8)]
            tiles = int(of.sum())
            found.append(
                _Difference(
                    pair.key, bar.kind, tiles, 100 * rates[0], 100 * rates[1], round((rates[1] - rates[0]) * tiles)
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class _RunRow:
    """A run as the card's table has it."""

    name: str
    config: str
    seed: str
    steps: str
    hours: str
    started_from: str
    learnt_from: str
    bundle: str


def _runs(lineage: Lineage, runs: Sequence[Run]) -> list[_RunRow]:
    bundle_of = {
        release.run: f"{name} (`{release.sha256[:16]}`)"
        for name, release in lineage.bundles.items()
        if release.run != runs[-1].key
    }

    def named(references: Sequence[str]) -> str:
        return ", ".join(
            reference if " " in reference else f"`{lineage.runs[reference].name}`" for reference in references
        )

    return [
        _RunRow(
            name=run.name,
            config=f"{run.config or 'unknown'}, {run.commit[:7] if run.commit else 'commit unknown'}",
            seed="–" if run.seed is None else str(run.seed),
            steps="–" if run.steps is None else f"{run.steps:,}",
            hours="–" if run.hours is None else f"{run.hours:.2f}",
            started_from=named(run.started_from) or (f"ImageNet ({run.pretrained.name})" if run.pretrained else "–"),
            learnt_from=named(run.learnt_from) or "–",
            bundle=bundle_of.get(run.key, "–"),
        )
        for run in runs
    ]


def _curve(card: CardFacts) -> str:
    """Every rate that has a bar at many thresholds, as a Markdown table; only validation sets chose among them."""
    columns = [
        (pair, bar)
        for role in ("validation", "test", "external")
        for bar in card.bars
        for pair in card.pairs
        if pair.role == role and pair.int8.name == bar.set and pair.int8.of_kind(bar.kind).any()
    ]
    headings = [f"{pair.key} {bar.kind}" for pair, bar in columns]
    lines = ["| p | " + " | ".join(headings) + " |", "|---|" + "---|" * len(headings)]
    chosen = card.choice.threshold_logit
    for threshold in sorted({chosen, *_thresholds([pair.int8 for pair in card.pairs if pair.role == "validation"])}):
        row = [f"{card.calibration.p_crack(threshold):.4f}" + (" **(chosen)**" if threshold == chosen else "")]
        row += [f"{100 * rates_at(pair.int8, threshold, [bar.kind])[bar.kind]:.1f}" for pair, bar in columns]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _thresholds(validation: Sequence[Scored]) -> list[float]:
    """Logits at which stated shares of cracks are missed, or of sound tiles called cracked; all sets count alike."""
    found = []
    for label, shares in ((True, _MISSED_CRACKS), (False, [1 - share for share in _FALSE_ALARMS])):
        of = [item.logits[item.labels == label] for item in validation if (item.labels == label).any()]
        logits = np.concatenate(of)
        order = np.argsort(logits)
        weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in of])[order]
        below = np.cumsum(weights) / weights.sum()
        for share in shares:
            # a crack with the threshold's logit is found, a sound tile must lie below it
            at = min(int(np.searchsorted(below, share + 1e-9)), len(logits) - 1)
            found.append(float(logits[order][at]) if label else float(np.nextafter(logits[order][at], np.inf)))
    return found


def _missed(card: CardFacts) -> list[tuple[Bar, str]]:
    """Which figures lie below their bar."""
    return [
        (bar, f"{row.key} {bar.kind} {100 * reached.value:.1f} % (wanted {100 * bar.wanted:.1f} %)")
        for bar, row, reached in reached_bars(card.results, card.bars)
        if reached.value < bar.wanted
    ]
