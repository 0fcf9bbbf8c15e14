"""Which commands make a bundle?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from training.progress import console, progress_bar


def register(app: typer.Typer) -> None:
    """Adds `export` to the command line."""
    app.command("export")(export_command)


def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt or final.pt of a run, or a bundle.")],
    name: Annotated[
        str, typer.Option(help="Name of the bundle; its bars are chosen by it (opnet... or others).")
    ] = "opnet",
    out: Annotated[Path | None, typer.Option(help="The bundle's folder. Default: exported_models/NAME")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("../shared/data"),
    cache: Annotated[Path, typer.Option(help="Folder for decoded pictures.")] = Path("data/cache"),
    splits: Annotated[Path, typer.Option(help="Folder of the committed splits.")] = Path("config/training/splits"),
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "0.1.0",
    channels: Annotated[
        int, typer.Option(help="Input channels of the 8-bit file: 3, 4, or 0 for the faster one here.")
    ] = 4,
    calibration_tiles: Annotated[int, typer.Option(min=8, help="Training tiles that set the 8-bit ranges.")] = 320,
    limit: Annotated[int | None, typer.Option(min=10, help="At most so many tiles of each set, for trials.")] = None,
    robustness: Annotated[
        Path | None, typer.Option(help="robustness.json of these weights: gates and GSD band for the manifest.")
    ] = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Of a bundle: keep both graphs, choose the threshold and judge anew.")
    ] = False,
    keep_threshold: Annotated[
        bool, typer.Option("--keep-threshold", help="With --keep-files: keep threshold and calibration, too.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime and PyTorch.")] = 1,
    default: Annotated[
        bool, typer.Option("--default", help="Make it the bundle that is taken when none is named.")
    ] = False,
) -> None:
    """Turn a checkpoint into a bundle that flies; refuses if PyTorch, float and 8-bit file disagree."""
    import torch

    from training.data.sources import DataError
    from training.engine.checkpoint import CheckpointError
    from training.evaluation.evaluate import keep_freed_memory
    from training.evaluation.threshold import ThresholdError
    from training.export.onnx import ExportError
    from training.export.parity import ParityError
    from training.export.pipeline import ExportOptions, export

    if channels not in {0, 3, 4}:
        raise typer.BadParameter("allowed are 0, 3 and 4", param_hint="--channels")
    torch.set_num_threads(threads)
    keep_freed_memory()
    options = ExportOptions(
        name=name,
        out=out or Path("exported_models") / name,
        root=data,
        cache=cache,
        splits=splits,
        version=version,
        channels=cast("Literal[3, 4]", channels) if channels else None,
        calibration_tiles=calibration_tiles,
        limit=limit,
        threads=threads,
        keep_files=keep_files,
        keep_threshold=keep_threshold,
        default=default,
        robustness=robustness,
        command=f"crack-training {shlex.join(sys.argv[1:])}",
    )
    try:
        manifest = export(checkpoint, options, progress_bar)
    except (CheckpointError, DataError, ExportError, ParityError, ThresholdError) as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    sizes = ", ".join(f"{key} {file.bytes / 1e6:.2f} MB" for key, file in manifest.files.items())
    point = manifest.operating_point
    console.print(
        f"{options.out}: {sizes}; crack from p = {point.threshold_p:.4f}; "
        f"validation recall {100 * point.recall:.2f} %, specificity {100 * point.specificity:.2f} %. "
        f"See {options.out / 'CARD.md'}.",
        soft_wrap=True,
    )
