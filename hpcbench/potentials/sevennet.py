"""SevenNet as a potential: the layers of its package (extra ``sevennet``) on our edges.

The products along edges and their sums, most of the time and memory, are our own
(``edge_messages.py``).
"""

from __future__ import annotations

from typing import Any

import torch

from hpcbench.potentials.edge_gradients import DifferentiableEdges, EnergyOfEdges
from hpcbench.potentials.edge_messages import make_branch, summed_messages
from hpcbench.potentials.spec import LoadRequest


def load_sevennet(request: LoadRequest) -> DifferentiableEdges:
    """Load a SevenNet potential with the weights of its package.

    Raises
    ------
    ImportError
        If its package is not installed.
    PotentialError
        If its weights are missing, or others than the table says.
    """
    # The package unpickles the file, which has to be the one that the table knows.
    request.spec.weights_sha256()
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
        self._layers = [
            _Convolution(layer) if hasattr(layer, "convolution") else layer
            for layer in model.children()
        ]
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


class _Convolution:
    """A layer of messages of SevenNet, by our own products and sums.

    Parameters
    ----------
    layer : sevenn.nn.convolution.IrrepsConvolution
        Its radial network goes on being used, with its last weights in another order.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        kinds = layer.convolution_kwargs
        self._inputs = [(channels, kind.dim) for channels, kind in kinds["irreps_in1"]]
        self._nslots = len(kinds["irreps_out"])
        lmax = max(kind.l for _, kind in kinds["irreps_in2"])
        weight = layer.weight_nn[-1].weight
        # One path after the other: (channels, harmonics, output, ...).
        steps = kinds["instructions"]
        columns = torch.arange(weight.shape[1]).split([self._inputs[step[0]][0] for step in steps])
        self._branches, order = [], []
        for number, (channels, kind) in enumerate(kinds["irreps_in1"]):
            chosen = [n for n, step in enumerate(steps) if step[0] == number]
            paths = [
                (kinds["irreps_in2"][edge].ir.l, kinds["irreps_out"][slot].ir.l, slot)
                for edge, slot in (steps[n][1:3] for n in chosen)
            ]
            self._branches.append(
                make_branch(kind.l, channels, paths, lmax, weight.device, weight.dtype)
            )
            order += [columns[n] for n in chosen]
        self._widths = [branch.channels * len(branch.rows) for branch in self._branches]
        weight.data = weight.data[:, torch.cat(order).to(weight.device)]

    def __call__(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        layer = self._layer
        factors = layer.weight_nn(data[layer.key_weight_input]).split(self._widths, dim=1)
        sizes = [channels * dim for channels, dim in self._inputs]
        features = data[layer.key_x].split(sizes, dim=1)
        centre, neighbour = data[layer.key_edge_idx]
        sums: dict[int, torch.Tensor] = {}
        for branch, x, weights, size in zip(
            self._branches, features, factors, self._inputs, strict=True
        ):
            # SevenNet has the channels before the components.
            turned = x.unflatten(1, size).transpose(1, 2)
            found = summed_messages(
                branch, turned, data[layer.key_filter], weights, centre, neighbour
            )
            for slot, first, end in branch.rows:
                sums[slot] = found[:, first:end].transpose(1, 2).flatten(1)
        together = torch.cat([sums[slot] for slot in range(self._nslots)], dim=1)
        data[layer.key_x] = together / layer.denominator
        return data
