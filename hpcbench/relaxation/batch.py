"""The state of crystals that are relaxed together, as tensors on the potential's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.potentials.protocol import BatchEvaluation
from hpcbench.potentials.structures import Structures
from hpcbench.relaxation.fire import FireState, Vector, fire_step
from hpcbench.relaxation.frechet import cell_forces, exponential, volumes
from hpcbench.relaxation.projection import Projection
from hpcbench.relaxation.segments import Segments, join, rows_of, select
from hpcbench.relaxation.start import Start

# ASE's FixSymmetry refuses a step that changes an element of the deformation by more than this.
LARGEST_DEFORMATION_STEP = 0.25


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a batch, one row for each structure.

    Attributes
    ----------
    references, inverse_references : Tensor, shape (nstructures, 3, 3)
        Cells (rows, in A) at the beginning of the round, and their inverses.
    logarithms : Tensor, shape (nstructures, 3, 3)
        U of the deformation exp(U) since then.
    deformations, inverse_deformations : Tensor, shape (nstructures, 3, 3)
        exp(U) and exp(-U).
    pressures : Tensor, shape (nstructures,)
        External pressure in eV/A^3.
    free : Tensor, shape (nstructures,), bool
        Whether the cell is relaxed.
    wild : Tensor, shape (nstructures,), bool
        Whether the last step was refused because it deformed the cell too much.
    """

    references: torch.Tensor
    inverse_references: torch.Tensor
    logarithms: torch.Tensor
    deformations: torch.Tensor
    inverse_deformations: torch.Tensor
    pressures: torch.Tensor
    free: torch.Tensor
    wild: torch.Tensor

    @property
    def current(self) -> torch.Tensor:
        """The present cells."""
        return self.references @ self.deformations.mT

    @property
    def inverse(self) -> torch.Tensor:
        """The inverses of the present cells."""
        return self.inverse_deformations.mT @ self.inverse_references


@dataclass(frozen=True, eq=False)
class Sites:
    """The atoms of a batch, one row for each.

    Attributes
    ----------
    numbers : Tensor, shape (natoms,), int64
        Atomic numbers.
    positions : Tensor, shape (natoms, 3)
        Cartesian, in A, in the reference cell.
    """

    numbers: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """The state of crystals that are relaxed together; a step makes a new batch.

    Attributes
    ----------
    cells, sites, fire, symmetry : Cells, Sites, FireState, Projection
        The state of the cells, the atoms and the optimiser, and the symmetry operations.
    natoms : ndarray, shape (nstructures,)
        On the host.
    atoms_of : Segments
        The atoms of each structure.
    first_atom : tuple of int, length nstructures + 1
        The row of the first atom of each structure.
    """

    cells: Cells
    sites: Sites
    fire: FireState
    symmetry: Projection
    natoms: NDArray[np.int64]
    atoms_of: Segments
    first_atom: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.natoms)

    @classmethod
    def _of(cls, cells: Cells, sites: Sites, fire: FireState, symmetry: Projection) -> Batch:
        natoms = symmetry.natoms
        first_atom = (0, *np.cumsum(natoms).tolist())
        atoms_of = Segments.of(natoms, cells.free.device)
        return cls(cells, sites, fire, symmetry, natoms, atoms_of, first_atom)

    @classmethod
    def of(cls, starts: Sequence[Start], device: torch.device) -> Batch:
        """Return a batch of crystals before their first step.

        Parameters
        ----------
        starts : sequence of Start
            The crystals.
        device : torch.device
            Where the tensors are.
        """
        given = Structures.from_atoms([start.atoms for start in starts], device)
        count = len(starts)
        inverses = np.linalg.inv(np.stack([start.atoms.cell[:] for start in starts]))
        identities = torch.eye(3, dtype=torch.float64, device=device).repeat(count, 1, 1)
        cells = Cells(
            given.cells,
            torch.as_tensor(inverses, device=device),
            torch.zeros_like(given.cells),
            identities,
            identities,
            torch.tensor([s.pressure for s in starts], dtype=torch.float64, device=device),
            torch.tensor([s.mode == "full" for s in starts], device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
        )
        return cls._of(
            cells,
            Sites(given.numbers, given.positions),
            FireState.at_rest(len(given.numbers), count, device),
            Projection.of([start.operations for start in starts], device),
        )

    def join(self, other: Batch) -> Batch:
        """Return the crystals of two batches, one after the other."""
        return self._of(
            join(self.cells, other.cells),
            join(self.sites, other.sites),
            self.fire.join(other.fire),
            self.symmetry.join(other.symmetry),
        )

    def select(self, kept: NDArray[np.int64]) -> Batch:
        """Return a batch of some of the crystals, given by ascending index."""
        structures, atoms = self.rows(kept)
        return self._of(
            select(self.cells, structures),
            select(self.sites, atoms),
            self.fire.select(structures, atoms),
            self.symmetry.select(kept),
        )

    def rows(self, kept: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the indices of some structures and of their atoms, on the device."""
        device = self.cells.free.device
        atoms = rows_of(self.natoms, kept)
        return torch.as_tensor(kept, device=device), torch.as_tensor(atoms, device=device)

    def structures(self) -> Structures:
        """Return the crystals in their present state."""
        deformations = self.cells.deformations[self.atoms_of.owners]
        return Structures(
            self.sites.numbers,
            torch.einsum("ai,aji->aj", self.sites.positions, deformations),
            self.cells.current,
            self.atoms_of.owners,
            self.first_atom,
        )

    def symmetrised(self, evaluation: BatchEvaluation) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the symmetric parts of forces (eV/A) and stresses (eV/A^3; NaN if missing)."""
        cells, inverses = self.cells.current, self.cells.inverse
        forces = self.symmetry.vectors(evaluation.forces.detach(), cells, inverses, self.atoms_of)
        if evaluation.stresses is None:
            return forces, torch.full_like(cells, torch.nan)
        stresses = evaluation.stresses.detach()
        stresses = (stresses + stresses.mT) / 2
        return forces, self.symmetry.tensors(stresses, cells, inverses)

    def generalised(self, forces: torch.Tensor, stresses: torch.Tensor) -> Vector:
        """Return forces on positions in the reference cell and on the scaled logarithm, in eV/A.

        Parameters
        ----------
        forces : Tensor, shape (natoms, 3)
            In eV/A.
        stresses : Tensor, shape (nstructures, 3, 3)
            Cauchy stresses in eV/A^3.
        """
        cells = self.cells
        on_sites = torch.einsum("ai,aij->aj", forces, cells.deformations[self.atoms_of.owners])
        identity = torch.eye(3, dtype=torch.float64, device=forces.device)
        total = stresses + cells.pressures[:, None, None] * identity
        virials = -volumes(cells.current)[:, None, None] * total
        on_cells = cell_forces(cells.logarithms, cells.inverse_deformations, virials)
        on_cells = on_cells / self.atoms_of.lengths[:, None, None]
        # Where the cell is held the stress may be missing, that is NaN.
        return Vector(on_sites, torch.where(cells.free[:, None, None], on_cells, 0.0))

    def largest(self, forces: Vector) -> torch.Tensor:
        """Return the largest row of the generalised forces in eV/A, shape (nstructures,)."""
        of_atoms = self.atoms_of.largest((forces.atoms**2).sum(1))
        of_cells = (forces.cells**2).sum(2).amax(1)
        return torch.maximum(of_atoms, of_cells).sqrt()

    def report(self, forces: Vector, energies: torch.Tensor) -> NDArray[np.float64]:
        """Copy the numbers that decide which crystals leave to the host, in one transfer.

        Parameters
        ----------
        forces : Vector
            Generalised forces in eV/A.
        energies : Tensor, shape (nstructures,)
            In eV.

        Returns
        -------
        ndarray, shape (4, nstructures)
            Largest force (eV/A), volume (A^3), energy (eV), and 1 where a step was refused.
        """
        rows = (
            self.largest(forces),
            volumes(self.cells.current),
            energies.detach(),
            self.cells.wild.double(),
        )
        return torch.stack(rows).cpu().numpy()

    def advanced(self, forces: Vector) -> Batch:
        """Return the batch after a step along finite generalised forces."""
        fire, step = fire_step(self.fire, forces, self.atoms_of)
        cells = self.cells
        # Fractional steps are the same in the reference cell and in the deformed one.
        of_sites = self.symmetry.vectors(
            step.atoms, cells.references, cells.inverse_references, self.atoms_of
        )
        of_logarithms = self.symmetry.tensors(
            step.cells / self.atoms_of.lengths[:, None, None], cells.current, cells.inverse
        )
        logarithms = cells.logarithms + of_logarithms
        deformations, inverses = exponential(torch.cat([logarithms, -logarithms])).chunk(2)
        identity = torch.eye(3, dtype=torch.float64, device=logarithms.device)
        change = (deformations @ cells.inverse_deformations - identity).abs().amax(dim=(1, 2))
        tame = change <= LARGEST_DEFORMATION_STEP  # false for NaN too
        # A refused step is not made, so the potential never gets such a crystal. The crystal
        # leaves at the next report.
        moved = tame[self.atoms_of.owners, None]
        deformed = tame[:, None, None]
        return replace(
            self,
            cells=replace(
                cells,
                logarithms=torch.where(deformed, logarithms, cells.logarithms),
                deformations=torch.where(deformed, deformations, cells.deformations),
                inverse_deformations=torch.where(deformed, inverses, cells.inverse_deformations),
                wild=~tame,
            ),
            sites=replace(
                self.sites,
                positions=torch.where(moved, self.sites.positions + of_sites, self.sites.positions),
            ),
            fire=fire,
        )
