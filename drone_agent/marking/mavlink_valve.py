"""A valve at the autopilot, held by the dead-man process over a MAVLink connection of its own.

Also what switches the valve off after the agent has ended. It commands; the evidence is read by the agent on its own
link.
"""

from __future__ import annotations

import importlib
import select
import time
from contextlib import suppress
from typing import Any

from drone_agent.errors import LinkLost, SprayerError
from drone_agent.marking.valves import Spec
from drone_agent.mavlink_port import open_port

_COMPONENT = 191  # MAV_COMP_ID_ONBOARD_COMPUTER
_AUTOPILOT = 1  # MAV_COMP_ID_AUTOPILOT1
_DO_SET_RELAY, _DO_SET_SERVO, _DO_SPRAYER = 181, 183, 216
_HEARTBEAT_TIMEOUT_S = 4.0
_COPIES = 3


def switch_command(spec: Spec, *, is_open: bool) -> tuple[int, tuple[float, ...]]:
    """The MAVLink command (MAV_CMD, params) that opens or closes the valve of `spec`; servo pulses are clamped here."""
    method = spec["method"]
    if method == "set_servo":
        pulse_us = spec["servo_open_us"] if is_open else spec["servo_closed_us"]
        return _DO_SET_SERVO, (spec["servo"], max(spec["servo_min_us"], min(spec["servo_max_us"], pulse_us)))
    if method == "do_sprayer":
        return _DO_SPRAYER, (float(is_open),)
    return _DO_SET_RELAY, (spec["relay"], float(is_open))


class MavlinkValve:
    """Sends open and close as COMMAND_LONG; a close is sent three times, because nothing acknowledges it here.

    Raises SprayerError if the connection cannot be opened or no autopilot is heard on it.
    """

    def __init__(self, spec: Spec) -> None:
        connection = spec.get("connection")
        if not connection:
            raise SprayerError("marking.mavlink.guard_connection: not set, and no vehicle connection is known")
        dialect = importlib.import_module("pymavlink.dialects.v20.ardupilotmega")
        self._spec = spec
        self._dialect: Any = dialect
        self._last_heartbeat_ns = 0
        try:
            self._port = open_port(str(connection))
        except LinkLost as error:
            raise SprayerError(str(error)) from error
        self._open_port = True
        self._mav = dialect.MAVLink(None, srcSystem=1, srcComponent=_COMPONENT)
        self._mav.robust_parsing = True
        self._target = self._find_autopilot(str(connection))
        self._mav.srcSystem = self._target
        self.set(is_open=False)

    def set(self, *, is_open: bool) -> None:
        """Sends the command. Raises SprayerError when the connection is gone."""
        command, params = switch_command(self._spec, is_open=is_open)
        padded = (*params, *(0.0,) * (7 - len(params)))
        for confirmation in range(1 if is_open else _COPIES):
            self._send(self._mav.command_long_encode(self._target, _AUTOPILOT, command, confirmation, *padded))

    def level(self) -> bool | None:
        """Unknown: an acknowledgement is no evidence, and the agent reads the rest."""
        return None

    def sensed(self) -> bool | None:
        """No sense input."""
        return None

    def idle(self) -> None:
        """Empties the receive buffer and keeps the link alive with a heartbeat a second."""
        with suppress(LinkLost):
            self._port.read()
        now_ns = time.monotonic_ns()
        if now_ns - self._last_heartbeat_ns >= 1_000_000_000:
            self._last_heartbeat_ns = now_ns
            with suppress(SprayerError):
                self._heartbeat()

    def close(self) -> None:
        """Closes the valve and the connection; may be called twice."""
        if self._open_port:
            self._open_port = False
            try:
                self.set(is_open=False)
            finally:
                self._port.close()

    def _heartbeat(self) -> None:
        d = self._dialect
        self._send(
            self._mav.heartbeat_encode(d.MAV_TYPE_ONBOARD_CONTROLLER, d.MAV_AUTOPILOT_INVALID, 0, 0, d.MAV_STATE_ACTIVE)
        )

    def _find_autopilot(self, connection: str) -> int:
        # A connection that has never sent anything may get nothing: speak first.
        deadline_s = time.monotonic() + _HEARTBEAT_TIMEOUT_S
        try:
            while time.monotonic() < deadline_s:
                self._heartbeat()
                ready, _, _ = select.select([self._port], [], [], 0.5)
                for message in (self._mav.parse_buffer(self._port.read()) or []) if ready else []:
                    if message.get_type() == "HEARTBEAT" and message.get_srcComponent() == _AUTOPILOT:
                        return int(message.get_srcSystem())
        except LinkLost as error:
            self._port.close()
            raise SprayerError(str(error)) from error
        self._port.close()
        raise SprayerError(f"{connection}: no autopilot heard within {_HEARTBEAT_TIMEOUT_S:.0f} s")

    def _send(self, message: Any) -> None:
        try:
            self._port.write(message.pack(self._mav))
        except LinkLost as error:
            raise SprayerError(str(error)) from error
        # pymavlink counts only in its own send(); the autopilot uses the number for its loss statistics
        self._mav.seq = (self._mav.seq + 1) % 256
