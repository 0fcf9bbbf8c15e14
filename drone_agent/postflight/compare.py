"""How does a recorded flight compare with a wall whose cracks are known?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drone_agent.flightlog.reader import normalised_events
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.postflight.flights import open_flight
from drone_agent.postflight.truth import Comparison, compare, flight_of, load_truth


@dataclass(frozen=True, slots=True)
class FlightComparison:
    """What was found (each find is a mark if the nozzle can reach it), and what was ordered to be painted."""

    finds: Comparison
    orders: Comparison


def compare_flight(flight: Path, truth: Path) -> FlightComparison:
    """Compares a flight folder with `truth` (`truth.json`, or the folder that holds it).

    Raises:
        InputError: either cannot be read, or the flight has no places in metres.
    """
    wall = load_truth(truth / "truth.json" if truth.is_dir() else truth)
    opened = open_flight(flight)
    events = normalised_events(flight)
    found = flight_of([(event["kind"], event["data"]) for event in events], _bound(opened.session))
    impacts = [
        (float(event["data"]["impact"]["along"]), float(event["data"]["impact"]["height"]))
        for event in events
        if event["kind"] == "spray_order"
    ]
    return FlightComparison(compare(wall, found), compare(wall, replace(found, sightings=impacts)))


def comparison_rows(both: FlightComparison) -> list[tuple[str, str]]:
    """The comparison as (measure, value) for a table."""
    found, orders = both.finds, both.orders
    near_cm = f"{100 * found.near_m:.0f} cm"
    return [
        ("5 cm cells with crack found", f"{_percent(found.crack_cells_found)} of {found.crack_cells}"),
        ("... or a neighbouring cell", _percent(found.crack_cells_found_within_one)),
        ("crack within 50 cm of a find", _percent(found.cracks_marked)),
        ("finds on the wall", f"{found.marks} ({found.marks_per_m2:.2f} per m²)"),
        (f"finds within {near_cm} of a crack", _percent(found.marks_near_crack)),
        ("finds on a formwork joint", str(found.marks_on_joint)),
        ("found area farther than two cells from any crack", _percent(found.found_cells_off_crack)),
        ("marks ordered on the wall (dry run)", f"{orders.marks} ({orders.marks_per_m2:.2f} per m²)"),
        (f"marks within {near_cm} of a crack", _percent(orders.marks_near_crack)),
        ("marks on a formwork joint", str(orders.marks_on_joint)),
        ("wall seen", _percent(found.seen_share)),
    ]


def _bound(session: Mapping[str, Any]) -> float:
    config = session.get("config") or {}
    default = InspectionSettings().confirm_log_odds
    return float((config.get("inspection") or {}).get("confirm_log_odds", default))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
