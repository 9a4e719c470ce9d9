"""Peak memory of this process."""

from __future__ import annotations

import math
import resource
import sys


def peak_memory() -> float:
    """Return the peak use of main memory in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return float(peak if sys.platform == "darwin" else peak * 1024)


def peak_device_memory(device: str) -> float:
    """Return the peak bytes that torch allocated on a GPU; NaN on a processor."""
    if not device.startswith("cuda"):
        return math.nan
    import torch

    return float(torch.cuda.max_memory_allocated(device))
