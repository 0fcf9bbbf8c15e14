"""How is the autopilot reached, and what is asked of it?"""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from drone_agent.settings import Settings

_CONNECTION = re.compile(r"(tcp|udpout|udpin|udp):[^:\s]+:\d{1,5}|/dev/[^\s:]+(:\d{4,7})?")


class LinkSettings(Settings):
    """The live MAVLink connection."""

    connection: str | None = Field(
        None,
        description="how the autopilot is reached: `/dev/serial/by-id/...:921600`, `udpin:0.0.0.0:14550`, "
        "`udpout:HOST:PORT` or "
        "`tcp:HOST:PORT`; not set: no vehicle",
    )
    heartbeat_timeout_s: float = Field(
        2.5,
        ge=0.5,
        le=30,
        description="silence of the autopilot after which the link counts as lost (s); its heartbeat comes once a "
        "second",
    )
    reconnect_s: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="how long a broken connection is tried again before the agent ends and systemd restarts it (s)",
    )
    attitude_hz: float = Field(25.0, ge=1, le=100, description="rate of ATTITUDE that is asked for (Hz)")
    position_hz: float = Field(20.0, ge=1, le=50, description="rate of LOCAL_POSITION_NED that is asked for (Hz)")
    range_hz: float = Field(20.0, ge=1, le=50, description="rate of DISTANCE_SENSOR that is asked for (Hz)")
    status_hz: float = Field(
        5.0,
        ge=1,
        le=20,
        description="rate of GLOBAL_POSITION_INT, RC_CHANNELS, GPS_RAW_INT and EKF_STATUS_REPORT that is asked "
        "for (Hz)",
    )
    text_per_s: float = Field(
        0.5,
        gt=0,
        le=5,
        description="lines of text sent to the ground station (a second, on average); a flood starves the link",
    )
    text_burst: int = Field(5, ge=1, le=20, description="lines of text that may be sent at once")

    @field_validator("connection")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _CONNECTION.fullmatch(value):
            raise ValueError(
                f"{value!r} is no connection; allowed are /dev/...:BAUD, udpin:HOST:PORT, udpout:HOST:PORT, "
                f"tcp:HOST:PORT"
            )
        if not value.startswith("/") and not 0 < int(value.rsplit(":", 1)[1]) < 65536:
            raise ValueError(f"{value!r}: the port must lie between 1 and 65535")
        return value

    def rates(self) -> dict[str, float]:
        """Message name to rate (Hz)."""
        return {
            "ATTITUDE": self.attitude_hz,
            "LOCAL_POSITION_NED": self.position_hz,
            "DISTANCE_SENSOR": self.range_hz,
            "GLOBAL_POSITION_INT": self.status_hz,
            "RC_CHANNELS": self.status_hz,
            "GPS_RAW_INT": self.status_hz,
            "EKF_STATUS_REPORT": self.status_hz,
        }
