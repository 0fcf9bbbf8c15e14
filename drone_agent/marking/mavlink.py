"""A valve at the autopilot: who ends the pulse, and what proves that it happened?

`repeat_relay`: the autopilot ends the pulse by itself, so nothing on this computer can leave the valve open. The other
methods go through the dead-man process with its own connection. In either case an order counts as executed only when
RELAY_STATUS or SERVO_OUTPUT_RAW shows it: the autopilot acknowledges much that has no effect.

A report may be older than it looks. OFF is proved only by one that comes behind the answer to a TIMESYNC request, and
that request was sent behind the OFF: the autopilot handles what it gets, and sends what it says, in order. An
acknowledgement would not do, because it does not say which of several OFFs it belongs to.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from drone_agent.errors import LinkLost, SprayerError
from drone_agent.marking import sprayer as ev
from drone_agent.marking.guard_client import GuardClient
from drone_agent.marking.mavlink_valve import switch_command
from drone_agent.marking.settings import MavlinkSprayerSettings
from drone_agent.ports import Clock
from drone_agent.values import SprayOrder, SprayResult

log = logging.getLogger(__name__)

_MS = 1_000_000
_DO_REPEAT_RELAY = 182
_ACCEPTED, _IN_PROGRESS = 0, 5
_STATUS_MAX_AGE_NS = 1_500 * _MS
_HEARTBEAT_MAX_AGE_NS = 2_000 * _MS
_OFF_INTERVAL_NS = 150 * _MS
_OFF_ATTEMPTS = 10
_POLL_S = 0.02
# ArduPilot steps its relay events at 50 Hz
_AUTOPILOT_STEP_NS = 25 * _MS


class CommandLink(Protocol):
    """What a sprayer needs of the connection to the autopilot (see `vehicle.link.MavlinkLink`)."""

    @property
    def connection(self) -> str:
        """How the autopilot is reached; used to switch off after the agent has ended."""

    def heartbeat_age_ns(self) -> int | None:
        """Age of the autopilot's last heartbeat; None before the first, and when the reader is dead."""

    def command(self, command: int, params: tuple[float, ...], timeout_s: float) -> int:
        """Sends COMMAND_LONG and waits for its MAV_RESULT. Raises LinkLost.

        No fresh heartbeat, no answer, or no link.
        """

    def send_command(self, command: int, params: tuple[float, ...]) -> None:
        """Sends COMMAND_LONG without waiting; callable from any thread, the link's own included. Raises LinkLost."""

    def ask_time(self, token: int) -> None:
        """Sends a TIMESYNC request that the autopilot answers with `token` in ts1; from any thread. Raises LinkLost."""

    def subscribe(self, message_type: str, callback: Callable[[int, Any], None]) -> Callable[[], None]:
        """Calls back (time of reception in ns, message) on the link's thread; returns what ends it."""

    def request_rate(self, message_type: str, rate_hz: float) -> None:
        """Asks for a message now, after every restart of the autopilot, and whenever it stays away."""


class Evidence:
    """What the autopilot says its output does: the time of each change (thread-safe).

    Args:
        settings: which output.
    """

    def __init__(self, settings: MavlinkSprayerSettings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._edges: list[tuple[int, bool]] = []
        self._last: tuple[int, bool] | None = None

    @property
    def message_type(self) -> str:
        """The message that is the evidence."""
        return "SERVO_OUTPUT_RAW" if self._settings.method in {"set_servo", "do_sprayer"} else "RELAY_STATUS"

    @property
    def name(self) -> str:
        """How a result cites it."""
        return ev.SERVO_OUTPUT if self.message_type == "SERVO_OUTPUT_RAW" else ev.RELAY_STATUS

    def hear(self, t_mono_ns: int, message: Any) -> None:
        """Takes one message."""
        state = self._state(message)
        if state is None:
            return
        with self._changed:
            if self._last is None or self._last[1] != state:
                self._edges = [*self._edges[-63:], (t_mono_ns, state)]
            self._last = (t_mono_ns, state)
            self._changed.notify_all()

    def latest(self) -> tuple[int, bool] | None:
        """When it was last heard (ns), and whether the output was open."""
        with self._changed:
            return self._last

    def edge_after(self, t_ns: int, *, is_open: bool) -> int | None:
        """The first time after `t_ns` (ns) that the output was reported as changed to `is_open`."""
        with self._changed:
            return next((t for t, state in self._edges if t > t_ns and state is is_open), None)

    def wait(self, timeout_s: float) -> None:
        """Waits for the next message."""
        with self._changed:
            self._changed.wait(timeout_s)

    def _state(self, message: Any) -> bool | None:
        s = self._settings
        if self.message_type == "RELAY_STATUS":
            bit = 1 << s.relay
            return bool(message.on & bit) if message.present & bit else None
        if message.port != (s.servo - 1) // 16:
            return None
        pulse_us = getattr(message, f"servo{(s.servo - 1) % 16 + 1}_raw", 0)
        return None if not pulse_us else abs(pulse_us - s.servo_open_us) < abs(pulse_us - s.servo_closed_us)


class MavlinkSprayer:
    """Sprayer for `mavlink`; one thread of its own times the orders and waits for the evidence.

    Args:
        settings: output and method.
        clock: the machine's monotonic clock.
        link: the connection to the autopilot.
        guard: the dead-man, for every method but `repeat_relay`.
        max_open_ms: longest pulse.
        late_ms: an opening later than this is dropped.
    """

    def __init__(
        self,
        settings: MavlinkSprayerSettings,
        clock: Clock,
        link: CommandLink,
        guard: GuardClient | None,
        *,
        max_open_ms: int,
        late_ms: int,
    ) -> None:
        if (guard is None) != (settings.method == "repeat_relay"):
            raise SprayerError(
                f"marking.mavlink.method: {settings.method} needs {'no' if guard else 'a'} dead-man process"
            )
        if settings.method == "do_sprayer":
            log.warning(
                "marking.mavlink.method do_sprayer: THE FARM SPRAYER DOES NOT SPRAY BELOW ITS MINIMUM SPEED, "
                "CLOSES UP TO A SECOND "
                "LATE, AND MAY STAY ON IN A FAILSAFE; use repeat_relay"
            )
        self._settings = settings
        self._spec = settings.model_dump(mode="json")
        self._clock = clock
        self._link = link
        self._guard = guard
        self._max_open_ms = max_open_ms
        self._late_ns = late_ms * _MS
        self._evidence = Evidence(settings)
        self._wake = threading.Condition()
        self._order: SprayOrder | None = None
        self._cancel: str | None = None
        self._busy = False
        self._off_wanted_ns: int | None = None
        self._off_handled_ns: int | None = None
        self._off_tokens: deque[int] = deque(maxlen=_OFF_ATTEMPTS)
        self._done: list[SprayResult] = []
        self._fault: str | None = None
        self._closed = False
        self._unsubscribe = (
            link.subscribe(self._evidence.message_type, self._evidence.hear),
            link.subscribe("TIMESYNC", self._hear_time),
        )
        link.request_rate(self._evidence.message_type, settings.evidence_rate_hz)
        self.off("start")
        self._thread = threading.Thread(target=self._run, name="mavlink-sprayer", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Stuck output, or what the dead-man found wrong."""
        return self._fault or (self._guard.fault if self._guard is not None else None)

    def spray(self, order: SprayOrder) -> SprayResult | None:
        """Takes one order at a time. Raises SprayerError after `close`."""
        with self._wake:
            if self._closed:
                raise SprayerError("the MAVLink sprayer is closed: no orders after close()")
            why = self.fault
            if why is None and (self._order is not None or self._busy):
                why = "another order is under way"
            if why is None and not 0 < order.open_ms <= self._max_open_ms:
                why = f"{order.open_ms} ms, allowed are 1 to {self._max_open_ms}"
            if why is not None:
                return SprayResult(order.order_id, executed=False, evidence=ev.REFUSED, detail=why)
            if self._guard is not None and (result := self._guard.order(order)) is not None:
                return result
            self._order, self._cancel = order, None
            self._wake.notify_all()
        return None

    def results(self) -> list[SprayResult]:
        """Results since the last call; also the main loop's sign of life."""
        if self._guard is not None:
            self._guard.touch()
        with self._wake:
            done, self._done = self._done, []
        return done

    def off(self, reason: str) -> None:
        """Sends OFF now, and again until the evidence shows it; from any thread."""
        with self._wake:
            self._cancel = reason
            self._off_wanted_ns = self._clock.now_mono_ns()
            self._off_handled_ns = None
            self._off_tokens.clear()
            self._wake.notify_all()
        if self._guard is not None:
            self._guard.off(reason)
        self._send_off()

    def sensed(self, order_id: int) -> tuple[int | None, int | None]:  # noqa: ARG002 - the same call as at the pins
        """No sense input: the evidence is in the result."""
        return None, None

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {
            "kind": "mavlink",
            "paints": True,
            "method": self._settings.method,
            "evidence": self._evidence.message_type,
            "guard": None if self._guard is None else self._guard.facts,
        }

    def close(self) -> None:
        """Sends OFF, ends the dead-man and the thread; may be called twice."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
        self.off("close")
        self._thread.join(5.0)
        if self._guard is not None:
            self._guard.close()
        self._send_off()
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def _run(self) -> None:
        attempts = 0
        while True:
            with self._wake:
                if self._order is None and not self._closed:
                    self._wake.wait(_OFF_INTERVAL_NS / 1e9)
                order, self._order = self._order, None
                self._busy = order is not None
                closed = self._closed
            if order is not None:
                result = self._guarded(order) if self._guard is not None else self._timed_by_autopilot(order)
                with self._wake:
                    self._busy = False
                    self._done.append(result)
                continue
            attempts = self._repeat_off(attempts)
            if closed and (self._off_wanted_ns is None or attempts >= 3):
                return

    def _repeat_off(self, attempts: int) -> int:
        """OFF once more if it was wanted and is not proved yet."""
        with self._wake:
            wanted_ns = self._off_wanted_ns
            if wanted_ns is None:
                return 0
            latest = self._evidence.latest()
            seen_open = latest is not None and latest[0] > wanted_ns and latest[1]
            # at the end without a proof, nothing is heard or nothing answers: the agent sends OFF again when the link
            # recovers
            if self._open_since_off() is False or (attempts >= _OFF_ATTEMPTS and not seen_open):
                self._off_wanted_ns = None
                return 0
        if attempts >= _OFF_ATTEMPTS and self._fault is None:
            self._fault = "stuck open: the autopilot reports the output as open although OFF was sent"
            log.error("%s", self._fault)
        self._send_off()
        return attempts + 1

    def _send_off(self) -> None:
        command, params = switch_command(self._spec, is_open=False)
        token = self._clock.now_mono_ns()
        with self._wake:
            self._off_tokens.append(token)
        try:
            self._link.send_command(command, params)
            self._link.ask_time(token)
        except LinkLost as error:
            # repeated by the thread, and by the agent when the link recovers
            log.warning("OFF could not be sent: %s", error)

    def _hear_time(self, t_mono_ns: int, message: Any) -> None:
        """Takes a TIMESYNC: an answer to us says that the autopilot has handled what was sent before, OFF included."""
        with self._wake:
            # tc1 is 0 in requests, which the autopilot sends as well
            if message.tc1 and message.ts1 in self._off_tokens and self._off_handled_ns is None:
                self._off_handled_ns = t_mono_ns

    def _open_since_off(self) -> bool | None:
        """Whether the output is open, by a report made after OFF was handled; None without such a report."""
        latest, handled_ns = self._evidence.latest(), self._off_handled_ns
        return latest[1] if latest is not None and handled_ns is not None and latest[0] > handled_ns else None

    def _timed_by_autopilot(self, order: SprayOrder) -> SprayResult:
        why = self._wait_for(order)
        if why is not None:
            return SprayResult(order.order_id, executed=False, evidence=ev.CANCELLED, detail=why)
        why = self._not_ready()
        if why is not None:
            return SprayResult(order.order_id, executed=False, evidence=ev.REFUSED, detail=why)
        sent_ns = self._clock.now_mono_ns()
        # DO_REPEAT_RELAY toggles: half of the cycle time on, and one cycle ends it
        params = (float(self._settings.relay), 1.0, 2 * order.open_ms / 1e3)
        said = ""
        try:
            answer = self._link.command(_DO_REPEAT_RELAY, params, self._settings.ack_timeout_ms / 1e3)
        except LinkLost as error:
            answer, said = None, str(error)
        if answer is not None and answer not in {_ACCEPTED, _IN_PROGRESS}:
            self.off(f"the autopilot answered {answer}")
            self._await(lambda: self._open_since_off() is not None or None, self._settings.evidence_timeout_ms)
            # a report from before the autopilot met the order would say nothing about it
            if self._open_since_off() is False and self._evidence.edge_after(sent_ns, is_open=True) is None:
                return SprayResult(
                    order.order_id,
                    executed=False,
                    evidence=ev.REFUSED,
                    detail=f"the autopilot answered {answer} to DO_REPEAT_RELAY",
                )
        return self._observe(order, sent_ns, order.open_ms * _MS + _AUTOPILOT_STEP_NS, said)

    def _guarded(self, order: SprayOrder) -> SprayResult:
        """Waits for the dead-man, which times the pulse, then for the evidence."""
        guard = self._guard
        before_ns = self._clock.now_mono_ns()
        result: SprayResult | None = None
        while guard is not None and result is None:
            self._evidence.wait(_POLL_S)
            result = next((r for r in guard.take_results() if r.order_id == order.order_id), None)
            if result is None and guard.fault is not None and self._closed:
                result = SprayResult(order.order_id, executed=False, evidence=ev.NONE, detail=guard.fault)
        if result is None or (not result.executed and result.opened_at_ns is None):
            return result or SprayResult(order.order_id, executed=False, evidence=ev.NONE, detail="no dead-man")
        return self._observe(order, (result.opened_at_ns or before_ns) - _MS, 0, result.detail)

    def _observe(self, order: SprayOrder, sent_ns: int, length_ns: int, said: str) -> SprayResult:
        """Follows the evidence: opening, closing, and OFF with an alarm if the closing does not come."""
        patience_ms = self._settings.evidence_timeout_ms
        edge = self._evidence.edge_after
        opened_ns = self._await(lambda: edge(sent_ns, is_open=True), patience_ms)
        if opened_ns is None:
            self.off("no evidence of an opening")
            detail = f"no {self._evidence.message_type} showed an opening within {patience_ms} ms"
            return SprayResult(
                order.order_id, executed=False, evidence=ev.NONE, detail="; ".join(filter(None, [said, detail]))
            )
        closed_ns = self._await(lambda: edge(opened_ns, is_open=False), patience_ms + length_ns // _MS)
        detail = said or "end of order"
        if closed_ns is None:
            self.off("no evidence of a closing")
            detail = "closed only by OFF"
            closed_ns = self._await(lambda: edge(opened_ns, is_open=False), 2 * patience_ms)
        if closed_ns is None:
            detail = "stuck open: no report of a closing, OFF included"
            self._fault = self._fault or detail
            log.error("order %d: %s", order.order_id, detail)
        return SprayResult(
            order.order_id,
            executed=True,
            evidence=self._evidence.name,
            opened_at_ns=opened_ns,
            closed_at_ns=closed_ns,
            detail=detail,
        )

    def _await(self, find: Callable[[], int | bool | None], timeout_ms: int) -> int | None:
        end_ns = self._clock.now_mono_ns() + timeout_ms * _MS
        while (found := find()) is None:
            left_ns = end_ns - self._clock.now_mono_ns()
            if left_ns <= 0:
                return None
            self._evidence.wait(min(_POLL_S, left_ns / 1e9))
        return int(found)

    def _wait_for(self, order: SprayOrder) -> str | None:
        """Waits for the opening; says why there shall be none."""
        with self._wake:
            while True:
                if self._cancel is not None:
                    return self._cancel
                left_ns = order.open_at_ns - self._clock.now_mono_ns()
                if left_ns <= 0:
                    return None if -left_ns <= self._late_ns else f"late by {-left_ns // _MS} ms"
                self._wake.wait(left_ns / 1e9)

    def _not_ready(self) -> str | None:
        """Why a pulse must not be started: a toggle on an output in an unknown state could open it for good."""
        age_ns = self._link.heartbeat_age_ns()
        if age_ns is None or age_ns > _HEARTBEAT_MAX_AGE_NS:
            return "no fresh heartbeat of the autopilot"
        latest = self._evidence.latest()
        if latest is None or self._clock.now_mono_ns() - latest[0] > _STATUS_MAX_AGE_NS:
            return f"the output's state is not known: no fresh {self._evidence.message_type}"
        if latest[1]:
            self.off("the output is open without an order")
            return "the output is open without an order"
        return None
