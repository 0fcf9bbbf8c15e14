"""How much faster is one file than another on this machine? In ratios: a shared machine has no honest milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from training.evaluation.evaluate import session_options
from training.progress import Step, no_bar


def interleaved_s(
    models: Mapping[str, onnx.ModelProto],
    *,
    batches: Sequence[int] = (1, 8),
    rounds: int = 12,
    seed: int = 0,
    step: Step = no_bar,
) -> dict[int, dict[str, float]]:
    """Median time per tile (s) on one thread, all models in turn in every round, by batch size.

    Args:
        models: byte-input graphs by name.
        batches: batch sizes.
        rounds: of all models at batch 1; larger batches get fewer.
        seed: of the random tiles.
        step: progress.
    """
    rng = np.random.default_rng(seed)
    sessions = {
        name: ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
        for name, model in models.items()
    }
    found: dict[int, dict[str, float]] = {}
    for batch in batches:
        tiles = {
            name: rng.integers(0, 256, (batch, *session.get_inputs()[0].shape[1:]), dtype=np.uint8)
            for name, session in sessions.items()
        }
        times: dict[str, list[float]] = {name: [] for name in sessions}
        turns = max(5, rounds // batch) + 1
        with step(f"timing, all in turn, batch {batch}", turns) as advance:
            for turn in range(turns):
                for name, session in sessions.items():
                    start = time.perf_counter()
                    session.run(None, {session.get_inputs()[0].name: tiles[name]})
                    if turn:
                        times[name].append((time.perf_counter() - start) / batch)
                advance(1)
        found[batch] = {name: float(np.median(values)) for name, values in times.items()}
    return found
