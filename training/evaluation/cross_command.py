"""Which command compares models by what they were trained on and what they are asked?"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.config import TrainConfig, read_settings
from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.data.dataset import EvaluationSet
    from training.evaluation.cross import Row, RowResult
    from training.evaluation.evaluate import Subject
    from training.evaluation.settings import CrossSettings

DEFAULT_CONFIG = Path("config/training/commands/cross.yaml")


def register(app: typer.Typer) -> None:
    """Adds `cross` to the command line."""
    app.command("cross")(cross_command)


def cross_command(
    config: Annotated[Path, typer.Option(help="Rows, columns and places.")] = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="Results; trained rows go to its folder rows/.")] = Path("runs/cross"),
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set.")] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="Draws of the bootstrap by photograph.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the models.")] = None,
) -> None:
    """Matrix of train set x test set: AUROC, recall and specificity with intervals; rows can be trained on the way."""
    import torch

    from training.data.dataset import evaluation_tiles
    from training.errors import ConfigError
    from training.evaluation.cross import Row, row_config, row_folder, summary, to_dict, train_row, write_report
    from training.evaluation.evaluate import keep_freed_memory, parse_sets, role_of, thin
    from training.evaluation.settings import CrossSettings, overridden
    from training.files import require_folder

    settings = overridden(
        read_settings(config, CrossSettings),
        data={"root": data, "cache": cache, "splits": splits},
        limit=limit,
        resamples=resamples,
        threads=threads,
    )
    require_folder(out)
    keep_freed_memory()
    places = settings.data
    try:
        columns = parse_sets(settings.sets)
    except ValueError as error:
        raise ConfigError(f"{config}: sets: {error}") from error
    for given in settings.rows:
        if not given.model.exists():
            raise ConfigError(f"{config}: rows: {given.label}: {given.model} is not there")
    # Opened now: another bundle may lie there when its turn comes, and one that cannot be opened is told at once.
    opened = [(given, _open(given.model, settings)) for given in settings.rows]
    rows = [
        (Row(_label(given.label, subject), given.model, tuple(given.trained_on)), subject) for given, subject in opened
    ]
    if settings.train is not None:
        for label, shares in settings.train.sources.items():
            run = row_config(label, shares, settings.train, places, settings.seed, settings.threads)
            console.print(f"row {label}: {', '.join(shares)}")
            row = Row(label, train_row(run, row_folder(run, out / "rows"), _train), tuple(shares))
            rows.append((row, _open(row.model, settings)))
    torch.set_num_threads(settings.threads)
    pairs = [*columns, *(pair for pair in parse_sets([]) if role_of(*pair) == "validation" and pair not in columns)]
    tiles = {
        pair: thin(evaluation_tiles(*pair, places.root, places.cache, places.splits), settings.limit) for pair in pairs
    }
    results = [_ask(row, subject, columns, tiles, settings) for row, subject in rows]
    page = write_report(results, settings, "Train set x test set", out)
    facts = settings.model_dump(mode="json", exclude={"data", "threads"})
    (out / "cross.json").write_text(json.dumps(facts | to_dict(results), indent=2) + "\n", encoding="utf-8")
    console.print(summary(results), soft_wrap=True)
    console.print(f"{page}, cross.md, cross.csv, cross.json", soft_wrap=True)


def _label(label: str, subject: Subject) -> str:
    """The label; of a bundle with its version, for another one may lie there when the table is read."""
    return f"{label} {subject.version}" if subject.version else label


def _open(model: Path, settings: CrossSettings) -> Subject:
    from training.evaluation.evaluate import open_subjects

    return open_subjects(model, "default", settings.threads)[0]


def _train(config: TrainConfig, path: Path, folder: Path, resume: bool) -> None:
    """Trains one row to its end."""
    from training.engine.train import Trainer
    from training.engine.watching import watching

    with watching(console, logging.getLogger("cross").info) as watcher:
        trainer = Trainer(config, path, folder, watcher=watcher)
        if resume:
            trainer.resume()
        trainer.run()


def _ask(
    row: Row,
    subject: Subject,
    columns: list[tuple[str, str]],
    tiles: Mapping[tuple[str, str], EvaluationSet],
    settings: CrossSettings,
) -> RowResult:
    """Scores a row on all columns at its own threshold."""
    from training.evaluation.cross import RowResult, own_threshold, threshold_sets
    from training.evaluation.evaluate import result, role_of, score

    wanted = {
        pair: item
        for pair, item in tiles.items()
        if pair in columns or (subject.threshold_logit is None and role_of(*pair) == "validation")
    }
    scored = {}
    for pair, item in wanted.items():
        with progress_bar(f"{row.label}: {'/'.join(pair)}", len(item)) as advance:
            scored[pair] = score(subject.scorer, item, advance)
    threshold, rule = subject.threshold_logit, "the bundle's own"
    if threshold is None:
        validation = {pair[0]: item for pair, item in scored.items() if role_of(*pair) == "validation"}
        threshold, rule = own_threshold(threshold_sets(row, validation))
    return RowResult(
        row,
        threshold,
        rule,
        tuple(
            result(scored[pair], pair[1], threshold, resamples=settings.resamples, seed=settings.seed)
            for pair in columns
        ),
    )
