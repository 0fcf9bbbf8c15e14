"""What must every sprayer be able to say and do, beyond the port?"""

from __future__ import annotations

from typing import Protocol

from drone_agent.ports import Sprayer

# How a result knows what it says (SprayResult.evidence).
DRY_RUN = "dry_run"  # nothing moved, nothing was meant to
COMMANDED = "commanded"  # the edge was written, the driver gives no read-back
READ_BACK = "read_back"  # the output was read back after the edge
SENSED = "sensed"  # an input told that the valve itself moved
RELAY_STATUS = "relay_status"  # the autopilot reported the relay
SERVO_OUTPUT = "servo_output"  # the autopilot reported the servo's pulse
REFUSED = "refused"  # the dead-man or the autopilot did not take the order; the valve never opened
CANCELLED = "cancelled"  # withdrawn before the opening; the valve never opened
NONE = "none"  # nobody can say: the ledger counts it as paint


class SupervisedSprayer(Sprayer, Protocol):
    """A sprayer that knows when it can no longer be trusted.

    `off` may be called from any thread. Polling `results` is the sign of life of the main loop: without it the dead-man
    gets no heartbeat and closes the valve.
    """

    @property
    def fault(self) -> str | None:
        """Why no order may be given any more (one line), or None. Once set it stays: repair, then restart."""

    def sensed(self, order_id: int) -> tuple[int | None, int | None]:
        """When a sense input saw the valve itself open and close for an order (ns); None without one."""
