"""How do the bundles compare: against what was wanted, and with each other?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.evaluation.evaluate import JUDGED
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
    """Hold a bundle against its bars, on the test or external part of each set; on validation where there is none."""
    found = []
    for bar in bars_for(manifest.name):
        for key in _keys(manifest, bar.set):
            figures = _figures(manifest.metrics[key], bar.kind)
            if figures is not None:
                found.append(Reached(manifest.name, key, bar, manifest.metrics[key].role, *figures))
    return found


def _keys(manifest: Manifest, name: str) -> list[str]:
    keys = [key for key in manifest.metrics if key.split("/")[0] == name]
    roles = {key: manifest.metrics[key].role for key in keys}
    return [key for key in keys if roles[key] in JUDGED] or [key for key in keys if roles[key] == "validation"]


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
        items = _common(manifest)
        if not items:
            continue
        share = float(np.exp(np.mean([np.log(max(item.used, 0.05)) for item in items])))
        rows.append((manifest, sum(item.met for item in items), len(items), share))
    return sorted(rows, key=lambda row: (-row[1], row[3]))


def _common(manifest: Manifest) -> list[Reached]:
    """What a bundle reached, held against the bars of the larger models."""
    common = {(bar.set, bar.kind): bar for bar in bars_for("common")}
    return [replace(item, bar=common[item.bar.set, item.bar.kind]) for item in reached(manifest)]


def ranked_table(manifests: Sequence[Manifest], times: Mapping[str, float]) -> Table:
    """All bundles by `ranking`; `times`: of an 8-bit tile, as ratios to the float file of OPNet."""
    rows = []
    for manifest, met, total, share in ranking(manifests):
        chosen_by = [item for item in _common(manifest) if item.role == "validation"]
        others = [item for item in _common(manifest) if item.role != "validation"]
        rows.append(
            [
                manifest.name,
                f"{manifest.parameters:,}",
                "–" if manifest.name not in times else f"{times[manifest.name]:.2f}",
                f"{met} of {total}",
                *(f"{sum(item.met for item in items)} of {len(items)}" for items in (chosen_by, others)),
                f"{share:.2f}",
            ]
        )
    headings = ["model", "parameters", "time of an 8-bit tile (float file of OPNet: 1)", "bars met"]
    headings += ["of these on validation sets", "on test and external sets", "allowed error used (mean)"]
    note = (
        "All are held against the bars of the larger models. The mean is geometric, over all bars; 1 would meet every "
        "bar exactly, less is better. Times: table of the architectures, the network with as many parameters."
    )
    return Table(headings, rows, note)


def missed_table(manifests: Sequence[Manifest]) -> Table:
    """Which bundle misses which of its own bars, one row for each set and measure that anyone misses."""
    missed = [item for manifest in manifests for item in reached(manifest) if not item.met]
    rows = []
    for key in dict.fromkeys((item.set, item.bar.kind, item.role) for item in missed):
        by = [item for item in missed if (item.set, item.bar.kind, item.role) == key]
        rows.append([*key, "; ".join(f"{_named(item)}" for item in by)])
    note = "Per cent of the int8 file at its own threshold, and what was wanted of it."
    return Table(["bar that is missed", "measure", "role of the set", "by (reached of wanted)"], rows, note)


def _named(item: Reached) -> str:
    return f"{item.bundle} {100 * item.value:.1f} of {100 * item.bar.wanted:g}"


def standing_of(manifests: Sequence[Manifest], times: Mapping[str, float], default: str | None) -> list[str]:
    """Say which bundle flies, which comes first by the bars, and what that order rests on.

    Args:
        manifests: of the bundles.
        times: of an 8-bit tile by name of the bundle, as ratios to the float file of OPNet.
        default: the bundle that is taken when none is named; None: unknown.
    """
    rows = {manifest.name: (met, total, share) for manifest, met, total, share in ranking(manifests)}
    if not rows:
        return []
    first = next(iter(rows))
    said = []
    if default in rows:
        said.append(
            f"What flies, where no other model is named, is {default} (the default in `exported_models/INDEX.json`): "
            f"it meets {_result(rows[default])}."
        )
    said.append(
        f"First by the bars is {first}: it meets {_result(rows[first])}. The rule of this order: most bars met, then "
        "least of the allowed error."
    )
    if default in rows and default != first and {default, first} <= times.keys():
        said[-1] += (
            f" Its 8-bit file takes {times[first] / times[default]:.2f} times as long for a tile as {default}'s."
        )
    roles = [item.role for item in _common(next(manifest for manifest in manifests if manifest.name == first))]
    chose = roles.count("validation")
    said.append(
        f"Of the {len(roles)} bars {chose} are judged on validation sets and {len(roles) - chose} on test and external "
        "sets. The threshold and the moment of training were chosen on validation sets, by the smallest worst share of "
        "allowed error; this order is a report of what came of it, and chose nothing."
    )
    return said


def _result(row: tuple[int, int, float]) -> str:
    met, total, share = row
    return f"{met} of {total} bars and uses {share:.2f} of the allowed error on average"


def draw_bars(manifests: Sequence[Manifest], path: Path) -> None:
    """Draw every bundle's figures with their intervals and its bars, one row for each set and measure."""
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
            wanted = [item.bar.wanted for _, item in found]
            axes.plot(wanted, places, linestyle="none", marker="|", ms=9, mew=1.8, color=colour)
        axes.set_yticks(range(len(keys)), [f"{set_} {kind}" for set_, kind in reversed(keys)])
        axes.set_xlabel("share judged rightly, with 95 % interval by tile")
        axes.set_xlim(-0.02, 1.02)
        axes.plot([], [], linestyle="none", marker="|", ms=9, mew=1.8, color="0.4", label="wanted")
        drawn.legend(loc="outside lower center", ncols=len(results) + 1)
        drawn.set_layout_engine("constrained")
