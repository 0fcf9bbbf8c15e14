"""How do the bundles compare: against what was wanted, and with each other?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.evaluation.threshold import Bar, bars_for
from training.export.bundle import Manifest, SetMetrics
from training.figures import COLOURS, figure
from training.page import Table


@dataclass(frozen=True, slots=True)
class Reached:
    """What a bundle reached against one bar; `value`, `low`, `high` as rates (0..1)."""

    bundle: str
    set: str
    bar: Bar
    role: str
    value: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        """Whether the figure itself reaches the bar; the interval may still lie below."""
        return self.value >= self.bar.wanted

    @property
    def used(self) -> float:
        """Share of the allowed error that was used; 1 just meets the bar."""
        return (1 - self.value) / (1 - self.bar.wanted)


def reached(manifest: Manifest) -> list[Reached]:
    """Hold a bundle against its bars, on the test or external part of each set where there is one."""
    found = []
    for bar in bars_for(manifest.name):
        for key in _keys(manifest, bar.set):
            figures = _figures(manifest.metrics[key], bar.kind)
            if figures is not None:
                found.append(Reached(manifest.name, key, bar, manifest.metrics[key].role, *figures))
    return found


def _keys(manifest: Manifest, name: str) -> list[str]:
    keys = [key for key in manifest.metrics if key.split("/")[0] == name]
    return [key for key in keys if manifest.metrics[key].role != "validation"] or keys


def _figures(metrics: SetMetrics, kind: str) -> tuple[float, float, float] | None:
    if kind == "recall":
        return metrics.recall
    if kind == "specificity":
        return metrics.specificity
    return metrics.kinds.get(kind)


def bars_table(manifests: Sequence[Manifest]) -> Table:
    """All bundles against their bars, one row for each bar."""
    results = {manifest.name: {(item.set, item.bar.kind): item for item in reached(manifest)} for manifest in manifests}
    rows = []
    keys = list(dict.fromkeys(key for items in results.values() for key in items))
    for set_, kind in keys:
        row = [set_, kind]
        for items in results.values():
            item = items.get((set_, kind))
            row.append("–" if item is None else _cell(item))
        rows.append(row)
    return Table(
        ["set", "measure", *results],
        rows,
        "Per cent of the int8 file at its own threshold, 95 % Clopper-Pearson interval by tile, and what was wanted; "
        "* does not reach it. Validation sets chose threshold and moment of training, so their figures are somewhat "
        "too good; test and external sets chose neither weights nor threshold.",
    )


def _cell(item: Reached) -> str:
    mark = "" if item.met else " *"
    return (
        f"{100 * item.value:.1f} ({100 * item.low:.1f}–{100 * item.high:.1f}), wanted {100 * item.bar.wanted:g}{mark}"
    )


def ranking(manifests: Sequence[Manifest]) -> list[tuple[Manifest, int, int, float]]:
    """Order the bundles: bars met, then the geometric mean of the used shares of allowed error.

    Each is judged against the same bars (those of the larger models), else a low bar would win.

    Returns:
        (manifest, bars met, bars, geometric mean of the used shares) for each, best first.
    """
    rows = []
    for manifest in manifests:
        common = {(bar.set, bar.kind): bar for bar in bars_for("common")}
        items = [replace(item, bar=common[item.bar.set, item.bar.kind]) for item in reached(manifest)]
        if not items:
            continue
        share = float(np.exp(np.mean([np.log(max(item.used, 0.05)) for item in items])))
        rows.append((manifest, sum(item.met for item in items), len(items), share))
    return sorted(rows, key=lambda row: (-row[1], row[3]))


def draw_bars(manifests: Sequence[Manifest], path: Path) -> None:
    """Draw every bundle's figures with their intervals, one row for each set and measure."""
    results = {manifest.name: {(item.set, item.bar.kind): item for item in reached(manifest)} for manifest in manifests}
    keys = list(dict.fromkeys(key for items in results.values() for key in items))
    with figure(path, width_in=7.5, height_in=1.2 + 0.42 * len(keys)) as drawn:
        axes = drawn.subplots()
        offsets = np.linspace(0.28, -0.28, len(results))
        for (name, items), offset, colour in zip(results.items(), offsets, COLOURS, strict=False):
            found = [(place, items[key]) for place, key in enumerate(reversed(keys)) if key in items]
            values = np.array([item.value for _, item in found])
            reach = [values - [item.low for _, item in found], [item.high for _, item in found] - values]
            places = [place + offset for place, _ in found]
            axes.errorbar(values, places, xerr=np.clip(reach, 0, 1), fmt="o", ms=4, lw=1.2, color=colour, label=name)
        axes.set_yticks(range(len(keys)), [f"{set_} {kind}" for set_, kind in reversed(keys)])
        axes.set_xlabel("share judged rightly, with 95 % interval by tile")
        axes.set_xlim(-0.02, 1.02)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=max(1, len(results)))
