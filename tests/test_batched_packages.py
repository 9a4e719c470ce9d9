"""CHGNet and SevenNet on our edges: against their packages' calculators, in batches, strained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read

from hpcbench.errors import EvaluationError
from hpcbench.potentials.edge_pairs import ORDERS, pairs_at_centres, reverses
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.registry import load_potential, spec_of
from hpcbench.potentials.selftest import self_test
from hpcbench.potentials.structures import DisplacedCopies, Structures

PACKAGES = {"chgnet": "chgnet", "sevennet-0": "sevenn", "sevennet-l3i5": "sevenn"}

# What the packages say themselves, when they are loaded and used.
pytestmark = [
    pytest.mark.filterwarnings("ignore:No tensor product accelerator"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad"),
    pytest.mark.filterwarnings("ignore:dict interface is deprecated"),
]


def crystals(seed: int = 0) -> list[Atoms]:
    found = [
        bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1)),
        bulk("Si", "diamond", a=5.4),
        bulk("Cu", "fcc", a=3.7, cubic=True),
        bulk("CsCl", "cesiumchloride", a=4.1),
    ]
    rng = np.random.default_rng(seed)
    for atoms in found:
        atoms.positions += rng.normal(scale=0.07, size=atoms.positions.shape)
    return found


@pytest.fixture(scope="module")
def loaded() -> Any:
    kept: dict[tuple[str, str], Any] = {}

    def load(name: str, dtype: str = "float32") -> Any:
        pytest.importorskip(PACKAGES[name])
        if (name, dtype) not in kept:
            kept[name, dtype] = load_potential(name, dtype=dtype, max_edges=5_000)
        return kept[name, dtype]

    return load


def package_calculator(name: str, *, double: bool = False) -> Any:
    """The calculator of the potential's own package."""
    if name != "chgnet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(str(spec_of(name).weights_path()), device="cpu")
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu", on_isolated_atoms="error")
    if double:
        model = calculator.model.double()
        # It counts atoms, in single precision.
        model.composition_model.float()
        model.graph_converter = DoubleGraphs(model.graph_converter)
    return calculator


class DoubleGraphs(torch.nn.Module):
    """CHGNet's graphs, with positions and cell in double precision."""

    def __init__(self, converter: torch.nn.Module) -> None:
        super().__init__()
        self._converter = converter

    def forward(self, structure: Any) -> Any:
        graph = self._converter(structure)
        graph.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
        graph.lattice = torch.tensor(structure.lattice.matrix, requires_grad=True)
        graph.neighbor_image = graph.neighbor_image.double()
        return graph


def errors(potential: Any, calculator: Any, frames: Sequence[Atoms]) -> dict[str, float]:
    """Largest differences of energy by atom, force (over the largest, if that is above 1) ..."""
    worst = {"energy": 0.0, "force": 0.0, "stress": 0.0}
    for atoms, ours in zip(frames, potential.evaluate(frames, stress=True), strict=True):
        theirs = atoms.copy()
        theirs.calc = calculator
        energy = float(np.squeeze(theirs.get_potential_energy()))
        forces = theirs.get_forces()
        stress = theirs.get_stress(voigt=False)
        scale = max(1.0, float(np.abs(forces).max()))
        for what, difference in (
            ("energy", abs(ours.energy - energy) / len(atoms)),
            ("force", float(np.abs(ours.forces - forces).max()) / scale),
            ("stress", float(np.abs(ours.stress - stress).max())),
        ):
            # NaN stays NaN, and fails every comparison.
            worst[what] = float(np.maximum(worst[what], difference))
    return worst


@pytest.mark.parametrize("name", PACKAGES)
def test_small_crystals_are_as_by_the_package(name: str, loaded: Any) -> None:
    found = errors(loaded(name), package_calculator(name), crystals())
    assert found["energy"] < 3e-6
    assert found["force"] < (1e-4 if name == "chgnet" else 1e-5)
    assert found["stress"] < (3e-5 if name == "chgnet" else 1e-5)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_generated_crystals_are_as_by_the_package(
    name: str, loaded: Any, reference_data: Path
) -> None:
    potential = loaded(name)
    frames = [
        atoms
        for atoms in read(reference_data / "generated" / "mix-1000.extxyz", ":")
        if 2 <= len(atoms) <= 12 and potential.info.elements.issuperset(atoms.numbers.tolist())
    ][::12][:30]
    assert len(frames) == 30
    found = errors(potential, package_calculator(name), frames)
    # The package's own rounding: its arc cosines near collinear bonds are in single precision.
    assert found["force"] < (1e-3 if name == "chgnet" else 1e-5)
    assert found["energy"] < (2e-5 if name == "chgnet" else 5e-6)
    assert found["stress"] < (3e-5 if name == "chgnet" else 1e-5)
    if name == "chgnet":
        exact = errors(loaded(name, "float64"), package_calculator(name, double=True), frames)
        assert exact["force"] < 1e-7
        assert exact["stress"] < 2e-7  # its volumes stay in single precision


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("chgnet", "float32", 3e-5),
        ("chgnet", "float64", 1e-12),
        ("sevennet-0", "float32", 1e-5),
        ("sevennet-l3i5", "float32", 1e-5),
    ],
)
def test_a_batch_equals_one_by_one(name: str, dtype: str, tolerance: float, loaded: Any) -> None:
    potential, frames = loaded(name, dtype), crystals(3)
    for atoms, batched in zip(frames, potential.evaluate(frames, stress=True), strict=True):
        (alone,) = potential.evaluate([atoms], stress=True)
        np.testing.assert_allclose(batched.forces, alone.forces, atol=tolerance, rtol=0)
        np.testing.assert_allclose(batched.stress, alone.stress, atol=tolerance, rtol=0)
    assert self_test(potential) < 3 * tolerance


@pytest.mark.parametrize(
    ("name", "dtype", "step", "tolerance"),
    [("chgnet", "float64", 1e-4, 1e-7), ("sevennet-0", "float32", 4e-3, 2e-5)],
)
def test_stress_is_the_derivative_of_the_energy(
    name: str, dtype: str, step: float, tolerance: float, loaded: Any
) -> None:
    potential, atoms = loaded(name, dtype), crystals(4)[0]
    (result,) = potential.evaluate([atoms], stress=True)
    for i, j in [(0, 0), (1, 2)]:
        slopes = []
        # Two steps: the third order goes out.
        for h in (step, step / 2):
            strained = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * h / 2
                strain[j, i] += sign * h / 2
                changed = atoms.copy()
                changed.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
                strained.append(changed)
            up, down = (found.energy for found in potential.evaluate(strained))
            slopes.append((up - down) / (2 * h))
        stress = (4 * slopes[1] - slopes[0]) / 3 / atoms.get_volume()
        assert stress == pytest.approx(result.stress[i, j], abs=tolerance)


@pytest.mark.parametrize("name", ["chgnet", "sevennet-0"])
def test_displaced_supercells_share_a_pass(name: str, loaded: Any) -> None:
    potential = loaded(name)
    atoms = bulk("MgO", "rocksalt", a=4.25).repeat(2)
    copies = DisplacedCopies(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell[:],
        np.array([0, 5]),
        np.array([[0.01, 0, 0], [0, 0.006, 0.008]]),
    )
    prepared = potential.prepare(copies)
    (together,) = potential.forces([(prepared, 0, 2)])
    for index, forces in enumerate(together):
        moved = atoms.copy()
        moved.positions[copies.atoms[index]] += copies.displacements[index]
        (alone,) = potential.evaluate([moved])
        np.testing.assert_allclose(forces, alone.forces, atol=3e-5, rtol=0)


def test_chgnet_refuses_isolated_atoms_as_its_package_is_told_to(loaded: Any) -> None:
    alone = Atoms("Ar", cell=np.eye(3) * 15.0, pbc=True)
    si = crystals()[1]
    result = loaded("chgnet").evaluate_batch(Structures.from_atoms([alone, si]))
    assert list(result.problems) == [0]
    assert isinstance(result.problems[0], EvaluationError)
    assert "isolated" in str(result.problems[0])
    assert torch.isfinite(result.energies[1])


def test_reverses_lead_back_in_crystals_of_high_symmetry() -> None:
    # Perfect crystals, whose edges are level along many directions, and small cells, in which an
    # atom is its own neighbour.
    frames = [bulk("Cu", "fcc", a=3.6), bulk("W", "bcc", a=3.16, cubic=True), *crystals()]
    batch = Structures.from_atoms(frames)
    found = neighbour_list(batch, 4.2)
    vectors = edge_vectors(batch, found)
    back = reverses(found.edges, vectors)
    assert torch.equal(back[back], torch.arange(found.nedges))
    assert torch.equal(found.edges[0, back], found.edges[1])
    torch.testing.assert_close(vectors[back], -vectors, atol=1e-9, rtol=0)


def test_reverses_do_not_depend_on_one_direction() -> None:
    """Edges that are level along the first direction are told apart by the second."""
    first = np.array(ORDERS[0])
    flat = np.cross(first, [0.0, 0.0, 1.0])
    vectors = torch.tensor(np.array([flat, 2 * flat, -2 * flat, -flat]))
    edges = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    assert reverses(edges, vectors).tolist() == [3, 2, 1, 0]
    with pytest.raises(EvaluationError, match="lead back"):
        reverses(edges, vectors + 0.1)


def test_pairs_at_centres_are_all_ordered_pairs() -> None:
    first, second = pairs_at_centres(torch.tensor([0, 0, 0, 2, 3, 3]))
    expected = {(a, b) for a in range(3) for b in range(3) if a != b} | {(4, 5), (5, 4)}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(first) == len(expected)
    nothing = pairs_at_centres(torch.tensor([], dtype=torch.int64))
    assert [len(part) for part in nothing] == [0, 0]
