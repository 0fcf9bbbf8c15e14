"""Which networks are trained here? OPNet as published, its variant that localises, and known baselines."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from training.models.base import CellClassifier, parameter_count
    from training.models.registry import MODELS, create
    from training.models.weights import pretrained_of

__all__ = ["MODELS", "CellClassifier", "create", "parameter_count", "pretrained_of"]

_HOME: Final = {
    "MODELS": "registry",
    "CellClassifier": "base",
    "create": "registry",
    "parameter_count": "base",
    "pretrained_of": "weights",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the command line looks into this package, and must not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
