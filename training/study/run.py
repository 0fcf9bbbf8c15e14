"""How is a study carried out, so that a kill costs a minute and a changed plan runs only what is new?

runs/study/NAME/calibrations.json            measured speeds, from which minutes become steps
runs/study/NAME/runs/RUN-DIGEST/config.yaml  one training run, which `crack-training train` takes as well
                               /last.pt      from which a killed run goes on
                               /final.pt     its weights
                               /judged-*.json  its logits on the validation sets, from which tables are made
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from drone_agent.vision.preprocess import to_tile
from training.config import TrainConfig
from training.data.dataset import EvaluationSet, evaluation_tiles
from training.engine.checkpoint import load_model
from training.engine.device import choose_device
from training.engine.train import Trainer
from training.engine.validation import predict
from training.engine.watching import Moment, Watcher
from training.errors import ConfigError, DataError
from training.evaluation.evaluate import thin
from training.evaluation.threshold import Scored
from training.files import write_whole
from training.study.plan import (
    Planned,
    Point,
    calibration_point,
    digest,
    folder_name,
    judged_px,
    judgement_name,
    planned,
    steps_of,
    train_config,
)
from training.study.settings import StudySettings

SLOW_STEPS: Final = 2
"""Steps at the start of a measurement that do not count: memory and caches are still cold."""

JUDGING_BATCH: Final = 32


@dataclass(frozen=True)
class Outcome:
    """A run that is done.

    Attributes:
        run: what was run.
        steps: of training.
        minutes: that training took.
        tiles_per_s: speed of training.
        scored: logits on each validation set.
    """

    run: Planned
    steps: int
    minutes: float
    tiles_per_s: float
    scored: tuple[Scored, ...]

    @property
    def tiles(self) -> int:
        """Tiles that were trained on, repetitions counted."""
        return self.steps * self.run.point.setting.batch


class Judge:
    """The validation tiles that all runs of a study are judged on: opened when first needed, the same for all."""

    def __init__(self, settings: StudySettings) -> None:
        self._settings = settings
        self._sets: list[EvaluationSet] | None = None

    def __call__(self, weights: Path, px: int) -> list[Scored]:
        """Score the weights on all sets, on tiles of `px`."""
        model = load_model(weights).to(choose_device(self._settings.device))
        return [
            Scored(
                item.name,
                predict(model, np.stack([to_tile(tile, px) for tile in item.tiles]), JUDGING_BATCH),
                item.labels,
                tuple(item.kinds),
                tuple(item.groups),
            )
            for item in self._open()
        ]

    def _open(self) -> list[EvaluationSet]:
        if self._sets is None:
            places = self._settings.data
            self._sets = [
                thin(evaluation_tiles(name, "val", places.root, places.cache, places.splits), self._settings.limit)
                for name in self._settings.validation
            ]
        return self._sets


class Study:
    """A study and its folder.

    Args:
        settings: the plan.
        folder: of this study.

    Raises:
        ConfigError: weights to start from are not there.
    """

    def __init__(self, settings: StudySettings, folder: Path) -> None:
        for label, path in settings.pretrained().items():
            if not path.is_file():
                raise ConfigError(f"models.{label}.model.options.pretrained: {path} is not there")
        self.settings = settings
        self.folder = folder
        self._judge = Judge(settings)

    # --- speed ---

    @property
    def _calibrations_file(self) -> Path:
        return self.folder / "calibrations.json"

    def calibrations(self) -> dict[str, Any]:
        """Return what was measured so far."""
        if not self._calibrations_file.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(self._calibrations_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self._calibrations_file}: damaged ({error}); delete it to measure anew") from error
        return content

    def speed(self, point: Point) -> float | None:
        """Return the measured tiles a second of the point's network and size; None: not measured yet."""
        found = self.calibrations().get(self._calibration_key(point))
        return None if found is None else float(found["tiles_per_s"])

    def _calibration_config(self, point: Point) -> TrainConfig:
        stands_for = calibration_point(self.settings, point)
        return train_config(self.settings, Planned(stands_for, self.settings.seeds[0]), self.settings.calibration_steps)

    def _calibration_key(self, point: Point) -> str:
        config = self._calibration_config(point)
        return f"{config.name}-{digest(config.model_dump(mode='json'))}"

    def calibrate(self, point: Point) -> float:
        """Return the speed of the point's network and size; measure and write it down if that was not done yet."""
        known = self.speed(point)
        if known is not None:
            return known
        config, key = self._calibration_config(point), self._calibration_key(point)
        folder = self.folder / "calibration" / key
        shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was killed
        # the work of one thread is as long undisturbed as its time on a core, however busy the machine is
        alone = config.threads == 1 and config.data.workers == 0 and choose_device(config.device).type == "cpu"
        clock = time.process_time if alone else time.perf_counter
        ends: list[float] = []

        def tell(_moment: Moment) -> None:
            ends.append(clock())

        Trainer(config, Path(f"{key}.yaml"), folder, watcher=Watcher(lambda _line: None, tell)).run()
        shutil.rmtree(folder.parent)
        step_s = statistics.median(np.diff(ends)[SLOW_STEPS - 1 :])
        tiles_per_s = config.stages[0].batch / step_s
        content = self.calibrations() | {
            key: {
                "model": point.model,
                "px": point.setting.px,
                "width": point.setting.width,
                "tiles_per_s": round(tiles_per_s, 3),
                "step_s": round(float(step_s), 5),
                "batch": config.stages[0].batch,
                "steps": self.settings.calibration_steps,
                "clock": "of the core" if alone else "of the wall",
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            }
        }
        write_json(self._calibrations_file, content)
        return float(content[key]["tiles_per_s"])

    # --- runs ---

    def config(self, run: Planned) -> TrainConfig | None:
        """Return the training run; None where its length is not known before a measurement."""
        speed = self.speed(run.point)
        if speed is None and self.settings.budget.steps is None:
            return None
        return train_config(self.settings, run, steps_of(self.settings, run.point, speed))

    def run_folder(self, config: TrainConfig) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / folder_name(config)

    def _judgement(self, run: Planned, config: TrainConfig) -> Path:
        px = judged_px(self.settings, run.point)
        return self.run_folder(config) / judgement_name(self.settings, px, self.settings.validation)

    def outcome(self, run: Planned) -> Outcome | None:
        """Return what a run came to; None: it is not done yet.

        Raises:
            DataError: what it wrote is damaged.
        """
        config = self.config(run)
        path = None if config is None else self._judgement(run, config)
        if path is None or not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Outcome(
                run,
                content["steps"],
                content["minutes"],
                content["tiles_per_s"],
                tuple(_read_scored(item) for item in content["sets"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); delete it to judge the run anew") from error

    def outcomes(self) -> list[Outcome]:
        """Return all runs of the plan that are done."""
        return [found for run in planned(self.settings) if (found := self.outcome(run)) is not None]

    def state(self, run: Planned) -> str:
        """Tell how far a run is: "done", "trained", "begun" or "new"."""
        config = self.config(run)
        if config is None:
            return "new"
        folder = self.run_folder(config)
        if self._judgement(run, config).is_file():
            return "done"
        if _summary(folder) is not None:
            return "trained"
        return "begun" if (folder / "last.pt").is_file() else "new"

    def carry_out(self, run: Planned) -> Outcome:
        """Train and judge one run, or what is left of it."""
        if self.settings.budget.minutes is not None:
            self.calibrate(run.point)
        config = self.config(run)
        assert config is not None  # noqa: S101 - the speed is known by now
        found = self.outcome(run)
        if found is not None:
            return found
        folder = self.run_folder(config)
        summary = _summary(folder)
        if summary is None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "config.yaml"
            path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
            trainer = Trainer(config, path, folder)
            if (folder / "last.pt").is_file():
                trainer.resume()
            trainer.run()
            summary = trainer.summary()
        torch.set_num_threads(self.settings.threads)
        scored = self._judge(folder / "final.pt", judged_px(self.settings, run.point))
        write_json(
            self._judgement(run, config),
            {
                "model": run.point.model,
                "setting": run.point.setting.model_dump(),
                "seed": run.seed,
                "steps": summary["steps"],
                "minutes": round(summary["steps"] * run.point.setting.batch / summary["tiles_per_s"] / 60, 3),
                "tiles_per_s": summary["tiles_per_s"],
                "sets": [_scored_content(item) for item in scored],
            },
        )
        # an optimiser's state is three times the weights, and nobody goes on from the end
        (folder / "last.pt").unlink(missing_ok=True)
        done = self.outcome(run)
        assert done is not None  # noqa: S101 - it has just been written
        return done

    def carry_out_all(self, advance: Callable[[int], None], say: Callable[[str], None]) -> list[Outcome]:
        """Carry out all runs that are not done.

        Args:
            advance: is told that a run is over.
            say: writes a line about it.

        Returns:
            All outcomes, of earlier times too.
        """
        for place, run in enumerate(planned(self.settings)):
            name = run.text(self.settings)
            if self.state(run) == "done":
                advance(1)
            elif not self._affordable(run):
                say(f"{name}: left out, {self.settings.hours:g} hours are used up")
                advance(1)
            else:
                done = self.carry_out(run)
                speed = f"{done.tiles_per_s:.0f} tiles/s"
                say(f"{place + 1}. {name}: {done.steps} steps in {done.minutes:.1f} min, {speed}")
                advance(1)
        return self.outcomes()

    def _affordable(self, run: Planned) -> bool:
        """Tell whether a repetition still fits; the first seed is always run."""
        if self.settings.hours is None or run.seed == self.settings.seeds[0]:
            return True
        return sum(outcome.minutes for outcome in self.outcomes()) < 60 * self.settings.hours

    def hours_of(self, runs: Sequence[Planned]) -> float:
        """Return the hours of training that the runs take; where the budget is in steps, speeds are measured for it."""
        hours = 0.0
        for run in runs:
            if self.settings.budget.minutes is not None:
                hours += self.settings.budget.minutes / 60
                continue
            speed = self.calibrate(run.point)
            steps = steps_of(self.settings, run.point, speed)
            hours += steps * run.point.setting.batch / speed / 3600
        return hours


def write_json(path: Path, content: Any) -> None:
    """Write a file; a kill in the middle leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")


def _summary(folder: Path) -> dict[str, Any] | None:
    """Return what a run that is over came to; None: it is not over, or what it left cannot be read."""
    if not (folder / "final.pt").is_file():
        return None
    try:
        content: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return {key: content[key] for key in ("steps", "tiles_per_s")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scored_content(item: Scored) -> dict[str, Any]:
    return {
        "name": item.name,
        "logits": [float(value) for value in item.logits],
        "labels": [bool(value) for value in item.labels],
        "kinds": list(item.kinds),
        "groups": list(item.groups),
    }


def _read_scored(content: dict[str, Any]) -> Scored:
    return Scored(
        content["name"],
        np.array(content["logits"], dtype=np.float64),
        np.array(content["labels"], dtype=np.bool_),
        tuple(content["kinds"]),
        tuple(content["groups"]),
    )
