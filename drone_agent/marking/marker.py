"""How does a sighting become a mark? The gate, the ledger and a sprayer, as the agent's loop sees them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from drone_agent.marking import sprayer as ev
from drone_agent.marking.events import off_event, order_event, refusal_event, result_events
from drone_agent.marking.gate import decide, still_permitted
from drone_agent.marking.lead import FacePosition
from drone_agent.marking.ledger import Ledger
from drone_agent.marking.settings import MarkingSettings
from drone_agent.marking.sprayer import SupervisedSprayer
from drone_agent.values import Event, Refusal, Sighting, SprayOrder, SprayResult, VehicleState

log = logging.getLogger(__name__)


class Marker:
    """Decides, books, hands over and watches orders.

    The loop calls `consider` for each sighting, then `tick` once a frame. An order leaves in `tick`, after its event
    has been recorded: an order that cannot be logged never leaves, and a restart finds every order that did.

    Args:
        settings: interlocks, bounds, budget.
        sprayer: what moves the valve; it is switched off at once.
        ledger: the flight's account; `ledger.restore` builds it after a restart.
        record: keeps an event and returns only when it is kept (raises if it cannot be); None: collect them with
            `drain`.
    """

    def __init__(
        self,
        settings: MarkingSettings,
        sprayer: SupervisedSprayer,
        ledger: Ledger,
        record: Callable[[Event], None] | None = None,
    ) -> None:
        self._settings = settings
        self._sprayer = sprayer
        self._ledger = ledger
        self._events: deque[Event] = deque()
        self._record = record or self._events.append
        self._waiting: list[SprayOrder] = []
        self._under_way: dict[int, SprayOrder] = {}
        self._interrupts: deque[str] = deque()
        self._last: VehicleState | None = None
        self._link_was_down = False
        self._closed = False
        sprayer.off("start")

    @property
    def ledger(self) -> Ledger:
        """The flight's account."""
        return self._ledger

    @property
    def relaxed(self) -> tuple[str, ...]:
        """The interlocks that are lifted by configuration; for the log and the report."""
        return self._settings.relaxed()

    def consider(
        self, now_ns: int, sighting: Sighting, vehicle: VehicleState, where: FacePosition | None = None
    ) -> SprayOrder | Refusal:
        """Decides on a sighting; an order is booked and recorded, and leaves with the next `tick`.

        Args:
            now_ns: the present (monotonic ns).
            sighting: the confirmed crack.
            vehicle: the autopilot's state at about `now_ns`.
            where: the camera before the face (`lead.face_position`); without it every sighting is refused.

        Returns:
            The order, or the refusal with all reasons.
        """
        fault = "the marker is closed" if self._closed else self._sprayer.fault
        decision = decide(now_ns, sighting, vehicle, self._ledger, self._settings, where, fault)
        if isinstance(decision, Refusal):
            self._record(refusal_event(decision))
            return decision
        self._ledger.add(decision)
        try:
            self._record(order_event(decision))
        except Exception:
            # It never left: the account is put right, the caller hears why.
            self._ledger.settle(SprayResult(decision.order_id, executed=False, evidence=ev.CANCELLED))
            raise
        self._waiting.append(decision)
        return decision

    def tick(self, now_ns: int, vehicle: VehicleState) -> list[SprayResult]:
        """Hands over waiting orders, withdraws what is no longer permitted, and collects results.

        Returns:
            Results that became known; they are booked and recorded already.
        """
        reasons = self._reasons_to_close(now_ns, vehicle)
        results: list[SprayResult] = []
        if reasons:
            self._sprayer.off(", ".join(reasons))
            results += self._withdraw(", ".join(reasons))
        for order in self._waiting:
            self._under_way[order.order_id] = order
            result = self._sprayer.spray(order)
            if result is not None:
                results.append(result)
        self._waiting.clear()
        if self._interrupts:
            # it came while an order was handed over, and its OFF may have been there before the order
            self._sprayer.off(self._interrupts[0])
        results += self._sprayer.results()
        self._book(now_ns, results)
        if reasons:
            self._record(off_event(now_ns, ", ".join(reasons)))
        return results

    def interrupt(self, reason: str) -> None:
        """Closes the valve at once, from any thread.

        What the link calls on mode change, disarm, reboot and recovery.
        """
        self._interrupts.append(reason)
        self._sprayer.off(reason)

    def drain(self) -> list[Event]:
        """The events since the last call, where no `record` was given."""
        events = list(self._events)
        self._events.clear()
        return events

    def close(self, now_ns: int) -> list[SprayResult]:
        """Closes the valve, ends all orders and releases the sprayer; may be called twice."""
        if self._closed:
            return []
        self._closed = True
        results = self._withdraw("exit")
        self._sprayer.close()
        results += self._sprayer.results()
        known = {result.order_id for result in results}
        results += [
            SprayResult(order_id, executed=False, evidence=ev.NONE, detail="no result before the end")
            for order_id in self._under_way
            if order_id not in known
        ]
        self._book(now_ns, results)
        self._record(off_event(now_ns, "exit"))
        return results

    def _reasons_to_close(self, now_ns: int, vehicle: VehicleState) -> list[str]:
        reasons = [f"{reason} (interrupt)" for reason in self._take_interrupts()]
        last, self._last = self._last, vehicle
        if last is not None:
            if last.mode is not None and vehicle.mode != last.mode:
                reasons.append("mode change")
            if last.armed and vehicle.armed is not True:
                reasons.append("disarm")
        age_ns = vehicle.heartbeat_age_ns
        down = age_ns is None or age_ns > self._settings.limits.heartbeat_max_age_ms * 1_000_000
        if self._link_was_down and not down:
            reasons.append("link recovery")
        self._link_was_down = down
        if self._waiting or self._under_way:
            reasons += still_permitted(now_ns, vehicle, self._settings)
        return reasons

    def _take_interrupts(self) -> list[str]:
        taken: list[str] = []
        while self._interrupts:
            taken.append(self._interrupts.popleft())
        return taken

    def _withdraw(self, reason: str) -> list[SprayResult]:
        withdrawn = [
            SprayResult(order.order_id, executed=False, evidence=ev.CANCELLED, detail=reason) for order in self._waiting
        ]
        self._waiting.clear()
        return withdrawn

    def _book(self, now_ns: int, results: list[SprayResult]) -> None:
        # First the whole account, then the log: a full disk must not leave half the results unbooked.
        for result in results:
            self._ledger.settle(result)
            self._under_way.pop(result.order_id, None)
        for result in results:
            if not result.executed:
                log.warning("order %d not executed: %s (%s)", result.order_id, result.detail, result.evidence)
            for event in result_events(result, now_ns):
                self._record(event)
