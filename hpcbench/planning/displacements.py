"""Predicted numbers of displaced supercells and of free parameters of the relaxation.

They follow from the symmetry of the crystal as given, without building a supercell. phonopy does
the same on the supercell of the relaxed crystal, which takes a hundred times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from phonopy.harmonic.displacement import directions_axis, get_displacement, is_minus_displacement

from hpcbench.crystal import Crystal
from hpcbench.symmetry import symmetry_dataset

# An operation maps each atom to itself, or to another atom that is farther away than this (in A),
# since crystals with atoms closer than 0.5 A are not computed.
SAME_PLACE = 0.25


@dataclass(frozen=True)
class Counts:
    """Numbers that depend on a crystal's symmetry.

    Attributes
    ----------
    copies : int
        Number of displaced supercells.
    freedom : int
        Number of parameters of cell and positions that a relaxation can change without breaking
        the symmetry, with rigid translations.
    """

    copies: int
    freedom: int


def count(crystal: Crystal, supercell_matrix: NDArray[np.integer], tolerance: float) -> Counts:
    """Count displaced supercells and free parameters.

    Parameters
    ----------
    crystal : Crystal
        The crystal as given.
    supercell_matrix : ndarray, shape (3, 3)
        As phonopy defines it.
    tolerance : float
        Tolerance of the symmetry, in A.
    """
    natoms = crystal.natoms
    found = symmetry_dataset(crystal.cell, crystal.positions, crystal.numbers, tolerance)
    if found is None:
        return Counts(6 * natoms, 3 * natoms + 6)
    rotations = np.asarray(found.rotations, dtype=np.int64)
    fixed = _fixed_atoms(crystal, rotations, np.asarray(found.translations))
    traces = np.trace(rotations, axis1=1, axis2=2)
    squares = np.einsum("oij,oji->o", rotations, rotations)
    # Dimensions of the invariant subspaces of strains and of displacements.
    strain = ((traces**2 + squares) / 2).mean()
    shifts = (fixed * traces).sum() / len(rotations)
    # The supercell may have less symmetry than the crystal.
    matrix = np.asarray(supercell_matrix, dtype=np.float64)
    in_supercell = np.linalg.solve(matrix, rotations @ matrix)
    kept = np.abs(in_supercell - np.round(in_supercell)).max(axis=(1, 2)) < 1e-6
    in_supercell = np.round(in_supercell[kept]).astype(np.int64)
    fixed = fixed[:, kept]
    # Count each orbit of atoms once: the size of an atom's orbit is the number of operations
    # divided by the number of those that leave it in place.
    copies = sum(
        _displacements(in_supercell[site].tobytes()) * site.sum() / len(in_supercell)
        for site in fixed
    )
    return Counts(max(1, round(copies)), max(1, round(strain + shifts)))


def _fixed_atoms(
    crystal: Crystal, rotations: NDArray[np.int64], translations: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which operations leave which atoms in place, shape (natoms, noperations)."""
    fractional = np.linalg.solve(crystal.cell.T, crystal.positions.T).T
    shifts = np.einsum("oij,aj->aoi", rotations, fractional) + translations - fractional[:, None]
    shifts -= np.round(shifts)
    near: NDArray[np.bool_] = np.linalg.norm(shifts @ crystal.cell, axis=2) < SAME_PLACE
    return near


@lru_cache(maxsize=4096)
def _displacements(site_symmetry: bytes) -> int:
    """Count displacements of an atom, from the rotations of its site (int64, shape (n, 3, 3))."""
    rotations = np.frombuffer(site_symmetry, dtype=np.int64).reshape(-1, 3, 3)
    directions = get_displacement(rotations, directions_axis)
    return sum(1 + is_minus_displacement(direction, rotations) for direction in directions)
