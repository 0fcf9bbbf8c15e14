"""What travels between the parts: frozen values, each handed from left to right along the path of a frame.

Frames of reference: NED = local north-east-down with the autopilot's EKF origin; body = forward-right-down;
camera = x right, y down, z along the optical axis; face = along the wall (m, to the right for a viewer who
looks at it) and height (m, up). Angles are radians, times monotonic nanoseconds, images BGR uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture and when it was taken.

    `image` is BGR uint8 of shape (height, width, 3). `t_mono_ns` is the time of exposure on the clock of the
    log (in a replay: the autopilot's boot clock of the recording). `dropped_before` counts the frames that the
    source gave up between the previous frame and this one.
    """

    index: int
    t_mono_ns: int
    image: Image
    dropped_before: int = 0
    unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """A WGS 84 position: degrees, and metres above mean sea level."""

    lat_deg: float
    lon_deg: float
    alt_amsl_m: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the vehicle was and which way it looked at one instant.

    Position and velocity in NED (m, m/s); attitude as roll, pitch, yaw (rad, ZYX, body to NED). `sigma_m` is the
    standard deviation of the horizontal position. `gap_ns` is the width of the interval between the telemetry
    samples it was interpolated in. `range_m` is the forward range to the wall where a range finder gave one.
    """

    t_mono_ns: int
    north_m: float
    east_m: float
    down_m: float
    roll: float
    pitch: float
    yaw: float
    vel_north_m_s: float = 0.0
    vel_east_m_s: float = 0.0
    vel_down_m_s: float = 0.0
    geo: GeoPoint | None = None
    range_m: float | None = None
    sigma_m: float = 1.0
    gap_ns: int = 0
    fix_type: int | None = None
    satellites: int | None = None
    h_acc_m: float | None = None
    ekf_flags: int | None = None


@dataclass(frozen=True, slots=True)
class NoPose:
    """Why there is no pose: `reason` is `no_telemetry`, `before_start`, `after_end`, `gap` or `no_position`."""

    t_mono_ns: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VehicleState:
    """What the autopilot last said of itself, as far as paint is concerned.

    Ages are ns since the value was received; None means never. `ground_speed_m_s` is horizontal,
    `height_m` above the EKF origin (-down), `rc_switch` the arming channel's PWM (us).
    """

    t_mono_ns: int
    armed: bool | None = None
    mode: str | None = None
    failsafe: bool | None = None
    heartbeat_age_ns: int | None = None
    pose_age_ns: int | None = None
    range_age_ns: int | None = None
    ekf_age_ns: int | None = None
    ekf_flags: int | None = None
    fix_type: int | None = None
    h_acc_m: float | None = None
    range_m: float | None = None
    ground_speed_m_s: float | None = None
    height_m: float | None = None
    rc_switch_us: int | None = None
    rc_age_ns: int | None = None
    command_armed: bool | None = None
    geo: GeoPoint | None = None
    yaw: float | None = None
    vel_along_m_s: float | None = None
    vel_up_m_s: float | None = None
    pose_sigma_m: float | None = None


class Verdict(StrEnum):
    """What is said of a tile. `UNKNOWN` is never counted as clear."""

    CRACK = "crack"
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Tile:
    """A square of the frame: top left corner and side in pixels of the frame."""

    x_px: int
    y_px: int
    size_px: int


@dataclass(frozen=True, slots=True, eq=False)
class TileScore:
    """How likely a tile shows a crack.

    `logit` is the calibrated log-odds, `p_crack` its logistic; both None when the picture was not good enough,
    then `reason` says why (`blur`, `dark`, `bright`, `flat`, `gsd`, `model`). `cells` (rows x columns, float32) are the
    shares of the logit by place in the tile (with mean pooling their mean is the uncalibrated logit), None where the
    model gives none. `peak_x_px`, `peak_y_px` is the place of the strongest share, in pixels of the frame.
    `threshold_logit` is the threshold as calibrated log-odds: from there on the verdict is crack.
    """

    tile: Tile
    verdict: Verdict
    logit: float | None = None
    p_crack: float | None = None
    reason: str | None = None
    peak_x_px: float | None = None
    peak_y_px: float | None = None
    cells: npt.NDArray[np.float32] | None = None
    threshold_logit: float = 0.0

    @property
    def margin(self) -> float:
        """Log-odds above those of the threshold: from 0 on the verdict is crack; 0 where there are none."""
        return 0.0 if self.logit is None else self.logit - self.threshold_logit


@dataclass(frozen=True, slots=True)
class Place:
    """A place on the structure: metres along the face and height on it; without telemetry pixels of the image.

    `unit` is `m` or `px`; `cell` the (column, row) index in the face's grid.
    """

    face: str
    along: float
    height: float
    cell: tuple[int, int]
    unit: str = "m"


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One tile, seen from one place, put on the structure.

    `quad` (4 x 2, float64) are the tile's corners on the face (along, height), clockwise from the top left in the
    image. `incidence` is the angle between the line of sight and the face's normal (rad), `range_m` the distance,
    `gsd_mm_px` the ground sampling distance, `sigma_m` the standard deviation of the place, `viewpoint` the
    camera's position (along, height, distance from the face; m).
    """

    t_mono_ns: int
    frame_index: int
    score: TileScore
    face: str
    quad: npt.NDArray[np.float64]
    range_m: float
    incidence: float
    gsd_mm_px: float
    sigma_m: float
    viewpoint: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A place on the structure whose evidence for a crack has passed the bound.

    `log_odds` is the accumulated evidence, `looks` the number of good looks behind it, `p_max` the highest score
    of one tile, `sigma_m` the standard deviation of the place on the face. `tile` and `frame_index` name the
    picture that completed the evidence; `geo` is a label, the place is what counts.
    """

    sighting_id: int
    t_mono_ns: int
    frame_index: int
    place: Place
    log_odds: float
    looks: int
    p_max: float
    tile: Tile
    sigma_m: float | None = None
    geo: GeoPoint | None = None
    range_m: float | None = None
    incidence: float | None = None
    gsd_mm_px: float | None = None


@dataclass(frozen=True, slots=True)
class SprayOrder:
    """Open the valve at `open_at_ns` for `open_ms`; the paint is expected at `impact` with `impact_sigma_m`."""

    order_id: int
    sighting_id: int
    t_mono_ns: int
    open_at_ns: int
    open_ms: int
    impact: Place
    impact_sigma_m: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """No paint, and every reason why: `reasons` are codes, `details` says for each what was found and allowed."""

    sighting_id: int
    t_mono_ns: int
    reasons: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SprayResult:
    """What became of an order: measured times where the sprayer can tell, and how it knows (`evidence`)."""

    order_id: int
    executed: bool
    evidence: str
    opened_at_ns: int | None = None
    closed_at_ns: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the flight log: what happened, when, and its particulars (JSON values only)."""

    kind: str
    t_mono_ns: int
    data: Mapping[str, Any] = field(default_factory=dict)
