"""How do MAVLink bytes get in and out of this computer? TCP, UDP and serial ports, without a parser.

Only the standard library: the dead-man process uses this as well as the vehicle link.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import termios
from typing import Protocol

from drone_agent.errors import LinkLost

_READ_BYTES = 65536
_DEFAULT_BAUD = 115_200
_CONNECT_TIMEOUT_S = 3.0


class Port(Protocol):
    """An open connection, non-blocking."""

    def fileno(self) -> int:
        """For select."""

    def read(self) -> bytes:
        """What has arrived; empty if nothing has. Raises LinkLost when the other end is gone."""

    def write(self, data: bytes) -> None:
        """Sends, or drops what does not fit. Raises LinkLost when the other end is gone."""

    def close(self) -> None:
        """Closes; may be called twice."""


def open_port(connection: str) -> Port:
    """Opens `tcp:HOST:PORT`, `udpout:HOST:PORT`, `udpin:HOST:PORT` (also `udp:`) or `/dev/DEVICE[:BAUD]`.

    Raises:
        LinkLost: it cannot be opened; the message names it.
    """
    if connection.startswith("/"):
        return _SerialPort(connection)
    scheme, _, address = connection.partition(":")
    host, _, number = address.rpartition(":")
    try:
        if scheme == "tcp":
            return _TcpPort(host, int(number))
        if scheme in {"udpin", "udp"}:
            return _UdpPort(host, int(number), listen=True)
        if scheme == "udpout":
            return _UdpPort(host, int(number), listen=False)
    except (OSError, ValueError) as error:
        raise LinkLost(f"{connection}: cannot be opened: {error}") from error
    raise LinkLost(f"{connection}: unknown kind of connection; allowed are tcp:, udpin:, udpout: and /dev/...")


class _TcpPort:
    def __init__(self, host: str, port: int) -> None:
        self._name = f"tcp:{host}:{port}"
        self._socket = socket.create_connection((host, port), _CONNECT_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0.0)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(f"{self._name}: {error}") from error
        if not data:
            raise LinkLost(f"{self._name}: closed by the other end")
        return data

    def write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(f"{self._name}: {error}") from error
        if sent < len(data):
            # half a packet would spoil the next one too
            raise LinkLost(f"{self._name}: the other end does not read")

    def close(self) -> None:
        self._socket.close()


class _UdpPort:
    def __init__(self, host: str, port: int, *, listen: bool) -> None:
        self._name = f"udp{'in' if listen else 'out'}:{host}:{port}"
        self._peer: tuple[str, int] | None = None if listen else (host, port)
        self._listen = listen
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if listen:
            self._socket.bind((host, port))
        self._socket.settimeout(0.0)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        try:
            data, sender = self._socket.recvfrom(_READ_BYTES)
        except (BlockingIOError, ConnectionRefusedError):
            return b""
        except OSError as error:
            raise LinkLost(f"{self._name}: {error}") from error
        if self._listen:
            self._peer = sender
        return data

    def write(self, data: bytes) -> None:
        if self._peer is None:
            return
        try:
            self._socket.sendto(data, self._peer)
        except OSError as error:
            # nobody there yet, no route yet: the heartbeat's age tells the rest
            if error.errno not in {
                errno.ECONNREFUSED,
                errno.ENETUNREACH,
                errno.EHOSTUNREACH,
                errno.EAGAIN,
                errno.EPERM,
            }:
                raise LinkLost(f"{self._name}: {error}") from error

    def close(self) -> None:
        self._socket.close()


class _SerialPort:
    """Raw 8N1, opened exclusively: a second program on the same wire would steal bytes."""

    def __init__(self, connection: str) -> None:
        device, _, baud = connection.partition(":")
        self._name = device
        rate = getattr(termios, f"B{baud or _DEFAULT_BAUD}", None)
        if rate is None:
            raise LinkLost(f"{connection}: {baud} baud is not a rate of this system")
        try:
            self._fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise LinkLost(f"{device}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
            flags = termios.CS8 | termios.CREAD | termios.CLOCAL
            termios.tcsetattr(self._fd, termios.TCSANOW, [0, 0, flags, 0, rate, rate, [0] * 32])
        except (OSError, termios.error) as error:
            os.close(self._fd)
            raise LinkLost(f"{device}: is no serial port: {error}") from error

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(f"{self._name}: {error.strerror}") from error
        if not data:
            raise LinkLost(f"{self._name}: unplugged")
        return data

    def write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(f"{self._name}: {error.strerror}") from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
