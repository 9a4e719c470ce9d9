"""M3GNet's linear response for batches of crystals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.potentials.columns import Columns, Response
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_gated import Phases
from hpcbench.potentials.m3gnet_linear import LinearM3GNet
from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
from hpcbench.potentials.passes import Graph, forces_from
from hpcbench.potentials.structures import Structures


class LinearisedCrystals:
    """Crystals at which M3GNet is linearised.

    Attributes
    ----------
    forces : ndarray, shape (natoms, 3)
        On the atoms of all crystals, in eV/A.
    nedges : int
        Of all crystals: what one column of each takes of a pass.
    """

    def __init__(self, model: RearrangedM3GNet, batch: Structures) -> None:
        neighbours = neighbour_list(batch, model.cutoff)
        vectors = edge_vectors(batch, neighbours)
        is_long = torch.linalg.vector_norm(vectors, dim=1) > model.threebody_cutoff
        order = torch.argsort(is_long.to(torch.int8), stable=True)
        self._batch, self._dtype = batch, model.dtype
        self._ends = neighbours.edges.index_select(1, order)
        self._offsets = neighbours.offsets.index_select(0, order)
        self._vectors = vectors.index_select(0, order)
        self._structure = batch.structure_of_atom.index_select(0, self._ends[0])
        self.nedges = neighbours.nedges
        self._linear = LinearM3GNet(model, batch.numbers, self._ends, self._vectors)
        graph = Graph(batch.numbers, self._ends, self._vectors)
        self.forces: NDArray[np.float64] = forces_from(graph, self._linear.gradient).cpu().numpy()

    def respond(self, columns: Sequence[Columns]) -> list[Response]:
        """Return what the columns of each crystal come to; some may have fewer than others."""
        device, first = self._vectors.device, self._batch.first_atom
        most, real = max(len(one) for one in columns), all(one.are_real for one in columns)
        parts = 1 if real else 2
        moved = np.zeros((first[-1], most, 3), dtype=np.complex128)
        qpoints, strains = (np.zeros((len(columns), most, 3, *more)) for more in ((), (3,)))
        for index, one in enumerate(columns):
            atoms = slice(first[index], first[index + 1])
            moved[atoms, : len(one)] = one.displacements.transpose(1, 0, 2)
            qpoints[index, : len(one)] = one.qpoints
            strains[index, : len(one)] = one.strains
        both = np.concatenate([moved.real, moved.imag][:parts], axis=1)
        gradient, forces = self._pass(
            torch.as_tensor(both, device=device),
            torch.as_tensor(qpoints, device=device),
            torch.as_tensor(strains, device=device),
            real=real,
        )
        forces = forces.unflatten(1, (parts, most))
        answers = forces[:, 0].to(torch.complex128)
        if not real:
            answers = torch.complex(forces[:, 0], forces[:, 1])
        virials = torch.zeros(len(columns), most, 3, 3, dtype=torch.float64, device=device)
        products = self._vectors[:, None, :, None] * gradient[:, :most, None, :]
        virials.index_add_(0, self._structure, products)
        found, virial = answers.cpu().numpy(), virials.cpu().numpy()
        return [
            Response(
                found[first[index] : first[index + 1], : len(one)].transpose(1, 0, 2),
                virial[index, : len(one)],
            )
            for index, one in enumerate(columns)
        ]

    def _pass(
        self, moved: torch.Tensor, qpoints: torch.Tensor, strains: torch.Tensor, *, real: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return changes of gradients (nedges, parts * columns, 3) and forces (natoms, ...)."""
        with torch.no_grad():
            cycles = torch.einsum(
                "ecx,ex->ec", qpoints.index_select(0, self._structure), self._offsets
            )
            phases = Phases.of(cycles, torch.float64, real=real)
            vectors = phases.add_times_(
                -moved.index_select(0, self._ends[0]), moved.index_select(0, self._ends[1])
            )
            if bool(strains.any()):
                vectors[:, : strains.shape[1]] += torch.einsum(
                    "ex,ecxy->ecy", self._vectors, strains.index_select(0, self._structure)
                )
            gradient = self._linear.tangent(vectors, Phases.of(cycles, self._dtype, real=real))
            forces = torch.zeros_like(moved).index_add_(0, self._ends[0], gradient)
            return gradient, forces.index_add_(0, self._ends[1], phases.back(gradient), alpha=-1)
