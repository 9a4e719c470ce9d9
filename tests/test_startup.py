"""A rank's start: on a shared file system, many of them at once are a storm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import system_calls
from ase.build import bulk
from ase.io import write
from launching import in_file

# Half of what the start of a rank loads, and needed by other checkpoints or by the report only.
NOT_NEEDED = (
    "mattersim",
    "torch_geometric",
    "torchmetrics",
    "torch._dynamo",
    "matplotlib",
    "pandas",
)
# Measured: 3,862 and 7,011, before MatterSim's package was left out 7,018 and 12,819.
MOST_OPENED = 5000
MOST_PATHS = 9000


def test_a_rank_does_not_load_what_it_does_not_need() -> None:
    script = (
        "import sys, hpcbench.scheduler.launch\n"
        "from hpcbench.potentials.registry import load_potential\n"
        "load_potential('mattersim-demo', dtype='float32', device='cpu')\n"
        "print(*sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    loaded = set(answer.stdout.split())
    assert "torch" in loaded
    assert loaded.isdisjoint(NOT_NEEDED)


@pytest.mark.skipif(
    not system_calls.can_count(), reason="needs strace that may trace (Debian: apt install strace)"
)
def test_files_that_a_rank_asks_for_before_its_first_crystal(tmp_path: Path) -> None:
    write(tmp_path / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    command = [
        sys.executable, "-m", "hpcbench", "run", tmp_path / "salt.cif", "--out", tmp_path / "s.h5",
        "--model", "mattersim-demo", "--device", "cpu", "--workers", "0", *in_file(max_edges=4000),
        "--max-steps", "1", "--mesh", "2", "2", "2", "--no-report",
        "--supercell", "2", "2", "2",
    ]  # fmt: skip
    seen = system_calls.count(command, tmp_path, {})
    assert sum(seen.opened.values()) < MOST_OPENED
    assert sum(seen.paths.values()) < MOST_PATHS
