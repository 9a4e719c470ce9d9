"""Symmetry of a cell: found at a tolerance, or made exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import spglib
from ase.spacegroup.symmetrize import refine_symmetry

from hpcbench.symmetry import symmetry_dataset

if TYPE_CHECKING:
    from ase import Atoms

LARGEST_CHAIN_OF_SUPERGROUPS = 6


@dataclass(frozen=True)
class SpaceGroup:
    """A space group: its number (0 where none was found) and international symbol."""

    number: int
    symbol: str

    def __str__(self) -> str:
        return f"{self.symbol} ({self.number})"


UNKNOWN_SPACE_GROUP = SpaceGroup(0, "unknown")


def find_space_group(atoms: Atoms, tolerance: float) -> SpaceGroup:
    """The space group that spglib finds at a tolerance in A."""
    dataset = symmetry_dataset(atoms.cell[:], atoms.positions, atoms.numbers, tolerance)
    if dataset is None:
        return UNKNOWN_SPACE_GROUP
    return SpaceGroup(int(dataset.number), str(dataset.international))


@dataclass(frozen=True, eq=False)
class Idealised:
    """A cell brought to the exact symmetry found in it.

    Attributes
    ----------
    atoms : Atoms
        Same axes, setting, orientation and order of atoms; as given where ``succeeded`` is
        false.
    largest_shift : float
        Largest displacement of an atom in A, deformation of the cell left out.
    succeeded : bool
        False where spglib's answers at this tolerance contradict each other.
    """

    atoms: Atoms
    largest_shift: float
    succeeded: bool


def idealise(atoms: Atoms, tolerance: float) -> Idealised:
    """Bring cell and positions to the symmetry found at ``tolerance`` (A).

    By ASE's ``refine_symmetry``, which keeps axes, setting and the order of the atoms.
    """
    bare = atoms.copy()
    bare.set_constraint()
    if find_space_group(bare, tolerance) == UNKNOWN_SPACE_GROUP:
        return Idealised(bare, 0.0, False)
    ideal = bare.copy()
    # Made exact, a cell may show more symmetry within the tolerance than it did before: that is
    # then made exact in turn. A space group has few supergroups, so this ends.
    for _ in range(LARGEST_CHAIN_OF_SUPERGROUPS):
        found = find_space_group(ideal, tolerance)
        try:
            refine_symmetry(ideal, symprec=tolerance)
        except (ValueError, spglib.SpglibError):
            return Idealised(bare, 0.0, False)
        if find_space_group(ideal, tolerance) == found:
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
