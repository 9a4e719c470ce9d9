"""Batches of periodic structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcbench.potentials.copies import DisplacedCopies

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DisplacedCopies", "Structures"]


@dataclass(frozen=True, eq=False)
class Structures:
    """Periodic structures as tensors on one device, one after the other.

    Attributes
    ----------
    numbers : Tensor, shape (natoms,), int64
        Atomic numbers of all structures.
    positions : Tensor, shape (natoms, 3), float64
        Cartesian positions in A; atoms may lie outside their cell.
    cells : Tensor, shape (nstructures, 3, 3), float64
        Lattice vectors as rows, in A, of either handedness.
    structure_of_atom : Tensor, shape (natoms,), int64
        Which structure an atom belongs to; ascending.
    first_atom : tuple of int, length nstructures + 1
        Where the atoms of each structure begin, and the number of atoms at the end; on the
        host, so that a batch can be cut without waiting for the device.
    """

    numbers: torch.Tensor
    positions: torch.Tensor
    cells: torch.Tensor
    structure_of_atom: torch.Tensor
    first_atom: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.first_atom) - 1

    @classmethod
    def from_atoms(
        cls, structures: Sequence[Atoms], device: torch.device | str = "cpu"
    ) -> Structures:
        """Make a batch of a list of ASE's atoms; all are taken as periodic.

        Parameters
        ----------
        structures : sequence of Atoms
            At least one.
        device : torch.device or str
            Where the batch is put.
        """
        natoms = [len(structure) for structure in structures]
        numbers = np.concatenate([structure.numbers for structure in structures])
        positions = np.concatenate([structure.positions for structure in structures])
        cells = np.stack([structure.cell[:] for structure in structures])
        return cls(
            torch.as_tensor(numbers, dtype=torch.int64, device=device),
            torch.as_tensor(positions, dtype=torch.float64, device=device),
            torch.as_tensor(cells, dtype=torch.float64, device=device),
            torch.as_tensor(np.repeat(np.arange(len(natoms)), natoms), device=device),
            (0, *accumulate(natoms)),
        )

    def part(self, first: int, end: int) -> Structures:
        """Return some structures of the batch as a batch.

        Parameters
        ----------
        first, end : int
            The first of them, and the one after the last.
        """
        atoms = slice(self.first_atom[first], self.first_atom[end])
        return Structures(
            self.numbers[atoms],
            self.positions[atoms],
            self.cells[first:end],
            self.structure_of_atom[atoms] - first,
            tuple(atom - atoms.start for atom in self.first_atom[first : end + 1]),
        )
