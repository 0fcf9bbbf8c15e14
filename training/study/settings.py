"""What can be set about `study`? One strict YAML file."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from training.config import Batch, LearningRate, LossConfig, ModelConfig, PosWeight, Strict, TilePx, Width
from training.data.dataset import EVALUATION_SETS
from training.data.sources import SOURCES, added_sources
from training.evaluation.settings import Common
from training.models import MODELS
from training.models.lite import PACKAGE

FACTORS: Final = ("lr", "batch", "pos_weight", "preset", "sources", "px", "width")
GRID: Final = ("lr", "batch", "pos_weight")
"""The factors of the published studies, of which the full grid can be run."""

SYNTHETIC: Final = "synthetic"
Once = TypeVar("Once", str, int)
Preset = Literal["none", "published", "field"]


class Setting(Strict):
    """One point of a study: what a run is trained with."""

    lr: LearningRate = Field(description="peak learning rate of the head")
    batch: Batch = Field(description="tiles of a step")
    pos_weight: PosWeight = Field(default=1.0, description="weight of the cracks in the loss")
    preset: Preset = Field(default="field", description="augmentation")
    sources: str = Field(description="a label of `sources`: what is trained on")
    px: TilePx = Field(description="side of the tiles in training")
    width: Width = Field(default=1.0, description="multiplier of all channels, where the network has one")


class Factors(Strict):
    """Levels of each factor; an empty list leaves it out. The level of the base need not be repeated, but may."""

    lr: list[LearningRate] = Field(default=[1e-3, 1e-4], description="published: 1e-3 and 1e-4")
    batch: list[Batch] = Field(default=[64, 32], description="published: 64 and 32")
    pos_weight: list[PosWeight] = Field(default=[1.0, 3.0], description="published: 1 and 3")
    preset: list[Preset] = Field(default=["none", "published", "field"], description="augmentation")
    sources: list[str] = Field(default_factory=list, description="labels of `sources`; empty: all of them")
    px: list[TilePx] = Field(default=[96, 128, 160, 224], description="input scale in training")
    width: list[Width] = Field(
        default=[0.5, 1.0, 2.0], description="of networks that have such an option; others have no such factor"
    )


class Budget(Strict):
    """How long a run is: one of both."""

    steps: int | None = Field(
        default=None,
        ge=1,
        description="steps of a run with the batch of its base; other batches get steps for as many tiles. Repeatable "
        "everywhere",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="of training on a machine with nothing else to do; turned into steps by a short measurement, which "
        "is written down: repeatable with it",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Budget:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("budget: allowed is one of steps and minutes")
        return self


class ModelStudy(Strict):
    """One model and the point around which it is studied."""

    model: ModelConfig
    base: Setting
    loss: LossConfig = Field(default=LossConfig(), description="apart from pos_weight, which is a factor")
    backbone_lr: float = Field(default=1.0, gt=0, le=1, description="rate of the backbone as a share of the head's")
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    factors: Factors | None = Field(default=None, description="other levels than those for all; null: those")

    @property
    def has_width(self) -> bool:
        """Whether the network's channels can be multiplied."""
        return "width" in inspect.signature(MODELS[self.model.name]).parameters

    @model_validator(mode="after")
    def _known(self) -> ModelStudy:
        if self.model.name not in MODELS:
            raise ValueError(f"model {self.model.name!r} is unknown; allowed: {', '.join(sorted(MODELS))}")
        if "width" in self.model.options:
            raise ValueError("model.options: width is a factor, it belongs into base")
        if self.base.width != 1 and not self.has_width:
            raise ValueError(f"base: {self.model.name} has no width to change; allowed is 1")
        return self


class StudySettings(Common):
    """`study`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="results go to runs/study/<name>/")
    synthetic_count: int = Field(default=2000, ge=2, description="pictures drawn for the source 'synthetic'")
    models: dict[str, ModelStudy] = Field(min_length=1, description="label -> model")
    sources: dict[str, dict[str, float]] = Field(
        min_length=1, description="label -> sources and their shares, e.g. {METU: {metu-ccic: 1}}"
    )
    factors: Factors = Factors()
    grid: bool = Field(default=False, description="run all combinations of lr, batch and pos_weight as well")
    seeds: list[int] = Field(default=[1], min_length=1, description="every point is repeated with each")
    hours: float | None = Field(
        default=None,
        gt=0,
        description="repetitions with further seeds are left out once so many hours were trained; null: none is",
    )
    budget: Budget
    calibration_steps: int = Field(default=12, ge=4, le=1000, description="steps of the measurement of speed")
    validation: list[str] = Field(
        default=["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete"],
        min_length=1,
        description="validation sets that judge the runs; test and external sets must not decide anything",
    )
    judged_px: Literal["training"] | int = Field(
        default="training", description="side of the tiles that judge a run: as in its training, or a number for all"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")
    workers: int = Field(default=0, ge=0, le=16, description="processes that prepare batches")
    bf16: bool = Field(default=False, description="autocast to bfloat16")
    fp16: bool = Field(default=False, description="autocast to float16 with a scaled loss instead")
    checkpoint_minutes: float = Field(default=1.0, gt=0, description="most work that a kill costs")

    @field_validator("sources")
    @classmethod
    def _trainable(cls, mixtures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        known = SOURCES | added_sources()
        allowed = [*sorted(name for name, source in known.items() if source.role == "train"), SYNTHETIC]
        for label, shares in mixtures.items():
            for name in shares:
                if name not in allowed:
                    raise ValueError(f"{label}: {name!r} may not be trained on; allowed are {', '.join(allowed)}")
        return mixtures

    @field_validator("validation")
    @classmethod
    def _validation_only(cls, names: list[str]) -> list[str]:
        allowed = [name for name, splits in EVALUATION_SETS.items() if "val" in splits]
        for name in names:
            if name not in allowed:
                external = name in EVALUATION_SETS or (name in SOURCES and SOURCES[name].role == "external")
                why = "is an external test and must not decide anything" if external else "has no validation part"
                raise ValueError(f"{name!r} {why}; allowed are {', '.join(allowed)}")
        return _once(names)

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int]) -> list[int]:
        if any(seed < 0 for seed in seeds):
            raise ValueError("seeds must be 0 or more")
        return _once(seeds)

    @field_validator("judged_px")
    @classmethod
    def _size(cls, px: Literal["training"] | int) -> Literal["training"] | int:
        if px != "training" and (not 64 <= px <= 512 or px % 32):
            raise ValueError(f"allowed are 'training' and multiples of 32 from 64 to 512, found {px}")
        return px

    @model_validator(mode="after")
    def _labels_known(self) -> StudySettings:
        for label, study in self.models.items():
            named = [study.base.sources, *(study.factors or self.factors).sources]
            for name in named:
                if name not in self.sources:
                    raise ValueError(f"{label}: mixture {name!r} is unknown; allowed are {', '.join(self.sources)}")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16: allowed is one of them")
        return self

    def pretrained(self) -> dict[str, Path]:
        """Return the files with weights that the models start from, by label."""
        files: dict[str, Path] = {}
        for label, study in self.models.items():
            given = study.model.options.get("pretrained")
            if given is not None and given not in {"torchvision", PACKAGE}:
                files[label] = Path(given)
        return files


def _once(values: list[Once]) -> list[Once]:
    double = [str(value) for value, count in Counter(values).items() if count > 1]
    if double:
        raise ValueError(f"each once, found twice: {', '.join(double)}")
    return values
