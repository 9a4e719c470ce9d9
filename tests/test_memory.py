"""Test the size of passes: the probe, its stored result, and real ends of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hpcbench.potentials import memory
from hpcbench.potentials.memory import (
    PROBE_EDGES,
    Probe,
    is_out_of_memory,
    kept_probe,
    made_up_crystals,
    probe,
    usable_memory,
)
from hpcbench.potentials.neighbours import neighbour_list

CPU = torch.device("cpu")


class Passes:
    """Passes that take a fixed time and a time by edge, on a clock of their own."""

    def __init__(self, fixed: float, by_edge: float, memory: float = float("inf")) -> None:
        self.fixed, self.by_edge, self.memory = fixed, by_edge, memory
        self.clock = 0.0
        self.sizes: list[int] = []

    def __call__(self, edges: int) -> int:
        if edges > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(edges)
        self.clock += self.fixed + self.by_edge * edges
        return edges


def test_probe_takes_the_smallest_pass_that_is_about_as_fast_as_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = Passes(fixed=50e-6, by_edge=1e-6)
    monkeypatch.setattr(time, "perf_counter", lambda: passes.clock)
    found = probe(passes, CPU, float("inf"))
    # 98 % of the rate at 8,000 edges (0.9938) is reached when 50 / n < 0.027: at 2,000.
    assert found.edges == 2_000
    assert max(passes.sizes) == PROBE_EDGES["cpu"][1]


def test_the_probe_of_a_slow_potential_ends_at_a_pass_that_is_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Passes(fixed=1e-3, by_edge=3e-4)
    monkeypatch.setattr(time, "perf_counter", lambda: slow.clock)
    found = probe(slow, CPU, float("inf"))
    # 2,000 edges take 0.6 s: nothing larger is tried, and that twice only.
    assert slow.sizes.count(2_000) == 2
    assert max(slow.sizes) == 2_000
    assert found.complete
    assert found.edges == 500


@pytest.mark.parametrize("edges", [500, 8_000, 40_000])
def test_the_probe_s_crystal_has_about_the_edges_asked_for(edges: int) -> None:
    batch = made_up_crystals(edges, CPU, 5.0)
    assert neighbour_list(batch, 5.0).nedges == pytest.approx(edges, rel=0.25)


def test_probe_stops_where_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    passes = Passes(fixed=5e-3, by_edge=1e-6, memory=3_000)
    monkeypatch.setattr(time, "perf_counter", lambda: passes.clock)
    assert probe(passes, CPU, float("inf")).edges == 2_000
    passes.sizes.clear()
    short = probe(passes, CPU, largest=1_500)
    assert short.edges == 1_000
    assert max(passes.sizes) == 1_000
    # What a lack of memory cut short is not kept for the next time.
    assert not short.complete
    assert kept_probe(("weights",), CPU, lambda: short) is short
    assert not kept_probe(("weights",), CPU, lambda: short).complete


def test_an_error_of_the_model_ends_the_probe() -> None:
    def broken(edges: int) -> int:
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.raises(RuntimeError, match="no kernel image"):
        probe(broken, CPU, float("inf"))


def test_probe_is_kept_by_model_and_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[int] = []

    def make() -> Probe:
        made.append(1)
        return Probe(1000 * len(made), 12.5, complete=True)

    assert kept_probe(("weights", "float32"), CPU, make) == Probe(1000, 12.5, complete=True)
    assert kept_probe(("weights", "float32"), CPU, make) == Probe(1000, 12.5, complete=True)
    assert kept_probe(("weights", "float64"), CPU, make) == Probe(2000, 12.5, complete=True)
    assert kept_probe(("weights", "float32"), CPU, make) == Probe(1000, 12.5, complete=True)
    path = tmp_path / "hpcbench" / "passes.json"
    assert len(json.loads(path.read_text())) == 2
    for damaged in ('{"torn', "[1, 2]", json.dumps(dict.fromkeys(json.loads(path.read_text())))):
        path.write_text(damaged)
        made.clear()
        assert kept_probe(("weights", "float32"), CPU, make) == Probe(1000, 12.5, complete=True)
        assert made


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hpcbench").write_text("a file, where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_probe(("weights",), CPU, lambda: Probe(7, 0.0, complete=True)) == Probe(
        7, 0.0, complete=True
    )


def test_errors_of_allocations_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_memory_of_a_job_is_what_its_control_group_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Path("/proc/self/cgroup").read_text().splitlines()[0].rpartition(":")[2].strip("/")
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "memory.max").write_text("1000000000\n")
    if group:
        (folder / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert usable_memory(CPU, 1) == pytest.approx(memory.SHARE_OF_MEMORY * 1e9)


def test_memory_is_shared_by_the_ranks_of_a_host() -> None:
    assert usable_memory(CPU, 4) < 0.5 * usable_memory(CPU, 1)


def test_a_process_that_runs_out_of_memory_halves_its_passes_and_goes_on() -> None:
    """With a real limit on the process: what fails is malloc, not a stand-in."""
    script = """
import resource, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
torch.set_num_threads(1)
from ase.build import bulk
from hpcbench.potentials.registry import load_potential
from hpcbench.potentials.structures import Structures
potential = load_potential("mattersim-demo", max_edges=100_000)
atoms = [bulk("C").repeat(4).copy() for _ in range(6)]
for index, structure in enumerate(atoms):
    structure.rattle(0.01, seed=index)
batch = Structures.from_atoms(atoms)
# Warm up, so that libraries have what they need.
alone = potential.evaluate_batch(batch.part(0, 1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
result = potential.evaluate_batch(batch)
assert not result.problems, result.problems
assert potential.capacity < 100_000, "the limit was not reached"
assert torch.isfinite(result.forces).all()
np.testing.assert_allclose(result.forces[: len(atoms[0])], alone.forces, atol=1e-5)
print("halved to", potential.capacity)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "halved to" in result.stdout
