"""What does a model reach on each set? The same figures for a PyTorch checkpoint and for the files that fly."""

from __future__ import annotations

import ctypes
import math
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from rich.table import Table
from torch import nn

from training import page
from training.data.dataset import DRAWN_SETS, EVALUATION_SETS, PUBLISHED, EvaluationSet, evaluation_splits
from training.data.sources import SOURCES, added_sources
from training.engine import checkpoint as checkpoints
from training.evaluation.metrics import RESAMPLES, Estimate, Rate, SetMetrics, measure
from training.evaluation.threshold import Bar, Choice, Scored, bars_for, choose, deciding_bars
from training.export.bundle import ModelFile, read_manifest, read_model
from training.export.onnx import ExportError
from training.models import CellClassifier

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]

Role = Literal["validation", "published", "test", "external", "drawn"]
JUDGED: Final[frozenset[Role]] = frozenset({"test", "external"})
"""Roles of the sets whose figures may support something: validation sets decided, drawn ones are no photographs."""
Tiles = npt.NDArray[np.uint8]
Progress = Callable[[int], None]


def keep_freed_memory() -> None:
    """Lets the C library keep large buffers between batches instead of handing them back to the kernel every time.

    Clearing their pages anew took a third of PyTorch's time a tile. Only glibc can be told; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # malloc.h: M_MMAP_MAX -4, M_TRIM_THRESHOLD -1, M_TOP_PAD -2
        for parameter, value in ((-4, 0), (-1, 2_000_000_000), (-2, 200_000_000)):
            mallopt(parameter, value)


def open_checkpoint(path: Path) -> tuple[dict[str, Any], CellClassifier]:
    """Reads a checkpoint: its content, and its net in evaluation mode.

    Besides plain values the history may hold numpy's scalars; nothing else is let through, so no code is run.

    Raises:
        CheckpointError: no checkpoint, damaged, or its weights do not fit.
    """
    scalars: list[Any] = [
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
        type(np.dtype(np.int64)),
        _NUMPY_SCALAR,
    ]
    try:
        with torch.serialization.safe_globals(scalars):
            content = checkpoints.load(path)
            return content, checkpoints.model_of(content, path)
    except pickle.UnpicklingError as error:
        raise checkpoints.CheckpointError(f"{path}: holds more than values and tensors, it is not opened") from error


class Scorer(Protocol):
    """Whatever turns tiles into logits."""

    def logits(self, tiles: Tiles, progress: Progress | None = None) -> npt.NDArray[np.float32]:
        """Scores uint8 [N, 224, 224, 3] (BGR, may be a memory map) -> [N]; `progress` gets the number of tiles done."""


class TorchScorer:
    """A PyTorch net that takes uint8 [N, 3, H, W] and returns `(logit, cells)`."""

    def __init__(self, net: nn.Module, *, batch: int = 8) -> None:
        self._net = net.eval()
        self._batch = batch

    def logits(self, tiles: Tiles, progress: Progress | None = None) -> npt.NDArray[np.float32]:
        """See `Scorer`."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(tiles), self._batch):
                batch = np.array(tiles[start : start + self._batch])
                logit, _ = self._net(torch.from_numpy(batch).permute(0, 3, 1, 2))
                parts.append(logit.float().numpy())
                if progress is not None:
                    progress(len(batch))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


class OnnxScorer:
    """An exported graph in ONNX Runtime, set up as the agent does it; `cells=True` also keeps the cells.

    Raises:
        ValueError: if the graph does not take bytes [N, H, W, 3 or 4].
    """

    def __init__(self, model: Path | bytes | onnx.ModelProto, *, threads: int = 1, batch: int = 8) -> None:
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
        self._session = ort.InferenceSession(source, session_options(threads), providers=["CPUExecutionProvider"])
        self._batch = batch
        given = self._session.get_inputs()[0]
        if given.type != "tensor(uint8)" or len(given.shape) != 4 or given.shape[3] not in {3, 4}:
            raise ValueError(f"input {given.name} is {given.type} {given.shape}: uint8 [N, H, W, 3 or 4] is needed")
        self._input = given.name
        self.channels: int = given.shape[3]

    def run(self, tiles: Tiles) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """One batch: logit [N], cells [N, h, w]."""
        batch = np.array(tiles)
        if self.channels == 4:
            # what the fourth byte holds must not matter
            batch = np.concatenate([batch, np.zeros_like(batch[..., :1])], axis=3)
        logit, cells = self._session.run(["logit", "cells"], {self._input: batch})
        return logit, cells

    def logits(self, tiles: Tiles, progress: Progress | None = None) -> npt.NDArray[np.float32]:
        """See `Scorer`."""
        parts = []
        for start in range(0, len(tiles), self._batch):
            parts.append(self.run(tiles[start : start + self._batch])[0])
            if progress is not None:
                progress(len(parts[-1]))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be scored.

    Attributes:
        label: which file it is: "torch", "fp32" or "int8".
        scorer: gives the logits.
        name: of the bundle or network; its bars are chosen by it.
        threshold_logit: of the bundle; None for a checkpoint, which has none.
        version: of the bundle; None for a checkpoint.
        trained_on: names of the data sets that a checkpoint was trained on; empty for a bundle.
    """

    label: str
    scorer: Scorer
    name: str
    threshold_logit: float | None
    version: str | None = None
    trained_on: frozenset[str] = frozenset()


def choose_for(subject: Subject, validation: Sequence[Scored]) -> Choice:
    """The threshold that `export` would choose for a subject, as far as these validation sets tell.

    Raises:
        ThresholdError: they do not suffice.
    """
    names = {item.name for item in validation}
    at_hand = [bar for bar in bars_for(subject.name) if bar.set in names]
    return choose(validation, deciding_bars(at_hand, subject.trained_on))


def open_subjects(model: Path, file: str, threads: int) -> list[Subject]:
    """Opens a checkpoint, or files of a bundle.

    Args:
        model: a checkpoint (.pt), a bundle's folder, or one ONNX file of a bundle.
        file: of a bundle's folder: "fp32", "int8", "both", or "default" for the one that flies.
        threads: of ONNX Runtime.

    Raises:
        CheckpointError, ExportError: cannot be read or is damaged, a file is not the one that its bundle's manifest
            names, or the bundle has no such file.
    """
    if not model.is_dir() and model.suffix != ".onnx":
        content, net = open_checkpoint(model)
        trained_on = frozenset(str(row["name"]) for row in content.get("data") or ())
        return [Subject("torch", TorchScorer(net), str(content["model"]), None, trained_on=trained_on)]
    folder = model if model.is_dir() else model.parent
    manifest = read_manifest(folder)
    point = manifest.operating_point
    threshold = logit_of(point.threshold_p, point.temperature, point.bias)
    files = {str(key): item for key, item in manifest.files.items()}
    if not model.is_dir():
        files = {key: item for key, item in files.items() if item.path == model.name}
    elif file != "both":
        wanted = manifest.default_file if file == "default" else file
        files = {key: item for key, item in files.items() if key == wanted}
    if not files:
        raise ExportError(f"{model}: no file {file!r} in the bundle; there are {', '.join(manifest.files)}")
    return [
        Subject(key, _open_onnx(folder, item, threads), manifest.name, threshold, manifest.version)
        for key, item in files.items()
    ]


def _open_onnx(folder: Path, file: ModelFile, threads: int) -> OnnxScorer:
    content = read_model(folder, file)
    try:
        return OnnxScorer(content, threads=threads)
    # The runtime's exceptions have no common base below Exception.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise checkpoints.CheckpointError(f"{folder / file.path}: damaged, or no model of ours ({reason})") from error


def identity(model: Path) -> dict[str, Any]:
    """What tells one set of weights from another: a label for folders, and how and by which run it was trained.

    Raises:
        CheckpointError, ExportError: cannot be read.
    """
    if not model.is_dir() and model.suffix != ".onnx":
        content = open_checkpoint(model)[0]
        label = model.parent.name if model.stem in {"best", "last", "final"} else model.stem
        trained = {"config": content.get("config_path")} | {key: content.get(key) for key in ("seed", "commit")}
        return {"label": label, "name": str(content["model"]), "training": trained | {"steps": content.get("step")}}
    manifest = read_manifest(model if model.is_dir() else model.parent)
    training = manifest.training
    trained = {"config": training.config, "seed": training.seed, "commit": training.commit, "steps": training.steps}
    return {"label": manifest.name, "name": manifest.name, "training": trained}


def logit_of(threshold_p: float, temperature: float = 1.0, bias: float = 0.0) -> float:
    """The raw logit at which the calibrated probability is `threshold_p`.

    Raises:
        ValueError: it does not lie between 0 and 1.
    """
    if not 0 < threshold_p < 1:
        raise ValueError(f"threshold_p must lie between 0 and 1, found {threshold_p}")
    return (math.log(threshold_p / (1 - threshold_p)) - bias) * temperature


def session_options(threads: int) -> ort.SessionOptions:
    """As the agent runs it: all optimisations (the NHWC transform for 8 bits is among them), no spinning threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@dataclass(frozen=True, slots=True)
class SetResult:
    """The figures of one set."""

    name: str
    split: str
    role: Role
    metrics: SetMetrics

    @property
    def key(self) -> str:
        """For tables and the manifest, for example `metu-ccic/test`."""
        return f"{self.name}/{self.split}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"set": self.name, "split": self.split, "role": self.role, **self.metrics.to_dict()}


def role_of(name: str, split: str) -> Role:
    """What a set may be used for: only validation sets may decide anything, and a drawn set proves nothing.

    "published" is a validation set once more, by masks that are known to leave cracks out: it decides nothing, and is
    there to be compared with.
    """
    if split == PUBLISHED:
        return "published"
    if name in DRAWN_SETS:
        return "drawn"
    source = SOURCES.get(name) or added_sources().get(name)
    if source is None or source.role == "external":
        return "external"
    return "validation" if split == "val" else "test"


def parse_sets(names: Sequence[str]) -> list[tuple[str, str]]:
    """Reads `name` (all its splits) or `name/split`; nothing given means all sets that are photographed.

    Raises:
        ValueError: unknown set or split; says which there are.
    """
    known = [(name, split) for name, splits in EVALUATION_SETS.items() for split in splits]
    if not names:
        return known
    wanted = []
    for name in names:
        set_name = name.split("/")[0]
        pairs = [(set_name, split) for split in evaluation_splits(set_name)]
        found = [pair for pair in pairs if name in {pair[0], "/".join(pair)}]
        if not found:
            drawn = [(of, split) for of, splits in DRAWN_SETS.items() for split in splits]
            raise ValueError(f"unknown set {name!r}; there are {', '.join('/'.join(pair) for pair in known + drawn)}")
        wanted += found
    return wanted


def thin(tiles: EvaluationSet, limit: int | None, *, seed: int = 0) -> EvaluationSet:
    """At most `limit` tiles of a set, drawn at random with a seed, in their old order."""
    if limit is None or len(tiles) <= limit:
        return tiles
    return tiles.subset(some_of(len(tiles), limit, seed=seed))


def some_of(count: int, limit: int | None, *, seed: int) -> npt.NDArray[np.intp]:
    """At most `limit` numbers below `count`, drawn at random with a seed, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def score(scorer: Scorer, tiles: EvaluationSet, progress: Progress | None = None) -> Scored:
    """Runs the model over a set."""
    return Scored(
        name=tiles.name,
        logits=scorer.logits(tiles.tiles, progress).astype(np.float64),
        labels=np.asarray(tiles.labels, dtype=np.bool_),
        kinds=tuple(tiles.kinds),
        groups=tuple(tiles.groups),
    )


def result(
    scored: Scored, split: str, threshold_logit: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> SetResult:
    """The figures of a scored set at a threshold."""
    metrics = measure(
        scored.logits, scored.labels, scored.groups, scored.kinds, threshold_logit, resamples=resamples, seed=seed
    )
    return SetResult(scored.name, split, role_of(scored.name, split), metrics)


def result_rows(results: Sequence[SetResult], bars: Sequence[Bar] = ()) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of all figures."""
    return ["set", "role", "cracks", "sound", *_COLUMNS, "kinds"], [_cells(row, bars) for row in results]


def group_rows(results: Sequence[SetResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of recall, specificity and the kinds of tiles with the bootstrap interval by photograph."""
    return ["set", "photographs", "recall", "specificity", "kinds"], [
        [
            row.key,
            str(row.metrics.n_groups),
            *(_estimate(row.metrics.by_group.get(key)) for key in ("recall", "specificity")),
            _of_kinds({kind: _estimate(value) for kind, value in row.metrics.kinds_by_group.items()}),
        ]
        for row in results
    ]


_COLUMNS = ("recall", "specificity", "accuracy", "f1", "auroc", "auprc")


def rich_table(results: Sequence[SetResult], title: str, bars: Sequence[Bar] = ()) -> Table:
    """A table for the terminal; rates with their Clopper-Pearson interval, areas with that of the bootstrap."""
    table = Table(
        title=title,
        caption="per cent; 95 % intervals: by tile (Clopper-Pearson), f1 and areas by photograph (bootstrap)",
    )
    for heading in ("set", "role", "cracks", "sound", *_COLUMNS, "kinds"):
        table.add_column(heading, justify="left" if heading in {"set", "role", "kinds"} else "right")
    for row in results:
        table.add_row(*_cells(row, bars))
    return table


def markdown_table(results: Sequence[SetResult], bars: Sequence[Bar] = ()) -> str:
    """The same as Markdown."""
    return page.markdown_table(page.Table(*result_rows(results, bars)))


def by_group_table(results: Sequence[SetResult]) -> str:
    """The rates with the bootstrap interval by photograph, as Markdown."""
    return page.markdown_table(page.Table(*group_rows(results)))


def reached_bars(results: Sequence[SetResult], bars: Sequence[Bar]) -> Iterator[tuple[Bar, SetResult, Rate]]:
    """Each bar with the set it is judged by and what was reached there; `test` is taken where a set has both splits.

    What published masks say of a validation set is taken only where nothing else is there.
    """
    for bar in bars:
        rows = [row for row in results if row.name == bar.set]
        rows = [row for row in rows if row.role != "published"] or rows
        for row in [row for row in rows if row.split == "test"] or rows:
            reached = row.metrics.by_tile.get(bar.kind) or row.metrics.kinds.get(bar.kind)
            if reached is not None:
                yield bar, row, reached


def bar_table(results: Sequence[SetResult], bars: Sequence[Bar]) -> str:
    """Every stated bar beside what was reached, as Markdown."""
    rows = [
        [
            row.key,
            bar.kind,
            f"{100 * bar.wanted:.1f}",
            _estimate(reached),
            "met" if reached.value >= bar.wanted else "**not met**",
        ]
        for bar, row, reached in reached_bars(results, bars)
    ]
    return page.markdown_table(page.Table(["set", "measure", "wanted", "reached", ""], rows))


def _cells(row: SetResult, bars: Sequence[Bar]) -> list[str]:
    metrics = row.metrics
    cells = [row.key, row.role, str(metrics.n_positive), str(metrics.n_negative)]
    for column in _COLUMNS:
        estimate = metrics.by_tile.get(column) or metrics.by_group.get(column)
        cells.append(_estimate(estimate) + _mark(estimate, row.name, column, bars))
    cells.append(
        _of_kinds(
            {kind: _estimate(value) + _mark(value, row.name, kind, bars) for kind, value in metrics.kinds.items()}
        )
    )
    return cells


def _of_kinds(texts: Mapping[str, str]) -> str:
    """What is said of each kind of tile; nothing where the two classes are all the kinds there are."""
    return "; ".join(f"{kind} {text}" for kind, text in sorted(texts.items())) if len(texts) > 2 else ""


def _mark(estimate: Estimate | None, name: str, kind: str, bars: Sequence[Bar]) -> str:
    """A `<` behind a figure that does not reach its bar."""
    wanted = next((bar.wanted for bar in bars if bar.set == name and bar.kind == kind), None)
    return " <" if estimate is not None and wanted is not None and estimate.value < wanted else ""


def _estimate(estimate: Estimate | Rate | None) -> str:
    if estimate is None or np.isnan(estimate.value):
        return "–"
    text = f"{100 * estimate.value:.1f}"
    return text if np.isnan(estimate.low) else f"{text} ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
