from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor

from tests.training.conftest import REPOSITORY
from tests.training.test_engine import small_config
from training import cli
from training.config import ConfigError, TrainConfig
from training.engine import checkpoint
from training.engine.distributed import World
from training.engine.losses import cell_loss, cell_targets, tile_loss
from training.engine.memory import SETTINGS
from training.engine.train import Trainer
from training.engine.watching import Moment, lines, watching
from training.errors import TrainingError

pytestmark = pytest.mark.training

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


class ShareByShare(Trainer):
    """Does in one process what two do: normalises and judges each half of the batch by itself."""

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        loss, none = self.config.loss, torch.zeros(())
        halves = [{key: value[start::2] for key, value in batch.items()} for start in (0, 1)]
        answers = [self._learner(half["tiles"]) for half in halves]
        known = [
            cell_targets(half["cracks"], half["labels"], (cells.shape[1], cells.shape[2]))
            for half, (_, cells) in zip(halves, answers, strict=True)
        ]
        weight = torch.cat([weights for _, weights in known]).sum().clamp(min=1)
        tiles, of_cells = none, none
        for half, (logits, cells), (targets, weights) in zip(halves, answers, known, strict=True):
            tiles = tiles + 0.5 * tile_loss(logits, half["labels"], smoothing=loss.label_smoothing)
            of_cells = of_cells + cell_loss(cells, targets, weights, pos_weight=loss.cell_pos_weight, known=weight)
        return tiles + loss.cell_weight * of_cells, (tiles, of_cells, none)


def write_config(config: TrainConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return path


def shortened(config: TrainConfig, steps: int, **changes: object) -> TrainConfig:
    stage = config.stages[0].model_copy(update={"steps": steps, "warmup": 1})
    return config.model_copy(update={"stages": [stage], **changes})


@pytest.fixture
def config(data_root: Path, splits: Path, cache: Path) -> TrainConfig:
    return small_config(data_root, splits, cache)


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_process_that_is_shot_goes_on_to_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    # its state is written after every step, so that it is shot anywhere between steps or while it writes
    seldom = config.validation.model_copy(update={"every_steps": 100})
    hasty = shortened(config, 24, checkpoint_minutes=1e-6, validation=seldom)
    path = write_config(hasty, tmp_path / "run.yaml")
    straight = Trainer(hasty, path, tmp_path / "straight")
    straight.run()
    command = [sys.executable, "-m", "training", "train", str(path), "--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        ends = time.monotonic() + 120
        while not (tmp_path / "small/last.pt").exists() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "small/final.pt").exists()
    said = run(*command, "--resume")
    resumed = checkpoint.load(tmp_path / "small/final.pt")["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in straight.average.state_dict().items())
    assert "times its computation" in said
    assert "first 24/24 loss=" in said
    assert "left=0:00:00" in said


def test_two_processes_average_their_gradients_stay_alike_and_resume(config: TrainConfig, tmp_path: Path) -> None:
    short = shortened(config, 4, validation=config.validation.model_copy(update={"every_steps": 100}))
    path = write_config(short, tmp_path / "run.yaml")
    run(*TORCHRUN, "-m", "tests.training.distributed_run", path, tmp_path)
    first, second = (torch.load(tmp_path / f"process{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("still", "straight", "resumed"):
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
    for key, value in first["straight"].items():
        assert torch.equal(value, first["resumed"][key]), key
    assert first["stopped"] == second["stopped"]
    assert set(first["stopped"]["ends"]) == {"one", "two"}
    assert 4 <= first["stopped"]["step"] < 24

    still = short.model_copy(update={"model": short.model.model_copy(update={"options": {"dropout": 0.0}})})
    alone = ShareByShare(still, path, tmp_path / "alone")
    began = {key: value.clone() for key, value in alone.model.state_dict().items()}
    alone.run()
    for key, value in alone.model.named_parameters():
        # a bias before batch norm has no gradient but rounding, which the optimiser blows up
        if value.ndim == 4:
            moved = (value - began[key]).norm()
            assert (first["still"][key] - value).norm() < 0.05 * moved, key


def test_the_command_under_torchrun_trains_once(config: TrainConfig, tmp_path: Path) -> None:
    path = write_config(shortened(config, 2), tmp_path / "run.yaml")
    said = run(*TORCHRUN, "-m", "training", "train", path, "--runs", tmp_path)
    assert said.count("times its computation") == 1
    content = checkpoint.load(tmp_path / "small/last.pt")
    assert content["progress"]["step"] == 2
    assert len(content["random"]) == 2
    assert not torch.equal(content["random"][0]["cpu"], content["random"][1]["cpu"])
    assert not list((tmp_path / "small").glob("*.partial"))

    alone = Trainer(shortened(config, 2), path, tmp_path / "small")
    with pytest.raises(checkpoint.CheckpointError, match="written by 2 processes, these are 1"):
        alone.resume()


def test_shares_are_the_batch_and_uneven_ones_are_refused() -> None:
    batch = list(range(6))
    assert [batch[World(rank, 3).rows] for rank in range(3)] == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ConfigError, match="batch 6 cannot be shared by 4"):
        World(0, 4).require_divisible({"first": 6})


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line, as `crack-training ...` runs it; returns the exit code."""
    for key, value in SETTINGS.items():  # else the command starts the process anew, and the tests end
        monkeypatch.setenv(key, value)

    def main(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["crack-training", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return main


def test_a_run_is_not_overwritten_unless_it_is_asked_for(
    config: TrainConfig,
    tmp_path: Path,
    in_this_process: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, folder = write_config(shortened(config, 2), tmp_path / "run.yaml"), tmp_path / "small"
    command = ("train", path, "--runs", tmp_path)
    assert in_this_process(*command) == 0
    before = {file.name: file.read_bytes() for file in folder.glob("*.pt")}
    assert set(before) == {"last.pt", "best.pt", "final.pt"}
    for left in ("last.pt", "best.pt"):
        capsys.readouterr()
        assert in_this_process(*command) == 2
        said = capsys.readouterr().out
        assert f"{left}: a run is here, at step 2" in said
        assert ("--resume" in said) is (left == "last.pt")  # what cannot be done is not advised
        assert "--anew" in said
        assert (folder / left).read_bytes() == before[left]
        (folder / left).unlink()
    assert in_this_process(*command, "--resume", "--anew") == 2

    there: list[str] = []

    def look(trainer: Trainer) -> None:
        there.extend(file.name for file in trainer.folder.iterdir())
        raise TrainingError("seen")

    monkeypatch.setattr(Trainer, "run", look)
    assert in_this_process(*command, "--anew") == 2
    assert {"history.csv", "curves.svg"} <= set(there)
    assert not {"last.pt", "best.pt", "final.pt", "summary.json"} & set(there)


def test_what_the_configuration_cannot_mean_is_one_line(
    config: TrainConfig, tmp_path: Path, in_this_process: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    wide = config.model.model_copy(update={"options": {"width": "wide"}})
    path = write_config(config.model_copy(update={"model": wide}), tmp_path / "wide.yaml")
    assert in_this_process("train", path, "--runs", tmp_path) == 2
    assert "wide.yaml: model: options.width must be a number above 0, found 'wide'" in capsys.readouterr().out
    odd = config.model.model_copy(update={"options": {"pooling": "top"}})
    path = write_config(config.model_copy(update={"model": odd}), tmp_path / "odd.yaml")
    assert in_this_process("train", path, "--runs", tmp_path) == 2
    assert "odd.yaml: model: options.pooling must be 'mean' or 'lse', found 'top'" in capsys.readouterr().out
    path = write_config(config, tmp_path / "run.yaml")
    assert in_this_process("train", path, "--runs", path) == 2
    assert "run.yaml/small: the folder of the run cannot be made (" in capsys.readouterr().out


def test_folders_that_are_no_bundles_are_one_line(
    data_root: Path,
    cache: Path,
    splits: Path,
    tmp_path: Path,
    in_this_process: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert in_this_process("robustness", tmp_path) == 2
    assert "manifest.json" in capsys.readouterr().out
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    places = {"root": str(data_root), "cache": str(cache), "splits": str(splits)}
    rows = [{"label": "bad", "model": str(bundle)}]
    settings = tmp_path / "cross.yaml"
    settings.write_text(yaml.safe_dump({"data": places, "sets": ["uav75"], "limit": 10, "rows": rows}))
    assert in_this_process("cross", "--config", settings, "--out", tmp_path / "out") == 2
    assert "manifest.json" in capsys.readouterr().out


def test_an_unknown_device_is_a_usage_error(config: TrainConfig, tmp_path: Path) -> None:
    path = write_config(config, tmp_path / "run.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "training", "train", str(path), "--device", "abacus"],
        capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "allowed are auto, cpu and cuda" in done.stderr


MOMENT = Moment(stage="mixture", step=30, steps=100, rate=1e-3, loss=0.25, tiles_per_s=40.0, step_s=2.0)


def test_a_terminal_shows_a_bar_with_steps_rate_and_loss() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with watching(console, print) as watcher:
        watcher.moment(MOMENT)
        watcher.line("criterion=0.9 [kept]")
    for part in ("mixture", "30/100", "loss 0.2500", "rate 1.0e-03", "criterion=0.9 [kept]"):
        assert part in screen.getvalue()


def test_a_log_gets_a_line_now_and_then_and_every_result() -> None:
    said: list[str] = []
    watcher = lines(said.append, every_s=3600)
    watcher.moment(MOMENT)
    watcher.moment(MOMENT)
    watcher.line("a result")
    assert said == ["mixture 30/100 loss=0.2500 rate=1.00e-03 tiles_per_s=40.0 left=0:02:20", "a result"]
