"""Does the valve open and close, and how long does it take?

Priming on the ground, and the latency that `lead` needs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from drone_agent.errors import ConfigError, SprayerError
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.mavlink import CommandLink
from drone_agent.marking.settings import MarkingSettings
from drone_agent.marking.sprayer import SupervisedSprayer
from drone_agent.ports import Clock
from drone_agent.values import Place, SprayOrder, SprayResult, VehicleState

MAX_PULSES = 50

_NOTICE_NS = 300_000_000
_PATIENCE_NS = 5_000_000_000
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Pulse:
    """One pulse as it was measured; None where nothing can tell.

    `open_latency_ms` and `close_latency_ms` run from the commanded instant to the sense input, or to the read-back of
    the output where there is no sense input.
    """

    executed: bool
    evidence: str
    detail: str
    opened_at_ns: int | None
    closed_at_ns: int | None
    measured_ms: float | None
    open_latency_ms: float | None
    close_latency_ms: float | None


@dataclass(frozen=True, slots=True)
class SprayTestResult:
    """What a spray test found; `aborted` says why it ended early."""

    kind: str
    open_ms: int
    pulses: tuple[Pulse, ...]
    aborted: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every pulse was executed, on evidence."""
        return self.aborted is None and bool(self.pulses) and all(pulse.executed for pulse in self.pulses)

    @property
    def open_latency_ms(self) -> float | None:
        """Median latency; for `marking.lead.valve_latency_ms`."""
        values = [pulse.open_latency_ms for pulse in self.pulses if pulse.open_latency_ms is not None]
        return statistics.median(values) if values else None

    @property
    def open_latency_sigma_ms(self) -> float | None:
        """Standard deviation of the latency; for `marking.lead.valve_latency_sigma_ms`.

        None for fewer than 3 pulses.
        """
        values = [pulse.open_latency_ms for pulse in self.pulses if pulse.open_latency_ms is not None]
        return statistics.stdev(values) if len(values) >= 3 else None


def spray_test(
    settings: MarkingSettings,
    clock: Clock,
    *,
    pulses: int,
    open_ms: int,
    confirm: Callable[[str], bool],
    say: Callable[[str], None],
    vehicle: Callable[[], VehicleState] | None = None,
    no_vehicle: bool = False,
    link: CommandLink | None = None,
    build: Callable[[MarkingSettings, Clock, CommandLink | None], SupervisedSprayer] = build_sprayer,
) -> SprayTestResult:
    """Opens the valve a few times, on the ground, with the vehicle disarmed.

    Args:
        settings: the marking block; its interlocks do not apply, the dead-man's limits and the cool-down do.
        clock: the machine's clock.
        pulses: how many, 1 to 50.
        open_ms: length of each, at most `guard.max_open_ms`.
        confirm: asked once, before anything moves; False ends the test.
        say: told one line for each pulse.
        vehicle: the autopilot's present state; asked before every pulse.
        no_vehicle: True says that there is no autopilot to ask; only for a valve that is not at one.
        link: the connection to the autopilot, for `mavlink`.
        build: makes the sprayer.

    Returns:
        The pulses with their times.

    Raises:
        ConfigError: count or length out of bounds.
        SprayerError: the vehicle is armed or its state is unknown, or the valve cannot be set up.
    """
    if not 1 <= pulses <= MAX_PULSES:
        raise ConfigError(f"--pulses: {pulses}, allowed are 1 to {MAX_PULSES}")
    if not 1 <= open_ms <= settings.guard.max_open_ms:
        raise ConfigError(
            f"--open-ms: {open_ms}, allowed are 1 to {settings.guard.max_open_ms} (marking.guard.max_open_ms)"
        )
    if no_vehicle and settings.sprayer == "mavlink":
        raise SprayerError(
            "--no-vehicle: the valve is at the autopilot (marking.sprayer: mavlink), its state must be known"
        )
    _refuse_unless_disarmed(settings, vehicle, no_vehicle=no_vehicle)
    total_ms = pulses * open_ms
    if not confirm(f"Open the valve {pulses} times for {open_ms} ms ({total_ms} ms of paint; {settings.sprayer})?"):
        return SprayTestResult(settings.sprayer, open_ms, (), aborted="not confirmed")
    done: list[Pulse] = []
    sprayer = build(settings, clock, link)
    try:
        for number in range(1, pulses + 1):
            try:
                _refuse_unless_disarmed(settings, vehicle, no_vehicle=no_vehicle)
            except SprayerError as error:
                sprayer.off("spray test ended")
                return SprayTestResult(settings.sprayer, open_ms, tuple(done), aborted=str(error))
            pulse = _pulse(sprayer, clock, number, open_ms, settings)
            done.append(pulse)
            say(_line(number, pulse))
            if sprayer.fault is not None:
                return SprayTestResult(settings.sprayer, open_ms, tuple(done), aborted=sprayer.fault)
            if number < pulses:
                _pause(sprayer, clock, settings.budget.cooldown_ms * 1_000_000)
    finally:
        sprayer.close()
    return SprayTestResult(settings.sprayer, open_ms, tuple(done))


def _refuse_unless_disarmed(
    settings: MarkingSettings, vehicle: Callable[[], VehicleState] | None, *, no_vehicle: bool
) -> None:
    if vehicle is None:
        if not no_vehicle:
            raise SprayerError("no vehicle connection is configured; say --no-vehicle if there is no autopilot to ask")
        return
    state = vehicle()
    age_ns = state.heartbeat_age_ns
    fresh = age_ns is not None and age_ns <= settings.limits.heartbeat_max_age_ms * 1_000_000
    if not fresh or state.armed is None:
        raise SprayerError("whether the vehicle is armed is not known (no fresh heartbeat): no spray test")
    if state.armed:
        raise SprayerError("the vehicle is armed: no spray test")


def _pulse(sprayer: SupervisedSprayer, clock: Clock, number: int, open_ms: int, settings: MarkingSettings) -> Pulse:
    now_ns = clock.now_mono_ns()
    order = SprayOrder(
        order_id=number,
        sighting_id=0,
        t_mono_ns=now_ns,
        open_at_ns=now_ns + min(_NOTICE_NS, round(settings.lead.max_ahead_ms * 1e6)),
        open_ms=open_ms,
        impact=Place("spray-test", 0.0, 0.0, (0, 0)),
        impact_sigma_m=0.0,
    )
    result = sprayer.spray(order)
    end_ns = order.open_at_ns + open_ms * 1_000_000 + _PATIENCE_NS
    while result is None and clock.now_mono_ns() < end_ns:
        clock.sleep(_POLL_S)
        result = next((r for r in sprayer.results() if r.order_id == number), None)
    if result is None:
        sprayer.off("no result")
        result = SprayResult(number, executed=False, evidence="none", detail="no result")
    return _measure(order, result, sprayer.sensed(number))


def _measure(order: SprayOrder, result: SprayResult, sensed: tuple[int | None, int | None]) -> Pulse:
    opened = sensed[0] if sensed[0] is not None else result.opened_at_ns
    closed = sensed[1] if sensed[1] is not None else result.closed_at_ns
    close_at_ns = order.open_at_ns + order.open_ms * 1_000_000
    return Pulse(
        executed=result.executed,
        evidence=result.evidence,
        detail=result.detail,
        opened_at_ns=result.opened_at_ns,
        closed_at_ns=result.closed_at_ns,
        measured_ms=_ms(opened, closed),
        open_latency_ms=_ms(order.open_at_ns, opened),
        close_latency_ms=_ms(close_at_ns, closed),
    )


def _ms(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e6


def _line(number: int, pulse: Pulse) -> str:
    if not pulse.executed:
        return f"pulse {number}: NOT EXECUTED ({pulse.evidence}): {pulse.detail}"
    parts = [f"pulse {number}: executed ({pulse.evidence})"]
    for name, value in (
        ("open after", pulse.open_latency_ms),
        ("open for", pulse.measured_ms),
        ("closed after", pulse.close_latency_ms),
    ):
        if value is not None:
            parts.append(f"{name} {value:.1f} ms")
    return ", ".join(parts)


def _pause(sprayer: SupervisedSprayer, clock: Clock, pause_ns: int) -> None:
    end_ns = clock.now_mono_ns() + pause_ns
    while clock.now_mono_ns() < end_ns:
        clock.sleep(_POLL_S)
        sprayer.results()
