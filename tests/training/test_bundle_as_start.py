from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import REPOSITORY
from tests.training.test_engine import small_config
from training.config import LossConfig, ModelConfig
from training.engine import checkpoint
from training.engine.bundle import restore_norms
from training.engine.train import Trainer
from training.evaluation.evaluate import OnnxScorer
from training.export.lineage import Lineage, trace, training_commands

pytestmark = pytest.mark.training

BUNDLES = REPOSITORY / "exported_models"


def tiles(count: int = 4, px: int = 224) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, px, px), dtype=torch.uint8, generator=generator)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations are sought where commands are run."""
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", sorted(path.parent.name for path in BUNDLES.glob("*/manifest.json")))
def test_a_shipped_bundle_is_the_network_that_its_float_file_is(name: str) -> None:
    content = checkpoint.load(BUNDLES / name)
    manifest = json.loads((BUNDLES / name / "manifest.json").read_text(encoding="utf-8"))
    assert content["bundle"] == f"{name} {manifest['version']}"
    assert content["commit"] == manifest["training"]["commit"]
    with torch.inference_mode():
        found, _ = checkpoint.load_model(BUNDLES / name)(tiles())
    expected = OnnxScorer(BUNDLES / name / "model.onnx").logits(tiles().permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("here")
def test_restored_norms_change_no_answer_and_make_batches_answer_like_it() -> None:
    shown = tiles(16, 96)
    folded, restored = (checkpoint.load_model(BUNDLES / "opnet-lse") for _ in range(2))
    restore_norms(restored, [shown[:8], shown[8:]])
    for module in (*folded.modules(), *restored.modules()):
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    with torch.inference_mode():
        expected, found = folded(shown)[0], restored(shown)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        spread = float(expected.std())
        # batch statistics of a folded network are nothing like those that it answers with
        assert float((restored.train()(shown)[0] - expected).abs().mean()) < 0.1 * spread + 0.05
        assert float((folded.train()(shown)[0] - expected).abs().mean()) > 0.5


@pytest.mark.usefixtures("here")
def test_a_run_starts_from_a_bundle_and_learns_from_another(
    data_root: Path, splits: Path, cache: Path, tmp_path: Path
) -> None:
    lse, teacher = BUNDLES / "opnet-lse", BUNDLES / "opnet"
    changes = {
        "model": ModelConfig(name="opnet-lse", options={"dropout": 0.1, "context": [2, 4]}, init=lse),
        "loss": LossConfig(teacher=teacher),
    }
    trainer = Trainer(
        small_config(data_root, splits, cache).model_copy(update=changes), Path("x.yaml"), tmp_path / "run"
    )
    with torch.inference_mode():
        found = trainer.average(tiles())[0]
    expected = OnnxScorer(lse / "model.onnx").logits(tiles().permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)
    trainer.run()
    content = checkpoint.load(tmp_path / "run" / "final.pt")
    (row,) = content["teacher"]
    assert row["sha256"] == hashlib.sha256((teacher / "model.onnx").read_bytes()).hexdigest()
    # which version lies there by now is not asked
    content["bundles"][str(lse)] |= {"bundle": "opnet-lse 0.0.1", "sha256": "0" * 64}
    lineage, key = trace(content, Lineage())
    assert lineage.runs[key].started_from == ("opnet-lse 0.0.1",)
    (taught,) = lineage.runs[key].learnt_from
    assert lineage.bundles[taught].sha256 == row["sha256"]
    assert training_commands(lineage, key)[-1].startswith("crack-training train x.yaml")
    assert len(training_commands(lineage, key)) == 1


@pytest.mark.usefixtures("here")
def test_a_run_of_no_steps_keeps_what_a_run_with_steps_starts_from(
    data_root: Path, splits: Path, cache: Path, tmp_path: Path
) -> None:
    lse = BUNDLES / "opnet-lse"
    model = ModelConfig(name="opnet-lse", options={"dropout": 0.1, "context": [2, 4]}, init=lse)
    config = small_config(data_root, splits, cache).model_copy(update={"model": model})
    stage = config.stages[0]
    few, many = (
        config.model_copy(update={"stages": [stage.model_copy(update={"steps": steps, "warmup": 0})]})
        for steps in (0, 40)
    )
    kept = Trainer(few, Path("x.yaml"), tmp_path / "few")
    started = Trainer(many, Path("x.yaml"), tmp_path / "many").average.state_dict()
    kept.run()
    state = checkpoint.load_model(tmp_path / "few/final.pt").state_dict()
    assert all(torch.equal(value, started[key]) for key, value in state.items())
    folded = checkpoint.load_model(lse).state_dict()
    assert any(not torch.equal(value, folded[key]) for key, value in state.items() if key.endswith("running_mean"))
    both = checkpoint.average_state([tmp_path / "few/final.pt", tmp_path / "few/final.pt"])
    assert all(torch.equal(value, state[key]) for key, value in both.items())


@pytest.mark.usefixtures("here")
def test_a_bundle_is_not_averaged_with_others() -> None:
    with pytest.raises(checkpoint.CheckpointError, match="opnet-lse: a bundle cannot be averaged"):
        checkpoint.average_state([BUNDLES / "opnet-lse", BUNDLES / "opnet-lse"])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "opnet-lse", tmp_path / "opnet-lse"))


@pytest.mark.usefixtures("here")
def test_another_network_in_the_configuration_is_refused(copied: Path, tmp_path: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for text, match in (
        ("model: {name: mobilenetv2}", "does not hold the network"),
        ("model: {name: opnet-lse, options: {context: [4, 2]}}", "gives"),
        ("model: {name: nothing}", "'nothing' is unknown"),
        ("name: no model", "does not say which network"),
    ):
        other = tmp_path / "other.yaml"
        other.write_text(text, encoding="utf-8")
        manifest["training"]["config"] = str(other)
        (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(checkpoint.CheckpointError, match=match):
            checkpoint.load(copied)


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_no_bundle_is_refused_with_its_path(copied: Path) -> None:
    (copied / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(checkpoint.CheckpointError, match=r"manifest\.json: not the manifest"):
        checkpoint.load(copied)
    (copied / "manifest.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"manifest\.json: cannot be read"):
        checkpoint.load(copied)


@pytest.mark.usefixtures("here")
def test_a_damaged_or_absent_float_file_is_named(copied: Path) -> None:
    (copied / "model.onnx").write_bytes(b"torn")
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.onnx: is not the file that the manifest"):
        checkpoint.load(copied)
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["fp32"]["sha256"] = hashlib.sha256(b"torn").hexdigest()
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.onnx: damaged"):
        checkpoint.load(copied)
    (copied / "model.onnx").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.onnx: cannot be read"):
        checkpoint.load(copied)
