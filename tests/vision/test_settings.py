from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from drone_agent.vision.settings import QualitySettings, TilingSettings, VisionSettings


@pytest.mark.parametrize("model", [VisionSettings, TilingSettings, QualitySettings])
def test_every_key_is_described_and_has_a_default(model: type[BaseModel]) -> None:
    assert all(field.description and not field.is_required() for field in model.model_fields.values())


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"threshold_p": 1.0}, "threshold_p"),
        ({"threads": 0}, "threads"),
        ({"provider": "abacus"}, "provider"),
        ({"tiling": {"overlap": 0.8}}, "tiling.overlap"),
        ({"quality": {"min_sharpness": -1}}, "quality.min_sharpness"),
        ({"quality": {"min_sharpnes": 1}}, "quality.min_sharpnes"),
    ],
)
def test_nonsense_is_refused_with_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VisionSettings.model_validate(values)
    assert ".".join(str(part) for part in caught.value.errors()[0]["loc"]) == key
