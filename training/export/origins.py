"""Which runs does a checkpoint rest on? Where it started, and who taught it, all the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from training.engine.checkpoint import CheckpointError
from training.evaluation.evaluate import open_checkpoint


@dataclass(frozen=True, slots=True)
class Origin:
    """A run that a checkpoint rests on: what it was to which runs, its configuration, its commit, its hours.

    Of a bundle the weights themselves are in the repository, and need not be trained again.
    """

    run: str
    what: str
    config: str
    commit: str | None
    hours: float | None
    is_bundle: bool = False


def origins(content: Mapping[str, Any]) -> list[Origin]:
    """The runs that a checkpoint rests on, and those that they rest on, the oldest first.

    Runs whose checkpoint is no longer there are named as their successor names them.

    Args:
        content: of the checkpoint.
    """
    found: dict[str, list[Origin]] = {}
    for origin in _mentions(content, "this run", cache(_read)):
        found.setdefault(origin.run, []).append(origin)
    return [replace(same[0], what="; ".join(dict.fromkeys(one.what for one in same))) for same in found.values()]


def _mentions(
    content: Mapping[str, Any], successor: str, read: Callable[[Path], Mapping[str, Any]]
) -> Iterator[Origin]:
    """Each time that a run is named on the way back, the oldest first; a run may be named several times."""
    config = content.get("config") or {}
    starts = listed((config.get("model") or {}).get("init"))
    teachers = listed((config.get("loss") or {}).get("teacher"))
    began = f"{successor} started from {'it' if len(starts) == 1 else 'the average of it and others'}"
    taught = f"{successor} learnt from it{'' if len(teachers) == 1 else ' and others'}"
    for what, given in [*((began, start) for start in starts), *((taught, teacher) for teacher in teachers)]:
        path = Path(given)
        theirs = (content.get("bundles") or {}).get(given) or read(path)
        bundle = theirs.get("bundle")
        run = bundle or path.parent.name
        note = "" if bundle is None else " (a bundle: what it rests on is on the card of that version)"
        yield from _mentions(theirs, f"`{run}`", read)
        own = str(theirs.get("config_path") or Path("config/training") / f"{run}.yaml")
        yield Origin(run, what + note, own, theirs.get("commit"), theirs.get("hours"), is_bundle=bundle is not None)


def _read(path: Path) -> Mapping[str, Any]:
    """What a checkpoint holds; nothing if it is no longer there."""
    try:
        return open_checkpoint(path)[0]
    except CheckpointError:
        return {}


def listed(given: str | list[str] | None) -> list[str]:
    """Checkpoints that a run names, one or several or none.

    Old runs' configurations need not be valid any more, so they are read as they are.
    """
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
        if not run.is_bundle
    ]
    return [*earlier, f"crack-training train {own}"]
