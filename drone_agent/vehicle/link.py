"""What does the autopilot say right now, and did it do what it was told? The live MAVLink connection.

The agent is component 191 of the vehicle's own system (an onboard controller, never a ground station). One thread
reads, sends the heartbeat and keeps the message rates. If that thread dies, nothing it has said counts any more:
every call raises LinkLost and the vehicle's state is unknown.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.errors import LinkLost
from drone_agent.mavlink_port import Port, open_port
from drone_agent.ports import Clock
from drone_agent.values import NoPose, Pose, VehicleState
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.outbox import Outbox
from drone_agent.vehicle.rates import RateKeeper
from drone_agent.vehicle.settings import VehicleSettings
from drone_agent.vehicle.telemetry import AUTOPILOT_COMPONENT, Telemetry

log = logging.getLogger(__name__)

COMPONENT = dialect.MAV_COMP_ID_ONBOARD_COMPUTER

_NS = 1_000_000_000
_HEARTBEAT_NS = _NS
_RETRY_NS = _NS
_POLL_S = 0.1
_REBOOT_MS = 1000
_CAPACITY = 4096
_OFFSET_WINDOW = 200
_NO_AUTOPILOT = (dialect.MAV_AUTOPILOT_INVALID,)

Subscriber = Callable[[int, Any], None]


class MavlinkLink:
    """A live connection; implements `ports.PoseSource` and what a MAVLink sprayer needs.

    Args:
        settings: connection and rates.
        vehicle: whose telemetry, and how it is read.
        clock: the machine's clock; reception is stamped with it.
        arming_command: MAV_CMD_USER_x with which a ground station arms the marking (param1 1 or 0).
        record: called with (time of reception in ns, raw packet) for the `.tlog`.

    Raises:
        LinkLost: the connection cannot be opened.
    """

    def __init__(
        self,
        settings: LinkSettings,
        vehicle: VehicleSettings,
        clock: Clock,
        *,
        arming_command: int | None = None,
        record: Callable[[int, bytes], None] | None = None,
    ) -> None:
        if settings.connection is None:
            raise LinkLost("vehicle.link.connection is not set")
        self._settings = settings
        self._vehicle_settings = vehicle
        self._clock = clock
        self._arming_command = arming_command
        self._record = record
        self._state_lock = threading.RLock()
        self._send_lock = threading.Lock()
        self._command_lock = threading.Lock()
        self._acknowledged = threading.Condition()
        self._acks: dict[int, int] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._telemetry = Telemetry(vehicle, _CAPACITY)
        self._rates = RateKeeper()
        for name, rate_hz in settings.rates().items():
            self._rates.want(name, rate_hz)
        self._outbox = Outbox(settings.text_per_s, settings.text_burst)
        self._system = vehicle.system_id
        self._heartbeat_ns: int | None = None
        self._armed: bool | None = None
        self._mode: str | None = None
        self._up = False
        self._command_armed: bool | None = False
        self._boot_ms = 0
        self._offsets_ns: list[int] = []
        self._reboots = 0
        self._losses = 0
        self._failure: str | None = None
        self._broken_since_ns: int | None = None
        self._sent_heartbeat_ns: int | None = None
        self._stop = threading.Event()
        self._mav = self._parser()
        self._port: Port | None = open_port(settings.connection)
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @property
    def connection(self) -> str:
        """How the autopilot is reached."""
        return str(self._settings.connection)

    @property
    def system_id(self) -> int | None:
        """The vehicle's system id, once heard or configured."""
        return self._system

    @property
    def reboots(self) -> int:
        """How often the autopilot restarted."""
        return self._reboots

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` on the link's thread when the vehicle changes.

        With `mode change`, `arm`, `disarm`, `disarm by command`, `autopilot restart`, `link lost` or `link recovery`.
        For paint: `Marker.interrupt`. It must return quickly and may send commands, but not wait for answers.
        """
        self._listeners.append(listener)

    def subscribe(self, message_type: str, callback: Subscriber) -> Callable[[], None]:
        """Calls back (time of reception in ns, message) on the link's thread; returns what ends it."""
        self._subscribers.setdefault(message_type, []).append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers[message_type].remove(callback)

        return end

    def request_rate(self, message_type: str, rate_hz: float) -> None:
        """Asks for a message now, after every restart of the autopilot, and whenever it stays away.

        Raises ValueError.
        """
        with self._state_lock:
            self._rates.want(message_type, rate_hz)

    def wait_for_autopilot(self, timeout_s: float) -> None:
        """Waits for the first heartbeat. Raises LinkLost."""
        end_ns = self._clock.now_mono_ns() + round(timeout_s * _NS)
        while self.heartbeat_age_ns() is None:
            self.check()
            if self._clock.now_mono_ns() > end_ns:
                raise LinkLost(f"{self.connection}: no heartbeat of an autopilot within {timeout_s:g} s")
            self._clock.sleep(0.02)

    def check(self) -> None:
        """Raises LinkLost if the reader has died; the agent must end then."""
        if self._failure is not None:
            raise LinkLost(self._failure)

    def heartbeat_age_ns(self) -> int | None:
        """Age of the autopilot's last heartbeat; None before the first, and when the reader is dead."""
        heard_ns = self._heartbeat_ns
        if heard_ns is None or self._failure is not None or not self._thread.is_alive():
            return None
        return max(0, self._clock.now_mono_ns() - heard_ns)

    def vehicle(self, t_mono_ns: int) -> VehicleState:
        """What the autopilot has said of itself up to `t_mono_ns`; everything unknown when the reader is dead."""
        if self._failure is not None or not self._thread.is_alive():
            return VehicleState(t_mono_ns)
        with self._state_lock:
            return replace(self._telemetry.vehicle(t_mono_ns), command_armed=self._command_armed)

    def at(self, t_mono_ns: int) -> Pose | NoPose:
        """The pose at `t_mono_ns`, interpolated. Raises LinkLost if the reader has died."""
        self.check()
        with self._state_lock:
            return self._telemetry.poses.at(t_mono_ns)

    def text(self, severity: int, text: str) -> None:
        """Sends a line to the ground station when the link has room for it (50 bytes, rate limited)."""
        with self._state_lock:
            self._outbox.put(severity, text)

    def send_command(self, command: int, params: tuple[float, ...]) -> None:
        """Sends COMMAND_LONG to the autopilot without waiting. Raises LinkLost."""
        self.check()
        if self._system is None:
            raise LinkLost(f"{self.connection}: no autopilot heard yet")
        padded = (*params, *(0.0,) * (7 - len(params)))
        self._send(self._mav.command_long_encode(self._system, AUTOPILOT_COMPONENT, command, 0, *padded))

    def ask_time(self, token: int) -> None:
        """Sends a TIMESYNC request without waiting; the answer has `token` in ts1 (int64). Raises LinkLost.

        The answer comes in order: the autopilot has handled what was sent before, and what it says later is newer.
        https://mavlink.io/en/services/timesync.html
        """
        self.check()
        self._send(self._mav.timesync_encode(0, token))

    def command(self, command: int, params: tuple[float, ...], timeout_s: float) -> int:
        """Sends COMMAND_LONG and waits for its acknowledgement, which is no evidence that anything moved.

        Returns:
            MAV_RESULT.

        Raises:
            LinkLost: no fresh heartbeat, no answer in time, or no link. The command may have been executed all the
                same.
        """
        self.check()
        age_ns = self.heartbeat_age_ns()
        if age_ns is None or age_ns > self._settings.heartbeat_timeout_s * _NS:
            raise LinkLost(f"{self.connection}: no fresh heartbeat; no command is sent")
        if threading.current_thread() is self._thread:
            raise LinkLost("a command may not wait on the link's own thread")
        with self._command_lock:
            with self._acknowledged:
                self._acks.pop(command, None)
            self.send_command(command, params)
            with self._acknowledged:
                if not self._acknowledged.wait_for(
                    lambda: command in self._acks or self._failure is not None, timeout_s
                ):
                    raise LinkLost(f"{self.connection}: no answer to command {command} within {timeout_s * 1e3:.0f} ms")
                self.check()
                return self._acks.pop(command)

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {
            "connection": self.connection,
            "system_id": self._system,
            "component": COMPONENT,
            "reboots": self._reboots,
            "losses": self._losses,
            "texts_dropped": self._outbox.dropped,
        }

    def close(self) -> None:
        """Ends the thread and closes the port; may be called twice."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        with self._send_lock:
            if self._port is not None:
                self._port.close()
                self._port = None
        self._failure = self._failure or f"{self.connection}: closed"

    def _parser(self) -> Any:
        mav = dialect.MAVLink(None, srcSystem=self._system or 1, srcComponent=COMPONENT)
        mav.robust_parsing = True
        return mav

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, the state must not look alive
            self._fail(
                str(error)
                if isinstance(error, LinkLost)
                else f"the link's reader died: {type(error).__name__}: {error}"
            )

    def _turn(self) -> None:
        now_ns = self._clock.now_mono_ns()
        if self._port is None:
            self._reconnect(now_ns)
            return
        try:
            self._keep_alive(now_ns)
            ready, _, _ = select.select([self._port], [], [], _POLL_S)
            if ready:
                self._take(self._port.read())
        except LinkLost as error:
            log.warning("%s", error)
            with self._send_lock:
                self._port.close()
                self._port = None
            self._lose()
        self._watch_heartbeat()

    def _reconnect(self, now_ns: int) -> None:
        if self._broken_since_ns is None:
            self._broken_since_ns = now_ns
        if now_ns - self._broken_since_ns > self._settings.reconnect_s * _NS:
            raise LinkLost(f"{self.connection}: not reached again within {self._settings.reconnect_s:g} s")
        try:
            port = open_port(self.connection)
        except LinkLost:
            self._stop.wait(_RETRY_NS / _NS)
            return
        with self._send_lock:
            self._mav = self._parser()
            self._port = port
        self._broken_since_ns = None
        self._sent_heartbeat_ns = None

    def _keep_alive(self, now_ns: int) -> None:
        if self._sent_heartbeat_ns is None or now_ns - self._sent_heartbeat_ns >= _HEARTBEAT_NS:
            self._sent_heartbeat_ns = now_ns
            d = dialect
            self._send(
                self._mav.heartbeat_encode(
                    d.MAV_TYPE_ONBOARD_CONTROLLER, d.MAV_AUTOPILOT_INVALID, 0, 0, d.MAV_STATE_ACTIVE
                )
            )
        if not self._up or self._system is None:
            return
        with self._state_lock:
            asks = self._rates.due(now_ns)
            texts = self._outbox.due(now_ns)
        for name, interval_us in asks:
            identity = getattr(dialect, f"MAVLINK_MSG_ID_{name}")
            self.send_command(dialect.MAV_CMD_SET_MESSAGE_INTERVAL, (identity, interval_us))
        for severity, line in texts:
            self._send(self._mav.statustext_encode(severity, line))

    def _take(self, data: bytes) -> None:
        for message in self._mav.parse_buffer(data) or []:
            now_ns = self._clock.now_mono_ns()
            if message.get_type() == "BAD_DATA":
                continue
            if self._record is not None:
                self._record(now_ns, bytes(message.get_msgbuf()))
            if self._is_autopilot(message):
                self._hear(now_ns, message)
            elif message.get_type() == "COMMAND_LONG":
                self._obey(message)

    def _is_autopilot(self, message: Any) -> bool:
        if message.get_srcComponent() != AUTOPILOT_COMPONENT:
            return False
        if self._system is None:
            if message.get_type() != "HEARTBEAT" or message.autopilot in _NO_AUTOPILOT:
                return False
            self._system = message.get_srcSystem()
            self._mav.srcSystem = self._system
        return bool(message.get_srcSystem() == self._system)

    def _hear(self, now_ns: int, message: Any) -> None:
        kind = message.get_type()
        boot_ms = getattr(message, "time_boot_ms", None)
        if isinstance(boot_ms, int):
            self._watch_boot(now_ns, boot_ms)
        with self._state_lock:
            self._rates.heard(kind)
            self._telemetry.feed(message, now_ns, min(self._offsets_ns, default=0))
        if kind == "HEARTBEAT":
            self._hear_heartbeat(now_ns)
        elif kind == "COMMAND_ACK":
            with self._acknowledged:
                self._acks[message.command] = message.result
                self._acknowledged.notify_all()
        for subscriber in list(self._subscribers.get(kind, ())):
            subscriber(now_ns, message)

    def _watch_boot(self, now_ns: int, boot_ms: int) -> None:
        if boot_ms + _REBOOT_MS < self._boot_ms:
            log.warning("the autopilot restarted")
            with self._state_lock:
                self._reboots += 1
                self._command_armed = False
                self._telemetry = Telemetry(self._vehicle_settings, _CAPACITY)
                self._offsets_ns = []
                self._rates.forgotten()
            self._boot_ms = boot_ms
            self._tell("autopilot restart")
        self._boot_ms = max(self._boot_ms, boot_ms)
        # the least delayed of the last messages: no message can have come before it was sent
        self._offsets_ns = [*self._offsets_ns[-_OFFSET_WINDOW:], now_ns - boot_ms * 1_000_000]

    def _hear_heartbeat(self, now_ns: int) -> None:
        with self._state_lock:
            last = self._telemetry.heartbeats.last(now_ns)
        armed, mode = self._armed, self._mode
        self._heartbeat_ns = now_ns
        if last is not None:
            self._armed, self._mode = last[1].armed, last[1].mode
        if not self._up:
            self._up = True
            with self._state_lock:
                self._rates.forgotten()
            # the first heartbeat counts too: whatever the outputs held before, they are switched off
            self._tell("link recovery")
        if mode is not None and mode != self._mode:
            self._tell("mode change")
        if armed is not None and armed != self._armed:
            self._tell("arm" if self._armed else "disarm")

    def _obey(self, message: Any) -> None:
        """The one command that is meant for this component: the marking's second key."""
        ours = message.target_system == self._system and message.target_component == COMPONENT
        foreign = (message.get_srcSystem(), message.get_srcComponent()) != (self._system, COMPONENT)
        if not ours or not foreign or self._arming_command is None or message.command != self._arming_command:
            return
        accepted = message.param1 in {0.0, 1.0}
        if accepted:
            self._command_armed = message.param1 == 1.0
            if not self._command_armed:
                self._tell("disarm by command")
        result = dialect.MAV_RESULT_ACCEPTED if accepted else dialect.MAV_RESULT_DENIED
        self._send(
            self._mav.command_ack_encode(
                message.command, result, 0, 0, message.get_srcSystem(), message.get_srcComponent()
            )
        )

    def _watch_heartbeat(self) -> None:
        heard_ns = self._heartbeat_ns
        if self._up and heard_ns is not None:
            silent_ns = self._clock.now_mono_ns() - heard_ns
            if silent_ns > self._settings.heartbeat_timeout_s * _NS:
                self._lose()

    def _lose(self) -> None:
        if self._up:
            self._up = False
            self._losses += 1
            self._command_armed = False
            log.warning("%s: link lost", self.connection)
            self._tell("link lost")

    def _fail(self, why: str) -> None:
        self._failure = why
        log.critical("%s", why)
        with self._acknowledged:
            self._acknowledged.notify_all()
        self._tell("link lost")

    def _tell(self, change: str) -> None:
        for listener in list(self._listeners):
            try:
                listener(change)
            except LinkLost as error:
                log.warning("%s: %s", change, error)

    def _send(self, message: Any) -> None:
        with self._send_lock:
            if self._port is None:
                raise LinkLost(f"{self.connection}: not connected")
            data = message.pack(self._mav)
            self._mav.seq = (self._mav.seq + 1) % 256
            self._port.write(data)
