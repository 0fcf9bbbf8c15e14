from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from drone_agent.marking import polygon

SQUARE = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0))
STAR = tuple((math.cos(4 * math.pi * k / 5), math.sin(4 * math.pi * k / 5)) for k in range(5))


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ((), "0 corners"),
        (SQUARE[:2], "2 corners"),
        ((*SQUARE, SQUARE[0]), "repeats corner"),
        (((0, 0), (2, 2), (2, 0), (0, 2)), "crosses itself"),
        (STAR, "crosses itself"),
        (((0, 0), (4, 0), (4, 2), (2, 0), (0, 2)), "crosses itself"),  # a corner that touches an edge
        (((0, 0), (4, 0), (2, 0)), "folds back"),
        (((0, 0), (4, 0), (4, 3), (4, 1), (0, 3)), "folds back"),
        (((0, 0), (1e-9, 1e-9), (1e-9, 0), (0, 1e-9)), "crosses itself"),  # however small
    ],
)
def test_an_unsound_outline_is_told_why(points: tuple[tuple[float, float], ...], what: str) -> None:
    assert what in (polygon.fault(points) or "")


@pytest.mark.parametrize(
    "points",
    [
        SQUARE,
        SQUARE[::-1],
        ((0, 0), (2, 0), (1, 1)),
        ((0, 0), (4, 0), (4, 4), (2, 1), (0, 4)),
        ((0, 0), (1, 0), (2, 0), (2, 2)),
    ],
)
def test_a_sound_outline_is_accepted(points: tuple[tuple[float, float], ...]) -> None:
    assert polygon.fault(points) is None


def test_a_point_is_inside_or_outside() -> None:
    assert polygon.contains(SQUARE, (1, 1))
    assert not polygon.contains(SQUARE, (3, 1))
    assert not polygon.contains(SQUARE, (math.nan, 1))
    notch = ((0, 0), (4, 0), (4, 4), (2, 1), (0, 4))
    assert not polygon.contains(notch, (2, 2))
    assert polygon.contains(notch, (2, 0.5))


def test_the_distance_to_the_edge_is_that_of_the_nearest_edge_or_corner() -> None:
    assert polygon.distance_to_edge(SQUARE, (1, 0.25)) == pytest.approx(0.25)
    assert polygon.distance_to_edge(SQUARE, (3, 3)) == pytest.approx(math.sqrt(2))


def test_degrees_become_metres() -> None:
    east, north = polygon.local_metres(47.0, 8.0, 47.001, 8.001)
    assert north == pytest.approx(111.3, abs=0.3)
    assert east == pytest.approx(111.3 * math.cos(math.radians(47)), abs=0.3)
    # across the 180th meridian the short way round
    assert polygon.local_metres(0.0, 179.999, 0.0, -179.999)[0] == pytest.approx(222.6, abs=0.5)


@given(st.integers(3, 12), st.floats(0.1, 100), st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 6.3))
def test_the_centre_of_a_regular_polygon_lies_inside_and_is_one_inner_radius_from_the_edge(
    n: int, radius: float, x: float, y: float, turn: float
) -> None:
    points = [
        (x + radius * math.cos(turn + math.tau * k / n), y + radius * math.sin(turn + math.tau * k / n))
        for k in range(n)
    ]
    assert polygon.fault(points) is None
    assert polygon.contains(points, (x, y))
    assert polygon.distance_to_edge(points, (x, y)) == pytest.approx(radius * math.cos(math.pi / n), rel=1e-6)
    assert not polygon.contains(points, (x + 1.01 * radius, y))
