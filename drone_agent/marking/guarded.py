"""A valve at a pin: every order goes to the dead-man process, which alone holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drone_agent.errors import SprayerError
from drone_agent.marking.guard_client import GuardClient
from drone_agent.values import SprayOrder, SprayResult


class GuardedSprayer:
    """Sprayer for `gpio`, `gpiod` and `trace`.

    Args:
        guard: the dead-man with its valve.
        kind: for the log.
        paints: whether real paint may leave.
    """

    def __init__(self, guard: GuardClient, kind: str, *, paints: bool) -> None:
        self._guard = guard
        self._kind = kind
        self._paints = paints
        self._closed = False

    @property
    def fault(self) -> str | None:
        """What the dead-man found wrong."""
        return self._guard.fault

    def spray(self, order: SprayOrder) -> SprayResult | None:
        """Hands the order to the dead-man ahead of time. Raises SprayerError after `close`."""
        if self._closed:
            raise SprayerError(f"the {self._kind} sprayer is closed: no orders after close()")
        return self._guard.order(order)

    def results(self) -> list[SprayResult]:
        """Results since the last call; also the main loop's sign of life."""
        return self._guard.results()

    def off(self, reason: str) -> None:
        """Closes the valve now; from any thread."""
        self._guard.off(reason)

    def sensed(self, order_id: int) -> tuple[int | None, int | None]:
        """When the sense input saw the valve open and close (ns)."""
        return self._guard.sensed(order_id)

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log."""
        return {"kind": self._kind, "paints": self._paints, "guard": self._guard.facts}

    def close(self) -> None:
        """Closes the valve and ends the dead-man; may be called twice."""
        self._closed = True
        self._guard.close()
