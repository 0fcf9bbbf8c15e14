"""What can be set about the camera?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_serializer, model_validator

from drone_agent.camera.redact import redact
from drone_agent.settings import Settings


class CameraSettings(Settings):
    """Where the live frames come from, and when the camera counts as lost."""

    source: Literal["v4l2", "rtsp", "video", "images"] = Field(
        "v4l2",
        description="Kind of source: v4l2 (USB or CSI camera with a /dev/video device), rtsp (network camera), "
        "video (a file), images (a folder of pictures).",
    )
    device: str = Field(
        "/dev/video0",
        min_length=1,
        description="v4l2 only: the device, as a path or a number. Prefer /dev/v4l/by-id/..., which survives a "
        "change of the USB socket.",
    )
    url: str | None = Field(
        None,
        description="rtsp only: the address, rtsp://user:password@host/stream. The password never reaches a log.",
    )
    path: str | None = Field(None, description="video and images only: the file or the folder.")
    width: int = Field(1280, ge=64, le=16384, description="v4l2 only: picture width to ask the camera for (px).")
    height: int = Field(720, ge=64, le=16384, description="v4l2 only: picture height to ask the camera for (px).")
    fps: float = Field(
        10.0,
        gt=0,
        le=240,
        description="Frames a second: asked from a v4l2 camera; for a folder of images, the rate they were taken at, "
        "which gives each its time.",
    )
    fourcc: str | None = Field(
        "MJPG",
        pattern="^[A-Za-z0-9 ]{4}$",
        description="v4l2 only: pixel format to ask for (four letters). MJPG lets USB 2 carry 720p and more; null "
        "leaves the camera's own choice.",
    )
    rtsp_transport: Literal["tcp", "udp"] = Field(
        "tcp", description="rtsp only: tcp loses no packets and lags a little, udp is the other way round."
    )
    open_timeout_ms: int = Field(
        5000, ge=100, le=60000, description="rtsp only: how long opening the stream may take (ms)."
    )
    read_timeout_ms: int = Field(
        3000, ge=100, le=60000, description="rtsp only: how long one frame may take inside the decoder (ms)."
    )
    stall_timeout_ms: int = Field(
        4000,
        ge=200,
        le=120000,
        description="Live sources: without a new frame for this long (ms) the camera counts as stalled and is opened "
        "again. Must be above the time between two frames.",
    )
    reconnect_attempts: int = Field(
        5, ge=0, le=1000, description="Live sources: attempts to open the camera again before the flight log says lost."
    )
    reconnect_first_ms: int = Field(
        500, ge=10, le=60000, description="Live sources: pause before the first new attempt (ms); the next ones double."
    )
    reconnect_max_ms: int = Field(
        8000, ge=10, le=300000, description="Live sources: longest pause between two attempts (ms)."
    )

    # JSON is what goes into session.json, the report and `drone-agent config`.
    @field_serializer("url", when_used="json-unless-none")
    def _without_secrets(self, url: str) -> str:
        return redact(url)

    @model_validator(mode="after")
    def _source_is_complete(self) -> CameraSettings:
        if self.source == "rtsp" and not self.url:
            raise ValueError("camera.url: found nothing, needed with camera.source: rtsp (rtsp://host/stream)")
        if self.source in {"video", "images"} and not self.path:
            raise ValueError(f"camera.path: found nothing, needed with camera.source: {self.source}")
        if self.reconnect_first_ms > self.reconnect_max_ms:
            raise ValueError(
                f"camera.reconnect_first_ms: found {self.reconnect_first_ms}, "
                f"allowed is at most camera.reconnect_max_ms ({self.reconnect_max_ms})"
            )
        if self.source in {"v4l2", "rtsp"} and self.stall_timeout_ms * self.fps < 2000:
            raise ValueError(
                f"camera.stall_timeout_ms: found {self.stall_timeout_ms}, allowed is at least the time of two frames "
                f"({2000 / self.fps:.0f} ms at camera.fps {self.fps:g})"
            )
        return self
