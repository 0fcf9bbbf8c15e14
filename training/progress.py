"""How far is a long piece of work? One progress bar for all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Step = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Announces a piece of work and its number of steps; gives a callable that takes the steps done since its last call."""

console = Console()


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for one piece of work; where nobody watches, one line at its end.

    Args:
        title: what is being done.
        total: number of steps.

    Yields:
        A callable that is told how many steps were done since its last call.
    """
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)

        def advance(steps: int) -> None:
            progress.advance(task, steps)

        yield advance


@contextmanager
def no_bar(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing: for tests and for callers that report otherwise."""
    yield lambda _steps: None
