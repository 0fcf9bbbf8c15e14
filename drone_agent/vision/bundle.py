"""Is this the model that it claims to be, and what does it promise? Manifest, hash and metadata of a model bundle."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from drone_agent import resources
from drone_agent.errors import ConfigError, ModelRejected

SCHEMA = 1
MANIFEST = "manifest.json"

_METADATA_TOLERANCE = 1e-6


class _Part(BaseModel):
    """Base of the manifest's parts: frozen, and closed to keys that this program does not understand."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Part):
    """The model's input: `name`, and tiles of `tile_px` squared as uint8 NHWC in the order blue, green, red."""

    name: str = Field(min_length=1)
    dtype: Literal["uint8"]
    layout: Literal["NHWC"]
    order: Literal["BGR"]
    tile_px: int = Field(ge=8, le=4096)


class OutputSpec(_Part):
    """Names of the outputs: the logit of each tile, and its shares by place."""

    logit: str = Field(min_length=1)
    cells: str = Field(min_length=1)


class GsdBand(_Part):
    """Ground sampling distances the model was made for (mm a pixel), and how that was found."""

    nominal: float = Field(gt=0)
    min: float = Field(gt=0)
    max: float = Field(gt=0)
    basis: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> GsdBand:
        if not self.min <= self.nominal <= self.max:
            raise ValueError(f"found min {self.min}, nominal {self.nominal}, max {self.max}; allowed is rising order")
        return self


class QualitySpec(_Part):
    """Which pictures the model cannot judge, as measured in training: gates in the terms of `vision.quality`.

    A value of None was not measured, or of no use. `max_smear_px` is for choosing speed and exposure before a flight;
    in flight a smear shows in the sharpness.
    """

    min_sharpness: float | None = Field(default=None, ge=0, le=2)
    min_brightness: float | None = Field(default=None, ge=0, le=255)
    max_brightness: float | None = Field(default=None, ge=0, le=255)
    max_smear_px: float | None = Field(default=None, gt=0)
    basis: str = ""

    @model_validator(mode="after")
    def _window_is_open(self) -> QualitySpec:
        low, high = self.min_brightness, self.max_brightness
        if low is not None and high is not None and low >= high:
            raise ValueError(f"found min_brightness {low:g}, allowed is less than max_brightness ({high:g})")
        return self


class FileSpec(_Part):
    """One ONNX file of the bundle: path inside the folder, SHA-256, input channels (4 = BGR and one ignored)."""

    path: str = Field(pattern=r"^[A-Za-z0-9_.\-]+\.onnx$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    channels: Literal[3, 4]
    bytes: int = Field(ge=1)
    scheme: str = ""


class OperatingPoint(_Part):
    """`p_crack = sigmoid(logit / temperature + bias)`; crack from `threshold_p` on; how that was chosen."""

    threshold_p: float = Field(gt=0, lt=1)
    temperature: float = Field(gt=0)
    bias: float
    fitted_on: str = ""
    wanted: str = ""
    recall: float | None = Field(default=None, ge=0, le=1)
    specificity: float | None = Field(default=None, ge=0, le=1)


class Manifest(_Part):
    """`manifest.json`. What training reports of itself (`metrics`, `parity`, `training`) is carried, not judged."""

    schema_: int = Field(alias="schema")
    name: str = Field(min_length=1)
    version: str
    architecture: str
    parameters: int = Field(ge=1)
    licence: str
    input: InputSpec
    outputs: OutputSpec
    gsd_mm_px: GsdBand
    quality: QualitySpec | None = None
    files: dict[str, FileSpec] = Field(min_length=1)
    default_file: str
    operating_point: OperatingPoint
    metrics: dict[str, Any] = Field(default_factory=dict)
    parity: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @field_validator("schema_")
    @classmethod
    def _known_schema(cls, value: int) -> int:
        if value != SCHEMA:
            advice = "update the agent" if value > SCHEMA else "export the model again"
            raise ValueError(f"found {value}, this agent reads {SCHEMA}: {advice}")
        return value

    @model_validator(mode="after")
    def _default_exists(self) -> Manifest:
        if self.default_file not in self.files:
            raise ValueError(f"default_file: found {self.default_file!r}, allowed are {', '.join(self.files)}")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose chosen file has been verified: hash, readable by the runtime, input and outputs as promised."""

    folder: Path
    manifest: Manifest
    file: str
    model_path: Path
    sha256: str
    channels: int

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def tile_px(self) -> int:
        """Side of the model's input (px)."""
        return self.manifest.input.tile_px

    @property
    def threshold_p(self) -> float:
        """Probability from which a tile is called a crack."""
        return self.manifest.operating_point.threshold_p

    @property
    def temperature(self) -> float:
        """Divisor of the logit before the bias is added."""
        return self.manifest.operating_point.temperature

    @property
    def bias(self) -> float:
        """Added to the logit after the division."""
        return self.manifest.operating_point.bias

    @property
    def gsd(self) -> GsdBand:
        """The band of ground sampling distances the model is made for."""
        return self.manifest.gsd_mm_px

    @property
    def quality(self) -> QualitySpec | None:
        """Which pictures the model cannot judge; None where nobody measured it."""
        return self.manifest.quality


def load_bundle(name_or_path: str | Path, *, file: str | None = None) -> Bundle:
    """Finds a bundle, and verifies everything that can be verified before the first picture.

    Args:
        name_or_path: the path of a bundle's folder, or of its manifest or one of its ONNX files (then that one is
            used); if no such path exists, the name of a shipped model.
        file: key of the file to use (`fp32`, `int8`); None takes the manifest's default.

    Returns:
        The bundle with the chosen file.

    Raises:
        ModelRejected: no such bundle, or it is incomplete, damaged, newer than this program, or not what it says;
            one line that names the file, what was found and what is expected.
    """
    folder, named = _locate(name_or_path)
    manifest = _read_manifest(folder / MANIFEST)
    key = file or _key_of(named, manifest) or manifest.default_file
    if key not in manifest.files:
        raise ModelRejected(f"{folder / MANIFEST}: found no file {key!r}, allowed are {', '.join(manifest.files)}")
    spec = manifest.files[key]
    model_path = folder / spec.path
    _verify_hash(model_path, spec)
    bundle = Bundle(folder, manifest, key, model_path, spec.sha256, spec.channels)
    _verify_model(bundle)
    return bundle


def open_session(model_path: Path, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
    """Opens an ONNX file with the runtime.

    Raises:
        ModelRejected: the runtime cannot read or prepare the file.
    """
    try:
        return ort.InferenceSession(model_path, options, providers=providers)
    # The runtime's exceptions have no common base below Exception.
    except Exception as error:
        reason = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
        raise ModelRejected(
            f"{model_path}: the runtime cannot open it ({reason[:160]}); copy the bundle again"
        ) from error


def _locate(name_or_path: str | Path) -> tuple[Path, Path | None]:
    """The bundle's folder, and the ONNX file if one was named."""
    path = Path(name_or_path)
    if path.is_dir():
        return path, None
    if path.is_file():
        if path.name == MANIFEST:
            return path.parent, None
        if path.suffix == ".onnx":
            return path.parent, path
        raise ModelRejected(f"{path}: not a model bundle, expected is its folder, {MANIFEST} or a .onnx file")
    names = resources.model_names()
    if str(name_or_path) in names:
        return resources.models_dir() / name_or_path, None
    known = ", ".join(names) or "none"
    try:
        where = str(resources.models_dir())
    except ConfigError:
        where = "this installation"
    raise ModelRejected(f"model {name_or_path}: no such folder or file, and no such name in {where} (there: {known})")


def _read_manifest(path: Path) -> Manifest:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelRejected(f"{path}: cannot be read ({error.strerror or error}), every bundle needs one") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        # The schema explains all other differences, so it speaks first.
        problems = sorted(error.errors(), key=lambda problem: problem["loc"] != ("schema",))
        first = problems[0]
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ModelRejected(f"{path}: {key + ': ' if key else ''}{message}{more}") from error


def _key_of(named: Path | None, manifest: Manifest) -> str | None:
    if named is None:
        return None
    for key, spec in manifest.files.items():
        if spec.path == named.name:
            return key
    known = ", ".join(spec.path for spec in manifest.files.values())
    raise ModelRejected(f"{named}: not in the bundle's {MANIFEST}, expected is one of {known}")


def _verify_hash(path: Path, spec: FileSpec) -> None:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelRejected(f"{path}: cannot be read ({error.strerror or error}), the manifest names it") from error
    if found != spec.sha256:
        size = path.stat().st_size
        raise ModelRejected(
            f"{path}: wrong hash, found sha256 {found[:12]}… ({size} bytes), "
            f"expected {spec.sha256[:12]}… ({spec.bytes} bytes); copy the bundle again"
        )


def _verify_model(bundle: Bundle) -> None:
    # Optimising is left to the session that will run: here only names, shapes and metadata are read.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = open_session(bundle.model_path, options, ["CPUExecutionProvider"])
    _verify_input(bundle, session)
    _verify_outputs(bundle, session)
    _verify_metadata(bundle, session.get_modelmeta().custom_metadata_map)


def _verify_input(bundle: Bundle, session: ort.InferenceSession) -> None:
    path, spec = bundle.model_path, bundle.manifest.input
    inputs = {value.name: value for value in session.get_inputs()}
    if set(inputs) != {spec.name}:
        raise ModelRejected(f"{path}: inputs found {', '.join(inputs) or 'none'}, expected {spec.name} alone")
    found = inputs[spec.name]
    if found.type != "tensor(uint8)":
        raise ModelRejected(f"{path}: input {spec.name} found {found.type}, expected tensor(uint8)")
    expected = [spec.tile_px, spec.tile_px, bundle.channels]
    if len(found.shape) != 4 or list(found.shape[1:]) != expected or isinstance(found.shape[0], int):
        wanted = f"[N, {spec.tile_px}, {spec.tile_px}, {bundle.channels}] with a free N"
        raise ModelRejected(f"{path}: input {spec.name} found shape {found.shape}, expected {wanted}")


def _verify_outputs(bundle: Bundle, session: ort.InferenceSession) -> None:
    path, spec = bundle.model_path, bundle.manifest.outputs
    outputs = {value.name: value for value in session.get_outputs()}
    for name, rank in ((spec.logit, 1), (spec.cells, 3)):
        if name not in outputs:
            raise ModelRejected(f"{path}: outputs found {', '.join(outputs) or 'none'}, expected {name} among them")
        found = outputs[name]
        # A graph may leave the rank of its outputs open; what comes out is checked again when it runs.
        if found.type != "tensor(float)" or (found.shape and len(found.shape) != rank):
            raise ModelRejected(
                f"{path}: output {name} found {found.type} of shape {found.shape}, "
                f"expected tensor(float) with {rank} {'axis' if rank == 1 else 'axes'}"
            )


def _verify_metadata(bundle: Bundle, metadata: Mapping[str, str]) -> None:
    path, point = bundle.model_path, bundle.manifest.operating_point
    expected: dict[str, str | float] = {
        "crackscout.schema": float(SCHEMA),
        "crackscout.name": bundle.manifest.name,
        "crackscout.threshold_p": point.threshold_p,
        "crackscout.temperature": point.temperature,
        "crackscout.bias": point.bias,
    }
    for key, value in expected.items():
        found = metadata.get(key)
        if found is None:
            raise ModelRejected(f"{path}: metadata {key} is missing, expected {value} as in {MANIFEST}")
        if not _same(found, value):
            raise ModelRejected(f"{path}: metadata {key} found {found}, expected {value} as in {MANIFEST}")


def _same(found: str, expected: str | float) -> bool:
    if isinstance(expected, str):
        return found == expected
    try:
        return math.isclose(float(found), expected, rel_tol=_METADATA_TOLERANCE, abs_tol=_METADATA_TOLERANCE)
    except ValueError:
        return False
