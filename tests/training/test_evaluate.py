from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs the [training] extra")

import torch

from training.config import read_settings
from training.errors import CheckpointError, ConfigError
from training.evaluation.calibration import balanced_weights, calibrate, expected_error, held_out_p, probabilities
from training.evaluation.curves import curve_of, reliabilities, write_curves
from training.evaluation.evaluate import logit_of, open_subjects, role_of
from training.evaluation.evaluate_report import wanted_threshold
from training.evaluation.settings import EvaluateSettings, overridden
from training.evaluation.statement import Support, most_misses, needed, statement, supported, supports
from training.evaluation.threshold import Scored, ThresholdError, rates_at
from training.export.bundle import FILES, MANIFEST
from training.files import file_sha256

from .conftest import REPOSITORY

pytestmark = pytest.mark.training


def made(name: str, cracks: int, sound: int, *, seed: int = 0, photographs: int = 20, apart: float = 3.0) -> Scored:
    rng = np.random.default_rng(seed)
    labels = np.arange(cracks + sound) < cracks
    return Scored(
        name,
        rng.normal(0, 1.5, len(labels)) + np.where(labels, apart / 2, -apart / 2),
        labels,
        tuple("crack" if label else "negative" for label in labels),
        tuple(f"{name}-{i % photographs}" for i in range(len(labels))),
    )


def test_twelve_misses_in_twenty_thousand_and_none_in_2995_support_999_per_mille() -> None:
    assert needed(0.999) == 2995
    assert supported(0, 2995) >= 0.999 > supported(0, 2994)
    assert most_misses(0.999, 20000) == 12
    assert supported(12, 20000) >= 0.999 > supported(13, 20000)
    assert most_misses(0.999, 2994) is None
    assert most_misses(0.999, 2995) == 0


def test_needed_is_the_least_number_of_trials() -> None:
    for wanted, misses in ((0.9, 0), (0.9, 3), (0.98, 1), (0.99, 2)):
        least = needed(wanted, misses)
        assert supported(misses, least) >= wanted > supported(misses, least - 1)
    with pytest.raises(ValueError, match="misses"):
        supported(3, 2)
    assert supported(2, 2) == 0.0


def test_a_set_supports_less_by_photograph_than_by_tile() -> None:
    # 100 cracks of 5 photographs, all misses in one of them
    labels = np.ones(100, dtype=bool)
    logits = np.where(np.arange(100) % 5 == 0, -1.0, 1.0)
    item = Scored("a", logits, labels, ("crack",) * 100, tuple(str(i % 5) for i in range(100)))
    (found,) = supports("a/test", "test", item, 0.0)
    assert (found.wrong, found.tiles, found.photographs_wrong, found.photographs) == (20, 100, 1, 5)
    assert found.by_tile == pytest.approx(supported(20, 100))
    assert found.by_photograph == pytest.approx(supported(1, 5))
    assert found.by_photograph < found.by_tile < 0.8


def support(key: str, kind: str, wrong: int, tiles: int, photographs: int, role: str = "test") -> Support:
    spoiled = min(wrong, photographs)
    by_tile, by_photograph = supported(wrong, tiles), supported(spoiled, photographs)
    return Support(key, role, kind, wrong, tiles, photographs, spoiled, by_tile, by_photograph)  # type: ignore[arg-type]


def test_the_statement_follows_the_numbers() -> None:
    def said(*found: Support, limit: int | None = None) -> str:
        return "\n".join(statement(found, threshold="T.", calibration="C.", limit=limit))

    weak = said(support("a/test", "recall", 3, 400, 300), support("a/test", "specificity", 1, 500, 12))
    assert "a/test: 3 misses in 400 cracked tiles" in weak
    assert "98 % can be claimed" in weak
    assert "too few for it even without a miss" in weak
    assert "a/test specificity (12 photographs)" in weak
    assert "A trial" not in weak
    strong = said(support("b/test", "recall", 12, 20000, 20000))
    assert "(it is)" in strong
    assert "99.9 % can be claimed" in strong
    assert "anything about specificity" in strong
    worse = said(support("b/test", "recall", 13, 20000, 20000))
    assert "(it is not)" in worse
    assert "at most 12 misses would do, there are 13" in worse
    only_validation = said(support("a/val", "recall", 0, 5000, 5000, role="validation"), limit=10)
    assert "validation figures are no evidence" in only_validation
    assert "a/val chose" in only_validation
    assert "at most 10 tiles" in only_validation
    assert "largest recall" not in only_validation
    with_drawn = said(support("c/drawn", "recall", 0, 5000, 5000, "drawn"), support("a/test", "recall", 3, 400, 300))
    assert "c/drawn is drawn, not photographed" in with_drawn
    assert "c/drawn: 0 misses" not in with_drawn
    assert "a/test: 3 misses" in with_drawn
    only_drawn = said(support("c/drawn", "recall", 0, 5000, 5000, "drawn"))
    assert "so nothing is supported" in only_drawn
    assert "largest recall" not in only_drawn


def test_the_statement_says_how_many_cracked_pictures_show_a_mere_trace() -> None:
    labels = np.array([True] * 5 + [False] * 2)
    kinds = ("trace", "crack", "crack", "trace", "crack", "plain", "plain")
    item = Scored("drone", np.linspace(3, -3, 7), labels, kinds, tuple("abcdefg"))
    found = supports("drone/test", "test", item, 0.0)
    assert [(one.kind, one.traces) for one in found] == [("recall", 2), ("specificity", 0)]
    assert found[0].to_dict()["traces"] == 2
    text = "\n".join(statement(found, threshold="", calibration=""))
    assert "Of the cracked pictures of drone/test (2 of 5) the mask shows no more than a trace." in text
    surely = supports("drone/test", "test", replace(item, kinds=("crack",) * 5 + ("plain",) * 2), 0.0)
    assert "trace" not in "\n".join(statement(surely, threshold="", calibration=""))


def test_a_bound_is_never_rounded_up() -> None:
    text = "\n".join(statement([support("a/test", "recall", 0, 2994, 2994)], threshold="", calibration=""))
    assert "99.9 % can be claimed" not in text
    assert "99.89 %" in text


def test_a_wanted_recall_is_reached_in_each_set_or_in_all_together() -> None:
    large, small = made("large", 500, 500), made("small", 40, 40, seed=1, apart=0.5)
    worst = wanted_threshold([large, small], 0.95, "worst-set")
    pooled = wanted_threshold([large, small], 0.95, "pooled")
    assert "small decided" in worst.how
    for item in (large, small):
        assert rates_at(item, worst.logit)["recall"] >= 0.95
    assert rates_at(small, pooled.logit)["recall"] < 0.95
    cracks = np.concatenate([item.logits[item.labels] for item in (large, small)])
    assert (cracks >= pooled.logit).mean() >= 0.95
    assert "large sets decide" in pooled.how
    with pytest.raises(ThresholdError, match="with cracks"):
        wanted_threshold([made("none", 0, 10)], 0.9, "pooled")


def test_a_curve_gives_the_rates_at_each_of_its_thresholds(tmp_path: Path) -> None:
    item = made("a", 30, 50)
    curve = curve_of("a/test", item)
    assert curve.recall is not None
    assert curve.specificity is not None
    for index in (0, 17, len(curve.thresholds) - 1):
        rates = rates_at(item, float(curve.thresholds[index]))
        assert curve.recall[index] == pytest.approx(rates["recall"])
        assert curve.specificity[index] == pytest.approx(rates["specificity"])
    assert curve.recall[0] == 1.0
    assert curve.specificity[-1] == 1.0
    assert curve_of("b", made("b", 5, 0)).specificity is None
    rows = list(csv.DictReader(write_curves([curve], tmp_path / "c.csv").open()))
    assert len(rows) == len(curve.thresholds)
    assert float(rows[0]["recall"]) == 1.0


def test_held_out_probabilities_come_from_other_photographs() -> None:
    item = made("a", 200, 200, photographs=40)
    stretched = Scored("a", 5 * item.logits + 2, item.labels, item.kinds, item.groups)
    fitted = held_out_p([stretched])
    raw = probabilities(stretched.logits, 1.0, 0.0)
    weights = balanced_weights([stretched])
    assert expected_error(fitted, item.labels, weights) < 0.5 * expected_error(raw, item.labels, weights)
    # the fit of a fold must not know its tiles: other labels there change nothing of its own probabilities
    found = calibrate([stretched])
    everywhere = probabilities(stretched.logits, found.temperature, found.bias)
    assert not np.allclose(fitted, everywhere)


def test_a_fit_at_the_end_of_its_range_says_so() -> None:
    item = made("a", 200, 200, photographs=40)
    assert not calibrate([item]).at_limit
    sure_of_anything = Scored(
        "a", np.where(np.arange(400) % 2 == 0, 300.0, -300.0), item.labels, item.kinds, item.groups
    )
    found = calibrate([sure_of_anything])
    assert found.kept
    assert found.at_limit
    assert found.temperature == pytest.approx(np.exp(3))


def test_expected_error_by_hand() -> None:
    p = np.array([0.05, 0.05, 0.95, 0.95])
    labels = np.array([False, True, True, True])
    # bars: |0.05 - 0.5| and |0.95 - 1|, half the weight each
    assert expected_error(p, labels, np.ones(4)) == pytest.approx(0.25)


def test_reliability_needs_both_classes() -> None:
    both, cracks = made("a", 40, 40), made("b", 20, 0)
    assert len(reliabilities([both], [both], calibrate([both]), bins=5)) == 2
    assert reliabilities([], [cracks], None, bins=5) == []


def test_unknown_sets_are_external_and_decide_nothing() -> None:
    assert role_of("a-new-collection", "val") == "external"
    assert role_of("walls-external", "test") == "external"
    assert role_of("uav75", "val") == "validation"
    assert role_of("metu-ccic", "test") == "test"
    assert role_of("relief", "drawn") == "drawn"


def test_the_logit_of_a_threshold_undoes_the_calibration() -> None:
    assert 1 / (1 + np.exp(-(logit_of(0.3, 1.7, -0.4) / 1.7 - 0.4))) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        logit_of(1.0)


BUNDLES = REPOSITORY / "exported_models"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "opnet", tmp_path / "opnet"))


def put(bundle: Path, content: bytes) -> None:
    """Another content for both files of a bundle, which its manifest then names."""
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    for key, name in FILES.items():
        (bundle / name).write_bytes(content)
        manifest["files"][key] |= {"sha256": file_sha256(bundle / name), "bytes": len(content)}
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", FILES.values())
def test_a_file_that_the_manifest_does_not_name_is_not_judged_as_its_model(name: str, bundle: Path) -> None:
    assert [subject.name for subject in open_subjects(bundle / name, "default", 1)] == ["opnet"]
    shutil.copy(BUNDLES / "opnet-lse" / name, bundle / name)
    for given in (bundle, bundle / name):
        with pytest.raises(CheckpointError, match=rf"{name}: is not the file that the manifest.*SHA-256"):
            open_subjects(given, "both", 1)
    (bundle / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be read"):
        open_subjects(bundle, "both", 1)


@pytest.mark.parametrize("content", [b"", b"torn", (BUNDLES / "opnet" / FILES["fp32"]).read_bytes()[:5000]])
def test_a_damaged_file_is_named_even_if_the_manifest_names_it(content: bytes, bundle: Path) -> None:
    put(bundle, content)
    for given in (bundle, bundle / FILES["int8"]):
        with pytest.raises(CheckpointError, match=rf"{FILES['int8']}: damaged"):
            open_subjects(given, "default", 1)


def test_a_graph_that_takes_no_bytes_is_named(bundle: Path) -> None:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["logit"])],
        "other",
        [tensor("x", onnx.TensorProto.UINT8, ["N"])],
        [tensor("logit", onnx.TensorProto.UINT8, ["N"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    put(bundle, model.SerializeToString())
    with pytest.raises(CheckpointError, match=rf"{FILES['int8']}: .*uint8 \[N, H, W, 3 or 4\] is needed"):
        open_subjects(bundle, "default", 1)


@pytest.mark.parametrize("command", ["evaluate", "explain", "robustness", "hypotheses", "cross"])
@pytest.mark.parametrize("wrong", ["torn file", "--out"])
def test_every_command_refuses_a_damaged_file_and_a_file_for_results_in_one_line_before_it_reads_tiles(
    command: str,
    wrong: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from training import cli

    out = tmp_path / "out"
    if wrong == "--out":
        out.write_text("")
        expected = [f"{out}: is a file, the results need a folder"]
    else:
        put(bundle, b"torn")
        expected = [f"{bundle / name}: damaged" for name in FILES.values()]
    monkeypatch.chdir(REPOSITORY)
    given = [str(bundle)]
    if command == "cross":
        config = tmp_path / "cross.yaml"
        config.write_text(yaml.safe_dump({"rows": [{"label": "ours", "model": str(bundle)}]}))
        given = ["--config", str(config)]
    monkeypatch.setattr("sys.argv", ["crack-training", command, *given, "--out", str(out)])
    monkeypatch.setattr("training.data.dataset.evaluation_tiles", lambda *_: pytest.fail("tiles were read first"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(tuple(f"error: {message}" for message in expected))


def test_the_command_line_overrides_the_file_and_is_checked_too() -> None:
    settings = overridden(EvaluateSettings(), data={"root": Path("x"), "cache": None}, limit=20, seed=None)
    assert (settings.data.root, settings.data.cache, settings.limit, settings.seed) == (
        Path("x"),
        EvaluateSettings().data.cache,
        20,
        1,
    )
    with pytest.raises(ConfigError, match="--file"):
        overridden(EvaluateSettings(), data={}, file="int4")


def test_the_committed_configuration_states_the_defaults() -> None:
    path = REPOSITORY / "config/training/commands/evaluate.yaml"
    assert read_settings(path, EvaluateSettings) == EvaluateSettings()


def test_the_command_writes_numbers_figures_statement_and_page(
    data_root: Path, cache: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import cli
    from training.data import dataset
    from training.engine import checkpoint
    from training.evaluation import commands
    from training.models import create

    torch.manual_seed(0)
    net = create("opnet-lse").eval()
    model = tmp_path / "tiny" / "best.pt"
    model.parent.mkdir()
    content = {"model": "opnet-lse", "options": {}, "state_dict": net.state_dict(), "config": {}, "history": []}
    checkpoint.save(model, content)
    config = tmp_path / "evaluate.yaml"
    places = {"root": str(data_root), "cache": str(cache), "splits": str(splits)}
    config.write_text(yaml.safe_dump({"data": places, "sets": ["uav75", "walls-external"], "limit": 10}))
    cli._register_further_commands()
    arguments = ["evaluate", str(model), "--config", str(config), "--out", str(tmp_path / "out"), "--resamples", "20"]
    done = CliRunner().invoke(cli.app, [*arguments, "--wanted-recall", "0.8"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["label"] == "tiny"
    found = written["files"]["torch"]
    assert [(row["set"], row["role"]) for row in found["sets"]] == [
        ("uav75", "validation"),
        ("uav75", "published"),
        ("walls-external", "external"),
    ]
    assert any("uav75/published-masks is a validation set once more" in said for said in found["statement"])
    # the wanted recall is that of every validation set, also of those that were not asked for
    assert "omu-quay" in found["threshold_rule"]
    assert found["sets"][0]["by_tile"]["recall"]["value"] >= 0.8
    assert found["statement"][0].startswith("A trial: at most 10 tiles")
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "What the figures support" in page
    assert (tmp_path / "out" / "curves-torch.csv").is_file()
    with monkeypatch.context() as patched:
        patched.setattr(commands, "_load", lambda *_: pytest.fail("tiles were read for a threshold that is none"))
        for threshold in ("0", "1"):
            done = CliRunner().invoke(cli.app, [*arguments, "--threshold-p", threshold], catch_exceptions=False)
            assert done.exit_code == 2
            assert "between 0 and 1" in done.output
    monkeypatch.setattr(dataset, "RELIEF_COUNT", 6)
    drawn = [*arguments, "--sets", "relief", "--threshold-p", "0.5"]
    done = CliRunner().invoke(cli.app, drawn, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["files"]["torch"]["sets"]
    assert (row["set"], row["split"], row["role"], row["n_negative"]) == ("relief", "drawn", "drawn", 4)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "relief/drawn is drawn, not photographed" in page
    assert "supported by tile" not in page
    assert "wanted recall" not in page
    config.write_text("sets: [nonsense]\n")
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert "unknown set" in done.output
    assert "relief/drawn" in done.output
