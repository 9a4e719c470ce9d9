"""The optimiser FIRE for many structures at once, each with its own time step.

E. Bitzek, P. Koskinen, F. Gaehler, M. Moseler and P. Gumbsch, Phys. Rev. Lett. 97, 170201 (2006),
in the form and with the defaults of ASE's ``FIRE``: the velocity is mixed before it is
accelerated, masses are one, and the length of a step, over all degrees of freedom of a structure
together, is limited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.relaxation.segments import Segments, join, select

FIRST_TIME_STEP = 0.1
LARGEST_TIME_STEP = 1.0
LARGEST_STEP = 0.2  # A
PATIENCE = 5
FASTER = 1.1
SLOWER = 0.5
FIRST_MIXING = 0.1
LESS_MIXING = 0.99


@dataclass(frozen=True, eq=False)
class Vector:
    """A vector over all degrees of freedom of a batch.

    Attributes
    ----------
    atoms : Tensor, shape (natoms, 3)
        Components of the atoms.
    cells : Tensor, shape (nstructures, 3, 3)
        Components of the cells; zero if a cell is fixed.
    """

    atoms: torch.Tensor
    cells: torch.Tensor

    def dot(self, other: Vector, atoms_of: Segments) -> torch.Tensor:
        """Return the scalar product with another vector for each structure, shape (nstructures,).

        Parameters
        ----------
        other : Vector
            The other vector.
        atoms_of : Segments
            The atoms of each structure.
        """
        of_cells = (self.cells * other.cells).sum((1, 2))
        return atoms_of.sum((self.atoms * other.atoms).sum(1)) + of_cells

    def scaled(self, factors: torch.Tensor, atoms_of: Segments) -> Vector:
        """Multiply by a factor for each structure.

        Parameters
        ----------
        factors : Tensor, shape (nstructures,)
            The factors.
        atoms_of : Segments
            The atoms of each structure.
        """
        return Vector(
            self.atoms * factors[atoms_of.owners, None], self.cells * factors[:, None, None]
        )

    def plus(self, other: Vector) -> Vector:
        """Return the sum of two vectors."""
        return Vector(self.atoms + other.atoms, self.cells + other.cells)


@dataclass(frozen=True, eq=False)
class Clocks:
    """The state of FIRE for each structure beside its velocity; all of shape (nstructures,).

    Attributes
    ----------
    time_steps : Tensor, float64
        ASE's ``dt``.
    mixings : Tensor, float64
        ASE's ``a``: the share of the velocity that is turned into the direction of the forces.
    downhill : Tensor, int64
        ASE's ``Nsteps``: steps since the velocity last pointed uphill.
    fresh : Tensor, bool
        Whether no step has been made.
    """

    time_steps: torch.Tensor
    mixings: torch.Tensor
    downhill: torch.Tensor
    fresh: torch.Tensor


@dataclass(frozen=True, eq=False)
class FireState:
    """Velocities and clocks of a batch."""

    velocities: Vector
    clocks: Clocks

    @classmethod
    def at_rest(cls, natoms: int, nstructures: int, device: torch.device) -> FireState:
        """Return the state before the first step.

        Parameters
        ----------
        natoms, nstructures : int
            Sizes of the batch.
        device : torch.device
            Where the tensors are.
        """
        velocities = Vector(
            torch.zeros(natoms, 3, dtype=torch.float64, device=device),
            torch.zeros(nstructures, 3, 3, dtype=torch.float64, device=device),
        )
        ones = torch.ones(nstructures, dtype=torch.float64, device=device)
        clocks = Clocks(
            FIRST_TIME_STEP * ones,
            FIRST_MIXING * ones,
            torch.zeros(nstructures, dtype=torch.int64, device=device),
            torch.ones(nstructures, dtype=torch.bool, device=device),
        )
        return cls(velocities, clocks)

    def select(
        self,
        structures: torch.Tensor | NDArray[np.int64],
        atoms: torch.Tensor | NDArray[np.int64],
    ) -> FireState:
        """Return the state of some structures.

        Parameters
        ----------
        structures : Tensor or ndarray
            Their indices.
        atoms : Tensor or ndarray
            The rows of their atoms.
        """
        velocities = Vector(self.velocities.atoms[atoms], self.velocities.cells[structures])
        return FireState(velocities, select(self.clocks, structures))

    def join(self, other: FireState) -> FireState:
        """Return the state of the structures of two batches, one after the other."""
        return FireState(join(self.velocities, other.velocities), join(self.clocks, other.clocks))


def fire_step(state: FireState, forces: Vector, atoms_of: Segments) -> tuple[FireState, Vector]:
    """Return the state after a step, and the step.

    Parameters
    ----------
    state : FireState
        The state before the step.
    forces : Vector
        Minus the gradient, in eV/A; finite.
    atoms_of : Segments
        The atoms of each structure.
    """
    clocks = state.clocks
    power = forces.dot(state.velocities, atoms_of)
    downhill = power > 0
    # The velocity of a fresh structure is zero, but it has not gone uphill.
    uphill = ~downhill & ~clocks.fresh
    faster = downhill & (clocks.downhill > PATIENCE)

    speeds = state.velocities.dot(state.velocities, atoms_of).sqrt()
    sizes = forces.dot(forces, atoms_of).sqrt()
    kept = torch.where(downhill, 1 - clocks.mixings, 0.0)
    turned = torch.where(downhill, clocks.mixings / sizes * speeds, 0.0)

    time_steps = torch.where(
        faster, (clocks.time_steps * FASTER).clamp_max(LARGEST_TIME_STEP), clocks.time_steps
    )
    time_steps = torch.where(uphill, time_steps * SLOWER, time_steps)
    mixings = torch.where(faster, clocks.mixings * LESS_MIXING, clocks.mixings)
    mixings = torch.where(uphill, FIRST_MIXING, mixings)

    velocities = state.velocities.scaled(kept, atoms_of).plus(
        forces.scaled(turned + time_steps, atoms_of)
    )
    step = velocities.scaled(time_steps, atoms_of)
    lengths = step.dot(step, atoms_of).sqrt()
    step = step.scaled(torch.where(lengths > LARGEST_STEP, LARGEST_STEP / lengths, 1.0), atoms_of)
    after = Clocks(
        time_steps,
        mixings,
        torch.where(downhill, clocks.downhill + 1, 0),
        torch.zeros_like(clocks.fresh),
    )
    return FireState(velocities, after), step
