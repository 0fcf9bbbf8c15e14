"""Which runs do weights rest on? Where they started, and who taught them, all the way back.

Checkpoints are not kept for ever, so `LINEAGE.json` beside the bundles records every run that a bundle rests on, and
every bundle by the SHA-256 of its float file. `export` reads it and adds to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, model_validator

from training.engine.checkpoint import CheckpointError
from training.evaluation.evaluate import open_checkpoint
from training.export.bundle import DataSource, Part, Training
from training.export.onnx import ExportError
from training.files import write_whole
from training.models import pretrained_of

LINEAGE: Final = "LINEAGE.json"


class Run(Part):
    """A run of `crack-training train`.

    Attributes:
        name: of its configuration.
        config: path of its configuration, as it was at `commit`.
        commit: of the repository; None: not known.
        seed: likewise.
        steps: until the checkpoint that was used.
        hours: likewise.
        data: what it learnt from.
        pretrained: the ImageNet weights that it started from.
        started_from: whose weights it started from (their average, if several): keys of runs, or names of bundles.
        learnt_from: its teachers, likewise.
    """

    name: str
    config: str | None = None
    commit: str | None = None
    seed: int | None = None
    steps: int | None = None
    hours: float | None = None
    data: tuple[DataSource, ...] = ()
    pretrained: DataSource | None = None
    started_from: tuple[str, ...] = ()
    learnt_from: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names the run in a lineage: runs of one name differ by commit."""
        return self.name if self.commit is None else f"{self.name}@{self.commit[:7]}"


class Release(Part):
    """A bundle that was exported: its run, and the SHA-256 of its float file."""

    run: str
    sha256: str


class Lineage(Part):
    """Runs by key; bundles by name and version ("mobilenetv2 0.6.0")."""

    runs: dict[str, Run] = Field(default_factory=dict)
    bundles: dict[str, Release] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Lineage:
        for name, release in self.bundles.items():
            if release.run not in self.runs:
                raise ValueError(f"bundle {name}: run {release.run!r} is not among the runs")
        for key, run in self.runs.items():
            for reference in (*run.started_from, *run.learnt_from):
                if reference not in self.runs and reference not in self.bundles:
                    raise ValueError(f"run {key}: {reference!r} is neither a run nor a bundle")
        return self

    def run_of(self, reference: str) -> Run:
        """Return the run that a key or a bundle's name stands for."""
        return self.runs[self.bundles[reference].run if reference in self.bundles else reference]

    def ancestors(self, key: str, *, behind_bundles: bool = True) -> list[Run]:
        """Return a run and all that it rests on, the oldest first.

        Args:
            key: of the run.
            behind_bundles: else only what must be trained to have its weights again while the bundles are at hand.
        """
        found: dict[str, Run] = {}

        def walk(key: str) -> None:
            run = self.runs[key]
            for reference in (*run.started_from, *run.learnt_from):
                ancestor = self.run_of(reference)
                if ancestor.key not in found and (behind_bundles or reference not in self.bundles):
                    walk(ancestor.key)
            found.setdefault(key, run)

        walk(key)
        return list(found.values())

    def with_release(self, bundle: str, key: str, sha256: str) -> Lineage:
        """Return this lineage with one more bundle."""
        return self.model_copy(update={"bundles": self.bundles | {bundle: Release(run=key, sha256=sha256)}})

    def to_json(self) -> str:
        """The file's text, the same for the same content; what is not known is left out."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=1, ensure_ascii=False) + "\n"


def read_lineage(path: Path) -> Lineage:
    """Read `LINEAGE.json`; without the file nothing is known.

    Raises:
        ExportError: it is there, but is none.
    """
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Lineage()
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ExportError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def write_lineage(path: Path, lineage: Lineage) -> None:
    """Write `LINEAGE.json`; a kill in the middle leaves the old one.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        write_whole(path, lineage.to_json())
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror})") from error


def trace(content: Mapping[str, Any], known: Lineage) -> tuple[Lineage, str]:
    """Add a checkpoint's run, and what it rests on, to what is known.

    A run names the bundles that it started or learnt from by SHA-256. Older ones do not; of them the lineage must know.
    What lies in a bundle's folder today is never asked: another version may lie there by now.

    Args:
        content: of the checkpoint.
        known: the lineage so far.

    Returns:
        The lineage with it, and the key of its run.
    """
    runs, bundles = dict(known.runs), dict(known.bundles)
    by_sha256 = {release.sha256: name for name, release in bundles.items()}

    def add(content: Mapping[str, Any], name: str) -> str:
        config = content.get("config") or {}
        run = Run(
            name=str(config.get("name") or name),
            config=content.get("config_path"),
            commit=content.get("commit"),
            seed=content.get("seed"),
            steps=content.get("step"),
            hours=content.get("hours"),
            data=tuple(_source(row) for row in content.get("data") or ()),
            pretrained=pretrained_in(content),
        )
        old = runs.get(run.key)
        if old is not None and "bundles" not in content:
            references = {"started_from": old.started_from, "learnt_from": old.learnt_from}
        else:
            starts = listed((config.get("model") or {}).get("init"))
            teachers = listed((config.get("loss") or {}).get("teacher"))
            references = {
                "started_from": tuple(refer(content, given) for given in starts),
                "learnt_from": tuple(refer(content, given) for given in teachers),
            }
        runs[run.key] = run.model_copy(update=references)
        return run.key

    def refer(content: Mapping[str, Any], given: str) -> str:
        record = (content.get("bundles") or {}).get(given)
        if record is not None:
            return bundle_of(record)
        path = Path(given)
        if path.is_dir():
            return unknown(Run(name=f"{path.name} (a bundle of unknown version)"))
        try:
            return add(open_checkpoint(path)[0], path.parent.name)
        except CheckpointError:
            of_this_name = [key for key, run in runs.items() if run.name == path.parent.name]
            config = f"config/training/{path.parent.name}.yaml"
            return of_this_name[0] if len(of_this_name) == 1 else unknown(Run(name=path.parent.name, config=config))

    def bundle_of(record: Mapping[str, Any]) -> str:
        if record["sha256"] in by_sha256:
            return by_sha256[record["sha256"]]
        name, config = str(record["bundle"]), record.get("config_path")
        run = Run(
            name=name if config is None else Path(config).stem,
            config=config,
            commit=record.get("commit"),
            hours=record.get("hours"),
        )
        bundles[name] = Release(run=unknown(run), sha256=str(record["sha256"]))
        by_sha256[str(record["sha256"])] = name
        return name

    def unknown(run: Run) -> str:
        """Keep a run of which little is known, unless more is."""
        runs.setdefault(run.key, run)
        return run.key

    key = add(content, Path(content.get("config_path") or "unknown").stem)
    return Lineage(runs=runs, bundles=bundles), key


def _source(row: Mapping[str, Any]) -> DataSource:
    return DataSource(**{key: row.get(key) for key in DataSource.model_fields})


def pretrained_in(content: Mapping[str, Any]) -> DataSource | None:
    """What a checkpoint says of its ImageNet weights; older ones have their path in the configuration alone."""
    if "pretrained" in content:
        row = content["pretrained"]
    else:
        model = (content.get("config") or {}).get("model") or {}
        row = pretrained_of(str(model.get("name")), model.get("options") or {})
    return None if row is None else _source(row)


def pretrained_by(runs: Iterable[Run]) -> list[DataSource]:
    """The ImageNet weights that runs started from, each once."""
    return list(dict.fromkeys(run.pretrained for run in runs if run.pretrained is not None))


def data_of(runs: Iterable[Run | Training]) -> list[DataSource]:
    """Everything that runs or bundles learnt from, each edition once, by name; of several splits the largest part."""
    found: dict[tuple[str, str | None], DataSource] = {}
    for run in runs:
        for source in run.data:
            known = found.setdefault((source.name, source.sha256), source)
            if (source.train_tiles or 0) > (known.train_tiles or 0):
                found[source.name, source.sha256] = source
    told = {name for name, sha256 in found if sha256 is not None}
    rows = [source for (name, sha256), source in found.items() if sha256 is not None or name not in told]
    return sorted(rows, key=lambda source: source.name)


def hours_of(runs: Sequence[Run]) -> tuple[float, int]:
    """Hours of several runs in all, and of how many they are not known."""
    known = [run.hours for run in runs if run.hours is not None]
    return sum(known), len(runs) - len(known)


def listed(given: str | list[str] | None) -> list[str]:
    """Checkpoints that a run names, one or several or none.

    Old runs' configurations need not be valid any more, so they are read as they are.
    """
    if not given:
        return []
    return [given] if isinstance(given, str) else given


def training_commands(lineage: Lineage, key: str) -> list[str]:
    """The commands that train a run, and those before it whose bundles are not in the repository."""
    return [
        f"crack-training train {run.config}" + (f"  # at commit {run.commit[:7]}" if run.commit else "")
        for run in lineage.ancestors(key, behind_bundles=False)
        if run.config is not None
    ]
