import pytest
from hypothesis import given
from hypothesis import strategies as st

from drone_agent.camera.redact import redact


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:geheim@10.0.0.5:554/stream1",
        "rtsp://admin:geh@eim@10.0.0.5:554/stream1",
        "rtsp://admin:geheim/geheim@10.0.0.5/stream1",
        "rtsp://10.0.0.5/live?user=admin&password=geheim",
        "rtsp://10.0.0.5/user=admin_password=geheim_channel=1",
        "http://10.0.0.5/video?token=geheim",
        "rtsp://geheim@10.0.0.5/",
    ],
)
def test_no_secret_is_left(url: str) -> None:
    hidden = redact(url)
    assert "geheim" not in hidden
    assert "geh@eim" not in hidden
    assert "eim@" not in hidden
    assert "10.0.0.5" in hidden


def test_an_address_without_secrets_stays_as_it_is() -> None:
    assert redact("rtsp://10.0.0.5:554/stream1?profile=2") == "rtsp://10.0.0.5:554/stream1?profile=2"
    assert redact("/dev/video0") == "/dev/video0"


@given(st.text(min_size=6), st.text(min_size=6))
def test_user_and_password_never_survive(user: str, password: str) -> None:
    hidden = redact(f"rtsp://{user}:{password}@camera.local/stream")
    assert hidden == "rtsp://***@camera.local/stream"
