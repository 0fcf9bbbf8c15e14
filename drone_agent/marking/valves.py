"""How is a valve moved, told in plain data: what the dead-man process needs and nothing else.

Only the standard library here: the dead-man and the switch-off helper must start fast and depend on little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from drone_agent.errors import SprayerError

if TYPE_CHECKING:
    from drone_agent.marking.settings import MarkingSettings

Spec = Mapping[str, Any]


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
        connection: the vehicle's MAVLink connection, for `mavlink` without a `guard_connection`: only to switch off after the
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
    # each backend is imported only where it is used: gpiozero alone costs half a second on a Pi
    if kind == "trace":
        from drone_agent.marking.trace import TraceValve  # noqa: PLC0415

        return TraceValve(spec)
    if kind == "gpio":
        from drone_agent.marking.gpio import GpiozeroValve  # noqa: PLC0415

        return GpiozeroValve(spec)
    if kind == "gpiod":
        from drone_agent.marking.gpiod import GpiodValve  # noqa: PLC0415

        return GpiodValve(spec)
    if kind == "mavlink":
        from drone_agent.marking.mavlink_valve import MavlinkValve  # noqa: PLC0415

        return MavlinkValve(spec)
    raise SprayerError(f"marking.sprayer: {kind!r} has no valve; allowed are trace, gpio, gpiod, mavlink")
