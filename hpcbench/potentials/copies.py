"""Displaced copies of one supercell. Loads no torch: worker processes make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DisplacedCopies:
    """Copies of one supercell, each with one atom displaced.

    Attributes
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers of the supercell.
    positions : ndarray, shape (natoms, 3), float64
        Positions of the perfect supercell in A.
    cell : ndarray, shape (3, 3), float64
        Lattice vectors of the supercell as rows, in A.
    atoms : ndarray, shape (ncopies,)
        The displaced atom of each copy.
    displacements : ndarray, shape (ncopies, 3), float64
        Its displacement in A.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    atoms: NDArray[np.int64]
    displacements: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.atoms)

    def only(self, which: slice) -> DisplacedCopies:
        """Return some of the copies."""
        return replace(self, atoms=self.atoms[which], displacements=self.displacements[which])

    @property
    def natoms(self) -> int:
        """Return the number of atoms in one copy."""
        return len(self.numbers)

    @property
    def largest_displacement(self) -> float:
        """Return the length of the largest displacement, in A."""
        return float(np.linalg.norm(self.displacements, axis=1).max(initial=0.0))
