"""What must an operator decide before paint may fly? Every interlock, limit and wire of the marking."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from drone_agent.errors import ConfigError
from drone_agent.marking import polygon
from drone_agent.settings import Settings

Corner = Annotated[tuple[float, float], Field(description="one corner")]

# Flying home or down is never a moment for paint, whoever ordered it.
RETURNING_MODES = frozenset({"RTL", "SMART_RTL", "LAND", "AUTO_RTL", "BRAKE", "THROW", "FLIP"})

_BCM_PINS = range(2, 28)
_MODE = re.compile(r"[A-Z][A-Z0-9_]*")
_WINDOWS = (
    ("range_min_m", "range_max_m"),
    ("height_min_m", "height_max_m"),
    ("ground_speed_min_m_s", "ground_speed_max_m_s"),
)
_CONNECTION = re.compile(r"(tcp|udpout|udpin|udp):[^:\s]+:\d{1,5}|/dev/[^\s:]+(:\d{4,7})?")


class ArmingSwitchSettings(Settings):
    """The second key besides `marking.armed`: something that a person can switch off in flight."""

    source: Literal["rc", "command", "none"] = Field(
        "rc",
        description="who arms the marking in flight: `rc` = a switch of the transmitter (its channel: "
        "`vehicle.rc_switch_channel`), `command` = a MAVLink "
        "command from the ground station (`command_id`), `none` = nobody (bench and replay only, never with paint)",
    )
    rc_on_min_us: int = Field(1700, ge=1000, le=2200, description="lowest pulse that counts as on (us)")
    rc_on_max_us: int = Field(
        2100, ge=1000, le=2200, description="highest pulse that counts as on (us); a receiver's failsafe may lie above"
    )
    rc_max_age_ms: int = Field(
        1000, ge=50, le=5000, description="how old the last RC reading may be (ms); older counts as off"
    )
    command_id: int = Field(
        31010,
        ge=31010,
        le=31014,
        description="MAV_CMD_USER_1 (31010) to MAV_CMD_USER_5 (31014), sent to component 191 with param1 = 1 "
        "(arm) or 0 "
        "(disarm); forgotten when the link is lost or the autopilot restarts",
    )

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.rc_on_min_us >= self.rc_on_max_us:
            raise ValueError(
                f"rc_on_min_us ({self.rc_on_min_us}) must be below rc_on_max_us ({self.rc_on_max_us}): ends swapped?"
            )
        return self


class InterlockSettings(Settings):
    """Which interlocks hold. All do; one may be lifted only on the bench (`marking.bench`), never with paint."""

    vehicle_armed: bool = Field(default=True, description="the vehicle must be armed")
    mode: bool = Field(default=True, description="the flight mode must be in `limits.modes`")
    failsafe: bool = Field(
        default=True, description="no failsafe may be active, and the vehicle may not be returning or landing"
    )
    heartbeat: bool = Field(default=True, description="the autopilot's heartbeat must be fresh")
    pose: bool = Field(default=True, description="the pose must be fresh")
    ekf: bool = Field(default=True, description="the EKF report must be fresh and good")
    position: bool = Field(default=True, description="the position source must be good (GPS fix and accuracy)")
    range_fresh: bool = Field(
        default=True,
        description="the measured range to the wall must be fresh; lifted: `limits.standoff_m` stands in for a "
        "missing one",
    )
    range_window: bool = Field(default=True, description="the range must lie in the nozzle's window")
    incidence: bool = Field(default=True, description="the line of sight must meet the wall steeply enough")
    ground_speed: bool = Field(default=True, description="the ground speed must be within bounds")
    height: bool = Field(default=True, description="the height above ground must be within bounds")
    area: bool = Field(
        default=True, description="mark and impact must lie inside a marking area; no area drawn = no paint"
    )
    cooldown: bool = Field(default=True, description="the pause between two sprays must be kept")
    cell_once: bool = Field(default=True, description="no cell of the structure is marked twice")
    count: bool = Field(default=True, description="the number of sprays a flight is limited")
    open_time: bool = Field(default=True, description="the valve's total open time a flight is limited")
    evidence: bool = Field(default=True, description="the sighting's evidence must pass the marking bound")
    sighting_age: bool = Field(default=True, description="the sighting must be recent")
    uncertainty: bool = Field(default=True, description="the predicted impact must be certain enough")

    def lifted(self) -> tuple[str, ...]:
        """The names of the interlocks that are switched off, in order."""
        return tuple(name for name in type(self).model_fields if not getattr(self, name))


class LimitSettings(Settings):
    """The bounds of the interlocks."""

    modes: tuple[str, ...] = Field(
        ("AUTO", "GUIDED", "LOITER"),
        min_length=1,
        description="flight modes in which paint may leave; RTL, SMART_RTL, LAND and the like are never allowed",
    )
    heartbeat_max_age_ms: int = Field(
        2000, ge=100, le=5000, description="oldest heartbeat of the autopilot (ms; it comes once a second)"
    )
    pose_max_age_ms: int = Field(250, ge=10, le=2000, description="oldest pose (ms); drives the error of the impact")
    range_max_age_ms: int = Field(300, ge=10, le=2000, description="oldest range reading (ms)")
    ekf_max_age_ms: int = Field(1500, ge=50, le=5000, description="oldest EKF_STATUS_REPORT (ms)")
    position_source: Literal["gps", "other"] = Field(
        "gps",
        description="`gps`: fix type and accuracy of GPS_RAW_INT and an absolute EKF position; `other` (optical flow, "
        "motion capture, beacons): a relative or absolute EKF position suffices",
    )
    gps_min_fix: int = Field(
        3, ge=2, le=6, description="lowest GPS fix type (3 = 3D, 4 = DGPS, 5 = RTK float, 6 = RTK fixed)"
    )
    gps_max_h_acc_m: float = Field(
        2.0,
        gt=0,
        le=20,
        description="largest horizontal accuracy that the receiver may state (m); it is over-optimistic at walls",
    )
    standoff_m: float = Field(
        2.0,
        gt=0,
        le=20,
        description="planned distance to the wall (m); used only while `interlocks.range_fresh` is lifted",
    )
    range_min_m: float = Field(0.5, ge=0.1, le=20, description="nearest range at which the nozzle marks (m)")
    range_max_m: float = Field(2.5, ge=0.1, le=20, description="farthest range at which the nozzle marks (m)")
    incidence_max_deg: float = Field(
        30.0, ge=1, le=80, description="largest angle between line of sight and the wall's normal (degrees)"
    )
    ground_speed_min_m_s: float = Field(0.0, ge=0, le=10, description="lowest ground speed (m/s)")
    ground_speed_max_m_s: float = Field(
        1.0, gt=0, le=10, description="highest ground speed (m/s); a pulse of 100 ms smears by a tenth of it"
    )
    height_min_m: float = Field(
        1.0, ge=0, le=500, description="lowest height above the take-off point (m): keeps paint off people"
    )
    height_max_m: float = Field(60.0, gt=0, le=500, description="greatest height above the take-off point (m)")
    min_log_odds: float = Field(
        6.0,
        ge=0,
        le=50,
        description="evidence (log-odds) that a sighting needs for paint; at least the bound of the recording, "
        "usually above",
    )
    min_looks: int = Field(2, ge=1, le=100, description="good looks that a sighting needs for paint")
    sighting_max_age_ms: int = Field(5000, ge=50, le=60_000, description="oldest exposure of a sighting (ms)")

    @field_validator("modes")
    @classmethod
    def _known_modes(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        for mode in modes:
            if not _MODE.fullmatch(mode):
                raise ValueError(
                    f"modes: {mode!r} is no flight mode; write ArduPilot's names in capitals, such as AUTO"
                )
            if mode in RETURNING_MODES:
                raise ValueError(f"modes: {mode} is never allowed for marking (returning, landing or out of control)")
        return modes

    @model_validator(mode="after")
    def _windows(self) -> Self:
        for low, high in _WINDOWS:
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"{low} ({getattr(self, low)}) must be below {high} ({getattr(self, high)}): ends swapped?"
                )
        return self


class FacePolygon(Settings):
    """An area on one face of the structure."""

    face: str = Field("*", min_length=1, description="name of the face; `*` = every face")
    points: tuple[Corner, ...] = Field(description="corners as [along, height] (m on the face), in order, not closed")

    @field_validator("points")
    @classmethod
    def _sound(cls, points: tuple[Corner, ...]) -> tuple[Corner, ...]:
        if (why := polygon.fault(points)) is not None:
            raise ValueError(f"points: the polygon {why}")
        return points


class GeoPolygon(Settings):
    """An area on the map."""

    points: tuple[Corner, ...] = Field(
        description="corners as [latitude, longitude] (degrees, WGS 84), in order, not closed"
    )

    @field_validator("points")
    @classmethod
    def _sound(cls, points: tuple[Corner, ...]) -> tuple[Corner, ...]:
        for lat, lon in points:
            if not (-90 <= lat <= 90 and -180 <= lon <= 180):
                raise ValueError(f"points: [{lat}, {lon}] is no [latitude, longitude] in degrees")
        if points and max(lon for _, lon in points) - min(lon for _, lon in points) >= 180:
            raise ValueError("points: the polygon crosses the 180th meridian; split it there")
        if (why := polygon.fault(points)) is not None:
            raise ValueError(f"points: the polygon {why}")
        return points


class AreaSettings(Settings):
    """Where paint may land. An exclusion always wins, and nothing drawn means nowhere."""

    faces: tuple[FacePolygon, ...] = Field(
        (), description="areas on the face; if any is given, the mark must lie in one"
    )
    geofence: tuple[GeoPolygon, ...] = Field(
        (),
        description="areas on the map; if any is given, place and vehicle must lie in one (besides `faces`, if given)",
    )
    exclude_faces: tuple[FacePolygon, ...] = Field(
        (), description="areas on the face where paint may never land; they win"
    )
    exclude_geo: tuple[GeoPolygon, ...] = Field(
        (), description="areas on the map over which paint may never be released (water, road, people); they win"
    )
    margin_m: float = Field(
        0.10,
        ge=0,
        le=10,
        description="distance that mark and impact must keep from every edge (m): spot radius and drift",
    )


class BudgetSettings(Settings):
    """How much paint a flight may use."""

    open_ms: int = Field(100, ge=10, le=2000, description="length of one pulse (ms); at most `guard.max_open_ms`")
    cooldown_ms: int = Field(2000, ge=100, le=600_000, description="pause from the end of one pulse to the next (ms)")
    max_sprays: int = Field(50, ge=1, le=10_000, description="orders a flight, restarts included")
    max_total_open_ms: int = Field(
        10_000,
        ge=10,
        le=3_600_000,
        description="total open time a flight, restarts included (ms); an order leaves only while "
        "`guard.max_open_ms`, the longest it can ever last, still fits",
    )
    min_spacing_m: float = Field(
        0.0, ge=0, le=10, description="least distance between two marks on a face (m); 0 = only `interlocks.cell_once`"
    )


class NozzleSettings(Settings):
    """Where the nozzle is and how its paint flies; measure it with `drone-agent spray-test` and a paper target."""

    right_m: float = Field(0.0, ge=-2, le=2, description="nozzle to the right of the camera, seen along its axis (m)")
    up_m: float = Field(0.0, ge=-2, le=2, description="nozzle above the camera (m)")
    forward_m: float = Field(0.0, ge=-2, le=2, description="nozzle ahead of the camera (m)")
    aim_right_deg: float = Field(
        0.0, ge=-30, le=30, description="jet turned to the right against the camera's axis (degrees)"
    )
    aim_up_deg: float = Field(
        0.0, ge=-30, le=30, description="jet raised against the camera's axis (degrees); makes up for the paint's fall"
    )
    paint_speed_m_s: float = Field(12.0, ge=1, le=100, description="speed of the paint on its way (m/s)")
    paint_speed_sigma_m_s: float = Field(2.0, ge=0, le=50, description="its standard deviation (m/s)")


class LeadSettings(Settings):
    """When to open so that the paint meets the crack, and how sure that must be."""

    valve_latency_ms: float = Field(
        40.0, ge=0, le=1000, description="from the command to paint at the nozzle (ms); measure it with `spray-test`"
    )
    valve_latency_sigma_ms: float = Field(10.0, ge=0, le=500, description="standard deviation of the latency (ms)")
    min_notice_ms: float = Field(
        50.0, ge=0, le=2000, description="an order needs at least this long to reach the valve (ms); less is `late`"
    )
    max_ahead_ms: float = Field(
        4000.0, ge=10, le=20_000, description="orders are given at most this long ahead (ms); more is `too_early`"
    )
    max_miss_m: float = Field(
        0.10,
        gt=0,
        le=1,
        description="largest distance from predicted impact to crack (m); more is `unreachable` or `late`",
    )
    max_impact_sigma_m: float = Field(
        0.15, gt=0, le=2, description="largest standard deviation of the impact, per axis (m); more is `uncertain`"
    )
    attitude_sigma_deg: float = Field(
        0.5, ge=0, le=20, description="standard deviation of the jet's direction (degrees)"
    )
    speed_sigma_m_s: float = Field(0.05, ge=0, le=5, description="standard deviation of the speed along the wall (m/s)")
    pose_correlation_s: float = Field(
        300.0,
        gt=0,
        le=100_000,
        description="how fast the position error wanders (s, first-order Gauss-Markov): the error that sighting and "
        "spray share cancels",
    )


class GuardSettings(Settings):
    """The dead-man: a process of its own that holds the valve and closes it when anything stops."""

    max_open_ms: int = Field(
        500, ge=10, le=5000, description="the valve never stays open longer, whatever happens (ms)"
    )
    heartbeat_timeout_ms: int = Field(
        200, ge=20, le=250, description="silence of the agent after which the valve closes (ms; at most 250)"
    )
    stall_timeout_ms: int = Field(
        2000,
        ge=100,
        le=10_000,
        description="a main loop that has not come round for this long gets no heartbeat sent for it (ms)",
    )
    late_ms: int = Field(20, ge=0, le=500, description="an opening that is later than this is dropped (ms)")
    silence_timeout_ms: int = Field(
        1000,
        ge=300,
        le=10_000,
        description="a dead-man that says nothing for this long is killed and the valve closed by another process (ms)",
    )
    realtime: bool = Field(
        default=True,
        description="ask for real-time scheduling (SCHED_FIFO); without the right to it the dead-man runs as any "
        "process",
    )
    start_timeout_s: float = Field(10.0, ge=0.5, le=60, description="how long the dead-man may take to start (s)")


class GpioSettings(Settings):
    """A valve driver at a Raspberry Pi's header, through gpiozero."""

    pin: int = Field(17, description="BCM number of the output (2 to 27; 0 and 1 belong to the board's EEPROM)")
    active_high: bool = Field(
        default=True, description="true: high opens the valve. The pull resistor at the driver must hold it closed"
    )
    pin_factory: Literal["lgpio", "pigpio", "rpigpio", "native", "mock"] = Field(
        "lgpio",
        description="gpiozero's pin factory, by name; any other that gpiozero falls back to is an error. `mock` = "
        "no hardware",
    )
    sense_pin: int | None = Field(
        None,
        description="BCM number of an input that tells whether the valve is really open (pressure or current "
        "switch); optional",
    )
    sense_active_high: bool = Field(default=True, description="true: high at `sense_pin` means open")

    @field_validator("pin", "sense_pin")
    @classmethod
    def _known_pin(cls, pin: int | None) -> int | None:
        if pin is not None and pin not in _BCM_PINS:
            raise ValueError(f"{pin} is no usable BCM pin; allowed are {_BCM_PINS.start} to {_BCM_PINS.stop - 1}")
        return pin

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.sense_pin == self.pin:
            raise ValueError(f"sense_pin ({self.sense_pin}) must be another pin than pin")
        return self


class GpiodSettings(Settings):
    """A valve driver at any Linux board's header (Jetson and others), through libgpiod 2."""

    chip: str = Field("/dev/gpiochip0", pattern=r"^/dev/[A-Za-z0-9_./-]+$", description="the chip's character device")
    line: int = Field(17, ge=0, le=1023, description="line offset on the chip (`gpioinfo` lists them)")
    active_high: bool = Field(
        default=True, description="true: high opens the valve. The pull resistor at the driver must hold it closed"
    )
    bias: Literal["as_is", "disabled", "pull_up", "pull_down"] = Field(
        "pull_down", description="the line's own resistor; must pull towards closed where the driver has none"
    )
    consumer: str = Field(
        "crackscout-valve",
        min_length=1,
        max_length=31,
        description="name under which the kernel lists the line's owner",
    )
    sense_line: int | None = Field(
        None, ge=0, le=1023, description="offset of an input that tells whether the valve is really open; optional"
    )
    sense_active_high: bool = Field(default=True, description="true: high at `sense_line` means open")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.sense_line == self.line:
            raise ValueError(f"sense_line ({self.sense_line}) must be another line than line")
        if self.bias == ("pull_up" if self.active_high else "pull_down"):
            raise ValueError(f"bias: {self.bias} would open the valve (active_high is {str(self.active_high).lower()})")
        return self


class MavlinkSprayerSettings(Settings):
    """A valve at the autopilot."""

    method: Literal["repeat_relay", "set_relay", "set_servo", "do_sprayer"] = Field(
        "repeat_relay",
        description="`repeat_relay`: the autopilot itself ends the pulse (first choice); `set_relay`, "
        "`set_servo`: on and off are "
        "sent by the dead-man over `guard_connection`; `do_sprayer`: the farm sprayer, which does not spray below "
        "its own "
        "minimum speed, closes late, and may stay on in a failsafe",
    )
    relay: int = Field(0, ge=0, le=15, description="relay instance, counted from 0 (RELAY1_... is 0)")
    servo: int = Field(
        9, ge=1, le=32, description="servo output, counted from 1; also the evidence for `set_servo` and `do_sprayer`"
    )
    servo_open_us: int = Field(1900, ge=500, le=2500, description="pulse that opens the valve (us)")
    servo_closed_us: int = Field(1100, ge=500, le=2500, description="pulse that closes the valve (us)")
    servo_min_us: int = Field(
        1000, ge=500, le=2500, description="lowest pulse ever sent (us); the autopilot does not clamp"
    )
    servo_max_us: int = Field(
        2000, ge=500, le=2500, description="highest pulse ever sent (us); the autopilot does not clamp"
    )
    guard_connection: str | None = Field(
        None,
        description="a second MAVLink connection which the dead-man process alone uses (`udpout:127.0.0.1:14555`, "
        "`tcp:host:port`, `/dev/serial/by-id/...:115200`); needed for every method but `repeat_relay`",
    )
    ack_timeout_ms: int = Field(500, ge=50, le=5000, description="how long to wait for COMMAND_ACK (ms)")
    evidence_timeout_ms: int = Field(
        700, ge=50, le=5000, description="how long after a command RELAY_STATUS or SERVO_OUTPUT_RAW must show it (ms)"
    )
    evidence_rate_hz: int = Field(
        20, ge=2, le=50, description="rate at which that evidence is asked for (Hz); sets its resolution"
    )

    @field_validator("guard_connection")
    @classmethod
    def _known_port(cls, value: str | None) -> str | None:
        if value is not None and not _CONNECTION.fullmatch(value):
            raise ValueError(
                f"{value!r} is no connection; allowed are tcp:HOST:PORT, udpout:HOST:PORT, udpin:HOST:PORT, "
                f"/dev/...:BAUD"
            )
        if value is not None and not value.startswith("/") and not 0 < int(value.rsplit(":", 1)[1]) < 65536:
            raise ValueError(f"{value!r}: the port must lie between 1 and 65535")
        return value

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.servo_min_us >= self.servo_max_us:
            raise ValueError(
                f"servo_min_us ({self.servo_min_us}) must be below servo_max_us ({self.servo_max_us}): ends swapped?"
            )
        for key in ("servo_open_us", "servo_closed_us"):
            if not self.servo_min_us <= getattr(self, key) <= self.servo_max_us:
                raise ValueError(f"{key} ({getattr(self, key)}) must lie between servo_min_us and servo_max_us")
        if abs(self.servo_open_us - self.servo_closed_us) < 100:
            raise ValueError("servo_open_us and servo_closed_us must differ by at least 100 us to be told apart")
        if self.method != "repeat_relay" and self.guard_connection is None:
            raise ValueError(
                f"guard_connection is needed for method {self.method}: the dead-man must be able to close the "
                f"valve by itself"
            )
        return self


class TraceSettings(Settings):
    """A valve of paper: the whole chain with the dead-man, but each edge is written to a file instead of a pin."""

    path: str = Field(
        "valve-edges.txt",
        min_length=1,
        description="file to which each edge is appended (monotonic ns, level, process)",
    )


class MarkingSettings(Settings):
    """Paint only where and when it is safe, and never a second too long."""

    armed: bool = Field(
        default=False,
        description="the first key: true allows orders at all. Releasing liquid from a drone needs an "
        "authorisation in Switzerland",
    )
    sprayer: Literal["dry_run", "trace", "gpio", "gpiod", "mavlink"] = Field(
        "dry_run",
        description="what moves the valve; `dry_run` records what would have been sprayed, `trace` exercises the "
        "dead-man too",
    )
    bench: bool = Field(
        default=False,
        description="true permits lifted interlocks, for bench and replay; only with a sprayer that cannot paint",
    )
    arming_switch: ArmingSwitchSettings = Field(
        ArmingSwitchSettings(), description="the second key, in a person's hand"
    )
    interlocks: InterlockSettings = Field(InterlockSettings(), description="which interlocks hold")
    limits: LimitSettings = Field(LimitSettings(), description="their bounds")
    area: AreaSettings = Field(AreaSettings(), description="where paint may land")
    budget: BudgetSettings = Field(BudgetSettings(), description="how much paint a flight may use")
    nozzle: NozzleSettings = Field(NozzleSettings(), description="where the nozzle is and how its paint flies")
    lead: LeadSettings = Field(LeadSettings(), description="when to open")
    guard: GuardSettings = Field(GuardSettings(), description="the dead-man")
    gpio: GpioSettings = Field(GpioSettings(), description="used when `sprayer` is `gpio`")
    gpiod: GpiodSettings = Field(GpiodSettings(), description="used when `sprayer` is `gpiod`")
    mavlink: MavlinkSprayerSettings = Field(MavlinkSprayerSettings(), description="used when `sprayer` is `mavlink`")
    trace: TraceSettings = Field(TraceSettings(), description="used when `sprayer` is `trace`")

    @property
    def paints(self) -> bool:
        """Whether the configured sprayer can release paint."""
        if self.sprayer == "gpio":
            return self.gpio.pin_factory != "mock"
        return self.sprayer in {"gpiod", "mavlink"}

    def relaxed(self) -> tuple[str, ...]:
        """The keys of all interlocks that are lifted; empty in flight with paint. Belongs into log and report."""
        lifted = [f"interlocks.{name}" for name in self.interlocks.lifted()]
        if self.arming_switch.source == "none":
            lifted.append("arming_switch.source")
        return tuple(lifted)

    @model_validator(mode="after")
    def _never_paint_with_a_lifted_interlock(self) -> Self:
        lifted = ", ".join(self.relaxed())
        if self.paints and self.bench:
            raise ValueError(f"bench: true is not allowed with sprayer {self.sprayer}; use dry_run or trace")
        if self.paints and lifted:
            raise ValueError(f"{lifted}: no interlock may be lifted with sprayer {self.sprayer}; use dry_run or trace")
        if lifted and not self.bench:
            raise ValueError(f"{lifted}: lifted without `bench: true`")
        return self

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.budget.open_ms > self.guard.max_open_ms:
            raise ValueError(
                f"budget.open_ms ({self.budget.open_ms}) must not exceed guard.max_open_ms ({self.guard.max_open_ms})"
            )
        if self.guard.max_open_ms > self.budget.max_total_open_ms:
            raise ValueError(
                f"guard.max_open_ms ({self.guard.max_open_ms}) must not exceed budget.max_total_open_ms "
                f"({self.budget.max_total_open_ms}): no order could ever leave"
            )
        return self

    def check_evidence(self, recording_log_odds: float) -> None:
        """Refuses a marking bound below the bound at which sightings are recorded (log-odds).

        Raises:
            ConfigError: with the key and both values.
        """
        if self.limits.min_log_odds < recording_log_odds:
            raise ConfigError(
                f"marking.limits.min_log_odds ({self.limits.min_log_odds}) must be at least the evidence at which "
                f"a sighting "
                f"is recorded ({recording_log_odds})"
            )
