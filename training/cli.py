"""What can be asked of training from the command line? Each command is a thin function."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from training.errors import TrainingError

app = typer.Typer(help="Train, evaluate and export the models that fly.", no_args_is_help=True, add_completion=False)
console = Console()
log = logging.getLogger(__name__)


@app.callback()
def _start(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )


COMMAND_MODULES: Final = (
    "training.data.sources_command",
    "training.data.audit_command",
    "training.data.split_command",
    "training.data.preview_command",
    "training.models.command",
    "training.engine.command",
    "training.evaluation.commands",
    "training.evaluation.cross_command",
    "training.evaluation.robustness_command",
    "training.evaluation.explain_command",
    "training.evaluation.hypotheses_command",
    "training.evaluation.candidates_command",
    "training.study.command",
    "training.export.commands",
    "training.journal.command",
)
"""Each brings `register(app)`; what a command needs is imported when it runs."""

_NEEDS: Final = {"training.models.command": "torch"}
"""What must be installed for a command to be there."""


def _register_further_commands() -> None:
    """Add the commands of the packages that bring their own."""
    for name in COMMAND_MODULES:
        if _is_there(name) and (name not in _NEEDS or _is_there(_NEEDS[name])):
            importlib.import_module(name).register(app)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    """Run the command line; expected errors become one line and exit code 2."""
    _register_further_commands()
    try:
        app()
    except TrainingError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written, an address that does not answer
        log.debug("where it happened", exc_info=True)
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error} ({type(error).__name__})")


def _fail(message: str) -> NoReturn:
    console.print("[red]error:[/red]", Text(" ".join(message.split())), soft_wrap=True)
    sys.exit(2)
