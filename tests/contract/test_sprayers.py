"""What every sprayer must do, whatever moves its valve."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from drone_agent.clock import SystemClock
from drone_agent.errors import SprayerError
from drone_agent.marking.build import build_sprayer
from drone_agent.marking.gpio import GpiozeroValve
from drone_agent.marking.gpiod import GpiodValve
from drone_agent.marking.guard import Limits
from drone_agent.marking.guard_client import GuardClient
from drone_agent.marking.guarded import GuardedSprayer
from drone_agent.marking.settings import (
    BudgetSettings,
    GpiodSettings,
    GpioSettings,
    GuardSettings,
    MarkingSettings,
    MavlinkSprayerSettings,
    TraceSettings,
)
from drone_agent.marking.sprayer import SupervisedSprayer
from drone_agent.values import Place, SprayOrder, SprayResult
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.settings import VehicleSettings
from tests.fakes.autopilot import FakeAutopilot
from tests.fakes.gpiod_chip import FakeGpiod
from tests.fakes.valves import ThreadGuard

MS = 1_000_000
CLOCK = SystemClock()

# Wide, because the machine that runs the tests may be busy: the exact times are tested on a clock that the test turns.
GUARD = GuardSettings(late_ms=500, heartbeat_timeout_ms=250, stall_timeout_ms=10_000, max_open_ms=600)
LIMITS = Limits(max_open_ms=600, cooldown_ms=100, heartbeat_timeout_ms=250, late_ms=500, max_ahead_ms=5000)
PATIENCE_S = 20.0


@dataclass
class Rig:
    """A sprayer, and what really happened at its valve."""

    sprayer: SupervisedSprayer
    is_open: Callable[[], bool]
    openings: Callable[[], int]
    evidence: str

    def order(self, number: int = 1, ahead_ms: int = 150, ms: int = 120) -> SprayOrder:
        now = CLOCK.now_mono_ns()
        return SprayOrder(number, 5, now, now + ahead_ms * MS, ms, Place("f", 1.0, 2.0, (20, 40)), 0.05)

    def wait(self, number: int = 1) -> SprayResult:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            for result in self.sprayer.results():
                if result.order_id == number:
                    return result
            time.sleep(0.01)
        raise AssertionError("no result")

    def let_it_be_seen(self) -> None:
        """The autopilot reports its outputs twenty times a second; what is shorter has no evidence."""
        end_s = time.monotonic() + 0.15
        self.wait_until(lambda: time.monotonic() > end_s)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, "never happened"
            self.sprayer.results()
            time.sleep(0.002)


def settings(**keys: Any) -> MarkingSettings:
    return MarkingSettings(guard=GUARD, budget=BudgetSettings(open_ms=100, cooldown_ms=100), **keys)


def dry_run(_: ExitStack, __: Path) -> Rig:
    sprayer = build_sprayer(settings(), CLOCK)
    return Rig(sprayer, lambda: False, lambda: 0, "dry_run")


def trace(_: ExitStack, folder: Path) -> Rig:
    path = folder / "edges.txt"
    sprayer = build_sprayer(settings(sprayer="trace", trace=TraceSettings(path=str(path))), CLOCK)

    def levels() -> list[str]:
        return [line.split()[1] for line in path.read_text().splitlines()]

    return Rig(sprayer, lambda: levels()[-1] == "1", lambda: levels().count("1"), "read_back")


def gpio_process(_: ExitStack, __: Path) -> Rig:
    """The whole chain into the child process; its mock pin can be seen only through what it reports."""
    mock = GpioSettings(pin=17, pin_factory="mock")
    sprayer = build_sprayer(settings(sprayer="gpio", gpio=mock), CLOCK)
    return Rig(sprayer, lambda: False, lambda: -1, "read_back")


def gpio(stack: ExitStack, _: Path) -> Rig:
    factory = MockFactory()
    stack.callback(factory.reset)
    valve = GpiozeroValve(GpioSettings(pin=17, pin_factory="mock").model_dump(), factory)
    sprayer = GuardedSprayer(GuardClient(ThreadGuard(valve, LIMITS), GUARD, CLOCK), "gpio", paints=False)
    pin = factory.pin(17)
    return Rig(sprayer, lambda: bool(pin.state), lambda: sum(bool(s.state) for s in pin.states), "read_back")


def gpiod(_: ExitStack, __: Path) -> Rig:
    chip = FakeGpiod()
    valve = GpiodValve(GpiodSettings(line=17).model_dump(), chip)
    sprayer = GuardedSprayer(GuardClient(ThreadGuard(valve, LIMITS), GUARD, CLOCK), "gpiod", paints=True)
    line = chip.lines[17]
    return Rig(sprayer, lambda: line.high, lambda: sum(line.history), "read_back")


def mavlink(method: str) -> Callable[[ExitStack, Path], Rig]:
    def make(stack: ExitStack, _: Path) -> Rig:
        autopilot = stack.enter_context(FakeAutopilot())
        autopilot.sprayer_enabled = True
        link = MavlinkLink(LinkSettings(connection=autopilot.connection), VehicleSettings(), CLOCK)
        stack.callback(link.close)
        link.wait_for_autopilot(10)
        guard = None if method == "repeat_relay" else autopilot.connection
        block = MavlinkSprayerSettings(
            method=method, guard_connection=guard, evidence_timeout_ms=1500, ack_timeout_ms=3000
        )
        sprayer = build_sprayer(settings(sprayer="mavlink", mavlink=block), CLOCK, link)
        servo = method in {"set_servo", "do_sprayer"}
        heard = threading.Event()
        stack.callback(link.subscribe("SERVO_OUTPUT_RAW" if servo else "RELAY_STATUS", lambda _t, _m: heard.set()))
        assert heard.wait(10)
        openings = {"n": 0, "was": False}

        def is_open() -> bool:
            state = autopilot.servos[8] > 1500 if servo else autopilot.relay_is_on(0)
            openings["n"] += state and not openings["was"]
            openings["was"] = state
            return state

        def count() -> int:
            return openings["n"] if servo else sum(on & 1 for _, on in autopilot.relay_edges)

        return Rig(sprayer, is_open, count, "servo_output" if servo else "relay_status")

    return make


MAKERS: dict[str, Callable[[ExitStack, Path], Rig]] = {
    "dry_run": dry_run,
    "trace": trace,
    "gpio-process": gpio_process,
    "gpio": gpio,
    "gpiod": gpiod,
    "mavlink-repeat_relay": mavlink("repeat_relay"),
    "mavlink-set_relay": mavlink("set_relay"),
    "mavlink-set_servo": mavlink("set_servo"),
    "mavlink-do_sprayer": mavlink("do_sprayer"),
}
VISIBLE = [name for name in MAKERS if name not in {"dry_run", "gpio-process"}]


@pytest.fixture(params=MAKERS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from _rig(request.param, tmp_path)


@pytest.fixture(params=VISIBLE)
def visible(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from _rig(request.param, tmp_path)


def _rig(name: str, folder: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        made = MAKERS[name](stack, folder)
        stack.callback(made.sprayer.close)
        yield made


def test_it_starts_closed_and_without_a_fault(rig: Rig) -> None:
    assert not rig.is_open()
    assert rig.sprayer.fault is None
    assert rig.sprayer.results() == []


def test_an_order_is_executed_once_on_evidence_and_ends_by_itself(rig: Rig) -> None:
    order = rig.order(ms=120)
    assert rig.sprayer.spray(order) is None
    opened_early = rig.is_open()
    result = rig.wait()
    assert not opened_early
    assert result.executed
    assert result.evidence == rig.evidence
    assert result.opened_at_ns is not None
    assert result.closed_at_ns is not None
    assert result.opened_at_ns >= order.open_at_ns
    # evidence by telegram is as coarse as its rate
    assert (result.closed_at_ns - result.opened_at_ns) / MS == pytest.approx(120, abs=400)
    assert not rig.is_open()


def test_one_order_gives_one_pulse(visible: Rig) -> None:
    visible.sprayer.spray(visible.order(ms=200))
    visible.wait_until(visible.is_open)
    visible.wait()
    assert visible.openings() == 1
    assert not visible.is_open()


def test_off_closes_an_open_valve_long_before_the_order_would(visible: Rig) -> None:
    order = visible.order(ms=600)
    visible.sprayer.spray(order)
    visible.wait_until(visible.is_open)
    visible.let_it_be_seen()
    visible.sprayer.off("mode change")
    visible.wait_until(lambda: not visible.is_open())
    result = visible.wait()
    assert result.executed
    assert visible.openings() == 1


def test_off_before_the_opening_cancels_the_order(rig: Rig) -> None:
    rig.sprayer.spray(rig.order(ahead_ms=1500))
    rig.sprayer.off("disarm")
    result = rig.wait()
    assert not result.executed
    assert result.evidence == "cancelled"
    assert result.opened_at_ns is None
    assert rig.openings() <= 0


def test_off_comes_through_from_another_thread(visible: Rig) -> None:
    visible.sprayer.spray(visible.order(ms=600))
    visible.wait_until(visible.is_open)
    visible.let_it_be_seen()
    thread = threading.Thread(target=visible.sprayer.off, args=("link",))
    thread.start()
    thread.join()
    visible.wait_until(lambda: not visible.is_open())
    assert visible.wait().executed


def test_off_may_come_at_any_time_and_twice(rig: Rig) -> None:
    rig.sprayer.off("once")
    rig.sprayer.off("twice")
    assert not rig.is_open()
    rig.sprayer.spray(rig.order(ahead_ms=400))
    assert rig.wait().executed


def test_an_order_that_is_too_long_is_refused(rig: Rig) -> None:
    result = rig.sprayer.spray(rig.order(ms=601)) or rig.wait()
    assert not result.executed
    assert result.evidence == "refused"
    assert rig.openings() <= 0


def test_a_second_order_is_refused_while_one_is_under_way(rig: Rig) -> None:
    rig.sprayer.spray(rig.order(1, ahead_ms=400))
    second = rig.sprayer.spray(rig.order(2, ahead_ms=900)) or rig.wait(2)
    assert second.evidence == "refused"
    assert rig.wait(1).executed


def test_close_shuts_an_open_valve_and_ends_all_orders(visible: Rig) -> None:
    visible.sprayer.spray(visible.order(ms=600))
    visible.wait_until(visible.is_open)
    visible.sprayer.close()
    assert not visible.is_open()
    assert [result.order_id for result in visible.sprayer.results()] == [1]
    with pytest.raises(SprayerError, match="closed"):
        visible.sprayer.spray(visible.order(2))


def test_close_may_be_called_twice(rig: Rig) -> None:
    rig.sprayer.close()
    rig.sprayer.close()
    assert not rig.is_open()


def test_it_describes_itself_for_the_log(rig: Rig) -> None:
    facts = json.loads(json.dumps(dict(rig.sprayer.describe())))
    assert facts["kind"] in {"dry_run", "trace", "gpio", "gpiod", "mavlink"}
    assert isinstance(facts["paints"], bool)
