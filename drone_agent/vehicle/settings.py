"""Whose telemetry is believed and for how long, how is the camera mounted, and which wall is inspected?"""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from drone_agent.settings import Settings
from drone_agent.vehicle.link_settings import LinkSettings

Vector = tuple[float, float, float]


class CameraMountSettings(Settings):
    """Optics and how the camera sits on the vehicle; a calibration (`--camera camera.json`) overrides the optics."""

    hfov_deg: float = Field(
        62.0,
        description="Horizontal field of view (degrees), used where there is no calibration and focal_px is not set. "
        "Decides the scale of every place on the wall.",
        gt=1,
        lt=170,
    )
    focal_px: float | None = Field(
        None,
        description=(
            "Focal length in pixels of the video as it is processed; overrides hfov_deg. Focal length (mm) / pixel "
            "pitch (mm)."
        ),
        gt=10,
        le=100_000,
    )
    roll_deg: float = Field(
        0.0, description="Turn of the camera about its optical axis against the vehicle (degrees).", ge=-180, le=180
    )
    pitch_deg: float = Field(
        0.0,
        description="Tilt of the optical axis above the vehicle's forward axis (degrees; -90 looks straight down).",
        ge=-90,
        le=90,
    )
    yaw_deg: float = Field(
        0.0,
        description="Turn of the optical axis to the right of the vehicle's forward axis (degrees).",
        ge=-180,
        le=180,
    )
    offset_m: Vector = Field(
        (0.0, 0.0, 0.0),
        description="The camera's position on the vehicle, seen from the autopilot: forward, right, down (m).",
    )

    @model_validator(mode="after")
    def _on_the_vehicle(self) -> Self:
        if max(abs(value) for value in self.offset_m) > 10:
            raise ValueError(f"offset_m is {list(self.offset_m)}, allowed are values between -10 and 10 m")
        return self


class VehicleSettings(Settings):
    """What is believed of the autopilot's telemetry."""

    system_id: int | None = Field(
        None,
        description="MAVLink system id of the autopilot; not set: the first autopilot that is heard.",
        ge=1,
        le=255,
    )
    max_pose_gap_s: float = Field(
        0.3,
        description="Longest interval between two telemetry samples in which a pose is interpolated (s). A frame in a "
        "longer gap counts as not seen.",
        gt=0,
        le=5,
    )
    max_clock_offset_s: float = Field(
        1.0,
        description=(
            "How far frames.csv and telemetry may disagree about the host's clock at the same boot time (s) before "
            "they are taken for different flights."
        ),
        gt=0,
        le=3600,
    )
    min_fix_type: int = Field(
        3,
        description=(
            "Lowest GPS_RAW_INT.fix_type at which the position is believed (3 = 3D fix); 0 does not ask, for "
            "vehicles that find their position without GNSS."
        ),
        ge=0,
        le=8,
    )
    position_sigma_m: float = Field(
        1.0,
        description=(
            "Standard deviation of the horizontal position where the receiver does not state one (m). Ends in the "
            "stated accuracy of every place."
        ),
        gt=0,
        le=100,
    )
    attitude_sigma_deg: float = Field(
        0.5,
        description="Standard deviation of roll, pitch and yaw (degrees). At 2 m, 1 degree moves a place by 3.5 cm.",
        ge=0,
        le=45,
    )
    range_sigma_m: float = Field(0.05, description="Standard deviation of the forward range finder (m).", ge=0, le=10)
    max_range_age_s: float = Field(
        0.5, description="Oldest range that is still used for a frame (s); older: none.", gt=0, le=10
    )
    rc_switch_channel: int = Field(
        7, description="RC channel whose position is reported as the marking switch (1 to 18).", ge=1, le=18
    )
    link: LinkSettings = Field(default_factory=LinkSettings, description="The live connection to the autopilot.")
    mount: CameraMountSettings = Field(
        default_factory=CameraMountSettings, description="Optics and place of the camera."
    )


class FaceSettings(Settings):
    """One flat, vertical face of the structure."""

    name: str = Field(
        description="Name of the face in log and report, for example `pier-2-north`.",
        min_length=1,
        max_length=60,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$",
    )
    origin_ned_m: Vector = Field(
        description="The face's lower left corner for a viewer who looks at it: north, east, down from the autopilot's "
        "local origin (m). Along and height count from here."
    )
    along_bearing_deg: float = Field(
        description=(
            "Compass bearing in which the face runs to the right for a viewer who looks at it (degrees; 90 for a "
            "wall seen looking north)."
        ),
        ge=-360,
        le=360,
    )
    length_m: float | None = Field(
        None,
        description="Length of the face (m); not set: without end. What lies beyond is not inspected.",
        gt=0,
        le=10_000,
    )
    height_m: float | None = Field(
        None,
        description="Height of the face (m); not set: without end. What lies beyond is not inspected.",
        gt=0,
        le=1000,
    )

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if max(abs(value) for value in self.origin_ned_m) > 100_000:
            raise ValueError(
                f"origin_ned_m is {list(self.origin_ned_m)}, allowed are values between -100000 and 100000 m"
            )
        return self

    @property
    def along_bearing(self) -> float:
        """The bearing in radians."""
        return math.radians(self.along_bearing_deg)


class SurfaceSettings(Settings):
    """The wall that is inspected."""

    faces: tuple[FaceSettings, ...] = Field(
        (),
        description=(
            "The faces of the structure. Empty: one face is fitted, upright and square to the direction the camera "
            "looks in, at the measured range or at standoff_m."
        ),
        max_length=64,
    )
    standoff_m: float = Field(
        2.0,
        description=(
            "Distance from the camera to the wall where no face is given and no range finder reports (m). Decides "
            "the scale of every place."
        ),
        gt=0.1,
        le=100,
    )
    standoff_sigma_m: float = Field(
        0.3, description="Standard deviation of standoff_m (m); ends in the stated accuracy.", ge=0, le=50
    )
    cell_m: float = Field(
        0.05, description="Side of one cell on the wall (m): the smallest place that is told apart.", ge=0.005, le=1
    )
    max_incidence_deg: float = Field(
        60.0,
        description=(
            "Steepest angle between the line of sight and the wall's normal at which a picture counts (degrees)."
        ),
        gt=0,
        le=85,
    )
    max_range_m: float = Field(
        30.0,
        description="Farthest place on the wall that a picture can show (m); farther counts as not seen.",
        gt=0.2,
        le=1000,
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [face.name for face in self.faces]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"surface.faces: the name {name!r} stands twice, allowed is each name once")
            if name == "image":
                raise ValueError("surface.faces: the name 'image' is kept for recordings without telemetry")
        if self.standoff_m > self.max_range_m:
            raise ValueError(
                f"surface.standoff_m is {self.standoff_m:g}, allowed is surface.max_range_m "
                f"({self.max_range_m:g}) or less"
            )
        return self
