"""The machine that a benchmark ran on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def version_line(command: list[str]) -> str:
    """Return the line in which a program says its version; empty if it says nothing."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    # MPICH's says its version in the second line.
    return " ".join(lines[:2]) if "HYDRA" in result.stdout else (lines or [""])[0]
