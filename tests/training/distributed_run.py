"""What one process of the test of torchrun does: train straight, be killed, resume. Not a test by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.training.test_engine import Killed, KilledTrainer
from training.config import TrainConfig, load_config
from training.engine.distributed import joined
from training.engine.train import Trainer


def stopping(config: TrainConfig) -> TrainConfig:
    """A run that learns nothing, so that each stage ends as early as it may."""
    wanted = config.validation.model_copy(update={"every_steps": 1, "stop_specificity": 0.9, "patience": 1})
    stages = [config.stages[0].model_copy(update={"name": name, "lr": 1e-9, "steps": 12}) for name in ("one", "two")]
    return config.model_copy(update={"validation": wanted, "stages": stages})


def main(config_path: Path, folder: Path) -> None:
    config = load_config(config_path)
    still = config.model_copy(update={"model": config.model.model_copy(update={"options": {"dropout": 0.0}})})
    with joined("cpu") as world:
        without_dropout = Trainer(still, config_path, folder / "still", world=world)
        without_dropout.run()
        straight = Trainer(config, config_path, folder / "straight", world=world)
        straight.run()
        killed = KilledTrainer(config, config_path, folder / "killed", world=world)
        killed.saved_after, killed.dies_after = 2, 3
        try:
            killed.run()
        except Killed:
            resumed = Trainer(config, config_path, folder / "killed", world=world)
            resumed.resume()
            assert resumed.progress.step == 2
            resumed.run()
        stopped = Trainer(stopping(config), config_path, folder / "stopped", world=world)
        stopped.run()
        weights = {
            "still": without_dropout.model.state_dict(),
            "straight": straight.average.state_dict(),
            "resumed": resumed.average.state_dict(),
            "stopped": {
                "step": stopped.progress.step,
                "ends": {row["stage"]: row["step"] for row in stopped.progress.history},
            },
        }
        torch.save(weights, folder / f"process{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
