"""Which places of the structure are cracked, as far as the frames so far can say?

The facade of this folder: the agent hands in each frame's scores and pose and gets back what they mean.

    inspection = Inspection(settings, projector)
    observation = inspection.observe(frame, pose, scores)
    for sighting in observation.sightings: ...   # new: goes to the log
    for sighting in observation.offers: ...      # asks for paint now: goes to the gate
    inspection.mark(sighting.place)              # once paint was ordered
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drone_agent.inspection.coverage import CoverageDelta, CoverageSummary, summarise, take_delta
from drone_agent.inspection.evidence import FrameEvidence, add_looks, add_picture, frame_evidence
from drone_agent.inspection.projection import FaceInfo, NoView, Projector, View
from drone_agent.inspection.settings import InspectionSettings
from drone_agent.inspection.surface import CellGrid, Ints
from drone_agent.values import Frame, Look, NoPose, Place, Pose, Sighting, Tile, TileScore, Verdict

Floats = npt.NDArray[np.float64]

# More cells than this in one frame are no inspection: the camera is too far away for the size of the cells.
_MAX_CELLS_A_FRAME = 200_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A tile that the model calls cracked, and where its strongest share lies on the structure (None: off the face)."""

    tile: Tile
    p_crack: float
    along: float | None
    height: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one frame added.

    Attributes:
        frame_index: the frame.
        t_mono_ns: its time.
        face: the surface it shows; None if `no_view`.
        no_view: why the frame could not be put on the structure: it counts as not seen. None if it could.
        looks: its tiles on the structure, good and unknown ones.
        hits: its tiles that the model calls cracked.
        sightings: places newly confirmed, one a place (`mark_spacing_m`); strongest first.
        offers: sightings that ask for paint now: the new ones, and earlier ones that this frame shows again, that have
            no mark and have not asked for `reoffer_s`. They carry this frame's tile and time and the belief as of now.
        footprint: (4, 2) places of the frame's corners, clockwise from the top left; NaN where a corner sees no wall.
        range_m: distance along the optical axis; None in a picture.
        gsd_mm_px: ground sampling distance at the frame's centre; None in a picture.
    """

    frame_index: int
    t_mono_ns: int
    face: str | None
    no_view: NoView | None = None
    looks: tuple[Look, ...] = ()
    hits: tuple[Hit, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    offers: tuple[Sighting, ...] = ()
    footprint: Floats | None = None
    range_m: float | None = None
    gsd_mm_px: float | None = None


class Inspection:
    """Cells, beliefs, sightings and marks of one flight. Deterministic: the same calls give the same answers."""

    def __init__(self, settings: InspectionSettings, projector: Projector, *, first_sighting_id: int = 1) -> None:
        """Starts with nothing seen.

        Args:
            settings: weights and bounds.
            projector: `vehicle.geometry.WallProjector`, or `projection.ImageProjector` without telemetry.
            first_sighting_id: where to go on counting after a restart in flight.
        """
        self._settings = settings
        self._projector = projector
        self._grids: dict[str, CellGrid] = {}
        self._faces: dict[str, FaceInfo] = {}
        for face in projector.faces:
            self._add_face(face)
        self._sightings: dict[int, Sighting] = {}
        self._offered_ns: dict[int, int] = {}
        self._marks: dict[str, list[tuple[float, float]]] = {}
        self._next_id = first_sighting_id
        self._last_view: tuple[Pose | NoPose | None, tuple[int, int], View | NoView] | None = None

    def _add_face(self, face: FaceInfo) -> None:
        self._faces[face.name] = face
        self._grids[face.name] = CellGrid(face.cell, self._settings.prior_log_odds)

    @property
    def faces(self) -> tuple[FaceInfo, ...]:
        """The surfaces, for the log's `face` events."""
        return tuple(self._faces.values())

    def view(self, pose: Pose | NoPose | None, width_px: int, height_px: int) -> View | NoView:
        """What a frame of this size would show; gives range and GSD before the tiles are scored."""
        # Asked before the tiles are scored and again in observe(), with the same pose.
        known = self._last_view
        if known is not None and known[0] is pose and known[1] == (width_px, height_px):
            return known[2]
        view = self._projector.view(pose, width_px, height_px)
        self._last_view = (pose, (width_px, height_px), view)
        return view

    def observe(self, frame: Frame, pose: Pose | NoPose | None, scores: Sequence[TileScore]) -> Observation:
        """Adds one frame.

        A frame without pose, or that does not face a known surface, changes nothing: what it shows counts as not seen.
        """
        height_px, width_px = frame.image.shape[:2]
        view = self.view(pose, width_px, height_px)
        if isinstance(view, NoView):
            return Observation(frame.index, frame.t_mono_ns, None, view)
        looks, hits = _place_tiles(frame, view, scores)
        grid = self._grids[view.face.name]
        cells = _cells_in(view.bounds, view.face)
        if cells is None:
            detail = f"more than {_MAX_CELLS_A_FRAME} cells of {view.face.cell:g} {view.face.unit} in one frame"
            return Observation(frame.index, frame.t_mono_ns, None, NoView("too_far", detail))
        columns, rows = cells
        sightings: tuple[Sighting, ...] = ()
        offers: tuple[Sighting, ...] = ()
        if scores and len(columns):
            centres = np.column_stack([columns + 0.5, rows + 0.5]) * view.face.cell
            evidence = frame_evidence(view.to_image(centres), _cell_px(view), scores, self._settings)
            touched = evidence.good | evidence.unknown
            slots = grid.slots(columns[touched], rows[touched])
            evidence = _only(evidence, touched)
            new = self._add(grid, slots, evidence, view)
            sightings = self._confirm(grid, slots, new, evidence, frame, view, scores)
            offers = sightings + self._offer_again(grid, slots, evidence, frame, view, scores)
        return Observation(
            frame.index,
            frame.t_mono_ns,
            view.face.name,
            None,
            looks,
            hits,
            sightings,
            offers,
            view.footprint,
            view.range_m,
            view.gsd_mm_px,
        )

    def _add(self, grid: CellGrid, slots: Ints, evidence: FrameEvidence, view: View) -> Ints:
        if view.viewpoint is not None:
            return add_looks(grid, slots, evidence, view.viewpoint, self._settings)
        new = add_picture(grid, slots, evidence, self._settings)
        # What a picture showed and shows no longer makes room for the next sighting.
        for number, sighting in list(self._sightings.items()):
            slot = grid.find(*sighting.place.cell)
            if slot is not None and grid.sighting[slot] != number:
                del self._sightings[number]
        return new

    def _confirm(
        self,
        grid: CellGrid,
        slots: Ints,
        new: Ints,
        evidence: FrameEvidence,
        frame: Frame,
        view: View,
        scores: Sequence[TileScore],
    ) -> tuple[Sighting, ...]:
        found = []
        for slot in new.tolist():
            column, row = (int(values[0]) for values in grid.cells_at(np.array([slot])))
            place = self._refine(grid, column, row, view.face)
            if self._taken(place):
                continue
            number = self._next_id
            self._next_id += 1
            position = int(np.flatnonzero(slots == slot)[0])
            sighting = self._describe(number, grid, slot, position, place, evidence, frame, view, scores)
            grid.sighting[slot] = number
            self._sightings[number] = sighting
            self._offered_ns[number] = frame.t_mono_ns
            found.append(sighting)
        return tuple(found)

    def _offer_again(
        self,
        grid: CellGrid,
        slots: Ints,
        evidence: FrameEvidence,
        frame: Frame,
        view: View,
        scores: Sequence[TileScore],
    ) -> tuple[Sighting, ...]:
        again = []
        pause_ns = round(self._settings.reoffer_s * 1e9)
        for position in np.flatnonzero((grid.sighting[slots] > 0) & (evidence.log_odds > 0)).tolist():
            slot = int(slots[position])
            number = int(grid.sighting[slot])
            known = self._sightings.get(number)
            if known is None or frame.t_mono_ns - self._offered_ns[number] < max(pause_ns, 1):
                continue
            if grid.log_odds[slot] < self._settings.confirm_log_odds or self.is_marked(known.place):
                continue
            self._offered_ns[number] = frame.t_mono_ns
            again.append(self._describe(number, grid, slot, position, known.place, evidence, frame, view, scores))
        return tuple(again)

    def _describe(
        self,
        number: int,
        grid: CellGrid,
        slot: int,
        position: int,
        place: Place,
        evidence: FrameEvidence,
        frame: Frame,
        view: View,
        scores: Sequence[TileScore],
    ) -> Sighting:
        at = np.array([[place.along, place.height]])
        pixel = view.to_image(at)
        point = view.to_face(pixel)
        # The belief may pass the bound on a tile that only adds a little; then the tile nearest to the place serves.
        best = int(evidence.tile[position])
        tile = scores[best].tile if best >= 0 else _nearest_tile(pixel[0], scores)
        metric = place.unit == "m"
        sigma = float(np.hypot(point.sigma_m[0], grid.cell / np.sqrt(12)))
        return Sighting(
            sighting_id=number,
            t_mono_ns=frame.t_mono_ns,
            frame_index=frame.index,
            place=place,
            log_odds=float(grid.log_odds[slot]),
            looks=int(grid.good[slot]),
            p_max=float(grid.p_max[slot]),
            tile=tile,
            sigma_m=sigma if metric and np.isfinite(sigma) else None,
            geo=view.geo(place.along, place.height),
            range_m=_number(point.range_m[0]),
            incidence=_number(point.incidence[0]),
            gsd_mm_px=view.gsd_mm_px,
        )

    def _refine(self, grid: CellGrid, column: int, row: int, face: FaceInfo) -> Place:
        """The centre of gravity of the belief around a cell, kept within the cell."""
        weights, offsets = [], []
        for step_c in (-1, 0, 1):
            for step_r in (-1, 0, 1):
                slot = grid.find(column + step_c, row + step_r)
                if slot is not None:
                    weights.append(max(0.0, float(grid.log_odds[slot]) - self._settings.prior_log_odds))
                    offsets.append((step_c, step_r))
        total = sum(weights) or 1.0
        pull_c, pull_r = (
            min(0.49, max(-0.49, sum(w * offset[axis] for w, offset in zip(weights, offsets, strict=True)) / total))
            for axis in (0, 1)
        )
        along, height = (column + 0.5 + pull_c) * grid.cell, (row + 0.5 + pull_r) * grid.cell
        return Place(face.name, along, height, (column, row), face.unit)

    def _taken(self, place: Place) -> bool:
        spacing = self._settings.mark_spacing_m if place.unit == "m" else self._settings.image.spacing_px
        near = (
            math.hypot(other.place.along - place.along, other.place.height - place.height) < spacing
            for other in self._sightings.values()
            if other.place.face == place.face
        )
        return any(near) or self.is_marked(place, spacing)

    def coverage_delta(self) -> list[CoverageDelta]:
        """For each face with changes: the cells that changed since the last call."""
        deltas = (take_delta(face, self._grids[name]) for name, face in self._faces.items())
        return [delta for delta in deltas if delta is not None]

    def coverage(self) -> list[CoverageSummary]:
        """Each face in numbers."""
        return [summarise(face, self._grids[name]) for name, face in self._faces.items()]

    def log_odds(self, face: str, column: int, row: int) -> float:
        """The belief about one cell; the prior where nothing was seen."""
        grid = self._grids[face]
        slot = grid.find(column, row)
        return self._settings.prior_log_odds if slot is None else float(grid.log_odds[slot])

    def mark(self, place: Place) -> None:
        """Paint was ordered for a place, now or before a restart: nothing within the spacing asks for paint again."""
        self._marks.setdefault(place.face, []).append((place.along, place.height))

    def is_marked(self, place: Place, spacing: float | None = None) -> bool:
        """Whether a mark lies closer than `spacing` (m, or px in a picture; default: the configured one)."""
        if spacing is None:
            spacing = self._settings.mark_spacing_m if place.unit == "m" else self._settings.image.spacing_px
        marks = self._marks.get(place.face, ())
        return any(math.hypot(along - place.along, height - place.height) < spacing for along, height in marks)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _only(evidence: FrameEvidence, wanted: npt.NDArray[np.bool_]) -> FrameEvidence:
    return replace(
        evidence,
        log_odds=evidence.log_odds[wanted],
        p_crack=evidence.p_crack[wanted],
        tile=evidence.tile[wanted],
        good=evidence.good[wanted],
        unknown=evidence.unknown[wanted],
    )


def _cells_in(bounds: tuple[float, float, float, float], face: FaceInfo) -> tuple[Ints, Ints] | None:
    """Columns and rows of the cells whose centres may lie within the bounds; None if they are too many."""
    low_a, low_h, high_a, high_h = bounds
    if (high_a - low_a) * (high_h - low_h) > _MAX_CELLS_A_FRAME * face.cell**2:
        return None
    first_c, last_c = (int(np.floor(value / face.cell)) for value in (low_a, high_a))
    first_r, last_r = (int(np.floor(value / face.cell)) for value in (low_h, high_h))
    columns = np.arange(first_c, last_c + 1)
    rows = np.arange(first_r, last_r + 1)
    columns = columns[_within(columns, face.cell, face.length)]
    rows = rows[_within(rows, face.cell, face.height)]
    grid_c, grid_r = np.meshgrid(columns, rows)
    return grid_c.ravel(), grid_r.ravel()


def _within(index: Ints, cell: float, end: float | None) -> npt.NDArray[np.bool_]:
    centre = (index + 0.5) * cell
    inside: npt.NDArray[np.bool_] = (
        (centre >= 0) & (centre <= end) if end is not None else np.ones(len(index), np.bool_)
    )
    return inside


def _cell_px(view: View) -> float:
    return view.face.cell if view.gsd_mm_px is None else 1000 * view.face.cell / view.gsd_mm_px


def _nearest_tile(pixel: Floats, scores: Sequence[TileScore]) -> Tile:
    def distance(score: TileScore) -> float:
        half = score.tile.size_px / 2
        return float(np.hypot(score.tile.x_px + half - pixel[0], score.tile.y_px + half - pixel[1]))

    return min(scores, key=distance).tile


def _place_tiles(frame: Frame, view: View, scores: Sequence[TileScore]) -> tuple[tuple[Look, ...], tuple[Hit, ...]]:
    """Puts tiles and peaks on the surface, all in one projection."""
    if not scores:
        return (), ()
    n = len(scores)
    x = np.array([score.tile.x_px for score in scores], np.float64)
    y = np.array([score.tile.y_px for score in scores], np.float64)
    side = np.array([score.tile.size_px for score in scores], np.float64)
    peak_x = [t.tile.x_px + t.tile.size_px / 2 if t.peak_x_px is None else t.peak_x_px for t in scores]
    peak_y = [t.tile.y_px + t.tile.size_px / 2 if t.peak_y_px is None else t.peak_y_px for t in scores]
    pixels = np.empty((6 * n, 2))
    pixels[:, 0] = np.concatenate([x, x + side, x + side, x, x + side / 2, peak_x])
    pixels[:, 1] = np.concatenate([y, y, y + side, y + side, y + side / 2, peak_y])
    points = view.to_face(pixels)
    quads = points.place[: 4 * n].reshape(4, n, 2).transpose(1, 0, 2)
    peaks = points.place[5 * n :]
    gsd = 1000 * np.sqrt(_areas(quads)) / side
    viewpoint = view.viewpoint or (np.nan, np.nan, np.nan)
    usable = np.isfinite(quads).all(axis=(1, 2))
    ranges, incidences, sigmas = (
        values[4 * n : 5 * n].tolist() for values in (points.range_m, points.incidence, points.sigma_m)
    )
    gsds = gsd.tolist() if view.face.unit == "m" else [math.nan] * n
    looks = tuple(
        Look(
            t_mono_ns=frame.t_mono_ns,
            frame_index=frame.index,
            score=scores[i],
            face=view.face.name,
            quad=quads[i],
            range_m=ranges[i],
            incidence=incidences[i],
            gsd_mm_px=gsds[i],
            sigma_m=sigmas[i],
            viewpoint=viewpoint,
        )
        for i in np.flatnonzero(usable).tolist()
    )
    hits = tuple(
        Hit(score.tile, score.p_crack or 0.0, _number(peaks[i, 0]), _number(peaks[i, 1]))
        for i, score in enumerate(scores)
        if score.verdict is Verdict.CRACK
    )
    return looks, hits


def _areas(quads: Floats) -> Floats:
    """Areas of N quadrilaterals (N, 4, 2)."""
    # Half the cross product of the diagonals.
    one, other = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
    area: Floats = 0.5 * np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])
    return area
