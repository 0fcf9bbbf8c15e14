"""What is in a model bundle, and how does one get to its place without ever being half there?"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import CheckpointError
from training.export.onnx import ExportError, save, set_metadata
from training.files import file_sha256, folder_beside, write_whole

SCHEMA = 1
MANIFEST = "manifest.json"
CARD = "CARD.md"
INDEX = "INDEX.json"
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}

Interval = Annotated[tuple[float, float, float], Field(description="value, lower and upper end of the 95 % interval")]


class Part(BaseModel):
    """A part of a file beside the weights: what is unknown is refused, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Part):
    """What the graph takes."""

    name: str = "tiles"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    order: Literal["BGR"] = "BGR"
    tile_px: int = 224


class Outputs(Part):
    """What the graph gives: names of the outputs."""

    logit: str = "logit"
    cells: str = "cells"


class GsdBand(Part):
    """Ground sampling distances (mm/px) at which the model may be believed, and where that comes from."""

    nominal: float
    min: float
    max: float
    basis: str


class Quality(Part):
    """Pictures that the model cannot judge, in the terms of the agent's `vision.quality`; None: not found.

    `max_smear_px` is for choosing speed and exposure; in flight a smear shows in the sharpness.
    """

    min_sharpness: float | None = Field(None, ge=0, le=2)
    min_brightness: float | None = Field(None, ge=0, le=255)
    max_brightness: float | None = Field(None, ge=0, le=255)
    max_smear_px: float | None = Field(None, gt=0)
    basis: str


class ModelFile(Part):
    """One ONNX file of the bundle."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    channels: Literal[3, 4]
    bytes: int
    scheme: str


class OperatingPoint(Part):
    """From which probability on a tile counts as a crack: `sigmoid(logit / temperature + bias) >= threshold_p`."""

    threshold_p: float = Field(gt=0, lt=1)
    temperature: float = Field(1.0, gt=0)
    bias: float = 0.0
    fitted_on: str
    wanted: str
    recall: float
    specificity: float


class SetMetrics(Part):
    """What the default file reaches on one set at the operating point.

    Intervals are Clopper-Pearson by tile; where the name says so and of AUROC, the bootstrap's by photograph.
    """

    recall: Interval | None = None
    specificity: Interval | None = None
    kinds: dict[str, Interval] = {}
    kinds_by_group: dict[str, Interval] = {}
    recall_by_group: Interval | None = None
    specificity_by_group: Interval | None = None
    auroc: Interval | None = None
    n_positive: int
    n_negative: int
    n_groups: int
    file: Literal["fp32", "int8"]
    role: Literal["validation", "published", "test", "external"]


class DataSource(Part):
    """One data set that the weights have seen, or the weights that they started from."""

    name: str
    sha256: str | None = None
    licence: str | None = None
    train_tiles: int | None = None


class Training(Part):
    """How to make the weights again."""

    config: str | None = None
    seed: int | None = None
    commit: str | None = None
    hours: float | None = None
    hours_of_all_runs: float | None = None
    steps: int | None = None
    data: tuple[DataSource, ...] = ()
    pretrained: tuple[DataSource, ...] = ()


class Manifest(Part):
    """`manifest.json`: everything the agent needs to know of a model; no number about it stands anywhere else."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    architecture: str
    parameters: int
    licence: str
    input: Input = Input()
    outputs: Outputs = Outputs()
    gsd_mm_px: GsdBand
    quality: Quality | None = None
    files: dict[Literal["fp32", "int8"], ModelFile]
    default_file: Literal["fp32", "int8"] = "int8"
    operating_point: OperatingPoint
    metrics: dict[str, SetMetrics]
    parity: dict[str, Any]
    training: Training

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def to_json(self) -> str:
        """The file's text, the same for the same content; without measured gates it has no such section."""
        without = {"quality"} if self.quality is None else None
        content = self.model_dump(mode="json", by_alias=True, exclude=without)
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads `manifest.json` of a bundle. Raises ExportError if it is missing or not of this schema."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ExportError(f"{path}: {key}: {first['msg']}") from error


def read_model(folder: Path, file: ModelFile) -> bytes:
    """Reads one ONNX file of a bundle, whole.

    Raises:
        CheckpointError: it cannot be read, or is not the file that the manifest names.
    """
    path = folder / file.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise CheckpointError(f"{path}: is not the file that the manifest beside it names (its SHA-256 differs)")
    return content


def write_bundle(
    target: Path,
    models: Mapping[Literal["fp32", "int8"], tuple[onnx.ModelProto, int, str]],
    facts: Mapping[str, Any],
    card: str,
) -> Manifest:
    """Writes the bundle into a temporary folder beside `target` and then renames it: it is there whole or not at all.

    Args:
        target: the bundle's folder; one that is there already is replaced.
        models: for each file the graph, its number of input channels, and how it was quantised.
        facts: the manifest without `files`.
        card: text of `CARD.md`.

    Raises:
        ExportError: if the folder cannot be written, or a graph is not valid.
    """
    target = target.resolve()
    try:
        with folder_beside(target) as work:
            files: dict[Literal["fp32", "int8"], ModelFile] = {}
            for key, (model, channels, scheme) in models.items():
                path = work / FILES[key]
                point = facts["operating_point"]
                set_metadata(
                    model,
                    {
                        "crackscout.schema": str(SCHEMA),
                        "crackscout.name": str(facts["name"]),
                        "crackscout.version": str(facts["version"]),
                        "crackscout.file": key,
                        "crackscout.threshold_p": repr(float(point["threshold_p"])),
                        "crackscout.temperature": repr(float(point["temperature"])),
                        "crackscout.bias": repr(float(point["bias"])),
                    },
                )
                save(model, path)
                files[key] = ModelFile(
                    path=path.name,
                    sha256=file_sha256(path),
                    channels=_three_or_four(channels),
                    bytes=path.stat().st_size,
                    scheme=scheme,
                )
            manifest = Manifest.model_validate({**facts, "files": files})
            (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            (work / CARD).write_text(card, encoding="utf-8")
            work.chmod(0o755)
            _put_in_place(work, target)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written ({error.strerror})") from error
    return manifest


def update_index(models_folder: Path, *, default: str | None = None) -> None:
    """Renews `INDEX.json`: the SHA-256 of every bundle's manifest, and which bundle is taken when none is named.

    Args:
        models_folder: holds the bundles, one folder each.
        default: name of the default bundle; None keeps what the file says (or takes `opnet`, else the first).
    """
    index = models_folder / INDEX
    found = {
        folder.name: file_sha256(folder / MANIFEST)
        for folder in sorted(models_folder.iterdir())
        if not folder.name.startswith(".") and (folder / MANIFEST).is_file()
    }
    if default is None and index.is_file():
        default = json.loads(index.read_text(encoding="utf-8")).get("default")
    if default not in found:
        default = "opnet" if "opnet" in found else next(iter(found), None)
    text = json.dumps({"schema": SCHEMA, "default": default, "models": found}, indent=2) + "\n"
    write_whole(index, text)


def _put_in_place(work: Path, target: Path) -> None:
    """Renames `work` to `target`. A folder cannot be renamed over a full one, so the old one steps aside first."""
    if not target.exists():
        work.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(aside / target.name)
    try:
        work.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _three_or_four(channels: int) -> Literal[3, 4]:
    if channels == 3:
        return 3
    if channels == 4:
        return 4
    raise ExportError(f"{channels} input channels: allowed are 3 and 4")
