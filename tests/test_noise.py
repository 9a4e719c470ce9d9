"""The noise floor, against noise that was put there."""

from __future__ import annotations

import pickle
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from conftest import DEMO
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.harmonic.force_constants import compact_fc_to_full_fc

from hpcbench.criteria import Criterion
from hpcbench.phonons.calculate import PhononResult, PhononSettings, analyse, prepare
from hpcbench.phonons.supercells import displaced_copies, with_checks

SETTINGS = PhononSettings("auto", 0.01, 1e-5, 51, (8, 8, 8), (300.0,), 0.0)
# Fcc with one displacement, salts, a crystal without symmetry.
CRYSTALS = ("Al_start_strained", "MgO_start_strained", "AlN_start_strained", "AlN rattled")


def crystal(name: str) -> Atoms:
    atoms = ase.io.read(DEMO / f"{name.replace(' rattled', '_start_strained')}.cif")
    if name.endswith("rattled"):
        atoms.rattle(0.02, seed=3)
    return atoms


def forces_of(potential, phonon: Phonopy) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    supercells = [
        Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True)
        for cell in phonon.supercells_with_displacements
    ]
    return np.array([result.forces for result in potential.evaluate(supercells)])


def harmonic_forces(phonon: Phonopy) -> NDArray[np.float64]:
    """Those that the force constants give exactly."""
    constants = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
    entries = phonon.dataset["first_atoms"]
    return np.array([-constants[:, e["number"]] @ e["displacement"] for e in entries])


def again(phonon: Phonopy, forces: NDArray[np.float64]) -> PhononResult:
    return analyse(pickle.loads(pickle.dumps(phonon)), forces, SETTINGS)


@pytest.mark.parametrize("name", CRYSTALS)
def test_noise_that_was_put_there_is_found_and_moves_frequencies_as_foretold(
    name: str, demo64
) -> None:
    phonon = prepare(crystal(name), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    exact_forces = harmonic_forces(phonon)
    exact = again(phonon, exact_forces)
    assert exact.noise.forces < 1e-12
    size, rng = 1e-4, np.random.default_rng(5)
    noisy = [
        again(phonon, exact_forces + size * rng.standard_normal(exact_forces.shape))
        for _ in range(20)
    ]
    found = np.array([result.noise.forces for result in noisy])
    assert 0.8 < found.mean() / size < 1.3
    # Away from Gamma, where the three lowest modes are exactly zero by the sum rule.
    lowest, qpoint = exact.spectra["mesh"].lowest
    moved = []
    for result in noisy:
        frequency = result.phonon.run_qpoints([qpoint]).frequencies[0].min()
        moved.append(frequency * abs(frequency) - lowest * abs(lowest))
    foretold = np.mean([result.noise.frequencies["mesh"] ** 2 for result in noisy])
    assert 0.4 < foretold / np.sqrt(np.mean(np.square(moved))) < 2.5


def checks_of(phonon: Phonopy, force) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """Forces without the first displacement, and with half of it."""
    copies = with_checks(displaced_copies(phonon))
    assert not copies.displacements[-2].any()
    return np.array([force(copies.atoms[n], copies.displacements[n]) for n in (-2, -1)])


@pytest.mark.parametrize("name", CRYSTALS)
def test_what_goes_with_the_cube_of_a_displacement_is_found(name: str, demo64) -> None:
    """Forces that bend are put there: with the square, which drops out, and with the cube."""
    phonon = prepare(crystal(name), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    constants = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
    symmetry = phonon.symmetry
    lattice = phonon.supercell.cell.T
    turns = lattice @ symmetry.symmetry_operations["rotations"] @ np.linalg.inv(lattice)
    size, rng = 1e-4, np.random.default_rng(8)
    raw = rng.standard_normal((len(phonon.supercell), 3)) * size
    raw -= raw.mean(axis=0)  # forces add up to nothing

    def bent(cube: float, square: float):  # type: ignore[no-untyped-def]
        def force(atom: int, displacement: NDArray[np.float64]) -> NDArray[np.float64]:
            # What is added has the symmetry of the crystal: it is the same seen from any side.
            step = displacement / 0.01
            added = np.zeros_like(raw)
            for turn, permutation in zip(turns, symmetry.atomic_permutations, strict=True):
                if permutation[atom] == atom:
                    along = (turn @ step)[0]
                    added += (cube * along**3 + square * along**2) * (raw[permutation] @ turn)
            here = turns[symmetry.atomic_permutations[:, atom] == atom]
            return -constants[:, atom] @ displacement + added / np.sqrt(len(here))

        return force

    entries = [(e["number"], np.asarray(e["displacement"])) for e in phonon.dataset["first_atoms"]]

    def found(cube: float, square: float) -> float:
        force = bent(cube, square)
        forces = np.array([force(*entry) for entry in entries])
        copy = pickle.loads(pickle.dumps(phonon))
        return analyse(copy, forces, SETTINGS, checks_of(phonon, force)).noise.forces

    assert found(0.0, 0.0) < 1e-10
    with_cube, with_both = found(1.0, 0.0), found(1.0, 1.0)
    added = bent(1.0, 0.0)(*entries[0]) - bent(0.0, 0.0)(*entries[0])
    assert with_cube >= 0.99 * np.sqrt(np.mean(added**2))
    assert with_both < 2.0 * with_cube


@pytest.mark.parametrize("name", CRYSTALS)
def test_noise_is_not_taken_for_the_length_of_displacements(name: str, demo64) -> None:
    phonon = prepare(crystal(name), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    constants = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
    size, rng = 1e-4, np.random.default_rng(9)

    def noisy(atom: int, displacement: NDArray[np.float64]) -> NDArray[np.float64]:
        exact = -constants[:, atom] @ displacement
        return exact + size * rng.standard_normal(exact.shape)

    found = []
    for _ in range(10):
        forces = np.array([noisy(e["number"], e["displacement"]) for e in
                           phonon.dataset["first_atoms"]])  # fmt: skip
        copy = pickle.loads(pickle.dumps(phonon))
        found.append(analyse(copy, forces, SETTINGS, checks_of(phonon, noisy)).noise.forces)
    assert 0.8 < np.mean(found) / size < 1.4


@pytest.mark.parametrize("name", ["C_start_strained", "GaAs_start_strained", "AlN rattled"])
def test_single_precision_differs_from_double_by_no_more_than_its_noise(
    name: str, demo32, demo64
) -> None:
    phonon = prepare(crystal(name), np.diag([2, 2, 2]), SETTINGS)
    double, single = (again(phonon, forces_of(p, phonon)) for p in (demo64, demo32))
    assert single.noise.forces < 1e-4
    for place in ("path", "mesh"):
        squares = [
            r.spectra[place].lowest[0] * abs(r.spectra[place].lowest[0]) for r in (double, single)
        ]
        assert abs(squares[1] - squares[0]) < 4 * single.noise.frequencies[place] ** 2


def test_a_long_displacement_is_noise_too(demo64) -> None:
    found = []
    for displacement in (0.01, 0.05):
        settings = replace(SETTINGS, displacement=displacement)
        phonon = prepare(crystal("AlN rattled"), np.diag([2, 2, 2]), settings)
        result = analyse(phonon, forces_of(demo64, phonon), settings)
        found.append(result.noise.frequencies["mesh"])
    # Of central differences the square of the displacement remains, in the force constants.
    assert 15 < (found[1] / found[0]) ** 2 < 35


def root(square: float) -> float:
    return float(np.sign(square) * np.sqrt(abs(square)))


def test_the_verdict_is_undetermined_where_noise_decides(demo64) -> None:
    """The share of noisy copies that answer otherwise than the exact forces tells the truth."""
    phonon = prepare(crystal("AlN rattled"), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    exact_forces = harmonic_forces(phonon)
    exact = again(phonon, exact_forces)
    assert exact.undetermined == ()
    # A criterion at the lowest optical mode of the mesh, and others farther and farther from it.
    frequencies = exact.spectra["mesh"].frequencies
    lowest = float(frequencies.min())
    size, rng = 1e-3, np.random.default_rng(6)
    one = again(phonon, exact_forces + size * rng.standard_normal(exact_forces.shape))
    floor = one.noise.frequencies["mesh"]
    shifts = (-4.0, -0.5, 0.5, 4.0)
    criteria = tuple(
        Criterion(f"shift{shift:g}", "mesh", root(lowest * abs(lowest) + shift * floor**2))
        for shift in shifts
    )
    settings = replace(SETTINGS, criteria=criteria)
    counts = dict.fromkeys(shifts, 0)
    for _ in range(20):
        forces = exact_forces + size * rng.standard_normal(exact_forces.shape)
        result = analyse(pickle.loads(pickle.dumps(phonon)), forces, settings)
        for shift, criterion in zip(shifts, criteria, strict=True):
            counts[shift] += criterion.name in result.undetermined
    assert counts[-4.0] < 5
    assert counts[4.0] < 5
    assert min(counts[-0.5], counts[0.5]) > 8, counts
