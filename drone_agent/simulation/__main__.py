"""`python -m drone_agent.simulation OUT`: makes a recorded flight past a pier with known cracks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from drone_agent.errors import AgentError
from drone_agent.simulation.recording import make_recording


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write the recording to; created if it is not there.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another pier and another flight.")] = 1,
) -> None:
    """Makes a recorded flight past a concrete pier with known cracks: video, telemetry, camera, truth."""
    with Progress(transient=True) as bar:
        task = bar.add_task("Rendering", total=None)
        try:
            made = make_recording(out, seed, lambda done, total: bar.update(task, completed=done, total=total))
        except AgentError as error:
            bar.stop()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
    typer.echo(f"{made.frames} frames in {made.folder}")


if __name__ == "__main__":
    typer.run(main)
