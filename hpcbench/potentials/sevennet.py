"""SevenNet as a potential: the layers of its package (extra ``sevennet``) on our edges."""

from __future__ import annotations

from typing import Any

import torch

from hpcbench.potentials.catalogue import LoadRequest
from hpcbench.potentials.edge_gradients import DifferentiableEdges, EnergyOfEdges


def load_sevennet(request: LoadRequest) -> DifferentiableEdges:
    """Load a SevenNet potential with the weights of its package.

    Raises
    ------
    ImportError
        If its package is not installed.
    PotentialError
        If its weights are missing, or others than the table says.
    """
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(str(request.weights()), device=request.device)
    elements = frozenset(int(z) for z in calculator.type_map)
    model = SevenNetEnergies(calculator.model, float(calculator.cutoff))
    return DifferentiableEdges.of(request, model, request.info(elements, differentiable=True))


class SevenNetEnergies(EnergyOfEdges):
    """Energies of atoms by SevenNet's layers.

    Parameters
    ----------
    model : sevenn.nn.sequential.AtomGraphSequential
        The whole model. Its layers run up to the energies of atoms: what sums them and
        differentiates the sum by positions is left out.
    cutoff : float
        Longest edge, in A.
    """

    def __init__(self, model: Any, cutoff: float) -> None:
        from sevenn import _keys as key

        self.cutoff = cutoff
        model.requires_grad_(False)
        # Sums by crystal, where a layer has them, would need to know which is whose.
        model.set_is_batch_data(False)
        self._layers = list(model.children())
        self._rows = model.z_to_onehot_tensor.to(next(model.parameters()).device)
        self._key: Any = key

    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """
        key, rows = self._key, self._rows.index_select(0, numbers)
        data = {
            key.NODE_FEATURE: rows,
            key.ATOM_TYPE: rows,
            key.EDGE_IDX: edges,
            key.EDGE_VEC: vectors.float(),
        }
        for layer in self._layers:
            data = layer(data)
            if key.ATOMIC_ENERGY in data:
                break
        found: torch.Tensor = data[key.ATOMIC_ENERGY]
        return found.squeeze(1).double()
