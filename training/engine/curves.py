"""How did a run go? Loss, rate and results over its steps, in one figure that is drawn anew at every validation."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from training.engine.stopping import COLUMN, merit
from training.figures import COLOURS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRACE_COLUMNS = ("step", "rate", "loss", "cell_loss", "teacher_loss")
_SMOOTHED = 15
_SPAN: Final = 0.05
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: Final = ("-", "--", "-.", ":")


def draw_curves(path: Path, history: Sequence[dict[str, Any]], trace: Sequence[Sequence[float]]) -> None:
    """Draw the curves of a run.

    Args:
        path: of the figure, `.svg`.
        history: one row for each validation, with `step`, `stage`, `criterion` and columns `<set>/<measure>`.
        trace: rows of `TRACE_COLUMNS`, every few steps; empty: the means between validations are drawn instead.
    """
    sets = list(dict.fromkeys(key.split("/")[0] for row in history for key in row if "/" in key))
    with figure(path, width_in=11.0, height_in=6.5) as drawn:
        (loss, rate, result), measures = drawn.subplots(2, 3, sharex=True)
        _draw_losses(loss, np.array(trace).reshape(-1, len(TRACE_COLUMNS)), history)
        rate.set_title("learning rate of the head")
        rate.set_ylabel("rate (no unit)")
        rate.plot([row[0] for row in trace], [row[1] for row in trace])
        _draw_result(result, history)
        for axes, measure in zip(measures, ("recall", "specificity", "auroc"), strict=True):
            _draw_measure(axes, history, sets, measure)
        handles = {
            label: handle for axes in measures for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if handles:
            drawn.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
        for axes in (loss, rate, result, *measures):
            axes.set_xlabel("step")
            axes.tick_params(labelbottom=True)
            _mark_stages(axes, history)
        drawn.set_layout_engine("constrained")


def read_trace(path: Path) -> list[list[float]]:
    """Read the `steps.csv` of a run as rows of `TRACE_COLUMNS`; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [[float(row[column]) for column in TRACE_COLUMNS] for row in csv.DictReader(file)]


def _draw_losses(axes: Axes, trace: np.ndarray, history: Sequence[dict[str, Any]]) -> None:
    axes.set_title(f"training loss (thick: mean of {_SMOOTHED} points)" if len(trace) else "training loss (means)")
    axes.set_ylabel("loss (nats)")
    for index, (key, colour) in enumerate(zip(("tiles", "cells", "teacher"), COLOURS, strict=False)):
        column = TRACE_COLUMNS[2 + index]
        if not len(trace):
            points = [(row["step"], row[column]) for row in history if row.get(column)]
            if points:
                axes.plot(*zip(*points, strict=True), _MARKERS[index], color=colour, label=key)
            continue
        values = trace[:, 2 + index]
        if not values.any():
            continue
        axes.plot(trace[:, 0], values, color=colour, alpha=0.3, linewidth=0.6)
        mean = [values[max(0, at - _SMOOTHED + 1) : at + 1].mean() for at in range(len(values))]
        axes.plot(trace[:, 0], mean, _DASHES[index], color=colour, label=key)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend()


def _draw_result(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    axes.set_title("validation, all sets")
    axes.set_ylabel("share")
    columns = (("criterion", "criterion"), (COLUMN, "recall at fixed specificity"))
    for index, (key, label) in enumerate(columns):
        rows = [row for row in history if key in row]
        if rows:
            axes.plot(
                [row["step"] for row in rows],
                [row[key] for row in rows],
                linestyle=_DASHES[index],
                linewidth=0.8,
                marker=_MARKERS[index],
                markersize=5,
                label=label,
            )
    if history:
        best = max(history, key=merit)
        axes.plot(best["step"], best["criterion"], "o", mfc="none", color="black", markersize=11, label="kept")
        _span_at_least(axes)
        axes.legend()


def _draw_measure(axes: Axes, history: Sequence[dict[str, Any]], sets: Sequence[str], measure: str) -> None:
    """Draw one measure of all validation sets; sets that lie on each other stay visible, the first is the largest."""
    axes.set_title({"auroc": "AUROC"}.get(measure, f"{measure} at p = 0.5"))
    axes.set_ylabel("area, 0.5 is chance" if measure == "auroc" else "share of the tiles")
    for index, name in enumerate(sets):
        rows = [row for row in history if f"{name}/{measure}" in row]
        axes.plot(
            [row["step"] for row in rows],
            [row[f"{name}/{measure}"] for row in rows],
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=0.8,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=max(4, 10 - 1.5 * index),
            markerfacecolor="none",
            color=COLOURS[index % len(COLOURS)],
            label=name,
        )
    axes.margins(x=0.06, y=0.1)
    _span_at_least(axes)


def _span_at_least(axes: Axes) -> None:
    """Show at least so much of the axis that the noise of a few tiles does not look like a trend."""
    low, high = axes.get_ylim()
    lacking = _SPAN - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _mark_stages(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    for row, following in itertools.pairwise(history):
        if following["stage"] != row["stage"]:
            axes.axvline(row["step"], color="0.6", linestyle=":", linewidth=1)
