"""How does a network learn? Stage after stage, validated now and then, resumable at any step."""

from __future__ import annotations

import copy
import csv
import logging
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from training.config import StageConfig, TrainConfig
from training.data.dataset import EvaluationSet, evaluation_tiles
from training.data.mixture import SYNTHETIC, Mixture, SourceSampler, load_samplers
from training.data.sources import SOURCES
from training.engine import checkpoint
from training.engine.losses import cell_loss, cell_targets, distillation_loss, focal_loss, tile_loss
from training.engine.teacher import Teacher
from training.engine.validation import criterion, validate
from training.errors import CheckpointError
from training.models import create

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run is; written into `last.pt`."""

    stage: int = 0
    step_in_stage: int = 0
    step: int = 0
    seconds: float = 0.0
    seconds_in_stage: float = 0.0
    best: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)


class _Remaining(Sampler[int]):
    """The numbers of the batches that are still to come."""

    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


class Trainer:
    """One training run.

    Args:
        config: the run.
        config_path: written into the checkpoints.
        folder: for checkpoints, `history.csv` and logs.
        report: called after each validation and now and then with what to show, or None.
    """

    def __init__(
        self, config: TrainConfig, config_path: Path, folder: Path, report: Callable[[str], None] | None = None
    ) -> None:
        self.config = config
        self._config_path = config_path
        self.folder = folder
        self._report = report or (lambda text: log.info("%s", text))
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(1)  # its own pool would fight with the network's threads
        torch.manual_seed(config.seed)
        self.model = create(config.model.name, **config.model.options).to(memory_format=torch.channels_last)
        if config.model.init is not None:
            self.model.load_state_dict(checkpoint.load_model(config.model.init).state_dict())
        self.auxiliary = nn.Conv2d(self.model.channels, 1, kernel_size=1)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self.optimiser = self._make_optimiser()
        self._teacher = None if config.loss.teacher is None else Teacher(config.loss.teacher, torch.device("cpu"))
        self.progress = Progress()
        self._commit = _commit()  # of the code that runs, not of what is checked out when it ends
        self._samplers = self._open_sources()
        self._validation = self._open_validation()
        self._last_saved = time.monotonic()
        self._board = self._open_board() if config.tensorboard else None

    def _open_board(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, seldom wanted

        return SummaryWriter(str(self.folder / "tensorboard"))

    def _make_optimiser(self) -> torch.optim.Optimizer:
        """Decay only the weights of convolutions; the head learns at the full rate."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        named = [*self.model.named_parameters(), *(("head", p) for p in self.auxiliary.parameters())]
        for name, parameter in named:
            groups.setdefault((name.startswith("head"), parameter.ndim > 1), []).append(parameter)
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "share": 1.0 if head else self.config.backbone_lr,
                    "weight_decay": self.config.weight_decay if decayed else 0.0,
                }
                for (head, decayed), parameters in groups.items()
            ],
            fused=True,
        )

    def _open_sources(self) -> dict[str, SourceSampler]:
        data = self.config.data
        names = sorted({name for stage in self.config.stages for name in stage.sources})
        return load_samplers(
            names, data.root, data.cache, data.splits, synthetic_count=data.synthetic_count, seed=self.config.seed
        )

    def _open_validation(self) -> list[EvaluationSet]:
        data, wanted = self.config.data, self.config.validation
        sets = []
        for name in wanted.sets:
            full = evaluation_tiles(name, "val", data.root, data.cache, data.splits)
            rng = np.random.default_rng(0)  # the same tiles in every run, so that runs can be compared
            count = min(len(full), wanted.tiles_per_set)
            sets.append(full.subset(np.sort(rng.choice(len(full), count, replace=False))))
        return sets

    def run(self) -> None:
        """Train all stages that are not done yet."""
        while self.progress.stage < len(self.config.stages):
            stage = self.config.stages[self.progress.stage]
            self._run_stage(stage)
            self.progress.stage += 1
            self.progress.step_in_stage = 0
            self.progress.seconds_in_stage = 0.0
            self._validate_and_keep(stage)
            self._save_last()
        checkpoint.save(self.folder / "final.pt", self._exportable())

    def _run_stage(self, stage: StageConfig) -> None:
        mixture = Mixture(
            self._samplers,
            stage.sources,
            px=stage.px,
            batch=stage.batch,
            preset=stage.preset,
            seed=self.config.seed,
            stage=self.progress.stage,
            steps=stage.steps,
        )
        loader = DataLoader(
            mixture,
            batch_size=None,
            sampler=_Remaining(self.progress.step_in_stage, stage.steps),
            num_workers=self.config.data.workers,
            prefetch_factor=4 if self.config.data.workers else None,
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # else each loader takes a number from the generator that dropout uses
        )
        meter = _Meter()
        before = time.monotonic()
        for batch in loader:
            ready = time.monotonic()
            losses = self._step(stage, batch)
            after = time.monotonic()
            meter.add(losses, data_s=ready - before, compute_s=after - ready, tiles=stage.batch)
            self.progress.step_in_stage += 1
            self.progress.step += 1
            self.progress.seconds += after - before
            self.progress.seconds_in_stage += after - before
            before = time.monotonic()
            at = self.progress.step_in_stage
            if at % 10 == 0:
                self._report(f"{stage.name} {at}/{stage.steps} {meter.text()}")
            if at % self.config.validation.every_steps == 0 and at < stage.steps:
                self._validate_and_keep(stage, meter)
                meter = _Meter()
                before = time.monotonic()
            if time.monotonic() - self._last_saved > 60 * self.config.checkpoint_minutes:
                self._save_last()
            if self._done(stage) >= 1 and at < stage.steps:
                self._report(f"{stage.name}: its {stage.max_minutes} minutes are over at step {at} of {stage.steps}")
                break

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> tuple[float, float]:
        self._set_rate(stage)
        self.model.train()
        loss_config = self.config.loss
        labels = batch["labels"]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            features = self.model.features(batch["tiles"])
            logits, own_cells = self.model.classify(features)
            main = self._tile_loss(logits.float(), labels)
            if self._teacher is not None:
                main = main + loss_config.teacher_weight * distillation_loss(
                    logits.float(), self._teacher(batch["tiles"]), temperature=loss_config.teacher_temperature
                )
            cells = torch.zeros(())
            if loss_config.cell_weight > 0:
                targets, weights = cell_targets(batch["cracks"], labels, (features.shape[2], features.shape[3]))
                own = loss_config.cell_head == "own"
                predicted = own_cells if own else self.auxiliary(features).squeeze(1)
                cells = cell_loss(predicted.float(), targets, weights, pos_weight=loss_config.cell_pos_weight)
        total = main + loss_config.cell_weight * cells
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch's own annotation lacks it
        trained = [*self.model.parameters(), *self.auxiliary.parameters()]
        nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        self.optimiser.step()
        self._average_weights()
        return float(main.detach()), float(cells.detach())

    def _tile_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = self.config.loss
        if loss.kind == "focal":
            return focal_loss(
                logits,
                labels,
                gamma=loss.focal_gamma,
                alpha=loss.focal_alpha,
                pos_weight=loss.pos_weight,
                smoothing=loss.label_smoothing,
            )
        return tile_loss(logits, labels, pos_weight=loss.pos_weight, smoothing=loss.label_smoothing)

    def _done(self, stage: StageConfig) -> float:
        """Return how much of the stage is over (0..1): of its steps, or of its minutes if they run out sooner."""
        steps = self.progress.step_in_stage / stage.steps
        if stage.max_minutes is None:
            return min(1.0, steps)
        return min(1.0, max(steps, self.progress.seconds_in_stage / 60 / stage.max_minutes))

    def _set_rate(self, stage: StageConfig) -> None:
        """Warm up linearly, then follow half a cosine down to the end rate."""
        at = self.progress.step_in_stage
        if at < stage.warmup:
            rate = stage.lr * (at + 1) / stage.warmup
        else:
            rate = stage.lr * (stage.lr_end + (1 - stage.lr_end) * 0.5 * (1 + math.cos(math.pi * self._done(stage))))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.progress.step) / (10 + self.progress.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, its in zip(self.average.buffers(), self.model.buffers(), strict=True):
            if its.is_floating_point():
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)

    def _validate_and_keep(self, stage: StageConfig, meter: _Meter | None = None) -> None:
        row: dict[str, Any] = {
            "step": self.progress.step,
            "stage": stage.name,
            "minutes": round(self.progress.seconds / 60, 2),
            **({} if meter is None else meter.row()),
        }
        results = validate(self.average, self._validation, self.config.validation.batch)
        for result in results:
            row.update(result.row())
        row["criterion"] = round(criterion(results, self.config.validation.sets), 5)
        self.progress.history.append(row)
        _write_history(self.folder / "history.csv", self.progress.history)
        self._report(" ".join(f"{key}={value}" for key, value in row.items()))
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(key, value, self.progress.step)
            self._board.flush()
        if row["criterion"] > self.progress.best:
            self.progress.best = row["criterion"]
            checkpoint.save(self.folder / "best.pt", self._exportable())

    def _exportable(self) -> dict[str, Any]:
        options = {key: value for key, value in self.config.model.options.items() if key != "pretrained"}
        return {
            "model": self.config.model.name,
            "options": options,
            "state_dict": self.average.state_dict(),
            "config": self.config.model_dump(mode="json"),
            "config_path": str(self._config_path),
            "history": self.progress.history,
            "data": [_describe(sampler) for sampler in self._samplers.values()],
            "teacher": None if self._teacher is None else self._teacher.row(),
            "seed": self.config.seed,
            "commit": self._commit,
            "hours": round(self.progress.seconds / 3600, 3),
            "step": self.progress.step,
            "criterion": self.progress.history[-1]["criterion"] if self.progress.history else None,
        }

    def _save_last(self) -> None:
        content = {
            "config": self.config.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "teacher": None if self._teacher is None else self._teacher.row(),
            "progress": vars(self.progress),
            "torch_rng": torch.get_rng_state(),
        }
        checkpoint.save(self.folder / "last.pt", content)
        self._last_saved = time.monotonic()

    def resume(self) -> None:
        """Go on from `last.pt`, with the same batches, rates and random numbers as if never stopped.

        Raises:
            CheckpointError: there is none, or it was written with another configuration.
        """
        content = checkpoint.load(self.folder / "last.pt")
        if TrainConfig.model_validate(content["config"]) != self.config:
            raise CheckpointError(f"{self.folder / 'last.pt'}: written with another configuration; start anew")
        if self._teacher is not None:
            self._teacher.require_same(content.get("teacher"))
        self.model.load_state_dict(content["model"])
        self.auxiliary.load_state_dict(content["auxiliary"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.progress = Progress(**content["progress"])
        torch.set_rng_state(content["torch_rng"])


class _Meter:
    """Averages losses and times between two validations."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)
        self._steps = 0

    def add(self, losses: tuple[float, float], *, data_s: float, compute_s: float, tiles: int) -> None:
        self._sums += (*losses, data_s, compute_s, tiles)
        self._steps += 1

    def row(self) -> dict[str, float]:
        main, cells, data_s, compute_s, tiles = self._sums.tolist()
        steps = max(1, self._steps)
        return {
            "loss": round(main / steps, 4),
            "cell_loss": round(cells / steps, 4),
            "tiles_per_s": round(tiles / max(1e-9, data_s + compute_s), 1),
            "step_over_compute": round((data_s + compute_s) / max(1e-9, compute_s), 3),
        }

    def text(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.row().items())


def _quiet_worker(_: int) -> None:
    """Leave the cores to the network: one thread for the process that prepares batches."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _describe(sampler: SourceSampler) -> dict[str, Any]:
    licence = "own" if sampler.name == SYNTHETIC else SOURCES[sampler.name].licence
    return {
        "name": sampler.name,
        "sha256": sampler.sha256,
        "licence": licence,
        "train_tiles": len(sampler.indices),
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in history for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _commit() -> str | None:
    """Name the commit of the working copy, or None outside one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
