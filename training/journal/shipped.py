"""Which row of a table is which shipped bundle, and what does each tell the agent of its limits?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from training.evaluation.disturb import DISTURBANCES
from training.export.bundle import Manifest
from training.page import Section, Table

_SHIPPED: Final = "shipped model"
_GATES: Final = {
    "min_sharpness": "out of focus, motion smear",
    "min_brightness": "exposure, darker",
    "max_brightness": "exposure, brighter",
    "max_smear_px": "motion smear",
}
"""Gates of a manifest's `quality`, and the disturbances that they come from."""


def timed_column(table: Table) -> int | None:
    """Return the column with the time of an 8-bit tile if this is the table of the architectures."""
    return next((at for at, heading in enumerate(table.headings) if heading.startswith("8-bit time /")), None)


def rows_of(manifest: Manifest, table: Table) -> list[Sequence[str]]:
    """Return the rows of the table of the architectures that have a bundle's network: the one of its name first.

    A network is known by its number of parameters, since a row's name may be that of a variant.
    """
    rows = [row for row in table.rows if row[1] == f"{manifest.parameters:,}"]
    return sorted(rows, key=lambda row: row[0] != manifest.name)


def with_shipped_rows(section: Section, manifests: Sequence[Manifest]) -> Section:
    """Say below each table of architectures which row is which bundle, instead of what was said there before."""
    tables: list[Table] = []
    for table in section.tables:
        if table.headings[0] == _SHIPPED:  # of the journal that stands
            continue
        tables += [table] if timed_column(table) is None else [table, _shipped_rows(table, manifests)]
    return replace(section, tables=tables, sections=[with_shipped_rows(part, manifests) for part in section.sections])


def _shipped_rows(table: Table, manifests: Sequence[Manifest]) -> Table:
    rows, misnamed = [], []
    for manifest in manifests:
        found = [row[0] for row in rows_of(manifest, table)]
        row = "none" if not found else found[0] if found[0] == manifest.name else " or ".join(found)
        rows.append([manifest.name, manifest.architecture, f"{manifest.parameters:,}", row])
        misnamed += [
            f" The row {other[0]} ({other[1]} parameters) has the name of the shipped {manifest.name}, but is another "
            "network."
            for other in table.rows
            if other[0] == manifest.name and other[0] != row
        ]
    note = f"By the manifests of the bundles: the row with as many parameters.{''.join(misnamed)}"
    return Table([_SHIPPED, "architecture", "parameters", "row of the table above"], rows, note)


def gates_table(manifests: Sequence[Manifest]) -> Table:
    """What each bundle's manifest tells the agent."""
    rows = []
    for key, origin in _GATES.items():
        values = (getattr(manifest.quality, key, None) for manifest in manifests)
        rows.append([key, origin, *("–" if value is None else f"{value:.3g}" for value in values)])
    for end, origin in (("min", "scale, nearer"), ("max", "scale, farther")):
        values = (getattr(manifest.gsd_mm_px, end) for manifest in manifests)
        rows.append([f"gsd_mm_px.{end}", origin, *(f"{value:.3g}" for value in values)])
    note = (
        "From the manifests of the bundles. –: none; then the agent's own value holds, where it has one. max_smear_px "
        "refuses no frame; in flight a smear shows in the sharpness."
    )
    return Table(["told to the agent", "found by", *(manifest.name for manifest in manifests)], rows, note)


def on_the_card_only() -> list[str]:
    """Disturbances of which nothing is told to the agent: they move nothing that it measures, and no scale."""
    return [item.title for item in DISTURBANCES.values() if item.moves is None and item.name != "scale"]
