"""libgpiod 2 over lines in memory: what the bindings check and do, as far as an output and an input need it.

There is no GPIO chip on the machines that run the tests; on a board the same adapter uses the real module.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class Direction(enum.Enum):
    AS_IS = 1
    INPUT = 2
    OUTPUT = 3


class Value(enum.Enum):
    INACTIVE = 0
    ACTIVE = 1


class Bias(enum.Enum):
    AS_IS = 1
    UNKNOWN = 2
    DISABLED = 3
    PULL_UP = 4
    PULL_DOWN = 5


@dataclass
class LineSettings:
    direction: Direction = Direction.AS_IS
    output_value: Value = Value.INACTIVE
    active_low: bool = False
    bias: Bias = Bias.AS_IS


@dataclass
class Line:
    """Physical state of one line; `history` are the levels since it became an output."""

    high: bool = False
    settings: LineSettings | None = None
    consumer: str = ""
    history: list[bool] = field(default_factory=list)
    stuck: bool = False

    def drive(self, *, high: bool) -> None:
        if not self.stuck:
            self.high = high
        self.history.append(self.high)


class Request:
    def __init__(self, chip: FakeGpiod, offsets: list[int]) -> None:
        self._chip, self._offsets, self._released = chip, offsets, False

    def _line(self, offset: int) -> Line:
        if self._released:
            raise ValueError("GPIO lines have been released")
        if offset not in self._offsets:
            raise ValueError(f"line {offset} was not requested")
        if self._chip.broken:
            raise OSError(errno.EIO, "Input/output error")
        return self._chip.lines[offset]

    def set_value(self, offset: int, value: Value) -> None:
        line = self._line(offset)
        assert line.settings is not None
        if line.settings.direction is not Direction.OUTPUT:
            raise OSError(errno.EPERM, "Operation not permitted")
        line.drive(high=(value is Value.ACTIVE) is not line.settings.active_low)

    def get_value(self, offset: int) -> Value:
        line = self._line(offset)
        assert line.settings is not None
        return Value.ACTIVE if line.high is not line.settings.active_low else Value.INACTIVE

    def release(self) -> None:
        self._released = True
        for offset in self._offsets:
            # the kernel turns a released line back into what its hardware makes of it
            self._chip.lines[offset].settings = None
            self._chip.lines[offset].consumer = ""


class FakeGpiod:
    """Stands in for the module `gpiod` and owns one chip, /dev/gpiochip0, of 32 lines."""

    LineSettings = LineSettings
    line = SimpleNamespace(Direction=Direction, Value=Value, Bias=Bias)

    def __init__(self) -> None:
        self.lines = [Line() for _ in range(32)]
        self.broken = False

    def request_lines(self, path: str, consumer: str, config: dict[int, Any]) -> Request:
        if path != "/dev/gpiochip0":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        for offset in config:
            if not 0 <= offset < len(self.lines):
                raise ValueError(f"line {offset} does not exist")
            if self.lines[offset].settings is not None:
                raise OSError(errno.EBUSY, "Device or resource busy")
        for offset, settings in config.items():
            line = self.lines[offset]
            line.settings, line.consumer = settings, consumer
            if settings.direction is Direction.OUTPUT:
                line.drive(high=(settings.output_value is Value.ACTIVE) is not settings.active_low)
        return Request(self, list(config))
