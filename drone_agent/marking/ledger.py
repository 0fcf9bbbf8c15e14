"""How much paint has this flight used, and where: the account that a restart must not forget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drone_agent.values import Event, Place, SprayOrder, SprayResult

CellKey = tuple[str, int, int]

# Evidence with which a sprayer vouches that the valve has not opened at all; everything else counts as paint.
NOT_OPENED = frozenset({"refused", "cancelled"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One order as the account holds it.

    `charged_ns` is what it costs, at least the ordered open time until refuted.
    """

    order_id: int
    sighting_id: int
    open_at_ns: int
    ordered_ns: int
    charged_ns: int
    face: str
    along: float
    height: float
    cell: CellKey | None
    settled: bool


class Ledger:
    """Counts orders, open time and marked cells of one flight.

    An order is charged in full when it is given. Its result can raise the charge (the valve stayed open longer), and
    takes it back only when the sprayer vouches that the valve never opened. No result at all leaves it charged.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._next_order_id = 1
        self._last_close_ns: int | None = None

    @property
    def next_order_id(self) -> int:
        """The id of the next order; ids continue over a restart."""
        return self._next_order_id

    @property
    def count(self) -> int:
        """Orders that may have released paint."""
        return len(self._entries)

    @property
    def open_ns(self) -> int:
        """Total open time that has been ordered or measured (ns)."""
        return sum(entry.charged_ns for entry in self._entries.values())

    def worst_open_ns(self, longest_ns: int) -> int:
        """Total open time (ns) if every order without a result yet lasts as long as the dead-man allows at most."""
        return sum(e.charged_ns if e.settled else max(e.charged_ns, longest_ns) for e in self._entries.values())

    @property
    def last_close_ns(self) -> int | None:
        """When the last pulse ends or ended (monotonic ns); None before the first."""
        return self._last_close_ns

    @property
    def unsettled(self) -> tuple[int, ...]:
        """Orders whose result is not known yet."""
        return tuple(entry.order_id for entry in self._entries.values() if not entry.settled)

    @property
    def marks(self) -> tuple[Entry, ...]:
        """All orders that count, in order."""
        return tuple(self._entries.values())

    def is_marked(self, place: Place) -> bool:
        """Whether the cell of `place` has been marked, or an order for it is on its way."""
        key = (place.face, *place.cell)
        return any(entry.cell == key for entry in self._entries.values())

    def nearest_mark_m(self, face: str, along: float, height: float) -> float:
        """Distance to the nearest mark on the face (m); infinite without one."""
        return min(
            (math.hypot(e.along - along, e.height - height) for e in self._entries.values() if e.face == face),
            default=math.inf,
        )

    def add(self, order: SprayOrder) -> None:
        """Charges an order. Raises ValueError for an id that was used before."""
        if order.order_id < self._next_order_id:
            raise ValueError(f"order {order.order_id} is on the account already; the next is {self._next_order_id}")
        length_ns = order.open_ms * 1_000_000
        self._entries[order.order_id] = Entry(
            order_id=order.order_id,
            sighting_id=order.sighting_id,
            open_at_ns=order.open_at_ns,
            ordered_ns=length_ns,
            charged_ns=length_ns,
            face=order.impact.face,
            along=order.impact.along,
            height=order.impact.height,
            cell=(order.impact.face, *order.impact.cell),
            settled=False,
        )
        self._next_order_id = order.order_id + 1
        self._closes_at(order.open_at_ns + length_ns)

    def settle(self, result: SprayResult) -> None:
        """Books what became of an order; unknown orders are ignored (they were settled before)."""
        entry = self._entries.get(result.order_id)
        if entry is None:
            return
        if not result.executed and result.evidence in NOT_OPENED and result.opened_at_ns is None:
            del self._entries[result.order_id]
            return
        charged = entry.charged_ns
        if result.opened_at_ns is not None and result.closed_at_ns is not None:
            charged = max(charged, result.closed_at_ns - result.opened_at_ns)
        self._entries[result.order_id] = Entry(
            entry.order_id, entry.sighting_id, entry.open_at_ns, entry.ordered_ns, charged,
            entry.face, entry.along, entry.height, entry.cell, settled=True,
        )  # fmt: skip
        if result.closed_at_ns is not None:
            self._closes_at(result.closed_at_ns)

    def _closes_at(self, t_ns: int) -> None:
        self._last_close_ns = t_ns if self._last_close_ns is None else max(self._last_close_ns, t_ns)

    def align_clock(self, now_ns: int) -> None:
        """After a reboot the clock starts anew and old times may lie in the future: the pause starts now."""
        if self._last_close_ns is not None and self._last_close_ns > now_ns:
            self._last_close_ns = now_ns


def restore(events: Iterable[Event | Mapping[str, Any]], now_ns: int) -> Ledger:
    """Rebuilds the account from a flight log, before the first order of a restarted agent may leave.

    Orders without a result count as sprayed for their whole length; damaged events count as well as they can be read:
    an order without a readable length counts with the longest length seen, or a second.

    Args:
        events: the log's events, in order: Event values, or mappings with `kind` and `data` as they stand in the file.
        now_ns: the present on this boot's monotonic clock.

    Returns:
        The ledger; its order ids continue, its cool-down runs from the last close, or from now after a reboot.
    """
    ledger = Ledger()
    cells: dict[int, tuple[int, int]] = {}
    longest_ms = 0
    for event in events:
        kind, data = (event.kind, event.data) if isinstance(event, Event) else (event.get("kind"), event.get("data"))
        if not isinstance(data, Mapping):
            continue
        if kind == "sighting":
            sighting_id, cell = _int(data.get("id")), _cell(data.get("cell"))
            if sighting_id is not None and cell is not None:
                cells[sighting_id] = cell
        elif kind == "spray_order":
            open_ms = _int(data.get("open_ms"))
            open_ms = open_ms if open_ms is not None and open_ms > 0 else longest_ms or 1000
            longest_ms = max(longest_ms, open_ms)
            _restore_order(ledger, data, open_ms, cells, now_ns)
        elif kind == "spray_result":
            _restore_result(ledger, data)
    ledger.align_clock(now_ns)
    return ledger


def _restore_order(
    ledger: Ledger, data: Mapping[str, Any], open_ms: int, cells: Mapping[int, tuple[int, int]], now_ns: int
) -> None:
    order_id = _int(data.get("order_id"))
    # an unreadable id is still an order: it gets the next one
    order_id = ledger.next_order_id if order_id is None or order_id < ledger.next_order_id else order_id
    sighting_id = _int(data.get("sighting_id")) or 0
    raw_impact = data.get("impact")
    impact: Mapping[str, Any] = raw_impact if isinstance(raw_impact, Mapping) else {}
    face = str(impact.get("face", ""))
    cell = _cell(impact.get("cell")) or cells.get(sighting_id)
    open_at_ns = _int(data.get("open_at_ns"))
    ledger.add(
        SprayOrder(
            order_id=order_id,
            sighting_id=sighting_id,
            t_mono_ns=0,
            open_at_ns=now_ns if open_at_ns is None else open_at_ns,
            open_ms=open_ms,
            impact=Place(face, _float(impact.get("along")), _float(impact.get("height")), cell or (-1, -1)),
            impact_sigma_m=0.0,
        )
    )


def _restore_result(ledger: Ledger, data: Mapping[str, Any]) -> None:
    order_id = _int(data.get("order_id"))
    if order_id is None:
        return
    ledger.settle(
        SprayResult(
            order_id=order_id,
            executed=data.get("executed") is not False,
            evidence=str(data.get("evidence", "")),
            opened_at_ns=_int(data.get("opened_at_ns")),
            closed_at_ns=_int(data.get("closed_at_ns")),
        )
    )


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _cell(value: object) -> tuple[int, int] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    col, row = _int(value[0]), _int(value[1])
    return None if col is None or row is None else (col, row)
