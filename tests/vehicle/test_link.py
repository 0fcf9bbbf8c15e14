"""The live link against an autopilot on loopback TCP: real bytes, real threads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymavlink.dialects.v20 import ardupilotmega as dialect

from drone_agent.clock import SystemClock
from drone_agent.errors import LinkLost
from drone_agent.mavlink_port import open_port
from drone_agent.values import NoPose, Pose, VehicleState
from drone_agent.vehicle.link import MavlinkLink
from drone_agent.vehicle.link_settings import LinkSettings
from drone_agent.vehicle.settings import VehicleSettings
from tests.fakes.autopilot import FakeAutopilot

MS = 1_000_000
CLOCK = SystemClock()
USER_1 = dialect.MAV_CMD_USER_1


class Rig:
    def __init__(self, autopilot: FakeAutopilot, **keys: Any) -> None:
        self.autopilot = autopilot
        self.changes: list[str] = []
        self.recorded: list[tuple[int, bytes]] = []
        settings = LinkSettings(connection=autopilot.connection, heartbeat_timeout_s=1.0, **keys)
        self.link = MavlinkLink(
            settings,
            VehicleSettings(),
            CLOCK,
            arming_command=USER_1,
            record=lambda t, packet: self.recorded.append((t, packet)),
        )
        self.link.on_change(self.changes.append)

    def state(self) -> Any:
        return self.link.vehicle(CLOCK.now_mono_ns())

    def wait_for_pose(self) -> None:
        wait_for(lambda: self.state().pose_age_ns is not None and self.state().rc_age_ns is not None)

    def from_ground(self, command: int, param1: float, *, component: int = 191) -> None:
        mav = dialect.MAVLink(None, srcSystem=255, srcComponent=190)
        message = mav.command_long_encode(1, component, command, 0, param1, 0, 0, 0, 0, 0, 0)
        self.autopilot.send(message, 255, 190)


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.01)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with FakeAutopilot() as autopilot:
        made = Rig(autopilot)
        made.link.wait_for_autopilot(10)
        yield made
        made.link.close()


def test_it_asks_for_its_messages_and_knows_the_vehicle(rig: Rig) -> None:
    rig.autopilot.armed, rig.autopilot.mode = True, "AUTO"
    rig.autopilot.rc7_us = 1850
    rig.wait_for_pose()
    wait_for(lambda: rig.state().armed and rig.state().rc_switch_us == 1850)
    wait_for(lambda: all(getattr(rig.state(), name) is not None for name in ("fix_type", "range_m", "ekf_flags")))
    state = rig.state()
    assert (state.mode, state.failsafe) == ("AUTO", False)
    assert state.fix_type == 3
    assert state.h_acc_m == pytest.approx(0.8)
    assert state.range_m == pytest.approx(2.0)
    assert state.ground_speed_m_s == pytest.approx(0.3)
    assert state.height_m == pytest.approx(3.0)
    assert state.ekf_flags == 0x33F
    assert state.pose_age_ns >= 0
    assert state.command_armed is False
    wait_for(lambda: (rig.state().pose_age_ns or 10**12) < 2000 * MS)


def test_it_is_the_vehicles_companion_and_not_a_ground_station(rig: Rig) -> None:
    wait_for(lambda: len(rig.autopilot.heartbeats) >= 1)
    assert set(rig.autopilot.heartbeats) == {
        (1, 191, dialect.MAV_TYPE_ONBOARD_CONTROLLER, dialect.MAV_AUTOPILOT_INVALID)
    }


def test_the_pose_is_interpolated_for_a_frame_in_the_past(rig: Rig) -> None:
    rig.wait_for_pose()
    poses: list[Pose] = []

    def known() -> bool:
        pose = rig.link.at(CLOCK.now_mono_ns() - 150 * MS)
        poses.extend([pose] if isinstance(pose, Pose) else [])
        return bool(poses)

    wait_for(known)
    (pose,) = poses
    assert pose.down_m == pytest.approx(-3.0)
    assert isinstance(rig.link.at(CLOCK.now_mono_ns() + 10_000 * MS), NoPose)


def test_a_failsafe_is_seen(rig: Rig) -> None:
    rig.autopilot.status = dialect.MAV_STATE_CRITICAL
    wait_for(lambda: rig.state().failsafe)


def test_mode_change_arm_and_disarm_are_told(rig: Rig) -> None:
    wait_for(lambda: rig.state().mode == "LOITER")
    rig.autopilot.mode = "RTL"
    wait_for(lambda: "mode change" in rig.changes)
    rig.autopilot.armed = True
    wait_for(lambda: "arm" in rig.changes)
    rig.autopilot.armed = False
    wait_for(lambda: "disarm" in rig.changes)


def test_rates_are_asked_for_again_after_a_restart_and_the_command_key_is_forgotten(rig: Rig) -> None:
    rig.wait_for_pose()
    rig.from_ground(USER_1, 1.0)
    wait_for(lambda: rig.state().command_armed)
    rig.autopilot.reboot()
    # with the intervals gone nothing carries the boot time: the missing messages are noticed first
    wait_for(lambda: "autopilot restart" in rig.changes)
    assert rig.state().command_armed is False
    wait_for(lambda: rig.state().pose_age_ns is not None)
    assert rig.link.reboots == 1


def test_rates_that_a_ground_station_took_away_are_asked_for_again(rig: Rig) -> None:
    rig.wait_for_pose()
    rig.autopilot.forget_rates()
    asked = rig.autopilot.count(dialect.MAV_CMD_SET_MESSAGE_INTERVAL)
    wait_for(lambda: rig.autopilot.count(dialect.MAV_CMD_SET_MESSAGE_INTERVAL) > asked)
    wait_for(lambda: (rig.state().pose_age_ns or 10**12) < 500 * MS)


def test_other_components_and_other_vehicles_are_not_believed(rig: Rig) -> None:
    wait_for(lambda: rig.state().mode == "LOITER")
    mav = dialect.MAVLink(None)
    rtl_armed = mav.heartbeat_encode(2, 3, 129, 6, 4)
    for system, component in ((2, 1), (1, 191), (1, 154), (255, 190)):
        rig.autopilot.send(rtl_armed, system, component)
    time.sleep(0.3)
    assert (rig.state().mode, rig.state().armed) == ("LOITER", False)
    assert not {"mode change", "arm", "disarm"} & set(rig.changes)


def test_a_silent_autopilot_is_a_lost_link_and_its_return_a_recovery(rig: Rig) -> None:
    wait_for(lambda: rig.changes == [] or "link recovery" in rig.changes)
    rig.autopilot.silent = True
    wait_for(lambda: "link lost" in rig.changes)
    rig.changes.clear()
    rig.autopilot.silent = False
    wait_for(lambda: "link recovery" in rig.changes)


def test_an_ended_connection_is_opened_again_without_spinning(rig: Rig) -> None:
    rig.wait_for_pose()
    rig.autopilot.drop_links()
    wait_for(lambda: "link lost" in rig.changes)
    busy = time.thread_time()
    wait_for(lambda: rig.changes[-1] == "link recovery")
    assert time.thread_time() - busy < 2.0
    wait_for(lambda: (rig.state().pose_age_ns or 10**12) < 500 * MS)


def test_a_connection_that_stays_away_is_fatal_and_nothing_looks_alive() -> None:
    autopilot = FakeAutopilot()
    rig = Rig(autopilot, reconnect_s=1)
    rig.link.wait_for_autopilot(10)
    autopilot.close()
    wait_for(lambda: rig.link._failure is not None)
    with pytest.raises(LinkLost, match="not reached again within 1 s"):
        rig.link.check()
    assert rig.state().heartbeat_age_ns is None
    assert rig.state().armed is None
    with pytest.raises(LinkLost):
        rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (0, 0), 0.1)
    with pytest.raises(LinkLost):
        rig.link.at(CLOCK.now_mono_ns())
    rig.link.close()


def test_a_reader_that_dies_is_fatal_and_nothing_looks_alive(rig: Rig) -> None:
    rig.wait_for_pose()

    def explode(_: int, __: Any) -> None:
        raise ZeroDivisionError("a bug")

    rig.link.subscribe("ATTITUDE", explode)
    wait_for(lambda: rig.link._failure is not None)
    with pytest.raises(LinkLost, match="reader died: ZeroDivisionError"):
        rig.link.check()
    assert rig.link.heartbeat_age_ns() is None
    assert rig.link.vehicle(5) == VehicleState(5)
    # the reader tells it after it has failed
    wait_for(lambda: rig.changes[-1] == "link lost")


def test_a_command_waits_for_its_own_answer(rig: Rig) -> None:
    assert rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (0.0, 1.0), 5.0) == dialect.MAV_RESULT_ACCEPTED
    assert rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (9.0, 1.0), 5.0) == dialect.MAV_RESULT_FAILED


def test_a_command_without_an_answer_says_so(rig: Rig) -> None:
    rig.autopilot.ack = False
    with pytest.raises(LinkLost, match="no answer to command 181"):
        rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (0.0, 1.0), 0.2)


def test_no_command_leaves_without_a_fresh_heartbeat(rig: Rig) -> None:
    rig.autopilot.silent = True
    wait_for(lambda: (rig.link.heartbeat_age_ns() or 0) > 1100 * MS)
    sent = len(rig.autopilot.commands)
    with pytest.raises(LinkLost, match="no fresh heartbeat"):
        rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (0.0, 1.0), 0.2)
    time.sleep(0.1)
    assert len(rig.autopilot.commands) == sent


def test_a_command_may_not_wait_on_the_links_own_thread(rig: Rig) -> None:
    said: list[str] = []
    done = threading.Event()

    def order(_: int, __: Any) -> None:
        try:
            rig.link.command(dialect.MAV_CMD_DO_SET_RELAY, (0.0, 0.0), 0.1)
        except LinkLost as error:
            said.append(str(error))
        done.set()

    end = rig.link.subscribe("HEARTBEAT", order)
    assert done.wait(10)
    end()
    assert "own thread" in said[0]


@pytest.mark.parametrize(("param", "armed", "result"), [(1.0, True, 0), (0.0, False, 0), (7.0, False, 2)])
def test_the_second_key_can_be_turned_from_the_ground(rig: Rig, param: float, result: int, *, armed: bool) -> None:
    rig.from_ground(USER_1, param)
    wait_for(lambda: rig.autopilot.acks)
    ack = rig.autopilot.acks[0]
    assert (ack.command, ack.result, ack.target_system, ack.target_component) == (USER_1, result, 255, 190)
    assert rig.state().command_armed is armed


def test_only_the_configured_command_to_this_component_turns_the_key(rig: Rig) -> None:
    rig.from_ground(USER_1, 1.0, component=1)
    rig.from_ground(dialect.MAV_CMD_USER_2, 1.0)
    time.sleep(0.3)
    assert rig.state().command_armed is False
    assert rig.autopilot.acks == []


def test_the_key_is_forgotten_when_the_link_is_lost(rig: Rig) -> None:
    rig.from_ground(USER_1, 1.0)
    wait_for(lambda: rig.state().command_armed)
    rig.autopilot.silent = True
    wait_for(lambda: "link lost" in rig.changes)
    assert rig.state().command_armed is False


def test_texts_reach_the_ground_at_a_bounded_rate(rig: Rig) -> None:
    for number in range(12):
        rig.link.text(4, f"spray refused {number}")
    wait_for(lambda: len(rig.autopilot.texts) >= 5)
    time.sleep(0.5)
    assert len(rig.autopilot.texts) <= 7
    assert rig.autopilot.texts[0][1] == "spray refused 0"


def test_every_packet_is_recorded_as_it_came(rig: Rig) -> None:
    rig.wait_for_pose()
    times = [t for t, _ in rig.recorded]
    assert times == sorted(times)
    parser = dialect.MAVLink(None)
    kinds = {m.get_type() for _, packet in rig.recorded for m in parser.parse_buffer(packet) or []}
    assert {"HEARTBEAT", "ATTITUDE", "COMMAND_ACK"} <= kinds


def test_noise_on_the_line_is_passed_over(rig: Rig) -> None:
    rig.wait_for_pose()
    with rig.autopilot._lock:
        rig.autopilot._clients[0].sock.send(b"\xfd\x09garbage\x00" * 20)
    time.sleep(0.3)
    rig.link.check()
    wait_for(lambda: (rig.state().pose_age_ns or 10**12) < 500 * MS)


@pytest.mark.parametrize(
    "connection", ["tcp:127.0.0.1:9", "/dev/serial/by-id/none", "/dev/null", "/dev/ttyS0:123", "carrier-pigeon"]
)
def test_a_connection_that_cannot_be_opened_is_a_clear_error(connection: str) -> None:
    with pytest.raises(LinkLost):
        open_port(connection)


def test_udp_works_in_both_directions() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    server, client = open_port(f"udpin:127.0.0.1:{number}"), open_port(f"udpout:127.0.0.1:{number}")
    server.write(b"nobody has called yet")
    client.write(b"ping")
    got = b""
    end_s = time.monotonic() + 10
    while not got and time.monotonic() < end_s:
        got = server.read()
    assert got == b"ping"
    server.write(b"pong")
    got = b""
    while not got and time.monotonic() < end_s:
        got = client.read()
    assert got == b"pong"
    server.close()
    client.write(b"nobody hears this")
    assert client.read() == b""
    client.close()


def test_without_a_connection_there_is_no_link() -> None:
    with pytest.raises(LinkLost, match=r"vehicle\.link\.connection"):
        MavlinkLink(LinkSettings(), VehicleSettings(), CLOCK)
