from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.errors import InputError
from drone_agent.values import NoPose, Pose
from drone_agent.vehicle.settings import VehicleSettings
from drone_agent.vehicle.tlog import Damage, TlogPoseSource, records
from tests.vehicle.tlogs import Recording, flight

Write = Callable[[bytes], Path]

WALL_01 = Path(__file__).parents[3] / "shared" / "flight" / "wall-01" / "telemetry.tlog"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(data: bytes) -> Path:
        path = tmp_path / "telemetry.tlog"
        path.write_bytes(data)
        return path

    return _write


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def test_a_pose_between_two_samples_follows_the_flight(write: Write) -> None:
    source = TlogPoseSource(write(flight().data))
    pose = source.at(ns(13.333))
    assert isinstance(pose, Pose)
    assert pose.east_m == pytest.approx(0.4 * 3.333, abs=1e-3)
    assert pose.down_m == pytest.approx(-2.0)
    assert pose.roll == pytest.approx(0.1 * math.sin(13.333), abs=1e-4)
    assert pose.gap_ns == 20_000_000
    assert pose.geo is not None
    assert pose.geo.lat_deg == pytest.approx(47.4814)
    assert pose.geo.alt_amsl_m == pytest.approx(380.1)
    assert pose.h_acc_m == pose.sigma_m == pytest.approx(0.3)
    assert source.problems == []


@pytest.mark.parametrize(("at_s", "reason"), [(9.9, "before_start"), (20.1, "after_end"), (15.5, "gap")])
def test_no_pose_is_invented_where_telemetry_is_missing(write: Write, at_s: float, reason: str) -> None:
    source = TlogPoseSource(write(flight(hold=lambda t: 15.1 < t < 15.9).data))
    answer = source.at(ns(at_s))
    assert isinstance(answer, NoPose)
    assert answer.reason == reason


def test_a_gap_up_to_the_setting_is_bridged(write: Write) -> None:
    path = write(flight(hold=lambda t: 15.1 < t < 15.9).data)
    assert isinstance(TlogPoseSource(path, VehicleSettings(max_pose_gap_s=1.0)).at(ns(15.5)), Pose)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.ekf(10.5, flags=0xA7), "EKF_STATUS_REPORT"),
        (lambda r: r.ekf(10.5, flags=0x400), "EKF_STATUS_REPORT"),
        (lambda r: r.gps(10.5, fix=1), "GPS fix type 1"),
        (lambda r: r.geo(10.5, 0, 0, 0), "GLOBAL_POSITION_INT"),
    ],
)
def test_no_pose_while_the_autopilot_has_no_position(
    write: Write, spoil: Callable[[Recording], Recording], said: str
) -> None:
    recording = Recording().heartbeat(10.0)
    for tick in range(50):
        recording.attitude(10 + tick * 0.02).local(10 + tick * 0.02)
    recording.ekf(10.1).gps(10.1).geo(10.1)
    spoil(recording)
    source = TlogPoseSource(write(recording.data))
    assert isinstance(source.at(ns(10.3)), Pose)
    answer = source.at(ns(10.7))
    assert isinstance(answer, NoPose)
    assert answer.reason == "no_position"
    assert said in answer.detail


def test_gps_is_not_asked_where_the_vehicle_flies_without(write: Write) -> None:
    recording = Recording().heartbeat(10.0).gps(10.0, fix=0)
    for tick in range(50):
        recording.attitude(10 + tick * 0.02).local(10 + tick * 0.02)
    path = write(recording.data)
    assert isinstance(TlogPoseSource(path).at(ns(10.5)), NoPose)
    assert isinstance(TlogPoseSource(path, VehicleSettings(min_fix_type=0)).at(ns(10.5)), Pose)


def test_a_torn_tail_loses_only_the_last_record_and_is_reported(write: Write) -> None:
    whole = flight()
    source = TlogPoseSource(write(whole.data[:-7]))
    assert isinstance(source.at(ns(19.9)), Pose)
    assert len(source.problems) == 1
    assert "torn" in source.problems[0]


def test_garbage_in_the_middle_is_skipped_and_reported(write: Write) -> None:
    first, second = flight(10, 15), flight(15.02, 20)
    source = TlogPoseSource(write(first.data + bytes(range(1, 200)) + second.data))
    assert isinstance(source.at(ns(14.0)), Pose)
    assert isinstance(source.at(ns(16.0)), Pose)
    assert any("not MAVLink" in problem for problem in source.problems)


def test_a_packet_with_a_wrong_checksum_is_left_out_and_reported(write: Write) -> None:
    recording = flight(10, 11)
    at = len(recording.data)
    recording.local(11.02, (500.0, 0.0, 0.0)).attitude(11.02)
    data = bytearray(recording.data)
    data[at + 8 + 12] ^= 0xFF
    source = TlogPoseSource(write(bytes(data)))
    assert isinstance(source.at(ns(11.01)), NoPose)
    assert any("damaged" in problem for problem in source.problems)


def test_numbers_that_are_none_are_left_out_and_reported(write: Write) -> None:
    recording = flight(10, 11)
    recording.local(11.0, (math.nan, 0.0, 0.0)).attitude(11.02)
    source = TlogPoseSource(write(recording.data))
    assert any("not finite" in problem for problem in source.problems)
    pose = source.at(ns(10.99))
    assert isinstance(pose, Pose)
    assert math.isfinite(pose.north_m)


def test_other_systems_on_the_link_are_not_believed(write: Write) -> None:
    recording = flight(10, 12)
    stranger = dialect.MAVLink(None, srcSystem=1, srcComponent=191)
    for tick in range(100):
        t = 10.01 + tick * 0.02
        recording.add(
            t, dialect.MAVLink_local_position_ned_message(round(t * 1e3), 99, 99, 99, 0, 0, 0), sender=stranger
        )
    pose = TlogPoseSource(write(recording.data)).at(ns(11.0))
    assert isinstance(pose, Pose)
    assert pose.north_m == pytest.approx(0.0)


def test_a_ground_station_is_not_taken_for_the_autopilot(write: Write) -> None:
    station = dialect.MAVLink(None, srcSystem=255, srcComponent=1)
    recording = Recording()
    recording.add(9.0, dialect.MAVLink_heartbeat_message(6, dialect.MAV_AUTOPILOT_INVALID, 0, 0, 4, 3), sender=station)
    source = TlogPoseSource(write(recording.data + flight().data))
    assert source.system_id == 1


def test_only_the_longest_boot_is_used_and_the_restart_is_reported(write: Write) -> None:
    short = flight(30, 32)
    long = flight(10, 20, unix_at_boot_s=1_795_351_400.0)
    source = TlogPoseSource(write(short.data + long.data))
    assert isinstance(source.at(ns(15)), Pose)
    assert isinstance(source.at(ns(31)), NoPose)
    assert any("restarted" in problem for problem in source.problems)


def test_the_vehicles_state_is_what_had_been_said_by_then(write: Write) -> None:
    recording = flight(10, 12)
    recording.distance(10.5, 2.05).rc(10.4).heartbeat(11.01, armed=False, mode=6, status=5)
    source = TlogPoseSource(write(recording.data))
    before, after = source.vehicle(ns(10.6)), source.vehicle(ns(11.5))
    assert (before.armed, before.mode, before.failsafe) == (True, "GUIDED", False)
    assert (after.armed, after.mode, after.failsafe) == (False, "RTL", True)
    assert before.range_m == pytest.approx(2.05)
    assert before.range_age_ns == pytest.approx(0.1e9, abs=2e6)
    assert before.rc_switch_us == 1900
    assert before.ground_speed_m_s == pytest.approx(0.4)
    assert before.height_m == pytest.approx(2.0)
    assert before.heartbeat_age_ns == pytest.approx(0.6e9, abs=2e6)
    assert source.vehicle(ns(9.0)).heartbeat_age_ns is None


def test_only_a_fresh_forward_range_is_used(write: Write) -> None:
    recording = flight(10, 12)
    recording.distance(10.5, 2.05).distance(10.52, 9.0, orientation=25)
    source = TlogPoseSource(write(recording.data))
    fresh, old = source.at(ns(10.6)), source.at(ns(11.6))
    assert isinstance(fresh, Pose)
    assert isinstance(old, Pose)
    assert fresh.range_m == pytest.approx(2.05)
    assert old.range_m is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"not a telemetry log at all, but long enough to look at", "no MAVLink records"),
        (Recording().attitude(1.0).local(1.0).data, "no heartbeat of an autopilot"),
        (Recording().heartbeat(1.0).attitude(1.0).data, "no LOCAL_POSITION_NED"),
        (Recording().heartbeat(1.0).data, "no positions"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_in_one_line(write: Write, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        TlogPoseSource(write(data))
    assert "\n" not in str(caught.value)
    assert "telemetry.tlog" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tlog: cannot be read"):
        TlogPoseSource(tmp_path / "nowhere.tlog")


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_happens_to_the_bytes_every_record_found_lies_within_them(data: st.DataObject) -> None:
    whole = bytearray(flight(10.0, 10.4).data)
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    damage = Damage()
    found = list(records(cut, damage))
    assert all(0 <= record.start < record.end <= len(cut) for record in found)
    read = sum(record.end - record.start + 8 for record in found)
    assert read + damage.skipped_bytes + damage.torn_bytes == len(cut)


@given(st.binary(max_size=400))
def test_random_bytes_never_crash_the_reader(noise: bytes) -> None:
    damage = Damage()
    found = list(records(noise, damage))
    assert sum(record.end - record.start + 8 for record in found) + damage.skipped_bytes + damage.torn_bytes == len(
        noise
    )


@pytest.mark.shared
@pytest.mark.skipif(not WALL_01.exists(), reason="../shared/flight/wall-01 is not here")
def test_the_recorded_flight_is_read_without_a_problem() -> None:
    source = TlogPoseSource(WALL_01)
    assert source.problems == []
    assert len(source.poses.attitude) == 9612
    pose = source.at(ns(62.199))
    assert isinstance(pose, Pose)
    assert pose.east_m == pytest.approx(2.0, abs=0.05)
    assert source.vehicle(ns(62.199)).mode == "GUIDED"
    assert isinstance(source.at(ns(5.0)), NoPose)
