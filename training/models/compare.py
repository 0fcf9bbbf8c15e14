"""What does each architecture cost? Counted, exported and timed, so that a baseline is chosen by figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
import torchinfo
from rich.table import Table as RichTable
from torchvision import models as torchvision_models

from training.export.benchmark import interleaved_s
from training.export.onnx import TILE_PX, split_scaling, to_onnx
from training.export.quantize import Method, observe, preprocess, quantise
from training.figures import COLOURS, figure
from training.models import MODELS, create, parameter_count
from training.page import Picture, Section, Table, markdown_table, write_page
from training.progress import Step

PUBLISHED_VGG: Final = "vgg16, as published"
"""Row of VGG-16 with its three fully connected layers and 1,000 classes."""

_RANGE_TILES: Final = 8
"""Random tiles that set the ranges of the 8-bit files: enough for size and time, which do not depend on them."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What one architecture costs at 224 x 224.

    Attributes:
        name: of the registry, or `PUBLISHED_VGG`.
        parameters: trainable numbers, with the linear head.
        mult_adds: multiplications with addition a tile.
        fp32_bytes: of the exported float file; of `PUBLISHED_VGG`, which is not exported, 4 bytes a parameter.
        int8_bytes: of the 8-bit file, None if none was made.
        fp32_ratio: time a tile over that of the reference's float file, one thread, batch 1; None if not timed.
        int8_ratio: likewise of the 8-bit file.
    """

    name: str
    parameters: int
    mult_adds: int
    fp32_bytes: int
    int8_bytes: int | None
    fp32_ratio: float | None
    int8_ratio: float | None


def require_known(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in the registry, with those that are."""
    for name in names:
        if name not in MODELS:
            raise ValueError(f"model {name!r} is unknown; allowed: {', '.join(sorted(MODELS))}")


def layer_summary(name: str) -> str:
    """List a model's layers: kind, output, kernel, parameters, mult-adds (torchinfo)."""
    columns = ("output_size", "kernel_size", "num_params", "mult_adds")
    summary = torchinfo.summary(create(name), (1, 3, TILE_PX, TILE_PX), col_names=columns, depth=4, verbose=0)
    return str(summary)


def mult_adds(name: str) -> int:
    """Count the multiplications with addition of a tile of 224 x 224 (torchinfo)."""
    return int(torchinfo.summary(create(name), (1, 3, TILE_PX, TILE_PX), verbose=0).total_mult_adds)


def published_vgg() -> ModelRow:
    """Count VGG-16 as it was published (torchinfo), without its 553 MB: on torch's device "meta"."""
    with torch.device("meta"):
        network = torchvision_models.vgg16(weights=None)
    counted = torchinfo.summary(network, (1, 3, TILE_PX, TILE_PX), device="meta", verbose=0)
    return ModelRow(
        PUBLISHED_VGG,
        int(counted.total_params),
        int(counted.total_mult_adds),
        fp32_bytes=4 * int(counted.total_params),
        int8_bytes=None,
        fp32_ratio=None,
        int8_ratio=None,
    )


def compare(
    names: Sequence[str], *, reference: str, quantised: bool, rounds: int, seed: int, step: Step
) -> list[ModelRow]:
    """Build, export and time the models, with random weights: none of the figures depends on them.

    VGG-16 gets a second row, as it was published, which is counted and neither exported nor timed.

    Args:
        names: of the registry.
        reference: whose float file's time is 1.
        quantised: whether 8-bit files are made.
        rounds: of the interleaved timing; 0: no timing.
        seed: of weights and tiles.
        step: progress.
    """
    torch.manual_seed(seed)
    tiles = np.random.default_rng(seed).integers(0, 256, (_RANGE_TILES, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    floats: dict[str, onnx.ModelProto] = {}
    bytes_: dict[str, onnx.ModelProto] = {}
    wanted = list(dict.fromkeys([*names, *([reference] if rounds else [])]))
    with step("export", len(wanted)) as advance:
        for name in wanted:
            floats[name] = to_onnx(create(name).eval())
            if quantised and name in names:
                core, scaling = split_scaling(floats[name])
                core = preprocess(core)
                ranges = observe(core, scaling, tiles)
                bytes_[name] = quantise(core, scaling, ranges, method=Method("minmax"), channels=4)
            advance(1)
    times: dict[str, float] = {}
    if rounds:
        everything = {f"{name} fp32": model for name, model in floats.items()}
        everything |= {f"{name} int8": model for name, model in bytes_.items()}
        times = interleaved_s(everything, batches=(1,), rounds=rounds, seed=seed, step=step)[1]
    unit = times.get(f"{reference} fp32")

    def ratio(key: str) -> float | None:
        return None if unit is None or key not in times else round(times[key] / unit, 3)

    rows = []
    for name in names:
        row = ModelRow(
            name,
            parameter_count(create(name)),
            mult_adds(name),
            len(floats[name].SerializeToString()),
            len(bytes_[name].SerializeToString()) if name in bytes_ else None,
            ratio(f"{name} fp32"),
            ratio(f"{name} int8"),
        )
        rows += [row, published_vgg()] if name == "vgg16" else [row]
    return rows


def _headings(reference: str) -> list[str]:
    of = f"time / {reference} fp32"
    return ["model", "parameters", "mult-adds (M)", "float file (MB)", "8-bit file (MB)", f"float {of}", f"8-bit {of}"]


def _cells(row: ModelRow) -> list[str]:
    return [
        row.name,
        f"{row.parameters:,}",
        f"{row.mult_adds / 1e6:,.0f}",
        f"{row.fp32_bytes / 1e6:.2f}",
        "–" if row.int8_bytes is None else f"{row.int8_bytes / 1e6:.2f}",
        *("–" if value is None else f"{value:.2f}" for value in (row.fp32_ratio, row.int8_ratio)),
    ]


def rich_table(rows: Sequence[ModelRow], reference: str) -> RichTable:
    """Return the table for the terminal."""
    table = RichTable(title="Architectures at 224 x 224, one logit", pad_edge=False)
    cells = [_cells(row) for row in rows]
    for heading, column in zip(_headings(reference), zip(*cells, strict=True), strict=True):
        # no number and no word is cut; what is longer breaks between words, so that 80 columns are enough
        width = max(len(word) for text in (heading, *column) for word in text.split())
        table.add_column(heading, justify="left" if heading == "model" else "right", width=width)
    for line in cells:
        table.add_row(*line)
    return table


def write(rows: Sequence[ModelRow], reference: str, out: Path) -> Path:
    """Write `models.json`, `models.md`, the figure and the page; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "models.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    note = (
        "ONNX Runtime, one thread, one tile at a time, all files in turn in one run; weights are random and the ranges "
        "of the 8-bit files come from random tiles, which changes neither size nor time. VGG-16 takes part without its "
        f"three fully connected layers; {PUBLISHED_VGG!r} is counted with them and 1,000 classes, and is neither "
        "exported nor timed: its file is taken to be 4 bytes a parameter."
    )
    table = Table(_headings(reference), [_cells(row) for row in rows], note)
    (out / "models.md").write_text(markdown_table(table), encoding="utf-8")
    pictures = []
    if any(row.fp32_ratio is not None for row in rows):
        _draw(rows, reference, out / "models.svg")
        pictures.append(Picture(out / "models.svg", "Parameters against time a tile; both axes are logarithmic"))
    section = Section("Parameters, arithmetic, size and time", tables=[table], pictures=pictures)
    return write_page(out / "index.html", "Architectures", "What each architecture costs.", [section])


_NAMES_APART: Final = 1.22
"""Ratio of two places on the axis of parameters at which names can stand side by side."""


def _draw(rows: Sequence[ModelRow], reference: str, path: Path) -> None:
    with figure(path, width_in=7, height_in=4.6) as drawn:
        axes = drawn.subplots()
        for label, colour, marker in (("fp32", COLOURS[0], "o"), ("int8", COLOURS[1], "s")):
            ratios = [(row, row.fp32_ratio if label == "fp32" else row.int8_ratio) for row in rows]
            points = [(row.parameters / 1e6, ratio) for row, ratio in ratios if ratio is not None]
            axes.scatter([p[0] for p in points], [p[1] for p in points], color=colour, marker=marker, label=label)
        axes.margins(x=0.08)
        axes.set(xscale="log", yscale="log", xlabel="parameters (million)", ylabel=f"time a tile / {reference} fp32")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        # names above the axes, where no other point or name is in their way; variants of one size share theirs
        last = 0.0
        timed = [row for row in rows if row.fp32_ratio is not None]
        for parameters in sorted({row.parameters for row in timed}):
            names = ", ".join(row.name for row in timed if row.parameters == parameters)
            place = parameters / 1e6
            last = max(place, last * _NAMES_APART)
            axes.axvline(place, color=COLOURS[7], linewidth=0.6, zorder=0)
            across = axes.get_xaxis_transform()
            axes.plot([place, last], [1.0, 1.03], transform=across, color=COLOURS[7], linewidth=0.6, clip_on=False)
            axes.text(last, 1.035, names, transform=across, rotation=40, ha="left", fontsize=8)
        if any(row.int8_ratio is not None for row in rows):
            axes.legend(loc="center", bbox_to_anchor=(0.25, 0.75))
