"""Where is computed, and with which numbers?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.config import TrainConfig
from training.errors import ConfigError


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """Name the processor of a run.

    Args:
        wanted: "cpu", "cuda", or "auto" for a GPU where there is one.
        local_rank: number of the GPU, where several processes share a machine.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"device: GPU {local_rank} is asked for, this machine has {torch.cuda.device_count()}; allowed here is cpu"
        )
    # the same numbers in every run are worth more than the few per cent of the fastest algorithm
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda", local_rank)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Compute convolutions with bfloat16 or float16 where the configuration says so; the weights stay float32."""
    dtype = torch.float16 if config.fp16 else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=config.fp16 or config.bf16)


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return the state of the generators that dropout draws from."""
    on_gpu = device.type == "cuda"
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if on_gpu else None}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
