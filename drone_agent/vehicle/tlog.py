"""Where was the vehicle at a frame's time, according to a recorded `.tlog`?

A `.tlog` is a row of records: 8 bytes of host time (big-endian, microseconds of unix time) and one MAVLink packet.
A recording may end in the middle of a record (pulled power) and hold damaged stretches: both are survived and reported.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.errors import InputError
from drone_agent.values import NoPose, Pose, VehicleState
from drone_agent.vehicle.clocksync import ClockFit, fit_clock
from drone_agent.vehicle.pose import PoseBuffer
from drone_agent.vehicle.settings import VehicleSettings
from drone_agent.vehicle.telemetry import AUTOPILOT_COMPONENT, HEARD, StatusText, Telemetry

log = logging.getLogger(__name__)

_STAMP = 8
_NS_PER_US = 1000

# Stamps outside 1970 to 2200 are no stamps; a Raspberry Pi without a clock does record in 1970.
_LATEST_STAMP_US = 7_258_118_400_000_000

# A boot time this much before the last one is a restart of the autopilot, not a late packet.
_REBOOT_MS = 5_000


@dataclass(frozen=True, slots=True)
class Record:
    """One packet of a `.tlog`: host time (us of unix time), message id, sender, and where its bytes lie."""

    stamp_us: int
    message_id: int
    system: int
    component: int
    start: int
    end: int


@dataclass(slots=True)
class Damage:
    """What could not be read: bytes skipped in `stretches` places, damaged packets, bytes of a torn end."""

    skipped_bytes: int = 0
    stretches: int = 0
    damaged_packets: int = 0
    torn_bytes: int = 0

    def lines(self) -> list[str]:
        """One line for each kind of damage."""
        said = []
        if self.torn_bytes:
            said.append(f"the last record is torn ({self.torn_bytes} bytes): the recording was cut off")
        if self.skipped_bytes:
            said.append(f"{self.skipped_bytes} bytes in {self.stretches} places are not MAVLink and were skipped")
        if self.damaged_packets:
            said.append(f"{self.damaged_packets} packets are damaged and were left out")
        return said


def records(data: bytes, damage: Damage) -> Iterator[Record]:
    """Yields the packets in order of the file; counts in `damage` what lies between them.

    A header is believed if the next one, or the end, follows where it says; else the search goes on byte by byte.
    """
    at, end = 0, len(data)
    lost = False
    while at + _STAMP < end:
        record = _record_at(data, at)
        if record is None and _cut_off(data, at):
            damage.torn_bytes += end - at
            return
        if record is None or (lost and not _plausible_next(data, record.end)):
            damage.stretches += not lost
            lost = True
            damage.skipped_bytes += 1
            at += 1
            continue
        lost = False
        yield record
        at = record.end
    if at < end:
        damage.torn_bytes += end - at


def _record_at(data: bytes, at: int) -> Record | None:
    start = at + _STAMP
    if start + 10 > len(data):
        magic_ok = start + 8 <= len(data) and data[start] == 0xFE
        if not magic_ok:
            return None
    (stamp_us,) = struct.unpack_from(">Q", data, at)
    magic, length = data[start], data[start + 1]
    if stamp_us > _LATEST_STAMP_US:
        return None
    if magic == 0xFD:
        stop = start + 12 + length + (13 if data[start + 2] & dialect.MAVLINK_IFLAG_SIGNED else 0)
        identity = data[start + 7] | data[start + 8] << 8 | data[start + 9] << 16
        system, component = data[start + 5], data[start + 6]
    elif magic == 0xFE:
        stop = start + 8 + length
        identity, system, component = data[start + 5], data[start + 3], data[start + 4]
    else:
        return None
    return Record(stamp_us, identity, system, component, start, stop) if stop <= len(data) else None


def _cut_off(data: bytes, at: int) -> bool:
    """Whether a record begins at `at` that the file does not hold to its end."""
    start = at + _STAMP
    if start + 2 > len(data):
        return True
    if data[start] not in {0xFD, 0xFE} or struct.unpack_from(">Q", data, at)[0] > _LATEST_STAMP_US:
        return False
    return start + data[start + 1] + 25 >= len(data) > start


def _plausible_next(data: bytes, at: int) -> bool:
    return at == len(data) or _record_at(data, at) is not None or _cut_off(data, at)


class TlogPoseSource:
    """A recorded flight as a `ports.PoseSource`; times are ns of the autopilot's boot clock.

    Attributes:
        problems: what was wrong with the file, one line each; for the log's `telemetry_problem` events.
        clock: the host's clock against the boot clock.
        texts: the autopilot's STATUSTEXT lines, by boot time.
    """

    def __init__(self, path: Path, settings: VehicleSettings | None = None) -> None:
        """Reads the whole file.

        Raises:
            InputError: it cannot be read, is not a `.tlog`, or holds no position of an autopilot.
        """
        self._settings = settings or VehicleSettings()
        self._path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        damage = Damage()
        found = list(records(data, damage))
        if not found:
            what = "is empty" if not data else "holds no MAVLink records"
            raise InputError(f"{path}: {what}; needed is a .tlog (host time and MAVLink packet in turn)")
        self.system_id = self._autopilot(data, found)
        messages = list(self._decode(data, found, damage))
        boots = _split_boots(messages)
        self.problems = damage.lines()
        chosen = max(boots, key=_positions)
        if len(boots) > 1:
            self.problems.append(
                f"the autopilot restarted {len(boots) - 1} times: only the boot with the most positions is used "
                f"({_positions(chosen)} of {sum(map(_positions, boots))})"
            )
        timed = [(stamp / 1e6, message.time_boot_ms / 1e3) for stamp, message in chosen if _has_boot_time(message)]
        if not timed:
            raise InputError(
                f"{path}: holds no positions of autopilot {self.system_id}: nothing says when and where it was"
            )
        unix_s, boot_s = np.array(timed).T
        self.clock: ClockFit = fit_clock(unix_s, boot_s)
        self._telemetry = self._take_in(chosen)
        self._check_content()
        for problem in self.problems:
            log.warning("%s: %s", path, problem)

    def _autopilot(self, data: bytes, found: list[Record]) -> int:
        """The system id: the configured one, or of the first autopilot's heartbeat."""
        wanted = self._settings.system_id
        heard: dict[int, None] = {}
        for record in found:
            if record.component != AUTOPILOT_COMPONENT or record.message_id != dialect.MAVLINK_MSG_ID_HEARTBEAT:
                continue
            # HEARTBEAT's payload: custom_mode (4 bytes), type, autopilot, ...
            payload = record.start + (10 if data[record.start] == 0xFD else 6)
            if data[payload + 5] != dialect.MAV_AUTOPILOT_INVALID:
                heard[record.system] = None
        if wanted is not None and wanted in heard:
            return wanted
        if wanted is None and heard:
            return next(iter(heard))
        who = ", ".join(map(str, heard)) or "none"
        asked = "" if wanted is None else f" with system id {wanted}"
        raise InputError(f"{self._path}: no heartbeat of an autopilot{asked} (heard: {who})")

    def _decode(self, data: bytes, found: list[Record], damage: Damage) -> Iterator[tuple[int, Any]]:
        decoder = dialect.MAVLink(None)
        for record in found:
            mine = record.system == self.system_id and record.component == AUTOPILOT_COMPONENT
            if not mine or record.message_id not in HEARD:
                continue
            try:
                message = decoder.decode(bytearray(data[record.start : record.end]))
            # Payloads that are too short surface as struct errors from inside pymavlink.
            except (dialect.MAVError, struct.error, ValueError):
                damage.damaged_packets += 1
                continue
            yield record.stamp_us, message

    def _take_in(self, messages: list[tuple[int, Any]]) -> Telemetry:
        telemetry = Telemetry(self._settings)
        offset_ns = round(self.clock.offset_s * 1e9)
        for stamp_us, message in messages:
            telemetry.feed(message, stamp_us * _NS_PER_US - offset_ns)
        if telemetry.refused:
            self.problems.append(f"{telemetry.refused} messages hold numbers that are not finite and were left out")
        return telemetry

    def _check_content(self) -> None:
        poses = self._telemetry.poses
        for stream, name in ((poses.attitude, "ATTITUDE"), (poses.local, "LOCAL_POSITION_NED")):
            if not len(stream):
                raise InputError(
                    f"{self._path}: holds no {name} of autopilot {self.system_id}: places cannot be computed"
                )
        for optional, name in (
            (poses.geo, "GLOBAL_POSITION_INT"),
            (poses.ekf, "EKF_STATUS_REPORT"),
            (poses.gps, "GPS_RAW_INT"),
        ):
            if not len(optional):
                self.problems.append(f"no {name}: what it says is not known on this flight")

    @property
    def texts(self) -> list[StatusText]:
        """What the autopilot said, by boot time."""
        return list(self._telemetry.texts)

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last boot time at which attitude and position are known."""
        return self._telemetry.poses.span_ns or (0, 0)

    @property
    def poses(self) -> PoseBuffer:
        """The samples."""
        return self._telemetry.poses

    def at(self, t_mono_ns: int) -> Pose | NoPose:
        """The pose at a boot time; see `PoseBuffer.at`."""
        return self._telemetry.poses.at(t_mono_ns)

    def vehicle(self, t_mono_ns: int) -> VehicleState:
        """What the autopilot had said up to a boot time."""
        return self._telemetry.vehicle(t_mono_ns)

    def describe(self) -> Mapping[str, Any]:
        """File, time covered, numbers of samples, problems."""
        poses = self._telemetry.poses
        first, last = self.span_ns
        return {
            "source": self._path.name,
            "system_id": self.system_id,
            "boot_s": [round(first / 1e9, 3), round(last / 1e9, 3)],
            "attitudes": len(poses.attitude),
            "positions": len(poses.local),
            "ranges": len(poses.range),
            "clock_spread_ms": round(self.clock.spread_s * 1e3, 1),
            "problems": list(self.problems),
        }

    def close(self) -> None:
        """Nothing is held open."""


def _has_boot_time(message: Any) -> bool:
    return message.get_type() in {"ATTITUDE", "LOCAL_POSITION_NED", "GLOBAL_POSITION_INT"}


def _positions(messages: list[tuple[int, Any]]) -> int:
    return sum(message.get_type() == "LOCAL_POSITION_NED" for _, message in messages)


def _split_boots(messages: list[tuple[int, Any]]) -> list[list[tuple[int, Any]]]:
    """Splits where the boot time jumps back: each boot has its own clock and its own local origin."""
    boots: list[list[tuple[int, Any]]] = [[]]
    latest_ms = 0
    for stamp_us, message in messages:
        if _has_boot_time(message):
            if message.time_boot_ms + _REBOOT_MS < latest_ms:
                boots.append([])
                latest_ms = 0
            latest_ms = max(latest_ms, message.time_boot_ms)
        boots[-1].append((stamp_us, message))
    return boots
