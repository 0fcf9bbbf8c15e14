"""A valve at a Raspberry Pi's header, through gpiozero with the pin factory that was asked for and no other."""

from __future__ import annotations

import importlib
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking.valves import Spec

_FACTORIES = {
    "lgpio": ("gpiozero.pins.lgpio", "LGPIOFactory"),
    "pigpio": ("gpiozero.pins.pigpio", "PiGPIOFactory"),
    "rpigpio": ("gpiozero.pins.rpigpio", "RPiGPIOFactory"),
    "native": ("gpiozero.pins.native", "NativeFactory"),
    "mock": ("gpiozero.pins.mock", "MockFactory"),
}


def pin_factory(name: str) -> Any:
    """Creates gpiozero's pin factory `name`, never another: gpiozero's own search would fall back without a word.

    Raises:
        SprayerError: unknown name, package missing, or the factory finds no hardware.
    """
    if name not in _FACTORIES:
        raise SprayerError(
            f"marking.gpio.pin_factory: {name!r} is unknown; allowed are {', '.join(sorted(_FACTORIES))}"
        )
    module_name, class_name = _FACTORIES[name]
    try:
        return getattr(importlib.import_module(module_name), class_name)()
    except Exception as error:
        raise SprayerError(
            f"marking.gpio.pin_factory: {name} cannot be used on this machine ({type(error).__name__}: {error}); "
            f"install its "
            "package, or choose the factory that the board supports"
        ) from error


class GpiozeroValve:
    """A DigitalOutputDevice that is closed before its pin becomes an output.

    Args:
        spec: the keys of `marking.gpio`.
        factory: an existing pin factory in place of the one that `spec` names.
    """

    def __init__(self, spec: Spec, factory: Any = None) -> None:
        wanted = str(spec.get("pin_factory", "lgpio"))
        made = factory if factory is not None else pin_factory(wanted)
        self._device: Any = None
        self._sense: Any = None
        self._factory = made if factory is None else None
        try:
            gpiozero = importlib.import_module("gpiozero")
            # initial_value=False writes the closed level together with the direction; None would keep what the pin
            # floats at
            self._device = gpiozero.DigitalOutputDevice(
                spec["pin"], active_high=bool(spec.get("active_high", True)), initial_value=False, pin_factory=made
            )
            if spec.get("sense_pin") is not None:
                self._sense = gpiozero.DigitalInputDevice(
                    spec["sense_pin"],
                    pull_up=None,
                    active_state=bool(spec.get("sense_active_high", True)),
                    pin_factory=made,
                )
        except Exception as error:
            self.close()
            raise SprayerError(
                f"marking.gpio.pin: {spec.get('pin')} cannot be set up: {type(error).__name__}: {error}"
            ) from error
        used = type(self._device.pin_factory).__name__
        if self._device.pin_factory is not made:
            self.close()
            raise SprayerError(f"marking.gpio.pin_factory: asked for {wanted}, gpiozero uses {used}")

    def set(self, *, is_open: bool) -> None:
        """Drives the pin. Raises SprayerError if gpiozero refuses."""
        if self._device is None:
            raise SprayerError("the GPIO valve is closed")
        try:
            if is_open:
                self._device.on()
            else:
                self._device.off()
        except Exception as error:
            raise SprayerError(f"the pin does not take its level: {type(error).__name__}: {error}") from error

    def level(self) -> bool | None:
        """Reads the output pin back."""
        return None if self._device is None else bool(self._device.value)

    def sensed(self) -> bool | None:
        """Reads the sense pin."""
        return None if self._sense is None else bool(self._sense.value)

    def idle(self) -> None:
        """Nothing to keep alive."""

    def close(self) -> None:
        """Closes the valve and frees the pins; may be called twice."""
        device, self._device = self._device, None
        sense, self._sense = self._sense, None
        factory, self._factory = self._factory, None
        try:
            if device is not None:
                device.off()
        finally:
            for item in (device, sense, factory):
                if item is not None:
                    item.close()
