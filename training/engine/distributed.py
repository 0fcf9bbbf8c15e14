"""How do several processes train one model together? Started by `torchrun`, each on its share of every batch.

Each process computes the gradients of its share; their mean (torch's DistributedDataParallel) moves the weights, which
are therefore the same everywhere. Batch norm normalises each share by its own statistics; the running statistics are
averaged over the processes after every step. Random numbers (dropout) differ between processes. Process 0 alone
validates and writes. Every tile has a generator of its own, so a process draws its share alone, and the batches are
those of a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, distributed

from training.errors import ConfigError

_PATIENCE: Final = timedelta(hours=2)
"""How long the others wait while process 0 validates."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine; chooses the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """Which rows of a batch are this process's: every `size`-th from row `rank` on."""
        return slice(self.rank, None, self.size)

    @contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """Let process 0 through the block first (it fills the cache that the others then read)."""
        if self.size > 1 and not self.first:
            distributed.barrier()
        yield
        if self.size > 1 and self.first:
            distributed.barrier()

    def mean(self, tensors: Iterable[Tensor]) -> None:
        """Replace float tensors by their mean over the processes, in place and in one exchange."""
        chosen = list(tensors)
        if self.size == 1 or not chosen:
            return
        together = torch.cat([tensor.detach().flatten() for tensor in chosen])
        distributed.all_reduce(together)
        parts = torch.split(together / self.size, [tensor.numel() for tensor in chosen])
        with torch.no_grad():
            for tensor, part in zip(chosen, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def from_first(self, value: Any) -> Any:
        """Return what process 0 passes here."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return what each process passes here, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def require_divisible(self, batches: dict[str, int]) -> None:
        """Refuse batches that cannot be shared evenly: the mean of the gradients would not be that of the batch.

        Args:
            batches: tiles a step, by stage.

        Raises:
            ConfigError: a batch is not a multiple of the number of processes.
        """
        for stage, batch in batches.items():
            if batch % self.size:
                raise ConfigError(
                    f"stage {stage}: batch {batch} cannot be shared by {self.size} processes; allowed are multiples"
                )


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """Join the processes that `torchrun` started together; alone where it did not.

    Args:
        device: "auto", "cpu" or "cuda": of the configuration. Tensors on GPUs travel by NCCL, all others by gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield world
    finally:
        distributed.destroy_process_group()
