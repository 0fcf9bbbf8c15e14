"""How does one follow a run? A bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S: Final = 15.0


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Attributes:
        stage: name of the stage.
        step: steps done, of all stages.
        steps: steps in all, of all stages.
        rate: learning rate of the head.
        loss: mean loss of the tiles since the last validation.
        tiles_per_s: since the last validation.
        step_s: seconds a step took on average, in this stage.
    """

    stage: str
    step: int
    steps: int
    rate: float
    loss: float
    tiles_per_s: float
    step_s: float

    def text(self) -> str:
        """Say it in one line."""
        left_s = round((self.steps - self.step) * self.step_s)
        left = f"{left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d}"
        return (
            f"{self.stage} {self.step}/{self.steps} loss={self.loss:.4f} rate={self.rate:.2e} "
            f"tiles_per_s={self.tiles_per_s:.1f} left={left}"
        )


@dataclass(frozen=True)
class Watcher:
    """What a run tells.

    Attributes:
        line: is told results, in words.
        moment: is told after every step.
    """

    line: Callable[[str], None]
    moment: Callable[[Moment], None]


SILENT: Final = Watcher(lambda _line: None, lambda _moment: None)


def lines(say: Callable[[str], None], every_s: float = LINE_EVERY_S) -> Watcher:
    """Follow a run by lines, one every now and then.

    Args:
        say: writes a line.
        every_s: seconds between two of them; results are always written.
    """
    last = [-every_s]

    def tell(moment: Moment) -> None:
        if time.monotonic() - last[0] >= every_s or moment.step == moment.steps:
            last[0] = time.monotonic()
            say(moment.text())

    return Watcher(say, tell)


@contextmanager
def watching(console: Console, say: Callable[[str], None]) -> Iterator[Watcher]:
    """Follow a run on a terminal by a bar with results above it; elsewhere by lines.

    Args:
        console: where the bar is drawn.
        say: writes a line where there is no terminal.
    """
    if not console.is_terminal:
        yield lines(say)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  rate {task.fields[rate]:.1e}  {task.fields[speed]:.0f} tiles/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, loss=0.0, rate=0.0, speed=0.0)

        def tell(moment: Moment) -> None:
            progress.update(
                task,
                description=moment.stage,
                completed=moment.step,
                total=moment.steps,
                loss=moment.loss,
                rate=moment.rate,
                speed=moment.tiles_per_s,
            )

        yield Watcher(lambda text: progress.console.print(text, highlight=False, markup=False), tell)
