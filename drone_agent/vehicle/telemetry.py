"""What does a MAVLink message change in what is known of the vehicle? One answer for recordings and live links.

Only the autopilot speaks: (system id, component 1). Ground stations and other companions on the link are not heard.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymavlink import mavutil
from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.values import GeoPoint, VehicleState
from drone_agent.vehicle.pose import PoseBuffer, Stream
from drone_agent.vehicle.settings import VehicleSettings

_NS = 1_000_000_000
_NS_PER_MS = 1_000_000

AUTOPILOT_COMPONENT = 1

# What is read; everything else on the link is none of our business.
HEARD = frozenset(
    {
        dialect.MAVLINK_MSG_ID_HEARTBEAT,
        dialect.MAVLINK_MSG_ID_SYSTEM_TIME,
        dialect.MAVLINK_MSG_ID_GPS_RAW_INT,
        dialect.MAVLINK_MSG_ID_ATTITUDE,
        dialect.MAVLINK_MSG_ID_LOCAL_POSITION_NED,
        dialect.MAVLINK_MSG_ID_GLOBAL_POSITION_INT,
        dialect.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW,
        dialect.MAVLINK_MSG_ID_RC_CHANNELS,
        dialect.MAVLINK_MSG_ID_TIMESYNC,
        dialect.MAVLINK_MSG_ID_DISTANCE_SENSOR,
        dialect.MAVLINK_MSG_ID_EKF_STATUS_REPORT,
        dialect.MAVLINK_MSG_ID_STATUSTEXT,
        dialect.MAVLINK_MSG_ID_RELAY_STATUS,
    }
)

_FAILING_STATES = frozenset(
    {dialect.MAV_STATE_CRITICAL, dialect.MAV_STATE_EMERGENCY, dialect.MAV_STATE_FLIGHT_TERMINATION}
)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the autopilot's HEARTBEAT says."""

    armed: bool
    mode: str
    failsafe: bool


@dataclass(frozen=True, slots=True)
class StatusText:
    """One line that the autopilot said; `severity` as in syslog (0 emergency to 7 debug)."""

    t_ns: int
    severity: int
    text: str


class Telemetry:
    """Everything that the autopilot said, by time; answers for any instant with what was known then."""

    def __init__(self, settings: VehicleSettings, capacity: int | None = None) -> None:
        """`capacity` bounds every stream (live link); None keeps all (recording)."""
        self._settings = settings
        self.poses = PoseBuffer(settings, capacity)
        self.heartbeats: Stream[Heartbeat] = Stream(capacity)
        self.rc_channels: Stream[tuple[int, ...]] = Stream(capacity)
        self.servos: Stream[tuple[int, ...]] = Stream(capacity)
        self.relays: Stream[tuple[int, int]] = Stream(capacity)
        self.texts: deque[StatusText] = deque(maxlen=capacity)
        self.refused = 0
        self._take: dict[str, Callable[[int, Any], None]] = {
            "HEARTBEAT": self._heartbeat,
            "ATTITUDE": self._attitude,
            "LOCAL_POSITION_NED": self._local,
            "GLOBAL_POSITION_INT": self._geo,
            "GPS_RAW_INT": self._gps,
            "EKF_STATUS_REPORT": self._ekf,
            "DISTANCE_SENSOR": self._distance,
            "RC_CHANNELS": self._rc,
            "SERVO_OUTPUT_RAW": self._servo,
            "RELAY_STATUS": self._relay,
            "STATUSTEXT": self._text,
        }

    def feed(self, message: Any, received_ns: int, boot_offset_ns: int = 0) -> bool:
        """Takes in one message of the autopilot.

        Args:
            message: decoded by pymavlink.
            received_ns: when it came, on the caller's clock; used where the message has no boot time of its own.
            boot_offset_ns: added to the message's boot time to get the caller's clock.

        Returns:
            False if the message holds a number that is none (counted in `refused`); it changed nothing then.
        """
        take = self._take.get(message.get_type())
        if take is None:
            return True
        boot_ms = getattr(message, "time_boot_ms", None)
        t_ns = received_ns if boot_ms is None else boot_ms * _NS_PER_MS + boot_offset_ns
        values = (getattr(message, name) for name in message.get_fieldnames())
        if not all(math.isfinite(value) for value in values if isinstance(value, float)):
            self.refused += 1
            return False
        take(t_ns, message)
        return True

    def _heartbeat(self, t_ns: int, message: Any) -> None:
        armed = bool(message.base_mode & dialect.MAV_MODE_FLAG_SAFETY_ARMED)
        mode = str(mavutil.mode_string_v10(message))
        self.heartbeats.add(t_ns, Heartbeat(armed, mode, message.system_status in _FAILING_STATES))

    def _attitude(self, t_ns: int, message: Any) -> None:
        self.poses.add_attitude(t_ns, message.roll, message.pitch, message.yaw)

    def _local(self, t_ns: int, message: Any) -> None:
        self.poses.add_local(t_ns, message.x, message.y, message.z, (message.vx, message.vy, message.vz))

    def _geo(self, t_ns: int, message: Any) -> None:
        said = message.lat or message.lon or message.alt
        point = GeoPoint(message.lat / 1e7, message.lon / 1e7, message.alt / 1e3) if said else None
        self.poses.add_geo(t_ns, point)

    def _gps(self, t_ns: int, message: Any) -> None:
        satellites = None if message.satellites_visible == 255 else message.satellites_visible
        # MAVLink 1 senders and receivers without an estimate leave h_acc at 0.
        h_acc_m = message.h_acc / 1e3 if 0 < message.h_acc < 0xFFFFFFFF else None
        self.poses.add_gps(t_ns, message.fix_type, satellites, h_acc_m)

    def _ekf(self, t_ns: int, message: Any) -> None:
        self.poses.add_ekf(t_ns, message.flags)

    def _distance(self, t_ns: int, message: Any) -> None:
        forward = message.orientation == dialect.MAV_SENSOR_ROTATION_NONE
        # Readings at the ends of the window mean "nothing in it", not a wall there.
        within = message.min_distance < message.current_distance < message.max_distance
        if forward and within:
            self.poses.add_range(t_ns, message.current_distance / 100)

    def _rc(self, t_ns: int, message: Any) -> None:
        self.rc_channels.add(t_ns, tuple(getattr(message, f"chan{n}_raw") for n in range(1, 19)))

    def _servo(self, t_ns: int, message: Any) -> None:
        self.servos.add(t_ns, tuple(getattr(message, f"servo{n}_raw") for n in range(1, 17)))

    def _relay(self, t_ns: int, message: Any) -> None:
        self.relays.add(t_ns, (message.on, message.present))

    def _text(self, t_ns: int, message: Any) -> None:
        self.texts.append(StatusText(t_ns, message.severity, str(message.text)))

    def vehicle(self, t_ns: int) -> VehicleState:
        """What was known at `t_ns`; ages are counted from it. Velocities along a face are not known here."""
        poses = self.poses
        heartbeat, ekf, gps = self.heartbeats.last(t_ns), poses.ekf.last(t_ns), poses.gps.last(t_ns)
        attitude, local, geo = poses.attitude.last(t_ns), poses.local.last(t_ns), poses.geo.last(t_ns)
        ranged, rc = poses.range.last(t_ns), self.rc_channels.last(t_ns)
        channel = self._settings.rc_switch_channel
        # 0 and 65535 mean that the channel does not exist.
        pwm = rc[1][channel - 1] if rc else 0
        velocity = local[1].velocity if local else None
        yaw = None
        if attitude is not None:
            w, x, y, z = attitude[1]
            yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        h_acc = gps[1].h_acc_m if gps else None
        return VehicleState(
            t_mono_ns=t_ns,
            armed=heartbeat[1].armed if heartbeat else None,
            mode=heartbeat[1].mode if heartbeat else None,
            failsafe=heartbeat[1].failsafe if heartbeat else None,
            heartbeat_age_ns=t_ns - heartbeat[0] if heartbeat else None,
            pose_age_ns=t_ns - min(attitude[0], local[0]) if attitude and local else None,
            range_age_ns=t_ns - ranged[0] if ranged else None,
            ekf_age_ns=t_ns - ekf[0] if ekf else None,
            ekf_flags=ekf[1] if ekf else None,
            fix_type=gps[1].fix_type if gps else None,
            h_acc_m=h_acc,
            range_m=ranged[1] if ranged else None,
            ground_speed_m_s=math.hypot(velocity[0], velocity[1]) if velocity else None,
            height_m=-local[1].down_m if local else None,
            rc_switch_us=pwm if 0 < pwm < 0xFFFF else None,
            rc_age_ns=t_ns - rc[0] if rc else None,
            geo=geo[1] if geo else None,
            yaw=yaw,
            pose_sigma_m=self._settings.position_sigma_m if h_acc is None else h_acc,
        )
