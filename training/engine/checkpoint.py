"""What does a checkpoint hold, and how is a model read back from it?

`best.pt` and `final.pt` (what is exported) hold plain values and tensors only, so they load with
``weights_only=True``::

    {"format": 1,
     "model": "opnet",                 # a name for training.models.create
     "options": {...},                 # its keyword arguments, without `pretrained`
     "state_dict": {...},              # averaged (EMA) weights, without the auxiliary head
     "config": {...},                  # the whole configuration, as read
     "config_path": "config/training/opnet.yaml",
     "history": [{"step": ..., ...}],  # one row for each validation
     "data": [{"name", "sha256", "licence", "train_tiles"}],
     "pretrained": {"name", "sha256", "licence"} | None,   # the ImageNet weights that it started from
     "teacher": [{"path", "sha256"}, ...] | None,   # absent before there were teachers, a dict while there was one
     "bundles": {"exported_models/opnet": {"bundle": "opnet 0.4.0", ...}},    # those that it started or learnt from
     "seed": 1, "commit": "..." | None, "hours": 0.7, "step": 12000, "criterion": 0.93}

Where a checkpoint is read, the folder of a bundle may stand for one (`training.engine.bundle`): it then has an empty
"config" and "history", and "bundle": "mobilenetv2 0.4.0".

`last.pt` is the state from which `--resume` goes on: raw and averaged weights, auxiliary head, optimiser, random
generators.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from training.engine import bundle
from training.errors import CheckpointError
from training.files import file_sha256
from training.models import CellClassifier, create

__all__ = ["CheckpointError", "average_state", "load", "load_model", "model_of", "save", "weights_sha256"]

FORMAT: Final = 1

_NUMBERS: Final[list[Any]] = [np.float64, np.dtype, np.dtypes.Float64DType, np.float64(0).__reduce__()[0]]
"""A history may hold numpy's numbers."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a kill in the middle leaves the old one."""
    temporary = path.with_suffix(".partial")
    torch.save({"format": FORMAT, **content}, temporary)
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or a bundle, as a dictionary.

    Raises:
        CheckpointError: the file is absent, damaged, or of another format.
    """
    if path.is_dir():
        return bundle.load(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train first")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, LookupError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of format {FORMAT}")
    return content


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of the file that holds the weights: the checkpoint itself, or the float file of a bundle.

    Raises:
        CheckpointError: a folder that is no bundle.
    """
    if path.is_dir():
        return str(bundle.facts(path)["sha256"])
    return file_sha256(path)


def load_model(path: Path) -> CellClassifier:
    """Rebuild the model of `best.pt` with its averaged weights, in evaluation mode, on the CPU.

    The model takes uint8 or float tiles [N, 3, H, W] (BGR, 0..255) and returns (logit [N], cells [N, h, w]).

    Raises:
        CheckpointError: the file is not a checkpoint, or its weights do not fit the model that it names.
    """
    return model_of(load(path), path)


def model_of(content: dict[str, Any], path: Path) -> CellClassifier:
    """Rebuild the model of what was read from `path`, as `load_model` does.

    Raises:
        CheckpointError: the weights do not fit the model that is named.
    """
    try:
        model = create(content["model"], **content["options"])
        model.load_state_dict(content["state_dict"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights do not fit ({error})") from error
    return model.eval()


def average_state(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Average the weights of runs that began alike (Wortsman et al., 2022, "Model soups", arXiv 2203.05482).

    Normalisation statistics are averaged too, which is close and not exact: train a little from there on.

    Args:
        paths: checkpoints of one network; of a single one, or a bundle, the weights come back as they are.

    Raises:
        CheckpointError: one cannot be read, has other weights than the first, or is a bundle among several: its
            weights are folded.
    """
    folded = [path for path in paths if path.is_dir()]
    if folded and len(paths) > 1:
        raise CheckpointError(f"{folded[0]}: a bundle cannot be averaged with others, its weights are folded")
    states = [load_model(path).state_dict() for path in paths]
    first = {key: value.shape for key, value in states[0].items()}
    for path, state in zip(paths, states, strict=True):
        if {key: value.shape for key, value in state.items()} != first:
            raise CheckpointError(f"{path}: cannot be averaged with {paths[0]}, it is another network")
    return {
        key: torch.stack([state[key] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for key, value in states[0].items()
    }
