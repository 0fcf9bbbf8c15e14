"""Which flight is meant? Opens the folder that was named on the command line."""

from __future__ import annotations

from pathlib import Path

from drone_agent.errors import InputError
from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import SEGMENT_GLOB

_NAMES_SHOWN = 5


def open_flight(folder: Path, *, verify: bool = False) -> Flight:
    """Opens the flight in `folder`; with `verify` its files are held against the manifest.

    Raises:
        InputError: `folder` is not a flight's folder; if flights lie in it, the message names the newest.
        FlightLogError: The log cannot be read.
    """
    if folder.is_dir() and not any(folder.glob(SEGMENT_GLOB)):
        inside = sorted({path.parent.name for path in folder.glob(f"*/{SEGMENT_GLOB}")})
        if inside:
            newest = ", ".join(inside[-_NAMES_SHOWN:])
            raise InputError(f"{folder}: holds {len(inside)} flights, give one of them: {newest}")
    return Flight.open(folder, verify=verify)
