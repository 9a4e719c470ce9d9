"""Displaced supercells of a crystal, by phonopy."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hpcbench.born import NAC_PARAMS, of_primitive
from hpcbench.cells import EMPTY, gaps, heights
from hpcbench.crystal import Crystal
from hpcbench.errors import PhononError, UnsuitableError
from hpcbench.masses import make_phonopy, phonopy_atoms
from hpcbench.potentials.copies import DisplacedCopies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms


# Cells are relaxed to a few digits: a height that is lower by this share of a cell still suffices.
ROUNDING = 1e-3

ALIKE = 0.03
"""Heights of a cell that differ by less than this share are multiplied alike: if a generator
reached a symmetry only nearly, the relaxation finds it, and they become equal."""


def full_matrix(supercell: Sequence[int]) -> NDArray[np.int64]:
    """Return a supercell given as 3 or 9 whole numbers as a matrix of shape (3, 3)."""
    numbers = np.asarray(supercell, dtype=np.int64)
    return np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)


def lowest_height(cell: NDArray[np.float64], positions: NDArray[np.float64]) -> float:
    """Return the smallest height of a supercell in A, except across a vacuum.

    NaN if there is vacuum in all directions.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors of the supercell as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Of its atoms, Cartesian, in A.
    """
    across = heights(cell)[gaps(cell, positions) <= EMPTY]
    return float(across.min()) if len(across) else float("nan")


def matrix_of_length(
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
    length: float,
    most_atoms: int,
    shape: str,
) -> NDArray[np.int64]:
    """Return the smallest supercell of at least a given height in all directions, shape (3, 3).

    It is not multiplied across a vacuum, that is a gap between atomic planes wider than ``EMPTY``:
    nothing acts across it, and rounding alone would make modes between the layers.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    length : float
        Smallest height of the supercell in A.
    most_atoms : int
        Largest number of atoms; 0 for no limit. Above it the supercell becomes lower, first along
        its longest direction and those of similar height; it is never smaller than the cell.
    shape : str
        ``diagonal``: multiples of the lattice vectors. ``cubic``: any that make it about a cube,
        by pymatgen's ``CubicSupercellTransformation``; diagonal where there is a vacuum.
    """
    natoms, is_empty = len(positions), gaps(cell, positions) > EMPTY
    if shape == "cubic" and not is_empty.any():
        matrix = _cubic(cell, natoms, length, most_atoms)
        if matrix is not None:
            return matrix
    single = _leveled(np.where(is_empty, np.inf, heights(cell)))
    multiples = np.maximum(1, np.ceil(length / single - ROUNDING)).astype(np.int64)
    while most_atoms and natoms * multiples.prod() > most_atoms and (multiples > 1).any():
        high = np.where(multiples > 1, multiples * single, 0.0)
        multiples[(single == single[np.argmax(high)]) & (multiples > 1)] -= 1
    return np.diag(multiples)


def _leveled(single: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace each height by the lower one that it exceeds by less than ``ALIKE``."""
    leveled = single.copy()
    for lower, higher in itertools.pairwise(np.argsort(single)):
        if single[higher] < leveled[lower] * (1 + ALIKE):
            leveled[higher] = leveled[lower]
    return leveled


def _cubic(
    cell: NDArray[np.float64], natoms: int, length: float, most_atoms: int
) -> NDArray[np.int64] | None:
    """Return pymatgen's cubic supercell; ``None`` if there is none within the limits."""
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
    """Refuse a supercell with too many atoms.

    Parameters
    ----------
    natoms : int
        Number of atoms of the cell.
    matrix : ndarray, shape (3, 3)
        The supercell matrix.
    largest : int
        Largest number of atoms of the supercell; 0 for no limit.

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


def next_larger(
    cell: NDArray[np.float64], positions: NDArray[np.float64], matrix: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the next larger supercell: one cell more along its lowest direction.

    Other directions that would then be the lowest grow as well. A supercell that is not diagonal is
    repeated. Directions across a vacuum stay as they are.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    matrix : ndarray, shape (3, 3)
        Of the supercell, in phonopy's sense.

    Raises
    ------
    UnsuitableError
        If there is vacuum in all directions.
    """
    is_empty = gaps(cell, positions) > EMPTY
    if is_empty.all():
        raise UnsuitableError("vacuum", "it has vacuum on all sides, and no larger supercell")
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))):
        # Its directions are others than the cell's.
        base, start, is_empty = matrix, np.ones(3, dtype=np.int64), np.zeros(3, dtype=bool)
    else:
        base, start = np.eye(3, dtype=np.int64), np.diag(matrix)
    single = heights(base.T @ cell)
    lowest = int(np.argmin(np.where(is_empty, np.inf, start * single)))
    target = (start[lowest] + 1) * single[lowest]
    multiples = np.maximum(start, np.ceil(target / single - ROUNDING).astype(np.int64))
    return base @ np.diag(np.where(is_empty, start, multiples))


def half_again(
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
    matrix: NDArray[np.int64],
    most_atoms: int,
) -> NDArray[np.int64]:
    """Return a supercell 1.5 times as high, or as high as the limit on atoms allows.

    If that is no larger, the same supercell is returned.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    matrix : ndarray, shape (3, 3)
        Of the supercell, in phonopy's sense.
    most_atoms : int
        Largest number of atoms; 0 for no limit.
    """
    is_empty, multiples = gaps(cell, positions) > EMPTY, np.diag(matrix)
    if is_empty.all():
        return matrix
    is_diagonal = not np.count_nonzero(matrix - np.diag(multiples))
    high = heights(matrix.T @ cell)
    lowest = high[~is_empty].min() if is_diagonal else high.min()
    larger = matrix_of_length(cell, positions, 1.5 * float(lowest), most_atoms, "diagonal")
    if is_diagonal:
        # No direction becomes lower: what was exact stays so where that is possible.
        larger = np.diag(np.maximum(np.diag(larger), multiples))
    cells = round(abs(np.linalg.det(larger)))
    grows = cells > round(abs(np.linalg.det(matrix)))
    fits = not most_atoms or cells * len(positions) <= most_atoms
    return larger if grows and fits else matrix


def displace(
    atoms: Atoms,
    *,
    supercell_matrix: NDArray[np.int64],
    primitive_matrix: str | NDArray[np.float64],
    displacement: float,
    symprec: float,
    opposite: bool = True,
) -> Phonopy:
    """Return a Phonopy object with its symmetry-reduced displacements.

    Parameters
    ----------
    atoms : Atoms
        The crystal, with Born charges in ``info["nac_params"]`` if it has them, and with masses if
        they are not those of the elements.
    supercell_matrix : ndarray, shape (3, 3)
        In phonopy's sense.
    primitive_matrix : str or ndarray, shape (3, 3)
        ``auto`` (phonopy finds the primitive cell), ``P`` (the cell is primitive), or the matrix.
    displacement : float
        Length in A; along lattice vectors only (``is_diagonal=False``).
    symprec : float
        Tolerance of the symmetry in A.
    opposite : bool
        Whether to displace atoms in the opposite direction as well, where that is not equivalent by
        symmetry.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    """
    try:
        phonon = make_phonopy(
            _phonopy_atoms(atoms), primitive_matrix, symprec, supercell_matrix=supercell_matrix
        )
        if NAC_PARAMS in atoms.info:
            phonon.nac_params = of_primitive(
                atoms.info[NAC_PARAMS], phonon.primitive, phonon.supercell
            )
        phonon.generate_displacements(
            distance=displacement,
            is_diagonal=False,
            is_plusminus="auto" if opposite else False,
        )
    except Exception as error:  # phonopy raises RuntimeError, TypeError and its own kinds
        raise PhononError("displacements", f"phonopy: {type(error).__name__}: {error}") from error
    return phonon


def primitive_of(atoms: Atoms, symprec: float) -> Phonopy:
    """Return a Phonopy object whose primitive cell is the given cell, atom for atom.

    Parameters
    ----------
    atoms : Atoms
        The primitive cell.
    symprec : float
        Tolerance of the symmetry, in A.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    """
    try:
        return make_phonopy(_phonopy_atoms(atoms), "P", symprec, supercell_matrix=np.eye(3))
    except Exception as error:  # phonopy raises RuntimeError, TypeError and its own kinds
        raise PhononError("primitive cell", f"phonopy: {type(error).__name__}: {error}") from error


def _phonopy_atoms(atoms: Atoms) -> PhonopyAtoms:
    masses = atoms.get_masses() if atoms.has("masses") else None
    return phonopy_atoms(atoms.numbers, masses, cell=atoms.cell[:], positions=atoms.positions)


def primitive_atoms(phonon: Phonopy) -> Atoms:
    """Return the primitive cell, with positions as phonopy has them, on which phases depend."""
    primitive = phonon.primitive
    return Atoms(
        numbers=primitive.numbers,
        cell=primitive.cell,
        positions=primitive.scaled_positions @ primitive.cell,
        pbc=True,
    )


CHECKS = 2
"""Number of supercells beside the displaced ones that measure the noise of their forces."""


def with_checks(copies: DisplacedCopies) -> DisplacedCopies:
    """Add ``CHECKS`` supercells: one undisplaced, and one with half the first displacement."""
    first = copies.displacements[0]
    return dataclasses.replace(
        copies,
        atoms=np.concatenate([copies.atoms, np.repeat(copies.atoms[0], CHECKS)]),
        displacements=np.concatenate([copies.displacements, [0.0 * first, 0.5 * first]]),
    )


def displaced_copies(phonon: Phonopy) -> DisplacedCopies:
    """Return the displaced supercells, in the order of phonopy's displacements."""
    supercell = phonon.supercell
    displaced = (phonon.dataset or {})["first_atoms"]
    return DisplacedCopies(
        np.array(supercell.numbers, dtype=np.int64),
        np.array(supercell.positions, dtype=np.float64),
        np.array(supercell.cell, dtype=np.float64),
        np.array([entry["number"] for entry in displaced], dtype=np.int64),
        np.array([entry["displacement"] for entry in displaced], dtype=np.float64).reshape(-1, 3),
    )


def supercell_of(
    crystal: Crystal,
    supercell: str | Sequence[float],
    most_atoms: int = 0,
    shape: str = "diagonal",
) -> NDArray[np.int64]:
    """Return the supercell matrix that a run's settings ask for, shape (3, 3).

    It depends on the crystal as given, so that it is the same before the run and in it. Where the
    settings leave it to a source that names none, the crystal will fail: the cell itself.

    Parameters
    ----------
    crystal : Crystal
        As it was read.
    supercell : str or sequence of float
        ``source``, three or nine whole numbers, or the least height in A.
    most_atoms : int
        Most atoms of a supercell that is found by its height; 0 for any number.
    shape : str
        As ``--supercell-shape`` takes it.
    """
    if not isinstance(supercell, str):
        if len(supercell) > 1:
            return full_matrix([int(n) for n in supercell])
        return matrix_of_length(crystal.cell, crystal.positions, supercell[0], most_atoms, shape)
    asked = crystal.supercell_matrix
    return np.eye(3, dtype=np.int64) if asked is None else np.asarray(asked, dtype=np.int64)
