"""How does a recorded flight compare with a wall whose cracks are known?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from drone_agent.flightlog.reader import normalised_events
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.postflight.flights import open_flight
from drone_agent.postflight.truth import Comparison, compare, flight_of, load_truth


def compare_flight(flight: Path, truth: Path) -> Comparison:
    """Compares a flight folder with `truth` (`truth.json`, or the folder that holds it).

    Raises:
        InputError: either cannot be read, or the flight has no places in metres.
    """
    return compare(
        load_truth(truth / "truth.json" if truth.is_dir() else truth),
        flight_of(_kinds_and_data(flight), _bound(flight)),
    )


def comparison_rows(found: Comparison) -> list[tuple[str, str]]:
    """The comparison as (measure, value) for a table."""
    near_cm = f"{100 * found.near_m:.0f} cm"
    return [
        ("5 cm cells with crack found", f"{_percent(found.crack_cells_found)} of {found.crack_cells}"),
        ("... or a neighbouring cell", _percent(found.crack_cells_found_within_one)),
        ("crack within 50 cm of a find", _percent(found.cracks_marked)),
        ("finds on the wall", f"{found.marks} ({found.marks_per_m2:.2f} per m²)"),
        (f"finds within {near_cm} of a crack", _percent(found.marks_near_crack)),
        ("finds on a formwork joint", str(found.marks_on_joint)),
        ("found area farther than two cells from any crack", _percent(found.found_cells_off_crack)),
        ("wall seen", _percent(found.seen_share)),
    ]


def _kinds_and_data(flight: Path) -> list[tuple[str, dict[str, Any]]]:
    open_flight(flight)
    return [(event["kind"], event["data"]) for event in normalised_events(flight)]


def _bound(flight: Path) -> float:
    config = open_flight(flight).session.get("config") or {}
    default = InspectionSettings().confirm_log_odds
    return float((config.get("inspection") or {}).get("confirm_log_odds", default))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
