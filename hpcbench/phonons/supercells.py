"""Displaced supercells of a crystal, by phonopy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import get_primitive_matrix_with_auto

from hpcbench.errors import PhononError
from hpcbench.potentials.copies import DisplacedCopies

if TYPE_CHECKING:
    from collections.abc import Sequence


def full_matrix(supercell: Sequence[int]) -> NDArray[np.int64]:
    """A supercell given as 3 or 9 whole numbers, as a matrix of shape (3, 3)."""
    numbers = np.asarray(supercell, dtype=np.int64)
    return np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)


def displace(
    atoms: Atoms,
    *,
    supercell_matrix: NDArray[np.int64],
    primitive_matrix: str,
    displacement: float,
    symprec: float,
) -> Phonopy:
    """A Phonopy object with its symmetry-reduced displacements.

    Parameters
    ----------
    atoms : Atoms
        The crystal whose phonons are wanted.
    supercell_matrix : ndarray, shape (3, 3)
        In phonopy's sense.
    primitive_matrix : str
        ``auto`` or ``P``.
    displacement : float
        Length in A; along lattice vectors only (``is_diagonal=False``).
    symprec : float
        Tolerance of the symmetry in A.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    """
    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions)
    try:
        phonon = Phonopy(
            cell,
            supercell_matrix=supercell_matrix,
            # Resolved here: left to Phonopy, "auto" warns of a change since its version 3.
            primitive_matrix=get_primitive_matrix_with_auto(cell, primitive_matrix, symprec),
            symprec=symprec,
        )
        phonon.generate_displacements(distance=displacement, is_diagonal=False)
    except Exception as error:  # phonopy raises RuntimeError, TypeError and its own kinds
        raise PhononError("displacements", f"phonopy: {type(error).__name__}: {error}") from error
    return phonon


def displaced_copies(phonon: Phonopy) -> DisplacedCopies:
    """The displaced supercells, in the order of phonopy's displacements."""
    supercell = phonon.supercell
    displaced = (phonon.dataset or {})["first_atoms"]
    return DisplacedCopies(
        np.array(supercell.numbers, dtype=np.int64),
        np.array(supercell.positions, dtype=np.float64),
        np.array(supercell.cell, dtype=np.float64),
        np.array([entry["number"] for entry in displaced], dtype=np.int64),
        np.array([entry["displacement"] for entry in displaced], dtype=np.float64).reshape(-1, 3),
    )
