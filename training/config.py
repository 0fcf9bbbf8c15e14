"""What does a training run consist of? One YAML file, read strictly: an unknown or impossible key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["ConfigError", "Strict", "TrainConfig", "load_config", "read_settings", "unknown"]

Settings = TypeVar("Settings", bound="Strict")


# Ranges of what a training run is made of, the same wherever it is set.
LearningRate = Annotated[float, Field(gt=0, le=0.1)]
Batch = Annotated[int, Field(ge=2, le=1024)]
PosWeight = Annotated[float, Field(gt=0)]
TilePx = Annotated[int, Field(ge=64, le=512, multiple_of=32)]
Width = Annotated[float, Field(gt=0, le=8)]


class Strict(BaseModel):
    """Base of all configuration models here: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _paths(given: Path | list[Path] | None) -> tuple[Path, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, Path) else tuple(given)


class ModelConfig(Strict):
    """Which network."""

    name: str = Field(description="a name of training.models.MODELS")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of its builder")
    init: Path | list[Path] | None = Field(
        default=None,
        description="checkpoint of the same network to start from, or folder of a bundle, or several checkpoints: then "
        "their average; blocks and pooling may have been added since",
    )

    @property
    def starts(self) -> tuple[Path, ...]:
        """Checkpoints to start from; none: from the builder's weights."""
        return _paths(self.init)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from training.models import MODELS  # imports torch

        if name not in MODELS:
            raise ValueError(f"{name!r} is unknown; allowed: {', '.join(sorted(MODELS))}")
        return name

    @field_validator("init")
    @classmethod
    def _any(cls, init: Path | list[Path] | None) -> Path | list[Path] | None:
        if init == []:
            raise ValueError("the list of checkpoints is empty; null starts from the builder's weights")
        return init


class DataConfig(Strict):
    """Where the pictures are."""

    root: Path = Field(default=Path("../shared/data"), description="folder of the data sets, zip or unpacked")
    cache: Path = Field(default=Path("data/cache"), description="folder for decoded pictures; not committed")
    splits: Path = Field(default=Path("config/training/splits"), description="folder of the committed splits")
    synthetic_count: int = Field(default=4000, ge=2, description="pictures drawn for the source 'synthetic'")
    synthetic_relief: bool = Field(
        default=False, description="whether two in five of them are rough masonry and concrete in the sun, in relief"
    )
    synthetic_upright: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the cracks on them that are upright or level, as joints are; 0: all anyhow",
    )
    workers: int = Field(
        default=0, ge=0, le=16, description="processes that prepare batches; 0: in the training process"
    )


class LossConfig(Strict):
    """What is minimised."""

    kind: Literal["bce", "focal"] = Field(
        default="bce", description="binary cross entropy, or focal loss (Lin et al. 2017), where easy tiles count less"
    )
    focal_gamma: float = Field(default=2.0, ge=0, description="how much less; 0: not at all. For 'focal'")
    focal_alpha: float | None = Field(
        default=None, gt=0, lt=1, description="weight of the cracks, the others weigh 1 - alpha; null: both 1"
    )
    pos_weight: PosWeight = Field(default=1.0, description="weight of the cracks in the loss")
    label_smoothing: float = Field(default=0.02, ge=0, lt=0.5, description="labels become s/2 and 1 - s/2")
    cell_weight: float = Field(
        default=0.5, ge=0, description="weight of the auxiliary loss on cells (0: none); its head is not exported"
    )
    cell_head: Literal["auxiliary", "own"] = Field(
        default="auxiliary",
        description="whose cells that loss teaches: those of a head that is dropped at export, or the model's own, "
        "which mean pooling does not bear (a thin crack fills few cells: the mean of honest cells is negative)",
    )
    cell_pos_weight: float = Field(default=3.0, gt=0, description="weight of cracked cells in that loss")
    joint_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight of sound tiles that show a marked joint, and in the loss on cells of the joint's cells",
    )
    teacher: Path | list[Path] | None = Field(
        default=None,
        description="checkpoint (best.pt or final.pt) or bundle of a model whose answers are learnt too, or several of "
        "any kinds: then the mean of their logits",
    )
    teacher_weight: float = Field(default=1.0, gt=0, description="weight of the loss against the teacher")
    teacher_cell_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight, within that loss, of the loss against the teachers' cells (0: none): for networks that "
        "pool by log-sum-exp, whose cells are answers of their own",
    )
    teacher_temperature: float = Field(
        default=2.0, gt=0, description="softens both answers before they are compared (Hinton et al. 2015)"
    )
    teacher_when_right: bool = Field(
        default=False,
        description="heed the teachers only on tiles that they judge rightly (logit on the label's side of 0)",
    )

    @property
    def teachers(self) -> tuple[Path, ...]:
        """Checkpoints of those that teach; none: labels alone."""
        return _paths(self.teacher)

    @field_validator("teacher")
    @classmethod
    def _any(cls, teacher: Path | list[Path] | None) -> Path | list[Path] | None:
        if teacher == []:
            raise ValueError("the list of teachers is empty; null learns from the labels alone")
        return teacher

    @model_validator(mode="after")
    def _own_cells_to_teach(self) -> LossConfig:
        if self.teacher_cell_weight > 0 and (not self.teachers or self.cell_head != "own"):
            raise ValueError("teacher_cell_weight: needs a teacher, and cell_head 'own', whose cells it teaches")
        return self


class StageConfig(Strict):
    """A part of the run: what is shown, at which size, for how many steps."""

    name: str
    px: TilePx = Field(description="side of the tiles")
    steps: int = Field(ge=0, description="0: nothing is learnt, and what the run starts from is validated and kept")
    batch: Batch
    lr: LearningRate = Field(description="peak rate of the new layers (head, or a network without pretraining)")
    lr_end: float = Field(default=0.02, ge=0, le=1, description="share of the peak that the cosine ends at")
    warmup: int = Field(default=50, ge=0, description="steps of linear warm-up")
    preset: Literal["none", "published", "field"] = "field"
    turned: float = Field(
        default=0.4, ge=0, le=1, description="share of the field preset's tiles turned freely, by up to 45 degrees"
    )
    recoloured: float = Field(
        default=0.3, ge=0, le=1, description="share of its tiles made paler, stronger in colour, tinted or grey"
    )
    collaged: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the tiles of everyday photographs that are put together from several of them",
    )
    in_front: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the other tiles with an everyday thing in front (none where it could hide an unmarked "
        "crack)",
    )
    sources: dict[str, float] = Field(min_length=1, description="share of the tiles from each source")
    max_minutes: float | None = Field(
        default=None, gt=0, description="end the stage early; the learning rate follows. Makes a run unrepeatable"
    )

    @model_validator(mode="after")
    def _something_to_draw(self) -> StageConfig:
        if any(weight < 0 for weight in self.sources.values()) or sum(self.sources.values()) <= 0:
            raise ValueError("sources: weights must be 0 or more, and one of them positive")
        return self

    @model_validator(mode="after")
    def _varied_by_the_field_preset(self) -> StageConfig:
        for name in ("turned", "recoloured", "collaged", "in_front"):
            if self.preset != "field" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is of the field preset, the stage has preset: {self.preset}")
        return self

    @model_validator(mode="after")
    def _things_to_show(self) -> StageConfig:
        from training.data.mixture import THINGS  # it reads torch

        for name in ("collaged", "in_front"):
            if getattr(self, name) > 0 and self.sources.get(THINGS, 0) == 0:
                raise ValueError(f"{name}: shows everyday photographs, so sources must have some of {THINGS}")
        return self

    @model_validator(mode="after")
    def _warm_before_the_end(self) -> StageConfig:
        if 0 < self.steps <= self.warmup:
            raise ValueError(f"warmup: {self.warmup} steps, the stage has {self.steps}; it must be less")
        return self


class ValidationConfig(Strict):
    """How the run is watched and which moment is kept."""

    every_steps: int = Field(default=400, ge=1)
    tiles_per_set: int = Field(default=120, ge=10, description="fixed random tiles of each validation set")
    batch: int = Field(default=32, ge=1)
    sets: dict[str, float] = Field(
        default={"metu-ccic": 1.0, "uav75": 2.0, "omu-quay": 0.5, "uavcrack": 1.0, "not-concrete": 1.0},
        description="validation sets and their weight in the criterion (weighted mean of balanced accuracy and AUROC)",
    )
    stop_specificity: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="end a stage early when recall no longer rises, at the one threshold that passes this share of all "
        "sound validation tiles together; null: never",
    )
    patience: int = Field(default=5, ge=1, description="validations of a stage without a rise that end it")

    @field_validator("sets")
    @classmethod
    def _with_validation_part(cls, sets: dict[str, float]) -> dict[str, float]:
        from training.data.dataset import EVALUATION_SETS, evaluation_splits  # they read their settings by this module

        for name in sets:
            if "val" not in evaluation_splits(name):
                allowed = [known for known, splits in EVALUATION_SETS.items() if "val" in splits]
                why = "has no validation part" if evaluation_splits(name) else "is unknown"
                raise ValueError(f"{name!r} {why}; allowed: {', '.join(allowed)}, and sets that are added for training")
        if any(weight < 0 for weight in sets.values()) or sum(sets.values()) <= 0:
            raise ValueError("weights must be 0 or more, and one of them positive")
        return sets


class TrainConfig(Strict):
    """A training run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="of the run: results go to runs/<name>/")
    model: ModelConfig
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    stages: list[StageConfig] = Field(min_length=1)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    seed: int = Field(default=1, ge=0)
    threads: int = Field(
        default=1, ge=1, le=256, description="threads of the network's arithmetic; 1 is best on a shared machine"
    )
    backbone_lr: float = Field(default=1.0, gt=0, le=1, description="rate of the backbone as a share of the head's")
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    grad_clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(default=0.998, ge=0, lt=1, description="of the averaged weights, which are what is kept")
    bf16: bool = Field(
        default=False, description="autocast to bfloat16; pays only with AMX or AVX512-BF16, or on a GPU"
    )
    fp16: bool = Field(
        default=False, description="autocast to float16 with a scaled loss instead: for GPUs without bfloat16"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")
    checkpoint_minutes: float = Field(default=4.0, gt=0, description="between two writings of last.pt")
    tensorboard: bool = Field(default=False, description="write scalars for TensorBoard to runs/<name>/tensorboard")

    @model_validator(mode="after")
    def _one_precision(self) -> TrainConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16: allowed is one of them")
        return self


class _TwiceError(Exception):
    def __init__(self, key: str, line: int, first: int) -> None:
        super().__init__(f"{key}: found twice, first in line {first}; allowed is once")
        self.line = line


class _OneKeyLoader(yaml.SafeLoader):
    """Refuses a key that a block has twice, where YAML's own loader lets the last one win."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:  # as PyYAML's stubs have it
        """Compose a block; what `<<` merges into it later may be overridden by its own keys."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, known = key.start_mark.line + 1, (key.tag, key.value)
                if known in first:
                    raise _TwiceError(key.value, line, first[known])
                first[known] = line
        return node


def load_config(path: Path) -> TrainConfig:
    """Read a training configuration; raises as `read_settings` does."""
    return read_settings(path, TrainConfig)


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """Read the YAML file of a command.

    Raises:
        ConfigError: the file cannot be read, is not YAML in UTF-8, or a key is there twice, unknown, missing or out of
            range.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_OneKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file in UTF-8") from error
    except _TwiceError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({error})") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: {_explain(problem, kind)}"
            for problem in error.errors()
        )
        raise ConfigError(f"{path}: {problems}") from error


def unknown(name: str, allowed: Iterable[str]) -> str:
    """Say that a name is unknown, which one may be meant, and which are allowed."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, n=1)
    meant = f" (is {near[0]!r} meant?)" if near else ""
    return f"unknown{meant}; allowed: {', '.join(names) or 'none'}"


def _explain(problem: ErrorDetails, kind: type[BaseModel]) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    *place, key = problem["loc"]
    return unknown(str(key), _keys(kind, place))


def _keys(kind: type[BaseModel], place: Iterable[int | str]) -> list[str]:
    """List the keys of the block at a place of the file; places in lists, and what stands for a union, are skipped."""
    blocks = [kind]
    for part in place:
        inner = [block.model_fields[part].annotation for block in blocks if part in block.model_fields]
        if inner:
            blocks = [found for annotation in inner for found in _blocks(annotation)]
    return list(dict.fromkeys(name for block in blocks for name in block.model_fields))


def _blocks(annotation: object) -> list[type[BaseModel]]:
    """Find the blocks that an annotation such as `list[Stage] | None` speaks of."""
    parts = get_args(annotation)
    if parts:
        return [found for part in parts for found in _blocks(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
