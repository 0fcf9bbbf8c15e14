"""How did the flight go? Frame rate, picture quality, what could not be judged, and events, over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import FrameRecord
from drone_agent.postflight.svg import group, nice_step, number, tag, tick_label, ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 132.0, 14.0, 6.0, 34.0
_WIDTH = 934.0
_ROW_HEIGHT, _ROW_GAP = 52.0, 14.0
_LANE_HEIGHT = 17.0
_MAX_BINS = 320
_MIN_BIN_S = 0.5

_ORDINARY_MINUTES = 3


@dataclass(frozen=True, slots=True)
class _Bin:
    """Frames of one short stretch of time."""

    start_s: float
    end_s: float
    frames: tuple[FrameRecord, ...]


@dataclass(frozen=True, slots=True)
class _Axis:
    """From seconds since the start to the drawing."""

    end_s: float

    def x(self, seconds: float) -> float:
        return _LEFT + _WIDTH * min(1.0, max(0.0, seconds / self.end_s))


@dataclass(frozen=True, slots=True)
class _Row:
    """One curve: what it is, its unit, and its value in a bin (None: nothing to say)."""

    label: str
    unit: str
    value: Callable[[_Bin], float | None]
    kind: str
    top: float | None = None


def timeline(flight: Flight) -> Markup | None:
    """Draws the flight over time (s or min since its first event); None if it has no duration."""
    times = [event.t_mono_ns for event in flight.events]
    if not times:
        return None
    start_ns = flight.frames[0].t_mono_ns if flight.frames else min(times)
    end_s = (max(times) - start_ns) / 1e9
    if end_s <= 0:
        return None
    axis = _Axis(end_s)
    bins = _bins(flight.frames, start_ns, end_s)
    rows = [
        _Row("frame rate", "1/s", _rate, "area"),
        _Row("sharpness", "", lambda b: _mean([f.sharpness for f in b.frames]), "line"),
        _Row("brightness", "0–255", lambda b: _mean([f.brightness for f in b.frames]), "line"),
        _Row("tiles not judged", "%", _unknown_share, "alarm", top=100.0),
    ]
    parts = []
    y = _TOP
    for row in rows:
        parts.append(_curve(row, bins, axis, y))
        y += _ROW_HEIGHT + _ROW_GAP
    for label, ticks_s, bars_s, style in _lanes(flight, start_ns):
        parts.append(_lane(label, ticks_s, bars_s, style, axis, y))
        y += _LANE_HEIGHT
    parts.append(_time_axis(axis, y + 4))
    total = _LEFT + _WIDTH + _RIGHT
    height = y + _BOTTOM
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {number(total)} {number(height)}",
        class_="timeline",
        role="img",
        aria_label="Frame rate, picture quality and events over time",
        style=f"max-width:{number(total)}px",
    )


def _bins(frames: Sequence[FrameRecord], start_ns: int, end_s: float) -> list[_Bin]:
    width = max(_MIN_BIN_S, end_s / _MAX_BINS, _frame_interval(frames) * 1.01)
    count = max(1, math.ceil(end_s / width))
    sorted_: list[list[FrameRecord]] = [[] for _ in range(count)]
    for frame in frames:
        index = int((frame.t_mono_ns - start_ns) / 1e9 / width)
        sorted_[min(count - 1, max(0, index))].append(frame)
    return [
        _Bin(index * width, min(end_s, (index + 1) * width), tuple(content)) for index, content in enumerate(sorted_)
    ]


def _frame_interval(frames: Sequence[FrameRecord]) -> float:
    """The usual interval between frames (median; s), so that no bin falls between two of them."""
    steps = sorted(b.t_mono_ns - a.t_mono_ns for a, b in itertools.pairwise(frames))
    return steps[len(steps) // 2] / 1e9 if steps else 0.0


def _rate(piece: _Bin) -> float | None:
    """Frames a second; inside the bin from first to last frame, so that its edges do not make it tremble."""
    frames = piece.frames
    if len(frames) < 2:
        duration = piece.end_s - piece.start_s
        return len(frames) / duration if duration >= _MIN_BIN_S * 0.99 else None
    span = (frames[-1].t_mono_ns - frames[0].t_mono_ns) / 1e9
    return (len(frames) - 1) / span if span > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _unknown_share(piece: _Bin) -> float | None:
    tiles = sum(frame.tiles for frame in piece.frames)
    return 100.0 * sum(frame.unknown for frame in piece.frames) / tiles if tiles else None


def _curve(row: _Row, bins: Sequence[_Bin], axis: _Axis, y: float) -> Markup:
    values = [row.value(piece) for piece in bins]
    known = [value for value in values if value is not None]
    bottom = y + _ROW_HEIGHT
    parts = [
        tag("text", row.label, x=_LEFT - 34, y=y + 22, class_="row-label", text_anchor="end"),
        tag("text", row.unit, x=_LEFT - 34, y=y + 36, class_="row-unit", text_anchor="end"),
        tag("path", d=f"M{number(_LEFT)} {number(bottom)}h{number(_WIDTH)}", class_="axis"),
    ]
    if not known:
        parts.append(tag("text", "not recorded", x=_LEFT + 8, y=y + 32, class_="row-unit"))
        return group(parts)
    top = row.top or max(known) * 1.08 or 1.0
    marks = [row.top / 2, row.top] if row.top else ticks(0.0, top, 3)[1:]
    step = marks[0] if marks else top
    for value in marks:
        level = bottom - _ROW_HEIGHT * value / top
        parts.append(tag("path", d=f"M{number(_LEFT)} {number(level)}h{number(_WIDTH)}", class_="grid"))
        label = tick_label(value, step)
        parts.append(tag("text", label, x=_LEFT - 6, y=level + 3.5, class_="tick", text_anchor="end"))
    stretches: list[list[tuple[float, float, float]]] = []
    for piece, amount in zip(bins, values, strict=True):
        if amount is None:
            stretches.append([])
            continue
        if not stretches:
            stretches.append([])
        level = bottom - _ROW_HEIGHT * min(1.0, amount / top)
        stretches[-1].append((axis.x(piece.start_s), axis.x(piece.end_s), level))
    for stretch in stretches:
        if stretch:
            parts += _stretch(stretch, row.kind, bottom)
    return group(parts)


def _stretch(stretch: Sequence[tuple[float, float, float]], kind: str, bottom: float) -> list[Markup]:
    steps = f"M{number(stretch[0][0])} {number(stretch[0][2])}"
    for left, right, level in stretch:
        steps += f"L{number(left)} {number(level)}H{number(right)}"
    filled = f"{steps}V{number(bottom)}H{number(stretch[0][0])}z"
    return [tag("path", d=filled, class_=f"fill-{kind}"), tag("path", d=steps, class_=f"curve-{kind}")]


_Lane = tuple[str, list[float], list[tuple[float, float]], str]


def _lanes(flight: Flight, start_ns: int) -> list[_Lane]:
    """Events by kind: label, instants (s), stretches (s), style. A kind that did not occur has no lane."""

    def seconds(*kinds: str) -> list[float]:
        return [(event.t_mono_ns - start_ns) / 1e9 for event in flight.events if event.kind in kinds]

    gaps = [((gap.from_ns - start_ns) / 1e9, (gap.to_ns - start_ns) / 1e9) for gap in flight.pose_gaps]
    drops = [(frame.t_mono_ns - start_ns) / 1e9 for frame in flight.frames if frame.dropped_before]
    lanes: list[_Lane] = [
        ("sightings", seconds("sighting"), [], "sighting"),
        ("marks ordered", seconds("spray_order"), [], "order"),
        ("marks refused", seconds("spray_refused"), [], "refused"),
        ("without place", [], gaps, "gap"),
        ("frames dropped", drops, [], "problem"),
        ("problems", seconds("camera_lost", "telemetry_problem", "warning", "error"), [], "problem"),
    ]
    return [lane for lane in lanes if lane[1] or lane[2]]


def _lane(
    label: str, instants: Sequence[float], stretches: Sequence[tuple[float, float]], style: str, axis: _Axis, y: float
) -> Markup:
    middle = y + _LANE_HEIGHT / 2
    parts = [
        tag("text", label, x=_LEFT - 8, y=middle + 3.5, class_="row-label", text_anchor="end"),
        tag("path", d=f"M{number(_LEFT)} {number(middle)}h{number(_WIDTH)}", class_="grid"),
    ]
    for low, high in stretches:
        left, right = axis.x(low), axis.x(high)
        width = max(2.0, right - left)
        parts.append(tag("rect", x=left, y=middle - 5, width=width, height=10, class_=f"bar-{style}"))
    if instants:
        d = "".join(f"M{number(axis.x(at))} {number(middle - 5.5)}v11" for at in instants)
        parts.append(tag("path", d=d, class_=f"ticks-{style}"))
    return group(parts)


def _time_axis(axis: _Axis, y: float) -> Markup:
    minutes = axis.end_s > _ORDINARY_MINUTES * 60
    end = axis.end_s / 60 if minutes else axis.end_s
    step = nice_step(end, 10)
    parts = [tag("path", d=f"M{number(_LEFT)} {number(y)}h{number(_WIDTH)}", class_="axis")]
    for value in ticks(0.0, end, 10):
        x = axis.x(value * 60 if minutes else value)
        parts.append(tag("path", d=f"M{number(x)} {number(y)}v4", class_="axis"))
        parts.append(tag("text", tick_label(value, step), x=x, y=y + 16, class_="tick", text_anchor="middle"))
    title = "min" if minutes else "s"
    parts.append(tag("text", title, x=_LEFT + _WIDTH, y=y + 28, class_="row-unit", text_anchor="end"))
    return group(parts)
