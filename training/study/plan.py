"""Which runs does a study consist of? One factor at a time around a base, and the full grid if wanted."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.config import DataConfig, ModelConfig, StageConfig, TrainConfig, ValidationConfig
from training.data.cache import SYNTHETIC_VERSION
from training.study.settings import FACTORS, GRID, Setting, StudySettings

WARMUP_SHARE: Final = 0.1
"""Part of a run in which the learning rate rises."""

MOST_WARMUP: Final = 50


@dataclass(frozen=True)
class Point:
    """A model with a setting."""

    model: str
    setting: Setting

    def differs(self, base: Setting) -> dict[str, Any]:
        """Return the factors in which the setting is not the base's, and their levels."""
        return {name: value for name in FACTORS if (value := getattr(self.setting, name)) != getattr(base, name)}


@dataclass(frozen=True)
class Planned:
    """A point and the seed with which it is run."""

    point: Point
    seed: int

    def text(self, settings: StudySettings) -> str:
        """Say it in a few words."""
        changed = self.point.differs(settings.models[self.point.model].base)
        what = ", ".join(f"{name} {level_text(value)}" for name, value in changed.items()) or "base"
        return f"{self.point.model}: {what}" + (f" (seed {self.seed})" if len(settings.seeds) > 1 else "")


def level_text(level: Any) -> str:
    """Write a level as the tables and figures do."""
    return f"{level:g}" if isinstance(level, int | float) else str(level)


def factors_of(settings: StudySettings, model: str) -> dict[str, list[Any]]:
    """Return the factors of a model and their levels, the base's among them; one with a single level is none."""
    study = settings.models[model]
    wanted = study.factors or settings.factors
    found: dict[str, list[Any]] = {}
    for name in FACTORS:
        levels: list[Any] = list(getattr(wanted, name))
        if name == "sources" and not levels:
            levels = list(settings.sources)
        if name == "width" and not study.has_width:
            continue
        if levels and getattr(study.base, name) not in levels:
            levels.insert(0, getattr(study.base, name))
        if len(set(levels)) > 1:
            found[name] = list(dict.fromkeys(levels))
    return found


def factor_points(settings: StudySettings, model: str, factor: str) -> list[Point]:
    """Return the points of one factor, in the order of its levels; empty if the model has no such factor."""
    base = settings.models[model].base
    return [Point(model, _changed(base, {factor: level})) for level in factors_of(settings, model).get(factor, [])]


def grid_points(settings: StudySettings, model: str) -> list[Point]:
    """Return all combinations of the factors of the published studies; empty if the grid is not wanted."""
    if not settings.grid:
        return []
    base, factors = settings.models[model].base, factors_of(settings, model)
    axes = [factors.get(name, [getattr(base, name)]) for name in GRID]
    return [Point(model, _changed(base, dict(zip(GRID, levels, strict=True)))) for levels in itertools.product(*axes)]


def points(settings: StudySettings) -> list[Point]:
    """Return all points of a study, each once, bases first."""
    wanted = [Point(model, study.base) for model, study in settings.models.items()]
    for factor in FACTORS:
        wanted += [point for model in settings.models for point in factor_points(settings, model, factor)]
    wanted += [point for model in settings.models for point in grid_points(settings, model)]
    return list(dict.fromkeys(wanted))


def planned(settings: StudySettings) -> list[Planned]:
    """Return all runs: every point with the first seed, then all again with the next."""
    return [Planned(point, seed) for seed in settings.seeds for point in points(settings)]


def steps_of(settings: StudySettings, point: Point, tiles_per_s: float | None) -> int:
    """Return how many steps a run takes.

    Points that differ in learning rate, batch, loss, augmentation or data see equally many tiles: it is measured, not
    the clock of a busy machine that decides between them.

    Args:
        settings: the study.
        point: of the run.
        tiles_per_s: measured speed of the point's network and size; needed where the budget is in minutes.

    Raises:
        ValueError: the budget is in minutes and there is no speed.
    """
    budget = settings.budget
    if budget.steps is not None:
        tiles = float(budget.steps * settings.models[point.model].base.batch)
    elif budget.minutes is not None and tiles_per_s is not None:
        tiles = budget.minutes * 60 * tiles_per_s
    else:
        raise ValueError("a budget in minutes needs a measured speed")
    return max(1, round(tiles / point.setting.batch))


def calibration_point(settings: StudySettings, point: Point) -> Point:
    """Return the point whose speed stands for this one's: its network and size, all else as in the base."""
    base = settings.models[point.model].base
    return Point(point.model, _changed(base, {"px": point.setting.px, "width": point.setting.width}))


def train_config(settings: StudySettings, run: Planned, steps: int) -> TrainConfig:
    """Return the training run.

    Nothing is chosen while it trains, and its last weights are taken: the validation sets judge every point once.
    """
    study, setting = settings.models[run.point.model], run.point.setting
    options = study.model.options | ({"width": setting.width} if setting.width != 1 else {})
    places = settings.data
    return TrainConfig(
        name=_slug(f"{run.point.model}-{'-'.join(map(level_text, run.point.differs(study.base).values())) or 'base'}"),
        model=ModelConfig(name=study.model.name, options=options, init=study.model.init),
        data=DataConfig(
            root=places.root,
            cache=places.cache,
            splits=places.splits,
            synthetic_count=settings.synthetic_count,
            workers=settings.workers,
        ),
        loss=study.loss.model_copy(update={"pos_weight": setting.pos_weight}),
        stages=[
            StageConfig(
                name="study",
                px=setting.px,
                steps=steps,
                batch=setting.batch,
                lr=setting.lr,
                warmup=min(MOST_WARMUP, int(steps * WARMUP_SHARE)),
                preset=setting.preset,
                sources=settings.sources[setting.sources],
            )
        ],
        validation=ValidationConfig(every_steps=steps, tiles_per_set=10, sets={settings.validation[0]: 1.0}),
        seed=run.seed,
        threads=settings.threads,
        backbone_lr=study.backbone_lr,
        weight_decay=study.weight_decay,
        bf16=settings.bf16,
        fp16=settings.fp16,
        device=settings.device,
        checkpoint_minutes=settings.checkpoint_minutes,
    )


def digest(*parts: Any) -> str:
    """Return eight letters that differ where the parts (plain JSON values) differ."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def folder_name(config: TrainConfig) -> str:
    """Name the folder of a run: it belongs to this configuration, and to one way of drawing where pictures are drawn.

    So a changed one takes no old weights.
    """
    drawn = [SYNTHETIC_VERSION] if any("synthetic" in stage.sources for stage in config.stages) else []
    return f"{config.name}-s{config.seed}-{digest(config.model_dump(mode='json'), *drawn)}"


def judgement_name(settings: StudySettings, px: int, names: Sequence[str]) -> str:
    """Name the file of a run's logits: another choice of tiles is another file, while the training stays."""
    return f"judged-{digest(list(names), settings.limit, px)}.json"


def judged_px(settings: StudySettings, point: Point) -> int:
    """Return the side of the tiles that judge a point."""
    return point.setting.px if settings.judged_px == "training" else settings.judged_px


def _changed(setting: Setting, levels: dict[str, Any]) -> Setting:
    return Setting.model_validate(setting.model_dump() | levels)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
