"""An autopilot that behaves as ArduCopter was observed to, over real MAVLink bytes on loopback TCP.

Observed: only HEARTBEAT without a request; intervals are per link and forgotten at a restart; DO_SET_SERVO is not
    clamped and fails on a motor output; DO_SET_RELAY on an unconfigured relay fails; DO_SPRAYER is always accepted;
    outputs hold their value when a link is lost and survive a disarm; a link that has never sent anything gets nothing;
    DO_REPEAT_RELAY toggles in steps of 20 ms; TIMESYNC is answered in its turn.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from pymavlink.dialects.v20 import ardupilotmega as dialect

COPTER_MODES = {"STABILIZE": 0, "AUTO": 3, "GUIDED": 4, "LOITER": 5, "RTL": 6, "LAND": 9}

_ACCEPTED, _DENIED, _FAILED, _UNSUPPORTED = 0, 2, 4, 3
_STEP_S = 0.02


@dataclass(eq=False)
class Client:
    sock: socket.socket
    mav: Any
    spoke: bool = False
    intervals_s: dict[int, float] = field(default_factory=dict)
    sent_s: dict[int, float] = field(default_factory=dict)


@dataclass
class Repeat:
    relay: int
    toggles: int
    half_s: float
    next_s: float


class FakeAutopilot:
    def __init__(self, relays_present: int = 0b1111, heartbeat_s: float = 0.1) -> None:
        self.heartbeat_s = heartbeat_s
        self.relays_present = relays_present
        self.relays_on = 0
        self.deaf_relays = 0  # acknowledged, but nothing moves
        self.stuck_relays = 0  # cannot be switched off once on
        self.servos = [0] * 32
        self.servos[4:] = [1100] * 28
        self.motor_outputs = frozenset({1, 2, 3, 4})
        self.sprayer_enabled = False
        self.silent = False  # keeps the connection, says nothing
        self.holding = False  # what is sent to it waits in the line, in its order
        self.line: list[tuple[Client, Any]] = []
        self.ack = True
        self.answers_time = True
        self.answer: dict[int, int] = {}  # command -> result, without any effect
        self.mode = "LOITER"
        self.armed = False
        self.status = dialect.MAV_STATE_STANDBY
        self.rc7_us = 1000
        self.commands: list[tuple[float, int, tuple[float, ...], tuple[int, int]]] = []
        self.heartbeats: list[tuple[int, int, int, int]] = []
        self.texts: list[tuple[float, str]] = []
        self.acks: list[Any] = []
        self.relay_edges: list[tuple[int, int]] = []
        self.reboots = 0
        self._boot_s = time.monotonic() - 100.0
        self._clients: list[Client] = []
        self._ended: list[socket.socket] = []  # closed by the thread that may be waiting for them
        self._repeat: Repeat | None = None
        self._beat_s = 0.0
        self._lock = threading.RLock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-autopilot", daemon=True)
        self._thread.start()

    @property
    def connection(self) -> str:
        return f"tcp:127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2)
        for sock in [*self._ended, *(client.sock for client in self._clients), self._server]:
            sock.close()

    def relay_is_on(self, relay: int) -> bool:
        return bool(self.relays_on >> relay & 1)

    def count(self, command: int) -> int:
        return sum(c[1] == command for c in list(self.commands))

    def reboot(self) -> None:
        """Intervals and outputs are gone, the clock starts anew; the TCP links stay."""
        with self._lock:
            self.reboots += 1
            self._boot_s = time.monotonic()
            self._repeat = None
            self._drive(self.relays_on, on=False)
            for client in self._clients:
                client.intervals_s.clear()

    def drop_links(self) -> None:
        """Ends every connection; the outputs hold."""
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):  # gone already
                    client.sock.shutdown(socket.SHUT_RDWR)
                self._ended.append(client.sock)
            self._clients.clear()

    def forget_rates(self) -> None:
        """As when a ground station takes the rates back."""
        with self._lock:
            for client in self._clients:
                client.intervals_s.clear()

    def send(self, message: Any, system: int = 1, component: int = 1) -> None:
        """Any message to all links, from any sender."""
        with self._lock:
            for client in self._clients:
                self._send(client, message, system, component)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                while self._ended:
                    self._ended.pop().close()
                sockets = [self._server, *(client.sock for client in self._clients)]
            ready, _, _ = select.select(sockets, [], [], 0.005)
            with self._lock:
                self._turn(ready)

    def _turn(self, ready: list[Any]) -> None:
        if self._server in ready:
            sock, _ = self._server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            mav = dialect.MAVLink(None, srcSystem=1, srcComponent=1)
            mav.robust_parsing = True
            self._clients.append(Client(sock, mav))
        for client in [client for client in self._clients if client.sock in ready]:
            self._read(client)
        while self.line and not self.holding:
            self._hear(*self.line.pop(0))
        now_s = time.monotonic()
        self._step(now_s)
        if self.silent:
            return
        if now_s - self._beat_s >= self.heartbeat_s:
            self._beat_s = now_s
            base = dialect.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | (128 if self.armed else 0)
            for client in list(self._clients):
                if client.spoke:
                    message = client.mav.heartbeat_encode(2, 3, base, COPTER_MODES[self.mode], self.status)
                    self._send(client, message)
        for client in list(self._clients):
            for identity, interval_s in list(client.intervals_s.items()):
                if now_s - client.sent_s.get(identity, 0.0) >= interval_s:
                    client.sent_s[identity] = now_s
                    message = self._stream(client, identity, round((now_s - self._boot_s) * 1000))
                    if message is not None:
                        self._send(client, message)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.sock.close()
            self._clients.remove(client)
            return
        client.spoke = True
        self.line += [(client, message) for message in client.mav.parse_buffer(data) or []]

    def _hear(self, client: Client, message: Any) -> None:
        kind = message.get_type()
        if kind == "HEARTBEAT":
            self.heartbeats.append(
                (message.get_srcSystem(), message.get_srcComponent(), message.type, message.autopilot)
            )
        elif kind == "COMMAND_LONG":
            self._command(client, message)
        elif kind == "STATUSTEXT":
            self.texts.append((time.monotonic(), message.text))
        elif kind == "COMMAND_ACK":
            self.acks.append(message)
        elif kind == "TIMESYNC" and message.tc1 == 0 and self.answers_time and not self.silent:
            now_ns = round((time.monotonic() - self._boot_s) * 1e9)
            self._send(client, client.mav.timesync_encode(now_ns, message.ts1))

    def _command(self, client: Client, message: Any) -> None:
        params = tuple(getattr(message, f"param{n}") for n in range(1, 8))
        sender = (message.get_srcSystem(), message.get_srcComponent())
        self.commands.append((time.monotonic(), message.command, params, sender))
        if message.target_system != 1 or message.target_component != 1:
            return
        if message.command in self.answer:
            result = self.answer[message.command]
        else:
            result = self._execute(client, message.command, params)
        if self.ack and not self.silent:
            self._send(client, client.mav.command_ack_encode(message.command, result, 0, 0, *sender))

    def _execute(self, client: Client, command: int, params: tuple[float, ...]) -> int:
        if command == dialect.MAV_CMD_SET_MESSAGE_INTERVAL:
            client.intervals_s[int(params[0])] = max(0.001, round(params[1] / 1000) / 1000)
            return _ACCEPTED
        if command == dialect.MAV_CMD_DO_SET_RELAY:
            bit = 1 << int(params[0])
            if not self.relays_present & bit:
                return _FAILED
            if self._repeat is not None and self._repeat.relay == int(params[0]):
                self._repeat = None
            self._drive(bit, on=params[1] == 1.0)
            return _ACCEPTED
        if command == dialect.MAV_CMD_DO_REPEAT_RELAY:
            if not self.relays_present >> int(params[0]) & 1:
                return _FAILED
            half_s = round(params[2] * 1000) // 2 / 1000
            self._repeat = Repeat(int(params[0]), int(params[1]) * 2, half_s, 0.0)
            self._step(time.monotonic())
            return _ACCEPTED
        if command == dialect.MAV_CMD_DO_SET_SERVO:
            if int(params[0]) in self.motor_outputs:
                return _FAILED
            self.servos[int(params[0]) - 1] = int(params[1])
            return _ACCEPTED
        if command == dialect.MAV_CMD_DO_SPRAYER:
            if self.sprayer_enabled:
                self.servos[8] = 1900 if params[0] else 1100
            return _ACCEPTED
        return _UNSUPPORTED

    def _step(self, now_s: float) -> None:
        repeat = self._repeat
        if repeat is None or now_s < repeat.next_s:
            return
        self._drive(1 << repeat.relay, on=not self.relay_is_on(repeat.relay))
        repeat.toggles -= 1
        steps = -(-repeat.half_s // _STEP_S)
        repeat.next_s = now_s + steps * _STEP_S
        if repeat.toggles <= 0:
            self._repeat = None

    def _drive(self, bits: int, *, on: bool) -> None:
        before = self.relays_on
        bits &= ~self.deaf_relays
        self.relays_on = before | bits if on else before & ~(bits & ~self.stuck_relays)
        if self.relays_on != before:
            self.relay_edges.append((time.monotonic_ns(), self.relays_on))

    def _stream(self, client: Client, identity: int, boot_ms: int) -> Any:
        mav = client.mav
        if identity == dialect.MAVLINK_MSG_ID_RELAY_STATUS:
            return mav.relay_status_encode(boot_ms, self.relays_on, self.relays_present)
        if identity == dialect.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW:
            return mav.servo_output_raw_encode(boot_ms * 1000, 0, *self.servos[:16])
        if identity == dialect.MAVLINK_MSG_ID_ATTITUDE:
            return mav.attitude_encode(boot_ms, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        if identity == dialect.MAVLINK_MSG_ID_LOCAL_POSITION_NED:
            return mav.local_position_ned_encode(boot_ms, 0.0, 1.0, -3.0, 0.0, 0.3, 0.0)
        if identity == dialect.MAVLINK_MSG_ID_GLOBAL_POSITION_INT:
            return mav.global_position_int_encode(boot_ms, 473770000, 85417000, 411000, 3000, 0, 30, 0, 0)
        if identity == dialect.MAVLINK_MSG_ID_GPS_RAW_INT:
            return mav.gps_raw_int_encode(
                boot_ms * 1000, 3, 473770000, 85417000, 411000, 100, 100, 0, 0, 12, 0, 800, 1200, 0, 0
            )
        if identity == dialect.MAVLINK_MSG_ID_EKF_STATUS_REPORT:
            return mav.ekf_status_report_encode(0x33F, 0.1, 0.1, 0.1, 0.1, 0.1)
        if identity == dialect.MAVLINK_MSG_ID_DISTANCE_SENSOR:
            return mav.distance_sensor_encode(boot_ms, 20, 700, 200, 0, 0, 0, 0)
        if identity == dialect.MAVLINK_MSG_ID_RC_CHANNELS:
            channels = [1500] * 6 + [self.rc7_us] + [1500] * 11
            return mav.rc_channels_encode(boot_ms, 18, *channels, 255)
        return None

    def _send(self, client: Client, message: Any, system: int = 1, component: int = 1) -> None:
        client.mav.srcSystem, client.mav.srcComponent = system, component
        with contextlib.suppress(OSError):
            client.sock.send(message.pack(client.mav))
        client.mav.seq = (client.mav.seq + 1) % 256
