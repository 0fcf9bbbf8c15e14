"""What does a frame show? It is cut into tiles; the model is asked about those that can be judged."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drone_agent.ports import Classifier
from drone_agent.values import Frame, Image, Tile, TileScore, Verdict
from drone_agent.vision.bundle import GsdBand, QualitySpec
from drone_agent.vision.ort import OrtClassifier, open_classifier
from drone_agent.vision.preprocess import TILE_PX, to_tile
from drone_agent.vision.quality import assess
from drone_agent.vision.settings import QualitySettings, TilingSettings, VisionSettings
from drone_agent.vision.tiling import plan


@dataclass(frozen=True, slots=True, eq=False)
class FrameScores:
    """Every tile of a frame with its verdict, and how good the picture was.

    `sharpness` is the median over the tiles (see `quality`), `brightness` their mean level (0-255), `tile_px` the side
    of the tiles in pixels of the frame.
    """

    scores: tuple[TileScore, ...]
    sharpness: float
    brightness: float
    tile_px: int


class Vision:
    """Scores frames and pictures with one classifier."""

    def __init__(
        self,
        classifier: Classifier,
        tiling: TilingSettings | None = None,
        quality: QualitySettings | None = None,
        *,
        tile_px: int = TILE_PX,
        gsd: GsdBand | None = None,
        measured: QualitySpec | None = None,
    ) -> None:
        """Opens the pipeline.

        Args:
            classifier: scores tiles.
            tiling: settings.
            quality: settings; what they leave open is taken from `measured`.
            tile_px: side of the classifier's input (px).
            gsd: the band of ground sampling distances that it was made for.
            measured: what its bundle says about pictures that it cannot judge.

        Raises:
            ConfigError: the settings and what was measured leave no picture that passes.
        """
        self._classifier = classifier
        self._tiling = tiling or TilingSettings()
        self._quality = quality or QualitySettings()
        self._gates = self._quality.gates(measured)
        self._tile_px = tile_px
        self._gsd = gsd

    def score(self, frame: Frame, *, gsd_mm_px: float | None = None) -> FrameScores:
        """Scores every tile of `frame`; tiles that cannot be judged are unknown, with the reason.

        Args:
            frame: the picture.
            gsd_mm_px: ground sampling distance (mm a pixel) where the range to the wall is known. Inside the model's
                band tiles are native; outside they are resampled into it, as far as the settings allow, and
                unknown (`gsd`) beyond. None: native tiles.
        """
        image = frame.image
        height, width = image.shape[:2]
        side_px = self._side_px(gsd_mm_px)
        tiles = plan(width, height, side_px, self._tiling.overlap)
        qualities = assess(image, tiles, self._gates)
        reasons = [quality.reason if self._quality.enabled else None for quality in qualities]
        if not self._in_band(gsd_mm_px, tiles[0].size_px):
            reasons = ["gsd"] * len(tiles)
        return FrameScores(
            self._score(image, tiles, reasons),
            statistics.median(quality.sharpness for quality in qualities),
            statistics.fmean(quality.brightness for quality in qualities),
            tiles[0].size_px,
        )

    def score_image(self, image: Image, *, as_tile: bool = False) -> list[TileScore]:
        """Scores a picture of unknown origin, however good it is: nothing is refused for quality.

        Args:
            image: BGR uint8, HxWx3, any size.
            as_tile: the whole picture is resized to one tile (the tile reported is the square of its longer side).
                Otherwise it is cut into tiles; if a side is shorter than a tile, into squares of that side.
        """
        height, width = image.shape[:2]
        if not as_tile:
            return self._classifier.score(image, plan(width, height, self._tile_px, self._tiling.overlap))
        size = self._tile_px
        score = self._classifier.score(to_tile(image, size), [Tile(0, 0, size)])[0]
        return [
            dataclasses.replace(
                score,
                tile=Tile(0, 0, max(width, height)),
                peak_x_px=None if score.peak_x_px is None else score.peak_x_px * width / size,
                peak_y_px=None if score.peak_y_px is None else score.peak_y_px * height / size,
            )
        ]

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log: the classifier's, and the settings of tiles and quality."""
        return {
            **self._classifier.describe(),
            "tile_px": self._tile_px,
            "tiling": self._tiling.model_dump(),
            "quality": self._quality.model_dump() | dataclasses.asdict(self._gates),
        }

    def _side_px(self, gsd_mm_px: float | None) -> int:
        """Side of the tiles in the frame, such that the model sees them within its band, or as near as allowed."""
        if gsd_mm_px is None or self._gsd is None:
            return self._tile_px
        limit = self._tiling.max_resample
        if gsd_mm_px < self._gsd.min:
            return math.ceil(self._tile_px * min(self._gsd.min / gsd_mm_px, limit))
        if gsd_mm_px > self._gsd.max:
            return math.floor(self._tile_px * max(self._gsd.max / gsd_mm_px, 1 / limit))
        return self._tile_px

    def _in_band(self, gsd_mm_px: float | None, side_px: int) -> bool:
        if gsd_mm_px is None or self._gsd is None:
            return True
        seen = gsd_mm_px * side_px / self._tile_px
        # One pixel of the side is lost to rounding where the band's edge is met exactly.
        slack = gsd_mm_px / self._tile_px
        return self._gsd.min - slack <= seen <= self._gsd.max + slack

    def _score(self, image: Image, tiles: Sequence[Tile], reasons: Sequence[str | None]) -> tuple[TileScore, ...]:
        wanted = [
            tile for tile, reason in zip(tiles, reasons, strict=True) if reason is None or self._quality.score_refused
        ]
        scored = iter(self._classifier.score(image, wanted) if wanted else ())
        scores = []
        for tile, reason in zip(tiles, reasons, strict=True):
            if reason is None:
                scores.append(next(scored))
            elif self._quality.score_refused:
                scores.append(dataclasses.replace(next(scored), verdict=Verdict.UNKNOWN, reason=reason))
            else:
                scores.append(TileScore(tile, Verdict.UNKNOWN, reason=reason))
        return tuple(scores)


def open_vision(settings: VisionSettings) -> Vision:
    """The classifier and pipeline that `settings` ask for, ready for the first frame.

    Raises:
        ModelRejected: the bundle or the runtime is not usable.
    """
    return vision_with(open_classifier(settings), settings)


def vision_with(classifier: OrtClassifier, settings: VisionSettings) -> Vision:
    """The pipeline of `settings` around a classifier that is open already."""
    bundle = classifier.bundle
    return Vision(
        classifier,
        settings.tiling,
        settings.quality,
        tile_px=bundle.tile_px,
        gsd=bundle.gsd,
        measured=bundle.quality,
    )
