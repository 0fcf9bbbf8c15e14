"""How is the agent set up? Layers of YAML become one frozen `AgentConfig`; errors name file, line and key."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from drone_agent.camera.redact import redact
from drone_agent.camera.settings import CameraSettings
from drone_agent.errors import ConfigError
from drone_agent.flightlog.settings import FlightLogSettings
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.marking.settings import MarkingSettings
from drone_agent.resources import config_dir
from drone_agent.settings import Settings
from drone_agent.vehicle.settings import SurfaceSettings, VehicleSettings
from drone_agent.vision.settings import VisionSettings

KeyPath = tuple[str | int, ...]


class AgentConfig(Settings):
    """Everything that can be set, one block for each concern."""

    camera: CameraSettings = Field(default_factory=CameraSettings, description="Where frames come from.")
    vision: VisionSettings = Field(default_factory=VisionSettings, description="Model, tiles and picture quality.")
    vehicle: VehicleSettings = Field(default_factory=VehicleSettings, description="Telemetry, camera mount and limits.")
    surface: SurfaceSettings = Field(default_factory=SurfaceSettings, description="The wall that is inspected.")
    inspection: InspectionSettings = Field(
        default_factory=InspectionSettings, description="From tile scores to evidence on the wall."
    )
    marking: MarkingSettings = Field(default_factory=MarkingSettings, description="Whether and how paint is released.")
    flightlog: FlightLogSettings = Field(default_factory=FlightLogSettings, description="What is recorded.")


@dataclass(frozen=True, slots=True)
class Layer:
    """One YAML file as data, with the line of every key; or one override, which has no lines.

    `name` leads to the place of a mistake, `label` is what the flight log keeps: no folders of this machine.
    """

    name: str
    data: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    label: str


def read_layer(path: Path) -> Layer:
    """Reads one YAML file with the safe loader.

    Raises:
        ConfigError: file missing or unreadable, not YAML, a key twice, or not a mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if node is None:
        return Layer(str(path), {}, {}, path.name)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: found {type(data).__name__}, allowed is a mapping of keys to values")
    return Layer(str(path), data, dict(_lines(node, (), path)), path.name)


def _lines(node: yaml.Node, at: KeyPath, path: Path) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise ConfigError(f"{path}:{line}: {dotted((*at, name))}: found twice, first in line {seen[name]}")
            seen[name] = line
            yield (*at, name), line
            yield from _lines(value, (*at, name), path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index), path)


def dotted(key: KeyPath) -> str:
    """`("a", "b", 0)` as `a.b[0]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def parse_overrides(items: Sequence[str]) -> list[Layer]:
    """`key.sub=value` from the command line, each value read as YAML.

    Raises:
        ConfigError: no `=`, an empty key, or a value that is not YAML.
    """
    layers = []
    for item in items:
        key, equals, value = item.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise ConfigError(f"--set {item}: found no key=value, allowed is for example surface.standoff_m=3.0")
        try:
            parsed: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: the value is not valid YAML") from error
        for part in reversed(parts):
            parsed = {part: parsed}
        shown = f"--set {redact(item)}"
        layers.append(Layer(shown, parsed, {}, shown))
    return layers


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, everything else replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return result


def merged(config: AgentConfig, over: Mapping[str, Any]) -> AgentConfig:
    """`config` with some keys replaced, checked again."""
    return AgentConfig.model_validate(merge(config.model_dump(), over))


def find_profile(name: str) -> Path:
    """The YAML file of a profile, by name (shipped) or by path.

    Raises:
        ConfigError: neither exists; the message lists the shipped names.
    """
    as_path = Path(name)
    if as_path.suffix in {".yaml", ".yml"} or as_path.is_file():
        return as_path
    folder = config_dir() / "profiles"
    shipped = folder / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigError(f"--profile {name}: found no such file, allowed are {names} or the path of a YAML file")


def load_config(
    profile: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[AgentConfig, list[str]]:
    """The configuration from its layers: shipped `agent.yaml`, then profile, then `file`, then `--set` overrides.

    Returns:
        The configuration and the labels of the layers that made it.

    Raises:
        ConfigError: one line for each mistake: file, line, key, what was found and what is allowed.
    """
    paths = [config_dir() / "agent.yaml"]
    if profile is not None:
        paths.append(find_profile(profile))
    if file is not None:
        paths.append(file)
    layers = [*(read_layer(path) for path in paths), *parse_overrides(overrides)]
    data: dict[str, Any] = {}
    for layer in layers:
        data = merge(data, layer.data)
    try:
        return AgentConfig.model_validate(data), [layer.label for layer in layers]
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(item), layers) for item in error.errors())) from error


def _explain(item: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    # Pydantic puts tags of unions into the path; only keys that stand in a layer are of use to the reader.
    key: KeyPath = tuple(item["loc"])
    where, known = _where(key, layers)
    found = item.get("input")
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = f"unknown key; allowed are {', '.join(_allowed_keys(key[:-1]))}"
        return f"{where}: {dotted(key)}: {message}"
    if item["type"] == "missing":
        return f"{where}: {dotted(key)}: missing"
    if item["type"] in {"model_type", "model_attributes_type"}:
        message = f"allowed is a block with the keys {', '.join(_allowed_keys(key))}"
    shown = f"found {found!r}, " if not isinstance(found, dict | list) and known else ""
    return f"{where}: {dotted(key)}: {shown}{message[0].lower() + message[1:] if message else 'not allowed'}"


def _where(key: KeyPath, layers: Sequence[Layer]) -> tuple[str, bool]:
    for end in range(len(key), 0, -1):
        for layer in reversed(layers):
            if key[:end] in layer.lines:
                return f"{layer.name}:{layer.lines[key[:end]]}", end == len(key)
            if not layer.lines and _holds(layer.data, key[:end]):
                return layer.name, end == len(key)
    return layers[-1].name, False


def _holds(data: object, key: KeyPath) -> bool:
    for part in key:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        else:
            return False
    return True


def _allowed_keys(at: KeyPath) -> list[str]:
    model: Any = AgentConfig
    for part in at:
        if isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        model = _model_of(field.annotation) if field else None
    return sorted(getattr(model, "model_fields", {})) or ["none here"]


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
