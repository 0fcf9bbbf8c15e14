"""Which command tells how good a model is?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.config import read_settings
from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.data.dataset import EvaluationSet
    from training.evaluation.evaluate import Subject
    from training.evaluation.evaluate_report import FileEvaluation, Threshold
    from training.evaluation.settings import EvaluateSettings
    from training.evaluation.threshold import Scored

DEFAULT_CONFIG = Path("config/training/commands/evaluate.yaml")
Pair = tuple[str, str]


def register(app: typer.Typer) -> None:
    """Adds `evaluate` to the command line."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="A checkpoint (.pt), a bundle's folder, or one ONNX file of a bundle.")],
    config: Annotated[Path, typer.Option(help="Sets, threshold and places.")] = DEFAULT_CONFIG,
    sets: Annotated[list[str] | None, typer.Option(help="NAME or NAME/SPLIT, repeatable; relief: drawn walls.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results. Default: runs/evaluate/NAME")] = None,
    file: Annotated[str | None, typer.Option(help="Of a bundle: fp32, int8 or both.")] = None,
    threshold_p: Annotated[float | None, typer.Option(min=0, max=1, help="Crack from this sigmoid of the raw logit on, "
        "instead of the bundle's own or a fitted threshold.")] = None,
    wanted_recall: Annotated[float | None, typer.Option(min=0, max=1, help="Choose the highest threshold with this "
        "recall on the validation sets.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set, for trials.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model.")] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="Draws of the bootstrap by photograph.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the bootstrap.")] = None,
) -> None:  # fmt: skip
    """Measure recall, specificity and more on each set, with intervals, curves and a statement of what they support."""
    import torch

    from training.errors import TrainingError
    from training.evaluation.evaluate import identity, keep_freed_memory, logit_of, open_subjects, parse_sets, role_of
    from training.evaluation.evaluate_report import write_evaluation
    from training.evaluation.settings import EvaluateSettings, overridden
    from training.files import require_folder

    try:
        if threshold_p is not None:
            logit_of(threshold_p)  # refuses 0 and 1 before all is scored
        settings = overridden(
            read_settings(config, EvaluateSettings),
            data={"root": data, "cache": cache, "splits": splits},
            sets=sets or None,
            file=file,
            wanted_recall=wanted_recall,
            limit=limit,
            threads=threads,
            resamples=resamples,
            seed=seed,
        )
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        wanted = parse_sets(settings.sets)
        subjects = open_subjects(model, settings.file, settings.threads)
        who = identity(model)
        folder = require_folder(out or Path("runs/evaluate") / str(who["label"]))
        needed = list(wanted)
        if threshold_p is None and (
            settings.wanted_recall is not None or any(item.threshold_logit is None for item in subjects)
        ):
            # the threshold is chosen on validation sets, whether or not they were asked for
            needed += [pair for pair in parse_sets([]) if role_of(*pair) == "validation" and pair not in needed]
        tiles = _load(needed, settings)
        found = [_evaluate(subject, wanted, tiles, settings, threshold_p) for subject in subjects]
        facts = {"model": str(model), **who, **settings.model_dump(mode="json", exclude={"data", "threads"})}
        page = write_evaluation(found, facts, f"Evaluation of {who['label']}", folder, bins=settings.bins)
    except (TrainingError, ValueError) as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"{page}, evaluation.md, evaluation.json", soft_wrap=True)


def _load(pairs: Sequence[Pair], settings: EvaluateSettings) -> dict[Pair, EvaluationSet]:
    from training.data.dataset import evaluation_tiles
    from training.evaluation.evaluate import thin

    places = settings.data
    return {
        pair: thin(evaluation_tiles(*pair, places.root, places.cache, places.splits), settings.limit) for pair in pairs
    }


def _evaluate(
    subject: Subject,
    wanted: Sequence[Pair],
    tiles: dict[Pair, EvaluationSet],
    settings: EvaluateSettings,
    threshold_p: float | None,
) -> FileEvaluation:
    """Scores one file on all sets, shows the table, and returns what was found."""
    from training.evaluation.calibration import calibrate
    from training.evaluation.evaluate import result, rich_table, role_of, score
    from training.evaluation.evaluate_report import FileEvaluation
    from training.evaluation.threshold import bars_for

    scored: dict[Pair, Scored] = {}
    for pair, item in tiles.items():
        with progress_bar(f"{subject.label}: {'/'.join(pair)}", len(item)) as advance:
            scored[pair] = score(subject.scorer, item, advance)
    validation = [item for pair, item in scored.items() if role_of(*pair) == "validation"]
    threshold = _threshold(subject, threshold_p, validation, settings)
    results = [
        result(scored[pair], pair[1], threshold.logit, resamples=settings.resamples, seed=settings.seed)
        for pair in wanted
    ]
    both_classes = any(item.labels.any() for item in validation) and not all(item.labels.all() for item in validation)
    bars = bars_for(subject.name)
    found = FileEvaluation(
        label=subject.label,
        threshold=threshold,
        scored=[scored[pair] for pair in wanted],
        results=results,
        bars=bars,
        calibration=calibrate(validation) if both_classes else None,
        validation=validation if both_classes else [],
        limit=settings.limit,
    )
    console.print(rich_table(results, f"{subject.label}: crack from logit {threshold.logit:+.3f}", bars))
    for line in found.statement:
        console.print(f"  {line}", soft_wrap=True, highlight=False)
    return found


def _threshold(
    subject: Subject, threshold_p: float | None, validation: Sequence[Scored], settings: EvaluateSettings
) -> Threshold:
    """The threshold that was asked for, the bundle's own, or one that is fitted on the validation sets."""
    from training.evaluation.evaluate import choose_for, logit_of
    from training.evaluation.evaluate_report import Threshold, wanted_threshold

    if threshold_p is not None:
        return Threshold(logit_of(threshold_p), f"The threshold was given: p = {threshold_p:g} of the raw logit.")
    if settings.wanted_recall is not None:
        return wanted_threshold(validation, settings.wanted_recall, settings.wanted_over)
    if subject.threshold_logit is not None:
        return Threshold(subject.threshold_logit, "The threshold is the bundle's own, chosen on validation sets.")
    choice = choose_for(subject, validation)
    return Threshold(
        choice.threshold_logit,
        "The threshold balances the stated bars over the validation sets "
        f"{', '.join(choice.sets)}; {choice.worst.bar.set} "
        f"{choice.worst.bar.kind} decided.",
    )
