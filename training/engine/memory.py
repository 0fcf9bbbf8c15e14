"""Why does training start itself a second time? Because the allocator reads its settings only once, at start-up."""

from __future__ import annotations

import os
import sys
from typing import Final

SETTINGS: Final = {
    # glibc returns the large buffers of each step to the kernel and asks for them again; clearing those pages takes as
    # long as the convolutions themselves (measured: keeping them doubles the images a second on two cores)
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
    # threads that wait for one another by spinning lose the core to whatever else runs (measured: 8 instead of 13
    # images a second beside one busy process)
    "OMP_WAIT_POLICY": "PASSIVE",
}


def keep_freed_memory() -> None:
    """Replace this process by itself with the allocator told to keep freed memory. Call before torch is imported."""
    if sys.platform != "linux" or all(key in os.environ for key in SETTINGS):
        return
    os.execve(sys.executable, [sys.executable, "-m", "training", *sys.argv[1:]], os.environ | SETTINGS)  # noqa: S606
