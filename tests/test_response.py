"""Linear response of M3GNet against finite displacements, strains and what physics demands."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.optimize import BFGS
from conftest import DEMO
from mattersim_layers import require_mattersim
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import hpcbench
from hpcbench.errors import EvaluationError, OutOfMemoryError, TooLargeError
from hpcbench.phonons.column_packing import ColumnPool
from hpcbench.phonons.elasticity import (
    lowest_stiffness,
    slowest_sound,
    stiffness,
    strain_columns,
)
from hpcbench.phonons.response import (
    commensurate_of,
    dynamical_matrices,
    force_constants_at,
    set_force_constants,
)
from hpcbench.phonons.response_plan import plan_columns
from hpcbench.phonons.supercells import primitive_atoms, primitive_of
from hpcbench.potentials.columns import Columns, Response, displaced
from hpcbench.potentials.jets import Jet
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_basis import cutoff_envelope
from hpcbench.potentials.protocol import Linearised
from hpcbench.potentials.structures import Structures

HALVES = np.array(list(itertools.product((0.0, 0.5), repeat=3)))


def demo(name: str, rattle: float = 0.0) -> Atoms:
    atoms = read(DEMO / f"{name}.cif")
    if rattle:
        atoms.rattle(rattle, seed=3)
    return atoms


def differences(
    potential: Any, atoms: Atoms, matrix: Any, qpoints: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """phonopy's dynamical matrices from displacements, extrapolated."""
    phonon = extrapolated(potential, atoms, matrix)
    result = phonon.run_qpoints(qpoints, with_dynamical_matrices=True)
    return np.asarray(result.dynamical_matrices)


def extrapolated(potential: Any, atoms: Atoms, matrix: Any) -> Phonopy:
    """A crystal with force constants from displacements of 0.001 and 0.002 A, extrapolated."""
    found = []
    for length in (0.001, 0.002):
        cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions)
        phonon = Phonopy(cell, supercell_matrix=matrix, primitive_matrix="P", is_symmetry=False)
        phonon.generate_displacements(distance=length, is_plusminus=True)
        supercells = [
            Atoms(numbers=s.numbers, cell=s.cell, positions=s.positions, pbc=True)
            for s in phonon.supercells_with_displacements
        ]
        phonon.forces = [one.forces for one in potential.evaluate(supercells)]
        phonon.produce_force_constants()
        found.append(np.asarray(phonon.force_constants))
    phonon.force_constants = (4 * found[0] - found[1]) / 3
    return phonon


def shifted(atoms: Atoms) -> Atoms:
    """The same crystal, its atoms outside the cell."""
    found = atoms.copy()
    places = found.get_scaled_positions(wrap=False)
    rng = np.random.default_rng(1)
    found.set_scaled_positions(places + rng.integers(-3, 4, places.shape))
    return found


def left_handed(atoms: Atoms) -> Atoms:
    cell = atoms.cell[:]
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=cell[[1, 0, 2]], pbc=True)


LAYER = Atoms(
    "MgO", scaled_positions=[(0, 0, 0.5), (1 / 3, 2 / 3, 0.5)], cell=[3.3, 3.3, 14, 90, 90, 120],
    pbc=True,
)  # fmt: skip
CRYSTALS = {
    "no symmetry, atoms outside the cell": shifted(demo("AlN_start_strained", 0.1)),
    "one atom": demo("Cu_start_strained"),
    "left-handed": left_handed(demo("Mg_start_strained")),
    "layer": LAYER,
}


# Derivatives are the same at a minimum and elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:not at a minimum")


def test_a_crystal_that_is_not_at_a_minimum_is_told(demo64: Any) -> None:
    relaxed, moved = bulk("MgO", "rocksalt", a=4.2), bulk("MgO", "rocksalt", a=4.2)
    moved.positions[0] += 0.1
    q = np.zeros((1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hpcbench.dynamical_matrices(demo64, relaxed, q)
    with pytest.warns(UserWarning, match=r"not at a minimum \(forces of up to \d"):
        hpcbench.dynamical_matrices(demo64, moved, q)


@pytest.mark.parametrize("name", CRYSTALS)
def test_equals_displacements_in_their_limit(demo64: Any, name: str) -> None:
    """At all q of a diagonal supercell, and at one of a supercell that is not diagonal."""
    atoms = CRYSTALS[name]
    fifth = np.array([[1, 0, -1], [0, 1, -2], [0, 0, 5]]).T
    multiples = np.diag([2, 2, 1]) if name == "layer" else np.diag([2, 2, 2])
    qpoints = HALVES[::2] if name == "layer" else HALVES
    for matrix, where in ((multiples, qpoints), (fifth, np.array([[0.2, 0.4, 0.2]]))):
        expected = differences(demo64, atoms, matrix, where)
        found = hpcbench.dynamical_matrices(demo64, atoms, where)
        assert np.abs(found).max() > 0.05
        np.testing.assert_allclose(found, expected, atol=3e-7)


def test_an_irrational_q_is_what_large_supercells_tend_to(demo64: Any) -> None:
    atoms = demo("Si_start_strained")
    q = np.array([[np.sqrt(2) / np.pi, 0.0, 0.0]])
    exact = hpcbench.dynamical_matrices(demo64, atoms, q)
    errors = [
        np.abs(differences(demo64, atoms, np.diag([n, 1, 1]), q) - exact).max() for n in (4, 8)
    ]
    assert errors[1] < 1e-5 < 1e-4 < errors[0]


def test_laws_of_dynamical_matrices(demo64: Any) -> None:
    atoms = demo("SrTiO3_start_strained", 0.05)
    q = np.array([[0.13, 0.22, -0.31], [0.0, 0.0, 0.0]])
    beyond = q[:1] + np.array([1, -2, 0])
    plan = plan_columns(primitive_of(atoms, 1e-5), np.concatenate([q, -q[:1], beyond]))
    assert plan.cost == 45  # -q and q + G follow from q
    found, rounding = force_constants_at(plan, *answers(demo64, atoms, plan))
    assert rounding < 1e-12
    np.testing.assert_array_equal(found[2], found[0].conj())
    np.testing.assert_array_equal(found[3], found[0])
    assert np.abs(found[1].reshape(5, 3, 15).sum(axis=0)).max() < 1e-12  # nothing pulls a shift
    # All columns apart: time reversal and the periodicity of q hold of the response itself.
    where = np.repeat(np.concatenate([q[:1], -q[:1], beyond]), 15, axis=0)
    columns = displaced(np.tile(np.eye(15).reshape(15, 5, 3), (3, 1, 1)).astype(complex), where)
    crystal = primitive_atoms(primitive_of(atoms, 1e-5))
    linearised = demo64.linearise(Structures.from_atoms([crystal]))
    (answer,) = demo64.respond(linearised, [columns])
    forces = answer.forces.reshape(3, 15, 15)
    np.testing.assert_allclose(forces[1], forces[0].conj(), atol=1e-12)
    np.testing.assert_allclose(forces[2], forces[0], atol=1e-12)


def answers(potential: Any, atoms: Atoms, plan: Any) -> list[Response | None]:
    crystal = primitive_atoms(primitive_of(atoms, 1e-5))
    linearised = potential.linearise(Structures.from_atoms([crystal]))
    return [
        potential.respond(linearised, [part])[0] if len(part) else None
        for part in (plan.real, plan.complex)
    ]


@pytest.mark.parametrize(("name", "cost"), [("AlN", 12), ("SrTiO3", 7), ("MgO", 4), ("Mg", 4)])
def test_symmetry_gives_the_same_from_fewer_columns(demo64: Any, name: str, cost: int) -> None:
    atoms = demo(f"{name}_start_strained")
    phonon = primitive_of(atoms, 1e-4)
    assert plan_columns(phonon, HALVES).cost == cost
    q = np.concatenate([HALVES, [[1 / 3, 1 / 3, 0], [0.1, 0.2, 0.3]]])
    found, expected = (
        hpcbench.dynamical_matrices(demo64, atoms, q, symprec=1e-4, symmetry=symmetry)
        for symmetry in (True, False)
    )
    np.testing.assert_allclose(found, expected, atol=2e-7)


@pytest.mark.parametrize(("name", "multiples"), [("AlN", [2, 2, 1]), ("MgO", [2, 2, 2])])
def test_force_constants_of_a_supercell(demo64: Any, name: str, multiples: list[int]) -> None:
    """From the q that it holds, by phonopy's inverse transform; against displacements."""
    atoms = demo(f"{name}_start_strained")
    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions)
    phonon = Phonopy(cell, supercell_matrix=multiples, primitive_matrix="P", symprec=1e-4)
    qpoints = commensurate_of(phonon)
    # The file has its symmetry to 1e-7 only, which would be seen.
    plan = plan_columns(phonon, qpoints, symmetry=False)
    constants, _ = force_constants_at(plan, *answers(demo64, atoms, plan))
    set_force_constants(phonon, dynamical_matrices(phonon, constants, qpoints))
    expected = extrapolated(demo64, atoms, np.diag(multiples)).force_constants
    first = phonon.primitive.p2s_map
    np.testing.assert_allclose(phonon.force_constants, expected[first], atol=1e-7)


def test_four_blocks_and_single_precision() -> None:
    """Random weights of another shape; float32 differs from float64 by its rounding."""
    require_mattersim()
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    from hpcbench.potentials.m3gnet_response import LinearisedCrystals

    torch.manual_seed(1)
    model = M3Gnet(num_blocks=4, units=32, device="cpu")
    model.normalizer.scale.copy_(torch.linspace(50.0, 100.0, 95))
    ours = [
        RearrangedM3GNet(model.model_args, model.state_dict(), torch.device("cpu"), dtype)
        for dtype in (torch.float64, torch.float32)
    ]
    atoms = demo("AlN_start_strained", 0.1)
    batch = Structures.from_atoms([demo("Cu_start_strained"), atoms])
    random = np.random.default_rng(0)
    columns = [
        displaced(random.normal(size=(count, natoms, 3)) + 0j, np.full((count, 3), (0.5, 0.0, 0.5)))
        for count, natoms in ((2, 1), (3, 4))
    ]
    double, single = (LinearisedCrystals(one, batch).respond(columns) for one in ours)
    h = 1e-4

    def moved(step: float) -> NDArray[np.float64]:
        # The wave of q = (1/2, 0, 1/2) is one of real displacements in 2x1x2.
        supercell = atoms.repeat((2, 1, 2))
        signs = np.repeat([1.0, -1.0, -1.0, 1.0], 4)
        wave = signs[:, None] * np.tile(columns[1].displacements[0].real, (4, 1))
        supercell.positions += step * wave
        return LinearisedCrystals(ours[0], Structures.from_atoms([supercell])).forces[:4]

    fine, coarse = ((moved(step) - moved(-step)) / (2 * step) for step in (h, 2 * h))
    np.testing.assert_allclose(double[1].forces[0], (4 * fine - coarse) / 3, atol=1e-6)
    for exact, rounded in zip(double, single, strict=True):
        scale = np.abs(exact.forces).max()
        np.testing.assert_allclose(rounded.forces, exact.forces, atol=2e-5 * scale)


def test_a_jet_has_the_derivatives(demo64: Any) -> None:
    """Against torch's own, of each function that the geometry takes."""
    model = demo64._model
    lengths = torch.linspace(1.0, 3.999, 40, dtype=torch.float64)[:, None]
    for function in (model._radial, model._bessel, lambda r: cutoff_envelope(r, 4.0)):
        jet = function(Jet.variable(lengths))
        for column in range(jet.value.shape[1]):
            leaf = lengths.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(function(leaf)[:, column].sum(), leaf, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), leaf)
            np.testing.assert_allclose(jet.slope[:, column], slope.detach()[:, 0], atol=1e-11)
            np.testing.assert_allclose(jet.bend[:, column], bend[:, 0], atol=1e-10)
    cut = cutoff_envelope(Jet.variable(torch.tensor([[4.0], [4.5]], dtype=torch.float64)), 4.0)
    assert not (cut.value.any() or cut.slope[1].any() or cut.bend[1].any())


@pytest.mark.parametrize("cutoff", [4.0, 5.0])
def test_second_derivatives_are_continuous_at_a_cutoff(demo64: Any, cutoff: float) -> None:
    """An edge that comes or goes changes them no more than the step does."""
    matrices = []
    for step in (-1e-4, 1e-4, 3e-4):
        # The neighbours along the axes of a simple cubic cell are exactly so far.
        atoms = Atoms("Cu", cell=np.eye(3) * (cutoff + step) / 2, pbc=True)
        matrices.append(hpcbench.dynamical_matrices(demo64, atoms, HALVES[1:4]))
    across, beside = np.abs(np.diff(matrices, axis=0)).max(axis=(1, 2, 3))
    assert across < 3 * beside + 1e-9


def elastic(potential: Any, atoms: Atoms) -> NDArray[np.float64]:
    linearised = potential.linearise(Structures.from_atoms([atoms]))
    natoms = len(atoms)
    unit = np.eye(3 * natoms).reshape(-1, natoms, 3).astype(complex)
    (strains,) = potential.respond(linearised, [strain_columns(natoms)])
    (moved,) = potential.respond(linearised, [displaced(unit, np.zeros((3 * natoms, 3)))])
    return stiffness(strains, -moved.forces.reshape(3 * natoms, -1), atoms.get_volume())


def silicon_at_rest(potential: Any) -> Atoms:
    """Without stress, by the secant."""

    def stress(a: float) -> float:
        return float(potential.evaluate([bulk("Si", a=a)], stress=True)[0].stress[0, 0])

    a, b = 5.40, 5.45
    for _ in range(8):
        a, b = b, b - stress(b) * (b - a) / (stress(b) - stress(a) or np.inf)
    assert abs(stress(b)) < 1e-10
    return bulk("Si", a=b)


def test_elastic_constants_are_those_of_strained_cells(demo64: Any) -> None:
    """Silicon, whose atoms move in shear: stresses of strained cells with relaxed atoms."""
    from ase.calculators.calculator import Calculator, all_changes

    class Demo(Calculator):
        implemented_properties = ("energy", "forces", "stress")

        def calculate(
            self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            (found,) = demo64.evaluate([atoms], stress=True)
            voigt = found.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            self.results = {"energy": found.energy, "forces": found.forces, "stress": voigt}

    def stress(strain: NDArray[np.float64]) -> NDArray[np.float64]:
        atoms = at_rest.copy()
        atoms.set_cell(at_rest.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
        atoms.calc = Demo()
        BFGS(atoms, logfile=None).run(fmax=1e-7, steps=200)
        return np.asarray(atoms.get_stress())

    at_rest = silicon_at_rest(demo64)
    found = elastic(demo64, at_rest)
    shear, stretch = np.zeros((3, 3)), np.zeros((3, 3))
    shear[1, 2] = shear[2, 1] = 0.5
    stretch[0, 0] = 1.0
    h = 1e-4
    for strain, row in ((stretch, 0), (shear, 3)):
        expected = (stress(h * strain) - stress(-h * strain)) / (2 * h) * 160.21766
        np.testing.assert_allclose(found[row], expected, atol=2e-3)
    assert lowest_stiffness(found) == pytest.approx(
        min(found[0, 0] - found[0, 1], 2 * found[3, 3]), abs=1e-6
    )


def test_slowest_sound_is_that_of_silicon() -> None:
    """Measured elastic constants (McSkimin and Andreatch, J. Appl. Phys. 35, 2161), 4.67 km/s."""
    cubic = np.diag([165.7, 165.7, 165.7, 79.6, 79.6, 79.6])
    cubic[:3, :3] += 63.9 * (1 - np.eye(3))
    atoms = bulk("Si", a=5.431)
    mass, volume = float(atoms.get_masses().sum()), float(atoms.get_volume())
    assert slowest_sound(cubic, mass, volume) == pytest.approx(4670, rel=2e-3)
    # rho v^2 = (C11 - C12) / 2 along (110) and across: the negative of what it was.
    unstable = cubic.copy()
    unstable[:3, :3] += 101.8 * 2 * (1 - np.eye(3))
    assert slowest_sound(unstable, mass, volume) == pytest.approx(-4670, rel=2e-3)
    assert np.isnan(slowest_sound(np.full((6, 6), np.nan), mass, volume))


def test_sound_is_that_of_the_elastic_constants(demo64: Any) -> None:
    """Christoffel's equation along a direction without symmetry, at a wave of 6,000 A."""
    atoms = silicon_at_rest(demo64)
    found = elastic(demo64, atoms) * 0.0062415091  # eV/A^3
    direction = np.array([0.48, 0.6, 0.64])
    full = np.zeros((3, 3, 3, 3))
    voigt = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    for i, j, k, m in itertools.product(range(3), repeat=4):
        full[i, j, k, m] = found[voigt[i, j], voigt[k, m]]
    christoffel = np.einsum("ijkm,j,m->ik", full, direction, direction)
    density = 2 * 28.0855 / atoms.get_volume()
    expected = np.sqrt(np.linalg.eigvalsh(christoffel) / density)
    k = 1e-3
    q = atoms.cell[:] @ (k * direction) / (2 * np.pi)
    (matrix,) = hpcbench.dynamical_matrices(demo64, atoms, q[None])
    np.testing.assert_allclose(np.sqrt(np.linalg.eigvalsh(matrix)[:3]) / k, expected, rtol=2e-4)


# ------------------------------------------------------------------------------ passes of columns


class Echo:
    """Answers columns with themselves; its memory may end."""

    def __init__(self, capacity: int, memory: int = 10**6, poisoned: Sequence[int] = ()) -> None:
        self.capacity, self.memory, self.poisoned = capacity, memory, poisoned
        self.device = torch.device("cpu")
        self.passes: list[int] = []

    def cost(self, natoms: int, volume: float) -> float:
        return float(natoms)

    def linearise(self, batch: Structures) -> Linearised:
        if len(batch.numbers) > self.memory:
            raise OutOfMemoryError("too much")
        return Linearised(np.zeros((len(batch.numbers), 3)), len(batch.numbers), batch)

    def respond(self, linearised: Linearised, columns: Sequence[Columns]) -> list[Response]:
        batch = linearised.state
        width = max(len(one) * one.parts for one in columns)
        if width * len(batch.numbers) > self.memory:
            raise OutOfMemoryError("too much")
        sizes = np.diff(batch.first_atom)
        if set(sizes.tolist()) & set(self.poisoned):
            raise EvaluationError("poison")
        self.passes.append(width * len(batch.numbers))
        return [Response(one.displacements, one.strains) for one in columns]


def waves(natoms: int, count: int, q: float = 0.5) -> tuple[Atoms, Columns]:
    random = np.random.default_rng(natoms)
    atoms = Atoms(f"Cu{natoms}", positions=random.random((natoms, 3)), cell=np.eye(3) * 9, pbc=True)
    moved = random.normal(size=(count, natoms, 3)) + 0j
    return atoms, displaced(moved, np.full((count, 3), q))


def emptied(pool: ColumnPool) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for _ in range(1000):
        if not len(pool):
            return found
        passed = pool.run_pass()
        assert not set(passed.costs) & set(found), "who has left takes no part in a pass"
        assert sum(passed.costs.values()) > 0
        found.update(passed.finished)
    raise AssertionError("the pool does not come forward")


@pytest.mark.parametrize("memory", [3, 7, 20, 300])
def test_columns_of_many_crystals_share_passes_and_none_is_lost(memory: int) -> None:
    potential = Echo(capacity=60, memory=memory)
    pool = ColumnPool(potential)  # type: ignore[arg-type]
    wanted = {n: waves(1 + n % 3, 4 + n % 5, 0.5 if n % 4 else 0.3) for n in range(12)}
    for key, (atoms, columns) in wanted.items():
        pool.add(key, atoms, columns)
    assert pool.fills_a_pass()
    found = emptied(pool)
    for key, (_, columns) in wanted.items():
        if isinstance(found[key], TooLargeError):
            assert columns.displacements.shape[1] * columns.parts > memory
        else:
            np.testing.assert_array_equal(found[key].forces, columns.displacements)
    assert max(potential.passes) <= min(memory, 60)
    if memory == 300:
        assert len(potential.passes) < len(wanted)


def test_a_crystal_at_which_the_potential_fails_fails_alone() -> None:
    pool = ColumnPool(Echo(capacity=1000, poisoned=[2]))  # type: ignore[arg-type]
    for natoms in (1, 2, 3):
        pool.add(natoms, *waves(natoms, 6))
    found = emptied(pool)
    assert isinstance(found[2], EvaluationError)
    assert len(found[1].forces) == len(found[3].forces) == 6


def test_any_number_of_q(demo64: Any) -> None:
    """More than are planned together, some twice; those of a star are one column."""
    atoms = demo("Cu_start_strained")
    random = np.random.default_rng(0)
    q = np.concatenate([random.integers(-6, 7, (700, 3)) / 6, np.zeros((1, 3))])
    found = hpcbench.dynamical_matrices(demo64, atoms, q, symprec=1e-4)
    assert found.shape == (701, 3, 3)
    np.testing.assert_allclose(found[-1], 0.0, atol=1e-12)
    again = hpcbench.dynamical_matrices(demo64, atoms, q[350:353], symmetry=False)
    np.testing.assert_allclose(found[350:353], again, atol=1e-8)
    assert hpcbench.dynamical_matrices(demo64, atoms, q[:0]).shape == (0, 3, 3)
