"""Where was the vehicle just now? Waits for the sample that a pose must lie before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drone_agent.ports import Clock, PoseSource
from drone_agent.values import NoPose, Pose, VehicleState

_STEP_S = 0.005


class PatientPoses:
    """A live `ports.PoseSource` that gives telemetry the time to pass a frame's exposure.

    A pose is interpolated between two samples; a frame is often faster here than the sample after it.
    """

    def __init__(self, poses: PoseSource, clock: Clock, patience_s: float) -> None:
        """`patience_s` is the longest wait for one pose (s); after it the answer is what the source says."""
        self._poses = poses
        self._clock = clock
        self._patience_ns = round(patience_s * 1e9)

    def at(self, t_mono_ns: int) -> Pose | NoPose:
        """The pose at `t_mono_ns`; NoPose `after_end` only if no sample came in time."""
        end_ns = self._clock.now_mono_ns() + self._patience_ns
        while True:
            pose = self._poses.at(t_mono_ns)
            waiting = isinstance(pose, NoPose) and pose.reason == "after_end"
            if not waiting or self._clock.now_mono_ns() >= end_ns:
                return pose
            self._clock.sleep(_STEP_S)

    def vehicle(self, t_mono_ns: int) -> VehicleState:
        """As the source says."""
        return self._poses.vehicle(t_mono_ns)

    def describe(self) -> Mapping[str, Any]:
        """As the source says."""
        return self._poses.describe()

    def close(self) -> None:
        """Closes the source."""
        self._poses.close()
