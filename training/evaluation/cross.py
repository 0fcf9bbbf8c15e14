"""What is a model worth on data that it was not trained on? Rows: what it has seen. Columns: what it is asked.

Each row keeps one threshold for all columns, its own. On the diagonal stands what a paper would report; beside it what
would have happened elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from training.config import DataConfig, ModelConfig, StageConfig, TrainConfig, ValidationConfig
from training.data.dataset import EVALUATION_SETS
from training.evaluation.evaluate import SetResult
from training.evaluation.metrics import Estimate
from training.evaluation.settings import CrossSettings, Places, TrainRowsSettings
from training.evaluation.threshold import Bar, Scored, choose
from training.figures import figure
from training.page import Picture, Section, Table, markdown_table, write_page

MEASURES: Final = ("auroc", "recall", "specificity")
_EVEN: Final = 0.9
_MOST_WARMUP: Final = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A model to be asked: its label, its file, and the sets whose training part it has seen."""

    label: str
    model: Path
    trained_on: tuple[str, ...]


@dataclass(frozen=True)
class RowResult:
    """What a row reached on all columns, at its own threshold."""

    row: Row
    threshold_logit: float
    threshold_rule: str
    results: tuple[SetResult, ...]


def row_config(label: str, shares: Mapping[str, float], settings: TrainRowsSettings, places: Places, seed: int,
               threads: int) -> TrainConfig:  # fmt: skip
    """The training run of a row.

    Nothing but its own sets is looked at while it trains, and not the best but the last weights are taken: otherwise
    the validation sets of the columns would help to choose the row.
    """
    own = [name for name in shares if "val" in EVALUATION_SETS.get(name, ())] or ["metu-ccic"]
    return TrainConfig(
        name=f"row-{_slug(label)}",
        model=settings.model,
        data=DataConfig(
            root=places.root, cache=places.cache, splits=places.splits, synthetic_count=settings.synthetic_count
        ),
        loss=settings.loss,
        stages=[
            StageConfig(
                name="row",
                px=settings.px,
                steps=settings.steps,
                batch=settings.batch,
                lr=settings.lr,
                warmup=min(_MOST_WARMUP, settings.steps // 2),
                preset=settings.preset,
                sources=dict(shares),
                max_minutes=settings.minutes,
            )
        ],
        validation=ValidationConfig(every_steps=settings.steps, tiles_per_set=40, sets=dict.fromkeys(own, 1.0)),
        seed=seed,
        threads=threads,
        checkpoint_minutes=1.0,
    )


def row_folder(config: TrainConfig, rows: Path) -> Path:
    """A folder that belongs to this configuration alone, so that a changed one never takes old weights."""
    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]
    return rows / f"{config.name.removeprefix('row-')}-{digest}"


def train_row(config: TrainConfig, folder: Path, run: Callable[[TrainConfig, Path, Path, bool], None]) -> Path:
    """Trains a row unless it is there already; goes on from where it was stopped.

    Args:
        config: the run.
        folder: of the row.
        run: trains `(config, its file, folder, resume)` to the end.

    Returns:
        The weights, `final.pt`.
    """
    final = folder / "final.pt"
    if not final.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        run(config, path, folder, (folder / "last.pt").is_file())
    return final


def own_threshold(validation: Sequence[Scored]) -> tuple[float, str]:
    """The threshold at which the worst of all recalls and specificities of a row's own validation sets is best.

    Returns:
        The logit, and how it was chosen in a phrase.

    Raises:
        ThresholdError: the sets lack cracks, or tiles without.
    """
    bars = [Bar(item.name, kind, _EVEN) for item in validation for kind in ("recall", "specificity")]
    choice = choose(validation, bars)
    names = ", ".join(item.name for item in validation)
    return choice.threshold_logit, f"best worst rate on validation: {names}"


def threshold_sets(row: Row, scored: Mapping[str, Scored]) -> list[Scored]:
    """The validation sets that choose a row's threshold: its own if they have both classes, else all."""
    own = [item for name, item in scored.items() if name in row.trained_on]
    labels = {bool(label) for item in own for label in np.unique(item.labels)}
    return own if labels == {True, False} else list(scored.values())


def value_of(result: SetResult, measure: str) -> Estimate | None:
    """A measure of a cell: areas by photograph, rates by tile; None where the set cannot say it."""
    found = result.metrics.by_group.get(measure) if measure == "auroc" else result.metrics.by_tile.get(measure)
    return None if found is None or np.isnan(found.value) else found


def summary(rows: Sequence[RowResult]) -> str:
    """Means on sets of the kind that was trained on, and on all others."""
    sentences = []
    for measure in MEASURES:
        seen: list[float] = []
        unseen: list[float] = []
        for row in rows:
            for result in row.results:
                value = value_of(result, measure)
                if value is not None and row.row.trained_on:
                    (seen if result.name in row.row.trained_on else unseen).append(value.value)
        if seen and unseen:
            sentences.append(
                f"{measure} {100 * np.mean(seen):.1f} on sets of its own kind, {100 * np.mean(unseen):.1f} on others"
            )
    return "Mean over cells, per cent: " + "; ".join(sentences) + "." if sentences else "No row says what it has seen."


def conditions(rows: Sequence[RowResult], settings: CrossSettings) -> str:
    """On how many tiles the rows were judged, and how those were trained that the matrix trains itself."""
    limit = f"At most {settings.limit} tiles" if settings.limit is not None else "All tiles"
    sentences = [f"{limit} of each set were judged{', drawn at random' if settings.limit is not None else ''}."]
    train = settings.train
    own = [row.row.label for row in rows if train is not None and row.row.label in train.sources]
    exist = [row.row.label for row in rows if row.row.label not in own]
    if train is not None and own:
        until = "" if train.minutes is None else f" or {train.minutes:g} minutes"
        sentences.append(
            f"Trained for this matrix, to compare what they were trained on: {', '.join(own)}. Each is "
            f"{train.model.name} from {_start(train.model)} after {train.steps} steps{until}, {train.batch} tiles of "
            f"{train.px} px a step."
        )
    if exist:
        sentences.append(f"Models that exist, as they are: {', '.join(exist)}.")
    return " ".join(sentences)


def _start(model: ModelConfig) -> str:
    if model.starts:
        return f"the weights of {', '.join(map(str, model.starts))}"
    return "random weights" if model.options.get("pretrained") is None else "ImageNet weights"


def to_dict(rows: Sequence[RowResult]) -> dict[str, Any]:
    """JSON values."""
    return {
        "summary": summary(rows),
        "rows": [
            {
                "label": row.row.label,
                "model": str(row.row.model),
                "trained_on": list(row.row.trained_on),
                "threshold_logit": row.threshold_logit,
                "threshold_rule": row.threshold_rule,
                "sets": [result.to_dict() for result in row.results],
            }
            for row in rows
        ],
    }


def write_csv(rows: Sequence[RowResult], path: Path) -> Path:
    """One line a cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        ends = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
        writer.writerow(["row", "set", "split", "role", "trained_on", "cracks", "sound", "photographs", *ends])
        for row in rows:
            for result in row.results:
                metrics = result.metrics
                values: list[str] = []
                for measure in MEASURES:
                    value = value_of(result, measure)
                    values += ["", "", ""] if value is None else [_decimal(v) for v in value.as_list()]
                seen = "yes" if result.name in row.row.trained_on else "no"
                counts = [metrics.n_positive, metrics.n_negative, metrics.n_groups]
                writer.writerow([row.row.label, result.name, result.split, result.role, seen, *counts, *values])
    return path


def measure_table(rows: Sequence[RowResult], measure: str) -> Table:
    """One measure as a matrix with intervals; `*` marks a set of a kind that the row was trained on."""
    keys = [result.key for result in rows[0].results]
    body = [
        [
            row.row.label,
            *(
                _cell(value_of(result, measure)) + (" *" if result.name in row.row.trained_on else "")
                for result in row.results
            ),
        ]
        for row in rows
    ]
    how = "by photograph (bootstrap)" if measure == "auroc" else "by tile (Clopper-Pearson)"
    return Table(("trained on", *keys), body, f"{measure} in per cent, 95 % intervals {how}; *: trained on such a set.")


def write_report(rows: Sequence[RowResult], settings: CrossSettings, title: str, out: Path) -> Path:
    """Writes `cross.md`, `cross.html`, `cross.csv` and the heat map; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "cross.csv")
    picture = Picture(
        draw_matrix(rows, out / "cross.svg"),
        "Columns: sets (external ones were never trained on); framed: a set of a kind that the row was trained on. "
        "Small figures: 95 % interval.",
    )
    tables = [measure_table(rows, measure) for measure in MEASURES]
    thresholds = Table(
        ("row", "crack from logit", "chosen by"),
        [[row.row.label, f"{row.threshold_logit:+.3f}", row.threshold_rule] for row in rows],
        "One threshold a row, for all columns.",
    )
    how = conditions(rows, settings)
    text = [f"# {title}", "", summary(rows), "", how, "", f"![{picture.caption}]({picture.path.name})", ""]
    text += [markdown_table(table) for table in (*tables, thresholds)]
    (out / "cross.md").write_text("\n".join(text), encoding="utf-8")
    return write_page(
        out / "cross.html",
        title,
        summary(rows),
        [Section("Matrix", [how], pictures=[picture]), Section("Figures", tables=[*tables, thresholds])],
    )


def draw_matrix(rows: Sequence[RowResult], path: Path) -> Path:
    """A heat map for each measure, one above the other."""
    keys = [result.key for result in rows[0].results]
    height = 0.56 * len(rows) + 1.5
    with figure(path, width_in=max(7.0, 1.0 * len(keys) + 2.5), height_in=len(MEASURES) * height) as drawn:
        for place, measure in enumerate(MEASURES):
            axes = drawn.add_subplot(len(MEASURES), 1, place + 1)
            values = np.full((len(rows), len(keys)), np.nan)
            for y, row in enumerate(rows):
                for x, result in enumerate(row.results):
                    found = value_of(result, measure)
                    if found is None:
                        axes.text(x, y, "–", ha="center", va="center", color="#777777", fontsize=10)
                        continue
                    values[y, x] = found.value
                    colour = "white" if found.value < 0.72 else "black"
                    axes.text(
                        x, y - 0.18, f"{100 * found.value:.1f}", ha="center", va="center", color=colour, fontsize=10.5
                    )
                    if not np.isnan(found.low):
                        span = f"{100 * found.low:.0f}–{100 * found.high:.0f}"
                        axes.text(x, y + 0.24, span, ha="center", va="center", color=colour, fontsize=9.5)
            axes.imshow(values, cmap="viridis", vmin=0.3, vmax=1.0, aspect="auto")
            _frame(axes, rows)
            axes.set_xticks(range(len(keys)), keys, rotation=20, ha="right", fontsize=9.5)
            axes.set_yticks(range(len(rows)), [row.row.label for row in rows], fontsize=9.5)
            axes.set_title(measure, loc="left", fontsize=12)
            axes.grid(visible=False)
    return path


def _frame(axes: Any, rows: Sequence[RowResult]) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(rows):
        for x, result in enumerate(row.results):
            if result.name in row.row.trained_on:
                axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, ec="#D55E00", lw=1.8))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "x"


def _cell(value: Estimate | None) -> str:
    if value is None:
        return "–"
    text = f"{100 * value.value:.1f}"
    return text if np.isnan(value.low) else f"{text} ({100 * value.low:.1f}–{100 * value.high:.1f})"


def _decimal(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"
