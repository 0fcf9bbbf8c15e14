"""Is a point inside an area, how far from its edge, and is the area's outline a sound one?

Points are (x, y) pairs in one planar frame (metres along the face and height, or local metres of a geofence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Point = tuple[float, float]

_METRES_PER_DEGREE = 111_320.0


def fault(points: Sequence[Point]) -> str | None:
    """Why `points` do not bound an area, or None if they do.

    The tests are exact (rational arithmetic), so touching edges are found however small the numbers are.
    """
    corners = [(Fraction(x), Fraction(y)) for x, y in points]
    n = len(corners)
    if n < 3:
        return f"has {n} corners, at least 3 are needed"
    for i, corner in enumerate(corners):
        if corner == corners[(i + 1) % n]:
            return f"repeats corner {i + 1} (list each corner once, the outline closes itself)"
    for i in range(n):
        for j in range(i + 1, n):
            a, b, c, d = corners[i], corners[(i + 1) % n], corners[j], corners[(j + 1) % n]
            if j == i + 1 or (i == 0 and j == n - 1):
                # neighbours share a corner; only a spike that folds back onto its neighbour is a fault
                shared, end_one, end_two = (b, a, d) if j == i + 1 else (a, b, c)
                if _cross(shared, end_one, end_two) == 0 and _dot(shared, end_one, end_two) > 0:
                    return f"folds back onto itself at corner {(j if j == i + 1 else i) + 1}"
            elif _segments_meet(a, b, c, d):
                return f"crosses itself: edge {i + 1} meets edge {j + 1}"
    return None


def contains(points: Sequence[Point], point: Point) -> bool:
    """Whether `point` lies inside the outline (even-odd rule; False for NaN)."""
    x, y = point
    if not (math.isfinite(x) and math.isfinite(y)):
        return False
    inside = False
    for i in range(len(points)):
        (x1, y1), (x2, y2) = points[i - 1], points[i]
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside


def distance_to_edge(points: Sequence[Point], point: Point) -> float:
    """The distance from `point` to the nearest edge of the outline (same unit as the points)."""
    return min(_distance_to_segment(points[i - 1], points[i], point) for i in range(len(points)))


def local_metres(origin_lat_deg: float, origin_lon_deg: float, lat_deg: float, lon_deg: float) -> Point:
    """East and north (m) of a WGS 84 position from an origin, on a plane: good to a decimetre within 10 km."""
    east = math.remainder(lon_deg - origin_lon_deg, 360.0) * _METRES_PER_DEGREE * math.cos(math.radians(origin_lat_deg))
    return east, (lat_deg - origin_lat_deg) * _METRES_PER_DEGREE


def _cross(o: tuple[Fraction, Fraction], a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])


def _dot(o: tuple[Fraction, Fraction], a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return (a[0] - o[0]) * (b[0] - o[0]) + (a[1] - o[1]) * (b[1] - o[1])


def _on_segment(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction], p: tuple[Fraction, Fraction]) -> bool:
    return min(a[0], b[0]) <= p[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= p[1] <= max(a[1], b[1])


def _segments_meet(
    a: tuple[Fraction, Fraction],
    b: tuple[Fraction, Fraction],
    c: tuple[Fraction, Fraction],
    d: tuple[Fraction, Fraction],
) -> bool:
    abc, abd, cda, cdb = _cross(a, b, c), _cross(a, b, d), _cross(c, d, a), _cross(c, d, b)
    if ((abc > 0 > abd) or (abc < 0 < abd)) and ((cda > 0 > cdb) or (cda < 0 < cdb)):
        return True
    return (
        (abc == 0 and _on_segment(a, b, c))
        or (abd == 0 and _on_segment(a, b, d))
        or (cda == 0 and _on_segment(c, d, a))
        or (cdb == 0 and _on_segment(c, d, b))
    )


def _distance_to_segment(a: Point, b: Point, p: Point) -> float:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length_sq = dx * dx + dy * dy
    share = 0.0 if length_sq == 0 else max(0.0, min(1.0, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length_sq))
    return math.hypot(p[0] - (a[0] + share * dx), p[1] - (a[1] + share * dy))
