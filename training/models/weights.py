"""How are weights of others read from a file?"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor


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
