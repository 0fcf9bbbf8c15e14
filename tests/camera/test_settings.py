from typing import Any

import pytest
from pydantic import ValidationError

from drone_agent.camera.settings import CameraSettings


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"source": "rtsp"}, "camera.url"),
        ({"source": "video"}, "camera.path"),
        ({"source": "images"}, "camera.path"),
        ({"reconnect_first_ms": 9000, "reconnect_max_ms": 100}, "camera.reconnect_first_ms"),
        ({"fps": 1.0, "stall_timeout_ms": 500}, "camera.stall_timeout_ms"),
        ({"fps": 0}, "fps"),
        ({"width": -1}, "width"),
        ({"fourcc": "MJPEG"}, "fourcc"),
        ({"source": "webcam"}, "source"),
        ({"framerate": 5}, "framerate"),
    ],
)
def test_nonsense_is_refused_with_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CameraSettings.model_validate(values)
    assert key in str(caught.value)


def test_the_password_of_a_stream_stays_out_of_everything_that_is_written() -> None:
    settings = CameraSettings(source="rtsp", url="rtsp://user:geheim@10.0.0.1/stream")
    assert settings.model_dump(mode="json")["url"] == "rtsp://***@10.0.0.1/stream"
    assert "geheim" not in settings.model_dump_json()
    assert settings.url == settings.model_dump()["url"] == "rtsp://user:geheim@10.0.0.1/stream"


def test_the_defaults_hold_and_every_key_is_described() -> None:
    assert CameraSettings().source == "v4l2"
    assert all(field.description for field in CameraSettings.model_fields.values())
