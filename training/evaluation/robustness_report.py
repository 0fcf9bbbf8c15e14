"""What does a sweep look like? Figures, Markdown and one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from training.data.dataset import EvaluationSet
from training.evaluation.disturb import Disturbance, Subjects
from training.evaluation.gates import Gates
from training.evaluation.metrics import Estimate
from training.evaluation.robustness import Limit, Robustness, Sweep
from training.figures import CRACK_COLOUR, SOUND_COLOUR, figure
from training.page import Picture, Section, Table, markdown_table, write_page

CAVEATS: Final = (
    (
        "The disturbances are computed, one at a time; a real camera brings several at once. What is shown is an order "
        "of magnitude, and an upper bound for what is tolerated together."
    ),
    (
        "A tile nearer than its photograph is enlarged: it gains no detail, a real camera would. So the fine end of "
        "the scale is cautious. A tile farther away takes in its surroundings, and where the photograph ends it is "
        "mirrored, which repeats a crack and makes it easier to find."
    ),
    "Scale is relative to the tiles' own ground sampling distance, which the photographs do not state.",
    (
        "Tiles that were cut anew and, going by their mask, no longer show the same are left out; cracks without a "
        "pixel mask are left out of the nearer scales."
    ),
)


def write_report(found: Robustness, gates: Gates, subjects: Sequence[Subjects], title: str, out: Path) -> Path:
    """Writes `robustness.md`, `robustness.html` and figures into `out`; returns the page's path."""
    figures = {item.name: draw_sweep(item, out / f"{item.name}.svg") for item in found.sweeps}
    sheet = draw_samples(found, _exemplary(subjects), out / "samples.png")
    limits, notes = limits_table(found), list(gates.notes)
    text = [f"# {title}", "", summary(found), "", markdown_table(limits), "## Gates", ""]
    text += [f"* {note}" for note in notes]
    for item in found.sweeps:
        text += ["", f"## {item.disturbance.title}", "", markdown_table(levels_table(item))]
        text += [markdown_table(sets_table(item)), f"![{item.disturbance.title}]({figures[item.name].name})"]
    text += ["", "## Caveats", "", *(f"* {caveat}" for caveat in CAVEATS)]
    (out / "robustness.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    sections = [
        Section("Where it falls", tables=[limits]),
        Section("What follows for the agent", paragraphs=notes),
        Section("How it looks", pictures=[Picture(sheet, "One tile at every level; what is left out stays empty.")]),
    ]
    sections += [
        Section(
            item.disturbance.title,
            tables=[levels_table(item), sets_table(item)],
            pictures=[Picture(figures[item.name], caption(item))],
        )
        for item in found.sweeps
    ]
    sections.append(Section("Caveats", paragraphs=CAVEATS))
    return write_page(out / "robustness.html", title, summary(found), sections)


def summary(found: Robustness) -> str:
    """What was done, in two sentences."""
    rates = ", ".join(f"{kind} {_estimate(value)} %" for kind, value in found.undisturbed.rates.items())
    sets = ", ".join(found.undisturbed.by_set)
    return (
        f"Undisturbed, {found.undisturbed.tiles} validation tiles ({sets}; every set weighs the same): {rates}, crack "
        f"from logit {found.threshold_logit:+.3f} at every level. Looked for is where a rate falls by "
        f"{100 * found.fall:g} points, on the same tiles."
    )


def caption(item: Sweep) -> str:
    """Of the figure of a disturbance."""
    text = (
        f"{item.disturbance.title} ({item.disturbance.unit}): mean over sets with 95 % interval by photograph, recall "
        "of each set as thin lines; dotted where recall has fallen, shaded between where that is excluded and certain."
    )
    return text + (f" Below: {item.disturbance.moves} as the agent measures it." if item.disturbance.moves else "")


def limits_table(found: Robustness) -> Table:
    """Where recall and specificity fall."""
    rows = []
    for item in found.sweeps:
        for limit in item.limits:
            direction = _direction(item.disturbance, limit)
            rows.append(
                [
                    direction,
                    limit.kind,
                    _place(limit.level, limit),
                    _place(limit.earliest, limit),
                    _place(limit.latest, limit),
                    "–" if limit.sharpness is None else f"{limit.sharpness:.2f}",
                    "–" if limit.brightness is None else f"{limit.brightness:.0f}",
                ]
            )
    return Table(
        (
            "disturbance",
            "rate",
            f"falls by {100 * found.fall:g} points at",
            "excluded up to",
            "certain from",
            "sharpness there",
            "brightness there",
        ),
        rows,
        "Interpolated linearly between the levels that were tried; `beyond` names the last of them. Excluded and "
        "certain at 95 %, by photograph.",
    )


def levels_table(item: Sweep) -> Table:
    """Every level of a disturbance."""
    rows = [
        [
            f"{level.level:g}" + (" (undisturbed)" if level.level == item.disturbance.neutral else ""),
            *(_estimate(level.rates.get(kind)) for kind in ("recall", "specificity")),
            *(_estimate(level.falls.get(kind)) for kind in ("recall", "specificity")),
            str(level.tiles),
            str(level.left_out),
            _number(level.sharpness.median, 2),
            _number(level.brightness.median, 0),
        ]
        for level in item.levels
    ]
    headings = ("level", "recall", "specificity", "fall of recall", "fall of specificity", "tiles", "left out")
    return Table((*headings, "sharpness", "brightness"), rows, "Mean over sets in per cent, 95 % by photograph.")


def sets_table(item: Sweep) -> Table:
    """Recall / specificity by set, with Clopper-Pearson intervals."""
    names = list(dict.fromkeys(name for level in item.levels for name in level.by_set))
    rows = [
        [
            f"{level.level:g}",
            *(
                " / ".join(_estimate(level.by_set.get(name, {}).get(kind)) for kind in ("recall", "specificity"))
                for name in names
            ),
        ]
        for level in item.levels
    ]
    return Table(("level", *names), rows, "Recall / specificity of each set in per cent, 95 % by tile.")


def draw_sweep(item: Sweep, path: Path) -> Path:
    """Rates against the level, and below it the measure by which the agent sees the disturbance."""
    disturbance, places = item.disturbance, [level.level for level in item.levels]
    moves = disturbance.moves
    with figure(path, width_in=7.0, height_in=5.2 if moves else 3.8) as drawn:
        grid = drawn.add_gridspec(2 if moves else 1, 1, height_ratios=(2.4, 1) if moves else (1,))
        axes = drawn.add_subplot(grid[0])
        for kind, colour in (("recall", CRACK_COLOUR), ("specificity", SOUND_COLOUR)):
            known = [(level.level, level.rates[kind]) for level in item.levels if kind in level.rates]
            x = [place for place, _ in known]
            axes.plot(x, [100 * rate.value for _, rate in known], "o-", color=colour, ms=4, label=kind, zorder=3)
            low, high = ([100 * getattr(rate, end) for _, rate in known] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        names = list(dict.fromkeys(name for level in item.levels for name in level.by_set))
        for name, style in zip(names, ("--", ":", "-.", (0, (6, 1)), (0, (1, 1))), strict=False):
            known_sets = [level for level in item.levels if "recall" in level.by_set.get(name, {})]
            if known_sets:
                axes.plot(
                    [level.level for level in known_sets],
                    [100 * level.by_set[name]["recall"].value for level in known_sets],
                    linestyle=style,
                    color="#555555",
                    lw=0.8,
                    label=f"recall {name}",
                )
        for limit in item.limits:
            if limit.kind == "recall":
                _draw_limit(axes, limit)
        axes.set_ylabel("per cent")
        axes.set_ylim(_floor(item), 101)
        axes.legend(fontsize=7, loc="lower left", ncols=2)
        below = [axes]
        if moves:
            lower = drawn.add_subplot(grid[1], sharex=axes)
            spreads = [getattr(level, moves) for level in item.levels]
            lower.plot(places, [spread.median for spread in spreads], "o-", color="#555555", ms=3)
            lower.fill_between(
                places, [s.low for s in spreads], [s.high for s in spreads], color="#555555", alpha=0.15, lw=0
            )
            lower.set_ylabel(moves)
            below.append(lower)
            axes.tick_params(labelbottom=False)
        for part in below:
            if disturbance.spacing == "log":
                part.set_xscale("log")
            part.set_xticks(places, [f"{place:g}" for place in places])
            part.minorticks_off()
        below[-1].set_xlabel(f"{disturbance.title.lower()} ({disturbance.unit})")
        axes.set_title(disturbance.title, loc="left", fontsize=10)
    return path


def _draw_limit(axes: object, limit: Limit) -> None:
    if limit.level is not None:
        axes.axvline(limit.level, color=CRACK_COLOUR, ls=":", lw=1.2)  # type: ignore[attr-defined]
    if limit.earliest is not None:
        late = limit.latest if limit.latest is not None else limit.last
        axes.axvspan(*sorted((limit.earliest, late)), color="#999999", alpha=0.12, lw=0)  # type: ignore[attr-defined]


def _floor(item: Sweep) -> float:
    """Where the axis of the rates begins: low enough for every curve."""
    values = [rate.value for level in item.levels for rate in level.rates.values()]
    values += [rates["recall"].value for level in item.levels for rates in level.by_set.values() if "recall" in rates]
    return max(0.0, math.floor(10 * min(values)) * 10 - 5)


def draw_samples(found: Robustness, subjects: Subjects, path: Path) -> Path:
    """One cracked tile under everything that was tried: of those that are neither dark nor bright."""
    index = middling_crack(subjects.tiles)
    columns = max(len(item.levels) for item in found.sweeps)
    with figure(path, width_in=1.15 * columns, height_in=1.45 * len(found.sweeps)) as drawn:
        for row, item in enumerate(found.sweeps):
            for column, level in enumerate(item.levels):
                axes = drawn.add_subplot(len(found.sweeps), columns, row * columns + column + 1)
                same = level.level == item.disturbance.neutral
                tile = (
                    np.asarray(subjects.tiles.tiles[index])
                    if same
                    else subjects.disturbed(item.name, level.level, index, 0)
                )
                axes.set_axis_off()
                axes.set_title(f"{item.name} {level.level:g}", fontsize=6)
                if tile is not None:
                    axes.imshow(tile[..., ::-1])
                else:
                    axes.text(0.5, 0.5, "left out", ha="center", va="center", fontsize=6)
    return path


def middling_crack(tiles: EvaluationSet) -> int:
    """The cracked tile whose mean grey level is nearest to 128; the first tile where none is cracked."""
    grey = tiles.tiles.mean(axis=(1, 2, 3))
    return int(np.argmin(np.where(tiles.labels, np.abs(grey - 128), np.inf)))


def _exemplary(subjects: Sequence[Subjects]) -> Subjects:
    """A set whose cracks can be followed through all scales (it has masks), else one with cracks."""
    return max(subjects, key=lambda item: (bool(item.tiles.labels.any()), item.tiles.masks is not None))


def _direction(disturbance: Disturbance, limit: Limit) -> str:
    names = {
        ("exposure", "below"): "darker",
        ("exposure", "above"): "brighter",
        ("scale", "below"): "nearer",
        ("scale", "above"): "farther",
    }
    more = names.get((disturbance.name, limit.side))
    return f"{disturbance.title}, {more}" if more else disturbance.title


def _place(level: float | None, limit: Limit) -> str:
    return f"beyond {limit.last:g}" if level is None else f"{level:.3g}"


def _estimate(value: Estimate | None) -> str:
    if value is None or math.isnan(value.value):
        return "–"
    text = f"{100 * value.value:.1f}"
    return text if math.isnan(value.low) else f"{text} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
