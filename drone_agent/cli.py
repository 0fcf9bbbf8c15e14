"""What can one ask of the agent on the command line? Each command is one thin function."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from drone_agent import __version__
from drone_agent.errors import AgentError, InputError, SprayerError

app = typer.Typer(
    name="drone-agent",
    help="Finds cracks in concrete in flight, puts them on the wall and on the map, and reports what was not seen.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

Profile = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Settings for a kind of use: a shipped name (pi4, pi5, jetson, sitl, replay) or a YAML file."
    ),
]
Config = Annotated[Path | None, typer.Option("--config", help="Your own settings (YAML) on top of the profile.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, for example surface.standoff_m=3.0; may be repeated.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="Model bundle: a shipped name (opnet, mobilenetv2) or a folder.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the flights; each gets a folder of its own in it.")]


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more of what is going on.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    # A journal or a file gets one plain line for each message, a person at a terminal colours.
    handler = RichHandler(console=err, show_path=False) if err.is_terminal else logging.StreamHandler()
    layout = "%(message)s" if err.is_terminal else "%(levelname)s %(message)s"
    logging.basicConfig(level=level, format=layout, handlers=[handler])
    if version:
        out.print(f"drone-agent {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def replay(
    source: Annotated[Path, typer.Argument(help="Video file, or folder of pictures.")],
    telemetry: Annotated[
        Path | None, typer.Option(help="The flight's telemetry (.tlog); gives each find its place.")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="When each frame was exposed: frames.csv (frame,time_boot_s,unix_s).")
    ] = None,
    camera: Annotated[Path | None, typer.Option(help="Intrinsics of the camera: camera.json.")] = None,
    out_dir: Out = Path("flights"),
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    report_after: Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")] = True,
    profile: Profile = "replay",
    config: Config = None,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Replay a recorded flight: every frame is processed, and the same recording gives the same log."""
    from drone_agent.app import ReplayRequest, replay_flight
    from drone_agent.config import load_config

    settings, layers = load_config(profile, config, _with_model(overrides, model))
    request = ReplayRequest(source, telemetry, frames, camera, out_dir, max_frames)
    with _progress("frames") as bar, _stop_on_signal() as stopped:
        outcome = replay_flight(settings, request, layers=layers, on_frame=bar, stopped=stopped)
    _tell_outcome(outcome.folder, outcome.summary, report=report_after)
    if outcome.error is not None:
        raise outcome.error
    if stopped():
        err.print("interrupted: the rest of the recording was not looked at", style="yellow")
        raise typer.Exit(1)


@app.command()
def run(
    out_dir: Out = Path("flights"),
    profile: Profile = None,
    config: Config = None,
    model: Model = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    overrides: Overrides = None,
) -> None:
    """Look and record live, with the configured camera, until Ctrl-C or SIGTERM."""
    from drone_agent.app import run_live
    from drone_agent.config import load_config

    settings, layers = load_config(profile, config, _with_model(overrides, model))
    with _progress("frames") as bar, _stop_on_signal() as stopped:
        outcome = run_live(settings, out_dir, layers=layers, max_frames=max_frames, on_frame=bar, stopped=stopped)
    _tell_outcome(outcome.folder, outcome.summary, report=False)
    if outcome.error is not None:
        raise outcome.error


@app.command()
def score(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    model: Annotated[str, typer.Option("--model", help="Model bundle: a shipped name or a folder.")],
    csv: Annotated[Path, typer.Option("--csv", help="Where the rows go: path,x,y,size,p_crack,verdict.")],
    as_tile: Annotated[
        bool, typer.Option("--as-tile", help="Take each picture as one tile (resized) instead of tiling it.")
    ] = False,
    file: Annotated[
        str | None,
        typer.Option("--file", help="Which of the bundle's files: int8 or fp32 (default: the bundle's own choice)."),
    ] = None,
) -> None:
    """Score pictures: probability and verdict for each tile, as CSV."""
    from drone_agent.app import image_scorer
    from drone_agent.config import load_config
    from drone_agent.score import find_pictures, score_files

    files = find_pictures(paths)
    settings, _ = load_config(None, None, _with_model(None, model))
    scorer = image_scorer(settings.vision, file=file)
    with _progress("pictures") as bar:
        total = len(files)
        done = score_files(files, scorer, csv, as_tile=as_tile, on_done=lambda _path: bar(total))
    for line in done.unreadable:
        err.print(f"not scored: {line}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    out.print(
        f"{done.pictures} pictures, {done.tiles} tiles, {done.cracks} with a crack, "
        f"{len(done.unreadable)} unreadable: {csv}",
        highlight=False,
        soft_wrap=True,
    )
    if done.unreadable:
        raise typer.Exit(1)


@app.command()
def report(
    flight: Annotated[Path, typer.Argument(help="The flight's folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The HTML file; default: report.html in the flight's folder.")
    ] = None,
) -> None:
    """Write the report of a flight: one HTML file that opens without a network."""
    from drone_agent.postflight.report import write_report

    out.print(f"Report: {write_report(flight, to)}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def export(
    flight: Annotated[Path, typer.Argument(help="The flight's folder.")],
    geojson: Annotated[bool, typer.Option("--geojson", help="GeoJSON (RFC 7946).")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV table.")] = False,
    kml: Annotated[bool, typer.Option("--kml", help="KML for Google Earth and others.")] = False,
    coco: Annotated[
        bool, typer.Option("--coco", help="COCO folder: evidence pictures with boxes, to review and then train on.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the files; default: the flight's folder.")] = None,
) -> None:
    """Export the finds of a flight for other programs, and as training data."""
    from drone_agent.postflight.coco import export_coco
    from drone_agent.postflight.export import export_csv, export_geojson, export_kml
    from drone_agent.postflight.flights import open_flight

    chosen = [(geojson, export_geojson), (csv, export_csv), (kml, export_kml), (coco, export_coco)]
    if not any(wanted for wanted, _ in chosen):
        raise InputError("nothing to export: say at least one of --geojson, --csv, --kml, --coco")
    opened = open_flight(flight)
    for wanted, write in chosen:
        if wanted:
            out.print(str(write(opened, to or flight)), highlight=False, soft_wrap=True, markup=False)


@app.command()
def check(
    profile: Profile = None,
    config: Config = None,
    model: Model = None,
    out_dir: Out = Path("flights"),
    overrides: Overrides = None,
) -> None:
    """Is everything there that a flight needs? Each line is ok, a warning, or failed with what to do."""
    from drone_agent.check import Level, run_checks

    styles = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red"}
    table = Table("", "part", "found", "what to do", title="drone-agent check", title_justify="left")
    worst = Level.OK
    for line in run_checks(profile, config, _with_model(overrides, model), out_dir):
        worst = max(worst, line.level)
        table.add_row(f"[{styles[line.level]}]{line.level.name.lower()}[/]", line.part, line.found, line.advice)
    out.print(table)
    if worst is Level.FAILED:
        raise typer.Exit(1)


@app.command()
def demo(
    out_dir: Out = Path("flights"),
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Model bundle; may be repeated. [default: opnet, mobilenetv2]")
    ] = None,
) -> None:
    """Replay the short flight that comes with the package, report on it, compare the finds with the known cracks.

    It is replayed once for each model: the small OPNet as published, then MobileNetV2.
    """
    from drone_agent.app import ReplayRequest, replay_flight
    from drone_agent.config import load_config
    from drone_agent.simulation.recording import shipped_recording

    flight = shipped_recording()
    request = ReplayRequest(flight.video, flight.telemetry, flight.frames_csv, flight.camera, out_dir)
    flown: dict[str, Path] = {}
    for model in models or ["opnet", "mobilenetv2"]:
        settings, layers = load_config("replay", None, _with_model(None, model))
        with _progress(f"frames ({model})") as bar, _stop_on_signal() as stopped:
            outcome = replay_flight(settings, request, layers=layers, on_frame=bar, stopped=stopped)
        out.print(f"[bold]{model}[/]")
        _tell_outcome(outcome.folder, outcome.summary, report=True)
        if outcome.error is not None:
            raise outcome.error
        flown[model] = outcome.folder
    _tell_truth(flown, flight.folder)
    out.print(
        f"Open this first: {list(flown.values())[-1] / 'report.html'}", highlight=False, soft_wrap=True, markup=False
    )


@app.command("spray-test")
def spray_test(
    pulses: Annotated[int, typer.Option("--pulses", help="How many pulses.")] = 1,
    open_ms: Annotated[int, typer.Option("--open-ms", help="Length of each pulse (ms).")] = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    no_vehicle: Annotated[bool, typer.Option("--no-vehicle", help="There is no autopilot to ask.")] = False,
    profile: Profile = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Open the valve on the ground: priming, and the latency between command and valve."""
    from drone_agent.app import run_spray_test
    from drone_agent.config import load_config

    settings, _ = load_config(profile, config, overrides or [])
    result = run_spray_test(
        settings,
        pulses=pulses,
        open_ms=open_ms,
        no_vehicle=no_vehicle,
        confirm=lambda question: yes or typer.confirm(question),
        say=lambda line: out.print(line, highlight=False, soft_wrap=True, markup=False),
    )
    if result.open_latency_ms is not None:
        out.print(f"marking.lead.valve_latency_ms: {result.open_latency_ms:.1f}", highlight=False)
    if result.aborted is not None:
        raise SprayerError(result.aborted)
    if not result.ok:
        raise SprayerError("not every pulse was executed")


@app.command()
def compare(
    flight: Annotated[Path, typer.Argument(help="The flight's folder.")],
    truth: Annotated[Path, typer.Argument(help="Folder with truth.json and truth.png of the wall.")],
) -> None:
    """Compare the finds of a flight with a wall whose cracks are known."""
    _tell_truth({"value": flight}, truth)


@app.command()
def config(
    reference: Annotated[
        bool, typer.Option("--reference", help="Every key with its default, commented (YAML).")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The same as a page (Markdown).")] = False,
    profile: Profile = None,
    file: Config = None,
    overrides: Overrides = None,
) -> None:
    """Show the settings in force, or the reference of all that can be set."""
    import yaml

    from drone_agent.config import load_config
    from drone_agent.config_reference import markdown_reference, yaml_reference

    if reference:
        text = yaml_reference()
    elif markdown:
        text = markdown_reference()
    else:
        settings, _ = load_config(profile, file, overrides or [])
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    sys.stdout.write(text)


def _with_model(overrides: list[str] | None, model: str | None) -> list[str]:
    # In quotes: a folder may be called 2026, or hold a colon.
    return [*(overrides or []), *([] if model is None else [f"vision.model={json.dumps(model, ensure_ascii=False)}"])]


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[int | None], None]]:
    """A progress bar on standard error; the yielded function advances it by one and may tell the total."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Into a pipe or the journal it would write nothing but an empty line.
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(unit, total=None)

        def advance(total: int | None = None) -> None:
            progress.update(task, advance=1, total=total)

        yield advance


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or SIGTERM has come; the second one ends the program the hard way."""
    seen: list[int] = []

    def remember(number: int, _frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    old = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _tell_outcome(folder: Path, summary: dict[str, str], *, report: bool) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in summary.items():
        table.add_row(name, value)
    out.print(table)
    out.print(f"Flight: {folder}", highlight=False, soft_wrap=True, markup=False)
    if report:
        from drone_agent.postflight.report import write_report

        out.print(f"Report: {write_report(folder, None)}", highlight=False, soft_wrap=True, markup=False)


def _tell_truth(flights: Mapping[str, Path], truth: Path) -> None:
    """One table: a row for each measure, a column for each flight."""
    from drone_agent.postflight.compare import compare_flight, comparison_rows

    columns = {name: dict(comparison_rows(compare_flight(folder, truth))) for name, folder in flights.items()}
    table = Table("measure", *columns, title="Against the known cracks of the wall", title_justify="left")
    for measure in next(iter(columns.values())):
        table.add_row(measure, *(values[measure] for values in columns.values()))
    out.print(table)


def main() -> None:
    """Entry point: an error that was raised on purpose becomes its one line and its exit code."""
    try:
        app()
    except AgentError as error:
        err.print("[red]error:[/] ", end="")
        err.print(str(error), highlight=False, soft_wrap=True, markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
