"""The libgpiod valve on a chip in memory, and the real bindings as far as they work without a chip."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from drone_agent.errors import SprayerError
from drone_agent.marking.gpiod import GpiodValve
from drone_agent.marking.settings import GpiodSettings
from tests.fakes.gpiod_chip import Bias, Direction, FakeGpiod


def spec(**changes: Any) -> dict[str, Any]:
    return GpiodSettings(**({"line": 17} | changes)).model_dump()


def test_a_pulse_is_seen_at_the_line() -> None:
    chip = FakeGpiod()
    valve = GpiodValve(spec(), chip)
    valve.set(is_open=True)
    assert valve.level() is True
    valve.set(is_open=False)
    assert valve.level() is False
    valve.close()
    assert chip.lines[17].history == [False, True, False, False]


def test_the_line_is_closed_from_the_very_request_on() -> None:
    for active_high, bias in ((True, "pull_down"), (False, "pull_up")):
        chip = FakeGpiod()
        GpiodValve(spec(active_high=active_high, bias=bias), chip)
        assert chip.lines[17].history == [not active_high]


def test_consumer_bias_and_direction_are_as_configured() -> None:
    chip = FakeGpiod()
    GpiodValve(spec(consumer="my-valve", sense_line=4), chip)
    line = chip.lines[17]
    assert line.consumer == "my-valve"
    assert line.settings is not None
    assert (line.settings.direction, line.settings.bias) == (Direction.OUTPUT, Bias.PULL_DOWN)
    sense = chip.lines[4].settings
    assert sense is not None
    assert sense.direction is Direction.INPUT


def test_the_sense_line_tells_of_the_valve_itself() -> None:
    chip = FakeGpiod()
    valve = GpiodValve(spec(sense_line=4, sense_active_high=False), chip)
    assert valve.sensed() is True
    chip.lines[4].high = True
    assert valve.sensed() is False


def test_a_line_in_use_or_a_missing_chip_is_a_clear_error() -> None:
    chip = FakeGpiod()
    GpiodValve(spec(), chip)
    with pytest.raises(SprayerError, match=r"line 17 cannot be requested.*busy"):
        GpiodValve(spec(), chip)
    with pytest.raises(SprayerError, match="/dev/gpiochip7"):
        GpiodValve(spec(chip="/dev/gpiochip7"), chip)
    with pytest.raises(SprayerError, match="line 900"):
        GpiodValve(spec(line=900), chip)


def test_closing_drives_closed_releases_and_may_be_done_twice() -> None:
    chip = FakeGpiod()
    valve = GpiodValve(spec(), chip)
    valve.set(is_open=True)
    valve.close()
    valve.close()
    assert chip.lines[17].history[-1] is False
    assert chip.lines[17].settings is None
    assert valve.level() is None
    with pytest.raises(SprayerError, match="released"):
        valve.set(is_open=True)


def test_a_line_that_fails_is_an_error() -> None:
    chip = FakeGpiod()
    valve = GpiodValve(spec(), chip)
    chip.broken = True
    with pytest.raises(SprayerError, match="does not take its level"):
        valve.set(is_open=True)
    with pytest.raises(SprayerError, match="cannot be read"):
        valve.level()


def test_version_1_of_the_bindings_is_refused() -> None:
    with pytest.raises(SprayerError, match="version 2 is needed"):
        GpiodValve(spec(), SimpleNamespace(line=SimpleNamespace()))


def test_the_installed_bindings_are_spoken_to_as_they_want_it() -> None:
    """Without a chip the real module can only refuse; all that leads up to the request is exercised."""
    pytest.importorskip("gpiod")
    with pytest.raises(SprayerError, match="/dev/gpiochip-that-is-not-there line 17 cannot be requested"):
        GpiodValve(spec(chip="/dev/gpiochip-that-is-not-there"))
