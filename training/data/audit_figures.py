"""How do the findings of an audit look?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from drone_agent.vision.preprocess import read_image
from training.data.omissions import UNSURE, Omission
from training.data.order import Order
from training.data.scan import DarkTile, Scan
from training.data.sources import CRACK, Archive, Source, read_mask
from training.data.twins import COARSE_PX
from training.figures import COLOURS, CRACK_COLOUR, SOUND_COLOUR, figure

COLUMNS: Final = 6
SAMPLE_PX: Final = 200
UNSURE_COLOUR: Final = COLOURS[7]
LABELS: Final = {True: "crack", False: "no crack", None: "by mask"}
LEAST_WIDTH_AXIS_PX: Final = 5
"""Widths that are shown at least: masks of one pixel would else be a single bar as wide as the panel."""
_ORANGE_BGR: Final = (0, 94, 213)
_BLUE_BGR: Final = (178, 114, 0)
_GREY_BGR: Final = (153, 153, 153)
OMISSION_COLUMNS: Final = 3
OMISSION_MARGIN_PX: Final = 28


def draw_balance(sets: Sequence[tuple[str, int, int, int]], path: Path) -> Path:
    """Draw for each set (name, cracked, sound, unsure) the shares, with the counts written in."""
    with figure(path, height_in=1.1 + 0.42 * len(sets)) as drawn:
        axes = drawn.subplots()
        parts = (("crack", CRACK_COLOUR), ("no crack", SOUND_COLOUR), ("unsure, left out", UNSURE_COLOUR))
        left = np.zeros(len(sets))
        for place, (name, colour) in enumerate(parts, start=1):
            counts = np.array([row[place] for row in sets], np.float64)
            shares = 100 * counts / np.maximum([sum(row[1:]) for row in sets], 1)
            axes.barh(range(len(sets)), shares, left=left, color=colour, label=name, height=0.7)
            for row, (share, count) in enumerate(zip(shares, counts, strict=True)):
                if share > 4:
                    axes.text(left[row] + share / 2, row, f"{count:.0f}", color="white", ha="center", va="center")
            left += shares
        axes.set_yticks(range(len(sets)), [row[0] for row in sets])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of files, or of tiles by mask, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return path


def draw_samples(archive: Archive, source: Source, scanned: Scan, indices: Sequence[int], path: Path) -> Path:
    """Draw photographs in a grid, each with its label, the rim of its mask drawn over it."""
    rows = math.ceil(len(indices) / COLUMNS)
    with figure(path, width_in=9.0, height_in=1.72 * rows) as drawn:
        grid = drawn.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, index in zip(grid, indices, strict=False):
            item = scanned.items[index]
            image = read_image(archive.read(item.path))
            mask = read_mask(archive, source, item, *image.shape[:2]) if source.masks else None
            axes.imshow(_overlaid(image, mask)[:, :, ::-1])
            axes.set_title(f"{LABELS[item.label]}: {Path(item.path).stem[-18:]}", fontsize=6, pad=2)
    return path


def _overlaid(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    zoom = SAMPLE_PX / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if mask is None:
        return np.asarray(small, np.uint8)
    other = (mask > 0) & (mask != CRACK) & (mask != UNSURE)
    for marked, colour in ((mask == CRACK, _ORANGE_BGR), (other, _BLUE_BGR), (mask == UNSURE, _GREY_BGR)):
        # shrunk as a share, so that a crack of one pixel is still seen
        share = cv2.resize(marked.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        weight = np.clip(2 * share, 0, 0.7)[:, :, None]
        small = small * (1 - weight) + weight * np.array(colour, np.float32)
    return np.asarray(small, np.uint8)


def draw_omissions(archive: Archive, omissions: Sequence[Omission], path: Path) -> Path:
    """Draw what masks leave out: the place with more contrast, and beside it once more with the line over it."""
    rows = math.ceil(len(omissions) / OMISSION_COLUMNS)
    with figure(path, width_in=14.0, height_in=2.5 * rows) as drawn:
        grid = drawn.subplots(rows, 2 * OMISSION_COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for left, right, line in zip(grid[::2], grid[1::2], omissions, strict=False):
            image = read_image(archive.read(line.path))
            points = np.array(line.points)
            middle = (points.min(axis=0) + points.max(axis=0)) / 2
            half = float(np.ptp(points, axis=0).max()) / 2 + OMISSION_MARGIN_PX
            for axes in (left, right):
                axes.imshow(_contrasted(image)[:, :, ::-1], interpolation="bicubic")
                axes.set_xlim(max(0.0, middle[0] - half), min(image.shape[1] - 1.0, middle[0] + half))
                axes.set_ylim(min(image.shape[0] - 1.0, middle[1] + half), max(0.0, middle[1] - half))
            right.plot(points[:, 0], points[:, 1], color=CRACK_COLOUR, linewidth=1.2)
            left.set_title(f"{Path(line.path).stem}: {line.seen}, {line.length_px:.0f} px", fontsize=6, pad=2)
    return path


def _contrasted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lab[:, :, 0] = cv2.createCLAHE(clipLimit=2.5, tileGridSize=(6, 6)).apply(lab[:, :, 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), np.uint8)


def draw_baseline(tiles: Sequence[DarkTile], threshold: float | None, path: Path) -> Path:
    """Draw the distribution of darkness of both classes and the threshold."""
    with figure(path, height_in=2.8) as drawn:
        axes = drawn.subplots()
        bins = np.linspace(0, max(tile.darkness for tile in tiles) + 1, 60).tolist()
        for cracked, colour in ((True, CRACK_COLOUR), (False, SOUND_COLOUR)):
            values = [tile.darkness for tile in tiles if tile.cracked is cracked]
            if values:
                weights = np.full(len(values), 100 / len(values))
                said = f"{LABELS[cracked]} ({len(values)})"
                axes.hist(values, bins=bins, weights=weights, alpha=0.6, color=colour, label=said)
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.1f}")
        axes.set_xlabel("darkness, grey levels")
        axes.set_ylabel("share of its class, %")
        axes.legend()
    return path


def draw_masks(shares: Sequence[float], widths_px: Sequence[float], path: Path) -> Path:
    """Draw how much of each photograph is crack, and how wide cracks are."""
    with figure(path, height_in=2.8) as drawn:
        left, right = drawn.subplots(1, 2)
        left.hist(100 * np.array(shares), bins=40, color=CRACK_COLOUR)
        left.set_xlabel("crack pixels of a photograph, %")
        left.set_ylabel("photographs")
        widths = np.array(widths_px)
        limit = max(LEAST_WIDTH_AXIS_PX, float(np.percentile(widths, 99)) if len(widths) else 0.0)
        bins = np.arange(0.5, limit + 1.5)
        right.hist(widths, bins=bins, color=CRACK_COLOUR)
        right.set_xlim(0, bins[-1] + 0.5)
        if len(widths):
            middle = float(np.median(widths))
            right.axvline(middle, color="black", linestyle="--", label=f"median {middle:.1f} px")
            right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        right.set_xlabel("width of a crack, px (up to the 99th percentile)")
        right.set_ylabel("points of middle lines")
    return path


def draw_order(orders: Sequence[Order], path: Path) -> Path:
    """Draw for each series of file names: likeness by distance in number, and the distances of twins."""
    with figure(path, width_in=9.0, height_in=2.4 * len(orders)) as drawn:
        grid = drawn.subplots(len(orders), 2, squeeze=False)
        for (left, right), order in zip(grid, orders, strict=True):
            left.plot(*_averaged(order.lags, order.colour_at_lag), label="colour and contrast", linewidth=1)
            left.plot(
                *_averaged(order.lags, order.thumbnail_at_lag),
                label=f"{COARSE_PX} x {COARSE_PX} thumbnail",
                linewidth=1,
            )
            left.axhline(0, color="black", linewidth=0.6)
            if len(order.lags) and order.lags[-1] > 100:
                left.set_xscale("log")
            title = f"{order.series.pattern} ({LABELS[order.series.label]}, {len(order.series.indices)} files)"
            left.set_title(title, fontsize=8)
            left.set_xlabel("distance in number")
            left.set_ylabel("mean correlation")
            left.legend(fontsize=7)
            if len(order.twin_distances):
                right.hist(
                    order.twin_distances,
                    bins=100,
                    range=(0, max(10.0, float(order.twin_distances.max()))),
                    color=COLOURS[2],
                )
            else:
                right.text(0.5, 0.5, "no twins", transform=right.transAxes, ha="center")
            right.set_xlabel("distance in number between twins")
            right.set_ylabel("pairs of twins")
    return path


def _averaged(
    lags: NDArray[np.int64], values: NDArray[np.float64], *, points: int = 150
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average over lags that lie close together on a logarithmic axis, so that noise does not hide the course."""
    if not len(lags):
        return np.zeros(0), np.zeros(0)
    edges = np.unique(np.round(np.geomspace(1, lags[-1] + 1, points)))
    places = np.digitize(lags, edges)
    counts = np.bincount(places)
    filled = counts > 0
    x = np.bincount(places, weights=lags.astype(np.float64))[filled] / counts[filled]
    y = np.bincount(places, weights=values)[filled] / counts[filled]
    return x, y
