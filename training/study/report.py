"""What did a study find, how surely, and what does it not say? Tables, figures and a page of all runs that are done.

Every figure is made of the runs' logits on validation sets at p = 0.5. Of several seeds the mean is taken. Two kinds of
interval stand side by side: by tile (Clopper-Pearson of the mean rate) and by photograph (bootstrap of the mean over
seeds). Differences to the base are taken on the same photographs in every draw, and with the same seeds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Estimate, auroc, bootstrap_by_group, clopper_pearson, photographs_of, share
from training.evaluation.threshold import Scored
from training.figures import COLOURS, figure
from training.page import Picture, Section, Table, render_markdown, write_page
from training.study.plan import Point, factor_points, factors_of, grid_points, level_text, planned
from training.study.run import Outcome, write_json
from training.study.settings import FACTORS, GRID, StudySettings

Measure = Literal["auroc", "recall", "specificity"]
MEASURES: Final[tuple[Measure, ...]] = ("auroc", "recall", "specificity")
ALL_SETS: Final = "all sets"
THRESHOLD_LOGIT: Final = 0.0
"""p = 0.5: what is compared are trainings, and a threshold of its own for each would hide what pos_weight does."""

TITLES: Final = {
    "lr": "Learning rate",
    "batch": "Batch",
    "pos_weight": "Weight of the cracks in the loss (pos_weight)",
    "preset": "Augmentation",
    "sources": "Data sources",
    "px": "Input scale",
    "width": "Width of the network",
}
BASES: Final = "models"
"""Stands for a factor where the bases of the models are held against each other."""

_GAP: Final = 0.6


@dataclass(frozen=True)
class Cell:
    """One measure of a point on one set.

    Attributes:
        name: of the set, or `ALL_SETS`.
        measure: which.
        value: mean over seeds, 0..1.
        by_tile: ends of the Clopper-Pearson interval; None for an area.
        by_photograph: ends of the bootstrap; None with fewer than two photographs.
        seeds: the value of each seed.
        difference: to the base, with the interval of the bootstrap by photograph; None for the base itself.
    """

    name: str
    measure: Measure
    value: float
    by_tile: tuple[float, float] | None
    by_photograph: tuple[float, float] | None
    seeds: tuple[float, ...]
    difference: Estimate | None

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference leaves out zero: "higher", "lower", "not shown", or "base"."""
        if self.difference is None:
            return "base"
        if self.difference.low > 0:
            return "higher"
        return "lower" if self.difference.high < 0 else "not shown"


@dataclass(frozen=True)
class PointResult:
    """All that is known about a point."""

    point: Point
    outcomes: tuple[Outcome, ...]
    cells: dict[tuple[str, Measure], Cell]

    @property
    def steps(self) -> int:
        """Steps of each of its runs."""
        return self.outcomes[0].steps


def pooled(scored: Sequence[Scored]) -> Scored:
    """Put sets together; photographs of different sets stay different."""
    return Scored(
        ALL_SETS,
        np.concatenate([item.logits for item in scored]),
        np.concatenate([item.labels for item in scored]),
        tuple(kind for item in scored for kind in item.kinds),
        tuple(f"{item.name}/{group}" for item in scored for group in item.groups),
    )


def statistic(item: Scored, measure: Measure) -> Callable[[NDArray[np.float64]], float] | None:
    """Return a measure as a function of the tiles' weights [N]; None where the set cannot say it."""
    labels = np.asarray(item.labels, dtype=np.bool_)
    called = np.asarray(item.logits) >= THRESHOLD_LOGIT
    if measure == "auroc":
        both = labels.any() and not labels.all()
        return (lambda weights: auroc(item.logits, labels, weights)) if both else None
    of = labels if measure == "recall" else ~labels
    return share(called == labels, of) if of.any() else None


def measure_cell(
    mine: dict[int, Scored], base: dict[int, Scored] | None, measure: Measure, resamples: int, name: str
) -> Cell | None:
    """Return one measure of a point.

    Args:
        mine: seed -> logits of the point; the same tiles for every seed.
        base: the same of the base; None for the base itself.
        measure: which.
        resamples: draws of the bootstrap.
        name: of the set.

    Returns:
        The cell; None where the set cannot say it.
    """
    first = next(iter(mine.values()))
    of_seeds = {seed: statistic(item, measure) for seed, item in mine.items()}
    known = {seed: function for seed, function in of_seeds.items() if function is not None}
    if not known:
        return None
    whole = np.ones(len(first.labels))
    values = tuple(function(whole) for function in known.values())
    value = float(np.mean(values))

    def mean(weights: NDArray[np.float64]) -> float:
        return float(np.mean([function(weights) for function in known.values()]))

    photographs = min(photographs_of(first.groups, of) for of in _rests_on(first, measure))
    estimate = bootstrap_by_group(mean, first.groups, photographs=photographs, resamples=resamples)
    by_tile = None
    if measure != "auroc":
        total = int((first.labels if measure == "recall" else ~first.labels).sum())
        by_tile = clopper_pearson(round(value * total), total)
    return Cell(
        name,
        measure,
        value,
        by_tile,
        None if math.isnan(estimate.low) else (estimate.low, estimate.high),
        values,
        None if base is None else _difference(known, base, measure, first.groups, photographs, resamples),
    )


def _rests_on(item: Scored, measure: Measure) -> list[NDArray[np.bool_]]:
    """Return which tiles a measure is taken of, for each class that it needs."""
    labels = np.asarray(item.labels, dtype=np.bool_)
    return {"recall": [labels], "specificity": [~labels], "auroc": [labels, ~labels]}[measure]


def _difference(
    mine: dict[int, Callable[[NDArray[np.float64]], float]],
    base: dict[int, Scored],
    measure: Measure,
    groups: Sequence[str],
    photographs: int,
    resamples: int,
) -> Estimate | None:
    """Return the mean difference over the seeds that both have, on the same photographs in every draw."""
    pairs = []
    for seed, function in mine.items():
        other = statistic(base[seed], measure) if seed in base else None
        if other is not None:
            pairs.append((function, other))
    if not pairs:
        return None

    def difference(weights: NDArray[np.float64]) -> float:
        return float(np.mean([one(weights) - other(weights) for one, other in pairs]))

    return bootstrap_by_group(difference, groups, photographs=photographs, bounds=(-1.0, 1.0), resamples=resamples)


def point_results(settings: StudySettings, outcomes: Sequence[Outcome]) -> dict[Point, PointResult]:
    """Return what every point came to, as far as it was run."""
    runs: dict[Point, list[Outcome]] = {}
    for outcome in outcomes:
        runs.setdefault(outcome.run.point, []).append(outcome)
    by_point = {point: _by_set(mine) for point, mine in runs.items()}
    results = {}
    for point, sets in by_point.items():
        base = Point(point.model, settings.models[point.model].base)
        of_base = by_point.get(base) if point != base else None
        cells = {}
        for name, mine in sets.items():
            for measure in MEASURES:
                other = None if of_base is None else of_base[name]
                cell = measure_cell(mine, other, measure, settings.resamples, name)
                if cell is not None:
                    cells[name, measure] = cell
        results[point] = PointResult(point, tuple(runs[point]), cells)
    return results


def _by_set(outcomes: Sequence[Outcome]) -> dict[str, dict[int, Scored]]:
    """Return set -> seed -> logits, all sets together among them."""
    found: dict[str, dict[int, Scored]] = {}
    for outcome in outcomes:
        for item in (pooled(outcome.scored), *outcome.scored):
            found.setdefault(item.name, {})[outcome.run.seed] = item
    return found


def headline(settings: StudySettings, outcomes: Sequence[Outcome]) -> str:
    """Say what was run, in one paragraph."""
    hours = sum(outcome.minutes for outcome in outcomes) / 60
    budget = settings.budget
    wanted = f"{budget.minutes:g} minutes" if budget.minutes is not None else f"{budget.steps} steps"
    missing = len(planned(settings)) - len(outcomes)
    return (
        f"{len(outcomes)} runs of {', '.join(settings.models)}, {wanted} each, {hours:.1f} hours of training; "
        f"judged on validation sets alone ({', '.join(settings.validation)}) at p = 0.5."
        + (f" {missing} runs of the plan are not done." if missing else "")
    )


def statements(settings: StudySettings, results: dict[Point, PointResult]) -> list[str]:
    """Say for each model and factor which levels differ from the base, and where none was shown to."""
    said = []
    for model in settings.models:
        for factor in factors_of(settings, model):
            found = [
                result
                for point in factor_points(settings, model, factor)
                if (result := results.get(point)) is not None and point.setting != settings.models[model].base
            ]
            if found:
                said.append(
                    f"{model}, {_lower(TITLES[factor])}: " + "; ".join(_says(one, factor) for one in found) + "."
                )
    return said


def _says(result: PointResult, factor: str) -> str:
    level = level_text(getattr(result.point.setting, factor))
    parts = []
    for measure in MEASURES:
        cell = result.cells.get((ALL_SETS, measure))
        if cell is not None and cell.verdict in {"higher", "lower"} and cell.difference is not None:
            parts.append(f"{_name(measure)} {cell.verdict} by {100 * abs(cell.difference.value):.1f} points")
    return f"{level}: " + (", ".join(parts) or "no difference to the base was shown")


def limits(settings: StudySettings, results: dict[Point, PointResult]) -> list[str]:
    """Say what the figures do not support."""
    said = [
        "Intervals say how far other photographs of the same kind might move a figure; the wider one is the honest one."
    ]
    repeated = [result for result in results.values() if len(result.outcomes) > 1]
    spreads = [np.ptp(cell.seeds) for one in repeated if (cell := one.cells.get((ALL_SETS, "auroc"))) is not None]
    if spreads:
        said.append(
            f"Between seeds of one point the AUROC over all sets differed by {100 * float(np.median(spreads)):.1f}"
            f" points in the median and {100 * float(np.max(spreads)):.1f} at most; a smaller difference between "
            "points is no finding, whatever its interval."
        )
    if len(repeated) < len(results):
        said.append(
            f"{len(results) - len(repeated)} of {len(results)} points were run with one seed: how much another start "
            "would change them is not known, and no interval holds it."
        )
    compared = sum(
        cell.difference is not None
        for one in results.values()
        for (name, _), cell in one.cells.items()
        if name == ALL_SETS
    )
    said.append(
        f"{compared} differences over all sets stand here at 95 %; were none true, about {0.05 * compared:.1f} of them "
        "would still leave out zero."
    )
    said.append(
        "Factors are varied one at a time around a base: what two of them do together is not seen"
        + (
            ", apart from learning rate, batch and pos_weight, of which all combinations were run."
            if settings.grid
            else "."
        )
    )
    said.append(
        "Levels of learning rate, batch, loss, augmentation and data see equally many tiles. "
        + (
            "Input scale and width get equal minutes and so unequally many tiles."
            if settings.budget.minutes is not None
            else "Input scale and width see equally many as well, and so take unequal minutes."
        )
        + (
            " Each point is judged on tiles of the size it was trained at."
            if settings.judged_px == "training"
            else f" All points are judged on tiles of {settings.judged_px} px."
        )
    )
    return said


def write_report(
    settings: StudySettings, outcomes: Sequence[Outcome], calibrations: dict[str, Any], folder: Path
) -> Path:
    """Write `study.json`, `.csv`, `.md`, figures and `index.html`; return the page's path."""
    results = point_results(settings, outcomes)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", to_dict(settings, outcomes, results, calibrations))
    write_csv(settings, results, folder / "study.csv")
    sections = [_plan_section(settings, results, calibrations)]
    bases = _found(results, [Point(model, study.base) for model, study in settings.models.items()])
    nothing = [] if len(bases) > 1 else ["Nothing can be compared yet."]
    sections.append(
        Section(
            "What was found",
            [*(statements(settings, results) or nothing)],
            sections=[Section("What the figures do not say", limits(settings, results))],
        )
    )
    if len(bases) > 1:
        sections.append(_section(settings, "The models beside each other", BASES, bases, folder))
    for factor in FACTORS:
        found = _found(results, [p for model in settings.models for p in factor_points(settings, model, factor)])
        if len(found) > 1:
            sections.append(_section(settings, TITLES[factor], factor, found, folder))
    found = _found(results, [point for model in settings.models for point in grid_points(settings, model)])
    if len(found) > 1:
        sections.append(_section(settings, "Learning rate x batch x pos_weight", "grid", found, folder))
    title = f"Parameter studies: {settings.name}"
    summary = headline(settings, outcomes)
    text = render_markdown(title, summary, sections, lambda path: path.name)
    (folder / "study.md").write_text(text, encoding="utf-8")
    return write_page(folder / "index.html", title, summary, sections)


def to_dict(
    settings: StudySettings,
    outcomes: Sequence[Outcome],
    results: dict[Point, PointResult],
    calibrations: dict[str, Any],
) -> dict[str, Any]:
    """JSON values; machine paths are left out."""
    return {
        "settings": settings.model_dump(mode="json", exclude={"data"}),
        "summary": headline(settings, outcomes),
        "findings": statements(settings, results),
        "limits": limits(settings, results),
        "calibrations": calibrations,
        "points": [
            {
                "model": result.point.model,
                "setting": result.point.setting.model_dump(),
                "changed": result.point.differs(settings.models[result.point.model].base),
                "runs": [
                    {
                        "seed": outcome.run.seed,
                        "steps": outcome.steps,
                        "tiles": outcome.tiles,
                        "minutes": outcome.minutes,
                        "tiles_per_s": outcome.tiles_per_s,
                    }
                    for outcome in result.outcomes
                ],
                "measures": [
                    {
                        "set": cell.name,
                        "measure": cell.measure,
                        "value": cell.value,
                        "by_tile": cell.by_tile,
                        "by_photograph": cell.by_photograph,
                        "seeds": cell.seeds,
                        "difference": None if cell.difference is None else _finite(cell.difference),
                        "verdict": cell.verdict,
                    }
                    for cell in result.cells.values()
                ],
            }
            for result in results.values()
        ],
    }


def write_csv(settings: StudySettings, results: dict[Point, PointResult], path: Path) -> None:
    """One line for each point, set and measure."""
    ends = ("tile_low", "tile_high", "photograph_low", "photograph_high")
    change = ("difference", "difference_low", "difference_high")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "model",
                *FACTORS,
                "changed",
                "set",
                "measure",
                "value",
                *ends,
                "seeds",
                "seed_min",
                "seed_max",
                *change,
                "steps",
                "tiles",
                "minutes",
            ]
        )
        for result in results.values():
            point = result.point
            changed = "+".join(point.differs(settings.models[point.model].base)) or "base"
            levels = [getattr(point.setting, name) for name in FACTORS]
            spent = [result.steps, result.outcomes[0].tiles, sum(outcome.minutes for outcome in result.outcomes)]
            for cell in result.cells.values():
                intervals = [*(cell.by_tile or ("", "")), *(cell.by_photograph or ("", ""))]
                seeds = [len(cell.seeds), min(cell.seeds), max(cell.seeds)]
                differs = ["", "", ""] if cell.difference is None else _finite(cell.difference)
                row = [cell.name, cell.measure, cell.value, *intervals, *seeds, *differs, *spent]
                writer.writerow([point.model, *levels, changed, *(_decimal(value) for value in row)])


def _plan_section(settings: StudySettings, results: dict[Point, PointResult], calibrations: dict[str, Any]) -> Section:
    bases = Table(
        ("model", "network", *FACTORS),
        [
            [label, study.model.name, *(level_text(getattr(study.base, name)) for name in FACTORS)]
            for label, study in settings.models.items()
        ],
        "The base of each model; one factor at a time is varied around it.",
    )
    mixtures = Table(
        ("data sources", "shares of the tiles"),
        [
            [label, ", ".join(f"{name} {share_of / sum(shares.values()):.2f}" for name, share_of in shares.items())]
            for label, shares in settings.sources.items()
        ],
    )
    used = sum(len(result.outcomes) for result in results.values())
    paragraphs = [
        f"{len(results)} points, {used} runs; seeds: {', '.join(map(str, settings.seeds))}.",
        "Nothing is chosen within a run: its last weights are judged, once.",
    ]
    tables = [bases, mixtures]
    if settings.budget.minutes is not None and calibrations:
        tables.append(
            Table(
                ("model", "px", "width", "tiles/s", "measured over", "torch"),
                [
                    [
                        str(item["model"]),
                        str(item["px"]),
                        level_text(item["width"]),
                        f"{item['tiles_per_s']:.1f}",
                        f"{item['steps']} steps of {item['batch']}",
                        str(item["torch"]),
                    ]
                    for item in calibrations.values()
                ],
                "Speeds that turned minutes into steps; with them the runs can be repeated.",
            )
        )
    return Section("Plan", paragraphs, tables)


def _found(results: dict[Point, PointResult], wanted: Sequence[Point]) -> list[PointResult]:
    return [results[point] for point in wanted if point in results]


def _section(settings: StudySettings, title: str, factor: str, found: Sequence[PointResult], folder: Path) -> Section:
    """Return the part of one factor: figure, pooled table, table by set."""
    path = draw_dots(settings, factor, found, folder / f"{factor.replace('_', '-')}.svg")
    picture = Picture(
        path,
        "Filled: base. Thick line: 95 % interval by tile; thin line: by photograph"
        + ("; small strokes: single seeds." if len(settings.seeds) > 1 else "."),
    )
    rows, by_set = [], []
    for result in found:
        name = [result.point.model, point_label(settings, factor, result.point)]
        cells = [result.cells.get((ALL_SETS, measure)) for measure in MEASURES]
        rows.append(
            [
                *name,
                str(len(result.outcomes)),
                str(result.steps),
                str(result.outcomes[0].tiles),
                *(_cell_text(cell) for cell in cells),
            ]
        )
        by_set.append([*name, *(_set_text(result, one) for one in settings.validation)])
    changes = [
        [
            result.point.model,
            point_label(settings, factor, result.point),
            *(_difference_text(result.cells.get((ALL_SETS, measure))) for measure in MEASURES),
            _spread_text(result),
        ]
        for result in found
    ]
    names = [_name(measure) for measure in MEASURES]
    tables = [
        Table(
            ("model", "level", "runs", "steps", "tiles", *names),
            rows,
            "All validation sets, per cent. 95 % intervals of AUROC: by photograph; of rates: by tile | by photograph.",
        ),
        Table(
            ("model", "level", *(f"{name} to base" for name in names), "AUROC from seed to seed"),
            changes,
            "Percentage points, 95 % interval of the paired bootstrap by photograph; higher, lower: zero is outside.",
        ),
        Table(
            ("model", "level", *settings.validation),
            by_set,
            "By set, per cent: AUROC; recall (R) and specificity (S) at p = 0.5 with their interval by tile.",
        ),
    ]
    if factor == BASES:  # nothing differs from its base
        tables = [tables[0], tables[2]]
    return Section(title, tables=tables, pictures=[picture])


def point_label(settings: StudySettings, factor: str, point: Point) -> str:
    """Name a point in the part of a factor."""
    setting = point.setting
    if factor == BASES:
        return "base"
    if factor == "grid":
        text = ", ".join(f"{name} {level_text(getattr(setting, name))}" for name in GRID)
    else:
        text = level_text(getattr(setting, factor)) + (" px" if factor == "px" else "")
    return text + (" (base)" if setting == settings.models[point.model].base else "")


def draw_dots(settings: StudySettings, factor: str, found: Sequence[PointResult], path: Path) -> Path:
    """Draw the points of a factor below each other: AUROC, recall and specificity over all sets with intervals."""
    models = list(dict.fromkeys(result.point.model for result in found))
    heights, at = [], 0.0
    for place, result in enumerate(found):
        if place and result.point.model != found[place - 1].point.model:
            at += _GAP
        heights.append(at)
        at += 1.0
    labels = [point_label(settings, factor, result.point) for result in found]
    if len(models) > 1:
        labels = [f"{result.point.model}: {label}" for result, label in zip(found, labels, strict=True)]
    with figure(path, width_in=9.0, height_in=1.1 + 0.3 * at) as drawn:
        axes = drawn.subplots(1, len(MEASURES), sharey=True)
        for panel, measure in zip(axes, MEASURES, strict=True):
            for height, result in zip(heights, found, strict=True):
                cell = result.cells.get((ALL_SETS, measure))
                if cell is not None:
                    colour = COLOURS[models.index(result.point.model) % len(COLOURS)]
                    is_base = result.point.setting == settings.models[result.point.model].base
                    _draw_cell(panel, cell, height, colour, filled=is_base)
            panel.set_title(f"{_name(measure)}, all sets (%)", fontsize=9, loc="left")
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
        axes[0].set_yticks(heights, labels)
        axes[0].set_ylim(heights[-1] + 0.6, -0.6)
    return path


def _draw_cell(panel: Any, cell: Cell, height: float, colour: str, *, filled: bool) -> None:
    if cell.by_photograph is not None:
        panel.plot([100 * end for end in cell.by_photograph], [height, height], color=colour, lw=1.0)
    if cell.by_tile is not None:
        panel.plot([100 * end for end in cell.by_tile], [height, height], color=colour, lw=3.0, alpha=0.45)
    if len(cell.seeds) > 1:
        values = [100 * value for value in cell.seeds]
        panel.plot(values, [height] * len(values), "|", color=colour, ms=8)
    panel.plot(100 * cell.value, height, "o", ms=6, mec=colour, mfc=colour if filled else "white", mew=1.4)


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    ends = [f"{100 * low:.1f}–{100 * high:.1f}" for low, high in filter(None, (cell.by_tile, cell.by_photograph))]
    return f"{100 * cell.value:.1f}" + (f" ({' | '.join(ends)})" if ends else "")


def _set_text(result: PointResult, name: str) -> str:
    parts = []
    for measure, short in (("auroc", "AUROC"), ("recall", "R"), ("specificity", "S")):
        cell = next((one for (where, what), one in result.cells.items() if (where, what) == (name, measure)), None)
        if cell is not None:
            ends = f" ({100 * cell.by_tile[0]:.0f}–{100 * cell.by_tile[1]:.0f})" if cell.by_tile is not None else ""
            parts.append(f"{short} {100 * cell.value:.1f}{ends}")
    return "; ".join(parts)


def _difference_text(cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return "–"
    found = cell.difference
    if math.isnan(found.low):
        return f"{100 * found.value:+.1f}"
    text = f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"{text} {cell.verdict}" if cell.verdict != "not shown" else text


def _spread_text(result: PointResult) -> str:
    cell = result.cells.get((ALL_SETS, "auroc"))
    if cell is None or len(cell.seeds) < 2:
        return "one seed"
    return f"{100 * min(cell.seeds):.1f}–{100 * max(cell.seeds):.1f} (SD {100 * float(np.std(cell.seeds, ddof=1)):.1f})"


def _name(measure: str) -> str:
    return "AUROC" if measure == "auroc" else measure


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _finite(estimate: Estimate) -> list[float | None]:
    return [None if math.isnan(value) else value for value in estimate.as_list()]


def _decimal(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else value
