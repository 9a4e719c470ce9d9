"""On a GPU the same as on a CPU. These tests need one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.io import read
from conftest import DEMO

import hpcbench
from hpcbench.potentials.mattersim import MatterSim
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.registry import load_potential
from hpcbench.potentials.selftest import self_test
from hpcbench.potentials.structures import Structures
from hpcbench.potentials.weights import DEMO_WEIGHTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

CRYSTALS = [read(path) for path in sorted(DEMO.glob("*.cif"))]


def test_neighbours_are_those_of_the_cpu() -> None:
    here = Structures.from_atoms(CRYSTALS)
    there = Structures.from_atoms(CRYSTALS, "cuda")
    expected, got = neighbour_list(here, 5.0), neighbour_list(there, 5.0)
    assert torch.equal(got.edges.cpu(), expected.edges)
    assert torch.equal(got.offsets.cpu(), expected.offsets)
    vectors = edge_vectors(there, got).cpu()
    torch.testing.assert_close(vectors, edge_vectors(here, expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-5)])
def test_energies_forces_and_stresses_are_those_of_the_cpu(dtype: str, tolerance: float) -> None:
    on_gpu = load_potential("mattersim-demo", dtype=dtype, device="cuda")
    on_cpu = load_potential("mattersim-demo", dtype="float64")
    self_test(on_gpu)
    atoms = [structure.copy() for structure in CRYSTALS]
    for number, structure in enumerate(atoms):
        structure.rattle(0.03, seed=number)
    pairs = zip(
        on_gpu.evaluate(atoms, stress=True), on_cpu.evaluate(atoms, stress=True), strict=True
    )
    for got, expected in pairs:
        assert got.energy == pytest.approx(expected.energy, abs=10 * tolerance)
        np.testing.assert_allclose(got.forces, expected.forces, atol=tolerance, rtol=0)
        np.testing.assert_allclose(got.stress, expected.stress, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-3)])
def test_linear_response_is_that_of_the_cpu(dtype: str, tolerance: float) -> None:
    on_gpu = load_potential("mattersim-demo", dtype=dtype, device="cuda")
    on_cpu = load_potential("mattersim-demo", dtype="float64")
    q = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.13, 0.22, 0.31]])
    for atoms in CRYSTALS[:4]:
        got, expected = (hpcbench.dynamical_matrices(one, atoms, q) for one in (on_gpu, on_cpu))
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_a_pass_above_the_memory_is_halved() -> None:
    potential = MatterSim(DEMO_WEIGHTS, "demo", device="cuda", max_edges=10**9)
    atoms = [read(DEMO / "C_start_strained.cif").repeat(6) for _ in range(8)]
    (expected,) = potential.evaluate(atoms[:1])
    free, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
    try:
        results = potential.evaluate(atoms)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert potential.capacity < 10**9, f"{free} bytes were free: make the batch larger"
    for result in results:
        np.testing.assert_allclose(result.forces, expected.forces, atol=5e-5, rtol=0)


def test_a_run_gives_the_verdicts_of_the_cpu() -> None:
    tables = [
        hpcbench.run(CRYSTALS, model="mattersim-demo", dtype="float64", device=device).table
        for device in ("cpu", "cuda")
    ]
    assert (tables[0]["verdict"] == tables[1]["verdict"]).all()
    np.testing.assert_allclose(tables[0]["energy"], tables[1]["energy"], atol=1e-6)
