"""What can be set, in which unit, within which range, and why? Writes the commented YAML and the reference page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from drone_agent.config import AgentConfig
from drone_agent.settings import Settings

_WIDTH = 110
_YAML_HEAD = """\
# CrackScout: every key with its default. Made from the program's own settings by `drone-agent config --reference`;
# put what differs into a file of your own (drone-agent ... --config FILE) or use a profile (--profile NAME).
"""


def yaml_reference() -> str:
    """The whole configuration with its defaults as YAML; a comment above each key gives unit, range and reason."""
    return _YAML_HEAD + "\n".join(_yaml_block(AgentConfig(), 0)) + "\n"


def markdown_reference() -> str:
    """The reference page: one table for each block."""
    lines = [
        "# Configuration",
        "",
        "Made by `drone-agent config --markdown`; do not edit. Layers, later ones win: `config/agent.yaml`,",
        "`--profile`, `--config`, `--set key=value`. An unknown key, a value out of range or a key given twice",
        "stops the program with file, line and key.",
        "",
    ]
    for name, field in AgentConfig.model_fields.items():
        lines += [
            f"## `{name}`",
            "",
            field.description or "",
            "",
            "| key | default | allowed | meaning |",
            "|---|---|---|---|",
        ]
        lines += list(_markdown_rows(getattr(AgentConfig(), name), name))
        lines.append("")
    return "\n".join(lines)


def _yaml_block(settings: Settings, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        yield ""
        text = field.description or ""
        allowed = allowed_text(field)
        if allowed and not isinstance(value, Settings):
            text = f"{text} [{allowed}]"
        yield from textwrap.wrap(text, _WIDTH - len(pad), initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
        if isinstance(value, Settings):
            yield f"{pad}{name}:"
            yield from _yaml_block(value, depth + 1)
        else:
            yield f"{pad}{name}: {_yaml_value(settings, name)}"


def _yaml_value(settings: Settings, name: str) -> str:
    value = settings.model_dump(mode="json")[name]
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _markdown_rows(settings: Settings, prefix: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        key = f"{prefix}.{name}"
        if isinstance(value, Settings):
            yield from _markdown_rows(value, key)
        else:
            default = json.dumps(settings.model_dump(mode="json")[name])
            text = (field.description or "").replace("|", "\\|")
            yield f"| `{key}` | `{default}` | {allowed_text(field).replace('|', chr(92) + '|')} | {text} |"


def allowed_text(field: FieldInfo) -> str:
    """The range or choices of a field in words; empty where anything of its type goes."""
    bounds = {}
    for item in field.metadata:
        for mark, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if hasattr(item, mark):
                bounds[sign] = getattr(item, mark)
    if bounds:
        return ", ".join(f"{sign} {value:g}" for sign, value in bounds.items())
    choices = _choices(field.annotation)
    return " | ".join(choices)


def _choices(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    members = getattr(annotation, "__members__", None)
    if members:
        return [str(member.value) for member in members.values()]
    args = getattr(annotation, "__args__", ())
    if args and all(isinstance(arg, str) for arg in args):
        return [str(arg) for arg in args]
    return []
