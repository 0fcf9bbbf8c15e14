"""How is shown what a model looks at? Maps of single tiles, bars with intervals, tables, and one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from training.evaluation.explain import CELLS, GRAD_CAM, GRAD_CAM_EARLIER, METHODS, Maps
from training.evaluation.gallery import Mistake, OperatingPoint, outlined, shortened
from training.evaluation.metrics import Estimate
from training.evaluation.pointing import ABOVE_CONTROL, NO_CONTROL, Pointing
from training.figures import COLOURS, figure
from training.page import Picture, Section, Table, render_markdown, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = npt.NDArray[np.uint8]

TRAINED: Final = "trained"
RANDOM: Final = "random weights"
ALL_CRACKS: Final = "all cracks"
FOUND_CRACKS: Final = "found cracks"

CAVEATS: Final = (
    (
        "Maps of random weights are the control: what they reach comes from the picture (cracks are edges, edges shine "
        "in every gradient), not from what was learnt. A method says something about the model only by what it "
        "reaches beyond them on the same tiles. The interval of that difference is for other photographs, not for "
        "other draws of the random weights."
    ),
    (
        "A random point hits the widened mask as often as the share of the tile that it covers: that is chance, "
        "and a constant map puts the same share of its energy there. Above chance alone says little: maps of random "
        "weights can be so too."
    ),
    "A map with no positive value anywhere counts as missed, with no energy on the crack, in the control too.",
    (
        "Looking at the crack is no proof that nothing else was used; not looking at it on a found crack shows that "
        "something else was."
    ),
    "Masks were drawn by hand, by several people; the tolerance covers their shifts, not cracks that were forgotten.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One tile with its maps; `verdict` is "found", "missed", "false alarm" or "passed"."""

    verdict: str
    tile: Image
    mask: Image | None
    maps: Maps
    group: str
    kind: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What one method reaches on one set.

    Attributes:
        where: set and split.
        role: "validation", "test", "external" or "drawn".
        network: trained or with random weights.
        method: of `training.evaluation.explain.METHODS`.
        tiles: which: all cracks, or those that the model finds.
        pointing: the figures.
        similarity: mean rank correlation of the trained net's maps with those of random weights, by photograph.
    """

    where: str
    role: str
    network: str
    method: str
    tiles: str
    pointing: Pointing
    similarity: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        similar = None if self.similarity is None else [_number(value) for value in self.similarity.as_list()]
        return {
            "set": self.where,
            "role": self.role,
            "network": self.network,
            "method": self.method,
            "of": self.tiles,
            **self.pointing.to_dict(),
            "similarity_to_random": similar,
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tiles of a set were scored, and how many the set has."""

    cracks: int
    cracks_in_set: int
    sound: int
    sound_in_set: int


@dataclass(frozen=True, slots=True)
class Explained:
    """All that was found out about one model.

    Attributes:
        label: of the model, with the file.
        point: where it was judged.
        tiles: number of scored tiles by set.
        masked: how many cracked tiles with a mask were measured, and of how many, by set.
        errors: wrongly judged tiles by set.
        sheets: contact sheets and captions by set.
        examples: figure and caption by set.
        measured: the pointing game and the energy.
        chart: their figure; None where nothing was measured.
        layers: which one each Grad-CAM explains; empty for a model without gradients.
        completeness: of Integrated Gradients by network (see `training.evaluation.explain.completeness`).
        maps_of: what the maps are of, where that is not what was judged; else empty.
        settings: tolerance and sizes, for the text.
    """

    label: str
    point: OperatingPoint
    tiles: dict[str, Counts]
    masked: dict[str, tuple[int, int]]
    errors: Mapping[str, Sequence[Mistake]]
    sheets: Mapping[str, Sequence[Picture]]
    examples: Sequence[Picture]
    measured: Sequence[Measured]
    chart: Path | None
    layers: dict[str, str]
    completeness: dict[str, dict[str, float]]
    maps_of: str
    settings: dict[str, Any]


def write_report(found: Explained, out: Path) -> Path:
    """Write `index.html` (with its sections) and `explain.md` into `out`; return the page's path."""
    sections = [_looking(found), _maps(found), _gallery(found), Section("What this can and cannot say", CAVEATS)]
    title = f"What {found.label} looks at, and where it errs"
    summary = _summary(found)
    text = render_markdown(title, summary, sections, lambda path: path.relative_to(out).as_posix())
    (out / "explain.md").write_text(text, encoding="utf-8")
    return write_page(out / "index.html", title, summary, sections)


def plain_statements(measured: Sequence[Measured]) -> list[str]:
    """For each set and method of the trained net, on all cracks: a line against the control and one against chance."""
    lines = []
    for item in _compared(measured):
        pointing = item.pointing
        start = (
            f"{item.where} ({item.role}), {item.method}: the maximum meets the crack on {percent(pointing.hits)} of "
            f"{pointing.hits.total} cracked tiles"
        )
        by_area = f"a random point on {100 * pointing.chance:.1f}; {pointing.verdict_by_area}"
        if pointing.hits_above_control is None:
            lines.append(f"{start}, {by_area}")
            continue
        lines += [
            (
                f"{start}, random weights on "
                f"{_of_control(pointing.hits, pointing.hits_above_control)} of the same, difference "
                f"{percent(pointing.hits_above_control)}; {pointing.verdict}"
            ),
            f"  by area: {by_area}",
        ]
    return lines


def _compared(measured: Sequence[Measured]) -> list[Measured]:
    """Those of the trained net on all cracks."""
    return [item for item in measured if item.network == TRAINED and item.tiles == ALL_CRACKS]


def _of_control(value: Estimate, above: Estimate) -> str:
    """What the control reaches on the same tiles (per cent)."""
    return f"{100 * (value.value - above.value):.1f}"


def _verdicts(measured: Sequence[Measured]) -> list[str]:
    """How often the trained net is above the control, and where it is not; a sentence for each of the two figures."""
    items = [item for item in _compared(measured) if item.pointing.verdict != NO_CONTROL]
    if not items:
        return ["No control was measured: chance by area alone does not tell a crack from any other edge."]
    figures = {
        "Pointing game": [item.pointing.verdict for item in items],
        "Energy": [item.pointing.energy_verdict for item in items],
    }
    sentences = []
    for heading, verdicts in figures.items():
        others = [
            f"{item.where}, {item.method}: {verdict}"
            for item, verdict in zip(items, verdicts, strict=True)
            if verdict != ABOVE_CONTROL
        ]
        text = f"{heading}, all cracks: above the control in {len(items) - len(others)} of {len(items)} comparisons"
        exceptions = f" Not so: {'; '.join(others)}." if others else ""
        sentences.append(f"{text} (a set and a map each).{exceptions}")
    return sentences


def draw_examples(path: Path, examples: Sequence[Example]) -> Path:
    """Draw a row for each tile: the tile, the mask's outline, and the maps over it (PNG)."""
    methods = [method for method in METHODS if any(example.maps.of(method) is not None for example in examples)]
    titles = ["tile", "mask outline", *("cells (logits)" if method == CELLS else method for method in methods)]
    columns = len(titles)
    with figure(path, width_in=1.8 * columns, height_in=1.95 * len(examples) + 0.2) as drawn:
        for row, example in enumerate(examples):
            axes = [drawn.add_subplot(len(examples), columns, columns * row + column + 1) for column in range(columns)]
            side = example.tile.shape[0]
            grey = np.repeat(example.tile.mean(axis=2, keepdims=True), 3, axis=2) / 255
            pictures = (example.tile, outlined(example.tile, example.mask))
            for part, picture in zip(axes[:2], pictures, strict=True):
                part.imshow(picture[..., ::-1])
            for part, method in zip(axes[2:], methods, strict=True):
                part.imshow(grey, extent=(0, side, side, 0))
                _overlay(part, example.maps, method, side)
                if example.mask is not None and (example.mask > 127).any():
                    part.contour(
                        np.arange(side) + 0.5,
                        np.arange(side) + 0.5,
                        (example.mask > 127).astype(float),
                        levels=[0.5],
                        colors="#00E5E5",
                        linewidths=0.6,
                    )
            for column, part in enumerate(axes):
                part.set_xticks([])
                part.set_yticks([])
                part.grid(visible=False)
                for spine in part.spines.values():
                    spine.set_visible(False)
                if row == 0:
                    part.set_title(titles[column], fontsize=8)
            without = example.mask is None or not (example.mask > 127).any()
            if without:
                axes[1].set_xlabel("no mask" if example.mask is None else "mask is empty", fontsize=6)
            axes[0].set_xlabel(f"{example.kind}, {shortened(example.group)}", fontsize=6)
            axes[0].set_ylabel(f"{example.verdict}\nlogit {example.maps.logit:+.2f}", fontsize=7)
    return path


def _overlay(axes: Axes, maps: Maps, method: str, side: int) -> None:
    values = maps.of(method)
    if values is None:
        axes.text(side / 2, side / 2, "needs gradients", ha="center", va="center", fontsize=7)
        return
    extent = (0, side, side, 0)
    if method in {GRAD_CAM, GRAD_CAM_EARLIER}:
        top = max(float(values.max()), 1e-9)
        axes.imshow(values, cmap="inferno", vmin=0, vmax=top, alpha=0.6, extent=extent, interpolation="bilinear")
        axes.set_xlabel(f"0 to {top:.2g}" if values.max() > 0 else "nothing positive", fontsize=6)
        return
    # single pixels would decide the scale of integrated gradients
    top = max(float(np.abs(values).max() if method == CELLS else np.percentile(np.abs(values), 99.5)), 1e-9)
    alpha = 0.55 if method == CELLS else 0.75
    axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, alpha=alpha, extent=extent, interpolation="nearest")
    axes.set_xlabel(f"-{top:.2g} (blue) to {top:.2g} (red)", fontsize=6)


def draw_bars(path: Path, measured: Sequence[Measured]) -> Path:
    """Draw pointing game and energy of all cracks by set, trained beside random weights, over the chance level.

    Below them, where there is a control: the paired difference of each to random weights on the same tiles.
    """
    shown = [item for item in measured if item.tiles == ALL_CRACKS]
    places = list(dict.fromkeys(item.where for item in shown))
    methods = [method for method in METHODS if any(item.method == method for item in shown)]
    compared = [item for item in _compared(measured) if item.pointing.verdict != NO_CONTROL]
    rows = 3 if compared else 2
    with figure(path, width_in=8.5, height_in=3.2 * rows) as drawn:
        panels = drawn.subplots(rows, 1, sharex=True)
        _draw_reached(panels[0], shown, places, methods, energy=False)
        _draw_reached(panels[1], shown, places, methods, energy=True)
        panels[1].set_xticks(range(len(places)), places)
        handles, labels = panels[0].get_legend_handles_labels()
        if compared:
            _draw_differences(panels[2], compared, places, methods)
        panels[-1].legend(handles, labels, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return path


def _draw_reached(
    axes: Axes, shown: Sequence[Measured], places: Sequence[str], methods: Sequence[str], *, energy: bool
) -> None:
    networks = [network for network in (TRAINED, RANDOM) if any(item.network == network for item in shown)]
    width = 0.8 / (len(methods) * len(networks))
    for slot, (method, network) in enumerate((m, n) for m in methods for n in networks):
        rows = {item.where: item.pointing for item in shown if (item.method, item.network) == (method, network)}
        known = [(index, rows[place]) for index, place in enumerate(places) if place in rows]
        estimates = [item.energy if energy else _widest(item.hits, item.hits_by_group) for _, item in known]
        axes.bar(
            [index - 0.4 + (slot + 0.5) * width for index, _ in known],
            [100 * value.value for value in estimates],
            width * 0.92,
            yerr=_whiskers(estimates),
            color=COLOURS[METHODS.index(method)],
            alpha=1.0 if network == TRAINED else 0.35,
            hatch=None if network == TRAINED else "///",
            edgecolor="white",
            ecolor="#222222",
            capsize=2,
            error_kw={"elinewidth": 1},
            label=f"{method}, {network}",
        )
    for index, place in enumerate(places):
        chance = next(item.pointing.chance for item in shown if item.where == place)
        axes.hlines(
            100 * chance,
            index - 0.42,
            index + 0.42,
            color="#000000",
            ls="--",
            lw=1.2,
            zorder=4,
            label="chance (share of the tile)" if index == 0 else "_again",
        )
    axes.set_ylabel("per cent")
    axes.set_ylim(0, 105)
    heading = "energy on the crack" if energy else "pointing game: maximum on the crack"
    axes.set_title(heading, loc="left", fontsize=9)


def _draw_differences(axes: Axes, compared: Sequence[Measured], places: Sequence[str], methods: Sequence[str]) -> None:
    width = 0.8 / (2 * len(methods))
    for slot, (method, energy) in enumerate((method, energy) for method in methods for energy in (False, True)):
        known = [(places.index(item.where), item.pointing) for item in compared if item.method == method]
        differences = [
            (index, difference)
            for index, item in known
            if (difference := item.energy_above_control if energy else item.hits_above_control) is not None
        ]
        estimates = [difference for _, difference in differences]
        axes.errorbar(
            [index - 0.4 + (slot + 0.5) * width for index, _ in differences],
            [100 * value.value for value in estimates],
            yerr=_whiskers(estimates),
            color=COLOURS[METHODS.index(method)],
            fmt="D" if energy else "o",
            mfc="white" if energy else None,
            ms=4,
            capsize=2,
            elinewidth=1,
        )
    axes.axhline(0, color="#000000", lw=1.2)
    axes.set_ylabel("points")
    heading = "trained minus random weights on the same tiles (dots: pointing game, hollow: energy)"
    axes.set_title(heading, loc="left", fontsize=9)


def _whiskers(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the whiskers below and above (per cent); 0 where there is no interval."""
    return [
        [100 * max(0.0, value.value - _end(value.low, value.value)) for value in estimates],
        [100 * max(0.0, _end(value.high, value.value) - value.value) for value in estimates],
    ]


def percent(value: Estimate) -> str:
    """A share as per cent with its interval."""
    if math.isnan(value.value):
        return "–"
    text = f"{100 * value.value:.1f}"
    return text if math.isnan(value.low) else f"{text} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _summary(found: Explained) -> str:
    wrong = sum(len(items) for items in found.errors.values())
    total = sum(counts.cracks + counts.sound for counts in found.tiles.values())
    everything = sum(counts.cracks_in_set + counts.sound_in_set for counts in found.tiles.values())
    drawn = "" if total == everything else f" (drawn from {everything:,})"
    return (
        f"{wrong} of {total:,} tiles{drawn} judged wrongly; crack from logit {found.point.threshold_logit:+.3f} "
        f"(p {found.point.p_crack(found.point.threshold_logit):.3f}), {found.point.basis}."
    )


def _looking(found: Explained) -> Section:
    tolerance, smooth = found.settings["tolerance_px"], found.settings["smooth_px"]
    paragraphs = [
        (
            "Pointing game: is the greatest value of the map on the crack? Energy: which share of its positive part "
            f"is on it? On it means at most {tolerance:g} px of the 224 px tile from the mask. Integrated Gradients "
            f"are smoothed (Gaussian, {smooth:g} px) before their maximum is looked for, not for the energy."
        )
    ]
    if not found.measured:
        return Section("Does it look at the crack?", [*paragraphs, "None of the sets had a cracked tile with a mask."])
    paragraphs.append(
        "Control: the same network with random weights, shown the same tiles. The verdict is that of the paired "
        "difference, trained minus random weights: above the control where its whole interval is above 0. By area: "
        "the same against a random point."
    )
    measured_of = ", ".join(f"{key} {count} of {total:,}" for key, (count, total) in found.masked.items())
    most = found.settings["integrated_tiles"]
    of_these = (
        f" Integrated Gradients, which take nearly all of the time: of at most {most} of each set, drawn at random from"
        " these. Every row says on how many tiles it rests."
        if most is not None and found.layers
        else ""
    )
    paragraphs.append(f"Cracked tiles with a mask, drawn at random where not all: {measured_of}.{of_these}")
    rows = [
        [
            *_who(item),
            percent(item.pointing.hits),
            percent(item.pointing.hits_by_group),
            f"{100 * item.pointing.chance:.1f}",
            percent(item.pointing.hits_above),
            item.pointing.verdict_by_area,
        ]
        for item in found.measured
    ]
    shares = [
        [
            *_who(item),
            percent(item.pointing.energy),
            f"{100 * item.pointing.chance:.1f}",
            percent(item.pointing.energy_above),
            f"{100 * item.pointing.reachable:.0f}",
            str(item.pointing.silent),
        ]
        for item in found.measured
    ]
    who = ("set", "network", "map", "of", "tiles")
    note = "Pointing game by area, per cent, 95 %: by tile Clopper-Pearson, everything else bootstrap by photograph."
    note_energy = (
        "Energy by area, per cent (silent: tiles without a positive value), 95 % bootstrap by photograph. Reachable: "
        "tiles on which some cell's centre lies on the crack; in the pointing game a coarse map cannot hit more."
    )
    similar = [
        [
            item.where,
            item.method,
            f"{item.similarity.value:.2f} ({item.similarity.low:.2f} to {item.similarity.high:.2f})",
        ]
        for item in found.measured
        if item.similarity is not None
    ]
    tables = [
        *_against_control(found.measured),
        Table((*who, "by tile", "by photograph", "chance", "above chance", "verdict by area"), rows, note),
        Table((*who, "energy", "chance", "above chance", "reachable", "silent"), shares, note_energy),
    ]
    if similar:
        tables.append(
            Table(
                ("set", "map", "rank correlation"),
                similar,
                "Of the sizes of the trained net's maps with those of random weights (Adebayo et al. 2018), mean over "
                "tiles, 95 % by photograph. Near 1: the map does not depend on what was learnt.",
            )
        )
    pictures = []
    if found.chart is not None:
        caption = (
            "All cracks, by set. Whiskers: 95 %, the wider of the intervals by tile and by photograph (energy and "
            "differences: by photograph); hatched: random weights; dashed: chance. Above the control: the whole "
            "whisker of the difference is above 0."
        )
        pictures.append(Picture(found.chart, caption))
    return Section("Does it look at the crack?", [*paragraphs, *_verdicts(found.measured)], tables, pictures)


def _against_control(measured: Sequence[Measured]) -> list[Table]:
    """Pointing game and energy of the trained net beside the control on the same tiles; none without a control."""
    pointing, energy = [], []
    for item in measured:
        figures = item.pointing
        if figures.hits_above_control is None or figures.energy_above_control is None:
            continue
        who = [f"{item.where} ({item.role})", item.method, item.tiles, str(figures.hits.total)]
        pointing.append(
            [
                *who,
                f"{100 * figures.hits.value:.1f}",
                _of_control(figures.hits, figures.hits_above_control),
                percent(figures.hits_above_control),
                figures.verdict,
                f"{100 * figures.chance:.1f}; {figures.verdict_by_area}",
            ]
        )
        energy.append(
            [
                *who,
                f"{100 * figures.energy.value:.1f}",
                _of_control(figures.energy, figures.energy_above_control),
                percent(figures.energy_above_control),
                figures.energy_verdict,
            ]
        )
    if not pointing:
        return []
    headings = ("set", "map", "of", "tiles", "trained", "random weights", "difference", "verdict")
    interval = "trained minus random weights on the same tiles; 95 % bootstrap by photograph."
    return [
        Table((*headings, "by area"), pointing, f"Pointing game, per cent; difference: {interval}"),
        Table(headings, energy, f"Energy, per cent; difference: {interval}"),
    ]


def _who(item: Measured) -> list[str]:
    return [f"{item.where} ({item.role})", item.network, item.method, item.tiles, str(item.pointing.hits.total)]


def _maps(found: Explained) -> Section:
    if not found.layers:
        return Section(
            "Maps of single tiles",
            [
                (
                    "A single ONNX file has no gradients: Grad-CAM and Integrated Gradients need the checkpoint or the "
                    "folder of the bundle."
                )
            ],
        )
    paragraphs = [
        (
            f"{GRAD_CAM}: {found.layers[GRAD_CAM]}. With the linear head of these nets it is the cells without the "
            "head's bias, cut off at zero and divided by their number: they agree by construction, and are no two "
            "witnesses."
        )
    ]
    if GRAD_CAM_EARLIER in found.layers:
        paragraphs.append(
            f"{GRAD_CAM_EARLIER}: {found.layers[GRAD_CAM_EARLIER]}. Convolutions follow it, so it does not repeat the "
            "cells."
        )
    paragraphs.append(
        f"Integrated Gradients: from a tile of grey level 127 (zero after the scaling inside the net), summed over the "
        f"colours; red speaks for a crack, blue against. {found.settings['n_steps']} steps, doubled up to "
        f"{found.settings['most_steps']} for a tile whose sum misses more than "
        f"{100 * found.settings['missing_share']:g} % of the difference of the two logits and more than "
        f"{found.settings['missing_logit']:g}; random weights take the steps of the trained net on the same tile."
    )
    if found.maps_of:
        paragraphs.insert(0, f"Verdicts are those of this file; the maps and the logits beside them: {found.maps_of}.")
    paragraphs += [_convergence(network, missing) for network, missing in found.completeness.items()]
    return Section("Maps of single tiles", paragraphs, pictures=found.examples)


def _convergence(network: str, missing: Mapping[str, float]) -> str:
    return (
        f"Convergence, {network}: the sum misses the difference of the two logits by "
        f"{missing['median_logits']:.3f} at the median, {missing['percentile_90_logits']:.3f} at the 90th percentile "
        f"and at most {missing['greatest_logits']:.3f} logits ({100 * missing['median_share']:.1f} % of the difference "
        f"at the median). {missing['refined']} of {missing['tiles']} tiles took more than the first steps; "
        f"{missing['missing_too_much']} still miss more than allowed."
    )


def _gallery(found: Explained) -> Section:
    rows = []
    for key, counts in found.tiles.items():
        errors = found.errors[key]
        false_negatives = sum(item.error == "false negative" for item in errors)
        rows.append(
            [
                key,
                f"{counts.cracks} of {counts.cracks_in_set:,}",
                str(false_negatives),
                f"{counts.sound} of {counts.sound_in_set:,}",
                str(len(errors) - false_negatives),
            ]
        )
    limit = found.settings["limit"]
    note = "All errors among the scored tiles: errors.csv."
    if limit is not None:
        note = f"Scored tiles of those in the set: at most {limit} a set, drawn at random. {note}"
    table = Table(("set", "cracks", "missed", "sound", "false alarms"), rows, note)
    parts = [Section(key, pictures=pictures) for key, pictures in found.sheets.items() if pictures]
    return Section("Worst errors", ["The farthest from the threshold come first."], [table], sections=parts)


def _widest(first: Estimate, second: Estimate) -> Estimate:
    if math.isnan(second.low):
        return first
    return Estimate(first.value, min(first.low, second.low), max(first.high, second.high))


def _end(end: float, value: float) -> float:
    return value if math.isnan(end) else end


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
