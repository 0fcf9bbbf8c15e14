"""How do the agent and its dead-man talk? One checked line a message.

A line is eight hex digits of CRC-32, a space, a JSON object, a newline. Both ends are on one machine, so times are
CLOCK_MONOTONIC of both. A line that does not check is a fault, never guessed at.

Agent to dead-man: `beat {t}`, `order {id, at, ms}`, `off {why}`, `quit`.
Dead-man to agent: `ready {pid, sched}`, `tick {t}`, `opened {id, t}`, `result {id, executed, evidence, opened, closed,
detail, sensed_open, sensed_closed}`, `fault {detail}`.
"""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

MAX_LINE = 2048

Message = dict[str, Any]


class WireError(ValueError):
    """A line that is no message."""


def pack(kind: str, **fields: object) -> bytes:
    """One message as a line."""
    body = json.dumps({"k": kind, **fields}, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(body), body)


def unpack(line: bytes) -> Message:
    """One line (without its newline) as a message; `k` is its kind. Raises WireError."""
    check, _, body = line.partition(b" ")
    try:
        if len(check) != 8 or int(check, 16) != crc32(body):
            raise WireError(f"checksum does not match: {line[:80]!r}")
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(str(error)) from error
    if not isinstance(message, dict) or not isinstance(message.get("k"), str):
        raise WireError(f"not a message: {line[:80]!r}")
    return message


def whole(message: Message, key: str) -> int:
    """An integer field. Raises WireError if it is missing or something else."""
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise WireError(f"{message['k']}.{key} must be a whole number, not {value!r}")
    return value


class Lines:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Messages that are complete with `data`. Raises WireError for a bad or endless line.

        Nothing after it is trusted.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise WireError("endless line")
        return [unpack(line) for line in lines]
