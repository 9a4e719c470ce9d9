"""The batch methods of potentials that evaluate one structure after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hpcbench.errors import HpcbenchError
from hpcbench.potentials.boundary import answering, numbers_of
from hpcbench.potentials.protocol import BatchEvaluation, Evaluation, PotentialInfo, PreparedCopies
from hpcbench.potentials.structures import DisplacedCopies, Structures


class OneByOne(ABC):
    """A potential whose forward pass holds one structure.

    What it costs is counted in structures, so that displaced copies are evaluated one a pass.
    """

    info: PotentialInfo
    device = torch.device("cpu")
    capacity = 1
    at: Atoms | None = None
    """The structure that was last begun, for who watches."""

    @abstractmethod
    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """See the protocol."""

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """See the protocol."""
        energies = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        forces = torch.full_like(batch.positions, torch.nan)
        stresses = torch.full_like(batch.cells, torch.nan) if stress else None
        problems: dict[int, HpcbenchError] = {}
        for index in range(len(batch)):
            rows = slice(batch.first_atom[index], batch.first_atom[index + 1])
            atoms = Atoms(
                numbers=batch.numbers[rows].numpy(),
                positions=batch.positions[rows].numpy(),
                cell=batch.cells[index].numpy(),
                pbc=True,
            )
            try:
                with answering():
                    (result,) = self.evaluate([atoms], stress=stress)
                    # Torch would spread one row over all atoms.
                    answer = numbers_of(result.forces, (len(atoms), 3), "forces")
            except HpcbenchError as error:
                problems[index] = error
                continue
            energies[index] = result.energy
            forces[rows] = torch.from_numpy(answer)
            if stresses is not None and result.stress is not None:
                stresses[index] = torch.from_numpy(result.stress)
        return BatchEvaluation(energies, forces, stresses, problems)

    def cost(self, natoms: int, volume: float) -> float:
        """See the protocol: every structure takes a pass of its own."""
        return 1.0

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """See the protocol: there is nothing to share."""
        return PreparedCopies(copies, 1, None)

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """See the protocol."""
        results = []
        for prepared, first, end in parts:
            copies = prepared.copies
            structures = []
            for index in range(first, end):
                positions = copies.positions.copy()
                positions[copies.atoms[index]] += copies.displacements[index]
                structures.append(
                    Atoms(numbers=copies.numbers, positions=positions, cell=copies.cell, pbc=True)
                )
            results.append(np.array([result.forces for result in self.evaluate(structures)]))
        return results
