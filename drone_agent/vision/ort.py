"""How likely is a crack in each tile? The model bundle, run by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from drone_agent.errors import ModelRejected
from drone_agent.values import Image, Tile, TileScore, Verdict
from drone_agent.vision.bundle import Bundle, load_bundle, open_session
from drone_agent.vision.preprocess import crop, to_tile
from drone_agent.vision.settings import VisionSettings

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OrtClassifier:
    """Implements `ports.Classifier` with one ONNX Runtime session.

    Not for several threads at once: batches are gathered in one buffer that is used again and again.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        batch: int = 8,
        threshold_p: float | None = None,
        provider: str = "cpu",
    ) -> None:
        """Opens the session.

        Args:
            bundle: a verified bundle.
            threads: threads inside one operator.
            batch: most tiles in one run.
            threshold_p: replaces the bundle's threshold.
            provider: `cpu`, `cuda` or `tensorrt`.

        Raises:
            ModelRejected: the runtime cannot prepare the model, or has no such provider.
        """
        self.bundle = bundle
        self.threshold_p = bundle.threshold_p if threshold_p is None else threshold_p
        self._threshold_logit = math.log(self.threshold_p) - math.log1p(-self.threshold_p)
        self._threads = threads
        self._session = open_session(bundle.model_path, _options(threads), _providers(provider))
        self._input = bundle.manifest.input.name
        self._outputs = [bundle.manifest.outputs.logit, bundle.manifest.outputs.cells]
        self._buffer = np.zeros((batch, bundle.tile_px, bundle.tile_px, bundle.channels), np.uint8)

    def warm_up(self) -> None:
        """Runs the model once on a full batch, so that the first frame does not pay for allocations.

        Raises:
            ModelRejected: the model does not run, or its outputs have other shapes than promised.
        """
        self._run(len(self._buffer))

    def score(self, image: Image, tiles: Sequence[Tile]) -> list[TileScore]:
        """Scores `tiles` of `image` (BGR uint8, HxWx3), in the same order.

        Tiles of the model's size are copied as they are; others are resized. A result that is not finite gives the
        verdict unknown with reason `model`.

        Raises:
            ModelRejected: the runtime fails, or the outputs have other shapes than promised.
            ValueError: a tile does not lie inside the picture.
        """
        if self.bundle.channels == 4 and tiles:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), np.uint8)
        scores: list[TileScore] = []
        for part in _chunks(tiles, len(self._buffer)):
            for row, tile in zip(self._buffer, part, strict=False):
                row[:] = to_tile(crop(image, tile), self.bundle.tile_px)
            logits, cells = self._run(len(part))
            scores.extend(map(self._score, part, logits.tolist(), cells))
        return scores

    def describe(self) -> Mapping[str, Any]:
        """Facts for the flight log: bundle, file, hash, operating point and runtime."""
        return {
            "name": self.bundle.name,
            "version": self.bundle.manifest.version,
            "architecture": self.bundle.manifest.architecture,
            "file": self.bundle.file,
            "sha256": self.bundle.sha256,
            "threshold_p": self.threshold_p,
            "threshold_from": "bundle" if self.threshold_p == self.bundle.threshold_p else "override",
            "temperature": self.bundle.temperature,
            "bias": self.bundle.bias,
            "gsd_mm_px": {"min": self.bundle.gsd.min, "max": self.bundle.gsd.max},
            "providers": list(self._session.get_providers()),
            "threads": self._threads,
            "batch": len(self._buffer),
            "onnxruntime": ort.__version__,
        }

    def _run(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits [count] and cells [count, h, w] of the first `count` tiles in the buffer."""
        try:
            logits, cells = self._session.run(self._outputs, {self._input: self._buffer[:count]})
        # The runtime's exceptions have no common base below Exception.
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelRejected(f"{self.bundle.model_path}: the runtime failed on {count} tiles ({reason})") from error
        if logits.shape != (count,) or cells.ndim != 3 or len(cells) != count:
            found = f"logit {list(logits.shape)} and cells {list(cells.shape)}"
            raise ModelRejected(
                f"{self.bundle.model_path}: outputs found {found}, expected [{count}] and [{count}, h, w]"
            )
        return logits, cells

    def _score(self, tile: Tile, raw: float, cells: npt.NDArray[np.float32]) -> TileScore:
        logit = raw / self.bundle.temperature + self.bundle.bias
        if not math.isfinite(logit):
            return TileScore(tile, Verdict.UNKNOWN, reason="model")
        p_crack = sigmoid(logit)
        verdict = Verdict.CRACK if p_crack >= self.threshold_p else Verdict.CLEAR
        peak_x_px, peak_y_px = _peak(tile, cells)
        return TileScore(
            tile, verdict, logit, p_crack, None, peak_x_px, peak_y_px, cells, threshold_logit=self._threshold_logit
        )


def open_classifier(settings: VisionSettings) -> OrtClassifier:
    """The classifier that `settings` ask for, warmed up.

    Raises:
        ModelRejected: the bundle or the runtime is not usable.
    """
    classifier = OrtClassifier(
        load_bundle(settings.model, file=settings.file),
        threads=settings.threads,
        batch=settings.batch,
        threshold_p=settings.threshold_p,
        provider=settings.provider,
    )
    classifier.warm_up()
    return classifier


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), for any finite logit."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def _peak(tile: Tile, cells: npt.NDArray[np.float32]) -> tuple[float | None, float | None]:
    """Centre of the strongest cell, in pixels of the frame."""
    rows, columns = cells.shape
    row, column = divmod(int(cells.argmax()), columns)
    if not math.isfinite(float(cells[row, column])):
        return None, None
    return tile.x_px + (column + 0.5) * tile.size_px / columns, tile.y_px + (row + 0.5) * tile.size_px / rows


def _chunks(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # The NHWC transform of int8 convolutions exists at this level only.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads sleep: camera and telemetry need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(provider: str) -> list[str]:
    wanted = _PROVIDERS.get(provider)
    if wanted is None:
        raise ModelRejected(f"vision.provider: found {provider}, allowed are {', '.join(_PROVIDERS)}")
    available = ort.get_available_providers()
    if wanted[0] not in available:
        raise ModelRejected(
            f"vision.provider: found {provider}, but this onnxruntime has only {', '.join(available)}; "
            "install the board's own build of onnxruntime, or set cpu"
        )
    return [name for name in wanted if name in available]
