"""Which pictures should the agent refuse, going by where recall falls? The sweep's limits as gates and GSD factors.

The agent does not know how far a picture is out of focus; it measures sharpness and brightness. So a limit is handed on
as the median of that measure over the tiles at the level where recall has fallen. A gate that would also refuse many
undisturbed tiles is no gate; then the level is taken at which the fall is certain, and failing that none, with the
reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from training.evaluation.robustness import Limit, Robustness

Side = Literal["below", "above"]

MAX_REFUSED: Final = 0.05
"""Share of undisturbed tiles that a gate may refuse: in what is refused no crack is found at all, where a gate guards
against a fall of two points. On the recorded wall a gate that refused 8 % of good tiles left 73.3 % of the crack
cells found, one that refused 2 % left 79.2 %."""


@dataclass(frozen=True, slots=True)
class Gates:
    """What the agent is told; None: not measured, not reached, or of no use (see `notes`).

    Attributes:
        min_sharpness: in the agent's measure, below it a tile is refused.
        min_brightness: mean level of green (0-255).
        max_brightness: mean level of green (0-255).
        max_smear_px: length of a motion smear (px of the tile) at which recall has fallen; for choosing speed and
            exposure, in flight a smear shows in the sharpness.
        gsd_factor_min: ground sampling distance relative to the nominal one.
        gsd_factor_max: likewise.
        refused: share of the undisturbed tiles that each gate refuses.
        notes: how each came about, or why it is missing; whole sentences.
    """

    min_sharpness: float | None
    min_brightness: float | None
    max_brightness: float | None
    max_smear_px: float | None
    gsd_factor_min: float | None
    gsd_factor_max: float | None
    refused: dict[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class _Gate:
    """A gate in the making: its value if it is of use, the share of undisturbed tiles it refuses, and how it came."""

    value: float | None
    refused: float | None
    note: str


def gates_of(found: Robustness) -> Gates:
    """The gates that follow from a sweep."""
    gates = {
        "min_sharpness": _sharpness_gate(found),
        "min_brightness": _brightness_gate(found, "below"),
        "max_brightness": _brightness_gate(found, "above"),
        "max_smear_px": _level_gate(found, "motion", "above"),
        "gsd_factor_min": _level_gate(found, "scale", "below"),
        "gsd_factor_max": _level_gate(found, "scale", "above"),
    }
    return Gates(
        **{key: gate.value for key, gate in gates.items()},
        refused={key: gate.refused for key, gate in gates.items() if gate.refused is not None},
        notes=tuple(f"{key}: {gate.note}" for key, gate in gates.items()),
    )


def _sharpness_gate(found: Robustness) -> _Gate:
    """The stricter of what blur and smear ask for."""
    both = [
        _measured_gate(found, name, "above", "sharpness", np.asarray(found.sharpness)) for name in ("focus", "motion")
    ]
    usable = [gate for gate in both if gate.value is not None]
    if usable:
        return max(usable, key=lambda gate: gate.value or 0.0)
    return _Gate(None, None, " ".join(gate.note for gate in both))


def _brightness_gate(found: Robustness, side: Side) -> _Gate:
    return _measured_gate(found, "exposure", side, "brightness", np.asarray(found.brightness))


def _measured_gate(
    found: Robustness,
    name: str,
    side: Side,
    measure: Literal["sharpness", "brightness"],
    undisturbed: npt.NDArray[np.float64],
) -> _Gate:
    """What the agent measures where recall has fallen; if that refuses too much, where it has certainly fallen."""
    limit = _limit(found, name, side)
    if limit is None or limit.level is None:
        return _Gate(None, None, _not_reached(found, name, limit))
    too_strict = ""
    for how, level, at in (
        ("has fallen", limit.level, getattr(limit, measure)),
        ("has fallen with 95 % certainty", limit.latest, getattr(limit, f"{measure}_latest")),
    ):
        if level is None or at is None:
            continue
        wrong_side = undisturbed > at if name == "exposure" and side == "above" else undisturbed < at
        refused = float(wrong_side.mean()) if len(undisturbed) else 0.0
        origin = f"{at:.3g} (median {measure} where recall {how} by {100 * found.fall:g} points, at {name} {level:.2f})"
        if refused <= MAX_REFUSED:
            note = f"{origin}; refuses {100 * refused:.1f} % of the undisturbed tiles.{too_strict}"
            return _Gate(round(at, 4), round(refused, 4), note)
        too_strict += f" {origin} would refuse {100 * refused:.0f} % of the undisturbed tiles."
    return _Gate(None, None, f"none.{too_strict}")


def _level_gate(found: Robustness, name: str, side: Side) -> _Gate:
    """The level itself; for the scale also the sweep's end if recall never falls."""
    limit = _limit(found, name, side)
    if limit is None or limit.level is None:
        known_good = limit.last if limit is not None and name == "scale" else None
        return _Gate(known_good, None, _not_reached(found, name, limit))
    early = f"{limit.earliest:.2f}" if limit.earliest is not None else f"beyond {limit.last:g}"
    late = f"{limit.latest:.2f}" if limit.latest is not None else f"beyond {limit.last:g}"
    note = (
        f"{limit.level:.2f}, where recall has fallen by {100 * found.fall:g} points "
        f"(excluded up to {early}, certain from {late} at 95 %)."
    )
    return _Gate(round(limit.level, 4), None, note)


def _limit(found: Robustness, name: str, side: Side) -> Limit | None:
    sweep = next((item for item in found.sweeps if item.name == name), None)
    return None if sweep is None else sweep.limit("recall", side)


def _not_reached(found: Robustness, name: str, limit: Limit | None) -> str:
    if limit is None:
        return f"none, {name} was not tried in that direction."
    return f"recall did not fall by {100 * found.fall:g} points up to {name} {limit.last:g}, the last level tried."
