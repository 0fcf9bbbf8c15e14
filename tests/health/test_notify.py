from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drone_agent.health.notify import NullNotifier, SystemdNotifier, notifier_from_environment


def test_every_message_reaches_the_socket_in_the_form_that_systemd_reads(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(5)
        notifier = SystemdNotifier(str(path))
        notifier.ready()
        notifier.alive()
        notifier.status("frame 7\nof 9")
        notifier.stopping()
        received = [server.recv(256) for _ in range(4)]
    assert received == [b"READY=1", b"WATCHDOG=1", b"STATUS=frame 7 of 9", b"STOPPING=1"]


def test_an_abstract_socket_is_addressed_by_its_leading_zero_byte() -> None:
    name = "crackscout-notify-test"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        server.settimeout(5)
        SystemdNotifier("@" + name).ready()
        assert server.recv(64) == b"READY=1"


def test_a_vanished_socket_does_not_stop_the_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SystemdNotifier(str(tmp_path / "gone")).alive()
    assert "cannot be notified" in caplog.text


def test_the_environment_chooses_the_notifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert isinstance(notifier_from_environment(), NullNotifier)
    monkeypatch.setenv("NOTIFY_SOCKET", "@x")
    assert isinstance(notifier_from_environment(), SystemdNotifier)
