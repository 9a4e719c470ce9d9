"""MatterSim: against its own calculator, against itself in batches, against energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from conftest import DEMO
from mattersim_layers import require_mattersim

from hpcbench.errors import EvaluationError, OutOfMemoryError, PotentialError, UnsuitableError
from hpcbench.potentials.mattersim import MatterSim
from hpcbench.potentials.neighbours import neighbour_list
from hpcbench.potentials.structures import DisplacedCopies, Structures
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


def test_single_precision_equals_mattersims_own_calculator(demo32, demo64) -> None:
    require_mattersim()
    from mattersim.forcefield import MatterSimCalculator

    calculator = MatterSimCalculator(load_path=str(DEMO_WEIGHTS), device="cpu")
    ours, exact = demo32.evaluate(MIXED, stress=True), demo64.evaluate(MIXED)
    noise = {"ours": 0.0, "theirs": 0.0}
    for atoms, got, reference in zip(MIXED, ours, exact, strict=True):
        theirs = atoms.copy()
        theirs.calc = calculator
        assert got.energy == pytest.approx(theirs.get_potential_energy(), abs=1e-5 * len(atoms))
        # Theirs differs from double precision by up to 1.3e-5 eV/A, at forces of 5 eV/A.
        np.testing.assert_allclose(got.forces, theirs.get_forces(), atol=2e-5)
        np.testing.assert_allclose(got.stress, theirs.get_stress(voigt=False), atol=1e-6)
        noise["ours"] += np.square(got.forces - reference.forces).sum()
        noise["theirs"] += np.square(theirs.get_forces() - reference.forces).sum()
    # Edge vectors are differences in double precision: that alone halves the noise and more.
    assert noise["ours"] < 0.25 * noise["theirs"]


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
    passes = record_passes(demo64, monkeypatch)
    monkeypatch.setattr(demo64, "capacity", 800)
    for a, b in zip(whole, demo64.evaluate(MIXED), strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-10, rtol=0)
    assert sum(passes) == sum(map(len, MIXED))
    assert 1 < len(passes) < len(MIXED)


def record_passes(potential: MatterSim, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that will hold the number of atoms of each pass."""
    passes: list[int] = []
    original = potential._model
    monkeypatch.setattr(
        potential,
        "_model",
        Recorder(original, lambda numbers: passes.append(len(numbers))),
    )
    return passes


class Recorder:
    """A model that tells of each pass before it computes it."""

    def __init__(self, model, tell) -> None:
        self._model, self._tell = model, tell
        self.cutoff = model.cutoff

    def __call__(self, numbers, edges, vectors):
        self._tell(numbers)
        return self._model(numbers, edges, vectors)


def displaced_copies(atoms: Atoms, ncopies: int) -> DisplacedCopies:
    rng = np.random.default_rng(ncopies)
    return DisplacedCopies(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell[:],
        rng.integers(0, len(atoms), ncopies),
        rng.normal(scale=0.006, size=(ncopies, 3)),
    )


def one_by_one(potential: MatterSim, copies: DisplacedCopies) -> np.ndarray:
    structures = []
    for atom, displacement in zip(copies.atoms, copies.displacements, strict=True):
        moved = Atoms(copies.numbers, positions=copies.positions, cell=copies.cell, pbc=True)
        moved.positions[atom] += displacement
        structures.append(moved)
    return np.array([potential.evaluate([moved])[0].forces for moved in structures])


@pytest.mark.parametrize(("precision", "tolerance"), [("demo32", 2e-5), ("demo64", 1e-10)])
def test_displaced_supercells_of_several_crystals_share_one_pass(
    precision: str,
    tolerance: float,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    potential = request.getfixturevalue(precision)
    sets = [displaced_copies(distorted("NaCl"), 5), displaced_copies(distorted("SrTiO3", 1), 3)]
    expected = [one_by_one(potential, copies) for copies in sets]
    passes = record_passes(potential, monkeypatch)
    prepared = [potential.prepare(copies) for copies in sets]
    together = potential.forces([(prepared[0], 1, 5), (prepared[1], 0, 2), (prepared[0], 0, 1)])
    assert passes == [5 * 16 + 2 * 5]
    np.testing.assert_allclose(together[0], expected[0][1:], atol=tolerance, rtol=0)
    np.testing.assert_allclose(together[1], expected[1][:2], atol=tolerance, rtol=0)
    np.testing.assert_allclose(together[2], expected[0][:1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("limit", [1, 900, 2500])
def test_a_pass_that_runs_out_of_memory_is_halved_and_nothing_is_lost(
    limit: int, demo64, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for so many edges: as on a GPU, the allocation fails and the pass is over."""
    whole = demo64.evaluate(MIXED, stress=True)
    edges = [len(neighbour_list(Structures.from_atoms([a]), 5.0).edges[0]) for a in MIXED]
    model = demo64._model
    monkeypatch.setattr(demo64, "_model", SmallMemory(model, limit))
    monkeypatch.setattr(demo64, "capacity", 10_000)
    result = demo64.evaluate_batch(Structures.from_atoms(MIXED), stress=True)
    assert demo64.capacity < 10_000 or limit >= sum(edges)
    assert set(result.problems) == {i for i, count in enumerate(edges) if count > limit}
    first = 0
    for index, (atoms, expected) in enumerate(zip(MIXED, whole, strict=True)):
        rows = slice(first, first + len(atoms))
        first += len(atoms)
        if index in result.problems:
            assert result.problems[index].kind == "too large"
            assert np.isnan(result.forces[rows].numpy()).all()
            continue
        np.testing.assert_allclose(result.forces[rows], expected.forces, atol=1e-10, rtol=0)
        np.testing.assert_allclose(result.stresses[index], expected.stress, atol=1e-10, rtol=0)


class SmallMemory:
    """A model whose device has memory for so many edges."""

    def __init__(self, model, limit: int) -> None:
        self._model, self._limit = model, limit
        self.cutoff = model.cutoff

    def __call__(self, numbers, edges, vectors):
        if edges.shape[1] > self._limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._model(numbers, edges, vectors)


def test_forces_that_run_out_of_memory_say_so(demo64, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = demo64.prepare(displaced_copies(distorted("NaCl"), 4))
    monkeypatch.setattr(demo64, "_model", SmallMemory(demo64._model, 2 * prepared.cost))
    monkeypatch.setattr(demo64, "capacity", 4 * prepared.cost)
    with pytest.raises(OutOfMemoryError, match="the memory of cpu did not suffice"):
        demo64.forces([(prepared, 0, 4)])
    assert demo64.capacity == 2 * prepared.cost
    (forces,) = demo64.forces([(prepared, 0, 2)])
    assert np.isfinite(forces).all()


def test_an_error_of_the_model_is_an_evaluation_error(demo64, monkeypatch) -> None:
    def broken(numbers: torch.Tensor) -> None:
        if 38 in numbers:  # strontium
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(demo64, "_model", Recorder(demo64._model, broken))
    result = demo64.evaluate_batch(Structures.from_atoms(MIXED))
    assert list(result.problems) == [2]
    assert isinstance(result.problems[2], EvaluationError)
    assert np.isnan(result.energies.numpy()).tolist() == [False, False, True, False, False]


def test_a_structure_without_sense_does_not_touch_the_others(demo64) -> None:
    flat = Atoms("Si", cell=np.diag([3.0, 3.0, 1e-7]), pbc=True)
    lost = Atoms("Si", positions=[(np.nan, 0, 0)], cell=np.eye(3) * 5, pbc=True)
    (expected,) = demo64.evaluate([MIXED[1]], stress=True)
    batch = Structures.from_atoms([flat, MIXED[1], lost])
    result = demo64.evaluate_batch(batch, stress=True)
    assert set(result.problems) == {0, 2}
    assert all(problem.kind == "cell" for problem in result.problems.values())
    np.testing.assert_allclose(result.forces[1:3], expected.forces, atol=1e-12)
    assert np.isnan(result.energies.numpy()).tolist() == [True, False, True]


def test_products_are_never_taken_in_reduced_precision(demo32) -> None:
    expected = demo32.evaluate(MIXED)
    torch.set_float32_matmul_precision("medium")
    try:
        got = demo32.evaluate(MIXED)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.forces, b.forces)


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
    with pytest.raises(UnsuitableError, match="above the limit of one forward pass") as caught:
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
    require_mattersim()
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
