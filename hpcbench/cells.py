"""Geometry of cells: heights, vacuum, handedness, and periodicity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EMPTY = 8.0
"""In A: a gap between atomic planes that is wider is vacuum. It is more than the cutoffs of
potentials (MatterSim 5 A, CHGNet, MACE and ORB 6 A), and than van der Waals gaps of layered
crystals (3 to 4 A)."""


def right_handed(cell: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Make a cell right-handed, as phonopy and seekpath need it; return it and a note, or "".

    All three vectors are reversed: lattice, Cartesian positions and the order of the vectors stay,
    so that a supercell matrix keeps its meaning.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows.
    """
    if np.linalg.det(cell) < 0:
        return -cell, "left-handed cell: its lattice vectors are reversed"
    return cell, ""


def heights(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances in A between opposite faces of a cell (lattice vectors as rows)."""
    found: NDArray[np.float64] = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return found


def gaps(cell: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the widest gap between atomic planes along the normal of each face, shape (3,), in A.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    """
    fractional = np.linalg.solve(cell.T, positions.T).T
    fractional = np.sort(fractional - np.floor(fractional), axis=0)
    steps = np.diff(fractional, axis=0, append=fractional[:1] + 1.0)
    return np.asarray(steps.max(axis=0) * heights(cell))


@dataclass(frozen=True)
class Periodicity:
    """The meaning of boundary conditions for a crystal.

    Attributes
    ----------
    is_isolated : bool
        Whether it is a molecule with vacuum on all sides.
    note : str
        A note for its row; empty if there is none.
    """

    is_isolated: bool = False
    note: str = ""


def periodicity(
    pbc: Sequence[bool] | NDArray[np.bool_],
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
) -> Periodicity:
    """Interpret periodic boundary conditions that are false.

    Many programs forget to set them for crystals. In a direction with vacuum they make no
    difference; without vacuum they do, and the crystal is still taken as periodic.

    Parameters
    ----------
    pbc : sequence of 3 bool
        As given by the source.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A; not singular.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    """
    is_open = ~np.asarray(pbc, dtype=bool)
    if not is_open.any():
        return Periodicity()
    is_tight = gaps(cell, positions) <= EMPTY
    flags = " ".join("F" if one else "T" for one in is_open)
    if is_open.all() and not is_tight.any():
        return Periodicity(True, f"pbc {flags} and vacuum on all sides: a molecule, not a crystal")
    if (is_open & is_tight).any():
        return Periodicity(False, f'pbc "{flags}" without vacuum: taken as periodic')
    return Periodicity()
