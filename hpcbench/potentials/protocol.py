"""Define the interface of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import HpcbenchError

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    from hpcbench.potentials.columns import Columns, Response
    from hpcbench.potentials.structures import DisplacedCopies, Structures


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Hold energy, forces and stress of one structure.

    Attributes
    ----------
    energy : float
        Potential energy in eV.
    forces : ndarray, shape (natoms, 3), float64
        Forces in eV/A.
    stress : ndarray, shape (3, 3), float64, or None
        Cauchy stress in eV/A^3, with ASE's sign (negative under compression); ``None`` where
        it was not asked for.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class BatchEvaluation:
    """Hold energies, forces and stresses of a batch, as float64 tensors on the batch's device.

    Attributes
    ----------
    energies : Tensor, shape (nstructures,)
        Potential energies in eV; NaN where there is a problem.
    forces : Tensor, shape (natoms, 3)
        Forces in eV/A; NaN where there is a problem.
    stresses : Tensor, shape (nstructures, 3, 3), or None
        Cauchy stresses in eV/A^3; ``None`` where they were not asked for.
    problems : dict of int to HpcbenchError
        Structures that could not be evaluated, by their index: an ``UnsuitableError`` (too
        large for the device) or an ``EvaluationError`` (the potential failed).
    """

    energies: torch.Tensor
    forces: torch.Tensor
    stresses: torch.Tensor | None
    problems: dict[int, HpcbenchError]


@dataclass(frozen=True, eq=False)
class PreparedCopies:
    """Displaced copies of a supercell with what a potential needs to evaluate any of them.

    Attributes
    ----------
    copies : DisplacedCopies
        The copies.
    cost : int
        What one copy takes of a pass's capacity.
    shared : object
        The potential's own: what the copies share, such as a neighbour list.
    """

    copies: DisplacedCopies
    cost: int
    shared: Any


@dataclass(frozen=True, eq=False)
class Linearised:
    """Crystals at which a potential is linearised.

    Attributes
    ----------
    forces : ndarray, shape (natoms, 3)
        On the atoms of all crystals, in eV/A.
    cost : float
        What one real column of each takes of a pass's capacity.
    state : object
        The potential's own: slopes and bends of its functions.
    """

    forces: NDArray[np.float64]
    cost: float
    state: Any


@dataclass(frozen=True)
class PotentialInfo:
    """Describe a potential in the store.

    ``elements`` are the atomic numbers that it knows, or ``None`` where it does not say.
    ``weights_sha256`` is empty for a potential without a weights file. ``forward_pass`` says
    whose arithmetic it is, where there is more than one. ``responds`` says whether the potential
    is ``Responsive``, ``differentiable`` whether it is ``Differentiable``.
    """

    name: str
    package: str
    version: str
    weights_sha256: str
    dtype: str
    device: str
    elements: frozenset[int] | None
    forward_pass: str = ""
    responds: bool = False
    differentiable: bool = False


class Potential(Protocol):
    """A potential energy surface that evaluates many structures in one call."""

    @property
    def info(self) -> PotentialInfo:
        """Return name, versions, precision and device."""
        ...

    @property
    def device(self) -> torch.device:
        """Return where batches are to lie."""
        ...

    @property
    def capacity(self) -> int:
        """Return what one forward pass holds, in the unit of ``cost`` (edges, or structures).

        It shrinks when memory turns out to be smaller than thought.
        """
        ...

    def evaluate(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluation]:
        """Compute energies and forces (and stresses) of all structures, in their order.

        The structures share forward passes as far as the potential's capacity allows; the
        result of one does not depend on the others, but for rounding.

        Parameters
        ----------
        structures : sequence of Atoms
            All are taken as periodic.
        stress : bool
            Whether stresses are wanted.

        Raises
        ------
        UnsuitableError
            If a structure alone is above what the device can hold.
        EvaluationError
            If the potential failed.
        """
        ...

    def evaluate_batch(self, batch: Structures, *, stress: bool = False) -> BatchEvaluation:
        """Do the same for a batch of tensors; a structure's problem does not touch the others.

        Parameters
        ----------
        batch : Structures
            On the potential's device.
        stress : bool
            Whether stresses are wanted.
        """
        ...

    def cost(self, natoms: int, volume: float) -> float:
        """Estimate what a structure will take of a pass's capacity.

        Parameters
        ----------
        natoms : int
            Number of atoms.
        volume : float
            Of the cell, in A^3.
        """
        ...

    def prepare(self, copies: DisplacedCopies) -> PreparedCopies:
        """Build once what displaced copies of a supercell share."""
        ...

    def forces(self, parts: Sequence[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        """Compute forces on some copies of each set, in one forward pass.

        Parameters
        ----------
        parts : sequence of (PreparedCopies, int, int)
            Copies, and the first and the end of those wanted.

        Returns
        -------
        list of ndarray, shape (end - first, natoms, 3)
            For each part, in eV/A.

        Raises
        ------
        OutOfMemoryError
            If the device's memory did not suffice; ``capacity`` is then smaller than before.
        EvaluationError
            If the potential failed.
        """
        ...


class Responsive(Potential, Protocol):
    """A potential whose linear response can be had, to displacements at any q and to strains."""

    def linearise(self, batch: Structures) -> Linearised:
        """Compute what the response of all structures to any columns needs, in one pass.

        Raises
        ------
        OutOfMemoryError
            If the device's memory did not suffice.
        EvaluationError
            If the potential failed.
        """
        ...

    def respond(self, linearised: Linearised, columns: Sequence[Columns]) -> list[Response]:
        """Return what columns of each structure come to, in one pass.

        The pass is as wide as the longest of ``columns``, and twice that where one of them is not
        real.

        Parameters
        ----------
        linearised : Linearised
            The structures.
        columns : sequence of Columns
            Of each structure.

        Raises
        ------
        OutOfMemoryError
            If the device's memory did not suffice; ``capacity`` is then smaller than before.
        EvaluationError
            If the potential failed.
        """
        ...


class Differentiable(Potential, Protocol):
    """A potential whose second derivatives can be had, in a supercell."""

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """Compute the change of the forces (eV/A) on copies, to first order in their displacements.

        As :meth:`Potential.forces`, but as if the energy were harmonic, and without the forces of
        the supercell that is not displaced.

        Raises
        ------
        OutOfMemoryError
            If the device's memory did not suffice.
        EvaluationError
            If the potential failed.
        """
        ...
