"""Where did the weights of each run start: from ImageNet, from other runs and bundles, or at random?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from training.export.bundle import DataSource, Manifest
from training.export.lineage import Lineage, Run, listed, pretrained_by, pretrained_in
from training.page import Section, Table

_FROM: Final = "Starts from "
_IMAGENET: Final = "ImageNet weights"
_NAMED: Final = re.compile(rf"{_FROM}{_IMAGENET} \((.+)\)\.")


def told(content: Mapping[str, Any]) -> str:
    """Say in a sentence what a checkpoint's run started from; a bundle by its version where the checkpoint has it."""
    bundles = content.get("bundles") or {}
    starts = [bundles.get(given, {}).get("bundle", given) for given in listed(content["config"]["model"].get("init"))]
    return _said(pretrained_in(content), starts)


def _said(pretrained: DataSource | None, starts: Sequence[str]) -> str:
    """A network takes over what it starts from; ImageNet weights count only where it starts from nothing else."""
    if starts:
        return f"{_FROM}{'the average of ' if len(starts) > 1 else ''}{', '.join(starts)}."
    return f"{_FROM}{'random weights' if pretrained is None else f'{_IMAGENET} ({pretrained.name})'}."


def with_start(part: Section, run: Run | None) -> Section:
    """Add what the lineage knows to a run that was taken over from a journal which did not say it."""
    if run is None or any(text.startswith(_FROM) for text in part.paragraphs):
        return part
    return replace(part, paragraphs=[*part.paragraphs, _said(run.pretrained, run.started_from)])


def recorded(name: str, part: Section | None, lineage: Lineage) -> Run | None:
    """Return the lineage's run of a name whose commit the journal that stands gives; None if there is none."""
    said = "" if part is None else " ".join(part.paragraphs)
    found = (run for run in lineage.runs.values() if run.name == name and run.commit is not None)
    return next((run for run in found if f"commit {run.commit}" in said), None)


def data_rows(weights: Iterable[DataSource]) -> list[list[str]]:
    """Rows of ImageNet weights for the table of data: what, photographs, SHA-256, licence."""
    return [[f"ImageNet, as weights: {row.name}", "–", (row.sha256 or "–")[:16], row.licence or "–"] for row in weights]


@dataclass(frozen=True)
class Pretrained:
    """Which ImageNet weights runs start from.

    Attributes:
        of: weights by name of the run.
        unknown: runs that are no longer at hand, and of which nothing says what they started from.
    """

    of: Mapping[str, DataSource]
    unknown: Sequence[str] = ()


def pretrained_of_runs(
    runs: Mapping[str, dict[str, Any] | None], parts: Mapping[str, Section | None], records: Mapping[str, Run | None]
) -> Pretrained:
    """Find them in the checkpoints, else in the lineage, else in what the journal that stands says.

    Args:
        runs: checkpoints by name, None for one that is gone.
        parts: what the journal that stands says of those that are gone.
        records: what the lineage says of them.
    """
    found: dict[str, DataSource] = {}
    unknown = []
    for name, content in runs.items():
        part, record = parts.get(name), records.get(name)
        pretrained = None
        if content is not None:
            pretrained = pretrained_in(content)
        elif record is not None:
            pretrained = record.pretrained
        elif part is not None and (said := next((text for text in part.paragraphs if text.startswith(_FROM)), None)):
            match = _NAMED.fullmatch(said)
            pretrained = None if match is None else DataSource(name=match[1])
        else:
            unknown.append(name)
        if pretrained is not None:
            found[name] = pretrained
    return Pretrained(found, unknown)


def pretrained_of_bundle(manifest: Manifest, lineage: Lineage) -> list[DataSource]:
    """ImageNet weights that a bundle rests on, by its manifest, else by the lineage."""
    release = lineage.bundles.get(f"{manifest.name} {manifest.version}")
    if manifest.training.pretrained or release is None:
        return list(manifest.training.pretrained)
    return pretrained_by(lineage.ancestors(release.run))


def weights_table(of_runs: Pretrained, of_bundles: Mapping[str, Sequence[DataSource]]) -> Table:
    """Which runs start from which ImageNet weights, and which bundles rest on them."""
    names = dict.fromkeys(source.name for source in _all(of_runs, of_bundles))
    rows = [
        [
            name,
            ", ".join(run for run, source in of_runs.of.items() if source.name == name) or "–",
            ", ".join(key for key, sources in of_bundles.items() if name in {source.name for source in sources}) or "–",
        ]
        for name in names
    ]
    note = (
        "By `model.options.pretrained` of the runs' configurations, and for runs that are no longer at hand by "
        "`LINEAGE.json` beside the bundles. A model rests on weights that it, what it started from or its teachers "
        "started from."
    )
    if of_runs.unknown:
        note += f" Not known, since no longer at hand: {', '.join(of_runs.unknown)}."
    return Table([_IMAGENET, "runs that start from them", "shipped models that rest on them"], rows, note)


def all_weights(of_runs: Pretrained, of_bundles: Mapping[str, Sequence[DataSource]]) -> list[DataSource]:
    """Each ImageNet weights once, with the SHA-256 where anything knows it."""
    found: dict[str, DataSource] = {}
    for source in _all(of_runs, of_bundles):
        if source.name not in found or found[source.name].sha256 is None:
            found[source.name] = source
    return list(found.values())


def _all(of_runs: Pretrained, of_bundles: Mapping[str, Sequence[DataSource]]) -> list[DataSource]:
    return [*of_runs.of.values(), *(source for sources in of_bundles.values() for source in sources)]
