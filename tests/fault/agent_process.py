"""A stand-in for the agent, to be killed: starts the real dead-man process, keeps its heartbeat up and sprays all the time.

Only the standard library, so that hundreds of them start quickly. The test that uses the agent's own client starts the agent's own client.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time

from drone_agent.marking import wire

BEAT_S = 0.04


def main() -> None:
    task = json.loads(sys.argv[1])
    open_ms = int(sys.argv[2])
    task["parent"] = os.getpid()
    guard = subprocess.Popen(
        [sys.executable, "-S", "-m", "drone_agent.marking.guard", json.dumps(task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    guard.stdout.readline()
    number, next_order_ns = 0, 0
    while guard.poll() is None:
        now_ns = time.monotonic_ns()
        guard.stdin.write(wire.pack("beat", t=now_ns))
        if now_ns >= next_order_ns:
            number += 1
            guard.stdin.write(wire.pack("order", id=number, at=now_ns + 10_000_000, ms=open_ms))
            next_order_ns = now_ns + (open_ms + 60) * 1_000_000
        ready, _, _ = select.select([guard.stdout], [], [], BEAT_S)
        if ready and not guard.stdout.read(65536):
            return


if __name__ == "__main__":
    main()
