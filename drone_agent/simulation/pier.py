"""What does the pier look like, and where are its cracks exactly? A seeded concrete face and its truth.

Face coordinates: along (m, to the right for a viewer who looks at the face, 0 at the left edge) and height (m, up, 0 at
the foot of the section shown). The texture's row 0 is the top, its column 0 the left edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from drone_agent.simulation import concrete
from drone_agent.simulation.concrete import Map
from drone_agent.values import Image

Points = npt.NDArray[np.float64]

CRACK = 255
JOINT = 128

# Width in mm, length in m, heading in degrees from the horizontal, start as a share of the face's width and height.
# Codes sort cracks at 0.1, 0.2, 0.3 and 1.0 mm; what a camera at 1 mm a pixel can show starts at about 0.3 mm.
_CRACKS = (
    (2.0, 0.85, 62.0, 0.085, 0.14),
    (0.5, 0.55, 15.0, 0.165, 0.34),
    (1.2, 0.80, -38.0, 0.31, 0.84),
    (3.0, 0.95, 78.0, 0.50, 0.10),
    (0.8, 0.75, -12.0, 0.56, 0.62),
    (0.3, 0.60, 50.0, 0.755, 0.16),
    (1.6, 0.80, 112.0, 0.925, 0.16),
)
_VERTEX_MM = 2.5


@dataclass(frozen=True, slots=True, eq=False)
class Crack:
    """One crack: a polyline on the face and how wide it gapes there.

    `points` (n x 2, m: along, height) are about 2.5 mm apart, `widths_mm` (n) the opening at each, `width_mm` their
    mean. `parent` is the index of the crack that this one branches from.
    """

    width_mm: float
    points: Points
    widths_mm: npt.NDArray[np.float64]
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Joint:
    """A straight formwork joint from one (along, height) to another, m; no crack, though it looks like one."""

    start: tuple[float, float]
    end: tuple[float, float]
    width_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Pier:
    """A concrete face: BGR texture of `mm_px` millimetres a pixel, and what is truly there."""

    width_m: float
    height_m: float
    mm_px: float
    texture: Image
    cracks: tuple[Crack, ...]
    joints: tuple[Joint, ...]

    def truth(self, mm_px: float = 1.0) -> Image:
        """The truth as an image (uint8, rows x columns): 255 crack, 128 joint, 0 rest; no line below one pixel."""
        shape = (round(self.height_m * 1000.0 / mm_px), round(self.width_m * 1000.0 / mm_px))
        mask = np.zeros(shape, dtype=np.uint8)
        for joint in self.joints:
            ends = self._to_px(np.array([joint.start, joint.end]), mm_px)
            cv2.polylines(mask, [ends], isClosed=False, color=(JOINT,), thickness=max(1, round(joint.width_mm / mm_px)))
        for crack in self.cracks:
            x = crack.points[:, 0] * 1000.0 / mm_px
            y = (self.height_m - crack.points[:, 1]) * 1000.0 / mm_px
            mask[coverage(np.column_stack([x, y]), crack.widths_mm / mm_px, shape) >= 0.5] = CRACK
            cv2.polylines(mask, [self._to_px(crack.points, mm_px)], isClosed=False, color=(CRACK,), thickness=1)
        return mask

    def _to_px(self, points: Points, mm_px: float) -> npt.NDArray[np.int32]:
        x = points[:, 0] * 1000.0 / mm_px
        y = (self.height_m - points[:, 1]) * 1000.0 / mm_px
        return np.floor(np.column_stack([x, y])).astype(np.int32)


def make_pier(seed: int, width_m: float = 4.0, height_m: float = 1.2, mm_px: float = 0.5) -> Pier:
    """Pours a pier face.

    The same arguments give the same pier. The cracks' widths, lengths and rough places are fixed, their course is
    random.

    Args:
        seed: seed of everything random.
        width_m: width of the face.
        height_m: height of the section shown.
        mm_px: size of a texture pixel; should be finer than the camera's ground sampling distance.
    """
    rng = np.random.default_rng(seed)
    shape = (round(height_m * 1000.0 / mm_px), round(width_m * 1000.0 / mm_px))
    width_mm, height_mm = width_m * 1000.0, height_m * 1000.0
    tone = concrete.pour(rng, shape, mm_px)
    edges = _board_edges(rng, width_mm)
    concrete.boards(rng, tone, mm_px, edges)
    tone += 170.0
    tone += concrete.grain(rng, shape, mm_px)
    concrete.patches(rng, tone, mm_px, round(60 * width_m * height_m))
    for _ in range(round(2.5 * width_m)):
        at, top = rng.uniform(0.0, width_mm), rng.uniform(-0.2, 0.4) * height_mm
        concrete.streak(rng, tone, mm_px, at, top, rng.uniform(0.4, 0.9) * height_mm, rng.uniform(0.04, 0.14))
    joints = _press_joints(rng, tone, mm_px, edges, height_m)
    for x_mm in np.arange(0.5 * width_mm / 4.0, width_mm, width_mm / 4.0):
        for y_mm in (0.22 * height_mm, 0.80 * height_mm):
            concrete.tie_hole(rng, tone, mm_px, x_mm + rng.normal(0.0, 4.0), y_mm + rng.normal(0.0, 4.0))
    concrete.pores(rng, tone, mm_px, per_m2=650.0)
    cracks = _grow_cracks(rng, width_m, height_m)
    for crack in cracks:
        _open_crack(rng, tone, mm_px, height_m, crack)
    _leach(rng, tone, mm_px, height_m, cracks)
    concrete.shadow(tone, mm_px, foot_mm=0.80 * width_mm, slope=0.35, depth=0.30, penumbra_mm=14.0)
    return Pier(width_m, height_m, mm_px, concrete.colour(rng, tone, mm_px), tuple(cracks), joints)


def coverage(points_px: Points, widths_px: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """How much of each pixel a ribbon covers, 0 to 1 (float32, `shape` = rows, columns).

    `points_px` (n x 2) are x, y with pixel centres at .5; `widths_px` (n) may be below 1. The share covered is the
    overlap, along the ribbon's normal, with a box as wide as the pixel's step across it, so the sum over a row (or a
    column, where the ribbon is flatter) is the ribbon's width along that row, whatever the width.
    """
    out = np.zeros(shape, dtype=np.float32)
    for k in range(len(points_px) - 1):
        a, b = points_px[k], points_px[k + 1]
        half = 0.25 * float(widths_px[k] + widths_px[k + 1])
        low = np.maximum(np.floor(np.minimum(a, b) - half - 1.0), 0.0).astype(int)
        high = np.minimum(np.ceil(np.maximum(a, b) + half + 1.0), (shape[1], shape[0])).astype(int)
        if (high <= low).any():
            continue
        xs = np.arange(low[0], high[0])[None, :] + 0.5 - a[0]
        ys = np.arange(low[1], high[1])[:, None] + 0.5 - a[1]
        along, length2 = b - a, float(np.dot(b - a, b - a))
        share = np.clip((xs * along[0] + ys * along[1]) / max(length2, 1e-12), 0.0, 1.0)
        distance = np.hypot(xs - share * along[0], ys - share * along[1])
        box = 0.5 * float(np.abs(along).max()) / max(np.sqrt(length2), 1e-6)
        overlap = np.minimum(distance + box, half) - np.maximum(distance - box, -half)
        covered = np.clip(overlap / max(2.0 * box, 1e-6), 0.0, 1.0)
        window = out[low[1] : high[1], low[0] : high[0]]
        np.maximum(window, covered, out=window, casting="same_kind")
    return out


def _board_edges(rng: np.random.Generator, width_mm: float) -> list[float]:
    """Left edge, joints between the form boards (150 to 260 mm wide), right edge; mm."""
    edges = [0.0]
    while edges[-1] < width_mm - 260.0:
        edges.append(edges[-1] + rng.uniform(150.0, 260.0))
    return [*edges, width_mm]


def _press_joints(
    rng: np.random.Generator, tone: Map, mm_px: float, edges_mm: list[float], height_m: float
) -> tuple[Joint, ...]:
    """Board joints: most are hairlines of paste that count for nothing, every fifth is a dark open joint."""
    joints = []
    for k, edge in enumerate(edges_mm[1:-1]):
        if k % 5 == 3:
            width_mm = rng.uniform(2.5, 4.5)
            concrete.joint(rng, tone, mm_px, edge, width_mm, 0.6, vertical=True)
        else:
            width_mm = rng.uniform(0.8, 1.6)
            concrete.joint(rng, tone, mm_px, edge, width_mm, rng.uniform(0.08, 0.35), vertical=True)
        joints.append(Joint((edge / 1000.0, 0.0), (edge / 1000.0, height_m), width_mm))
    height_mm = 0.53 * height_m
    width_mm = 2.0
    concrete.joint(rng, tone, mm_px, 1000.0 * (height_m - height_mm), width_mm, 0.22, vertical=False)
    joints.append(Joint((0.0, height_mm), (edges_mm[-1] / 1000.0, height_mm), width_mm))
    return tuple(joints)


def _grow_cracks(rng: np.random.Generator, width_m: float, height_m: float) -> list[Crack]:
    """Random-walk cracks from the table, the wide ones with a branch of less than half their width."""
    cracks: list[Crack] = []
    scale = min(1.0, height_m / 1.2)
    for width_mm, length_m, heading_deg, at, up in _CRACKS:
        start = np.array([at * width_m, up * height_m]) + rng.normal(0.0, 0.015, 2)
        trunk = _walk(rng, start, np.deg2rad(heading_deg), length_m * scale, width_mm, parent=None)
        cracks.append(trunk)
        if width_mm >= 1.2:
            parent = len(cracks) - 1
            fork = round(len(trunk.points) * rng.uniform(0.3, 0.55))
            turn = np.deg2rad(rng.choice([-1.0, 1.0]) * rng.uniform(35.0, 60.0))
            branch = np.deg2rad(heading_deg) + turn
            length = 0.4 * length_m * scale
            cracks.append(_walk(rng, trunk.points[fork], branch, length, 0.4 * width_mm, parent=parent))
    return cracks


def _walk(
    rng: np.random.Generator, start: Points, heading: float, length_m: float, width_mm: float, parent: int | None
) -> Crack:
    """A crack that goes round the aggregate: its heading wanders, its opening breathes and closes at the tips."""
    count = max(8, round(length_m * 1000.0 / _VERTEX_MM))
    bend = np.zeros(count)
    for cell, spread in ((60, 0.18), (14, 0.22), (5, 0.30), (1, 0.55)):
        bend += spread * concrete.clouds(rng, (count, 1), (cell, 1.0))[:, 0]
    angle = heading + bend
    step = _VERTEX_MM / 1000.0 * np.column_stack([np.cos(angle), np.sin(angle)])
    points = start + np.vstack([np.zeros(2), np.cumsum(step, axis=0)[:-1]])
    ends = np.minimum(np.arange(count), np.arange(count)[::-1]) if parent is None else np.arange(count)[::-1]
    taper = np.clip(0.25 + ends / (0.12 * count), 0.0, 1.0)
    breath = 1.0 + 0.15 * concrete.clouds(rng, (count, 1), (25, 1.0))[:, 0] + 0.22 * rng.standard_normal(count)
    widths = taper * np.clip(breath, 0.5, 1.6)
    widths *= width_mm / widths.mean()
    return Crack(width_mm, np.round(points, 5), np.round(widths, 3), parent)


def _open_crack(rng: np.random.Generator, tone: Map, mm_px: float, height_m: float, crack: Crack) -> None:
    """Cuts one crack into `tone`, in place: dark inside, dirt beside it, a lit broken lip below where it is wide."""
    x = crack.points[:, 0] * 1000.0 / mm_px
    y = (height_m - crack.points[:, 1]) * 1000.0 / mm_px
    margin = 12.0 / mm_px
    x0, y0 = max(0, int(x.min() - margin)), max(0, int(y.min() - margin))
    patch = tone[y0 : max(0, int(y.max() + margin)), x0 : max(0, int(x.max() + margin))]
    if min(patch.shape) < 2:
        return
    shape = (patch.shape[0], patch.shape[1])
    open_share = coverage(np.column_stack([x - x0, y - y0]), crack.widths_mm / mm_px, shape)
    depth = 0.72 + 0.08 * concrete.clouds(rng, shape, (30.0 / mm_px, 30.0 / mm_px))
    depth += 0.08 * concrete.clouds(rng, shape, (4.0 / mm_px, 4.0 / mm_px))
    dirt = cv2.GaussianBlur(open_share, (0, 0), 2.5 / mm_px)
    down = max(1, round(0.5 * crack.width_mm / mm_px))
    lip = np.zeros_like(open_share)
    lip[down:] = open_share[:-down]
    lip = np.clip(cv2.GaussianBlur(lip, (0, 0), 0.8) - open_share, 0.0, 1.0) * min(1.0, crack.width_mm / 2.0)
    patch *= (1.0 - np.clip(depth, 0.45, 0.92) * open_share) * (1.0 - 0.25 * dirt + 0.12 * lip)


def _leach(rng: np.random.Generator, tone: Map, mm_px: float, height_m: float, cracks: list[Crack]) -> None:
    """Efflorescence: lime washed out of every other wide crack runs down from it."""
    for crack in [crack for crack in cracks if crack.width_mm >= 1.2][::2]:
        for point in crack.points[rng.integers(0, len(crack.points), 2)]:
            top_mm = 1000.0 * (height_m - point[1])
            length_mm = rng.uniform(120.0, 320.0)
            concrete.streak(rng, tone, mm_px, 1000.0 * point[0], top_mm, length_mm, -rng.uniform(0.10, 0.2))
