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
from hpcbench.phonons.calculate import analyse, prepare
from hpcbench.phonons.displacement_length import pairs_of
from hpcbench.phonons.noise import nonlinearity
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.stability import ZERO, is_undetermined
from hpcbench.phonons.supercells import displaced_copies, with_checks
from hpcbench.potentials.copies import DisplacedCopies

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


def copy_forces(potential, copies: DisplacedCopies) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    prepared = potential.prepare(copies)
    parts = [potential.forces([(prepared, n, n + 1)])[0] for n in range(len(copies))]
    return np.concatenate(parts)


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


@pytest.mark.parametrize("name", CRYSTALS)
def test_nonlinearity_that_was_put_there_is_found(name: str, demo64) -> None:
    """Forces that bend are put there: with the square, which drops out, and with the cube."""
    phonon = prepare(crystal(name), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    copies = with_checks(displaced_copies(phonon))
    constants = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
    # A part of the crystal's own forces bends, and so has its symmetry.
    cube, square = 0.03, 0.02

    def force(atom: int, displacement: NDArray[np.float64]) -> NDArray[np.float64]:
        linear = -constants[:, atom] @ displacement
        even = np.abs(linear) * square
        x = np.linalg.norm(displacement) / 0.01
        return linear * (1 + cube * x**2) + even * x

    forces = np.array([force(*c) for c in zip(copies.atoms, copies.displacements, strict=True)])
    found = nonlinearity(phonon, forces[:-2], *forces[-2:])
    # The square is no even part where an operation brings the opposite displacement.
    is_paired = pairs_of(phonon)[0].second is not None
    assert found == pytest.approx(cube / (1 + cube), rel=0.01 if is_paired else 0.8)


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
        assert abs(squares[1] - squares[0]) < max(ZERO, 4 * single.noise.frequencies[place]) ** 2


def test_the_length_of_the_displacements_is_within_reach(demo64) -> None:
    """Labels by displacements that are too long and by none differ only where that is said."""
    settings = replace(SETTINGS, displacement=0.05)
    phonon = prepare(crystal("AlN rattled"), np.diag([2, 2, 2]), settings)
    copies = with_checks(displaced_copies(phonon))
    forces = copy_forces(demo64, copies)
    limit = prepare(
        crystal("AlN rattled"), np.diag([2, 2, 2]), replace(SETTINGS, displacement=1e-3)
    )
    exact = analyse(limit, forces_of(demo64, limit), SETTINGS)
    result = analyse(phonon, forces[:-2], settings, forces[-2:])
    for place in ("path", "mesh"):
        lowest = [r.spectra[place].lowest[0] for r in (exact, result)]
        squares = [x * abs(x) for x in lowest]
        for share, is_within in ((0.5, True), (-9.0, False), (10.0, False)):
            threshold = root(squares[1] + share * (squares[0] - squares[1]))
            criterion = Criterion("between", place, threshold)
            looked_at = result.spectra[place], *result.noise.reach(place)
            assert is_undetermined(criterion, *looked_at) or not is_within
        assert not is_undetermined(Criterion("far", place, -5.0), *looked_at)


def root(square: float) -> float:
    return float(np.sign(square) * np.sqrt(abs(square)))


def test_the_verdict_is_undetermined_where_noise_decides(demo64) -> None:
    """The share of noisy copies that answer otherwise than the exact forces tells the truth."""
    phonon = prepare(crystal("AlN rattled"), np.diag([2, 2, 2]), SETTINGS)
    analyse(phonon, forces_of(demo64, phonon), SETTINGS)
    exact_forces = harmonic_forces(phonon)
    exact = again(phonon, exact_forces)
    assert set(exact.undetermined) <= {"exact-q"}  # of suspicions, not of noise
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
