"""Where is the simulated vehicle at each instant? A survey path past the pier, with a multicopter's wobble in wind.

Positions are NED metres about the local origin, the path is flown facing north; times are seconds since the
autopilot's boot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drone_agent.values import Pose

_GRAVITY_M_S2 = 9.80665
_STEP_S = 1e-3


class Wobble:
    """Band-limited noise as a sum of sines: smooth, and known at every instant."""

    def __init__(self, rng: np.random.Generator, rms: float, low_hz: float, high_hz: float, terms: int = 14) -> None:
        self._freq = np.exp(rng.uniform(math.log(low_hz), math.log(high_hz), terms))
        self._phase = rng.uniform(0.0, 2.0 * math.pi, terms)
        # Gusts: the slow parts are the large ones.
        amplitude = np.power(self._freq, -0.5)
        self._amplitude = amplitude * rms * math.sqrt(2.0) / float(np.linalg.norm(amplitude))

    def at(self, t_s: float) -> float:
        """The value at `t_s`."""
        angle: npt.NDArray[np.float64] = 2.0 * math.pi * self._freq * t_s + self._phase
        return float(np.dot(self._amplitude, np.sin(angle)))


@dataclass(frozen=True, slots=True)
class Leg:
    """A straight stretch from one (east, height) to the next at `speed_m_s`, with a soft start and stop of `ramp_s`."""

    start_s: float
    start: tuple[float, float]
    end: tuple[float, float]
    speed_m_s: float
    ramp_s: float = 1.2

    @property
    def length_m(self) -> float:
        """Length of the stretch."""
        return math.dist(self.start, self.end)

    @property
    def end_s(self) -> float:
        """When the vehicle stands still again."""
        return self.start_s + self.length_m / self.speed_m_s + self.ramp_s

    def at(self, t_s: float) -> tuple[float, float]:
        """(east, height) at `t_s`; the nearer end outside the stretch's time."""
        t_s = min(max(t_s, self.start_s), self.end_s)
        braking = self._travelled(self.end_s - t_s)
        share = (
            self.length_m - braking if t_s > self.end_s - self.ramp_s else self._travelled(t_s - self.start_s)
        ) / self.length_m
        return (
            self.start[0] + share * (self.end[0] - self.start[0]),
            self.start[1] + share * (self.end[1] - self.start[1]),
        )

    def _travelled(self, since_s: float) -> float:
        """Metres after `since_s`: the speed rises by smoothstep 3x^2 - 2x^3, whose integral is x^3 - x^4 / 2."""
        if since_s >= self.ramp_s:
            return self.speed_m_s * (since_s - 0.5 * self.ramp_s)
        x = since_s / self.ramp_s
        return self.speed_m_s * self.ramp_s * (x**3 - 0.5 * x**4)


class Flight:
    """Passes along a face to the north, alternately to the right and to the left, each higher than the one before.

    Args:
        rng: source of the wobble.
        start_s: boot time at which the first pass begins; before it the vehicle hovers at the pass's start.
        east_m: where the passes turn, (left, right).
        heights_m: height of each pass above the origin.
        speed_m_s: cruising speed of a pass.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        start_s: float,
        east_m: tuple[float, float],
        heights_m: tuple[float, ...],
        speed_m_s: float,
    ) -> None:
        legs: list[Leg] = []
        left, right = east_m
        t_s = start_s
        for k, height in enumerate(heights_m):
            near, far = ((left, height), (right, height)) if k % 2 == 0 else ((right, height), (left, height))
            if legs:
                legs.append(Leg(t_s, legs[-1].end, near, 0.2))
                t_s = legs[-1].end_s
            legs.append(Leg(t_s, near, far, speed_m_s))
            t_s = legs[-1].end_s
        self._legs = tuple(legs)
        self.start_s = start_s
        self.end_s = t_s
        self._north, self._east, self._down = (Wobble(rng, rms, 0.05, 0.6) for rms in (0.03, 0.025, 0.018))
        self._roll, self._pitch, self._yaw = (
            Wobble(rng, math.radians(rms), low, high)
            for rms, low, high in ((0.8, 0.2, 2.0), (0.8, 0.2, 2.0), (0.9, 0.05, 0.7))
        )

    def pose(self, t_s: float) -> Pose:
        """The true pose at `t_s`, velocity included."""
        here = self._position(t_s)
        velocity = (self._position(t_s + _STEP_S) - self._position(t_s - _STEP_S)) / (2.0 * _STEP_S)
        roll, pitch, yaw = self._attitude(t_s)
        return Pose(
            t_mono_ns=round(t_s * 1e9),
            north_m=float(here[0]),
            east_m=float(here[1]),
            down_m=float(here[2]),
            roll=roll,
            pitch=pitch,
            yaw=yaw,
            vel_north_m_s=float(velocity[0]),
            vel_east_m_s=float(velocity[1]),
            vel_down_m_s=float(velocity[2]),
            sigma_m=0.0,
        )

    def attitude_rates(self, t_s: float) -> tuple[float, float, float]:
        """Rates of roll, pitch and yaw (rad/s); at these small angles the body rates."""
        after, before = self._attitude(t_s + _STEP_S), self._attitude(t_s - _STEP_S)
        roll, pitch, yaw = ((a - b) / (2.0 * _STEP_S) for a, b in zip(after, before, strict=True))
        return roll, pitch, yaw

    def _path(self, t_s: float) -> tuple[float, float]:
        leg = next((leg for leg in self._legs if t_s < leg.end_s), self._legs[-1])
        return leg.at(t_s)

    def _position(self, t_s: float) -> npt.NDArray[np.float64]:
        east, height = self._path(t_s)
        return np.array([self._north.at(t_s), east + self._east.at(t_s), -height + self._down.at(t_s)])

    def _attitude(self, t_s: float) -> tuple[float, float, float]:
        # A multicopter leans into the direction in which it accelerates: tan(roll) = a / g.
        h = 0.02
        accel = (self._path(t_s + h)[0] - 2.0 * self._path(t_s)[0] + self._path(t_s - h)[0]) / h**2
        lean = math.atan2(accel, _GRAVITY_M_S2)
        return lean + self._roll.at(t_s), self._pitch.at(t_s), self._yaw.at(t_s)
