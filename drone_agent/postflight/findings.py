"""What was found? Groups confirmed sightings into findings, as an engineer would list them.

The agent confirms places, cell by cell, and reports one sighting every so many centimetres along a crack. Here cells
whose evidence passed the bound are joined where they touch (one missing cell is bridged), and a sighting belongs to
the region that its cell lies in. The length is the longest way through that region from cell to cell: it says how
far the evidence reaches, it is no measurement of the crack, and nothing here says how wide the crack is.

Without telemetry the cells are squares of the picture and show another piece of wall a moment later. There only
sightings that are close in the picture *and* in time are put together.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drone_agent.flightlog.reader import Flight
from drone_agent.flightlog.schema import SightingRecord

Cell = tuple[int, int]
_Graph = dict[Cell, dict[Cell, float]]

# cells this far apart (in cells, either direction) belong together: one cell between them may lack evidence
_LINK_CELLS = 2
# sightings of one crack keep a distance (mark spacing, 0.2 m by default); half as much again still joins them
_LINK_SPACINGS = 1.5
_DEFAULT_SPACING_M = 0.2
_DEFAULT_SPACING_PX = 224.0
_DEFAULT_BOUND = 3.0
_SAME_MOMENT_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One find: sightings that belong together.

    `along`, `height` are the middle of its extent, `along_range` and `height_range` the extent itself (outer edges of
    the cells), all in `unit`. `length` is the longest way through `cells` (column, row) plus one cell.
    `sightings` are ordered by evidence, the strongest first.
    """

    number: int
    face: str
    unit: str
    along: float
    height: float
    along_range: tuple[float, float]
    height_range: tuple[float, float]
    length: float
    cells: frozenset[Cell]
    sightings: tuple[SightingRecord, ...]

    @property
    def best(self) -> SightingRecord:
        """The sighting with the most evidence."""
        return self.sightings[0]

    @property
    def p_max(self) -> float | None:
        """The highest score of one tile."""
        return max((s.p_max for s in self.sightings if s.p_max is not None), default=None)

    @property
    def looks(self) -> int:
        """The most looks that any of its sightings rests on."""
        return max(s.looks for s in self.sightings)


def find(flight: Flight) -> list[Finding]:
    """The findings of a flight, numbered from 1 by face and then along it (by time where there is no telemetry)."""
    groups: list[tuple[str, str, float, list[tuple[set[Cell], float, list[SightingRecord]]]]] = []
    settings = _inspection(flight.session)
    for face in sorted({s.face for s in flight.sightings}):
        sightings = [s for s in flight.sightings if s.face == face]
        known = flight.faces.get(face)
        unit: str = known.unit if known else sightings[0].unit
        cell = known.cell if known else 0.05
        if unit == "m":
            bound = _number(settings.get("confirm_log_odds"), _DEFAULT_BOUND)
            spacing = _number(settings.get("mark_spacing_m"), _DEFAULT_SPACING_M)
            positive = {(c.column, c.row) for c in flight.cells(face) if c.log_odds is not None and c.log_odds >= bound}
            regions = group_by_place(sightings, positive, link_cells=max(_LINK_CELLS, _LINK_SPACINGS * spacing / cell))
        else:
            image = settings.get("image")
            spacing = _number(image.get("spacing_px") if isinstance(image, Mapping) else None, _DEFAULT_SPACING_PX)
            regions = group_by_moment(sightings, spacing=_LINK_SPACINGS * spacing, cell=cell)
        groups.append((face, unit, cell, regions))
    findings: list[Finding] = []
    for face, unit, cell, regions in groups:
        for cells, length, members in regions:
            findings.append(_finding(len(findings) + 1, face, unit, cell, cells, length, members))
    return findings


def group_by_place(
    sightings: Sequence[SightingRecord], positive: Iterable[Cell], *, link_cells: float
) -> list[tuple[set[Cell], float, list[SightingRecord]]]:
    """Joins sightings of one face through the cells between them.

    Args:
        sightings: Of one face in metres.
        positive: Cells whose evidence passed the bound.
        link_cells: Two sightings at most so many cells apart belong together, whatever lies between them.

    Returns:
        Cells, length (in cells) and sightings of each group, ordered by the least column.
    """
    seeds = {s.cell for s in sightings}
    graph = _neighbours(seeds | set(positive), _LINK_CELLS)
    for one, others in _neighbours(seeds, math.floor(link_cells)).items():
        for other, distance in others.items():
            if distance <= link_cells:
                graph[one][other] = distance
    groups = []
    left = set(seeds)
    while left:
        cells = _reach(graph, min(left))
        left -= cells
        members = [s for s in sightings if s.cell in cells]
        groups.append((cells, _longest_way(graph, min(cells)), members))
    return sorted(groups, key=lambda group: min(group[0]))


def group_by_moment(
    sightings: Sequence[SightingRecord], *, spacing: float, cell: float
) -> list[tuple[set[Cell], float, list[SightingRecord]]]:
    """Joins sightings that are close in the picture (`spacing`, px) and in time; as `group_by_place`."""
    groups: list[list[SightingRecord]] = []
    for sighting in sorted(sightings, key=lambda s: s.t_mono_ns):
        for group in groups:
            last = group[-1]
            near = math.hypot(last.along - sighting.along, last.height - sighting.height) <= spacing
            if near and sighting.t_mono_ns - last.t_mono_ns <= _SAME_MOMENT_NS:
                group.append(sighting)
                break
        else:
            groups.append([sighting])
    result = []
    for group in groups:
        spread = max(math.hypot(a.along - b.along, a.height - b.height) for a in group for b in group)
        result.append(({s.cell for s in group}, spread / cell, group))
    return result


def _finding(
    number: int, face: str, unit: str, cell: float, cells: set[Cell], length: float, members: list[SightingRecord]
) -> Finding:
    columns, rows = [column for column, _ in cells], [row for _, row in cells]
    along = (min(columns) * cell, (max(columns) + 1) * cell)
    height = (min(rows) * cell, (max(rows) + 1) * cell)
    strongest = sorted(members, key=lambda s: (-(s.log_odds or 0.0), -(s.p_max or 0.0), s.id))
    return Finding(
        number=number,
        face=face,
        unit=unit,
        along=sum(along) / 2,
        height=sum(height) / 2,
        along_range=along,
        height_range=height,
        length=(length + 1) * cell,
        cells=frozenset(cells),
        sightings=tuple(strongest),
    )


def _neighbours(cells: set[Cell], reach: int) -> _Graph:
    """Each cell with the others within `reach` columns and rows, and the distance between their centres (in cells)."""
    graph: _Graph = {cell: {} for cell in cells}
    if len(cells) < (2 * reach + 1) ** 2:
        for one in cells:
            for other in cells:
                if one != other and max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= reach:
                    graph[one][other] = math.hypot(one[0] - other[0], one[1] - other[1])
        return graph
    steps = range(-reach, reach + 1)
    offsets = [(dc, dr, math.hypot(dc, dr)) for dc in steps for dr in steps if dc or dr]
    for column, row in cells:
        for dc, dr, distance in offsets:
            other = (column + dc, row + dr)
            if other in graph:
                graph[column, row][other] = distance
    return graph


def _reach(graph: _Graph, start: Cell) -> set[Cell]:
    seen, queue = {start}, [start]
    while queue:
        for other in graph[queue.pop()]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def _longest_way(graph: _Graph, start: Cell) -> float:
    """The longest shortest way in the component of `start` (in cells), by two sweeps (exact on trees, else at most)."""
    end, _ = _farthest(graph, start)
    return _farthest(graph, end)[1]


def _farthest(graph: _Graph, start: Cell) -> tuple[Cell, float]:
    distances = {start: 0.0}
    queue = [(0.0, start)]
    while queue:
        distance, cell = heapq.heappop(queue)
        if distance > distances[cell]:
            continue
        for other, step in graph[cell].items():
            further = distance + step
            if further < distances.get(other, math.inf):
                distances[other] = further
                heapq.heappush(queue, (further, other))
    cell = max(distances, key=lambda one: (distances[one], one))
    return cell, distances[cell]


def _inspection(session: Mapping[str, Any]) -> Mapping[str, Any]:
    config = session.get("config")
    block = config.get("inspection") if isinstance(config, Mapping) else None
    return block if isinstance(block, Mapping) else {}


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
