"""How do tests get a model whose verdicts are known? A tiny valid bundle: the darker a tile, the surer a crack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

# logit = (DARKNESS_LEVEL - mean level) / 8: a tile darker than 96 of 255 is a crack, at 96 p is 0.5.
DARKNESS_LEVEL = 96.0
DARKNESS_SLOPE = 1 / 8
CELLS = 7


def expected_logit(mean_level: float) -> float:
    """The logit (before calibration) of a tile with this mean level of its first three channels."""
    return (DARKNESS_LEVEL - mean_level) * DARKNESS_SLOPE


def make_bundle(
    folder: Path,
    *,
    name: str = "darkness",
    tile_px: int = 224,
    channels: int = 3,
    threshold_p: float = 0.5,
    temperature: float = 1.0,
    bias: float = 0.0,
    gsd: tuple[float, float, float] = (1.0, 0.1, 2.0),
    manifest: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str | None] | None = None,
    **graph: Any,
) -> Path:
    """Writes `folder/manifest.json` and `folder/model.onnx`, and returns `folder`.

    The model's logit is `(96 - mean level) / 8` over the first three channels; its cells (7 x 7) are the same of each
    place, so the peak lies in the darkest. `gsd` is (nominal, min, max). `manifest` replaces top-level keys of the
    manifest (a value of None removes one), `metadata` those of the ONNX file. `graph` spoils the graph: see `_model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    props: dict[str, str | None] = {
        "crackscout.schema": "1",
        "crackscout.name": name,
        "crackscout.threshold_p": repr(threshold_p),
        "crackscout.temperature": repr(temperature),
        "crackscout.bias": repr(bias),
        **(metadata or {}),
    }
    model = _model(tile_px, channels, **graph)
    helper.set_model_props(model, {key: value for key, value in props.items() if value is not None})
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    contents: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "version": "0.1.0",
        "architecture": "Darkness",
        "parameters": 2,
        "licence": "Apache-2.0",
        "input": {"name": "tiles", "dtype": "uint8", "layout": "NHWC", "order": "BGR", "tile_px": tile_px},
        "outputs": {"logit": "logit", "cells": "cells"},
        "gsd_mm_px": dict(zip(("nominal", "min", "max"), gsd, strict=True)) | {"basis": "made up"},
        "files": {"fp32": file_entry(path, channels)},
        "default_file": "fp32",
        "operating_point": {
            "threshold_p": threshold_p,
            "temperature": temperature,
            "bias": bias,
            "fitted_on": "nothing",
            "wanted": "a known answer",
            "recall": None,
            "specificity": None,
        },
        "metrics": {"made-up": {"recall": [1.0, 0.9, 1.0], "n_positive": 3}},
        "parity": {"anything": {"goes": [1, 2]}},
        "training": {"seed": 1, "data": []},
        **(manifest or {}),
    }
    contents = {key: value for key, value in contents.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(contents), encoding="utf-8")
    return folder


def file_entry(path: Path, channels: int) -> dict[str, Any]:
    """The manifest's entry for an ONNX file as it lies on the disk."""
    data = path.read_bytes()
    return {
        "path": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "channels": channels,
        "bytes": len(data),
    }


def _model(
    tile_px: int,
    channels: int,
    *,
    batch: int | str = "N",
    input_name: str = "tiles",
    input_type: int = TensorProto.UINT8,
    outputs: tuple[str, ...] = ("logit", "cells"),
    nan_above_level: float | None = None,
) -> onnx.ModelProto:
    """The graph. `nan_above_level`: tiles brighter than this give NaN, as a numerically broken model would."""
    cell_px = tile_px // CELLS
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["float", "zero", "three", "last"], ["bgr"]),
        helper.make_node("Transpose", ["bgr"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[cell_px] * 2, strides=[cell_px] * 2),
        helper.make_node("ReduceMean", ["means", "one"], ["levels"], keepdims=0),
        helper.make_node("Sub", ["limit", "levels"], ["darkness"]),
        helper.make_node("Mul", ["darkness", "slope"], ["sound"]),
        helper.make_node("Less", ["levels", "nan_limit"], ["fine"]),
        helper.make_node("Where", ["fine", "sound", "nan"], ["cells"]),
        helper.make_node("ReduceMean", ["cells", "places"], ["logit"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("three", TensorProto.INT64, [1], [3]),
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("places", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("limit", TensorProto.FLOAT, [], [DARKNESS_LEVEL]),
        helper.make_tensor("slope", TensorProto.FLOAT, [], [DARKNESS_SLOPE]),
        helper.make_tensor("nan_limit", TensorProto.FLOAT, [], [1e9 if nan_above_level is None else nan_above_level]),
        helper.make_tensor("nan", TensorProto.FLOAT, [], [float("nan")]),
    ]
    shapes = {"logit": [batch], "cells": [batch, CELLS, CELLS]}
    graph = helper.make_graph(
        nodes,
        "darkness",
        [helper.make_tensor_value_info(input_name, input_type, [batch, tile_px, tile_px, channels])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        constants,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
