from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")

import torch

from training.engine import checkpoint as checkpoints
from training.evaluation.threshold import Bar
from training.export import pipeline
from training.export.bundle import MANIFEST, Manifest, read_manifest, update_index, write_bundle
from training.export.lineage import read_lineage
from training.export.onnx import ExportError, to_onnx
from training.export.quantize import FLOAT_SCHEME, quantise
from training.files import file_sha256
from training.models import create

from .test_export_onnx import concrete, settled

FACTS: dict[str, Any] = {
    "name": "tiny",
    "version": "0.1.0",
    "architecture": "OPNet",
    "parameters": 389633,
    "licence": "Apache-2.0",
    "gsd_mm_px": {"nominal": 1.0, "min": 0.1, "max": 2.0, "basis": "assumed"},
    "operating_point": {
        "threshold_p": 0.3,
        "temperature": 1.5,
        "bias": -0.25,
        "fitted_on": "validation",
        "wanted": "balance",
        "recall": 0.9,
        "specificity": 0.8,
    },
    "metrics": {
        "metu-ccic/val": {
            "recall": [0.9, 0.8, 1.0],
            "n_positive": 10,
            "n_negative": 0,
            "n_groups": 3,
            "file": "int8",
            "role": "validation",
        }
    },
    "parity": {"torch-int8": {"same_verdict": 1.0}},
    "training": {"seed": 1, "data": [{"name": "metu-ccic", "licence": "CC BY 4.0"}]},
}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(create("opnet").eval())


def write(target: Path, model: onnx.ModelProto, **changes: object) -> Manifest:
    return write_bundle(
        target, {"fp32": (model, 3, FLOAT_SCHEME), "int8": (model, 3, "as float")}, {**FACTS, **changes}, "# Card\n"
    )


def test_manifest_survives_the_round_trip(tmp_path: Path, model: onnx.ModelProto) -> None:
    written = write(tmp_path / "tiny", model)
    assert read_manifest(tmp_path / "tiny") == written
    plain = json.loads((tmp_path / "tiny" / MANIFEST).read_text())
    assert plain["schema"] == 1
    assert plain["files"]["int8"]["sha256"] == file_sha256(tmp_path / "tiny/model.int8.onnx")
    assert plain["files"]["fp32"]["bytes"] == (tmp_path / "tiny/model.onnx").stat().st_size
    assert plain["input"] == {"name": "tiles", "dtype": "uint8", "layout": "NHWC", "order": "BGR", "tile_px": 224}


def test_the_operating_point_is_in_both_files(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(tmp_path / "tiny", model)
    for name in ("model.onnx", "model.int8.onnx"):
        found = {item.key: item.value for item in onnx.load(tmp_path / "tiny" / name).metadata_props}
        assert found["crackscout.schema"] == "1"
        assert found["crackscout.name"] == "tiny"
        assert float(found["crackscout.threshold_p"]) == 0.3
        assert float(found["crackscout.temperature"]) == 1.5
        assert float(found["crackscout.bias"]) == -0.25


def test_a_bundle_is_replaced_whole_and_nothing_is_left_lying_about(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(tmp_path / "tiny", model)
    (tmp_path / "tiny" / "stray.txt").write_text("old")
    write(tmp_path / "tiny", model, version="0.2.0")
    assert read_manifest(tmp_path / "tiny").version == "0.2.0"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {
        "model.onnx",
        "model.int8.onnx",
        MANIFEST,
        "CARD.md",
    }


def test_a_failure_leaves_the_old_bundle_alone(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(tmp_path / "tiny", model)
    with pytest.raises(ValueError, match="threshold_p"):
        write(tmp_path / "tiny", model, operating_point={**FACTS["operating_point"], "threshold_p": 1.5})
    assert read_manifest(tmp_path / "tiny").version == "0.1.0"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, model: onnx.ModelProto) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write(tmp_path / "file" / "tiny", model)


def test_index_names_every_bundle_and_keeps_the_default(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(tmp_path / "tiny", model)
    write(tmp_path / "opnet", model, name="opnet")
    update_index(tmp_path)
    index = json.loads((tmp_path / "INDEX.json").read_text())
    assert index["default"] == "opnet"
    assert index["models"] == {name: file_sha256(tmp_path / name / MANIFEST) for name in ("opnet", "tiny")}
    update_index(tmp_path, default="tiny")
    update_index(tmp_path)
    assert json.loads((tmp_path / "INDEX.json").read_text())["default"] == "tiny"


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", 2), ("unknown", 1), ("default_file", "fp16"), ("parameters", "many")],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, model: onnx.ModelProto, key: str, value: object) -> None:
    write(tmp_path / "tiny", model)
    path = tmp_path / "tiny" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ExportError, match=key):
        read_manifest(tmp_path / "tiny")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that tells dark lines from none, more or less, by its random features: good enough for a pipeline."""
    net = settled("opnet", concrete(12))
    path = tmp_path_factory.mktemp("run") / "best.pt"
    content = {
        "model": "opnet",
        "options": {},
        "state_dict": net.state_dict(),
        "config": {},
        "config_path": "config/training/opnet.yaml",
        # numpy's scalars in the history must not keep a checkpoint from being opened
        "history": [{"step": 1, "loss": np.float64(0.5)}],
        "data": [
            {"name": name, "sha256": "ab" * 32, "licence": "test", "train_tiles": 9} for name in ("metu-ccic", "uav75")
        ],
        "seed": 1,
        "commit": None,
        "hours": 0.1,
        "step": 1,
        "criterion": 0.5,
    }
    checkpoints.save(path, content)
    return path


@pytest.fixture
def arguments(checkpoint: Path, data_root: Path, splits: Path, cache: Path, tmp_path: Path) -> list[str]:
    places = ["--data", str(data_root), "--cache", str(cache), "--splits", str(splits)]
    return ["export", str(checkpoint), "--name", "opnet", "--out", str(tmp_path / "opnet"), "--limit", "10",
            "--channels", "4", "--calibration-tiles", "16", *places]  # fmt: skip


@pytest.fixture
def command() -> typer.Typer:
    from training import cli

    cli._register_further_commands()
    return cli.app


def test_export_makes_a_bundle_that_flies(arguments: list[str], command: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    manifest = read_manifest(tmp_path / "opnet")
    assert manifest.files["int8"].channels == 4
    assert manifest.files["int8"].bytes < 0.3 * manifest.files["fp32"].bytes
    assert manifest.training.config == "config/training/opnet.yaml"
    assert {"metu-ccic/test", "walls-external/test", "uav75/val"} <= set(manifest.metrics)
    assert manifest.metrics["brickwork-external/test"].role == "external"
    assert "external" not in manifest.operating_point.fitted_on
    card = (tmp_path / "opnet" / "CARD.md").read_text()
    for heading in (
        "## Training",
        "## Operating point",
        "## Results",
        "## What the figures",
        "## Robustness",
        "## Parity",
        "## How to repeat",
    ):
        assert heading in card
    assert "A trial" in card
    rows = [line for line in card.splitlines() if line.startswith(("| 0.", "| 1."))]
    assert len(rows) > 10  # the whole curve, from every crack found to no false alarm
    assert sum("**(chosen)**" in row for row in rows) == 1
    head = next(line for line in card.splitlines() if line.startswith("| p | metu-ccic/val recall"))
    assert "walls-external/test specificity" in head
    assert "uav75/val joint" in head
    apart = [line for line in card.splitlines() if line.endswith(("| met |", "| **not met** |"))]
    assert any(line.startswith("| brickwork-external/test | specificity | 1 |") for line in apart)
    assert "No photograph taken by a drone" not in card
    assert "| set | photographs | recall | specificity | kinds |" in card
    assert set(manifest.metrics["uav75/val"].kinds) >= set(manifest.metrics["uav75/val"].kinds_by_group)
    lineage = read_lineage(tmp_path / "LINEAGE.json")
    release = lineage.bundles["opnet 0.1.0"]
    assert release.sha256 == manifest.files["fp32"].sha256
    assert lineage.runs[release.run].config == "config/training/opnet.yaml"
    assert json.loads((tmp_path / "INDEX.json").read_text())["models"].keys() == {"opnet"}

    bundles = pytest.importorskip("drone_agent.vision.bundle")
    for file in ("fp32", "int8"):
        bundle = bundles.load_bundle(tmp_path / "opnet", file=file)
        assert bundle.threshold_p == manifest.operating_point.threshold_p

    out = tmp_path / "evaluation"
    places = arguments[arguments.index("--data") : arguments.index("--data") + 6]
    done = CliRunner().invoke(
        command,
        [
            "evaluate",
            str(tmp_path / "opnet"),
            "--sets",
            "uav75",
            "--limit",
            "10",
            "--resamples",
            "20",
            "--out",
            str(out),
            *places,
        ],
    )
    assert done.exit_code == 0, done.output
    flown = json.loads((out / "evaluation.json").read_text())["files"]["int8"]["sets"][0]
    assert flown["set"] == "uav75"
    recall = manifest.metrics["uav75/val"].recall
    assert recall is not None
    assert flown["by_tile"]["recall"]["value"] == pytest.approx(recall[0])
    assert "fp32: crack from" in (out / "evaluation.md").read_text()


def test_a_bundle_is_judged_anew_and_its_graphs_are_kept(
    arguments: list[str], command: typer.Typer, tmp_path: Path
) -> None:
    def graphs(folder: Path) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for key, file in read_manifest(folder).files.items():
            graph = onnx.load(folder / file.path)
            del graph.metadata_props[:]
            found[key] = graph.SerializeToString()
        return found

    first, again = tmp_path / "opnet", tmp_path / "again"
    assert CliRunner().invoke(command, arguments).exit_code == 0
    old, lineage = read_manifest(first), read_lineage(tmp_path / "LINEAGE.json")
    kept = [arguments[0], str(first), *arguments[2:], "--keep-files", "--version", "0.2.0", "--calibration-tiles", "8"]
    kept[kept.index("--out") + 1] = str(again)
    done = CliRunner().invoke(command, kept)
    assert done.exit_code == 0, done.output
    new = read_manifest(again)
    assert (old.version, new.version) == ("0.1.0", "0.2.0")
    assert graphs(again) == graphs(first)
    assert new.metrics == old.metrics
    assert new.operating_point == old.operating_point
    assert new.files["int8"].scheme == old.files["int8"].scheme
    assert new.parity["quantisation"] == old.parity["quantisation"]  # 8 calibration tiles were not asked
    release = read_lineage(tmp_path / "LINEAGE.json").bundles["opnet 0.2.0"]
    assert (release.sha256, release.run) == (new.files["fp32"].sha256, lineage.bundles["opnet 0.1.0"].run)
    card = (again / "CARD.md").read_text()
    assert "the 8-bit file is made anew then" in card
    assert "--keep-files" not in card

    # another threshold is another property of the same graphs
    scored = graphs(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "deciding_bars", lambda *_: (Bar("uav75", "crack", 0.5), Bar("uav75", "plain", 0.999)))
        assert CliRunner().invoke(command, kept).exit_code == 0
    moved = read_manifest(again)
    assert graphs(again) == scored
    assert moved.operating_point.threshold_p != new.operating_point.threshold_p
    written = onnx.load(again / moved.files["int8"].path).metadata_props
    stored = {item.key: item.value for item in written}["crackscout.threshold_p"]
    assert float(stored) == moved.operating_point.threshold_p


def test_a_bundle_that_is_judged_anew_can_keep_its_threshold_too(
    arguments: list[str], command: typer.Typer, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bars = (Bar("uav75", "crack", 0.5), Bar("uav75", "plain", 0.999))
        patch.setattr(pipeline, "deciding_bars", lambda *_: bars)
        assert CliRunner().invoke(command, arguments).exit_code == 0
    flown, again = read_manifest(tmp_path / "opnet"), tmp_path / "again"
    kept = [arguments[0], str(tmp_path / "opnet"), *arguments[2:], "--version", "0.1.1", "--keep-files"]
    kept[kept.index("--out") + 1] = str(again)
    assert CliRunner().invoke(command, kept).exit_code == 0
    assert read_manifest(again).operating_point.threshold_p != flown.operating_point.threshold_p

    done = CliRunner().invoke(command, [*kept, "--keep-threshold"])
    assert done.exit_code == 0, done.output
    new = read_manifest(again)
    for name in ("threshold_p", "temperature", "bias", "fitted_on", "recall", "specificity"):
        assert getattr(new.operating_point, name) == getattr(flown.operating_point, name), name
    assert new.metrics == flown.metrics
    assert new.operating_point.wanted.startswith("Threshold of opnet 0.1.0, kept. Of the stated bars ")
    card = (again / "CARD.md").read_text()
    assert "are those of opnet 0.1.0, too; over all validation tiles" in card
    assert "the 8-bit file is made and the threshold chosen anew then" in card
    assert "--keep-threshold" not in card

    refused = CliRunner().invoke(command, [*arguments, "--keep-threshold"])
    assert refused.exit_code == 2
    assert "it needs --keep-files" in " ".join(refused.output.split())


def test_only_files_that_are_there_and_whole_can_be_kept(
    arguments: list[str], command: typer.Typer, checkpoint: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(command, [*arguments, "--keep-files"])
    assert done.exit_code == 2
    assert "--keep-files needs a bundle's folder" in " ".join(done.output.split())
    assert CliRunner().invoke(command, arguments).exit_code == 0
    bundle = tmp_path / "opnet"
    with (bundle / "model.int8.onnx").open("ab") as file:
        file.write(b"x")
    before = (bundle / MANIFEST).read_bytes()
    done = CliRunner().invoke(command, [arguments[0], str(bundle), *arguments[2:], "--keep-files"])
    assert done.exit_code == 2
    assert "is not the file that the manifest beside it names" in " ".join(done.output.split())
    assert (bundle / MANIFEST).read_bytes() == before


def swept(path: Path, **changes: Any) -> Path:
    """What `crack-training robustness` writes, for the checkpoint above."""
    limit = {"kind": "recall", "side": "below", "level": 0.5, "earliest": 0.6, "latest": None, "last": 0.25}
    content = {
        "model": {
            "label": "opnet",
            "training": {"config": "config/training/opnet.yaml", "seed": 1, "commit": None, "steps": 1},
        },
        "fall": 0.02,
        "threshold_logit": 1.5,
        "sets": {"uav75": {"tiles": 150, "photographs": 10}},
        "disturbances": {
            "scale": {"title": "Scale", "unit": "relative", "limits": [limit, limit | {"side": "above", "level": 1.4}]}
        },
        "gates": {
            "min_sharpness": 0.31,
            "min_brightness": None,
            "max_brightness": 213.0,
            "max_smear_px": 5.1,
            "gsd_factor_min": 0.5,
            "gsd_factor_max": 1.4,
            "notes": ["min_sharpness: 0.31 (made up)"],
        },
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_a_sweep_becomes_gates_and_band_of_the_bundle_and_a_section_of_the_card(
    arguments: list[str], command: typer.Typer, tmp_path: Path
) -> None:
    done = CliRunner().invoke(command, [*arguments, "--robustness", str(swept(tmp_path / "robustness.json"))])
    assert done.exit_code == 0, done.output
    bundles = pytest.importorskip("drone_agent.vision.bundle")
    bundle = bundles.load_bundle(tmp_path / "opnet")
    assert (bundle.gsd.min, bundle.gsd.nominal, bundle.gsd.max) == (0.5, 1.0, 1.4)
    assert "measured" in bundle.gsd.basis
    assert (bundle.quality.min_sharpness, bundle.quality.min_brightness) == (0.31, None)
    assert bundle.quality.max_brightness == 213.0
    card = (tmp_path / "opnet" / "CARD.md").read_text()
    assert "| Scale (less): relative | 0.5 | 0.6 | beyond 0.25 |" in card
    assert "* min_sharpness: 0.31 (made up)" in card


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"model": {"label": "x", "training": {"config": "c", "seed": 7, "commit": None, "steps": 1}}},
            "other weights",
        ),
        ({"gates": {}}, "not a result of"),
        ({"model": None}, "not a result of"),
    ],
)
def test_a_sweep_of_other_weights_is_refused(
    arguments: list[str], command: typer.Typer, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    sweep = swept(tmp_path / "robustness.json", **changes)
    done = CliRunner().invoke(command, [*arguments, "--robustness", str(sweep)])
    assert done.exit_code == 2
    assert what in " ".join(done.output.split())
    assert not (tmp_path / "opnet").exists()


def test_without_a_sweep_the_manifest_is_as_it_always_was(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(tmp_path / "tiny", model)
    assert "quality" not in json.loads((tmp_path / "tiny" / MANIFEST).read_text())
    gates = {"min_sharpness": 0.3, "basis": "measured"}
    assert write(tmp_path / "told", model, quality=gates).quality is not None
    assert read_manifest(tmp_path / "told").to_json() == (tmp_path / "told" / MANIFEST).read_text()


def test_export_refuses_a_graph_that_judges_otherwise(
    arguments: list[str], command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(net: torch.nn.Module) -> onnx.ModelProto:
        model = to_onnx(net)
        head = next(item for item in model.graph.initializer if item.name.endswith("head.weight"))
        head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
        return model

    monkeypatch.setattr(pipeline, "to_onnx", tampered)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert "not exported" in done.output
    assert "torch and fp32" in done.output
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_8_bits_that_no_rounding_saves(
    arguments: list[str], command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*given: Any, **options: Any) -> onnx.ModelProto:
        model = quantise(*given, **options)
        for item in model.graph.initializer:
            if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 4:
                item.CopyFrom(onnx.numpy_helper.from_array(np.zeros(item.dims, np.int8), item.name))
        return model

    monkeypatch.setattr(pipeline, "quantise", spoiled)
    monkeypatch.setattr(pipeline, "correct_biases", lambda model, *_, **__: model)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert "torch and int8" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_one_line(command: typer.Typer, tmp_path: Path) -> None:
    for verb in ("export", "evaluate"):
        done = CliRunner().invoke(command, [verb, str(tmp_path / "none.pt")])
        assert done.exit_code == 2
        assert "error:" in done.output
        assert "none.pt" in done.output


def test_the_architecture_is_named_with_what_it_departs_in() -> None:
    from training.export.pipeline import architecture
    from training.models import create

    assert architecture("opnet", create("opnet")) == "OPNet"
    assert architecture("mobilenetv2", create("mobilenetv2", pooling="lse")) == "MobileNetV2, log-sum-exp pooling"
    wide = create("opnet-lse", context=[2, 4])
    assert architecture("opnet-lse", wide) == "OPNet, log-sum-exp pooling, 2 blocks that look around"


def test_the_sets_that_were_trained_on_choose_the_threshold() -> None:
    from training.evaluation.threshold import bars_for, deciding_bars

    bars = bars_for("opnet")
    alone = deciding_bars(bars, {"metu-ccic", "synthetic"})
    assert {(bar.set, bar.kind) for bar in alone} == {("metu-ccic", "crack"), ("metu-ccic", "specificity")}
    # cracks alone, or nothing known: then all decide, a recall by the cracks that are surely there
    of_sure_cracks = tuple(dataclasses.replace(bar, kind="crack") if bar.kind == "recall" else bar for bar in bars)
    assert len(of_sure_cracks) == 11
    assert deciding_bars(bars, {"omu-quay"}) == of_sure_cracks
    assert deciding_bars(bars, ()) == of_sure_cracks


def test_a_trace_of_a_crack_is_judged_and_chooses_no_threshold() -> None:
    from training.evaluation.evaluate import Subject, choose_for
    from training.evaluation.threshold import Scored, rates_at

    logits = np.array([-0.5, 2.0, 3.0, -6.0, -7.0])
    kinds = ("trace", "crack", "crack", "plain", "plain")

    def drone(kinds: tuple[str, ...]) -> Scored:
        return Scored("uavcrack", logits, np.array([True] * 3 + [False] * 2), kinds, tuple("abcde"))

    alarms = np.array([0.0, *[-4.0] * 99])
    sound = Scored("not-concrete", alarms, np.zeros(100, bool), ("negative",) * 100, tuple(map(str, range(100))))
    net = Subject("torch", _Nothing(), "mobilenetv2", None, trained_on=frozenset({"uavcrack", "not-concrete"}))
    chosen = choose_for(net, [drone(kinds), sound])
    assert chosen.threshold_logit == 1.0  # between the crack at 2 and the everyday photograph at 0
    assert [(item.bar.kind, item.value, item.total) for item in chosen.by_bar()] == [
        ("crack", 1.0, 2),
        ("specificity", 1.0, 100),
    ]
    assert rates_at(drone(kinds), 1.0)["recall"] == pytest.approx(2 / 3)
    assert rates_at(drone(kinds), 1.0, ["trace"]) == {"trace": 0.0}
    surely = choose_for(net, [drone(("crack", *kinds[1:])), sound])
    assert surely.threshold_logit == -2.25  # were it surely a crack it would draw the threshold down


def test_a_checkpoint_is_judged_where_its_bundle_would_be() -> None:
    from training.evaluation.evaluate import Subject, choose_for
    from training.evaluation.threshold import Scored, bars_for, choose

    def scored(name: str, shift: float) -> Scored:
        logits = np.linspace(-3, 3, 40) + shift
        labels = np.arange(40) >= 20
        kinds = tuple("crack" if label else "negative" for label in labels)
        return Scored(name, logits, labels, kinds, tuple(str(i) for i in range(40)))

    seen, unseen = scored("metu-ccic", 0.0), scored("uavcrack", -2.0)
    net = Subject("torch", _Nothing(), "opnet", None, trained_on=frozenset({"metu-ccic"}))
    chosen = choose_for(net, [seen, unseen])
    assert chosen.threshold_logit == choose([seen], bars_for("opnet")).threshold_logit
    assert {result.bar.set for result in chosen.results} == {"metu-ccic"}
    both = dataclasses.replace(net, trained_on=frozenset({"metu-ccic", "uavcrack"}))
    assert choose_for(both, [seen, unseen]).threshold_logit == choose([seen, unseen], bars_for("opnet")).threshold_logit
    assert {result.bar.set for result in choose_for(both, [seen, unseen]).results} == {"metu-ccic", "uavcrack"}
    assert choose_for(both, [seen, unseen]).threshold_logit != chosen.threshold_logit
    from training.export.card import threshold_rule

    assert "validation sets that the weights were trained on (metu-ccic)" in threshold_rule(
        chosen, ["metu-ccic", "uavcrack"]
    )
    assert "all validation sets" in threshold_rule(choose_for(both, [seen, unseen]), ["metu-ccic", "uavcrack"])


class _Nothing:
    def logits(self, tiles: Any, progress: Any = None) -> Any:
        raise AssertionError("nothing is scored here")
