"""Gradients of energies that torch can differentiate, and second derivatives in a supercell."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.potentials.displaced import SharedList, displaced_edges
from hpcbench.potentials.edge_potential import EdgePotential
from hpcbench.potentials.passes import Graph, during_passes, forces_from
from hpcbench.potentials.protocol import PreparedCopies


class EnergyOfEdges(ABC):
    """An :class:`~hpcbench.potentials.edge_potential.EdgeModel` whose gradient torch computes.

    Attributes
    ----------
    cutoff : float
        Length of the longest edge, in A.
    """

    cutoff: float

    @abstractmethod
    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms, which torch can differentiate by ``vectors``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """

    def __call__(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute energies of atoms, and the gradient of their sum; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """
        energies, _, gradient = self.differentiated(numbers, edges, vectors)
        return energies.detach(), gradient

    def differentiated(
        self,
        numbers: torch.Tensor,
        edges: torch.Tensor,
        vectors: torch.Tensor,
        *,
        again: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute energies of atoms, and the gradient of their sum.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        again : bool
            Whether the gradient is to be differentiated in its turn.

        Returns
        -------
        energies : Tensor, shape (natoms,)
            In eV.
        leaf : Tensor, shape (nedges, 3), float64
            The edge vectors by which to differentiate.
        gradient : Tensor, shape (nedges, 3), float64
            In eV/A.
        """
        with torch.enable_grad():
            leaf = vectors.detach().clone().requires_grad_(True)
            energies = self.energies(numbers, edges, leaf)
            total = energies.sum()
            if not total.requires_grad:  # nothing but isolated atoms
                return energies, leaf, torch.zeros_like(leaf)
            (gradient,) = torch.autograd.grad(total, leaf, create_graph=again)
        return energies, leaf, gradient


@dataclass(frozen=True, eq=False)
class _Linearised:
    """A perfect supercell, and the gradient of its energy that can be differentiated again."""

    graph: Graph
    leaf: torch.Tensor
    gradient: torch.Tensor


_SECOND_ORDER = 13
"""Memory of a second derivative by edge, over that of a pass of forces in the table: 361 kB to 28
for nequix-oam-1, 366 to 32 for sevennet-0 (peaks of 2x2x2 and 3x3x3 silicon, float32)."""


class DifferentiableEdges(EdgePotential):
    """A potential on edges that is ``Differentiable``.

    Second derivatives are symmetric. So what the displacement of an atom does to the forces on all,
    to first order, is one way back: the gradient of the first gradient along the change of the edge
    vectors. One forward pass serves all displacements of a supercell.
    """

    _model: EnergyOfEdges

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._linearised: weakref.WeakKeyDictionary[PreparedCopies, _Linearised] = (
            weakref.WeakKeyDictionary()
        )

    def linear_forces(
        self, parts: Sequence[tuple[PreparedCopies, int, int]]
    ) -> list[NDArray[np.float64]]:
        """See the protocol.

        Raises
        ------
        OutOfMemoryError, EvaluationError
            As the protocol says.
        UnsuitableError
            If the supercell alone is above the limit on edges.
        """
        for prepared, _, _ in parts:
            self._require_size(prepared.copies.natoms, round(prepared.cost * _SECOND_ORDER))
        try:
            # What it takes goes by supercells, not by copies: passes of forces keep their size.
            with during_passes(self.device), self._memory_errors():
                return [self._rows(*part) for part in parts]
        except Exception:
            self._linearised.clear()
            raise

    def _rows(self, prepared: PreparedCopies, first: int, end: int) -> NDArray[np.float64]:
        if prepared not in self._linearised:
            self._linearised[prepared] = self._linearise(prepared)
        found = self._linearised[prepared]
        centres, neighbours = found.graph.edges
        rows = []
        copies = prepared.copies.only(slice(first, end))
        for atom, displacement in zip(copies.atoms, copies.displacements, strict=True):
            sign = (neighbours == int(atom)).double() - (centres == int(atom)).double()
            moved = sign[:, None] * torch.as_tensor(displacement, device=self.device)
            (change,) = torch.autograd.grad(
                (found.gradient * moved).sum(), found.leaf, retain_graph=True
            )
            rows.append(forces_from(found.graph, change).cpu().numpy())
        return np.array(rows)

    def _linearise(self, prepared: PreparedCopies) -> _Linearised:
        shared: SharedList = prepared.shared
        still = prepared.copies.only(slice(0, 1))
        still = replace(still, displacements=np.zeros_like(still.displacements))
        perfect = displaced_edges([(shared, still, 0, 1)], self._model.cutoff)
        _, leaf, gradient = self._model.differentiated(
            perfect.numbers, perfect.edges, perfect.vectors, again=True
        )
        return _Linearised(Graph(perfect.numbers, perfect.edges, perfect.vectors), leaf, gradient)
