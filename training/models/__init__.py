"""Which networks are trained here? OPNet as published, its variant that localises, and known baselines."""

from training.models.base import CellClassifier, parameter_count
from training.models.registry import MODELS, create
from training.models.weights import pretrained_of

__all__ = ["MODELS", "CellClassifier", "create", "parameter_count", "pretrained_of"]
