"""How does the journal come about? Section by section; each says what was run, or that nothing was."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from training.engine import checkpoint
from training.errors import DataError
from training.export.bundle import Manifest, read_manifest
from training.export.lineage import listed
from training.figures import figure
from training.journal.performance import bars_table, draw_bars, ranking
from training.journal.settings import JournalConfig
from training.journal.standing import Standing, standing_journal
from training.page import Picture, Section, Table, read_sections, render_markdown, sections_beside, write_page

CHARTS: Final = {".svg"}
_TRAINING: Final = "Training"
_NO_RUN: Final = "Nothing of this part was run for this journal."


def build(config: JournalConfig, standing_in: Path | None = None) -> Path:
    """Write `index.html`, `journal.md` and `figures/` into the journal's folder; return the HTML page.

    A run or page that is no longer there is taken over from the journal that stands, which says so.

    Args:
        config: what goes into it.
        standing_in: folder of the journal that stands; None: the one that is written.

    Raises:
        DataError: a page or run that the configuration names is neither there nor in the journal that stands, or a
            split is not there.
        ExportError: a bundle cannot be read.
        CheckpointError: a run has no readable checkpoint.
    """
    with standing_journal(standing_in or config.out) as standing:
        return _build(config, standing)


def _build(config: JournalConfig, standing: Standing) -> Path:
    figures = config.out / "figures"
    if figures.is_dir():
        shutil.rmtree(figures)  # of an earlier journal
    manifests = [read_manifest(folder) for folder in config.bundles]
    runs = {name: _run(name, folder, standing) for name, folder in config.runs.items()}
    sections = [
        _data(config, manifests, standing),
        _split(config, standing),
        _metrics(),
        _taken_over("Augmentation", config.pages.augmentation, standing),
        _loss(runs, standing),
        _taken_over("Choice of the baseline", config.pages.architectures, standing),
        _custom_model(),
        _training(runs, figures, standing),
        _performance(config, manifests, figures, standing),
        _taken_over("Parameter studies", config.pages.studies, standing),
        _taken_over("Errors, and guesses about them put to the test", config.pages.errors, standing),
        _taken_over("What the models look at", config.pages.explanation, standing),
        _taken_over("Robustness", config.pages.robustness, standing),
        _conclusions(manifests),
    ]
    sections = [_with_remarks(section, config.remarks) for section in sections]
    unknown = set(config.remarks) - {section.title for section in sections}
    if unknown:
        titles = ", ".join(repr(section.title) for section in sections)
        raise DataError(f"remarks for {', '.join(sorted(unknown))!r}: there is no such section; allowed: {titles}")
    if not config.photographs:
        sections = [_without_photographs(section) for section in sections]
    taken: Counter[str] = Counter()
    sections = [_gathered(section, figures, standing.figures, taken) for section in sections]
    summary = _summary(manifests)
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


def _data(config: JournalConfig, manifests: Sequence[Manifest], standing: Standing) -> Section:
    seen: dict[str, tuple[str, str, str]] = {}
    for manifest in manifests:
        for row in manifest.training.data:
            seen[row.name] = (str(row.train_tiles or "–"), (row.sha256 or "–")[:16], row.licence or "–")
    table = Table(
        ["trained on", "training photographs", "SHA-256 (first 16)", "licence"],
        [[name, *values] for name, values in sorted(seen.items())],
        "Walls, brickwork and NHA12D are external: never trained on, and no weights, threshold or calibration were "
        "chosen by them. What earlier versions reached on them was known when these recipes were written.",
    )
    return _joined(_section("Data", [table]), config.pages.data, standing)


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
    return _joined(_section("Split", [table]), config.pages.split, standing)


def _metrics() -> Section:
    return _section("What is measured, and why recall comes first")


def _loss(runs: Mapping[str, dict[str, Any] | None], standing: Standing) -> Section:
    rows = []
    for name, content in runs.items():
        if content is None:
            rows += [row] if (row := standing.row("Loss", name)) else []
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


def _training(runs: Mapping[str, dict[str, Any] | None], figures: Path, standing: Standing) -> Section:
    parts = []
    for name, content in runs.items():
        if content is None:
            parts += [part] if (part := standing.part(_TRAINING, name)) else []
            continue
        if content["step"] == 0:
            starts = ", ".join(listed(content["config"]["model"].get("init")))
            kept = f"Nothing was learnt: what it starts from is kept ({starts}; of several their average)."
            parts.append(Section(name, [_facts(content), kept], origin=name))
            continue
        path = figures / f"curves-{name}.svg"
        draw_curves(content["history"], path)
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
                [_facts(content)],
                [Table(["stage", "px", "batch", "steps", "rate", "preset", "share of each source"], stages)],
                [Picture(path, f"{name}: loss and validation sets over the steps (averaged weights)")],
                origin=name,
            )
        )
    return replace(_section(_TRAINING), sections=parts) if parts else _taken_over(_TRAINING, [], standing)


def _facts(content: dict[str, Any]) -> str:
    return (
        f"{content['model']}, configuration {content['config_path']}, seed {content['seed']}, commit "
        f"{content['commit'] or 'unknown'}, {content['step']} steps in {content['hours']:.2f} h."
    )


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a run's loss and, for each validation set, AUROC (or recall or specificity where it has one class)."""
    with figure(path, width_in=8, height_in=3.2) as drawn:
        left, right = drawn.subplots(1, 2)
        losses = [(row["step"], row["loss"]) for row in history if row.get("loss") is not None]
        if losses:
            left.plot(*zip(*losses, strict=True), marker="o", ms=3)
        left.set_xlabel("step")
        left.set_ylabel("loss of the tiles")
        names = list(dict.fromkeys(key.split("/")[0] for row in history for key in row if "/" in key))
        for name in names:
            measure = next(key for key in ("auroc", "recall", "specificity") if f"{name}/{key}" in history[-1])
            points = [(row["step"], row[f"{name}/{measure}"]) for row in history if f"{name}/{measure}" in row]
            right.plot(*zip(*points, strict=True), marker="o", ms=3, label=f"{name} {measure}")
        right.set_xlabel("step")
        right.set_ylim(top=1.01)
        right.legend(fontsize=7)


def _performance(config: JournalConfig, manifests: Sequence[Manifest], figures: Path, standing: Standing) -> Section:
    path = figures / "performance.svg"
    draw_bars(manifests, path)
    section = Section(
        "Performance",
        ["The files that fly, on photographs that were not trained on. The whole curve is on each model's card."],
        [bars_table(manifests)],
        [Picture(path, "Share judged rightly on each set, with intervals")],
    )
    return _joined(section, config.pages.performance, standing)


def _conclusions(manifests: Sequence[Manifest]) -> Section:
    ordered = ranking(manifests)
    rows = [
        [manifest.name, f"{manifest.parameters:,}", f"{met} of {total}", f"{share:.2f}"]
        for manifest, met, total, share in ordered
    ]
    table = Table(
        ["model", "parameters", "bars met (all against those of the larger models)", "allowed error used (mean)"],
        rows,
        "The mean is geometric, over all bars; 1 would meet every bar exactly, less is better.",
    )
    paragraphs = _texts()["Conclusions"]
    if ordered:
        winner, met, total, share = ordered[0]
        paragraphs.insert(
            0,
            f"The winner by the stated rule is {winner.name}: it meets {met} of {total} bars and uses "
            f"{share:.2f} of the allowed error on average. The rule: most bars met, then least of the allowed error.",
        )
    return Section("Conclusions", paragraphs, [table])


def _summary(manifests: Sequence[Manifest]) -> str:
    names = ", ".join(f"{manifest.name} {manifest.version}" for manifest in manifests)
    return (
        f"How {names} came about: data, training, what was measured and how sure that is. Written by "
        "`crack-training journal` from what the runs left; no figure was typed by hand."
    )


def _texts() -> dict[str, list[str]]:
    content = resources.files("training.journal").joinpath("texts.yaml").read_text(encoding="utf-8")
    texts: dict[str, list[str]] = yaml.safe_load(content)
    return texts


def _section(title: str, tables: Sequence[Table] = ()) -> Section:
    return Section(title, _texts()[title], tables)


def _taken_over(title: str, pages: Sequence[Path], standing: Standing) -> Section:
    section = _joined(_section(title), pages, standing)
    return section if pages else replace(section, paragraphs=[*section.paragraphs, _NO_RUN])


def _joined(section: Section, pages: Sequence[Path], standing: Standing) -> Section:
    """Add what other commands found, each page as a part of its own."""
    parts = list(section.sections)
    for page in pages:
        kept = None if sections_beside(page).is_file() else standing.part(section.title, page.as_posix())
        if kept is None:
            title, summary, sections = read_sections(page)
            kept = Section(title, [summary] if summary else [], sections=sections, origin=page.as_posix())
        parts.append(kept)
    return replace(section, sections=parts)


def _with_remarks(section: Section, remarks: dict[str, list[str]]) -> Section:
    return replace(section, paragraphs=[*section.paragraphs, *remarks.get(section.title, [])])


def _without_photographs(section: Section) -> Section:
    """Leave out pictures of photographs: most data sets may not be redistributed."""
    kept = [picture for picture in section.pictures if picture.path.suffix.lower() in CHARTS]
    left_out = [picture.caption for picture in section.pictures if picture not in kept]
    note = [f"Left out, since it shows photographs that may not be redistributed: {caption}." for caption in left_out]
    return replace(
        section,
        paragraphs=[*section.paragraphs, *note],
        pictures=kept,
        sections=[_without_photographs(part) for part in section.sections],
    )


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
