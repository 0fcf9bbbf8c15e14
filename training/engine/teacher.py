"""Who teaches a student? Any trained model of the registry, read from its checkpoint, that only answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from training.engine import checkpoint
from training.errors import CheckpointError


class Teacher:
    """A trained model in evaluation mode; it never learns.

    Args:
        path: `best.pt` or `final.pt` of the teacher's run.
        device: where it answers.

    Raises:
        CheckpointError: the file is not a checkpoint, or its weights do not fit the model that it names.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        # the builder draws weights that the checkpoint then replaces: the student's random numbers must not notice
        with torch.random.fork_rng(devices=[]):
            model = checkpoint.load_model(path)
        self._model = model.requires_grad_(requires_grad=False).to(device).to(memory_format=torch.channels_last)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    @torch.no_grad()
    def __call__(self, tiles: Tensor) -> Tensor:
        """Return the logits float32 [N] of tiles [N, 3, H, W] (BGR, 0..255)."""
        logits: Tensor = self._model(tiles)[0]
        return logits.float()

    def row(self) -> dict[str, str]:
        """Return what a checkpoint tells about the teacher."""
        return {"path": str(self.path), "sha256": self.sha256}

    def require_same(self, known: dict[str, str] | None) -> None:
        """Refuse to go on with another teacher than the run began with.

        Args:
            known: `row()` of the teacher that the run began with.

        Raises:
            CheckpointError: the file's content has changed since.
        """
        if known is None or known["sha256"] != self.sha256:
            raise CheckpointError(f"{self.path}: is not the teacher that the run began with; start anew")
