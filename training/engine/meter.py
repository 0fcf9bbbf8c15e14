"""What did the last steps cost, and did the network ever wait for its data?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Losses(NamedTuple):
    """The parts of one step's loss, each before its weight."""

    tile: float
    cells: float
    teacher: float


@dataclass
class Meter:
    """Sums over steps.

    Attributes:
        sums: losses (tiles, cells, teacher), seconds waited for data, seconds computed, tiles, steps. A plain list, so
            that a checkpoint can hold it and the averages of a run that was killed are those of one that was not.
    """

    sums: list[float] = field(default_factory=lambda: [0.0] * 7)

    def add(self, losses: Losses, *, data_s: float, compute_s: float, tiles: int) -> None:
        """Count one step."""
        for index, value in enumerate((*losses, data_s, compute_s, tiles, 1)):
            self.sums[index] += value

    def row(self) -> dict[str, float]:
        """Return columns for the history; empty without a step.

        `step_over_compute` is the time of a step, waiting for its batch included, over the time that the network
        computes: 1 means that the network never waits.
        """
        tile, cells, teacher, data_s, compute_s, tiles, steps = self.sums
        if not steps:
            return {}
        return {
            "loss": round(tile / steps, 4),
            "cell_loss": round(cells / steps, 4),
            "teacher_loss": round(teacher / steps, 4),
            "tiles_per_s": round(tiles / max(1e-9, data_s + compute_s), 1),
            "step_over_compute": round((data_s + compute_s) / max(1e-9, compute_s), 3),
        }
