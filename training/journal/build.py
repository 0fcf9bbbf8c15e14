"""How does the journal come about? Section by section; each says what was run, or that nothing was."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from training.engine import checkpoint
from training.engine.curves import draw_curves, read_trace
from training.errors import DataError
from training.export.bundle import INDEX, Manifest, read_manifest
from training.export.lineage import LINEAGE, Lineage, Run, data_of, listed, read_lineage
from training.files import folder_beside, put_in_place
from training.journal import starts
from training.journal.performance import bars_table, draw_bars, missed_table, ranked_table, standing_of
from training.journal.settings import JournalConfig, command_of
from training.journal.shipped import gates_table, rows_of, timed_column, with_shipped_rows
from training.journal.standing import KEPT_MEANS, Standing, is_kept, standing_journal
from training.journal.texts import text_of
from training.page import Picture, Section, Table, read_sections, render_markdown, sections_beside, write_page

CHARTS: Final = {".svg"}
_TRAINING: Final = "Training"
_BASELINE: Final = "Choice of the baseline"
_ERRORS: Final = "Errors, and guesses about them put to the test"
_NO_RUN: Final = "Nothing of this part was run for this journal."
_NO_BASELINE: Final = (
    "How well these architectures judge when they are trained alike, with an equal budget, was not measured for this "
    "journal: the tables below say what they cost, and only that."
)
_ELSEWHERE: Final = "Not in this document: "
_FORMERLY: Final = "Left out, since it shows photographs that may not be redistributed: "
"""So journals before this one began a paragraph for every single picture that they left out."""
_FILE: Final = re.compile(r"\b[a-z0-9][\w-]*\.(?:csv|json)\b")


def build(config: JournalConfig, standing_in: Path | None = None) -> Path:
    """Write `index.html`, `journal.md` and `figures/` into the journal's folder; return the HTML page.

    A run or page that is no longer there is taken over from the journal that stands, which says so. All of it is
    made beside its place and put there at the end: after an error the journal that stands is as it was.

    Args:
        config: what goes into it.
        standing_in: folder of the journal that stands; None: the one that is written.

    Raises:
        DataError: a page or run that the configuration names is neither there nor in the journal that stands, a
            split is not there, or a file cannot be read or written.
        ExportError: a bundle cannot be read.
        CheckpointError: a run has no readable checkpoint.
    """
    standing = standing_journal(standing_in or config.out)
    target = config.out.resolve()
    try:
        with folder_beside(target) as work:
            page = _build(config.model_copy(update={"out": work}), standing)
            put_in_place(work, target)
    except OSError as error:
        raise DataError(f"{config.out}: cannot be made ({error})") from error
    return config.out / page.name


def _build(config: JournalConfig, standing: Standing) -> Path:
    """Write the journal into an empty folder, which `config.out` is."""
    figures = config.out / "figures"
    manifests = [read_manifest(folder) for folder in config.bundles]
    runs = {name: _run(name, folder, standing) for name, folder in config.runs.items()}
    lineage = read_lineage(config.bundles[0].parent / LINEAGE)
    gone = {name: standing.part(_TRAINING, name) for name, content in runs.items() if content is None}
    records = {name: starts.recorded(name, part, lineage) for name, part in gone.items()}
    architectures = with_shipped_rows(_baseline(config, standing), manifests)
    sections = [
        _data(config, manifests, starts.pretrained_of_runs(runs, gone, records), lineage, standing),
        _split(config, standing),
        _metrics(),
        _taken_over("Augmentation", "augmentation", config, standing),
        _loss(runs, standing),
        architectures,
        _custom_model(),
        _training(config, runs, records, figures, standing),
        _performance(config, manifests, figures, standing),
        _taken_over("Parameter studies", "studies", config, standing),
        _errors(config, manifests, standing),
        _taken_over("What the models look at", "explanation", config, standing),
        _robustness(config, manifests, standing),
        _conclusions(config, manifests, _times(architectures, manifests)),
    ]
    sections = [_with_remarks(section, config.remarks) for section in sections]
    unknown = set(config.remarks) - {section.title for section in sections}
    if unknown:
        titles = ", ".join(repr(section.title) for section in sections)
        raise DataError(f"remarks for {', '.join(sorted(unknown))!r}: there is no such section; allowed: {titles}")
    taken: Counter[str] = Counter()
    sections = [_gathered(section, figures, standing.figures, taken) for section in sections]
    summary = _summary(manifests) + (f" {KEPT_MEANS}" if any(is_kept(section) for section in sections) else "")
    text = render_markdown(config.title, summary, sections, lambda path: f"figures/{path.name}")
    page = write_page(config.out / "index.html", config.title, summary, sections)
    (config.out / "journal.md").write_text(text, encoding="utf-8")
    return page


def _run(name: str, folder: Path, standing: Standing) -> dict[str, Any] | None:
    """The final checkpoint of a run, with what it was configured to do and its history; None: the old journal tells."""
    for file in ("final.pt", "best.pt"):
        if (folder / file).is_file():
            return checkpoint.load(folder / file)
    if standing.part(_TRAINING, name) is None:
        raise DataError(f"{folder}: neither final.pt nor best.pt is there; train first")
    return None


def _data(
    config: JournalConfig,
    manifests: Sequence[Manifest],
    pretrained: starts.Pretrained,
    lineage: Lineage,
    standing: Standing,
) -> Section:
    of_bundles = {manifest.name: starts.pretrained_of_bundle(manifest, lineage) for manifest in manifests}
    weights = starts.all_weights(pretrained, of_bundles)
    sources = data_of(manifest.training for manifest in manifests)
    table = Table(
        ["trained on", "training photographs", "SHA-256 (first 16)", "licence"],
        [
            [source.name, str(source.train_tiles or "–"), (source.sha256 or "–")[:16], source.licence or "–"]
            for source in sources
        ]
        + starts.data_rows(weights),
        "Walls, brickwork and NHA12D are external: never trained on, and no weights, threshold or calibration were "
        "chosen by them. What earlier versions reached on them was known when these recipes were written.",
    )
    tables = [table, starts.weights_table(pretrained, of_bundles)] if weights else [table]
    return _joined(_section("Data", tables), "data", config, standing)


def _split(config: JournalConfig, standing: Standing) -> Section:
    rows = []
    for path in sorted(config.splits.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            entries = list(csv.DictReader(file))
        counts = Counter(entry["split"] for entry in entries)
        groups = len({entry["group"] for entry in entries})
        rows.append([path.stem, *(str(counts[name]) for name in ("train", "val", "test")), str(groups)])
    if not rows:
        raise DataError(f"{config.splits}: holds no split; run `crack-training split`")
    table = Table(["set", "train", "val", "test", "groups"], rows, "Photographs; a group never spans two parts.")
    return _joined(_section("Split", [table]), "split", config, standing)


def _metrics() -> Section:
    return _section("What is measured, and why recall comes first")


def _loss(runs: Mapping[str, dict[str, Any] | None], standing: Standing) -> Section:
    rows = []
    for name, content in runs.items():
        if content is None:
            rows += [row] if (row := standing.row("Loss", name)) else []
            continue
        if content["step"] == 0:
            rows.append([name, f"none: {_kept(content)}", *["–"] * 4])
            continue
        loss = content["config"]["loss"]
        cells = "none" if not loss["cell_weight"] else f"{loss['cell_weight']:g} ({loss.get('cell_head', 'auxiliary')})"
        teachers = ", ".join(listed(loss.get("teacher")))
        rows.append(
            [
                name,
                str(loss.get("kind", "bce")),
                f"{loss['pos_weight']:g}",
                f"{loss['label_smoothing']:g}",
                cells,
                "none" if not teachers else f"{teachers} (weight {loss.get('teacher_weight', 0):g})",
            ]
        )
    headings = ["run", "loss", "pos_weight", "label smoothing", "weight of the cells (whose)", "teacher"]
    return _section("Loss", [Table(headings, rows)] if rows else [])


def _kept(content: dict[str, Any]) -> str:
    """Say what a run without steps is made of."""
    starts = listed(content["config"]["model"].get("init"))
    return f"average of {' and '.join(starts)}" if len(starts) > 1 else f"{', '.join(starts) or 'its start'} as it is"


def _baseline(config: JournalConfig, standing: Standing) -> Section:
    section = _taken_over(_BASELINE, "architectures", config, standing)
    there = [page for page in config.pages.baseline if _is_told(_BASELINE, page, standing)]
    if not there:
        return replace(section, paragraphs=[*section.paragraphs, _NO_BASELINE])
    pages = config.pages.model_copy(update={"baseline": there})
    return _joined(section, "baseline", config.model_copy(update={"pages": pages}), standing)


def _custom_model() -> Section:
    from training.models import create, parameter_count
    from training.models.opnet import WIDTHS

    rows = []
    side, channels = 224, 3
    for width in WIDTHS:
        parameters = 9 * channels * width + width + 2 * width
        side //= 2
        layer = f"convolution 3x3, batch norm, ReLU, pooling 2x2: {channels} to {width}"
        rows.append([layer, f"{side} x {side}", f"{parameters:,}"])
        channels = width
    rows.append(["linear on every cell, then pooling over the cells", "1", f"{channels + 1:,}"])
    total = parameter_count(create("opnet"))
    note = f"{total:,} parameters in all, counted on the network itself."
    return _section("The custom model", [Table(["layer", "output", "parameters"], rows, note)])


def _training(
    config: JournalConfig,
    runs: Mapping[str, dict[str, Any] | None],
    records: Mapping[str, Run | None],
    figures: Path,
    standing: Standing,
) -> Section:
    parts = []
    for name, content in runs.items():
        if content is None:
            parts += [starts.with_start(part, records[name])] if (part := standing.part(_TRAINING, name)) else []
            continue
        if content["step"] == 0:
            kept = f"Nothing was learnt, no loss was computed: {_kept(content)}."
            parts.append(Section(name, [_facts(content), kept], origin=name))
            continue
        path = figures / f"curves-{name}.svg"
        draw_curves(path, content["history"], read_trace(config.runs[name] / "steps.csv"))
        stages = [
            [
                stage["name"], str(stage["px"]), str(stage["batch"]), str(stage["steps"]), f"{stage['lr']:g}",
                stage["preset"], ", ".join(f"{key} {value:g}" for key, value in stage["sources"].items()),
            ]
            for stage in content["config"]["stages"]
        ]  # fmt: skip
        parts.append(
            Section(
                name,
                [_facts(content), starts.told(content)],
                [Table(["stage", "px", "batch", "steps", "rate", "preset", "share of each source"], stages)],
                [Picture(path, f"{name}: training loss, and the validation sets judged by the averaged weights")],
                origin=name,
            )
        )
    return replace(_section(_TRAINING), sections=parts) if parts else _with_no_run(_section(_TRAINING))


def _facts(content: dict[str, Any]) -> str:
    return (
        f"{content['model']}, configuration {content['config_path']}, seed {content['seed']}, commit "
        f"{content['commit'] or 'unknown'}, {content['step']} steps in {content['hours']:.2f} h."
    )


def _performance(config: JournalConfig, manifests: Sequence[Manifest], figures: Path, standing: Standing) -> Section:
    path = figures / "performance.svg"
    draw_bars(manifests, path)
    section = Section(
        "Performance",
        ["The files that fly, on photographs that were not trained on. The whole curve is on each model's card."],
        [bars_table(manifests)],
        [Picture(path, "Share judged rightly on each set, with intervals; strokes: what was wanted of each")],
    )
    return _joined(section, "performance", config, standing)


def _errors(config: JournalConfig, manifests: Sequence[Manifest], standing: Standing) -> Section:
    section = _taken_over(_ERRORS, "errors", config, standing)
    return replace(section, tables=[missed_table(manifests)])


def _robustness(config: JournalConfig, manifests: Sequence[Manifest], standing: Standing) -> Section:
    section = _taken_over("Robustness", "robustness", config, standing)
    return replace(section, tables=[gates_table(manifests)])


def _conclusions(config: JournalConfig, manifests: Sequence[Manifest], times: Mapping[str, float]) -> Section:
    paragraphs = standing_of(manifests, times, _default(config))
    return Section("Conclusions", [*paragraphs, *text_of("Conclusions")], [ranked_table(manifests, times)])


def _default(config: JournalConfig) -> str | None:
    """Return which bundle flies where none is named, None if the folder of the bundles does not say."""
    index = config.bundles[0].parent / INDEX
    if not index.is_file():
        return None
    try:
        name = json.loads(index.read_text(encoding="utf-8")).get("default")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{index}: damaged ({error}); export a bundle to have it written again") from error
    return name if isinstance(name, str) else None


def _times(architectures: Section, manifests: Sequence[Manifest]) -> dict[str, float]:
    """Read off the table of the architectures how long an 8-bit tile takes, by name of the bundle."""
    found = {}
    for table in _tables(architectures):
        column = timed_column(table)
        if column is None:
            continue
        for manifest in manifests:
            rows = [row for row in rows_of(manifest, table) if row[column] != "–"]
            if rows:
                found[manifest.name] = float(rows[0][column])
    return found


def _tables(section: Section) -> Iterator[Table]:
    yield from section.tables
    for part in section.sections:
        yield from _tables(part)


def _summary(manifests: Sequence[Manifest]) -> str:
    names = ", ".join(f"{manifest.name} {manifest.version}" for manifest in manifests)
    return (
        f"How {names} came about: data, training, what was measured and how sure that is. `crack-training journal` "
        "read or computed every result in tables, charts and the sentences about runs from what the commands left; "
        "none was typed by hand. The introductions are by hand, but for their numbers, which are settings of the "
        "method and arithmetic and are filled in by the program; remarks of the configuration are by hand."
    )


def _section(title: str, tables: Sequence[Table] = ()) -> Section:
    return Section(title, text_of(title), tables)


def _taken_over(title: str, part: str, config: JournalConfig, standing: Standing) -> Section:
    section = _section(title)
    return _joined(section, part, config, standing) if getattr(config.pages, part) else _with_no_run(section)


def _with_no_run(section: Section) -> Section:
    return replace(section, paragraphs=[*section.paragraphs, _NO_RUN])


def _is_told(title: str, page: Path, standing: Standing) -> bool:
    """Whether a page is there, or was when the journal that stands was written."""
    return sections_beside(page).is_file() or standing.part(title, page.as_posix()) is not None


def _joined(section: Section, part: str, config: JournalConfig, standing: Standing) -> Section:
    """Add what other commands found, each page of a part of `Pages` as a part of its own."""
    parts = list(section.sections)
    for page in getattr(config.pages, part):
        kept = None if sections_beside(page).is_file() else standing.part(section.title, page.as_posix())
        if kept is None:
            title, summary, sections = read_sections(page)
            kept = Section(title, [summary] if summary else [], sections=sections, origin=page.as_posix())
        parts.append(_published(kept, command_of(part, page), page.parent, photographs=config.photographs))
    return replace(section, sections=_without_empty(parts))


def _with_remarks(section: Section, remarks: dict[str, list[str]]) -> Section:
    return replace(section, paragraphs=[*section.paragraphs, *remarks.get(section.title, [])])


def _published(part: Section, command: str, folder: Path, *, photographs: bool) -> Section:
    """Leave out pictures of photographs unless they are wanted, and say once what is not here and how to have it.

    Headings under which nothing is left go, too.
    """
    files = sorted({name for text in _said(part) for name in _FILE.findall(text)})
    left_out = 0
    if not photographs:
        part, left_out = _without_photographs(part)
    part = replace(part, sections=_without_empty(part.sections))
    if any(text.startswith(_ELSEWHERE) for text in part.paragraphs):  # taken over with its note
        return part
    note = []
    if left_out:
        pictures = "1 picture" if left_out == 1 else f"{left_out} pictures"
        note.append(f"{pictures} of photographs (photographs of data sets are no part of this repository)")
    if files:
        note.append(f"the files that are named ({', '.join(f'`{name}`' for name in files)})")
    if not note:
        return part
    said = f"{_ELSEWHERE}{' and '.join(note)}. `crack-training {command}` writes them into `{folder.as_posix()}/`."
    return replace(part, paragraphs=[*part.paragraphs, said])


def _said(section: Section) -> Iterator[str]:
    yield from section.paragraphs
    yield from (table.note for table in section.tables)
    for part in section.sections:
        yield from _said(part)


def _without_photographs(section: Section) -> tuple[Section, int]:
    """Take the pictures of photographs out of a section and its parts; return how many those were, too."""
    kept = [picture for picture in section.pictures if picture.path.suffix.lower() in CHARTS]
    paragraphs = [text for text in section.paragraphs if not text.startswith(_FORMERLY)]
    left_out = len(section.pictures) - len(kept) + len(section.paragraphs) - len(paragraphs)
    inner = [_without_photographs(part) for part in section.sections]
    parts = [part for part, _ in inner]
    bare = replace(section, paragraphs=paragraphs, pictures=kept, sections=parts)
    return bare, left_out + sum(count for _, count in inner)


def _without_empty(sections: Sequence[Section]) -> list[Section]:
    """Leave out the sections under whose headings nothing stands."""
    parts = [replace(section, sections=_without_empty(section.sections)) for section in sections]
    return [part for part in parts if part.paragraphs or part.tables or part.pictures or part.sections]


def _gathered(section: Section, figures: Path, standing: Path, taken: Counter[str]) -> Section:
    """Copy every picture into the journal's folder, under a name of its own; one of the journal before keeps its."""
    pictures = []
    for picture in section.pictures:
        target = figures / picture.path.name
        if picture.path.resolve() != target.resolve():
            if not picture.path.is_file():
                raise DataError(f"{picture.path}: the picture is not there; run the command that draws it again")
            name = picture.path.name
            if picture.path.parent != standing:
                name = f"{picture.path.parent.parent.name}-{picture.path.parent.name}-{name}"
            taken[name] += 1
            target = figures / (name if taken[name] == 1 else f"{taken[name]}-{name}")
            figures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.path, target)
        pictures.append(replace(picture, path=target))
    return replace(
        section, pictures=pictures, sections=[_gathered(part, figures, standing, taken) for part in section.sections]
    )
