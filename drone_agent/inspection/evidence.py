"""What does one frame say about each cell, and how do many frames add up to a belief?

A frame speaks about a cell through the tiles that cover it:

* A tile speaks by how far its calibrated log-odds lie above or below those of the model's threshold, clamped to
  +-`look_limit`: what the verdict calls cracked speaks for a crack, what it calls clear against one.
* A negative tile speaks against a crack in every cell it covers. A positive tile speaks for a crack only where the
  model points: each cell gets the tile's evidence times the model's share at that place, relative to the strongest.
* Where tiles overlap, the cell takes their mean, a tile in whose middle it lies weighing more than one at whose rim.

Frames add up as log-odds, as independent looks do (Moravec and Elfes' occupancy grid), with a weight for what they
are not: two pictures from nearly the same place repeat each other's errors. A look weighs
min(1, baseline / `full_baseline`), where the baseline is the camera's movement since the last look that counted, as a
share of its distance to the wall (times the focal length in pixels this is also how far the tiles slid over the wall);
below `min_baseline` it adds nothing. So the evidence of one pass does not depend on the frame rate. The sum is
clamped to +-`belief_limit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drone_agent.inspection.settings import InspectionSettings
from drone_agent.inspection.surface import CellGrid, Ints
from drone_agent.values import TileScore, Verdict

Floats = npt.NDArray[np.float64]

# Distance from a tile's rim, as a share of its side, from which on a cell has its full weight.
_RIM = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class FrameEvidence:
    """What one frame says about K cells.

    `log_odds` (K,) is the evidence, 0 where no scored tile covers the cell; `p_crack` (K,) the highest probability of
    a tile that speaks for a crack there (0 for none) and `tile` (K,) that tile's index (-1 for none); `good` and
    `unknown` (K,) say whether the cell lay in a scored tile, or only in tiles that could not be scored.
    """

    log_odds: Floats
    p_crack: Floats
    tile: Ints
    good: npt.NDArray[np.bool_]
    unknown: npt.NDArray[np.bool_]


def frame_evidence(
    centres_px: Floats, cell_px: float, scores: Sequence[TileScore], settings: InspectionSettings
) -> FrameEvidence:
    """Spreads the tiles' scores over the cells.

    Args:
        centres_px: (K, 2) cell centres in pixels of the frame; NaN for cells that are not in view.
        cell_px: side of a cell in pixels of the frame, about.
        scores: the frame's tiles.
        settings: limits and weights.
    """
    count = len(centres_px)
    corner_x = np.array([score.tile.x_px for score in scores], np.float64)
    corner_y = np.array([score.tile.y_px for score in scores], np.float64)
    side = np.array([score.tile.size_px for score in scores], np.float64)
    # A refused tile may carry a logit all the same; its verdict stays unknown.
    scored = np.array([s.logit is not None and s.verdict is not Verdict.UNKNOWN for s in scores], np.bool_)
    margins = np.array([score.margin for score in scores], np.float64)
    limit = settings.look_limit
    # A frame off the wall has NaN cells; comparing with NaN is False, which is what is meant.
    across = (centres_px[None, :, 0] - corner_x[:, None]) / side[:, None]
    down = (centres_px[None, :, 1] - corner_y[:, None]) / side[:, None]
    tiles, cells = np.nonzero((across >= 0) & (across < 1) & (down >= 0) & (down < 1))
    u, v = across[tiles, cells], down[tiles, cells]
    covered = np.zeros(count, np.bool_)
    covered[cells] = True

    of_scored = scored[tiles]
    tiles, cells, u, v = tiles[of_scored], cells[of_scored], u[of_scored], v[of_scored]
    rim = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) / _RIM
    weight = settings.edge_weight + (1 - settings.edge_weight) * np.minimum(rim, 1.0)
    says = np.clip(margins, -limit, limit)[tiles]
    positive = says > 0
    if positive.any():
        share = _localise(tiles[positive], u[positive], v[positive], cell_px, scores)
        says[positive] *= settings.unlocalised_share + (1 - settings.unlocalised_share) * share
    total = np.bincount(cells, weight, count)
    good = total > 0
    log_odds = np.divide(np.bincount(cells, weight * says, count), total, out=np.zeros(count), where=good)

    p_crack = np.zeros(count)
    best = np.full(count, -1, np.int64)
    pointed = positive & (says > 0.5 * np.clip(margins, 0, limit)[tiles])
    if pointed.any():
        p_tile = np.array([score.p_crack or 0.0 for score in scores])
        # Ascending, so that the strongest tile is written last.
        order = np.argsort(p_tile[tiles[pointed]], kind="stable")
        cells_by_p, tiles_by_p = cells[pointed][order], tiles[pointed][order]
        p_crack[cells_by_p] = p_tile[tiles_by_p]
        best[cells_by_p] = tiles_by_p
    return FrameEvidence(log_odds, p_crack, best, good, covered & ~good)


def _localise(tiles: Ints, u: Floats, v: Floats, cell_px: float, scores: Sequence[TileScore]) -> Floats:
    """How strongly the model points at each (tile, place), 0 to 1; u, v are the place in the tile, 0 to 1."""
    share = np.ones(len(tiles))
    kinds: dict[tuple[int, ...], list[int]] = {}
    for tile in np.unique(tiles).tolist():
        cells = scores[tile].cells
        kinds.setdefault(() if cells is None else cells.shape, []).append(tile)
    place = np.zeros(len(scores), np.int64)
    for shape, members in kinds.items():
        if not shape:
            _share_of_peaks(share, tiles, u, v, [(tile, scores[tile]) for tile in members])
            continue
        mine = np.isin(tiles, members) if len(kinds) > 1 else slice(None)
        place[members] = np.arange(len(members))
        strong = _relative(np.stack([cells for tile in members if (cells := scores[tile].cells) is not None]))
        # Tiles of one frame may differ in size, but hardly ever do; the reach of a cell follows the first.
        half = cell_px / scores[members[0]].tile.size_px / 2
        share[mine] = _strongest_within(strong, place[tiles[mine]], u[mine], v[mine], half)
    return share


def _relative(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Shares of N maps (N, h, w) relative to each one's strongest, 0 to 1."""
    # Shares below zero speak against a crack; if all do, the bias made the tile positive and only their order counts.
    strong = np.maximum(maps, np.float32(0.0))
    top = strong.max(axis=(1, 2))
    for i in np.flatnonzero(top <= 0):
        np.subtract(maps[i], maps[i].min(), out=strong[i])
        top[i] = strong[i].max()
    strong[top <= 0] = 1.0
    top[top <= 0] = 1.0
    relative: npt.NDArray[np.float32] = strong / top[:, None, None]
    return relative


def _strongest_within(
    maps: npt.NDArray[np.float32], which: Ints, u: Floats, v: Floats, half: float
) -> npt.NDArray[np.float32]:
    """The most that map `which` says within `half` (share of the tile) of (u, v): a cell may hold several places."""
    _, rows, columns = maps.shape
    flat = maps.ravel()
    across = [np.clip(((u + step) * columns).astype(np.int64), 0, columns - 1) for step in _steps(half, columns)]
    best = np.zeros(len(which), np.float32)
    for step in _steps(half, rows):
        row = (which * rows + np.clip(((v + step) * rows).astype(np.int64), 0, rows - 1)) * columns
        for column in across:
            np.maximum(best, flat[row + column], out=best)
    return best


def _steps(half: float, places: int) -> list[float]:
    """Offsets from -half to half, about one place of the map apart."""
    count = max(1, round(2 * half * places))
    return [half * (2 * (step + 0.5) / count - 1) for step in range(count)]


def _share_of_peaks(share: Floats, tiles: Ints, u: Floats, v: Floats, members: Sequence[tuple[int, TileScore]]) -> None:
    """Without a map: a bell of a sixth of the tile around the peak; without a peak the whole tile."""
    for tile, score in members:
        if score.peak_x_px is None or score.peak_y_px is None:
            continue
        mine = tiles == tile
        size = score.tile.size_px
        peak_u, peak_v = (score.peak_x_px - score.tile.x_px) / size, (score.peak_y_px - score.tile.y_px) / size
        share[mine] = np.exp(-18.0 * ((u[mine] - peak_u) ** 2 + (v[mine] - peak_v) ** 2))


def add_looks(
    grid: CellGrid,
    slots: Ints,
    evidence: FrameEvidence,
    viewpoint: tuple[float, float, float],
    settings: InspectionSettings,
) -> Ints:
    """Adds one frame, taken from a known viewpoint, to the beliefs.

    Args:
        grid: the face's cells; changed in place.
        slots: (K,) the slots of the frame's cells, each at most once.
        evidence: what the frame says about them.
        viewpoint: the camera's (along, height, distance from the face; m).
        settings: weights, limits and bounds.

    Returns:
        The slots that were confirmed by this frame, strongest first; no slot is ever returned twice.
    """
    _count(grid, slots, evidence)
    seen = slots[evidence.good]
    here = np.asarray(viewpoint, np.float32)
    baseline = np.linalg.norm(grid.anchor[seen] - here, axis=1) / max(viewpoint[2], 0.1)
    first = np.isnan(baseline)
    novel = first | (baseline >= settings.min_baseline)
    weight = np.where(first, 1.0, np.minimum(1.0, baseline / settings.full_baseline))[novel]
    seen = seen[novel]
    says = evidence.log_odds[evidence.good][novel]
    grid.anchor[seen] = here
    belief = grid.log_odds[seen] + weight * says
    grid.log_odds[seen] = np.clip(belief, -settings.belief_limit, settings.belief_limit)
    grid.hits[seen] += says > 0
    _raise_p(grid, seen, evidence.p_crack[evidence.good][novel])
    return _confirm(grid, seen, settings.confirm_log_odds, settings.min_looks)


def add_picture(grid: CellGrid, slots: Ints, evidence: FrameEvidence, settings: InspectionSettings) -> Ints:
    """Adds one frame of a recording without telemetry; arguments and result as in `add_looks`.

    The cells are places of the picture, and the camera moves on: a cell forgets (`image.memory`), and one whose
    belief has fallen below zero may be confirmed again, since what it shows now is another piece of wall.
    """
    _count(grid, slots, evidence)
    prior, keep = settings.prior_log_odds, settings.image.memory
    belief = prior + (grid.log_odds[slots] - prior) * keep + settings.image.look_weight * evidence.log_odds
    grid.log_odds[slots] = np.clip(belief, -settings.belief_limit, settings.belief_limit)
    grid.hits[slots] += evidence.log_odds > 0
    gone = slots[grid.log_odds[slots] < 0]
    grid.hits[gone] = 0
    grid.p_max[gone] = 0
    grid.confirmed[gone] = False
    grid.sighting[gone] = 0
    _raise_p(grid, slots, evidence.p_crack)
    return _confirm(grid, slots, settings.confirm_log_odds, settings.image.min_looks)


def _count(grid: CellGrid, slots: Ints, evidence: FrameEvidence) -> None:
    grid.good[slots] += evidence.good
    grid.unknown[slots] += evidence.unknown
    grid.dirty[slots[evidence.good | evidence.unknown]] = True


def _raise_p(grid: CellGrid, slots: Ints, p_crack: Floats) -> None:
    grid.p_max[slots] = np.maximum(grid.p_max[slots], p_crack)


def _confirm(grid: CellGrid, slots: Ints, bound: float, min_looks: int) -> Ints:
    passed = (grid.log_odds[slots] >= bound) & (grid.hits[slots] >= min_looks) & ~grid.confirmed[slots]
    new = slots[passed]
    grid.confirmed[new] = True
    ordered: Ints = new[np.argsort(-grid.log_odds[new], kind="stable")]
    return ordered
