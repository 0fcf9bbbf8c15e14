from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drone_agent.inspection.settings import InspectionSettings
from drone_agent.vehicle.settings import CameraMountSettings, SurfaceSettings, VehicleSettings


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"confirm_log_odds": 9.0, "belief_limit": 8.0}, "inspection.confirm_log_odds"),
        ({"min_baseline": 0.3, "full_baseline": 0.1}, "inspection.full_baseline"),
        ({"min_looks": 0}, "min_looks"),
        ({"look_limit": float("nan")}, "look_limit"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_nonsense_is_refused_with_the_key_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        InspectionSettings(**values)


FACE = {"name": "pier", "origin_ned_m": [2, 0, 0], "along_bearing_deg": 90}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"faces": [FACE, FACE]}, "stands twice"),
        ({"faces": [FACE | {"name": "image"}]}, "image"),
        ({"faces": [FACE | {"name": "<b>"}]}, "name"),
        ({"faces": [FACE | {"origin_ned_m": [2, 0]}]}, "origin_ned_m"),
        ({"faces": [FACE | {"origin_ned_m": [1e9, 0, 0]}]}, "origin_ned_m"),
        ({"faces": [FACE | {"length_m": 0}]}, "length_m"),
        ({"standoff_m": 50.0, "max_range_m": 10.0}, "surface.standoff_m"),
        ({"cell_m": 0}, "cell_m"),
    ],
)
def test_a_wall_that_cannot_be_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SurfaceSettings.model_validate(values)


@pytest.mark.parametrize("model", [InspectionSettings, SurfaceSettings, VehicleSettings, CameraMountSettings])
def test_every_key_is_explained(model: type[InspectionSettings]) -> None:
    assert all(field.description for field in model.model_fields.values())
