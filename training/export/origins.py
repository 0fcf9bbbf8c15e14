"""Which runs does a checkpoint rest on? Where it started, and who taught it, all the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.engine.checkpoint import CheckpointError
from training.evaluation.evaluate import open_checkpoint


@dataclass(frozen=True, slots=True)
class Origin:
    """A run that a checkpoint rests on: what it was to which runs, its configuration, its commit, its hours."""

    run: str
    what: str
    config: str
    commit: str | None
    hours: float | None

    def being(self, what: str) -> Origin:
        """The same run, which was `what` besides."""
        known = self.what.split("; ")
        return replace(self, what="; ".join([*known, *(part for part in what.split("; ") if part not in known)]))


def origins(content: Mapping[str, Any], successor: str = "this run") -> list[Origin]:
    """The runs that a checkpoint rests on, and those that they rest on, the oldest first.

    Runs whose checkpoint is no longer there are named as their successor names them.

    Args:
        content: of the checkpoint.
        successor: how it is called.
    """
    config = content.get("config") or {}
    found: dict[str, Origin] = {}
    starts = _listed((config.get("model") or {}).get("init"))
    teachers = _listed((config.get("loss") or {}).get("teacher"))
    began = f"{successor} started from {'it' if len(starts) == 1 else 'the average of it and others'}"
    taught = f"{successor} learnt from it{'' if len(teachers) == 1 else ' and others'}"
    for what, given in [*((began, start) for start in starts), *((taught, teacher) for teacher in teachers)]:
        path = Path(given)
        run = path.parent.name
        try:
            theirs = open_checkpoint(path)[0]
        except CheckpointError:
            theirs = {}
        own = str(theirs.get("config_path") or Path("config/training") / f"{run}.yaml")
        for origin in (
            *origins(theirs, f"`{run}`"),
            Origin(run, what, own, theirs.get("commit"), theirs.get("hours")),
        ):
            known = found.get(origin.run)
            found[origin.run] = origin if known is None else known.being(origin.what)
    return list(found.values())


def _listed(given: str | list[str] | None) -> list[str]:
    """Old checkpoints hold configurations that need not be valid any more, so they are read as they are."""
    if not given:
        return []
    return [given] if isinstance(given, str) else given


def training_commands(content: Mapping[str, Any], rests_on: Sequence[Origin]) -> list[str]:
    """The commands that train the runs that a checkpoint rests on, and its own run; none if its run is unknown."""
    own = content.get("config_path")
    if not own:
        return []
    earlier = [
        f"crack-training train {run.config}" + (f"  # at commit {run.commit[:7]}" if run.commit else "")
        for run in rests_on
    ]
    return [*earlier, f"crack-training train {own}"]
