"""MatterSim: against its own calculator, against itself in batches, against energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from conftest import DEMO

from hpcbench.errors import PotentialError, UnsuitableError
from hpcbench.potentials import mattersim as module
from hpcbench.potentials.mattersim import MatterSim
from hpcbench.potentials.weights import DEMO_WEIGHTS


def distorted(name: str, repeat: int = 2, scale: float = 0.05, seed: int = 0) -> Atoms:
    atoms = read(DEMO / f"{name}_start_strained.cif").repeat(repeat)
    atoms.positions += np.random.default_rng(seed).normal(scale=scale, size=atoms.positions.shape)
    return atoms


MIXED = [
    distorted("NaCl"),
    distorted("Si", 1),
    distorted("SrTiO3", 1),
    distorted("AlN", 1, seed=3),
    distorted("C"),
]


def test_single_precision_equals_mattersims_own_calculator(demo32) -> None:
    from mattersim.forcefield import MatterSimCalculator

    calculator = MatterSimCalculator(load_path=str(DEMO_WEIGHTS), device="cpu")
    for atoms, got in zip(MIXED, demo32.evaluate(MIXED, stress=True), strict=True):
        theirs = atoms.copy()
        theirs.calc = calculator
        assert got.energy == pytest.approx(theirs.get_potential_energy(), abs=1e-5 * len(atoms))
        np.testing.assert_allclose(got.forces, theirs.get_forces(), atol=1e-5)
        np.testing.assert_allclose(got.stress, theirs.get_stress(voigt=False), atol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("demo32", 1e-5), ("demo64", 1e-10)])
def test_batch_equals_one_by_one(
    precision: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    potential = request.getfixturevalue(precision)
    together = potential.evaluate(MIXED, stress=True)
    for atoms, batched in zip(MIXED, together, strict=True):
        (alone,) = potential.evaluate([atoms], stress=True)
        np.testing.assert_allclose(batched.forces, alone.forces, atol=tolerance, rtol=0)
        np.testing.assert_allclose(batched.stress, alone.stress, atol=tolerance, rtol=0)


def test_batches_are_split_by_the_limits_without_changing_forces(
    demo64, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = demo64.evaluate(MIXED)
    passes = []
    original = demo64._forward
    monkeypatch.setattr(
        demo64,
        "_forward",
        lambda graphs, stress: passes.append(len(graphs)) or original(graphs, stress),
    )
    monkeypatch.setattr(module, "CPU_PASS_EDGES", 800)
    for a, b in zip(whole, demo64.evaluate(MIXED), strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-10, rtol=0)
    assert sum(passes) == len(MIXED)
    assert len(passes) > 1


def test_displaced_supercells_of_a_crystal_share_one_pass(
    demo64, monkeypatch: pytest.MonkeyPatch
) -> None:
    supercells = [distorted("NaCl", seed=seed, scale=0.01) for seed in range(6)]
    passes = []
    original = demo64._forward
    monkeypatch.setattr(
        demo64,
        "_forward",
        lambda graphs, stress: passes.append(len(graphs)) or original(graphs, stress),
    )
    demo64.evaluate(supercells)
    assert passes == [6]


def test_double_precision_is_double_from_the_positions_on(demo64) -> None:
    atoms = distorted("SrTiO3", 1)
    (here,) = demo64.evaluate([atoms])
    far = atoms.copy()
    # A rounding of the positions to single precision would cost 1e-4 A here.
    far.positions += [1234.5, -2345.6, 3456.7]
    (there,) = demo64.evaluate([far])
    np.testing.assert_allclose(here.forces, there.forces, atol=1e-9, rtol=0)


def test_forces_and_stress_are_derivatives_of_the_energy(demo64) -> None:
    atoms = distorted("MgO", 1, scale=0.1)
    (result,) = demo64.evaluate([atoms], stress=True)
    step = 1e-4

    def energy(changed: Atoms) -> float:
        return demo64.evaluate([changed])[0].energy

    for atom, axis in [(0, 0), (1, 2)]:
        plus, minus = atoms.copy(), atoms.copy()
        plus.positions[atom, axis] += step
        minus.positions[atom, axis] -= step
        force = -(energy(plus) - energy(minus)) / (2 * step)
        assert force == pytest.approx(result.forces[atom, axis], abs=1e-6)
    for i, j in [(0, 0), (1, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            changed = atoms.copy()
            changed.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            energies.append(energy(changed))
        stress = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert stress == pytest.approx(result.stress[i, j], abs=1e-6)


def test_left_handed_cell_has_the_stress_of_the_right_handed_one(demo64) -> None:
    atoms = distorted("MgO", 1)
    mirrored = atoms.copy()
    mirrored.set_cell(atoms.cell[:][[1, 0, 2]], scale_atoms=False)
    a, b = demo64.evaluate([atoms, mirrored], stress=True)
    np.testing.assert_allclose(a.stress, b.stress, atol=1e-10)


def test_isolated_atoms_have_no_forces(demo64) -> None:
    atoms = Atoms("Si", cell=np.eye(3) * 20.0, pbc=True)
    (result,) = demo64.evaluate([atoms], stress=True)
    assert np.isfinite(result.energy)
    np.testing.assert_array_equal(result.forces, 0.0)


def test_a_structure_above_the_limits_is_refused() -> None:
    potential = MatterSim(DEMO_WEIGHTS, "demo", max_edges=100)
    with pytest.raises(UnsuitableError, match="above the limits of one forward pass") as caught:
        potential.evaluate([distorted("C")])
    assert caught.value.kind == "too large"


def test_what_is_no_checkpoint_is_said_so(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"no checkpoint at all")
    with pytest.raises(PotentialError, match=r"junk\.pth: not a readable checkpoint"):
        MatterSim(junk, "junk")
    other = tmp_path / "other.pth"
    torch.save({"weights": torch.zeros(3)}, other)
    with pytest.raises(PotentialError, match="not a MatterSim checkpoint"):
        MatterSim(other, "other")
    incomplete = tmp_path / "incomplete.pth"
    checkpoint = torch.load(DEMO_WEIGHTS, weights_only=True)
    checkpoint["model"].pop("final.g.0.linear.weight")
    torch.save(checkpoint, incomplete)
    with pytest.raises(PotentialError, match="weights are missing"):
        MatterSim(incomplete, "incomplete")


def test_a_larger_model_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    """The published 5M model has other sizes than the demo: they come from ``model_args``."""
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    arguments = {
        "num_blocks": 4, "units": 32, "max_l": 4, "max_n": 4, "cutoff": 5.0, "max_z": 94,
        "threebody_cutoff": 4.0,
    }  # fmt: skip
    path = tmp_path / "mattersim-v1.0.0-5M.pth"
    torch.manual_seed(0)
    model = M3Gnet(device="cpu", **arguments)
    torch.save({"model_name": "m3gnet", "model": model.state_dict(), "model_args": arguments}, path)
    potential = MatterSim(path, "large", dtype="float64")
    (result,) = potential.evaluate([distorted("NaCl", 1)])
    assert np.isfinite(result.forces).all()
