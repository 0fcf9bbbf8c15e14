"""How did a run go? Loss, rate and results over its steps, in one figure that is drawn anew at every validation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.engine.stopping import COLUMN, merit
from training.figures import COLOURS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRACE_COLUMNS = ("step", "rate", "loss", "cell_loss", "teacher_loss")
_SMOOTHED = 15


def draw_curves(path: Path, history: list[dict[str, Any]], trace: list[list[float]]) -> None:
    """Draw the curves of a run.

    Args:
        path: of the figure, `.svg`.
        history: one row for each validation, with `step`, `stage`, `criterion` and columns `<set>/<measure>`.
        trace: rows of `TRACE_COLUMNS`, every few steps.
    """
    sets = list(dict.fromkeys(key.split("/")[0] for row in history for key in row if "/" in key))
    colour_of = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(sets)}
    with figure(path, width_in=11.0, height_in=6.5) as drawn:
        (loss, rate, result), measures = drawn.subplots(2, 3, sharex=True)
        _draw_losses(loss, np.array(trace).reshape(-1, len(TRACE_COLUMNS)))
        rate.set_title("learning rate of the head")
        rate.plot([row[0] for row in trace], [row[1] for row in trace])
        _draw_result(result, history)
        for axes, measure in zip(measures, ("recall", "specificity", "auroc"), strict=True):
            axes.set_title({"auroc": "AUROC"}.get(measure, f"{measure} at p = 0.5"))
            for name in sets:
                rows = [row for row in history if f"{name}/{measure}" in row]
                if rows:
                    steps, values = [row["step"] for row in rows], [row[f"{name}/{measure}"] for row in rows]
                    axes.plot(steps, values, marker=".", color=colour_of[name], label=name)
            axes.set_xlabel("step")
            axes.set_ylim(-0.02, 1.02)
        handles = {
            label: handle for axes in measures for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if handles:
            drawn.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles))
        for axes in (loss, rate, result, *measures):
            _mark_stages(axes, history)
        drawn.set_layout_engine("constrained")


def _draw_losses(axes: Axes, trace: np.ndarray) -> None:
    axes.set_title(f"training loss (line: mean of {_SMOOTHED} points)")
    for column, (key, colour) in enumerate(zip(("tiles", "cells", "teacher"), COLOURS, strict=False), start=2):
        values = trace[:, column]
        if not values.any():
            continue
        axes.plot(trace[:, 0], values, ".", color=colour, alpha=0.25, markersize=3)
        mean = [values[max(0, at - _SMOOTHED + 1) : at + 1].mean() for at in range(len(values))]
        axes.plot(trace[:, 0], mean, color=colour, label=key)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend()


def _draw_result(axes: Axes, history: list[dict[str, Any]]) -> None:
    axes.set_title("validation, all sets")
    for key, label in (("criterion", "criterion"), (COLUMN, "recall at fixed specificity")):
        rows = [row for row in history if key in row]
        if rows:
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], marker=".", label=label)
    if history:
        best = max(history, key=merit)
        axes.plot(best["step"], best["criterion"], "o", mfc="none", color=COLOURS[1], markersize=9, label="kept")
        axes.legend()


def _mark_stages(axes: Axes, history: list[dict[str, Any]]) -> None:
    for row, following in itertools.pairwise(history):
        if following["stage"] != row["stage"]:
            axes.axvline(row["step"], color="0.6", linestyle=":", linewidth=1)
