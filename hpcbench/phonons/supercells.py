"""Displaced supercells of a crystal, by phonopy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import get_primitive_matrix_with_auto

from hpcbench.born import NAC_PARAMS, of_primitive
from hpcbench.errors import PhononError, UnsuitableError
from hpcbench.potentials.copies import DisplacedCopies

if TYPE_CHECKING:
    from collections.abc import Sequence


# Cells are relaxed to some digits: a height that is a little too low is high enough.
ROUNDING = 1e-3


def full_matrix(supercell: Sequence[int]) -> NDArray[np.int64]:
    """A supercell given as 3 or 9 whole numbers, as a matrix of shape (3, 3)."""
    numbers = np.asarray(supercell, dtype=np.int64)
    return np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)


def heights(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances in A between opposite faces of a cell, whose lattice vectors are rows."""
    found: NDArray[np.float64] = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return found


def matrix_of_length(
    cell: NDArray[np.float64], natoms: int, length: float, most_atoms: int, shape: str
) -> NDArray[np.int64]:
    """The smallest supercell that is at least so high in all directions, as a matrix (3, 3).

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    natoms : int
        Atoms in it.
    length : float
        Smallest height of the supercell in A.
    most_atoms : int
        Where it would have more, the supercell becomes lower, along its longest direction first;
        never less than the cell. 0: no limit.
    shape : str
        ``diagonal``: multiples of the lattice vectors. ``cubic``: any that make it about a cube,
        by pymatgen's ``CubicSupercellTransformation``.
    """
    if shape == "cubic":
        matrix = _cubic(cell, natoms, length, most_atoms)
        if matrix is not None:
            return matrix
    single = heights(cell)
    multiples = np.maximum(1, np.ceil(length / single - ROUNDING)).astype(np.int64)
    while most_atoms and natoms * multiples.prod() > most_atoms and (multiples > 1).any():
        multiples[np.argmax(np.where(multiples > 1, multiples * single, 0.0))] -= 1
    return np.diag(multiples)


def _cubic(
    cell: NDArray[np.float64], natoms: int, length: float, most_atoms: int
) -> NDArray[np.int64] | None:
    """``None`` where pymatgen finds none within the limits."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.transformations.advanced_transformations import CubicSupercellTransformation

    # Of as many atoms as there are: it counts them, and does nothing else with them.
    points = [[number / (natoms + 1), 0.0, 0.0] for number in range(natoms)]
    structure = Structure(Lattice(cell), ["H"] * natoms, points)
    transformation = CubicSupercellTransformation(
        max_atoms=most_atoms or None, min_length=length, force_diagonal=False
    )
    try:
        transformation.apply_transformation(structure)
    except AttributeError:  # so it says that there is none
        return None
    # pymatgen's rows are the new lattice vectors, phonopy's columns.
    return np.rint(np.array(transformation.transformation_matrix)).astype(np.int64).T


def require_size(natoms: int, matrix: NDArray[np.int64], largest: int) -> None:
    """Refuse a supercell of more than ``largest`` atoms; 0: none.

    Raises
    ------
    UnsuitableError
        If it has more.
    """
    count = natoms * round(abs(np.linalg.det(matrix)))
    if count > largest > 0:
        raise UnsuitableError(
            "large supercell", f"{count} atoms, more than --largest-supercell {largest}"
        )


def next_larger(cell: NDArray[np.float64], matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The supercell after this one: one cell more along its lowest direction.

    The other directions follow where they would be lower than that one is then. One that is not
    diagonal is repeated.
    """
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))):
        base, start = matrix, np.ones(3, dtype=np.int64)
    else:
        base, start = np.eye(3, dtype=np.int64), np.diag(matrix)
    single = heights(base.T @ cell)
    lowest = int(np.argmin(start * single))
    target = (start[lowest] + 1) * single[lowest]
    multiples = np.maximum(start, np.ceil(target / single - ROUNDING).astype(np.int64))
    return base @ np.diag(multiples)


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
        The crystal whose phonons are wanted, with Born charges in ``info["nac_params"]`` if it has
        them.
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
        if NAC_PARAMS in atoms.info:
            phonon.nac_params = of_primitive(
                atoms.info[NAC_PARAMS], phonon.primitive, phonon.supercell
            )
        phonon.generate_displacements(distance=displacement, is_diagonal=False)
    except Exception as error:  # phonopy raises RuntimeError, TypeError and its own kinds
        raise PhononError("displacements", f"phonopy: {type(error).__name__}: {error}") from error
    return phonon


CHECKS = 2
"""Supercells beside the displaced ones that tell the noise of their forces."""


def with_checks(copies: DisplacedCopies) -> DisplacedCopies:
    """The same, and ``CHECKS`` more: not displaced, and the first displacement halved."""
    first = copies.displacements[0]
    return dataclasses.replace(
        copies,
        atoms=np.concatenate([copies.atoms, np.repeat(copies.atoms[0], CHECKS)]),
        displacements=np.concatenate([copies.displacements, [0.0 * first, 0.5 * first]]),
    )


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
