"""Which command puts guesses about a model's errors to the test?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from training.config import Strict, read_settings
from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.evaluation.hypotheses import Tested
    from training.evaluation.metrics import Estimate

DEFAULT = Path("config/training/commands/hypotheses.yaml")


class HypothesesConfig(Strict):
    """What is tested, and on which sets."""

    sets: list[str] = Field(min_length=1, description="NAME or NAME/SPLIT of evaluation sets")
    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets")
    cache: Path = Field(default=Path("data/cache"), description="folder for decoded pictures")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")
    out: Path = Field(default=Path("runs/hypotheses"), description="results go to a folder here, named after the model")
    resamples: int = Field(default=1000, ge=10, description="draws of the bootstrap by photograph")
    seed: int = Field(default=1, ge=0, description="of the bootstrap")
    threads: int = Field(default=1, ge=1, description="of the model")


def register(app: typer.Typer) -> None:
    """Adds `hypotheses` to the command line."""
    app.command("hypotheses")(hypotheses_command)


def hypotheses_command(
    model: Annotated[Path, typer.Argument(help="A bundle's folder; its default file at its own threshold is judged.")],
    config: Annotated[Path, typer.Option(help="Sets and sizes.")] = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Folder, instead of the configuration's.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set, for trials.")] = None,
) -> None:
    """Ask why a model errs: nine guesses, each tested on each set, with intervals by photograph."""
    from training.data.dataset import evaluation_tiles
    from training.errors import ConfigError, DataError
    from training.evaluation.evaluate import open_subjects, parse_sets, role_of, score, thin
    from training.evaluation.hypotheses import HYPOTHESES, draw_effects, put_to_test
    from training.files import require_folder

    settings = read_settings(config, HypothesesConfig)
    try:
        pairs = parse_sets(settings.sets)
    except ValueError as error:
        raise ConfigError(f"{config}: sets: {error}") from error
    subject = open_subjects(model, "default", settings.threads)[0]
    if subject.threshold_logit is None:
        raise DataError(f"{model}: has no threshold of its own; export it first and give the bundle's folder")
    folder = require_folder((out or settings.out) / subject.name)
    tested: list[tuple[str, Tested]] = []
    for name, split in pairs:
        tiles = thin(evaluation_tiles(name, split, settings.root, settings.cache, settings.splits), limit)
        with progress_bar(f"{name}/{split}", len(tiles)) as advance:
            scored = score(subject.scorer, tiles, advance)
        for hypothesis in HYPOTHESES:
            found = put_to_test(
                hypothesis,
                tiles,
                scored,
                subject.threshold_logit,
                where_name=f"{name}/{split}",
                resamples=settings.resamples,
                seed=settings.seed,
            )
            if found is not None:
                tested.append((f"{name}/{split} ({role_of(name, split)})", found))
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model": subject.name,
        "file": subject.label,
        "threshold_logit": subject.threshold_logit,
        "limit": limit,
        "seed": settings.seed,
        "tested": [{"where": where} | item.to_dict() for where, item in tested],
    }
    (folder / "hypotheses.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    chart = folder / "effects.svg"
    draw_effects([item for _, item in tested], chart)
    page = _page(folder, subject.name, subject.label, tested, chart)
    for where, item in tested:
        console.print(f"{item.verdict:>14}  {item.statement} ({where})", highlight=False, soft_wrap=True)
    console.print(f"{page} and hypotheses.json", soft_wrap=True)


def _page(folder: Path, name: str, label: str, tested: list[tuple[str, Tested]], chart: Path) -> Path:
    from training.page import Picture, Section, Table, write_page

    headings = ["guess", "set", "wrong (tiles)", "right (tiles)", "quantity (unit)"]
    headings += ["its median of the wrong", "its median of the right", "effect (chance, 0.5: none)", "verdict"]
    rows = []
    for where, item in tested:
        medians = ["–" if math.isnan(median) else f"{median:.3g}" for median in (item.median_wrong, item.median_right)]
        shown = "–" if item.verdict == "too few errors" else _effect(item.effect)
        rows.append(
            [item.statement, where, str(item.wrong), str(item.right), item.measured, *medians, shown, item.verdict]
        )
    note = (
        "Effect: the chance that a wrongly judged tile has more of the quantity than a rightly judged one of the same "
        "class; 0.5 is none. 95 % interval by photograph; there is none where the wrong tiles, or the right ones, are "
        "all in one photograph. Many guesses on few errors: a supported one is a lead."
    )
    summary = f"Guesses about the errors of {name} ({label}) at its own threshold, each put to the test."
    section = Section(
        "Guesses and verdicts", tables=[Table(headings, rows, note)], pictures=[Picture(chart, "Effects")]
    )
    return write_page(folder / "index.html", f"Why does {name} err?", summary, [section])


def _effect(effect: Estimate) -> str:
    interval = "–: all in one photograph" if math.isnan(effect.low) else f"{effect.low:.2f}–{effect.high:.2f}"
    return f"{effect.value:.2f} ({interval})"
