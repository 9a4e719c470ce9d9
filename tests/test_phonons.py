"""Phonons against phonopy by hand and against an analytic crystal; criteria against spectra."""

from __future__ import annotations

import dataclasses
import warnings

import by_hand
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.io import read
from ase.neighborlist import neighbor_list
from conftest import DEMO
from phonopy.physical_units import get_physical_units

from hpcbench.criteria import CRITERIA, EXACT_Q, PLACES, SUPERCELL_Q
from hpcbench.errors import PhononError
from hpcbench.phonons.calculate import analyse, prepare
from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.spectrum import run_mesh, seekpath_band_path
from hpcbench.phonons.stability import Spectrum, is_stable, margin, verdicts
from hpcbench.phonons.supercells import full_matrix
from hpcbench.potentials.ase_calculator import CalculatorPotential, PotentialCalculator
from hpcbench.potentials.protocol import Potential, PotentialInfo
from hpcbench.results.phonon_columns import Keep, phonon_columns

TEMPERATURES = (0.0, 75.0, 150.0, 300.0, 600.0, 1000.0)


def settings(primitive_matrix: str = "auto", displacement: float = 0.01) -> PhononSettings:
    return PhononSettings(
        primitive_matrix, displacement, 1e-5, 101, (20, 20, 20), TEMPERATURES, 0.1
    )


def compute(
    atoms: Atoms, potential: Potential, supercell=(2, 2, 2), chosen: PhononSettings | None = None
) -> PhononResult:
    chosen = chosen or settings()
    phonon = prepare(atoms, full_matrix(supercell), chosen)
    forces = np.array([e.forces for e in potential.evaluate(by_hand.supercells(phonon))])
    return analyse(phonon, forces, chosen)


@pytest.mark.parametrize("name", ["NaCl_start_strained", "AlN_start_strained"])
def test_bands_and_thermal_properties_are_phonopys_by_hand(name: str, demo64) -> None:
    calculator = PotentialCalculator(demo64, stress=False)
    atoms = read(DEMO / f"{name}.cif")
    expected = by_hand.phonons(atoms, calculator, (2, 2, 2))
    got = compute(atoms, demo64, chosen=settings("P"))
    frequencies = np.sort(expected.run_qpoints(got.path.qpoints).frequencies, axis=1)
    np.testing.assert_allclose(got.spectra["path"].frequencies, frequencies, atol=1e-6)
    assert len(got.phonon.force_constants) == len(atoms)  # compact

    expected.run_mesh([20, 20, 20], is_mesh_symmetry=False)
    thermal = expected.run_thermal_properties(temperatures=TEMPERATURES, cutoff_frequency=0.1)
    np.testing.assert_allclose(got.mesh.free_energy, thermal.free_energy, atol=1e-6)
    np.testing.assert_allclose(got.mesh.entropy, thermal.entropy, atol=1e-6)
    np.testing.assert_allclose(got.mesh.heat_capacity, thermal.heat_capacity, atol=1e-6)
    below = expected.mesh.frequencies < 0.1
    assert got.mesh.left_out == pytest.approx(below.mean(), abs=1e-12)


def test_a_mesh_by_length_is_phonopys() -> None:
    """As ``phonopy --mesh 75``, which Lee and Xia take: around Gamma, finer for small cells."""
    atoms = bulk("Cu")
    chosen = dataclasses.replace(settings(), mesh=(75.0,))
    info = PotentialInfo("EMT", "ase", "", "", "float64", "cpu", None)
    got = compute(atoms, CalculatorPotential(EMT(), info), chosen=chosen)
    expected = got.phonon.replicate()
    expected.force_constants = got.phonon.force_constants
    mesh = expected.run_mesh(75.0)
    assert list(mesh.mesh_numbers) == [36, 36, 36]
    np.testing.assert_array_equal(got.spectra["mesh"].frequencies, mesh.frequencies)
    assert not np.abs(got.spectra["mesh"].qpoints).sum(axis=1).all()
    thermal = expected.run_thermal_properties(temperatures=TEMPERATURES, cutoff_frequency=0.1)
    for name in ("free_energy", "entropy", "heat_capacity"):
        np.testing.assert_allclose(getattr(got.mesh, name), getattr(thermal, name), rtol=1e-12)


def test_it_is_told_how_far_the_mesh_is_converged() -> None:
    potential = CalculatorPotential(EMT(), PotentialInfo("EMT", "ase", "", "", "", "cpu", None))
    found = {}
    for mesh in ((2, 2, 2), (20, 20, 20), (75.0,)):
        chosen = dataclasses.replace(settings(), mesh=mesh)
        result = compute(bulk("Cu"), potential, chosen=chosen)
        found[mesh] = result.mesh.change
        half = tuple(n / 2 for n in mesh) if len(mesh) == 1 else tuple(n // 2 for n in mesh)
        coarse = run_mesh(result.phonon, half, TEMPERATURES, 0.1)
        dense = result.mesh.free_energy
        assert result.mesh.change == pytest.approx(np.abs(dense - coarse.free_energy).max())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            columns = phonon_columns(result, "mesh", Keep(False, "float32", False))
        said = [str(w.message) for w in caught if "the mesh is not converged" in str(w.message)]
        assert len(said) == (mesh == (2, 2, 2))
        assert columns["mesh_change"] == result.mesh.change
    assert found[2, 2, 2] > 0.1 > found[20, 20, 20]


def test_a_mesh_that_phonopy_cannot_make_is_a_reason() -> None:
    phonon = prepare(bulk("Cu"), np.diag([2, 2, 2]), settings())
    with pytest.raises(PhononError, match="phonopy: ") as caught:
        run_mesh(phonon, (4, 4, 4), TEMPERATURES, 0.1)  # it has no force constants
    assert caught.value.reason.startswith("mesh: ")


class Springs(Calculator):
    """Harmonic springs between nearest neighbours at their rest length."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 -- ASE's own way
    stiffness, length = 2.0, 2.5

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        i, distance, vector = neighbor_list("idD", self.atoms, 1.2 * self.length)
        pull = self.stiffness * (distance - self.length) / distance
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull[:, None] * vector)
        energy = 0.25 * self.stiffness * ((distance - self.length) ** 2).sum()
        self.results = {"energy": energy, "forces": forces}


def test_fcc_crystal_of_springs_has_its_textbook_bands() -> None:
    atoms = bulk("Ar", "fcc", a=Springs.length * np.sqrt(2))
    info = PotentialInfo("springs", "", "", "", "float64", "cpu", None)
    result = compute(
        atoms,
        CalculatorPotential(Springs(), info),
        (4, 4, 4),
        settings(displacement=1e-4),
    )
    # D(q) = (k/m) sum_R (1 - cos q.R) n n^T over the twelve neighbours (Born and von Karman).
    _, offsets = neighbor_list("iD", atoms, 1.2 * Springs.length)
    directions = offsets / np.linalg.norm(offsets, axis=1)[:, None]
    reciprocal = 2 * np.pi * np.linalg.inv(result.phonon.primitive.cell)
    (mass,) = atoms.get_masses()
    expected = []
    for q in result.path.qpoints:
        weights = 1 - np.cos(offsets @ (reciprocal @ q))
        matrix = Springs.stiffness / mass * np.einsum("r,ri,rj", weights, directions, directions)
        eigenvalues = np.linalg.eigvalsh(matrix)
        expected.append(np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)))
    to_terahertz = get_physical_units().DefaultToTHz
    got = result.spectra["path"].frequencies
    np.testing.assert_allclose(got, np.array(expected) * to_terahertz, atol=1e-4)
    # At X: sqrt(8k/m) and twice sqrt(4k/m).
    x = np.array([2, np.sqrt(2) * np.sqrt(2), 2 * np.sqrt(2)]) * np.sqrt(Springs.stiffness / mass)
    at_x = np.linalg.norm(result.path.qpoints - [0.5, 0, 0.5], axis=1).argmin()
    np.testing.assert_allclose(got[at_x], x * to_terahertz, atol=1e-4)
    assert set(result.verdicts.values()) == {"stable"}


@pytest.mark.parametrize("name", ["Si", "AlN", "MgO"])
def test_band_path_visits_seekpaths_points_whatever_the_cell(name: str, demo64) -> None:
    """The path of a crystal does not depend on the basis in which its cell is given."""
    import seekpath

    atoms = read(DEMO / f"{name}_start_strained.cif")
    basis = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    other = Atoms(
        numbers=atoms.numbers, cell=basis @ atoms.cell[:], positions=atoms.positions, pbc=True
    )
    lengths = []
    for cell in (atoms, other, atoms.repeat(2)):
        phonon = prepare(cell, np.eye(3, dtype=int), settings())
        path = seekpath_band_path(phonon, 101, cell_is_standard=False)
        cartesian = path.qpoints @ np.linalg.inv(phonon.primitive.cell).T
        lengths.append(np.linalg.norm(cartesian[path.indptr[:-1]], axis=1))
    standard = seekpath.get_path((atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers))
    reciprocal = np.array(standard["reciprocal_primitive_lattice"]) / (2 * np.pi)
    starts = [np.array(standard["point_coords"][a]) @ reciprocal for a, _ in standard["path"]]
    for got in lengths:
        np.testing.assert_allclose(got, np.linalg.norm(starts, axis=1), atol=1e-6)


@pytest.mark.parametrize("name", ["NaCl", "AlN"])
def test_robust_bands_do_not_depend_on_the_basis_of_the_cell(name: str, demo64) -> None:
    atoms = read(DEMO / f"{name}_start_strained.cif")
    basis = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    other = Atoms(
        numbers=atoms.numbers, cell=basis @ atoms.cell[:], positions=atoms.positions, pbc=True
    )
    # Displacements follow the lattice vectors: small ones, so that anharmonicity does not differ.
    small = settings(displacement=1e-4)
    first, second = (compute(cell, demo64, chosen=small) for cell in (atoms, other))
    np.testing.assert_allclose(
        first.spectra["path"].frequencies, second.spectra["path"].frequencies, atol=1e-3
    )


@pytest.mark.parametrize(
    "matrix", [(2, 2, 2), (1, 2, 3), (-1, 1, 1, 1, -1, 1, 1, 1, -1), (2, 1, 0, 0, 2, 0, 0, 0, 1)]
)
def test_commensurate_qpoints_for_any_supercell_and_primitive_cell(matrix) -> None:
    from hpcbench.phonons.spectrum import commensurate_qpoints

    cell = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    with warnings.catch_warnings():
        # Supercells of lower symmetry than the crystal: phonopy says so.
        warnings.simplefilter("ignore")
        phonon = prepare(cell, full_matrix(matrix), settings())
    qpoints = commensurate_qpoints(phonon)
    assert len(phonon.primitive) == 2
    assert len(qpoints) == len(phonon.supercell) / 2
    # exp(2 pi i q R) = 1 for every lattice vector R of the supercell.
    vectors = phonon.supercell.cell @ np.linalg.inv(phonon.primitive.cell)
    phases = qpoints @ vectors.T
    np.testing.assert_allclose(phases, np.rint(phases), atol=1e-9)
    differences = qpoints[:, None] - qpoints[None]
    distinct = np.abs(differences - np.rint(differences)).max(axis=2) > 1e-6
    assert distinct[~np.eye(len(qpoints), dtype=bool)].all()


def test_a_supercell_of_one_atom_is_refused() -> None:
    with pytest.raises(PhononError, match="has no phonons"):
        prepare(bulk("Cu"), full_matrix((1, 1, 1)), settings())


def test_longest_segment_has_101_points_and_all_the_same_interval(demo64) -> None:
    phonon = prepare(read(DEMO / "Si_start_strained.cif"), np.eye(3, dtype=int), settings())
    path = seekpath_band_path(phonon, 101, cell_is_standard=False)
    cartesian = path.qpoints @ np.linalg.inv(phonon.primitive.cell).T
    lengths, intervals = [], []
    for first, end in zip(path.indptr[:-1], path.indptr[1:], strict=True):
        steps = np.linalg.norm(np.diff(cartesian[first:end], axis=0), axis=1)
        lengths.append(end - first)
        intervals.append(steps.mean())
    assert max(lengths) == 101
    assert max(intervals) / min(intervals) < 1.1
    assert path.labels[0] == ("GAMMA", "X")


def test_commensurate_qpoints_are_those_of_the_supercell(demo64) -> None:
    atoms = read(DEMO / "NaCl_start_strained.cif")
    result = compute(atoms, demo64)
    spectrum = result.spectra["commensurate"]
    assert len(spectrum.qpoints) == 8
    np.testing.assert_allclose(spectrum.qpoints * 2, np.rint(spectrum.qpoints * 2), atol=1e-9)
    # Exact there: the spectrum of the supercell's own dynamical matrix at Gamma.
    fc = by_hand.phonons(atoms, PotentialCalculator(demo64, stress=False), (2, 2, 2))
    supercell = fc.supercell
    masses = np.repeat(supercell.masses, 3)
    matrix = fc.force_constants.transpose(0, 2, 1, 3).reshape(len(masses), len(masses))
    eigenvalues = np.linalg.eigvalsh(matrix / np.sqrt(np.outer(masses, masses)))
    expected = np.sort(np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)))
    expected *= get_physical_units().DefaultToTHz
    np.testing.assert_allclose(np.sort(spectrum.frequencies.ravel()), expected, atol=1e-5)


def test_drift_is_subtracted_and_reported() -> None:
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(3, 8, 3))
    without, largest = subtract_drift(forces + np.array([0.0, 0.0, 0.5]))
    np.testing.assert_allclose(without.mean(axis=1), 0, atol=1e-14)
    assert largest == pytest.approx(np.abs(forces.mean(axis=1) + np.array([0, 0, 0.5])).max())


def test_forces_that_are_not_finite_are_refused(demo64) -> None:
    chosen = settings()
    phonon = prepare(read(DEMO / "Si_start_strained.cif"), full_matrix((2, 2, 2)), chosen)
    forces = np.zeros((1, 16, 3))
    forces[0, 0, 0] = np.nan
    with pytest.raises(PhononError, match="not finite"):
        analyse(phonon, forces, chosen)


def test_force_constants_that_are_not_finite_never_give_a_verdict(
    demo64, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpcbench.phonons import calculate

    def spoil(phonon, forces) -> None:  # type: ignore[no-untyped-def]
        fit_force_constants(phonon, forces)
        phonon.force_constants = phonon.force_constants * np.nan

    monkeypatch.setattr(calculate, "fit_force_constants", spoil)
    with np.errstate(all="ignore"), pytest.raises(PhononError, match="not finite"):
        compute(read(DEMO / "Si_start_strained.cif"), demo64)
    assert not is_stable(
        CRITERIA[0], Spectrum(np.zeros((1, 3)), np.full((1, 3), np.nan), np.arange(3) < 3)
    )


GAMMA, ZONE_BOUNDARY = [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]


def spectrum(
    gamma: list[float], boundary: list[float], acoustic: tuple[int, ...] = (0, 1, 2)
) -> Spectrum:
    """Of four branches; ``acoustic``: which of them are acoustic at Gamma."""
    return Spectrum(
        np.array([GAMMA, ZONE_BOUNDARY]),
        np.array([gamma, boundary]),
        np.isin(np.arange(4), acoustic),
    )


CLEAN = spectrum([0.0, 0.0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0])
BY_NAME = {criterion.name: criterion for criterion in CRITERIA}
K_50 = 50 / 47.992


@pytest.mark.parametrize(
    ("name", "gamma", "boundary", "stable"),
    [
        ("phononbench", [-0.0009, 0, 0, 5], [1, 2, 3, 4], True),
        ("phononbench", [-0.0011, 0, 0, 5], [1, 2, 3, 4], False),
        ("phononbench-v3", [-0.099, 0, 0, 5], [1, 2, 3, 4], True),
        ("phononbench-v3", [0, 0, 0, 5], [-0.101, 2, 3, 4], False),
        ("loew", [-K_50 + 0.001, -0.5, 0, 5], [1, 2, 3, 4], True),
        ("loew", [-K_50 - 0.001, 0, 0, 5], [1, 2, 3, 4], False),
        ("loew", [0, 0, 0, 5], [-1e-6, 2, 3, 4], False),
        ("loew", [-0.5, -0.4, -0.3, -0.2], [1, 2, 3, 4], False),
        ("loew-script", [-35 / 47.992 + 0.001, 0, 0, 5], [1, 2, 3, 4], True),
        ("loew-script", [-35 / 47.992 - 0.001, 0, 0, 5], [1, 2, 3, 4], False),
        ("loew-script", [0, 0, 0, 5], [-1e-6, 2, 3, 4], False),
        ("lee-xia", [0, 0, 0, 5], [-0.49, 2, 3, 4], True),
        ("lee-xia", [0, 0, 0, 5], [-0.51, 2, 3, 4], False),
        ("mattersim", [-0.298, 0, 0, 5], [1, 2, 3, 4], True),
        ("mattersim", [-0.3, 0, 0, 5], [1, 2, 3, 4], False),
        ("mesh", [-9, -9, -9, 5], [-0.09, 2, 3, 4], True),
        ("mesh", [-9, -9, -9, -0.2], [1, 2, 3, 4], False),
        ("mesh", [0, 0, 0, 5], [-0.11, 2, 3, 4], False),
    ],
)
def test_criteria(name: str, gamma: list[float], boundary: list[float], stable: bool) -> None:
    assert is_stable(BY_NAME[name], CLEAN)
    assert is_stable(BY_NAME[name], spectrum(gamma, boundary)) is stable


@pytest.mark.parametrize(
    ("name", "lowest", "stable"),
    [
        # A soft optical mode below the acoustic ones: not one of those that may be negative.
        ("loew", -0.5, False),
        ("mesh", -0.2, False),
        # Loew's script takes it for one of them.
        ("loew-script", -0.5, True),
    ],
)
def test_acoustic_modes_are_not_the_three_lowest(name: str, lowest: float, stable: bool) -> None:
    found = spectrum([lowest, 0, 0, 0], [1, 2, 3, 4], acoustic=(1, 2, 3))
    assert is_stable(BY_NAME[name], found) is stable
    assert margin(BY_NAME[name], found) == pytest.approx(lowest - BY_NAME[name].threshold)


@pytest.mark.parametrize("zero", [-9e-5, -1e-8, 0.0, 1e-8])
def test_a_zero_at_gamma_has_no_sign(zero: float) -> None:
    for acoustic in ((0, 1, 2), (1, 2, 3)):
        found = spectrum([zero, 0, 1e-8, 5], [1, 2, 3, 4], acoustic)
        assert {is_stable(criterion, found) for criterion in CRITERIA} == {True}


def test_each_criterion_looks_at_its_own_place() -> None:
    bad = spectrum([0, 0, 0, 5], [-5, 2, 3, 4])
    places = (*PLACES, SUPERCELL_Q, EXACT_Q)
    for place in places:
        spectra = dict.fromkeys(places, CLEAN) | {place: bad}
        for name, verdict in verdicts(spectra, CRITERIA).items():
            assert verdict == ("unstable" if BY_NAME[name].place == place else "stable")


def test_lowest_frequency_comes_with_its_q() -> None:
    frequency, q = spectrum([0, 0, 0, 5], [-0.7, 2, 3, 4]).lowest
    assert frequency == -0.7
    np.testing.assert_array_equal(q, ZONE_BOUNDARY)
