"""How does a network learn? Stage after stage, validated now and then, resumable at any step."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from training.config import ModelConfig, StageConfig, TrainConfig
from training.data.dataset import EvaluationSet, evaluation_tiles
from training.data.mixture import SYNTHETIC, Mixture, SourceSampler, load_samplers
from training.data.sources import get_source
from training.engine import checkpoint
from training.engine.bundle import facts, restore_norms
from training.engine.curves import TRACE_COLUMNS, draw_curves
from training.engine.device import (
    autocast,
    choose_device,
    cpu_flags,
    random_state,
    set_random_state,
    warn_if_slower,
)
from training.engine.distributed import World
from training.engine.losses import (
    cell_loss,
    cell_targets,
    distillation_loss,
    focal_loss,
    joint_tiles,
    tile_loss,
)
from training.engine.meter import Losses, Meter
from training.engine.origins import origins, require_same
from training.engine.stopping import COLUMN, has_stalled, merit
from training.engine.teacher import Teachers
from training.engine.validation import criterion, stopping_row, validate
from training.engine.watching import SILENT, Moment, Watcher
from training.errors import CheckpointError, ConfigError, TrainingError
from training.files import write_whole
from training.models import CellClassifier, create, pretrained_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

_NORM_BATCHES: Final = 16
TRACE_EVERY: Final = 10
"""Steps between two points of the curves of loss and rate."""


@dataclass
class Progress:
    """Where a run is; written into `last.pt`."""

    stage: int = 0
    step_in_stage: int = 0
    step: int = 0
    seconds: float = 0.0
    seconds_in_stage: float = 0.0
    best: float = -math.inf  # criterion of the moment that is kept
    history: list[dict[str, Any]] = field(default_factory=list)
    trace: list[list[float]] = field(default_factory=list)


class Learner(nn.Module):
    """What learns: the model and, where its loss counts, the auxiliary head on its cells, in one forward pass.

    Args:
        model: the network.
        auxiliary: 1x1 convolution of the features; None: the model's own cells are returned.
    """

    def __init__(self, model: CellClassifier, auxiliary: nn.Conv2d | None) -> None:
        super().__init__()
        self.model = model
        self.auxiliary = auxiliary

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Map tiles [N, 3, H, W] to the logit [N] and the taught cells [N, h, w]."""
        features = self.model.features(tiles)
        logits, cells = self.model.classify(features)
        return logits, cells if self.auxiliary is None else self.auxiliary(features).squeeze(1)


class _Remaining(Sampler[int]):
    """The numbers of the batches that are still to come."""

    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def _built(wanted: ModelConfig, config_path: Path) -> CellClassifier:
    try:
        return create(wanted.name, **wanted.options)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{config_path}: model: {error}") from error
    except OSError as error:
        raise ConfigError(f"{config_path}: model.options.pretrained: {error}") from error


class Trainer:
    """One training run.

    Args:
        config: the run.
        config_path: written into the checkpoints.
        folder: for checkpoints, `history.csv`, `steps.csv`, `curves.svg` and logs.
        watcher: is told what happens.
        world: which of how many processes this is.

    Raises:
        ConfigError: the configuration asks for what this machine or these sets do not have.
        CheckpointError: `model.init` or a teacher cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        config_path: Path,
        folder: Path,
        watcher: Watcher = SILENT,
        world: World | None = None,
    ) -> None:
        self.config = config
        self._config_path = config_path
        self.folder = folder
        self._watcher = watcher
        self._world = world or World()
        self._world.require_divisible({stage.name: stage.batch for stage in config.stages})
        self.device = choose_device(config.device, self._world.local_rank)
        if self._world.first:
            warn_if_slower(config, self.device, cpu_flags())
            _make_folder(folder)
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(1)  # its own pool would fight with the network's threads
        torch.manual_seed(config.seed)
        model = _built(config.model, config_path)
        if config.model.starts:
            model.start_from(checkpoint.average_state(config.model.starts))
        # the new head is drawn before anything moves to a GPU: the same weights everywhere
        self.auxiliary = nn.Conv2d(model.channels, 1, kernel_size=1).to(self.device)
        self.model: CellClassifier = model.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self._learner = self._make_learner()
        self.optimiser = self._make_optimiser()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.fp16)
        self._teachers = Teachers(config.loss.teachers, self.device) if config.loss.teachers else None
        named = (*config.model.starts, *config.loss.teachers)
        self._bundles = {str(path): facts(path) for path in named if path.is_dir()}
        self._pretrained = pretrained_of(config.model.name, config.model.options)
        if not self._world.first:
            torch.manual_seed(config.seed + 1_000_003 * self._world.rank)  # other dropout in each process
        self.progress = Progress()
        self._since = Meter()
        self._total = Meter()
        self._commit = _commit()  # of the code that runs, not of what is checked out when it ends
        with self._world.one_after_the_other():
            self._samplers = self._open_sources()
            self._validation = self._open_validation()
            self._origins = origins(config, self._samplers)
        if any(path.is_dir() for path in config.model.starts):
            self._restore_norms()
        self._last_saved = time.monotonic()
        self._board: SummaryWriter | None = None

    def _make_learner(self) -> nn.Module:
        loss = self.config.loss
        auxiliary = self.auxiliary if loss.cell_weight > 0 and loss.cell_head == "auxiliary" else None
        learner = Learner(self.model, auxiliary)
        if self._world.size == 1:
            return learner
        on_gpu = self.device.type == "cuda"
        # running statistics are averaged after each step instead of copied from process 0
        return DistributedDataParallel(
            learner, device_ids=[self.device.index] if on_gpu else None, broadcast_buffers=False
        )

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
            names,
            data.root,
            data.cache,
            data.splits,
            synthetic_count=data.synthetic_count,
            seed=self.config.seed,
            relief=data.synthetic_relief,
            upright=data.synthetic_upright,
        )

    def _open_validation(self) -> list[EvaluationSet]:
        data, wanted = self.config.data, self.config.validation
        sets = []
        for name in wanted.sets:
            full = evaluation_tiles(name, "val", data.root, data.cache, data.splits)
            rng = np.random.default_rng(0)  # the same tiles in every run, so that runs can be compared
            count = min(len(full), wanted.tiles_per_set)
            sets.append(full.subset(np.sort(rng.choice(len(full), count, replace=False))))
        if wanted.stop_specificity is not None and len(set(np.concatenate([one.labels for one in sets]))) < 2:
            raise ConfigError(
                f"validation: stop_specificity needs cracked and sound tiles, {', '.join(wanted.sets)} lack one kind"
            )
        return sets

    def run(self) -> None:
        """Train all stages that are not done yet."""
        self._board = self._open_board()
        while self.progress.stage < len(self.config.stages):
            stage = self.config.stages[self.progress.stage]
            self._run_stage(stage)
            if not self._is_validated():
                self._validate_and_keep(stage)
            self.progress.stage += 1
            self.progress.step_in_stage = 0
            self.progress.seconds_in_stage = 0.0
            self._save_last()
        if self._world.first:
            # final.pt says that a run is over, so it is the last to be there
            _write_json(self.folder / "summary.json", self.summary())
            checkpoint.save(self.folder / "final.pt", self._exportable())
        if self._board is not None:
            self._board.close()

    def _open_board(self) -> SummaryWriter | None:
        if not self.config.tensorboard or not self._world.first:
            return None
        from torch.utils.tensorboard import SummaryWriter  # slow to import, seldom wanted

        # what a killed run wrote after its last state will be written again
        written = self.progress.history[-1]["step"] + 1 if self.progress.history else 0
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=written)

    def _run_stage(self, stage: StageConfig) -> None:
        if self._is_over(stage):  # resumed between its last step and the next stage
            return
        before = time.monotonic()
        for batch in self._batches(stage):
            ready = time.monotonic()
            losses = self._step(stage, batch)
            after = time.monotonic()
            self._count(stage, losses, data_s=ready - before, compute_s=after - ready)
            at = self.progress.step_in_stage
            if at % self.config.validation.every_steps == 0 and at < stage.steps:
                self._validate_and_keep(stage)
                self._save_last()  # after best.pt: what a killed run goes on from must not know of a better moment
            if self._world.from_first(time.monotonic() - self._last_saved > 60 * self.config.checkpoint_minutes):
                self._save_last()
            if self._is_over(stage):
                break
            before = time.monotonic()

    def _restore_norms(self) -> None:
        """Measure what a bundle's folded layers see on the first batches, so that they can be trained further.

        A run of no steps sees them, too: what it keeps is what a run with steps starts from.
        """
        first = self.config.stages[0]
        mixture = self._mixture(first.model_copy(update={"steps": max(first.steps, _NORM_BATCHES)}), 0)
        shown = (mixture[step]["tiles"].to(self.device) for step in range(_NORM_BATCHES))
        restore_norms(self.model, shown)
        self.average.load_state_dict(self.model.state_dict())

    def _mixture(self, stage: StageConfig, number: int, rows: slice = slice(None)) -> Mixture:
        return Mixture(
            self._samplers,
            stage.sources,
            px=stage.px,
            batch=stage.batch,
            preset=stage.preset,
            seed=self.config.seed,
            stage=number,
            steps=stage.steps,
            rows=rows,
            turned=stage.turned,
            recoloured=stage.recoloured,
            collaged=stage.collaged,
            in_front=stage.in_front,
        )

    def _batches(self, stage: StageConfig) -> DataLoader[dict[str, Tensor]]:
        workers = self.config.data.workers
        return DataLoader(
            self._mixture(stage, self.progress.stage, self._world.rows),
            batch_size=None,
            sampler=_Remaining(self.progress.step_in_stage, stage.steps),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_quiet_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else each loader takes a number from the generator that dropout uses
        )

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> Losses:
        self._set_rate(stage)
        self.model.train()
        total, losses = self._losses({key: value.to(self.device, non_blocking=True) for key, value in batch.items()})
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]  # torch's own annotation lacks it
        self._scaler.unscale_(self.optimiser)
        trained = [*self.model.parameters(), *self.auxiliary.parameters()]
        norm = nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        # with float16 the scaler leaves out such a step, and scales less
        if not self._scaler.is_enabled() and not math.isfinite(norm):
            raise self._not_finite("gradient", stage)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self._world.mean(buffer for buffer in self.model.buffers() if buffer.is_floating_point())
        self._average_weights()
        # reading the numbers waits for a GPU to finish the step, so that its time is the step's
        measured = Losses(*(float(loss.detach()) for loss in losses))
        if not math.isfinite(sum(measured)):
            raise self._not_finite("loss", stage)
        return measured

    def _not_finite(self, what: str, stage: StageConfig) -> TrainingError:
        return TrainingError(
            f"{self._config_path}: the {what} is not finite at step {self.progress.step} of stage {stage.name}; "
            "lower its lr or grad_clip"
        )

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return what is minimised and its parts: tiles, cells, teacher."""
        loss, labels = self.config.loss, batch["labels"]
        with autocast(self.config, self.device):
            logits, cells = self._learner(batch["tiles"])
            answers = None if self._teachers is None else self._teachers(batch["tiles"])
        logits = logits.float()
        tiles = self._tile_loss(logits, labels, self._tile_weights(batch))
        of_cells = of_teacher = torch.zeros((), device=self.device)
        total = tiles
        if loss.cell_weight > 0:
            targets, weights = cell_targets(
                batch["cracks"], labels, (cells.shape[1], cells.shape[2]), joint_weight=loss.joint_weight
            )
            known = weights.sum()
            self._world.mean([known])  # the shares of a batch know differently many cells
            of_cells = cell_loss(
                cells.float(),
                targets,
                weights,
                pos_weight=loss.cell_pos_weight,
                known=known.clamp(min=1.0 / self._world.size),
            )
            total = total + loss.cell_weight * of_cells
        if answers is not None:
            of_teacher = self._teacher_loss(labels, logits, cells.float(), *answers)
            total = total + loss.teacher_weight * of_teacher
        return total, (tiles, of_cells, of_teacher)

    def _teacher_loss(
        self, labels: Tensor, logits: Tensor, cells: Tensor, taught_logits: Tensor, taught_cells: Tensor
    ) -> Tensor:
        loss = self.config.loss
        heeded = ((taught_logits > 0) == (labels > 0.5)).float() if loss.teacher_when_right else None
        of_teacher = distillation_loss(logits, taught_logits, temperature=loss.teacher_temperature, weights=heeded)
        if loss.teacher_cell_weight == 0:
            return of_teacher
        if cells.shape != taught_cells.shape:
            raise ConfigError(
                f"{self._config_path}: loss.teacher_cell_weight: the teachers have {tuple(taught_cells.shape[1:])} "
                f"cells a tile, the model {tuple(cells.shape[1:])}; it must be 0"
            )
        of_cells = distillation_loss(cells, taught_cells, temperature=loss.teacher_temperature, weights=heeded)
        return of_teacher + loss.teacher_cell_weight * of_cells

    def _tile_weights(self, batch: dict[str, Tensor]) -> Tensor | None:
        weight = self.config.loss.joint_weight
        if weight == 1.0:
            return None
        return 1 + (weight - 1) * joint_tiles(batch["cracks"], batch["labels"]).float()

    def _tile_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        loss = self.config.loss
        if loss.kind == "focal":
            return focal_loss(
                logits,
                labels,
                gamma=loss.focal_gamma,
                alpha=loss.focal_alpha,
                pos_weight=loss.pos_weight,
                smoothing=loss.label_smoothing,
                weights=weights,
            )
        return tile_loss(logits, labels, pos_weight=loss.pos_weight, smoothing=loss.label_smoothing, weights=weights)

    def _count(self, stage: StageConfig, losses: Losses, *, data_s: float, compute_s: float) -> None:
        """Write down a step that was taken."""
        # the clock of process 0 counts for all: it decides the rate where a stage has minutes
        data_s, compute_s = self._world.from_first((data_s, compute_s))
        now = self.progress
        now.step_in_stage += 1
        now.step += 1
        now.seconds += data_s + compute_s
        now.seconds_in_stage += data_s + compute_s
        for meter in (self._since, self._total):
            meter.add(losses, data_s=data_s, compute_s=compute_s, tiles=stage.batch)
        if now.step_in_stage % TRACE_EVERY == 0 or now.step_in_stage == 1:
            now.trace.append([float(now.step), self._rate(), *losses])
        row = self._since.row()
        self._watcher.moment(
            Moment(
                stage=stage.name,
                step=now.step,
                steps=now.step - now.step_in_stage + sum(one.steps for one in self.config.stages[now.stage :]),
                rate=self._rate(),
                loss=row["loss"],
                tiles_per_s=row["tiles_per_s"],
                step_s=now.seconds_in_stage / now.step_in_stage,
            )
        )

    def _is_over(self, stage: StageConfig) -> bool:
        """Tell whether the stage ends here: its steps or minutes are over, or recall has stalled."""
        return self._done(stage) >= 1 or self._has_stalled()

    def _is_validated(self) -> bool:
        """Tell whether the last validation was of this stage's last step, as when it ended the stage."""
        history = self.progress.history
        return self.progress.step_in_stage > 0 and bool(history) and history[-1]["step"] == self.progress.step

    def _has_stalled(self) -> bool:
        began = self.progress.step - self.progress.step_in_stage
        values = [row[COLUMN] for row in self.progress.history if row["step"] > began and COLUMN in row]
        return has_stalled(values, self.config.validation.patience)

    def _done(self, stage: StageConfig) -> float:
        """Return how much of the stage is over (0..1): of its steps, or of its minutes if they run out sooner."""
        steps = self.progress.step_in_stage / stage.steps if stage.steps else 1.0
        if stage.max_minutes is None:
            return min(1.0, steps)
        return min(1.0, max(steps, self.progress.seconds_in_stage / 60 / stage.max_minutes))

    def _rate(self) -> float:
        return max(float(group["lr"]) for group in self.optimiser.param_groups)

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

    def _validate_and_keep(self, stage: StageConfig) -> None:
        # every process goes on with the row of process 0: it may end the stage
        row: dict[str, Any] = self._world.from_first(self._validate(stage) if self._world.first else None)
        traced_to = self.progress.history[-1]["step"] if self.progress.history else 0
        better = all(merit(row) > merit(earlier) for earlier in self.progress.history)
        self.progress.history.append(row)
        self._since = Meter()
        if better:
            self.progress.best = row["criterion"]
        if not self._world.first:
            return
        self._watcher.line(" ".join(f"{key}={value}" for key, value in row.items()))
        if self._is_over(stage) and self._done(stage) < 1:
            self._watcher.line(f"{stage.name}: {COLUMN} no longer rises; the stage ends at step {row['step']}")
        columns = list(dict.fromkeys(key for one in self.progress.history for key in one))
        _write_table(self.folder / "history.csv", columns, self.progress.history)
        trace = [dict(zip(TRACE_COLUMNS, one, strict=True)) for one in self.progress.trace]
        _write_table(self.folder / "steps.csv", list(TRACE_COLUMNS), trace)
        draw_curves(self.folder / "curves.svg", self.progress.history, self.progress.trace)
        self._write_board(row, [one for one in trace if one["step"] > traced_to])
        if better:
            checkpoint.save(self.folder / "best.pt", self._exportable())

    def _validate(self, stage: StageConfig) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": self.progress.step,
            "stage": stage.name,
            "minutes": round(self.progress.seconds / 60, 2),
            "rate": self._rate(),
            **self._since.row(),
        }
        wanted = self.config.validation
        results = validate(self.average, self._validation, wanted.batch)
        for result in results:
            row.update(result.row())
        if wanted.stop_specificity is not None:
            row.update(stopping_row(results, wanted.stop_specificity))
        row["criterion"] = round(criterion(results, wanted.sets), 5)
        return row

    def _write_board(self, row: dict[str, Any], trace: list[dict[str, float]]) -> None:
        if self._board is None:
            return
        for one in trace:
            for key in TRACE_COLUMNS[1:]:
                self._board.add_scalar(f"step/{key}", one[key], int(one["step"]))
        for key, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(key, value, row["step"])
        self._board.flush()

    def summary(self) -> dict[str, Any]:
        """Return what a run came to: steps, hours, speed, the best moment, and where it was computed."""
        best = max(self.progress.history, key=merit, default=None)
        measured = self._total.row()
        return {
            "name": self.config.name,
            "steps": self.progress.step,
            "configured_steps": sum(stage.steps for stage in self.config.stages),
            "hours": round(self.progress.seconds / 3600, 3),
            "tiles_per_s": measured.get("tiles_per_s"),
            "step_over_compute": measured.get("step_over_compute"),
            "criterion": None if best is None else best["criterion"],
            "best_step": None if best is None else best["step"],
            "device": self.device.type,
            "processes": self._world.size,
            "threads": self.config.threads,
            "workers": self.config.data.workers,
        }

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
            "pretrained": self._pretrained,
            "teacher": None if self._teachers is None else self._teachers.rows,
            "bundles": self._bundles,
            "seed": self.config.seed,
            "commit": self._commit,
            "hours": round(self.progress.seconds / 3600, 3),
            "step": self.progress.step,
            "criterion": self.progress.history[-1]["criterion"] if self.progress.history else None,
        }

    def _save_last(self) -> None:
        states = self._world.gather(random_state(self.device))
        self._last_saved = time.monotonic()
        if not self._world.first:
            return
        content = {
            "config": self.config.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "teacher": None if self._teachers is None else self._teachers.rows,
            "origins": self._origins,
            "progress": vars(self.progress),
            "meters": {"since": self._since.sums, "total": self._total.sums},
            "random": states,
        }
        checkpoint.save(self.folder / "last.pt", content)

    def resume(self) -> None:
        """Go on from `last.pt`, with the same batches, rates and random numbers as if never stopped.

        Raises:
            CheckpointError: there is none, it is not the state of a run, or it was written with another configuration,
                another teacher, other data or another split of them, or by another number of processes.
        """
        path = self.folder / "last.pt"
        if not path.exists():
            how = "start anew (--anew)" if _models_in(self.folder) else "start without --resume"
            raise CheckpointError(f"{path}: no state of a run is here to go on from; {how}")
        content = checkpoint.load(path)
        if not content.keys() >= {"auxiliary", "average", "optimiser", "progress"}:
            raise CheckpointError(f"{path}: not the state of a run but a model; best.pt and final.pt cannot be resumed")
        if _text(content["config"]) != self.config.model_dump_json():
            raise CheckpointError(f"{path}: written with another configuration; start anew")
        # files from before there were GPUs and several processes hold the state of one generator
        states = content.get("random") or [{"cpu": content["torch_rng"], "cuda": None}]
        if len(states) != self._world.size:
            raise CheckpointError(
                f"{path}: written by {len(states)} processes, these are {self._world.size}; start as many"
            )
        if self._teachers is not None:
            self._teachers.require_same(content.get("teacher"))
        if "origins" in content:
            require_same(self._origins, content["origins"], path)
        elif self._world.first:
            log.warning("%s: does not say which data and splits it was written with; they are not compared", path)
        self.model.load_state_dict(content["model"])
        self.auxiliary.load_state_dict(content["auxiliary"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self._scaler.load_state_dict(content.get("scaler") or self._scaler.state_dict())
        self.progress = Progress(**content["progress"])
        meters = content.get("meters", {})
        self._since, self._total = (Meter(meters[key]) if key in meters else Meter() for key in ("since", "total"))
        set_random_state(states[self._world.rank], self.device)


def refuse_to_overwrite(folder: Path) -> None:
    """Refuse to begin a run where one stands.

    Raises:
        CheckpointError: the folder holds checkpoints; the message says of which step, and what can be done.
    """
    last, models = folder / "last.pt", _models_in(folder)
    if last.exists():
        raise CheckpointError(
            f"{last}: a run is here, {_standing(last)}; --resume goes on with it, --anew deletes it and starts over"
        )
    if models:
        raise CheckpointError(
            f"{models[0]}: a run is here, {_standing(models[0])}, without a last.pt to go on from; --anew deletes it "
            "and starts over"
        )


def delete_run(folder: Path) -> None:
    """Delete what tells where a run stands and what came of it, as far as it is there."""
    for name in ("last.pt", "best.pt", "final.pt", "summary.json"):
        (folder / name).unlink(missing_ok=True)


def _models_in(folder: Path) -> list[Path]:
    return [path for name in ("best.pt", "final.pt") if (path := folder / name).exists()]


def _standing(path: Path) -> str:
    try:
        content = checkpoint.load(path)
    except CheckpointError:
        return "at a step that cannot be read"
    step = content["progress"]["step"] if "progress" in content else content.get("step", "unknown")
    return f"at step {step}"


def _text(config: dict[str, Any]) -> str | None:
    """Return a configuration as text, as the order of the sources decides the batches too; None: no longer valid."""
    try:
        return TrainConfig.model_validate(config).model_dump_json()
    except ValidationError:
        return None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder of the run cannot be made ({error.strerror or error})") from error


def _quiet_worker(_: int) -> None:
    """Leave the cores to the network: one thread for the process that prepares batches."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _describe(sampler: SourceSampler) -> dict[str, Any]:
    licence = "own" if sampler.name == SYNTHETIC else get_source(sampler.name, for_training=True).licence
    return {
        "name": sampler.name,
        "sha256": sampler.sha256,
        "licence": licence,
        "train_tiles": len(sampler.indices),
    }


def _write_table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a CSV file; a kill in the middle leaves the old one."""
    temporary = path.with_suffix(".partial")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def _commit() -> str | None:
    """Name the commit of the working copy, or None outside one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
