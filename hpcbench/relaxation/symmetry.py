"""Symmetry of a cell: found at a tolerance, made exact, or kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.constraints import FixSymmetry
from ase.spacegroup.symmetrize import refine_symmetry
from numpy.typing import NDArray

from hpcbench.symmetry import symmetry_dataset

if TYPE_CHECKING:
    from ase import Atoms

LARGEST_CHAIN_OF_SUPERGROUPS = 6
# Number of differences in memory while atoms are matched: 24 MB.
LARGEST_TABLE_OF_DISTANCES = 1_000_000


@dataclass(frozen=True)
class SpaceGroup:
    """A space group: its number (0 if none was found) and international symbol.

    Space groups are compared by number; the symbol may be that of another setting.
    """

    number: int
    symbol: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.symbol} ({self.number})"


UNKNOWN_SPACE_GROUP = SpaceGroup(0, "unknown")


@dataclass(frozen=True)
class Symmetry:
    """The symmetry of a cell: its space group, and the number of operations of the cell itself.

    A cell that is not primitive may gain translations without a change of the space group.
    """

    space_group: SpaceGroup
    noperations: int


def find_symmetry(atoms: Atoms, tolerance: float) -> Symmetry:
    """Find the symmetry of a cell with spglib.

    Parameters
    ----------
    atoms : Atoms
        The crystal.
    tolerance : float
        In A.
    """
    dataset = _dataset(atoms, tolerance)
    if dataset is None:
        return Symmetry(UNKNOWN_SPACE_GROUP, 1)
    group = SpaceGroup(int(dataset.number), str(dataset.international))
    return Symmetry(group, len(dataset.rotations))


def find_space_group(atoms: Atoms, tolerance: float) -> SpaceGroup:
    """Return the space group that spglib finds.

    Parameters
    ----------
    atoms : Atoms
        The crystal.
    tolerance : float
        In A.
    """
    return find_symmetry(atoms, tolerance).space_group


TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""In A: the tolerances at which the symmetry of a crystal is recorded."""
EXACT = TOLERANCES[0]
"""In A: symmetry within this tolerance counts as exact; it is phonopy's default."""


def space_group_numbers(*crystals: Atoms) -> list[list[int]]:
    """Return the numbers of the space groups at each of ``TOLERANCES``; 0 for none."""
    return [[find_space_group(atoms, t).number for t in TOLERANCES] for atoms in crystals]


@dataclass(frozen=True, eq=False)
class Idealised:
    """A cell brought to the exact symmetry found in it.

    Attributes
    ----------
    atoms : Atoms
        Same axes, setting, orientation and order of atoms; the given crystal if ``succeeded`` is
        false.
    largest_shift : float
        Largest displacement of an atom in A, without the deformation of the cell.
    succeeded : bool
        False if spglib's answers at this tolerance contradict each other.
    """

    atoms: Atoms
    largest_shift: float
    succeeded: bool


def idealise(atoms: Atoms, tolerance: float) -> Idealised:
    """Bring cell and positions to the symmetry found at a tolerance.

    ASE's ``refine_symmetry`` does this, which keeps axes, setting and the order of the atoms.

    Parameters
    ----------
    atoms : Atoms
        The crystal; it is not changed.
    tolerance : float
        In A.
    """
    bare = atoms.copy()
    bare.set_constraint()
    if find_space_group(bare, tolerance) == UNKNOWN_SPACE_GROUP:
        return Idealised(bare, 0.0, False)
    ideal = bare.copy()
    # A cell that has been made exact may show more symmetry within the tolerance than before, which
    # is then made exact as well. A space group has few supergroups, so this ends.
    for _ in range(LARGEST_CHAIN_OF_SUPERGROUPS):
        found = find_symmetry(ideal, tolerance)
        try:
            refine_symmetry(ideal, symprec=tolerance)
        except Exception:  # spglib's and ASE's own kinds, which differ by version
            return Idealised(bare, 0.0, False)
        if find_symmetry(ideal, tolerance) == found:
            break
    else:
        return Idealised(bare, 0.0, False)
    shift = ideal.get_scaled_positions(wrap=False) - bare.get_scaled_positions(wrap=False)
    shift -= np.round(shift)
    # Positions follow the space group's origin: a common translation is no distortion.
    shift -= shift.mean(axis=0)
    largest = float(np.linalg.norm(shift @ ideal.cell[:], axis=1).max())
    if not np.isfinite(largest) or largest > 10 * tolerance:
        return Idealised(bare, 0.0, False)
    return Idealised(ideal, largest, True)


@dataclass(frozen=True, eq=False)
class SymmetryOperations:
    """A group of operations that a crystal is to keep.

    Attributes
    ----------
    rotations : ndarray, shape (noperations, 3, 3), int
        They act on columns of fractional coordinates.
    permutations : ndarray, shape (noperations, natoms), int
        Index of the atom to whose place each atom is brought.
    complaint : str
        Why symmetry that was found is not kept; empty if it is.
    """

    rotations: NDArray[np.int64]
    permutations: NDArray[np.int64]
    complaint: str = ""

    def __len__(self) -> int:
        return len(self.rotations)


def no_operations(natoms: int, complaint: str = "") -> SymmetryOperations:
    """Return the identity alone.

    Parameters
    ----------
    natoms : int
        Number of atoms.
    complaint : str
        Why there is no symmetry to keep.
    """
    return SymmetryOperations(
        np.eye(3, dtype=np.int64)[None], np.arange(natoms, dtype=np.int64)[None], complaint
    )


class _Kept(FixSymmetry):
    """ASE's constraint with known operations; its own constructor would search for them."""

    def __init__(self, operations: SymmetryOperations) -> None:
        self.rotations = operations.rotations
        self.translations = np.zeros((len(operations), 3))  # asked for, but without effect
        self.symm_map = operations.permutations
        self.do_adjust_positions = self.do_adjust_cell = True


def operations_to_keep(
    atoms: Atoms, tolerance: float, before: SymmetryOperations | None = None
) -> tuple[Atoms, SymmetryOperations]:
    """Refine a crystal to its symmetry, and find the operations that relaxation is to keep.

    It does what the constructor of ASE's ``FixSymmetry`` does: ``refine_symmetry`` refines the
    crystal, then spglib finds the operations. A cell that is not primitive keeps its translations,
    whatever its space group. A crystal with nothing but the identity is returned unchanged; so is
    one for which spglib's answers contradict each other, with a complaint.

    Parameters
    ----------
    atoms : Atoms
        The crystal; it is not changed.
    tolerance : float
        In A.
    before : SymmetryOperations, optional
        Operations of a constraint that is still set: refinement then keeps only the part of its
        changes of cell and positions that is symmetric under them.
    """
    found = _dataset(atoms, tolerance)
    if found is None:
        return atoms, no_operations(len(atoms), "spglib finds none")
    if len(found.rotations) == 1:
        return atoms, no_operations(len(atoms))
    refined = atoms.copy()
    refined.set_constraint(None if before is None else _Kept(before))
    try:
        refine_symmetry(refined, symprec=tolerance)
    except Exception as error:  # spglib's and ASE's own kinds, which differ by version
        return atoms, no_operations(len(atoms), f"could not be refined: {error}")
    refined.set_constraint()
    return _with_operations(atoms, refined, tolerance)


def exact_operations(atoms: Atoms) -> SymmetryOperations:
    """Find the operations under which a crystal is symmetric within ``EXACT``."""
    return _with_operations(atoms, atoms, EXACT)[1]


def _with_operations(
    atoms: Atoms, refined: Atoms, tolerance: float
) -> tuple[Atoms, SymmetryOperations]:
    """Return the refined crystal and its operations, or the given crystal with a complaint."""
    found = _dataset(refined, tolerance)
    if found is None:
        return atoms, no_operations(len(atoms), "spglib finds none after refinement")
    permutations = atom_permutations(refined, found.rotations, found.translations)
    if permutations is None:
        return atoms, no_operations(len(atoms), "spglib's operations do not permute the atoms")
    return refined, SymmetryOperations(np.asarray(found.rotations, dtype=np.int64), permutations)


def _dataset(atoms: Atoms, tolerance: float) -> Any | None:
    return symmetry_dataset(atoms.cell[:], atoms.positions, atoms.numbers, tolerance)


def atom_permutations(
    atoms: Atoms, rotations: NDArray[Any], translations: NDArray[Any]
) -> NDArray[np.int64] | None:
    """Return where operations bring the atoms; ``None`` if they do not permute them.

    Each atom goes to the nearest atom of its element, by Cartesian distance in the periodic
    crystal. Every operation has to bring exactly one atom to each place.

    Parameters
    ----------
    atoms : Atoms
        The crystal.
    rotations : ndarray, shape (noperations, 3, 3)
        They act on columns of fractional coordinates.
    translations : ndarray, shape (noperations, 3)
        Fractional.

    Returns
    -------
    ndarray, shape (noperations, natoms)
        Index of the atom to whose place each atom is brought.
    """
    natoms = len(atoms)
    fractional = atoms.get_scaled_positions(wrap=False)
    other_element = atoms.numbers[:, None] != atoms.numbers
    permutations = np.empty((len(rotations), natoms), dtype=np.int64)
    together = max(1, LARGEST_TABLE_OF_DISTANCES // natoms**2)
    for first in range(0, len(rotations), together):
        part = slice(first, first + together)
        images = np.einsum("oij,aj->oai", rotations[part], fractional)
        images += translations[part][:, None]
        difference = images[:, :, None] - fractional
        difference -= np.round(difference)
        distances = ((difference @ atoms.cell[:]) ** 2).sum(axis=-1)
        distances[:, other_element] = np.inf
        permutations[part] = distances.argmin(axis=2)
    if (np.sort(permutations, axis=1) != np.arange(natoms)).any():
        return None
    return permutations
