"""The parts of forces, stresses and steps that keep the symmetry, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.relaxation.segments import Segments, rows_of
from hpcbench.relaxation.symmetry import SymmetryOperations


@dataclass(frozen=True, eq=False)
class Projection:
    """The symmetry operations of a batch's structures, as tables of tensors.

    The symmetric part of the vectors is, at each atom, the mean over the operations of the vectors
    that they bring there. So every atom has one row for each operation, in the operations' order.

    Attributes
    ----------
    natoms, noperations : ndarray, shape (nstructures,)
        Sizes, on the host.
    rotations : Tensor, shape (sum of noperations, 3, 3), float64
        They act on columns of fractional coordinates.
    sources : Tensor, shape (sum of natoms * noperations,), int64
        Index, within its structure, of the atom that the operation brings here.
    """

    natoms: NDArray[np.int64]
    noperations: NDArray[np.int64]
    rotations: torch.Tensor
    sources: torch.Tensor
    _operations_of: Segments
    _rows_of: Segments
    _source_rows: torch.Tensor
    _rotation_rows: torch.Tensor

    @classmethod
    def _of(
        cls,
        natoms: NDArray[np.int64],
        noperations: NDArray[np.int64],
        rotations: torch.Tensor,
        sources: torch.Tensor,
    ) -> Projection:
        device = rotations.device
        atoms_of = Segments.of(natoms, device)
        operations_of = Segments.of(noperations, device)
        rows = Segments.of(np.repeat(noperations, natoms), device)
        structure = atoms_of.owners[rows.owners]
        place = torch.arange(len(rows.owners), device=device) - rows.starts[rows.owners]
        return cls(
            natoms,
            noperations,
            rotations,
            sources,
            operations_of,
            rows,
            sources + atoms_of.starts[structure],
            # Gathered once: it is as much work as the products themselves.
            rotations[place + operations_of.starts[structure]],
        )

    @classmethod
    def of(cls, structures: Sequence[SymmetryOperations], device: torch.device) -> Projection:
        """Return the tables of some structures' operations.

        Parameters
        ----------
        structures : sequence of SymmetryOperations
            The operations of each structure.
        device : torch.device
            Where the tensors are.
        """
        # The atom that comes here: the inverse of the permutation.
        sources = [np.argsort(one.permutations, axis=1).T.ravel() for one in structures]
        rotations = np.concatenate([one.rotations for one in structures])
        return cls._of(
            np.array([one.permutations.shape[1] for one in structures], dtype=np.int64),
            np.array([len(one.rotations) for one in structures], dtype=np.int64),
            torch.as_tensor(rotations, dtype=torch.float64, device=device),
            torch.as_tensor(np.concatenate(sources), dtype=torch.int64, device=device),
        )

    def select(self, kept: NDArray[np.int64]) -> Projection:
        """Return the tables of some structures, given by ascending index."""
        operations = rows_of(self.noperations, kept)
        rows = rows_of(self.natoms * self.noperations, kept)
        device = self.rotations.device
        return self._of(
            self.natoms[kept],
            self.noperations[kept],
            self.rotations[torch.as_tensor(operations, device=device)],
            self.sources[torch.as_tensor(rows, device=device)],
        )

    def join(self, other: Projection) -> Projection:
        """Return the tables of the structures of two batches, one after the other."""
        return self._of(
            np.concatenate([self.natoms, other.natoms]),
            np.concatenate([self.noperations, other.noperations]),
            torch.cat([self.rotations, other.rotations]),
            torch.cat([self.sources, other.sources]),
        )

    def vectors(
        self,
        vectors: torch.Tensor,
        cells: torch.Tensor,
        inverse_cells: torch.Tensor,
        atoms_of: Segments,
    ) -> torch.Tensor:
        """Return the symmetric part of one Cartesian vector for each atom, shape (natoms, 3).

        Parameters
        ----------
        vectors : Tensor, shape (natoms, 3)
            Cartesian.
        cells, inverse_cells : Tensor, shape (nstructures, 3, 3)
            Lattice vectors as rows, in A, and the inverses.
        atoms_of : Segments
            The atoms of each structure.
        """
        fractional = torch.einsum("ai,aij->aj", vectors, inverse_cells[atoms_of.owners])
        images = torch.einsum("rij,rj->ri", self._rotation_rows, fractional[self._source_rows])
        mean = self._rows_of.sum(images) / self._rows_of.lengths[:, None]
        return torch.einsum("ai,aij->aj", mean, cells[atoms_of.owners])

    def tensors(
        self, tensors: torch.Tensor, cells: torch.Tensor, inverse_cells: torch.Tensor
    ) -> torch.Tensor:
        """Return the symmetric part of one Cartesian tensor for each structure.

        Parameters
        ----------
        tensors : Tensor, shape (nstructures, 3, 3)
            Cartesian.
        cells, inverse_cells : Tensor, shape (nstructures, 3, 3)
            Lattice vectors as rows, in A, and the inverses.
        """
        scaled = (cells @ tensors @ cells.mT)[self._operations_of.owners]
        images = self.rotations.mT @ scaled @ self.rotations
        counts = self._operations_of.lengths[:, None, None]
        mean = self._operations_of.sum(images) / counts
        return inverse_cells @ mean @ inverse_cells.mT
