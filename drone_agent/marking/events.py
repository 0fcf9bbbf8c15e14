"""What does the flight log say about marking? Orders, refusals, openings and closings as events."""

from __future__ import annotations

from drone_agent.values import Event, Refusal, SprayOrder, SprayResult


def order_event(order: SprayOrder) -> Event:
    """`spray_order`: when the valve is to open, for how long, and where the paint is expected (m on the face)."""
    return Event(
        "spray_order",
        order.t_mono_ns,
        {
            "order_id": order.order_id,
            "sighting_id": order.sighting_id,
            "open_at_ns": order.open_at_ns,
            "open_ms": order.open_ms,
            "impact": {
                "face": order.impact.face,
                "along": order.impact.along,
                "height": order.impact.height,
                "cell": list(order.impact.cell),
            },
            "impact_sigma_m": order.impact_sigma_m,
        },
    )


def refusal_event(refusal: Refusal) -> Event:
    """`spray_refused`: every reason, and for each what was found and what is allowed."""
    return Event(
        "spray_refused",
        refusal.t_mono_ns,
        {
            "sighting_id": refusal.sighting_id,
            "reasons": list(refusal.reasons),
            "details": list(refusal.details),
        },
    )


def result_events(result: SprayResult, now_ns: int) -> list[Event]:
    """`valve_opened` and `valve_closed` at their measured times, then `spray_result` with the measured duration."""
    events: list[Event] = []
    measured_ms: float | None = None
    if result.opened_at_ns is not None:
        events.append(
            Event("valve_opened", result.opened_at_ns, {"order_id": result.order_id, "evidence": result.evidence})
        )
        if result.closed_at_ns is not None:
            measured_ms = round((result.closed_at_ns - result.opened_at_ns) / 1e6, 3)
    if result.closed_at_ns is not None:
        events.append(
            Event(
                "valve_closed",
                result.closed_at_ns,
                {
                    "order_id": result.order_id,
                    "evidence": result.evidence,
                    "measured_ms": measured_ms,
                    "reason": result.detail,
                },
            )
        )
    events.append(
        Event(
            "spray_result",
            now_ns,
            {
                "order_id": result.order_id,
                "executed": result.executed,
                "evidence": result.evidence,
                "opened_at_ns": result.opened_at_ns,
                "closed_at_ns": result.closed_at_ns,
                "measured_ms": measured_ms,
                "detail": result.detail,
            },
        )
    )
    return events


def off_event(now_ns: int, reason: str) -> Event:
    """`valve_off`: the valve was told to close outside the end of a pulse."""
    return Event("valve_off", now_ns, {"reason": reason})
