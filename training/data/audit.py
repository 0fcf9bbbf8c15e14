"""What is in a data set, and what would make figures measured on it look better than they are?

Counts, sizes, broken files, class balance, twins, the order that file names betray, and how far darkness alone gets.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.data.audit_figures import (
    draw_balance,
    draw_baseline,
    draw_masks,
    draw_omissions,
    draw_order,
    draw_samples,
)
from training.data.baseline import Baseline, measure_baseline
from training.data.omissions import Omission, omissions_of
from training.data.order import Order, find_series, measure_order
from training.data.scan import Scan, scan
from training.data.sources import Archive, Source, left_out
from training.data.splits import joined_groups, read_split
from training.data.twins import SYMMETRIES, Twin, coarse_thumbnails, connected, find_twins, with_exact_copies
from training.errors import DataError
from training.page import Picture, Section, Table, write_page
from training.progress import Step

if TYPE_CHECKING:
    from training.data.audit_command import AuditSettings

EXACT: Final = "exact copy"
CLASSES: Final = {True: "crack", False: "no crack", None: "by mask"}
TWIN_COLUMNS: Final = ("group", "path", "class", "sha256", "relation", "relative_to", "crosses_classes")
MOST_SIZES: Final = 8
MOST_BROKEN: Final = 50
MOST_LEFT_OUT: Final = 3


@dataclass(frozen=True)
class Member:
    """A file of a twin group: `relation` says what it is to `relative_to`; both are empty for the first file."""

    group: int
    index: int
    relation: str
    relative_to: int | None


@dataclass(frozen=True)
class Failure:
    """A data set that could not be looked over, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """All that was found out about one data set.

    Attributes:
        source: what was known before.
        sha256: of its archive.
        scan: what its files hold.
        left_out: picture files that its layout does not take.
        twins: pairs of readable photographs that show the same, byte-identical ones included.
        members: files of twin groups, group after group.
        crossing: numbers of the twin groups that hold several classes.
        orders: of each series of file names.
        baseline: of darkness, or why it was not measured.
        samples: positions of the photographs for the sample sheet.
        seconds: how long the search for twins and the whole took.
    """

    source: Source
    sha256: str
    archive: Archive
    scan: Scan
    left_out: list[str]
    twins: list[Twin]
    members: list[Member]
    crossing: list[int]
    orders: list[Order]
    baseline: Baseline | str
    samples: list[int]
    seconds: tuple[float, float]

    @property
    def exact_copies(self) -> int:
        """Number of files that are byte-identical with an earlier one."""
        return len(self.scan.digests) - len(set(self.scan.digests))

    @property
    def different(self) -> int:
        """Number of different pictures among the readable files."""
        groups = {member.group for member in self.members}
        return len(self.scan.items) - len(self.members) + len(groups)

    def relations(self) -> dict[str, int]:
        """Count the files of twin groups by what they are to another of the group."""
        return dict(Counter(member.relation for member in self.members if member.relation))

    def twinned(self) -> dict[str, tuple[int, int, int]]:
        """Return for each class: files with a twin, files, different pictures."""
        group_of = {member.index: member.group for member in self.members}
        found = {}
        for label, name in CLASSES.items():
            indices = [index for index, item in enumerate(self.scan.items) if item.label is label]
            if indices:
                different = len({group_of.get(index, -1 - index) for index in indices})
                found[name] = (sum(index in group_of for index in indices), len(indices), different)
        return found

    def omissions(self) -> list[Omission]:
        """Return the lines that masks of these photographs are known to leave out."""
        paths = {item.path for item in self.scan.items}
        return [line for line in omissions_of(self.source.name) if line.path in paths]

    def left_out_in_words(self) -> str:
        """Say how many picture files were left out, with examples."""
        examples = ", ".join(self.left_out[:MOST_LEFT_OUT])
        more = ", ..." if len(self.left_out) > MOST_LEFT_OUT else ""
        files = "picture file" if len(self.left_out) == 1 else "picture files"
        return f"{len(self.left_out)} {files} left out ({examples}{more})"

    def in_a_line(self) -> str:
        """Say the most important on one line."""
        broken = f", {len(self.scan.broken)} broken" if self.scan.broken else ""
        dropped = f", {self.left_out_in_words()}" if self.left_out else ""
        crossing = f", {len(self.crossing)} twin groups cross the classes" if self.crossing else ""
        baseline = (
            f"darkness alone: AUROC {self.baseline.auroc:.3f}, accuracy {100 * self.baseline.accuracy.value:.1f} %"
            if isinstance(self.baseline, Baseline)
            else f"darkness alone {self.baseline}"
        )
        return (
            f"{len(self.scan.items)} photographs{broken}{dropped}, {self.different} different "
            f"({self.exact_copies} exact copies){crossing}; {baseline}; "
            f"twins {self.seconds[0]:.0f} s, all {self.seconds[1]:.0f} s"
        )


def audit(source: Source, archive: Archive, settings: AuditSettings, step: Step) -> Report:
    """Look over one data set.

    Args:
        source: what is known about it.
        archive: its files.
        settings: of the command.
        step: shows progress.

    Raises:
        DataError: it is not laid out as expected, nothing of it can be read, or its committed split was changed.
    """
    import random

    began = time.monotonic()
    items = source.items(archive)
    with step(f"{source.name}: reading", len(items)) as advance:
        scanned = scan(source, archive, items, advance)
    if not scanned.items:
        first = scanned.broken[0]
        raise DataError(
            f"{archive.path}: none of {len(items)} photographs can be read (first: {first.path}: {first.reason})"
        )
    twins_began = time.monotonic()
    with step(f"{source.name}: searching twins", len(scanned.items)) as advance:
        twins = with_exact_copies(find_twins(scanned.fine, advance=advance), scanned.digests)
    twin_seconds = time.monotonic() - twins_began
    members, crossing = gather(scanned, twins)
    coarse = coarse_thumbnails(scanned.fine)
    series = find_series(scanned.items)
    orders = []
    with step(f"{source.name}: order of file names", len(series)) as advance:
        for one in series:
            orders.append(
                measure_order(
                    one,
                    coarse,
                    scanned.colours,
                    twins,
                    farthest=settings.order_lags,
                    random_pairs=settings.random_pairs,
                    seed=settings.seed,
                )
            )
            advance(1)
    groups = joined_groups(scanned.items, [(twin.first, twin.second) for twin in twins])
    rng = random.Random(f"{settings.seed}/{source.name}")
    return Report(
        source=source,
        sha256=archive.sha256(),
        archive=archive,
        scan=scanned,
        left_out=left_out(archive, items),
        twins=twins,
        members=members,
        crossing=crossing,
        orders=orders,
        baseline=measure_baseline(scanned.tiles, groups, _split_of(source.name, scanned, settings.data.splits)),
        samples=_samples(scanned, settings.samples, rng),
        seconds=(twin_seconds, time.monotonic() - began),
    )


def _split_of(name: str, scanned: Scan, folder: Path) -> dict[int, str] | None:
    if not (folder / f"{name}.csv").is_file():
        return None
    by_path = {row.path: row.split for row in read_split(name, folder)}
    if any(item.path not in by_path for item in scanned.items):
        return None  # the split of another collection of the same name, for example of fewer files
    return {index: by_path[item.path] for index, item in enumerate(scanned.items)}


def _samples(scanned: Scan, count: int, rng: Any) -> list[int]:
    """Draw photographs, as many of each class as of the others where there are enough."""
    by_label: dict[bool | None, list[int]] = defaultdict(list)
    for index, item in enumerate(scanned.items):
        by_label[item.label].append(index)
    queues = [rng.sample(indices, len(indices)) for _, indices in sorted(by_label.items(), key=str)]
    chosen: list[list[int]] = [[] for _ in queues]
    while sum(map(len, chosen)) < min(count, len(scanned.items)):
        for queue, taken in zip(queues, chosen, strict=True):
            if queue and sum(map(len, chosen)) < count:
                taken.append(queue.pop())
    return [index for taken in chosen for index in taken]


def gather(scanned: Scan, twins: Sequence[Twin]) -> tuple[list[Member], list[int]]:
    """Join twins to groups; return their files, and the numbers of the groups that hold several classes.

    A file's relation is that to its nearest twin: an exact copy before others, then the highest correlation.
    """
    roots = connected(len(scanned.items), [(twin.first, twin.second) for twin in twins])
    partners: dict[int, list[Twin]] = defaultdict(list)
    for twin in twins:
        partners[twin.first].append(twin)
        partners[twin.second].append(twin)
    by_root: dict[int, list[int]] = defaultdict(list)
    for index in sorted(partners):
        by_root[roots[index]].append(index)
    members, crossing = [], []
    for number, indices in enumerate(by_root.values(), start=1):
        if len({scanned.items[index].label for index in indices}) > 1:
            crossing.append(number)
        members.append(Member(number, indices[0], "", None))
        for index in indices[1:]:
            # an earlier twin first, so that following `relative_to` leads to the group's first file
            nearest = max(
                partners[index],
                key=lambda twin: (_same_bytes(scanned, twin), twin.second == index, twin.correlation, -twin.first),
            )
            other = nearest.first if nearest.second == index else nearest.second
            relation = EXACT if _same_bytes(scanned, nearest) else _relation(nearest, index)
            members.append(Member(number, index, relation, other))
    return members, crossing


def _same_bytes(scanned: Scan, twin: Twin) -> bool:
    return scanned.digests[twin.first] == scanned.digests[twin.second]


def _relation(twin: Twin, index: int) -> str:
    if twin.symmetry == 0:
        return "encoded again"
    # what turns the second back into the first is the inverse: quarter turns are exchanged, mirrors are their own
    back = {1: 3, 3: 1}.get(twin.symmetry, twin.symmetry)
    return SYMMETRIES[twin.symmetry if twin.second == index else back]


def write_audit(reports: Sequence[Report], folder: Path, failures: Sequence[Failure] = ()) -> Path:
    """Write `audit.json`, `twins-NAME.csv`, the figures and the page; return the page's path.

    `failures` are the data sets that could not be looked over: the page begins with them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"data_sets": [as_dict(report) for report in reports]}
    if failures:
        content["not_audited"] = [{"name": failure.name, "reason": failure.reason} for failure in failures]
    (folder / "audit.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for report in reports:
        _write_twins(report, folder / f"twins-{report.source.name}.csv")
    sections = [_failed(failures)] if failures else []
    if reports:
        sections += [_all_sets(reports, folder), *(_section(report, folder) for report in reports)]
    summary = "Counts, broken files, twins, what file names betray, and how far one threshold on darkness gets."
    return write_page(folder / "index.html", "Audit of the data sets", summary, sections)


def _failed(failures: Sequence[Failure]) -> Section:
    table = Table(["data set", "why"], [[failure.name, failure.reason] for failure in failures])
    return Section("Not audited", ["These data sets are there or were asked for, and could not be read."], [table])


def _all_sets(reports: Sequence[Report], folder: Path) -> Section:
    balance = draw_balance([_balance(report) for report in reports], folder / "class-balance.svg")
    return Section(
        "All data sets",
        tables=[_overview(reports), _baselines(reports)],
        pictures=[
            Picture(
                balance, "Class balance: of files, or of tiles cut by the masks (squares of half the photograph's side)"
            )
        ],
    )


def _write_twins(report: Report, path: Path) -> None:
    crossing = set(report.crossing)
    items = report.scan.items
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TWIN_COLUMNS)
        for member in report.members:
            item = items[member.index]
            other = "" if member.relative_to is None else items[member.relative_to].path
            digest = report.scan.digests[member.index]
            crosses = "yes" if member.group in crossing else "no"
            writer.writerow((member.group, item.path, CLASSES[item.label], digest, member.relation, other, crosses))


def _balance(report: Report) -> tuple[str, int, int, int]:
    """Name, cracked, sound and unsure: of files, or of tiles where masks decide."""
    cracked = sum(tile.cracked for tile in report.scan.tiles)
    return report.source.name, cracked, len(report.scan.tiles) - cracked, report.scan.unsure


def as_dict(report: Report) -> dict[str, Any]:
    """Return what is written to `audit.json` about one data set."""
    _, cracked, sound, unsure = _balance(report)
    baseline = report.baseline
    return {
        "name": report.source.name,
        "sha256": report.sha256,
        "licence": report.source.licence,
        "role": report.source.role,
        "photographs": len(report.scan.items),
        "broken": [{"path": file.path, "reason": file.reason} for file in report.scan.broken],
        "omissions": [
            {"path": line.path, "seen": line.seen, "length_px": round(line.length_px, 1)} for line in report.omissions()
        ],
        "left_out": {"files": len(report.left_out), "examples": report.left_out[:MOST_LEFT_OUT]},
        "sizes": {f"{w}x{h}": count for (w, h), count in Counter(report.scan.sizes).most_common()},
        "classes": dict(Counter(CLASSES[item.label] for item in report.scan.items)),
        "tiles": {"crack": cracked, "no crack": sound, "unsure": unsure},
        "twins": {
            "exact_copies": report.exact_copies,
            "different_pictures": report.different,
            "groups": len({member.group for member in report.members}),
            "relations": report.relations(),
            "groups_across_classes": report.crossing,
            "by_class": {
                name: {"with_a_twin": twinned, "files": files, "different": different}
                for name, (twinned, files, different) in report.twinned().items()
            },
        },
        "order": [_order_dict(order) for order in report.orders],
        "baseline": baseline
        if isinstance(baseline, str)
        else {
            "fitted_on": baseline.fitted_on,
            "threshold": baseline.threshold,
            "recall": baseline.recall.as_list(),
            "specificity": baseline.specificity.as_list(),
            "accuracy": baseline.accuracy.as_list(),
            "auroc": baseline.auroc,
        },
        "seconds": {"twins": round(report.seconds[0], 1), "all": round(report.seconds[1], 1)},
    }


def _order_dict(order: Order) -> dict[str, Any]:
    distance = order.usual_twin_distance()
    return {
        "pattern": order.series.pattern,
        "class": CLASSES[order.series.label],
        "files": len(order.series.indices),
        "thumbnail_correlation": {"neighbours": order.neighbour_thumbnail, "random": order.random_thumbnail},
        "colour_correlation": {"neighbours": order.neighbour_colour, "random": order.random_colour},
        "usual_distance_of_distant_twins": None if distance is None else {"number": distance[0], "share": distance[1]},
    }


def _overview(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        classes = Counter(CLASSES[item.label] for item in report.scan.items)
        rows.append(
            [
                report.source.name,
                str(len(report.scan.items)),
                ", ".join(f"{name} {count}" for name, count in classes.items()),
                str(len(report.scan.broken)),
                str(len(report.left_out)),
                str(report.different),
                str(report.exact_copies),
                str(len(report.crossing)),
                report.source.role,
            ]
        )
    headings = [
        "data set",
        "readable",
        "classes",
        "broken",
        "left out",
        "different",
        "exact copies",
        "groups across classes",
        "role",
    ]
    note = (
        "Different: pictures that are left if copies, re-encodings, mirrored and turned ones count once. Left out: "
        "picture files that the layout of the set does not take, by their folder, name or kind."
    )
    return Table(headings, rows, note)


def _baselines(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        found = report.baseline
        if isinstance(found, str):
            rows.append([report.source.name, found, *["-"] * 5])
            continue
        rates = [
            f"{100 * one.value:.1f} % ({100 * one.low:.1f}-{100 * one.high:.1f}), {one.hits} of {one.total}"
            for one in (found.accuracy, found.recall, found.specificity)
        ]
        rows.append([report.source.name, found.fitted_on, f"{found.threshold:.1f}", *rates, f"{found.auroc:.3f}"])
    headings = ["data set", "threshold fitted on", "threshold", "accuracy", "recall", "specificity", "AUROC"]
    note = (
        "The trivial baseline: median brightness minus the darkest of 16 x 16 cells, one threshold, measured on what "
        "it was not fitted on. Intervals are Clopper-Pearson, 95 %. On external sets too the threshold is fitted on "
        "one half and measured on the other: it describes the set, and no model is touched by it."
    )
    return Table(headings, rows, note)


def _section(report: Report, folder: Path) -> Section:
    name = report.source.name
    scanned = report.scan
    sizes = Counter(scanned.sizes).most_common()
    tables = [
        Table(
            ["size in px", "photographs"],
            [[f"{width} x {height}", str(count)] for (width, height), count in sizes[:MOST_SIZES]],
            f"{len(sizes) - MOST_SIZES} further sizes are in audit.json." if len(sizes) > MOST_SIZES else "",
        ),
        Table(
            ["class", "files with a twin", "files", "different pictures"],
            [
                [label, f"{twinned} ({100 * twinned / files:.1f} %)", str(files), str(different)]
                for label, (twinned, files, different) in report.twinned().items()
            ],
        ),
    ]
    if report.members:
        tables.append(
            Table(
                ["relation to the nearest twin", "files"],
                [[relation, str(count)] for relation, count in sorted(report.relations().items())],
                f"All {len({m.group for m in report.members})} groups with their files: twins-{name}.csv. "
                + (
                    f"{len(report.crossing)} groups hold several classes." if report.crossing else _none_crosses(report)
                ),
            )
        )
    if scanned.broken:
        tables.append(
            Table(
                ["broken file", "why"],
                [[file.path, file.reason] for file in scanned.broken[:MOST_BROKEN]],
                f"{len(scanned.broken)} in all; all are in audit.json.",
            )
        )
    pictures = []
    if report.samples:
        sheet = draw_samples(report.archive, report.source, scanned, report.samples, folder / f"samples-{name}.png")
        pictures.append(Picture(sheet, "Samples; cracks of the masks are orange, joints and boxes blue"))
    omitted = report.omissions()
    if omitted:
        tables.append(_omissions_table(omitted))
        drawn = draw_omissions(report.archive, omitted, folder / f"omissions-{name}.png")
        pictures.append(Picture(drawn, "What the masks leave out, with more contrast, and again with the line over it"))
    if scanned.tiles:
        threshold = report.baseline.threshold if isinstance(report.baseline, Baseline) else None
        drawn = draw_baseline(scanned.tiles, threshold, folder / f"darkness-{name}.svg")
        pictures.append(Picture(drawn, "Darkness: median brightness minus the darkest of 16 x 16 cells"))
    if any(scanned.crack_shares):
        drawn = draw_masks(scanned.crack_shares, scanned.crack_widths_px, folder / f"masks-{name}.svg")
        pictures.append(Picture(drawn, "What the masks hold"))
    if report.orders:
        tables.append(_order_table(report.orders))
        drawn = draw_order(report.orders, folder / f"order-{name}.svg")
        pictures.append(Picture(drawn, "What file names tell: likeness by distance in number; distances of twins"))
    paragraphs = [f"{report.source.citation}. Licence: {report.source.licence}."]
    if report.left_out:
        paragraphs.append(f"The layout of this set does not take everything: {report.left_out_in_words()}.")
    return Section(name, paragraphs, tables, pictures)


def _omissions_table(lines: Sequence[Omission]) -> Table:
    rows = [[line.path, line.seen, f"{line.length_px:.0f}"] for line in lines]
    note = "Seen in the photographs and listed in training/data/omissions.csv; tiles on them are not taken for sound."
    return Table(["what its mask leaves out", "what is seen", "length in px"], rows, note)


def _none_crosses(report: Report) -> str:
    several = len({item.label for item in report.scan.items}) > 1
    return "No group holds both classes." if several else ""


def _order_table(orders: Sequence[Order]) -> Table:
    rows = []
    for order in orders:
        distance = order.usual_twin_distance()
        rows.append(
            [
                order.series.pattern,
                CLASSES[order.series.label],
                str(len(order.series.indices)),
                f"{order.neighbour_thumbnail:.3f} / {order.random_thumbnail:.3f}",
                f"{order.neighbour_colour:.3f} / {order.random_colour:.3f}",
                "-" if distance is None else f"{distance[0]} ({math.floor(100 * distance[1])} %)",
            ]
        )
    return Table(
        [
            "file names",
            "class",
            "files",
            "thumbnails: neighbours / random",
            "colour: neighbours / random",
            "twins apart",
        ],
        rows,
        "Mean correlation of neighbours in the order of file names against random pairs: of 16 x 16 thumbnails, and of "
        "mean colour and contrast. Where neighbours are more alike, files are in the order of the photographs. Twins "
        "apart: the commonest distance in number between twins that are no neighbours, and how many of them have it.",
    )
