"""From the forces of displaced supercells to force constants."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.errors import PhononError

# In eV/A^2. Each round makes the remaining sums ten to thirty times smaller.
_SMALLEST_SUM = 1e-11
_MOST_ROUNDS = 50
_SAME_ATOM = 1e-3  # A
_NEARLY = 0.9


def subtract_drift(forces: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Subtract the mean force of each supercell from its atoms.

    Parameters
    ----------
    forces : ndarray, shape (nsupercells, natoms, 3)
        In eV/A.

    Returns
    -------
    ndarray, float
        The forces without drift, and the largest drift in eV/A.
    """
    drift = forces.mean(axis=1, keepdims=True)
    return forces - drift, float(np.abs(drift).max(initial=0.0))


def fit_force_constants(phonon: Phonopy, forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit and symmetrise force constants, and set them in ``phonon``.

    They are compact: shape (natoms in primitive cell, natoms in supercell, 3, 3), in eV/A^2.
    Phonopy's permutation and drift conditions are applied in turn until both hold, which for finite
    displacements equals the projection on the space group. (Applied once, as by phonopy's default,
    they leave sums over atoms of up to 1e-3 eV/A^2 in compact force constants, and frequencies near
    Gamma are off by 1e-3 THz: seen with TiPN3.)

    Parameters
    ----------
    phonon : Phonopy
        With displacements.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Without drift, in eV/A.

    Returns
    -------
    ndarray
        The change of the force constants by symmetrisation, in eV/A^2: zero for exact forces of a
        harmonic crystal.

    Raises
    ------
    PhononError
        If the forces are not finite or phonopy cannot fit them.
    """
    if not np.isfinite(forces).all():
        raise PhononError("nan", "forces of a displaced supercell are not finite")
    try:
        phonon.forces = forces
        phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
        raw = np.array(phonon.force_constants)
        symmetrise(phonon)
    except Exception as error:  # phonopy raises RuntimeError, ValueError and its own kinds
        raise PhononError("force constants", f"phonopy: {type(error).__name__}: {error}") from error
    return np.asarray(phonon.force_constants - raw)


def symmetrise(phonon: Phonopy) -> None:
    """Impose permutation symmetry and sum rule on compact force constants, until both hold."""
    for _ in range(_MOST_ROUNDS):
        phonon.symmetrize_force_constants(show_drift=False)
        if np.abs(phonon.force_constants.sum(axis=1)).max() < _SMALLEST_SUM:
            break


def decay(phonon: Phonopy) -> float:
    """Return how large force constants still are at half the supercell, relative to the largest.

    The largest norm of a force constant (3, 3) between atoms that are farther apart than nine
    tenths of the radius of the largest sphere in the supercell's Wigner-Seitz cell, divided by the
    largest norm of an atom with itself. A small value means that the supercell suffices.
    """
    vectors, multiplicities = phonon.primitive.get_smallest_vectors()
    first = multiplicities[:, :, 1]  # (atoms of the supercell, of the primitive cell)
    shortest = np.linalg.norm(vectors[first] @ phonon.primitive.cell, axis=-1).T
    norms = np.linalg.norm(phonon.force_constants, axis=(-2, -1))
    lattice = np.array(phonon.supercell.cell)
    steps = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)])
    radius = np.linalg.norm(steps @ lattice, axis=1).min() / 2
    itself = norms[shortest < _SAME_ATOM].max()
    far = norms[shortest > _NEARLY * radius].max(initial=0.0)
    return float(far / itself) if itself > 0.0 else float("nan")
