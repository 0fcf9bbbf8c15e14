"""A valve at any Linux board's header, through the kernel's character device (libgpiod 2)."""

from __future__ import annotations

import importlib
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking.valves import Spec

_BIAS = {"as_is": "AS_IS", "disabled": "DISABLED", "pull_up": "PULL_UP", "pull_down": "PULL_DOWN"}


class GpiodValve:
    """One requested line: direction and closed level are set in the same request, so there is no moment between.

    Levels are logical: the kernel inverts for a valve that is active low.

    Args:
        spec: the keys of `marking.gpiod`.
        library: a module with libgpiod's `request_lines`, in place of the installed one.
    """

    def __init__(self, spec: Spec, library: Any = None) -> None:
        self._request: Any = None
        chip, self._line = str(spec.get("chip")), int(spec["line"])
        self._sense_line: int | None = spec.get("sense_line")
        try:
            gpiod = library if library is not None else importlib.import_module("gpiod")
            line = gpiod.line if library is not None else importlib.import_module("gpiod.line")
        except ImportError as error:
            raise SprayerError(
                "marking.sprayer: gpiod needs the package gpiod (pip install crackscout[jetson])"
            ) from error
        if not hasattr(gpiod, "request_lines"):
            raise SprayerError(
                "marking.sprayer: the installed gpiod is version 1; version 2 is needed (pip install 'gpiod>=2.2')"
            )
        self._active, self._inactive = line.Value.ACTIVE, line.Value.INACTIVE
        config = {
            self._line: gpiod.LineSettings(
                direction=line.Direction.OUTPUT,
                output_value=line.Value.INACTIVE,
                active_low=not spec.get("active_high", True),
                bias=getattr(line.Bias, _BIAS[str(spec.get("bias", "pull_down"))]),
            )
        }
        if self._sense_line is not None:
            config[self._sense_line] = gpiod.LineSettings(
                direction=line.Direction.INPUT, active_low=not spec.get("sense_active_high", True)
            )
        try:
            self._request = gpiod.request_lines(
                chip, consumer=str(spec.get("consumer", "crackscout-valve")), config=config
            )
        except (OSError, ValueError) as error:
            raise SprayerError(f"marking.gpiod: {chip} line {self._line} cannot be requested: {error}") from error

    def set(self, *, is_open: bool) -> None:
        """Drives the line. Raises SprayerError if the kernel refuses."""
        if self._request is None:
            raise SprayerError("the GPIO line is released")
        try:
            self._request.set_value(self._line, self._active if is_open else self._inactive)
        except OSError as error:
            raise SprayerError(f"marking.gpiod.line: {self._line} does not take its level: {error}") from error

    def level(self) -> bool | None:
        """Reads the line back."""
        return None if self._request is None else self._read(self._line)

    def sensed(self) -> bool | None:
        """Reads the sense line."""
        return None if self._request is None or self._sense_line is None else self._read(self._sense_line)

    def idle(self) -> None:
        """Nothing to keep alive."""

    def close(self) -> None:
        """Closes the valve and releases the lines; may be called twice."""
        request, self._request = self._request, None
        if request is not None:
            try:
                request.set_value(self._line, self._inactive)
            finally:
                request.release()

    def _read(self, line: int) -> bool:
        try:
            return bool(self._request.get_value(line) == self._active)
        except OSError as error:
            raise SprayerError(f"marking.gpiod: line {line} cannot be read: {error}") from error
