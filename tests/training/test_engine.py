from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.conftest import REPOSITORY
from training.config import ConfigError, LossConfig, ModelConfig, StageConfig, TrainConfig, load_config
from training.engine import checkpoint
from training.engine.train import Trainer
from training.engine.validation import auroc

pytestmark = pytest.mark.training


class Killed(Exception):
    """Stands for a pulled plug."""


class DyingTrainer(Trainer):
    """Writes its state after every step and dies before the sixth."""

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> tuple[float, float]:
        if self.progress.step == 5:
            raise Killed
        self._last_saved = -math.inf
        return super()._step(stage, batch)


class ListeningTrainer(Trainer):
    """Keeps the loss of each step."""

    losses: list[float]

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> tuple[float, float]:
        losses = super()._step(stage, batch)
        self.losses.append(losses[0])
        return losses


def small_config(data_root: Path, splits: Path, cache: Path, **changes: object) -> TrainConfig:
    stages = [
        {
            "name": name,
            "px": 64,
            "steps": 4,
            "batch": 4,
            "lr": 1e-3,
            "warmup": 2,
            "sources": {"uav75": 1, "metu-ccic": 1},
        }
        for name in ("first", "second")
    ]
    content = {
        "name": "small",
        "model": {"name": "opnet"},
        "data": {"root": data_root, "cache": cache, "splits": splits},
        "validation": {"every_steps": 3, "tiles_per_set": 10, "sets": {"uav75": 1.0}},
        "stages": stages,
    }
    return TrainConfig.model_validate(content | changes)


@pytest.fixture
def config(data_root: Path, splits: Path, cache: Path) -> TrainConfig:
    return small_config(data_root, splits, cache)


def test_a_killed_run_goes_on_to_exactly_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    straight = Trainer(config, Path("x.yaml"), tmp_path / "straight")
    straight.run()

    killed = DyingTrainer(config, Path("x.yaml"), tmp_path / "killed")
    with pytest.raises(Killed):
        killed.run()
    resumed = Trainer(config, Path("x.yaml"), tmp_path / "killed")
    resumed.resume()
    assert resumed.progress.step == 5
    resumed.run()
    for name, value in straight.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    scores = [[row["criterion"] for row in trainer.progress.history] for trainer in (straight, resumed)]
    assert scores[0] == scores[1]


def test_a_run_leaves_a_model_a_history_and_where_its_data_came_from(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, Path("config/training/small.yaml"), tmp_path)
    trainer.run()
    content = checkpoint.load(tmp_path / "best.pt")
    assert content["model"] == "opnet"
    assert content["config_path"] == "config/training/small.yaml"
    assert {row["name"] for row in content["data"]} == {"uav75", "metu-ccic"}
    assert all(len(row["sha256"]) == 64 and row["train_tiles"] > 0 and row["licence"] for row in content["data"])
    assert not any(key.startswith("auxiliary") for key in content["state_dict"])
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 4, 7, 8]
    logit, cells = checkpoint.load_model(tmp_path / "best.pt")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert logit.shape == (1,)
    assert cells.shape == (1, 4, 4)


def test_a_student_resumes_exactly_and_names_its_teacher(config: TrainConfig, tmp_path: Path) -> None:
    teacher = Trainer(config.model_copy(update={"model": ModelConfig(name="opnet-lse")}), Path("x.yaml"), tmp_path)
    checkpoint.save(tmp_path / "teacher.pt", teacher._exportable())
    loss = LossConfig(teacher=tmp_path / "teacher.pt", teacher_weight=0.7)
    taught = config.model_copy(update={"loss": loss})
    runs: dict[str, Trainer] = {}
    for name, chosen in (("alone", config), ("straight", taught)):
        runs[name] = Trainer(chosen, Path("x.yaml"), tmp_path / name)
        runs[name].run()
    killed = DyingTrainer(taught, Path("x.yaml"), tmp_path / "killed")
    with pytest.raises(Killed):
        killed.run()
    resumed = Trainer(taught, Path("x.yaml"), tmp_path / "killed")
    resumed.resume()
    resumed.run()
    weights = {name: run.average.head.weight for name, run in runs.items()}
    assert not torch.equal(weights["alone"], weights["straight"])
    assert torch.equal(weights["straight"], resumed.average.head.weight)
    named = checkpoint.load(tmp_path / "killed/final.pt")["teacher"]
    assert named["sha256"] == hashlib.sha256((tmp_path / "teacher.pt").read_bytes()).hexdigest()
    assert checkpoint.load_model(tmp_path / "killed/final.pt").pooling == "mean"

    checkpoint.save(tmp_path / "teacher.pt", runs["alone"]._exportable())
    with pytest.raises(checkpoint.CheckpointError, match="not the teacher that the run began with"):
        Trainer(taught, Path("x.yaml"), tmp_path / "killed").resume()


def test_training_moves_the_loss_off_chance(data_root: Path, splits: Path, cache: Path, tmp_path: Path) -> None:
    stage = {"name": "only", "px": 64, "steps": 40, "batch": 8, "lr": 3e-3, "warmup": 2, "preset": "none"}
    config = small_config(data_root, splits, cache, stages=[stage | {"sources": {"metu-ccic": 1}}])
    trainer = ListeningTrainer(config, Path("x.yaml"), tmp_path)
    trainer.losses = []
    trainer.run()
    assert np.mean(trainer.losses[-8:]) < 0.8 * np.mean(trainer.losses[:8])


def test_resuming_with_another_configuration_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, Path("x.yaml"), tmp_path)._save_last()
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        Trainer(config.model_copy(update={"seed": 2}), Path("x.yaml"), tmp_path).resume()


def test_the_rate_warms_up_and_falls_and_follows_the_clock_if_minutes_run_out(
    config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(config, Path("x.yaml"), tmp_path)
    stage = config.stages[0].model_copy(update={"steps": 100, "warmup": 10, "max_minutes": 10.0, "lr_end": 0.1})
    rates = []
    for step, minutes in ((0, 0), (10, 0), (50, 0), (50, 9), (100, 0)):
        trainer.progress.step_in_stage, trainer.progress.seconds_in_stage = step, 60.0 * minutes
        trainer._set_rate(stage)
        rates.append(trainer.optimiser.param_groups[0]["lr"] / stage.lr)
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] > rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(0.1)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        checkpoint.load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match=r"best\.pt"):
        checkpoint.load_model(path)


def test_auroc_counts_pairs_in_order() -> None:
    labels = np.array([True, True, False, False])
    assert auroc(np.array([2.0, 1.0, 0.0, -1.0]), labels) == 1.0
    assert auroc(np.array([0.0, 0.0, 0.0, 0.0]), labels) == 0.5
    assert auroc(np.array([1.0]), np.array([True])) is None


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config/training").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_configurations_are_valid(path: Path) -> None:
    assert load_config(path).stages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nmodel: {name: opnet}\nstages: []\n", "stages"),
        ("name: x\nmodel: {name: opnet}\ncolour: red\nstages: []\n", "colour"),
        ("name: [\n", "not YAML"),
        ("", "the file"),
    ],
)
def test_wrong_configurations_are_refused_with_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml.*{said}"):
        load_config(path)
