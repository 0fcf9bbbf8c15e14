"""What would have been sprayed? A sprayer that only keeps the times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking import sprayer as ev
from drone_agent.ports import Clock
from drone_agent.values import SprayOrder, SprayResult


class DryRunSprayer:
    """Executes orders in thought, on the given clock: deterministic in a replay."""

    def __init__(self, clock: Clock, max_open_ms: int = 5000) -> None:
        self._max_open_ms = max_open_ms
        self._clock = clock
        self._active: SprayOrder | None = None
        self._done: list[SprayResult] = []
        self._closed = False

    @property
    def fault(self) -> str | None:
        """Nothing here can break."""
        return None

    def spray(self, order: SprayOrder) -> SprayResult | None:
        """Starts `order`; its result comes when the clock has passed its end. Raises SprayerError after `close`."""
        if self._closed:
            raise SprayerError("the dry-run sprayer is closed: no orders after close()")
        self._advance()
        if self._active is not None:
            return SprayResult(order.order_id, executed=False, evidence=ev.REFUSED, detail="another order is under way")
        if not 0 < order.open_ms <= self._max_open_ms:
            detail = f"{order.open_ms} ms, allowed are 1 to {self._max_open_ms}"
            return SprayResult(order.order_id, executed=False, evidence=ev.REFUSED, detail=detail)
        self._active = order
        return None

    def results(self) -> list[SprayResult]:
        """Results of orders whose end has passed since the last call."""
        self._advance()
        done, self._done = self._done, []
        return done

    def off(self, reason: str) -> None:
        """Ends the current order now."""
        self._advance()
        order, self._active = self._active, None
        if order is None:
            return
        now_ns = self._clock.now_mono_ns()
        if now_ns <= order.open_at_ns:
            self._done.append(SprayResult(order.order_id, executed=False, evidence=ev.CANCELLED, detail=reason))
        else:
            self._done.append(self._result(order, now_ns, reason))

    def sensed(self, order_id: int) -> tuple[int | None, int | None]:  # noqa: ARG002 - the protocol's signature
        """No sense input."""
        return None, None

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {"kind": "dry_run", "paints": False}

    def close(self) -> None:
        """Ends the current order; may be called twice."""
        if not self._closed:
            self.off("close")
            self._closed = True

    def _advance(self) -> None:
        order = self._active
        if order is not None and self._clock.now_mono_ns() >= order.open_at_ns + order.open_ms * 1_000_000:
            self._active = None
            self._done.append(self._result(order, order.open_at_ns + order.open_ms * 1_000_000, "end of order"))

    @staticmethod
    def _result(order: SprayOrder, closed_at_ns: int, detail: str) -> SprayResult:
        return SprayResult(
            order.order_id,
            executed=True,
            evidence=ev.DRY_RUN,
            opened_at_ns=order.open_at_ns,
            closed_at_ns=closed_at_ns,
            detail=detail,
        )
