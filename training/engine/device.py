"""Where is computed, and with which numbers?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from training.config import TrainConfig
from training.errors import ConfigError

log = logging.getLogger(__name__)

BF16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of the CPUs, x86 and ARM, that multiply bfloat16 themselves."""


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


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the CPU as Linux lists them; empty elsewhere."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, []))


def warn_if_slower(config: TrainConfig, device: torch.device, flags: frozenset[str]) -> None:
    """Say so where bfloat16 is asked for on a CPU that has to imitate it, which takes longer than float32.

    Args:
        config: of the run.
        device: where it is computed.
        flags: of the CPU; empty if they are not known, and then nothing is said.
    """
    if config.bf16 and device.type == "cpu" and flags and flags.isdisjoint(BF16_FLAGS):
        log.warning(
            "bf16: this CPU has none of %s and imitates bfloat16, which is slower than bf16: false",
            ", ".join(BF16_FLAGS),
        )


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return the state of the generators that dropout draws from."""
    on_gpu = device.type == "cuda"
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(device) if on_gpu else None}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
