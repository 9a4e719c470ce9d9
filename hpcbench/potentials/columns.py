"""Waves of displacements, and a potential's linear response to them. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of a q in reciprocal lattice vectors: two that differ by less are the same.
SAME_Q = 1e-9


@dataclass(frozen=True, eq=False)
class Columns:
    """Displacements and strains of a crystal that the linear response is asked for.

    In the cell at the lattice vector R, atoms move by ``displacements * exp(2 pi i q.R)``. R is
    relative to the positions as given: the phase is that of lattice vectors, phonopy's that of
    positions.

    Attributes
    ----------
    displacements : ndarray, shape (ncolumns, natoms, 3), complex
        Of the atoms of the cell at the origin, in A; real where all of ``qpoints`` are real.
    qpoints : ndarray, shape (ncolumns, 3)
        In reciprocal lattice vectors.
    strains : ndarray, shape (ncolumns, 3, 3)
        Edge vectors r change by ``r @ strain`` besides.
    """

    displacements: NDArray[np.complex128]
    qpoints: NDArray[np.float64]
    strains: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.qpoints)

    @property
    def are_real(self) -> bool:
        """Tell whether all phases are 1 or -1, so that real displacements have real answers."""
        return bool(is_real(self.qpoints).all())

    @property
    def parts(self) -> int:
        """Return how many real numbers make one number of the answers."""
        return 1 if self.are_real else 2

    def only(self, which: slice) -> Columns:
        """Return some of the columns."""
        return Columns(self.displacements[which], self.qpoints[which], self.strains[which])


@dataclass(frozen=True, eq=False)
class Response:
    """Hold what forces and stress change by along the columns of a crystal.

    Attributes
    ----------
    forces : ndarray, shape (ncolumns, natoms, 3), complex
        Changes of the forces on the atoms of the cell at the origin, in eV/A.
    virials : ndarray, shape (ncolumns, 3, 3)
        Changes of the sum over edges of vector times gradient, in eV, vectors as they were: the
        volume times the change of stress of a crystal without stress. Zero where q is not.
    """

    forces: NDArray[np.complex128]
    virials: NDArray[np.float64]


def is_real(qpoints: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which q (..., 3) are half a reciprocal lattice vector, or none."""
    return np.asarray((np.abs(2 * qpoints - np.rint(2 * qpoints)) < SAME_Q).all(axis=-1))


def displaced(displacements: NDArray[np.complex128], qpoints: NDArray[np.float64]) -> Columns:
    """Return columns without strain.

    Parameters
    ----------
    displacements : ndarray, shape (ncolumns, natoms, 3), complex
        As in :class:`Columns`.
    qpoints : ndarray, shape (ncolumns, 3)
        As in :class:`Columns`.
    """
    return Columns(displacements, qpoints, np.zeros((len(qpoints), 3, 3)))


def joined(*parts: Columns) -> Columns:
    """Return the columns of several, one after the other."""
    return Columns(
        np.concatenate([part.displacements for part in parts]),
        np.concatenate([part.qpoints for part in parts]),
        np.concatenate([part.strains for part in parts]),
    )
