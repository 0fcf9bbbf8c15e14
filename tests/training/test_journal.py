from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.training.conftest import REPOSITORY
from training.config import TrainConfig, read_settings
from training.engine import checkpoint
from training.engine.train import Trainer
from training.errors import CheckpointError, DataError
from training.export.bundle import read_manifest
from training.figures import figure
from training.journal.build import build
from training.journal.performance import ranking, reached
from training.journal.settings import JournalConfig, Pages
from training.journal.standing import KEPT
from training.page import Picture, Section, write_page

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
        assert f"<h2>{heading}</h2>" in page.read_text()
    assert "389,633 parameters in all" in text
    assert "config/training/small.yaml" in text
    assert (tmp_path / "journal/figures/curves-small.svg").is_file()


def test_a_run_that_learnt_nothing_says_what_it_keeps_and_has_no_curves(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.pt", weights_only=False)
    content["step"] = 0
    content["config"]["model"]["init"] = ["runs/a/final.pt", "runs/b/best.pt"]
    kept = tmp_path / "kept"
    kept.mkdir()
    torch.save(content, kept / "best.pt")
    build(config(tmp_path / "journal", runs={"kept": kept}))
    text = (tmp_path / "journal/journal.md").read_text()
    assert "Nothing was learnt: what it starts from is kept (runs/a/final.pt, runs/b/best.pt;" in text
    assert not list((tmp_path / "journal/figures").glob("curves-*"))


def test_every_picture_that_the_markdown_links_is_there(run: Path, tmp_path: Path) -> None:
    pages = Pages(studies=[other_page(tmp_path / "study")])
    build(config(tmp_path / "journal", runs={"small": run}, pages=pages))
    text = (tmp_path / "journal/journal.md").read_text()
    linked = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(linked) == 3
    assert all((tmp_path / "journal" / link).is_file() for link in linked)


def test_photographs_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    pages = Pages(studies=[other_page(tmp_path / "study")])
    build(config(tmp_path / "public", pages=pages))
    text = (tmp_path / "public/journal.md").read_text()
    assert "Said by the study" in text
    assert "chart.svg" in text
    assert "may not be redistributed: the photograph.png" in text
    assert not list((tmp_path / "public/figures").glob("*.png"))
    build(config(tmp_path / "private", pages=pages, photographs=True))
    assert len(list((tmp_path / "private/figures").glob("*.png"))) == 1


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
    shutil.rmtree(gone)
    shutil.rmtree(study)
    for _ in range(2):  # also from a journal that has taken them over itself
        build(given)
        after = (tmp_path / "journal/journal.md").read_text()
        assert after.count(KEPT) == 2
        assert after.replace(f"{KEPT}\n\n", "") == before
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


def test_the_committed_configuration_is_valid() -> None:
    assert read_settings(REPOSITORY / "config/training/commands/journal.yaml", JournalConfig).bundles


def test_a_checkpoint_of_the_run_is_what_is_told(run: Path) -> None:
    assert checkpoint.load(run / "final.pt")["config_path"] == "config/training/small.yaml"
