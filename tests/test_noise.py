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

from hpcbench.phonons.calculate import PhononResult, PhononSettings, analyse, prepare

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
