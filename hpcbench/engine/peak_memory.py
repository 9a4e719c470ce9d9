"""The most memory that this process has had."""

from __future__ import annotations

import math
import resource
import sys


def peak_memory() -> float:
    """Bytes of main memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return float(peak if sys.platform == "darwin" else peak * 1024)


def peak_device_memory(device: str) -> float:
    """Bytes that torch had in use on a GPU; not a number on a processor."""
    if not device.startswith("cuda"):
        return math.nan
    import torch

    return float(torch.cuda.max_memory_allocated(device))
