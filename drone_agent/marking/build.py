"""Which sprayer does the configuration ask for?"""

from __future__ import annotations

from drone_agent.errors import ConfigError
from drone_agent.marking.dry_run import DryRunSprayer
from drone_agent.marking.guard_client import GuardClient, spawn_guard
from drone_agent.marking.guarded import GuardedSprayer
from drone_agent.marking.mavlink import CommandLink, MavlinkSprayer
from drone_agent.marking.off import remember
from drone_agent.marking.settings import MarkingSettings
from drone_agent.marking.sprayer import SupervisedSprayer
from drone_agent.marking.valves import valve_spec
from drone_agent.ports import Clock


def build_sprayer(settings: MarkingSettings, clock: Clock, link: CommandLink | None = None) -> SupervisedSprayer:
    """Builds the configured sprayer, its dead-man process included; the valve is closed when this returns.

    Args:
        settings: the marking block of the configuration.
        clock: the agent's clock.
        link: the connection to the autopilot; needed for `mavlink`.

    Raises:
        SprayerError: the pin, the line, the dead-man or the autopilot's output cannot be set up.
        ConfigError: `mavlink` without a vehicle connection.
    """
    if settings.sprayer == "dry_run":
        return DryRunSprayer(clock, settings.guard.max_open_ms)
    remember(valve_spec(settings, None if link is None else link.connection))
    if settings.sprayer == "mavlink":
        if link is None:
            raise ConfigError("marking.sprayer: mavlink needs a live vehicle connection (vehicle.link.connection)")
        guard = None if settings.mavlink.method == "repeat_relay" else _guard(settings, clock)
        return MavlinkSprayer(
            settings.mavlink, clock, link, guard, max_open_ms=settings.guard.max_open_ms, late_ms=settings.guard.late_ms
        )
    return GuardedSprayer(_guard(settings, clock), kind=settings.sprayer, paints=settings.paints)


def _guard(settings: MarkingSettings, clock: Clock) -> GuardClient:
    return GuardClient(spawn_guard(settings), settings.guard, clock, valve=valve_spec(settings))
