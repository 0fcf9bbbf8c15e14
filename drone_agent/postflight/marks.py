"""What became of each sighting's mark? Orders, results and refusals, put together for one sighting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import OrderRecord, RefusalRecord, ResultRecord

# what a sprayer says of its evidence, as people read it
EVIDENCE_TEXT: Mapping[str, str] = {
    "dry_run": "dry run, no paint",
    "commanded": "commanded, no read-back",
    "read_back": "output read back",
    "sensed": "valve sensed",
    "relay_status": "relay reported by the autopilot",
    "servo_output": "servo reported by the autopilot",
    "refused": "not taken by the sprayer",
    "cancelled": "withdrawn before the opening",
    "none": "no evidence either way",
}

_NORMAL_END = "end of order"


class MarkState(StrEnum):
    """How far a mark got."""

    PAINTED = "painted"
    DRY_RUN = "dry run"
    UNCONFIRMED = "ordered, no result"
    FAILED = "ordered, not executed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Mark:
    """The fate of one sighting's mark.

    `along`, `height` is where paint was expected (None for a refusal), `sigma_m` how sure that was. `reasons` and
    `details` are those of the last refusal, `refusals` how often it was refused.
    """

    sighting_id: int
    state: MarkState
    detail: str
    face: str | None = None
    along: float | None = None
    height: float | None = None
    sigma_m: float | None = None
    open_ms: float | None = None
    reasons: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    refusals: int = 0


def marks_by_sighting(flight: Flight) -> dict[int, Mark]:
    """The mark of each sighting for which paint was considered; an order counts more than refusals before it."""
    results = {result.order_id: result for result in flight.results}
    refused: dict[int, list[RefusalRecord]] = {}
    for refusal in flight.refusals:
        refused.setdefault(refusal.sighting_id, []).append(refusal)
    marks = {number: _refused(number, refusals) for number, refusals in refused.items()}
    for order in flight.orders:
        times = len(refused.get(order.sighting_id, ()))
        marks[order.sighting_id] = _ordered(order, results.get(order.order_id), times)
    return dict(sorted(marks.items()))


def _refused(number: int, refusals: list[RefusalRecord]) -> Mark:
    last = refusals[-1]
    detail = "; ".join(last.details) or ", ".join(last.reasons)
    return Mark(number, MarkState.REFUSED, detail, reasons=last.reasons, details=last.details, refusals=len(refusals))


def _ordered(order: OrderRecord, result: ResultRecord | None, refusals: int) -> Mark:
    measured: float | None = None
    if result is None:
        state, detail = MarkState.UNCONFIRMED, "the log has no result of this order"
    else:
        detail = EVIDENCE_TEXT.get(result.evidence, result.evidence)
        if result.detail and result.detail != _NORMAL_END:
            detail = f"{detail}: {result.detail}" if detail else result.detail
        if result.evidence == "dry_run":
            state = MarkState.DRY_RUN
        else:
            state = MarkState.PAINTED if result.executed else MarkState.FAILED
        if result.opened_at_ns is not None and result.closed_at_ns is not None:
            measured = (result.closed_at_ns - result.opened_at_ns) / 1e6
    impact = order.impact
    return Mark(
        sighting_id=order.sighting_id,
        state=state,
        detail=detail,
        face=impact.face if impact else None,
        along=impact.along if impact else None,
        height=impact.height if impact else None,
        sigma_m=order.impact_sigma_m,
        open_ms=float(order.open_ms) if measured is None else measured,
        refusals=refusals,
    )
