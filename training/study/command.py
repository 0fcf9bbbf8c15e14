"""Which command studies what a parameter does to a model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.config import read_settings
from training.progress import console, progress_bar

if TYPE_CHECKING:
    from training.study.plan import Point
    from training.study.run import Study

DEFAULT_CONFIG = Path("config/training/commands/study.yaml")


def register(app: typer.Typer) -> None:
    """Adds `study` to the command line."""
    app.command("study")(study_command)


def study_command(
    config: Annotated[Path, typer.Option(help="Models, factors, budget and places.")] = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="Results go to a folder here, named after the study.")] = Path("runs/study"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be run and for how long; train nothing.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Make tables and figures of what is done; run nothing.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded pictures.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of the committed splits.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as configured.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the arithmetic.")] = None,
) -> None:
    """Learning rate, batch, loss weight, augmentation, data, scale, width: what each does. Goes on where it was."""
    from training.engine.memory import keep_freed_memory

    keep_freed_memory()  # starts the process anew, so before anything else
    from training.errors import DataError
    from training.evaluation.settings import overridden
    from training.study.plan import planned
    from training.study.report import headline, write_report
    from training.study.run import Study
    from training.study.settings import StudySettings

    settings = overridden(
        read_settings(config, StudySettings),
        data={"root": data, "cache": cache, "splits": splits},
        device=device,
        threads=threads,
    )
    study = Study(settings, out / settings.name)
    if plan:
        _print_plan(study)
        return
    if report_only:
        outcomes = study.outcomes()
        if not outcomes:
            raise DataError(f"{study.folder}: no run of this plan is done; run it without --report-only")
    else:
        with progress_bar(f"study {settings.name}: runs", len(planned(settings))) as advance:
            outcomes = study.carry_out_all(advance, lambda line: console.print(line, soft_wrap=True, highlight=False))
    page = write_report(settings, outcomes, study.calibrations(), study.folder)
    console.print(headline(settings, outcomes), soft_wrap=True, highlight=False)
    console.print(f"{page}, study.md, study.csv, study.json", soft_wrap=True, highlight=False)


def _print_plan(study: Study) -> None:
    """Prints all runs with their state, and how long what is left takes."""
    from rich.table import Table

    from training.study.plan import judged_px, level_text, planned
    from training.study.settings import FACTORS

    settings = study.settings
    for label, model in settings.models.items():
        base = ", ".join(f"{name} {level_text(getattr(model.base, name))}" for name in FACTORS)
        console.print(f"base of {label}: {base}", soft_wrap=True, highlight=False)
    table = Table(title=f"study {settings.name}", title_justify="left")
    for heading in ("", "model and what is not as in its base", "steps", "judged at", "state"):
        table.add_column(heading)
    runs = planned(settings)
    states = [study.state(run) for run in runs]
    for place, (run, state) in enumerate(zip(runs, states, strict=True)):
        config = study.config(run)
        steps = "measured first" if config is None else str(config.stages[0].steps)
        table.add_row(str(place + 1), run.text(settings), steps, f"{judged_px(settings, run.point)} px", state)
    console.print(table)
    left = [run for run, state in zip(runs, states, strict=True) if state in {"new", "begun"}]
    if settings.budget.steps is not None:
        points: dict[tuple[str, int, float], Point] = {}
        for run in left:
            points.setdefault((run.point.model, run.point.setting.px, run.point.setting.width), run.point)
        with progress_bar("speed of each network and size", len(points)) as advance:
            for point in points.values():
                study.calibrate(point)
                advance(1)
    told = (
        f"{len(runs)} runs, {states.count('done')} done, {len(left)} to train: about {study.hours_of(left):.2f} hours"
    )
    limit = f"; repetitions end after {settings.hours:g} hours" if settings.hours is not None else ""
    console.print(f"{told} of training, and the judging{limit}.", soft_wrap=True, highlight=False)
