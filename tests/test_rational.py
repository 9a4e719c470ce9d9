"""Suspicions between commensurate q, and the small supercells that decide them."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import by_hand
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.io import read
from conftest import DEMO
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.physical_units import get_physical_units

from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.nondiagonal import commensurate_supercell, displace_at, frequencies_from
from hpcbench.phonons.rational import RationalQ, Suspicions, rational_qpoints, suspicions
from hpcbench.phonons.spectrum import (
    commensurate_qpoints,
    frequencies_at,
    run_mesh,
    seekpath_band_path,
)
from hpcbench.phonons.stability import Spectrum
from hpcbench.phonons.supercells import displace
from hpcbench.potentials.ase_calculator import PotentialCalculator

THRESHOLD = -0.001
NO_SYMMETRY = np.eye(3, dtype=np.int64)[None]
# Skewed, as reduced cells are not.
SKEWED = np.array([[3.0, 0.1, 0.0], [5.1, 2.9, 0.3], [-4.0, 7.0, 4.2]])


def operations_of(atoms: Atoms) -> np.ndarray:
    phonon = displace(
        atoms,
        supercell_matrix=np.eye(3, dtype=np.int64),
        primitive_matrix="P",
        displacement=0.01,
        symprec=1e-5,
    )
    return phonon.primitive_symmetry.reciprocal_operations


CRYSTALS = {
    "fcc": bulk("Cu"),
    "hcp": bulk("Mg"),
    "zincblende": bulk("GaAs", "zincblende", a=5.65),
    "tetragonal": Atoms("Cu", cell=[3.0, 3.0, 4.0], pbc=True),
    "triclinic": Atoms("CuAu", [(0, 0, 0), (1.1, 1.3, 1.7)], cell=SKEWED, pbc=True),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_rational_q_are_one_of_each_star(name: str) -> None:
    """Against stars put together one q after the other, as fractions."""
    operations = operations_of(CRYSTALS[name])
    fractions = {Fraction(n, d) for d in range(1, 5) for n in range(d)}
    stars = set()
    for q in itertools.product(fractions, repeat=3):
        if any(q) and math.lcm(*(x.denominator for x in q)) <= 6:
            arms = [
                tuple(sum(int(m) * x for m, x in zip(row, q, strict=True)) % 1 for row in operation)
                for operation in operations
            ]
            stars.add(frozenset(arms))
    got = rational_qpoints(4, 6, operations)
    assert len(got) == len(stars)
    found = {
        tuple(Fraction(n, d) for n, d in zip(q.numerators, q.denominators, strict=True))
        for q in got
    }
    assert all(len(found & star) == 1 for star in stars)
    assert all(
        q.denominators == tuple(f.denominator for f in map(Fraction, q.numerators, q.denominators))
        for q in got
    )


@pytest.mark.parametrize("name", CRYSTALS)
def test_there_are_as_many_as_spglib_finds_on_a_mesh(name: str) -> None:
    atoms = CRYSTALS[name]
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    mapping, _ = spglib.get_ir_reciprocal_mesh([6, 6, 6], cell, is_shift=[0, 0, 0])
    got = rational_qpoints(6, 6, operations_of(atoms))
    assert sum(6 % q.cells == 0 for q in got) == len(np.unique(mapping)) - 1  # without Gamma


def test_supercells_are_commensurate_and_as_small_as_can_be() -> None:
    qpoints = rational_qpoints(6, 60, NO_SYMMETRY)
    assert len(qpoints) == 12**3 - 1
    for q in qpoints:
        matrix = commensurate_supercell(q, SKEWED)
        assert matrix.dtype == np.int64
        assert round(np.linalg.det(matrix)) == q.cells == math.lcm(*q.denominators)
        turns = matrix.T @ q.coordinates
        np.testing.assert_allclose(turns, np.rint(turns), atol=1e-12)
        # No shorter sum of two vectors, nor of all three: the cell is reduced.
        vectors = matrix.T @ SKEWED
        longest = np.linalg.norm(vectors, axis=1)
        for signs in itertools.product((-1, 0, 1), repeat=3):
            involved = np.flatnonzero(signs)
            if len(involved) > 1:
                combined = np.linalg.norm(np.array(signs) @ vectors)
                assert combined >= longest[involved].max() - 1e-9


def test_phonopy_agrees_that_the_supercell_is_commensurate() -> None:
    """Its own convention of the matrix: for some q the transposed one is another lattice."""
    told_apart = 0
    for q in rational_qpoints(6, 12, NO_SYMMETRY)[::11]:
        matrix = commensurate_supercell(q, SKEWED)
        points = get_commensurate_points(matrix)
        assert np.abs(points - q.coordinates - np.rint(points - q.coordinates)).max(1).min() < 1e-9
        turns = matrix @ q.coordinates
        told_apart += np.abs(turns - np.rint(turns)).max() > 0.01
    assert told_apart > 10


def relaxed(name: str, potential) -> Atoms:
    atoms, _ = by_hand.relax(
        read(DEMO / f"{name}.cif"), PotentialCalculator(potential), fmax=1e-3, steps=500
    )
    atoms.set_constraint()
    return atoms


def with_force_constants(
    atoms: Atoms, supercell: list[int], potential, displacement: float = 0.01
) -> Phonopy:
    phonon = displace(
        atoms,
        supercell_matrix=np.diag(supercell),
        primitive_matrix="P",
        displacement=displacement,
        symprec=1e-4,
    )
    forces = np.array([e.forces for e in potential.evaluate(by_hand.supercells(phonon))])
    fit_force_constants(phonon, subtract_drift(forces)[0])
    return phonon


def primitive_of(name: str, potential) -> Atoms:
    """The primitive cell, relaxed."""
    atoms = relaxed(name, potential)
    found = spglib.find_primitive((atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers))
    return Atoms(numbers=found[2], cell=found[0], scaled_positions=found[1], pbc=True)


@pytest.mark.filterwarnings("ignore:.*Point group symmetries of supercell")
@pytest.mark.parametrize(
    ("name", "numerators", "denominators", "diagonal"),
    [
        ("MgO_start_strained", (1, 0, 0), (3, 1, 1), [3, 3, 3]),
        ("Al_start_strained", (1, 2, 0), (2, 3, 1), [4, 3, 2]),
        ("Ti_hcp_start_strained", (1, 1, 0), (3, 3, 1), [3, 3, 3]),
    ],
)
def test_the_small_supercell_gives_what_a_large_diagonal_one_gives(
    name: str, numerators, denominators, diagonal, demo64
) -> None:
    atoms = primitive_of(name, demo64)
    q = RationalQ(numerators, denominators)
    differences = []
    for displacement in (0.01, 0.0025):
        large = with_force_constants(atoms, diagonal, demo64, displacement)
        small = displace_at(large.primitive, q, displacement=displacement, symprec=1e-4)
        assert len(small.supercell) == q.cells * len(atoms) < len(large.supercell)
        forces = np.array([e.forces for e in demo64.evaluate(by_hand.supercells(small))])
        got = frequencies_from(small, forces, q)
        expected = frequencies_at(large, q.coordinates[None]).frequencies[0]
        differences.append(np.abs(got - expected).max())
    # Exact but for the displacements' length, whose images are not as near in both: its square.
    assert differences[0] < 5e-3
    assert differences[1] < max(1e-4, differences[0] / 10)
    matrices = [
        phonon.run_qpoints([q.coordinates], with_dynamical_matrices=True).dynamical_matrices[0]
        for phonon in (small, large)
    ]
    scale = np.abs(matrices[1]).max()
    np.testing.assert_allclose(matrices[0] / scale, matrices[1] / scale, atol=3e-5)


K = 2.0  # eV/A^2
NONE = np.zeros(3, dtype=bool)


class Chains:
    """A tetragonal crystal of one atom with springs along c, between neighbours up to the fourth.

    All three branches are ``m w^2 = 2 sum_n k_n (1 - cos 2 pi n q_c) + 4 k_ab (...)``.
    """

    def __init__(self, fourth: float) -> None:
        # 2 pi q_c = 90 degrees is nearly soft; what the fourth neighbours add is not seen by four
        # cells, to which they are the atom itself.
        self.springs = {(0, 0, 1): K, (0, 0, 2): -0.45 * K, (0, 0, 4): fourth * K}
        self.springs |= {(1, 0, 0): 0.5 * K, (0, 1, 0): 0.5 * K}
        self.atoms = Atoms("Cu", cell=[3.0, 3.0, 2.5], pbc=True)

    def frequency(self, q: np.ndarray) -> float:
        square = sum(
            2 * k * (1 - np.cos(2 * np.pi * np.dot(n, q))) for n, k in self.springs.items()
        )
        square /= self.atoms.get_masses()[0]
        return np.sign(square) * np.sqrt(abs(square)) * get_physical_units().DefaultToTHz

    def forces(self, phonon: Phonopy) -> np.ndarray:
        """Of the displaced supercells."""
        lattice = np.array(phonon.supercell.cell)
        perfect = phonon.supercell.scaled_positions
        all_forces = []
        for displaced in phonon.supercells_with_displacements:
            moved = displaced.scaled_positions - perfect
            moved = (moved - np.rint(moved)) @ lattice
            forces = np.zeros_like(moved)
            for step, k in self.springs.items():
                shift = np.array(step) @ self.atoms.cell[:] @ np.linalg.inv(lattice)
                to = perfect[:, None] + shift - perfect[None]
                neighbour = np.abs(to - np.rint(to)).max(axis=2).argmin(axis=1)
                pull = k * (moved[neighbour] - moved)
                forces += pull
                np.subtract.at(forces, neighbour, pull)
            all_forces.append(forces)
        return np.array(all_forces)

    def phonon(self, supercell: list[int]) -> Phonopy:
        phonon = displace(
            self.atoms,
            supercell_matrix=np.diag(supercell),
            primitive_matrix="P",
            displacement=0.01,
            symprec=1e-5,
        )
        fit_force_constants(phonon, self.forces(phonon))
        return phonon


def suspected(phonon: Phonopy, **options: float) -> Suspicions:
    path = seekpath_band_path(phonon, 101, cell_is_standard=False)
    return suspicions(
        [
            frequencies_at(phonon, path.qpoints),
            run_mesh(phonon, (20, 20, 20), (300.0,), 0.1).spectrum,
        ],
        commensurate_qpoints(phonon),
        np.linalg.inv(phonon.primitive.cell).T,
        phonon.primitive_symmetry.reciprocal_operations,
        lambda qpoints: phonon.run_qpoints(qpoints).frequencies,
        **{
            "threshold": THRESHOLD,
            "most_denominator": 6,
            "most_cells": 12,
            "most_qpoints": 4,
        }
        | options,
    )


@pytest.mark.parametrize(("fourth", "is_stable"), [(0.3, True), (0.0, False)])
def test_a_suspicion_between_commensurate_q_is_decided(fourth: float, is_stable: bool) -> None:
    """Springs as long as the supercell: its interpolation is negative whether or not they help."""
    chains = Chains(fourth)
    phonon = chains.phonon([2, 2, 4])
    exact = [chains.frequency(q) for q in commensurate_qpoints(phonon)]
    assert min(exact) > -1e-6
    true = min(chains.frequency(np.array([0.0, 0.0, x])) for x in np.linspace(0.0, 0.5, 101))
    assert (true > -1e-6) == is_stable
    found = suspected(phonon)
    assert found.left_open == 0
    assert math.isnan(found.lowest_open)
    assert found.chosen
    for suspicion in found.chosen:
        q = suspicion.qpoint
        at_q = frequencies_at(phonon, q.coordinates[None]).frequencies[0, 0]
        assert suspicion.frequency == pytest.approx(at_q, abs=1e-6)
        assert suspicion.frequency <= suspicion.lowest / 2 + 1e-6
        assert suspicion.distance <= 0.5 * 0.25 / 2.5 + 1e-6
        small = displace_at(phonon.primitive, q, displacement=0.01, symprec=1e-5)
        got = frequencies_from(small, chains.forces(small), q)
        np.testing.assert_allclose(got, chains.frequency(q.coordinates), atol=1e-6)
    # Beside q_c = 1/6, where it is lowest, 1/5 will do, and is smaller.
    first = found.chosen[0]
    assert first.qpoint == RationalQ((0, 0, 1), (1, 1, 5))
    assert abs(first.lowest_qpoint[2]) == pytest.approx(1 / 6, abs=0.01)
    assert (chains.frequency(first.qpoint.coordinates) > 0) == is_stable


def test_what_no_rational_q_decides_is_left_open() -> None:
    phonon = Chains(0.3).phonon([2, 2, 4])
    everything = suspected(phonon)
    for options in ({"most_qpoints": 0}, {"most_denominator": 4}):
        found = suspected(phonon, **options)
        assert found.chosen == ()
        assert found.left_open > 0
        assert found.lowest_open == everything.chosen[0].lowest
    # All frequencies above the threshold: no region.
    assert suspected(phonon, threshold=everything.chosen[0].lowest - 0.01).left_open == 0


@pytest.mark.parametrize(
    ("at_a_fifth", "at_a_sixth", "denominator", "left_open"),
    [(-0.6, -0.9, 5, 0), (-0.4, -0.9, 6, 0), (-0.4, -0.4, None, 1), (-0.6, 0.5, 5, 0)],
)
def test_a_small_supercell_is_taken_if_its_q_is_negative_enough(
    at_a_fifth: float, at_a_sixth: float, denominator: int | None, left_open: int
) -> None:
    """Of a place at -1 THz, beside (0, 0, 1/5) and (0, 0, 1/6)."""

    def interpolate(qpoints: np.ndarray) -> np.ndarray:
        lowest = np.ones(len(qpoints))
        for value, n in ((at_a_fifth, 5), (at_a_sixth, 6)):
            lowest[np.abs(qpoints - [0.0, 0.0, 1 / n]).max(axis=1) < 1e-9] = value
        return np.column_stack([lowest, np.ones((len(qpoints), 2))])

    found = suspicions(
        [Spectrum(np.array([[0.0, 0.0, 0.18]]), np.array([[-1.0, 1.0, 1.0]]), NONE)],
        np.array([[0.0, 0.0, n / 4] for n in range(4)]),
        np.eye(3) / 3.0,
        NO_SYMMETRY,
        interpolate,
        threshold=-0.5,
        most_denominator=6,
        most_cells=6,
        most_qpoints=4,
    )
    expected = [] if denominator is None else [RationalQ((0, 0, 1), (1, 1, denominator))]
    assert [s.qpoint for s in found.chosen] == expected
    assert found.left_open == left_open


@pytest.mark.filterwarnings("ignore:.*Point group symmetries of supercell")
def test_a_supercell_of_lower_symmetry_than_the_crystal() -> None:
    """A cubic crystal repeated along a alone: a star is seen from all its arms."""
    chains = Chains(0.3)
    chains.atoms = Atoms("Cu", cell=[3.0, 3.0, 3.0], pbc=True)
    along_c = {(0, 0, 1): K, (0, 0, 2): -0.45 * K, (0, 0, 4): 0.3 * K}
    chains.springs = {n[i:] + n[:i]: k for n, k in along_c.items() for i in range(3)}
    phonon = chains.phonon([4, 1, 1])
    assert len(phonon.primitive_symmetry.reciprocal_operations) == 48
    assert len(phonon.symmetry.pointgroup_operations) == 16
    along_a = frequencies_at(phonon, np.array([[1 / 6, 0.0, 0.0]]))

    def at(qpoint: list[float], interpolate) -> Suspicions:
        return suspicions(
            [Spectrum(np.array([qpoint]), along_a.frequencies, NONE)],
            commensurate_qpoints(phonon),
            np.linalg.inv(phonon.primitive.cell).T,
            phonon.primitive_symmetry.reciprocal_operations,
            interpolate,
            threshold=THRESHOLD,
            most_denominator=6,
            most_cells=5,
            most_qpoints=1,
        )

    # The path could as well lead along c, where one cell alone interpolates nothing.
    (suspicion,) = at([0.0, 0.0, 1 / 6], lambda q: frequencies_at(phonon, q).frequencies).chosen
    assert suspicion.qpoint == RationalQ((1, 0, 0), (5, 1, 1))
    assert suspicion.distance == pytest.approx((1 / 5 - 1 / 6) / 3.0)
    # What is equivalent to a commensurate q is exact.
    for qpoint, left_open in (([0.0, 0.0, 0.25], 0), ([0.0, 0.0, 0.24], 1)):
        found = at(qpoint, lambda q: np.ones((len(q), 3)))
        assert (found.chosen, found.left_open) == ((), left_open)


def test_rounding_changes_no_choice(demo64) -> None:
    phonon = with_force_constants(primitive_of("Ti_bcc_start_strained", demo64), [2, 2, 2], demo64)
    expected = [s.qpoint for s in suspected(phonon).chosen]
    assert len(expected) > 1
    constants = phonon.force_constants.copy()
    rng = np.random.default_rng(5)
    for _ in range(3):
        phonon.force_constants = constants * (1 + 1e-12 * rng.standard_normal(constants.shape))
        assert [s.qpoint for s in suspected(phonon).chosen] == expected


def test_titanium_is_interpolated_negative_where_it_is_not(demo64) -> None:
    """Bcc titanium is unstable, but not at (1/3, 1/3, 2/3): 27 cells and the smallest, 3, agree."""
    atoms = primitive_of("Ti_bcc_start_strained", demo64)
    phonon = with_force_constants(atoms, [2, 2, 2], demo64)
    large = with_force_constants(atoms, [3, 3, 3], demo64)
    found = {s.qpoint: s for s in suspected(phonon).chosen}
    q = RationalQ((1, 1, 2), (3, 3, 3))
    assert found[q].frequency < -0.9
    small = displace_at(phonon.primitive, q, displacement=0.01, symprec=1e-4)
    assert len(small.supercell) == 3
    forces = np.array([e.forces for e in demo64.evaluate(by_hand.supercells(small))])
    got = frequencies_from(small, forces, q)
    expected = frequencies_at(large, q.coordinates[None]).frequencies[0]
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert got[0] > 1.5


def test_the_false_mode_of_aln_is_a_long_wave(demo64) -> None:
    """Nothing of it is left at the first rational q outward."""
    phonon = with_force_constants(primitive_of("AlN_start_strained", demo64), [2, 2, 2], demo64)
    found = suspected(phonon)
    assert found.chosen == ()
    assert found.left_open == 0
    assert found.long_waves == pytest.approx(-0.471, abs=0.01)
    q = RationalQ((1, 0, 0), (6, 1, 1))
    small = displace_at(phonon.primitive, q, displacement=0.01, symprec=1e-4)
    forces = np.array([e.forces for e in demo64.evaluate(by_hand.supercells(small))])
    assert frequencies_from(small, forces, q)[0] > 1.0
