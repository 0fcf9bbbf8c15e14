"""Who is told that the agent lives? systemd over its notification socket, or nobody."""

from __future__ import annotations

import logging
import os
import socket

from drone_agent.ports import Notifier

log = logging.getLogger(__name__)


class SystemdNotifier:
    """Speaks sd_notify(3): one datagram of `KEY=value` lines to the socket that systemd names."""

    def __init__(self, address: str) -> None:
        """`address` is `$NOTIFY_SOCKET`: a path, or `@name` for an abstract socket."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ready(self) -> None:
        """`READY=1`."""
        self._send("READY=1")

    def alive(self) -> None:
        """`WATCHDOG=1`."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """`STATUS=text`; one line."""
        self._send("STATUS=" + " ".join(text.split()))

    def stopping(self) -> None:
        """`STOPPING=1`."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            # Without the message systemd restarts the agent, which is the right answer to a broken socket.
            log.warning("systemd cannot be notified: %s", error)


class NullNotifier:
    """Tells nobody: the agent was started by hand."""

    def ready(self) -> None:
        """Nothing to tell."""

    def alive(self) -> None:
        """Nothing to tell."""

    def status(self, text: str) -> None:
        """Nothing to tell."""

    def stopping(self) -> None:
        """Nothing to tell."""


def notifier_from_environment() -> Notifier:
    """A notifier for systemd if `$NOTIFY_SOCKET` is set, else one that tells nobody."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return SystemdNotifier(address) if address else NullNotifier()
