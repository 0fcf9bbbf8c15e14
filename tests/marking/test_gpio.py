"""The gpiozero valve on gpiozero's own mock pins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from gpiozero import Device
from gpiozero.pins.mock import MockFactory, MockPin

from drone_agent.errors import SprayerError
from drone_agent.marking.gpio import GpiozeroValve, pin_factory
from drone_agent.marking.settings import GpioSettings


class WatchedPin(MockPin):  # type: ignore[misc] # gpiozero carries no types
    """Also keeps the order in which direction and level were written."""

    def __init__(self, factory: Any, info: Any) -> None:
        self.written: list[tuple[str, Any]] = []
        super().__init__(factory, info)

    def _set_function(self, value: str) -> None:
        super()._set_function(value)
        self.written.append(("function", value))

    def _set_state(self, value: Any) -> None:
        super()._set_state(value)
        self.written.append(("state", bool(value)))

    def output_with_state(self, state: Any) -> None:
        # as the real factories do: level and direction in one step
        self._function = "output"
        self._change_state(bool(state))
        self.written.append(("output_with_state", bool(state)))


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    made = MockFactory(pin_class=WatchedPin)
    yield made
    made.reset()


def spec(**changes: Any) -> dict[str, Any]:
    return GpioSettings(**({"pin": 17, "pin_factory": "mock"} | changes)).model_dump()


def states(factory: MockFactory, pin: int = 17) -> list[bool]:
    return [bool(state.state) for state in factory.pin(pin).states]


def test_a_pulse_is_seen_at_the_pin(factory: MockFactory) -> None:
    valve = GpiozeroValve(spec(), factory)
    valve.set(is_open=True)
    assert valve.level() is True
    valve.set(is_open=False)
    assert valve.level() is False
    valve.close()
    assert states(factory) == [False, True, False]


def test_active_low_turns_every_level_round(factory: MockFactory) -> None:
    valve = GpiozeroValve(spec(active_high=False), factory)
    assert states(factory) == [False, True]  # closed is high
    valve.set(is_open=True)
    assert valve.level() is True
    valve.close()
    assert states(factory) == [False, True, False, True]


@pytest.mark.parametrize("active_high", [True, False])
def test_the_closed_level_is_written_before_or_with_the_direction(factory: MockFactory, *, active_high: bool) -> None:
    GpiozeroValve(spec(active_high=active_high), factory)
    assert factory.pin(17).written[0] == ("output_with_state", not active_high)


def test_closing_twice_is_allowed_and_orders_after_it_are_not(factory: MockFactory) -> None:
    valve = GpiozeroValve(spec(), factory)
    valve.set(is_open=True)
    valve.close()
    valve.close()
    assert states(factory)[-1] is False
    with pytest.raises(SprayerError, match="closed"):
        valve.set(is_open=True)


def test_the_sense_pin_tells_of_the_valve_itself(factory: MockFactory) -> None:
    valve = GpiozeroValve(spec(sense_pin=27), factory)
    assert valve.sensed() is False
    factory.pin(27).drive_high()
    assert valve.sensed() is True
    valve.close()


def test_a_pin_that_is_in_use_cannot_be_taken(factory: MockFactory) -> None:
    valve = GpiozeroValve(spec(), factory)
    with pytest.raises(SprayerError, match=r"marking\.gpio\.pin: 17"):
        GpiozeroValve(spec(), factory)
    valve.close()


def test_an_unknown_pin_factory_is_an_error_that_names_the_key() -> None:
    with pytest.raises(SprayerError, match=r"marking\.gpio\.pin_factory: 'magic' is unknown"):
        pin_factory("magic")


@pytest.mark.parametrize("name", ["pigpio", "lgpio", "rpigpio"])
def test_a_missing_pin_factory_is_an_error_and_never_another_factory(name: str) -> None:
    with pytest.raises(SprayerError, match=rf"marking\.gpio\.pin_factory: {name} cannot be used"):
        GpiozeroValve(GpioSettings(pin_factory=name).model_dump())
    assert Device.pin_factory is None or not isinstance(Device.pin_factory, MockFactory)


def test_the_environment_cannot_choose_another_factory() -> None:
    program = (
        "from drone_agent.marking.gpio import GpiozeroValve\n"
        "valve = GpiozeroValve({'pin': 17, 'pin_factory': 'mock', 'active_high': True})\n"
        "print(type(valve._device.pin_factory).__name__)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"GPIOZERO_PIN_FACTORY": "native"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "MockFactory"


def test_a_factory_that_gpiozero_swaps_behind_our_back_is_an_error(
    factory: MockFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpiozero

    other = MockFactory()
    real = gpiozero.DigitalOutputDevice

    def swapped(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **(kwargs | {"pin_factory": other}))

    monkeypatch.setattr(gpiozero, "DigitalOutputDevice", swapped)
    with pytest.raises(SprayerError, match="asked for mock, gpiozero uses MockFactory"):
        GpiozeroValve(spec(), factory)
    other.reset()
