"""Test the kinds of negative frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from hpcbench.phonons.character import (
    AT_COMMENSURATE,
    AT_GAMMA,
    BETWEEN,
    CLEAN,
    NEAR_GAMMA,
    NOISE,
    Character,
    character,
)
from hpcbench.phonons.modes import GammaModes, modes_at_gamma
from hpcbench.phonons.stability import Spectrum

# A cubic cell, reciprocal vectors of 1/A; 2x2x2: the nearest commensurate q is at 0.5.
RECIPROCAL = np.eye(3)
COMMENSURATE = [(0, 0, 0), (0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0.5, 0.5)]
LINE = [(x, 0, 0) for x in (0, 0.1, 0.2, 0.3, 0.4, 0.5)]
MESH = [(0.125, 0.125, 0.125), (0.375, 0.375, 0.375)]
UNKNOWN = dict.fromkeys(("path", "commensurate", "mesh"), math.nan)


def spectrum(qpoints: list[tuple[float, ...]], changes: dict[tuple[int, int], float]) -> Spectrum:
    """Six branches, all positive but the acoustic ones at Gamma; ``changes`` by q and branch."""
    frequencies = np.tile(np.arange(1.0, 7.0), (len(qpoints), 1))
    for number, q in enumerate(qpoints):
        if not any(q):
            frequencies[number, :3] = (-1e-4, 0.0, 1e-4)
    for place, frequency in changes.items():
        frequencies[place] = frequency
    return Spectrum(np.array(qpoints, dtype=float), frequencies, np.arange(6) < 3)


def look(
    path: dict[tuple[int, int], float] | None = None,
    commensurate: dict[tuple[int, int], float] | None = None,
    mesh: dict[tuple[int, int], float] | None = None,
    optical: tuple[float, ...] = (4.0, 5.0, 6.0),
    noise: dict[str, float] = UNKNOWN,
) -> Character:
    spectra = {
        "path": spectrum(LINE, path or {}),
        "commensurate": spectrum(COMMENSURATE, commensurate or {}),
        "mesh": spectrum(MESH, mesh or {}),
    }
    gamma = GammaModes(np.array([-1e-4, 0.0, 1e-4, *optical]), np.arange(6) < 3)
    return character(spectra, gamma, RECIPROCAL, noise, np.array([6, 2]))


def test_a_crystal_without_negative_frequencies_is_clean() -> None:
    found = look()
    assert found.kinds == (CLEAN,)
    assert (found.gamma_acoustic, found.gamma_optical, found.near_gamma) == (-1e-4, 4.0, 1.0)
    assert set(found.imaginary.values()) == {0.0}


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        ({"optical": (-0.4, 5.0, 6.0)}, (AT_GAMMA,)),
        ({"commensurate": {(1, 0): -0.4}}, (AT_COMMENSURATE,)),
        ({"commensurate": {(3, 5): -0.4}}, (AT_COMMENSURATE,)),
        ({"optical": (-2.0, 1.0, 1.0), "commensurate": {(1, 0): -1}}, (AT_GAMMA, AT_COMMENSURATE)),
        ({"path": {(3, 0): -0.4}}, (BETWEEN,)),
        ({"mesh": {(1, 0): -0.4}}, (BETWEEN,)),
        # More than three branches: one of them is no acoustic wave.
        ({"path": {(1, branch): -0.4 for branch in range(4)}}, (BETWEEN,)),
        ({"path": {(1, 0): -0.4}}, (NEAR_GAMMA,)),
        ({"mesh": {(0, 2): -0.4}}, (NEAR_GAMMA,)),
        ({"path": {(1, 0): -0.4, (3, 0): -0.4}}, (BETWEEN,)),
        ({"path": {(3, 0): -0.4}, "commensurate": {(1, 0): -0.4}}, (AT_COMMENSURATE,)),
        # The acoustic modes at Gamma say nothing.
        ({"path": {(0, 0): -0.4}, "commensurate": {(0, 0): -0.4}}, (NOISE,)),
    ],
)
def test_where_negative_frequencies_are(where: dict, kinds: tuple[str, ...]) -> None:  # type: ignore[type-arg]
    assert look(**where).kinds == kinds


def test_what_is_within_the_noise_of_its_place_is_not_negative() -> None:
    where = {(3, 0): -0.05}
    assert look(path=where).kinds == (BETWEEN,)
    assert look(path=where, noise=UNKNOWN | {"path": 0.06}).kinds == (NOISE,)
    assert look(path=where, noise=UNKNOWN | {"path": 0.04, "mesh": 0.06}).kinds == (BETWEEN,)
    assert look(optical=(-0.05, 5.0, 6.0), noise=UNKNOWN | {"commensurate": 0.06}).kinds != (
        AT_GAMMA,
    )


def test_shares_of_modes_count_each_point_of_the_mesh() -> None:
    found = look(mesh={(0, 0): -1.0}, path={(3, 0): -1.0}, optical=(-0.4, 5.0, 6.0))
    assert found.imaginary["mesh"] == pytest.approx(6 / 48)
    # Five q of six modes, and three at Gamma.
    assert found.imaginary["path"] == pytest.approx(2 / 33)
    assert found.imaginary["commensurate"] == pytest.approx(1 / 21)


def chain(spring: float) -> Phonopy:
    """Two kinds of atoms that alternate along each axis, on springs; the first held in place."""
    salt = bulk("NaCl", "rocksalt", a=5.6)
    atoms = PhonopyAtoms(
        numbers=salt.numbers, cell=salt.cell[:], scaled_positions=salt.get_scaled_positions()
    )
    phonon = Phonopy(
        atoms, supercell_matrix=np.eye(3, dtype=int), primitive_matrix="P", log_level=0
    )
    on_site = spring * np.eye(3)
    phonon.force_constants = np.array([[on_site, -on_site], [-on_site, on_site]])
    return phonon


@pytest.mark.parametrize("spring", [1.0, -1.0])
def test_acoustic_modes_are_known_by_their_eigenvectors(spring: float) -> None:
    """Also where an optical one is lower than they are."""
    modes = modes_at_gamma(chain(spring))
    acoustic, optical = modes.frequencies[modes.acoustic], modes.frequencies[~modes.acoustic]
    np.testing.assert_allclose(acoustic, 0.0, atol=1e-4)
    assert len(acoustic) == len(optical) == 3
    # Two masses on a spring: omega^2 = k (1/m + 1/M).
    reduced = 1 / (1 / 22.98976928 + 1 / 35.453)
    expected = 15.633302 * math.sqrt(1 / reduced) * math.copysign(1.0, spring)
    np.testing.assert_allclose(optical, expected, rtol=1e-4)
