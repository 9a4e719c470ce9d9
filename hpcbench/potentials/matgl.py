"""M3GNet and TensorNet as potentials: models of package matgl (extra ``matgl``) on our edges."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from ase.data import atomic_numbers

from hpcbench.potentials.edge_gradients import EnergyOfEdges
from hpcbench.potentials.edge_potential import EdgePotential
from hpcbench.potentials.spec import LoadRequest


def load_matgl(request: LoadRequest) -> EdgePotential:
    """Load a potential in matgl's format, a folder of three files.

    Raises
    ------
    ImportError
        If package matgl is not installed.
    PotentialError
        If the weights are missing.
    """
    import matgl

    path = request.spec.weights_path()
    assert path is not None, "it has weights in the table"
    dtype = getattr(torch, request.dtype)
    model = matgl.load_model(path.parent).to(request.device, dtype)
    energies = MatglEnergies(model, dtype)
    elements = frozenset(atomic_numbers[symbol] for symbol in model.model.element_types)
    return EdgePotential.of(request, energies, request.info(elements))


class MatglEnergies(EnergyOfEdges):
    """Energies of atoms by a model of matgl that sums them.

    Parameters
    ----------
    potential : matgl.apps.pes.Potential
        On the device, in the precision ``dtype``; its forces and stresses are not asked for.
    dtype : torch.dtype
        In which it computes.
    """

    def __init__(self, potential: Any, dtype: torch.dtype) -> None:
        potential.requires_grad_(False)
        potential.eval()
        self._model, self._dtype = potential.model, dtype
        self.cutoff = float(potential.model.cutoff)
        symbols = potential.model.element_types
        references = potential.element_refs.property_offset.double()
        self._row = torch.full((120,), -1, dtype=torch.int64, device=references.device)
        for row, symbol in enumerate(symbols):
            self._row[atomic_numbers[symbol]] = row
        self._references, self._scale = references, potential.data_std.double()
        self._of_atoms: torch.Tensor | None = None
        # The model gives the sum of what its last layer gives for the atoms.
        self._model.final_layer.register_forward_hook(self._keep)

    def _keep(self, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        self._of_atoms = output

    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """
        rows = self._row.index_select(0, numbers)
        vectors = vectors.to(self._dtype)
        # It takes positions and the translations of neighbours: atoms at one place, and
        # translations that are the edges.
        graph = SimpleNamespace(
            node_type=rows,
            pos=vectors.new_zeros(len(numbers), 3),
            # As its own lists are: torch sums by indices of 64 bits more slowly.
            edge_index=edges.int(),
            pbc_offshift=vectors,
        )
        self._model(g=graph)
        found, self._of_atoms = self._of_atoms, None
        # It keeps all features of the last call, the whole graph of gradients with them.
        self._model.feature_dict = {}
        assert found is not None, "its last layer was run"
        scaled = found.view(-1).double() * self._scale
        return scaled + self._references.index_select(0, rows)
