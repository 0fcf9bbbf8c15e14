"""What can be set about `evaluate`, `cross` and `robustness`? One strict YAML file each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from training.config import Batch, LearningRate, LossConfig, ModelConfig, Strict, TilePx
from training.data.dataset import EVALUATION_SETS
from training.data.sources import SOURCES, added_sources
from training.errors import ConfigError

AnySettings = TypeVar("AnySettings", bound="Common")


class Places(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")
    cache: Path = Field(default=Path("data/cache"), description="folder for decoded pictures; not committed")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")


class Common(Strict):
    """What all three commands need."""

    data: Places = Places()
    limit: int | None = Field(default=None, ge=10, description="at most so many tiles of each set; null: all")
    threads: int = Field(default=1, ge=1, le=256, description="threads of the model; 1 is best on a shared machine")
    resamples: int = Field(default=1000, ge=0, description="draws of the bootstrap by photograph; 0: no such interval")
    seed: int = Field(default=1, ge=0, description="of the bootstrap and of what is drawn")


class EvaluateSettings(Common):
    """`evaluate`."""

    sets: list[str] = Field(default_factory=list, description="NAME or NAME/SPLIT of the sets; empty: all")
    file: Literal["fp32", "int8", "both"] = Field(default="both", description="which files of a bundle")
    wanted_recall: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="choose the highest threshold with this recall on the validation sets; null: the bundle's own "
        "threshold, or for a checkpoint the one that balances the stated bars",
    )
    wanted_over: Literal["pooled", "worst-set"] = Field(
        default="worst-set",
        description="whether that recall is wanted of all validation cracks pooled (large sets decide) or of each set",
    )
    bins: int = Field(default=10, ge=2, le=50, description="bars of the reliability diagram")


class Levels(Strict):
    """Levels of each disturbance that are tried, without the undisturbed one; an empty list leaves it out."""

    focus: list[float] = Field(
        default=[0.5, 1, 1.5, 2, 3, 4], description="standard deviation of a Gaussian blur (px of the tile)"
    )
    motion: list[float] = Field(default=[3, 5, 7, 9, 13, 17], description="length of a straight smear (px of the tile)")
    noise: list[float] = Field(
        default=[3, 6, 10, 15, 25], description="standard deviation of white noise in each channel (grey levels)"
    )
    exposure: list[float] = Field(
        default=[-5, -4, -3, -2, -1, 1, 2, 3], description="stops (EV) of more (+) or less (-) light"
    )
    jpeg: list[float] = Field(default=[80, 60, 40, 25, 15, 8], description="JPEG quality of one more compression")
    scale: list[float] = Field(
        default=[0.25, 0.35, 0.5, 0.7, 1.4, 2.0, 2.8, 4.0],
        description="ground sampling distance relative to the tile's own; below 1 is nearer",
    )
    rotation: list[float] = Field(default=[10, 20, 30, 45, 90, 180], description="degrees, anticlockwise")

    @field_validator("focus", "motion", "noise", "rotation")
    @classmethod
    def _positive(cls, values: list[float]) -> list[float]:
        if any(value <= 0 for value in values):
            raise ValueError("levels must be above 0, the undisturbed level")
        return values

    @field_validator("jpeg")
    @classmethod
    def _qualities(cls, values: list[float]) -> list[float]:
        if any(not 1 <= value <= 99 or value != int(value) for value in values):
            raise ValueError("qualities are whole numbers from 1 to 99")
        return values

    @field_validator("scale")
    @classmethod
    def _factors(cls, values: list[float]) -> list[float]:
        if any(not 0.1 <= value <= 10 or value == 1 for value in values):
            raise ValueError("factors lie from 0.1 to 10 and are not 1, the undisturbed level")
        return values

    @field_validator("exposure")
    @classmethod
    def _stops(cls, values: list[float]) -> list[float]:
        if any(not -8 <= value <= 8 or value == 0 for value in values):
            raise ValueError("stops lie from -8 to 8 and are not 0, the undisturbed level")
        return values


class RobustnessSettings(Common):
    """`robustness`."""

    limit: int | None = Field(default=250, ge=10, description="at most so many tiles of each set; null: all")
    sets: list[str] = Field(
        default=["metu-ccic", "uav75", "omu-quay", "uavcrack", "not-concrete"],
        min_length=1,
        description="validation sets; the gates are settings, so test and external sets must not decide them",
    )
    file: Literal["fp32", "int8"] | None = Field(default=None, description="of a bundle; null: the one that flies")
    fall: float = Field(default=0.02, gt=0, lt=1, description="fall of recall (0..1) whose level is looked for")
    levels: Levels = Levels()

    @field_validator("sets")
    @classmethod
    def _validation_only(cls, names: list[str]) -> list[str]:
        allowed = [name for name, splits in EVALUATION_SETS.items() if "val" in splits]
        for name in names:
            if name not in allowed:
                raise ValueError(f"{name!r} has no validation part; allowed are {', '.join(allowed)}")
        return names


class RowSettings(Strict):
    """One row of the matrix: a model that exists."""

    label: str = Field(min_length=1, description="what it was trained on, as the figure is to call it")
    model: Path = Field(description="a checkpoint (.pt), a bundle's folder, or one ONNX file of a bundle")
    trained_on: list[str] = Field(
        default_factory=list, description="sets whose training part it has seen; their cells are marked"
    )


class TrainRowsSettings(Strict):
    """Rows that are trained: one net for each mixture of sources, all in the same way."""

    sources: dict[str, dict[str, float]] = Field(
        min_length=1, description="label of the row -> sources and their shares, e.g. {METU: {metu-ccic: 1}}"
    )
    model: ModelConfig = Field(
        default_factory=lambda: ModelConfig(name="opnet-lse"),  # its check imports torch
        description="the same network for all rows",
    )
    loss: LossConfig = Field(default=LossConfig(cell_head="own"), description="the same loss for all rows")
    steps: int = Field(default=700, ge=1, description="steps of each row; with `minutes` at most so many")
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="budget of each row; the learning rate follows the clock, so a row is not the same twice",
    )
    px: TilePx = Field(default=96, description="side of the tiles in training")
    batch: Batch = 64
    lr: LearningRate = 0.002
    preset: Literal["none", "published", "field"] = Field(default="published", description="augmentation")
    synthetic_count: int = Field(default=2000, ge=2, description="pictures drawn where 'synthetic' is a source")

    @field_validator("sources")
    @classmethod
    def _trainable(cls, rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        allowed = sorted(name for name, source in (SOURCES | added_sources()).items() if source.role == "train")
        for label, shares in rows.items():
            for name in shares:
                if name not in allowed:
                    raise ValueError(f"{label}: {name!r} may not be trained on; allowed are {', '.join(allowed)}")
        return rows


class CrossSettings(Common):
    """`cross`."""

    sets: list[str] = Field(default_factory=list, description="NAME or NAME/SPLIT of the columns; empty: all")
    rows: list[RowSettings] = Field(default_factory=list, description="models that exist")
    train: TrainRowsSettings | None = Field(default=None, description="rows to be trained first; null: none")

    @model_validator(mode="after")
    def _has_rows(self) -> CrossSettings:
        labels = [row.label for row in self.rows] + (list(self.train.sources) if self.train else [])
        if not labels:
            raise ValueError("rows: a matrix needs at least one row, in `rows` or in `train`")
        double = sorted({label for label in labels if labels.count(label) > 1})
        if double:
            raise ValueError(f"rows: every label once, found twice: {', '.join(double)}")
        return self


def overridden(settings: AnySettings, *, data: Mapping[str, Path | None], **changes: Any) -> AnySettings:
    """The settings with what was given on the command line in place of what the file says; None changes nothing.

    Raises:
        ConfigError: a changed value is not allowed.
    """
    content = settings.model_dump()
    content["data"].update({key: value for key, value in data.items() if value is not None})
    content.update({key: value for key, value in changes.items() if value is not None})
    try:
        return type(settings).model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"--{where.replace('_', '-')}: {first['msg']}") from error
