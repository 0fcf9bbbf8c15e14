"""Who teaches a student? Trained models of the registry, read from their checkpoints, that only answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.engine import checkpoint
from training.errors import CheckpointError

Row = dict[str, str]
"""What a checkpoint tells about a teacher: "path" and "sha256"."""


class Teachers:
    """Trained models in evaluation mode, of any kinds; they never learn.

    Args:
        paths: `best.pt` or `final.pt` of the teachers' runs, or folders of bundles; at least one.
        device: where they answer.

    Raises:
        CheckpointError: a file is not a checkpoint, or its weights do not fit the model that it names.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device) -> None:
        self._models = []
        # the builders draw weights that the checkpoints then replace: the student's random numbers must not notice
        with torch.random.fork_rng(devices=[]):
            for path in paths:
                model = checkpoint.load_model(path).requires_grad_(requires_grad=False)
                self._models.append(model.to(device).to(memory_format=torch.channels_last))
        self.rows: list[Row] = [{"path": str(path), "sha256": checkpoint.weights_sha256(path)} for path in paths]

    @torch.no_grad()
    def __call__(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Judge tiles [N, 3, H, W] (BGR, 0..255).

        Returns:
            The means of the teachers' logits, float32: of the tiles [N] and of their cells [N, h, w].
        """
        logits, cells = zip(*(model(tiles) for model in self._models), strict=True)
        return torch.stack(logits).float().mean(dim=0), torch.stack(cells).float().mean(dim=0)

    def require_same(self, known: list[Row] | Row | None) -> None:
        """Refuse to go on with other teachers than the run began with.

        Args:
            known: `rows` of the teachers that the run began with, in their order; a single row in files from before
                there could be several.

        Raises:
            CheckpointError: a file's content has changed since.
        """
        known = [known] if isinstance(known, dict) else known or []
        if len(known) != len(self.rows):
            raise CheckpointError(f"teachers: the run began with {len(known)}, not {len(self.rows)}; start anew")
        for row, before in zip(self.rows, known, strict=True):
            if row["sha256"] != before["sha256"]:
                raise CheckpointError(f"{row['path']}: is not the teacher that the run began with; start anew")
