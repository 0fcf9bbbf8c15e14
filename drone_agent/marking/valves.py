"""How is a valve moved, told in plain data: what the dead-man process needs and nothing else.

Only the standard library here: the dead-man and the switch-off helper must start fast and depend on little.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from drone_agent.errors import SprayerError

if TYPE_CHECKING:
    from drone_agent.marking.settings import MarkingSettings

Spec = Mapping[str, Any]

# Imported only where it is used: gpiozero alone costs half a second on a Pi.
_VALVES = {
    "trace": ("drone_agent.marking.trace", "TraceValve"),
    "gpio": ("drone_agent.marking.gpio", "GpiozeroValve"),
    "gpiod": ("drone_agent.marking.gpiod", "GpiodValve"),
    "mavlink": ("drone_agent.marking.mavlink_valve", "MavlinkValve"),
}


class Valve(Protocol):
    """One valve. Constructing it closes it before the output becomes one."""

    def set(self, *, is_open: bool) -> None:
        """Opens or closes. Raises SprayerError if the hardware does not take it."""

    def level(self) -> bool | None:
        """Reads the output back: open, closed, or None where nobody can tell."""

    def sensed(self) -> bool | None:
        """What the sense input says of the valve itself; None without one."""

    def idle(self) -> None:
        """Called ten times a second, for what a connection needs to stay alive."""

    def close(self) -> None:
        """Closes the valve and releases the hardware; may be called twice."""


def valve_spec(settings: MarkingSettings, connection: str | None = None) -> dict[str, Any]:
    """The valve of a configuration as JSON values.

    Args:
        settings: the marking block.
        connection: the vehicle's MAVLink connection, for `mavlink` without a `guard_connection`: only to switch off
            after the
            agent has ended.
    """
    block = getattr(settings, settings.sprayer, None)
    spec: dict[str, Any] = {"kind": settings.sprayer} | ({} if block is None else block.model_dump(mode="json"))
    if settings.sprayer == "mavlink":
        spec["connection"] = settings.mavlink.guard_connection or connection
    return spec


def open_valve(spec: Spec) -> Valve:
    """Opens the hardware of `spec` (see `valve_spec`); the valve is closed when this returns.

    Raises:
        SprayerError: unknown kind, or the hardware cannot be set up.
    """
    kind = spec.get("kind")
    if kind not in _VALVES:
        raise SprayerError(f"marking.sprayer: {kind!r} has no valve; allowed are {', '.join(_VALVES)}")
    module, name = _VALVES[kind]
    valve: Valve = getattr(importlib.import_module(module), name)(spec)
    return valve
