"""Where on the structure is all this? The wall from the front, to scale: coverage, holes, finds, marks, flight path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import FaceRecord, FrameRecord, SightingRecord
from drone_agent.postflight.coverage_report import Cell, FaceCoverage, outline, runs
from drone_agent.postflight.findings import Finding
from drone_agent.postflight.marks import Mark, MarkState
from drone_agent.postflight.svg import group, nice_step, number, path, tag, tick_label, ticks

# blue for what was seen, orange to brown for evidence: distinct for all common kinds of colour blindness, and the
# steps differ in lightness, so that they survive a black-and-white printer
LOOK_COLOURS = ("#e3edf5", "#c4dbea", "#a3c5dd", "#82aecd")
EVIDENCE_COLOURS = ("#fdb863", "#e8731a", "#9c2f04")
EVIDENCE_NAMES = ("moderate", "strong", "very strong")
# log-odds, counted from the model's threshold, from which on evidence is called strong and very strong
EVIDENCE_STEPS = (4.0, 6.0)

_PLOT_WIDTH = 1010.0
_PLOT_HEIGHT_MAX = 720.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 18.0, 22.0, 58.0
_PANEL_RATIO_MAX = 9.0
_PANEL_RATIO = 6.5
_LABEL_HEIGHT = 13.0
_MAX_GAP_NS = 3_000_000_000

Extent = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class LookClass:
    """One colour of the coverage: cells with `low` to `high` good looks (None: or more)."""

    low: int
    high: int | None
    colour: str

    @property
    def label(self) -> str:
        """The range as people write it."""
        if self.high is None:
            return f"{self.low} or more"
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing of (a part of) a face."""

    title: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class _View:
    """From the face (along, height) to the drawing (x right, y down)."""

    extent: Extent
    scale: float

    @property
    def width(self) -> float:
        return (self.extent[1] - self.extent[0]) * self.scale

    @property
    def height(self) -> float:
        return (self.extent[3] - self.extent[2]) * self.scale

    def x(self, along: float) -> float:
        return _LEFT + (along - self.extent[0]) * self.scale

    def y(self, height: float) -> float:
        return _TOP + (self.extent[3] - height) * self.scale

    def holds(self, along: float, height: float) -> bool:
        return self.extent[0] <= along <= self.extent[1] and self.extent[2] <= height <= self.extent[3]


def look_classes(looks_wanted: int) -> list[LookClass]:
    """Four steps of coverage; the first is what was seen less often than wanted."""
    edges = [1, looks_wanted, 2 * looks_wanted, 4 * looks_wanted]
    if looks_wanted == 1:
        edges = [1, 2, 4, 8]
    highs: list[int | None] = [edge - 1 for edge in edges[1:]]
    return [LookClass(low, high, colour) for low, high, colour in zip(edges, [*highs, None], LOOK_COLOURS, strict=True)]


def evidence_class(sighting: SightingRecord) -> int:
    """0, 1 or 2: moderate, strong, very strong."""
    return sum((sighting.log_odds or 0.0) >= step for step in EVIDENCE_STEPS)


def elevation(
    flight: Flight,
    coverage: FaceCoverage,
    findings: Sequence[Finding],
    marks: Mapping[int, Mark],
) -> list[Panel]:
    """Draws one face; a very long one in several panels. Empty if nothing can be placed on it."""
    face = flight.faces.get(coverage.face)
    extent = _extent(coverage, face, findings)
    if extent is None:
        return []
    views = _views(extent, coverage.cell)
    track = camera_track(flight.frames, face)
    return [_panel(view, len(views), coverage, face, findings, marks, track) for view in views]


def camera_track(frames: Sequence[FrameRecord], face: FaceRecord | None) -> list[list[tuple[float, float]]]:
    """The camera's way along the face (along, height; m), in pieces between frames without a place."""
    if face is None or face.unit != "m":
        return []
    pieces: list[list[tuple[float, float]]] = []
    last_ns: int | None = None
    for frame in frames:
        point = _camera_place(frame, face)
        if point is None:
            last_ns = None
            continue
        if last_ns is None or frame.t_mono_ns - last_ns > _MAX_GAP_NS:
            pieces.append([])
        pieces[-1].append(point)
        last_ns = frame.t_mono_ns
    return pieces


def _camera_place(frame: FrameRecord, face: FaceRecord) -> tuple[float, float] | None:
    if frame.pose is not None and face.origin_ned is not None and face.along_bearing_deg is not None:
        north, east, down = face.origin_ned
        bearing = math.radians(face.along_bearing_deg)
        along = (frame.pose.north_m - north) * math.cos(bearing) + (frame.pose.east_m - east) * math.sin(bearing)
        return along, down - frame.pose.down_m
    if frame.footprint:
        return (
            sum(along for along, _ in frame.footprint) / len(frame.footprint),
            sum(height for _, height in frame.footprint) / len(frame.footprint),
        )
    return None


def _extent(coverage: FaceCoverage, face: FaceRecord | None, findings: Sequence[Finding]) -> Extent | None:
    if coverage.unit == "px" and face is not None and face.length and face.height:
        return 0.0, face.length, 0.0, face.height
    boxes = [(*f.along_range, *f.height_range) for f in findings]
    if coverage.extent is not None:
        boxes.append(coverage.extent)
    if face is not None and face.length and face.height:
        boxes.append((0.0, face.length, 0.0, face.height))
    if not boxes:
        return None
    low_along, high_along, low_height, high_height = zip(*boxes, strict=True)
    pad = 2 * coverage.cell
    return min(low_along) - pad, max(high_along) + pad, min(low_height) - pad, max(high_height) + pad


def _views(extent: Extent, cell: float) -> list[_View]:
    width, height = extent[1] - extent[0], extent[3] - extent[2]
    count = 1 if width <= _PANEL_RATIO_MAX * height else math.ceil(width / (_PANEL_RATIO * height))
    # a stray place must not lead to a report of a thousand drawings
    count = min(count, 12)
    part = math.ceil(width / count / cell) * cell if count > 1 else width
    views = []
    for index in range(count):
        low = extent[0] + index * part
        piece = (low, low + part, extent[2], extent[3])
        views.append(_View(piece, min(_PLOT_WIDTH / part, _PLOT_HEIGHT_MAX / height)))
    return views


def _panel(
    view: _View,
    panels: int,
    coverage: FaceCoverage,
    face: FaceRecord | None,
    findings: Sequence[Finding],
    marks: Mapping[int, Mark],
    track: Sequence[Sequence[tuple[float, float]]],
) -> Panel:
    low, high = view.extent[0] - coverage.cell, view.extent[1] + coverage.cell
    mine = [f for f in findings if f.along_range[1] >= low and f.along_range[0] <= high]
    clip = f"clip-{coverage.face}-{number(view.extent[0])}".replace(" ", "-").replace(".", "_")
    drawing = [
        _coverage(view, coverage),
        _track(view, track),
        _regions(view, mine, coverage.cell),
        _marks(view, coverage.face, mine, marks),
        _sightings(view, mine),
    ]
    frame = tag("rect", x=_LEFT, y=_TOP, width=view.width, height=view.height)
    total_width, total_height = _LEFT + view.width + _RIGHT, _TOP + view.height + _BOTTOM
    svg = tag(
        "svg",
        tag("defs", tag("clipPath", frame, id=clip)),
        tag("rect", x=_LEFT, y=_TOP, width=view.width, height=view.height, class_="plot"),
        group(drawing, clip_path=f"url(#{clip})"),
        _labels(view, mine),
        _axes(view, coverage.unit, face),
        viewBox=f"0 0 {number(total_width)} {number(total_height)}",
        class_="elevation",
        role="img",
        aria_label=f"Elevation of {coverage.face}: coverage, finds and marks",
        style=f"max-width:{number(total_width)}px",
    )
    title = coverage.face
    if panels > 1:
        title = f"{coverage.face}, along {view.extent[0]:.1f} to {view.extent[1]:.1f} {coverage.unit}"
    return Panel(title, svg)


def hatch() -> Markup:
    """The pattern of cells that could not be judged, as an invisible drawing to be put once into the page."""
    line = tag("path", d="M-1 1L1 -1M0 7L7 0M6 8L8 6", class_="hatch-line")
    back = tag("rect", width=7, height=7, class_="hatch-back")
    pattern = tag("pattern", back, line, id="hatch", width=7, height=7, patternUnits="userSpaceOnUse")
    return tag("svg", tag("defs", pattern), width=0, height=0, class_="definitions", aria_hidden="true")


def _coverage(view: _View, coverage: FaceCoverage) -> Markup:
    low = math.floor(view.extent[0] / coverage.cell) - 1
    high = math.ceil(view.extent[1] / coverage.cell) + 1

    def inside(cells: Iterable[Cell]) -> list[Cell]:
        return [cell for cell in cells if low <= cell[0] <= high]

    seen = {cell: coverage.seen[cell] for cell in inside(coverage.seen)}
    parts = []
    for entry in look_classes(coverage.looks_wanted):
        cells = [c for c, n in seen.items() if n >= entry.low and (entry.high is None or n <= entry.high)]
        if cells:
            parts.append(tag("path", d=_cells_path(view, cells, coverage.cell), fill=entry.colour))
    unknown = inside(coverage.unknown)
    if unknown:
        title = tag("title", "came into view, but never in a picture good enough")
        parts.append(tag("path", title, d=_cells_path(view, unknown, coverage.cell), fill="url(#hatch)"))
    gaps = inside(coverage.gaps)
    if gaps:
        title = tag("title", "never in view")
        parts.append(tag("path", title, d=_cells_path(view, gaps, coverage.cell), class_="gap"))
        edges = "".join(
            f"M{number(view.x(x0 * coverage.cell))} {number(view.y(y0 * coverage.cell))}"
            f"L{number(view.x(x1 * coverage.cell))} {number(view.y(y1 * coverage.cell))}"
            for x0, y0, x1, y1 in outline(gaps)
        )
        parts.append(tag("path", d=edges, class_="gap-edge"))
    return group(parts, shape_rendering="crispEdges")


def _cells_path(view: _View, cells: Sequence[Cell], cell: float) -> str:
    parts = []
    for column, row, columns, rows in runs(cells):
        x, y = view.x(column * cell), view.y((row + rows) * cell)
        width, height = columns * cell * view.scale, rows * cell * view.scale
        parts.append(f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h{number(-width)}z")
    return "".join(parts)


def _track(view: _View, track: Sequence[Sequence[tuple[float, float]]]) -> Markup:
    lines = []
    for piece in track:
        points: list[tuple[float, float]] = []
        for along, height in piece:
            point = (view.x(along), view.y(height))
            if not points or math.dist(point, points[-1]) >= 1.5:
                points.append(point)
        if len(points) > 1:
            lines.append(tag("path", d=path(points), class_="track"))
    if track and track[0]:
        along, height = track[0][0]
        lines.append(tag("circle", tag("title", "start"), cx=view.x(along), cy=view.y(height), r=3, class_="start"))
    return group(lines)


def _regions(view: _View, findings: Sequence[Finding], cell: float) -> Markup:
    return group(
        [tag("path", d=_cells_path(view, sorted(f.cells), cell), class_="region") for f in findings],
        shape_rendering="crispEdges",
    )


def _sightings(view: _View, findings: Sequence[Finding]) -> Markup:
    dots = []
    for finding in findings:
        for sighting in reversed(finding.sightings):
            if not view.holds(sighting.along, sighting.height):
                continue
            p = "" if sighting.p_max is None else f", p {sighting.p_max:.2f}"
            title = (
                f"F{finding.number}, sighting {sighting.id}: along {sighting.along:.2f}, height "
                f"{sighting.height:.2f} {sighting.unit}{p}"
            )
            dot = tag(
                "circle",
                tag("title", title),
                cx=view.x(sighting.along),
                cy=view.y(sighting.height),
                r=4.2,
                fill=EVIDENCE_COLOURS[evidence_class(sighting)],
                class_="sighting",
            )
            dots.append(tag("a", dot, href=f"#s{sighting.id}"))
    return group(dots)


def _marks(view: _View, face: str, findings: Sequence[Finding], marks: Mapping[int, Mark]) -> Markup:
    parts = []
    for finding in findings:
        for sighting in finding.sightings:
            mark = marks.get(sighting.id)
            if mark is None:
                continue
            title = tag("title", f"sighting {sighting.id}: {mark.state} ({mark.detail})")
            if mark.state is MarkState.REFUSED or mark.along is None or mark.height is None:
                x, y = view.x(sighting.along), view.y(sighting.height)
                ring = f"M{number(x - 5.3)} {number(y + 5.3)}l10.6 -10.6"
                circle = tag("circle", cx=x, cy=y, r=7.5)
                parts.append(group([title, circle, tag("path", d=ring)], class_="refused"))
            elif mark.face == face:
                x, y = view.x(mark.along), view.y(mark.height)
                cross = f"M{number(x - 6)} {number(y - 6)}l12 12m0 -12l-12 12"
                kind = "painted" if mark.state is MarkState.PAINTED else "ordered"
                crosses = [tag("path", d=cross, class_="halo"), tag("path", d=cross)]
                parts.append(group([title, *crosses], class_=f"mark {kind}"))
    return group(parts)


def _labels(view: _View, findings: Sequence[Finding]) -> Markup:
    """Numbers of the findings, the strongest first; one that finds no room is left out (the list has it)."""
    taken: list[tuple[float, float, float, float]] = []
    parts = []
    for finding in sorted(findings, key=lambda f: -(f.best.log_odds or 0.0)):
        text = f"F{finding.number}"
        width = 8.0 * len(text) + 2
        left, right = view.x(finding.along_range[0]), view.x(finding.along_range[1])
        top, bottom = view.y(finding.height_range[1]), view.y(finding.height_range[0])
        middle = (left + right) / 2 - width / 2
        side = (top + bottom) / 2 + _LABEL_HEIGHT / 3
        above = top - 9
        candidates = [(right + 7, top + 4), (right + 7, side), (left - width - 7, side), (middle, above)]
        candidates += [(middle, bottom + _LABEL_HEIGHT + 8), (left - width - 7, top + 4)]
        for x, y in candidates:
            box = (x, y - _LABEL_HEIGHT, x + width, y + 2)
            inside = box[0] >= _LEFT and box[2] <= _LEFT + view.width and box[1] >= 2
            inside = inside and box[3] <= _TOP + view.height
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                label = tag("text", text, x=x, y=y, class_="find-label")
                parts.append(tag("a", label, href=f"#f{finding.number}"))
                break
    return group(parts)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _axes(view: _View, unit: str, face: FaceRecord | None) -> Markup:
    low_along, high_along, low_height, high_height = view.extent
    bottom = _TOP + view.height
    parts = [tag("rect", x=_LEFT, y=_TOP, width=view.width, height=view.height, class_="axis-frame")]
    along_count = max(2, round(view.width / 90))
    step = nice_step(high_along - low_along, along_count)
    for value in ticks(low_along, high_along, along_count):
        x = view.x(value)
        parts.append(tag("path", d=f"M{number(x)} {number(bottom)}v5", class_="axis"))
        parts.append(tag("text", tick_label(value, step), x=x, y=bottom + 17, class_="tick", text_anchor="middle"))
    height_count = max(2, round(view.height / 45))
    step = nice_step(high_height - low_height, height_count)
    for value in ticks(low_height, high_height, height_count):
        y = view.y(value)
        parts.append(tag("path", d=f"M{number(_LEFT)} {number(y)}h-5", class_="axis"))
        parts.append(tag("text", tick_label(value, step), x=_LEFT - 8, y=y + 3.5, class_="tick", text_anchor="end"))
    direction = ""
    if face is not None and face.along_bearing_deg is not None:
        direction = f", towards {face.along_bearing_deg:.0f}° true →"
    parts.append(tag("text", f"along ({unit}){direction}", x=_LEFT, y=bottom + 38, class_="axis-title"))
    middle = _TOP + view.height / 2
    turn = f"rotate(-90 12 {number(middle)})"
    title = f"height ({unit})"
    parts.append(tag("text", title, x=12, y=middle, transform=turn, class_="axis-title", text_anchor="middle"))
    parts.append(_scale_bar(view, unit, bottom + 30))
    return group(parts)


def _scale_bar(view: _View, unit: str, y: float) -> Markup:
    length = next(
        step for step in (nice_step(limit / view.scale, 1) for limit in (150, 70, 30)) if step * view.scale <= 240
    )
    half = length * view.scale / 2
    x = _LEFT + view.width - 2 * half - 12
    parts = [
        tag("rect", x=x, y=y, width=half, height=5, class_="bar-dark"),
        tag("rect", x=x + half, y=y, width=half, height=5, class_="bar-light"),
    ]
    label = f"{length:g} {unit}"
    for text, at in (("0", x), (f"{length / 2:g}", x + half), (label, x + 2 * half)):
        parts.append(tag("text", text, x=at, y=y + 17, class_="tick", text_anchor="middle"))
    return group(parts)
