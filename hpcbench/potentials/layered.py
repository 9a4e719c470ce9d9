"""M3GNet through MatterSim's own layers, for checkpoints that are not known to be re-arrangeable.

Also what the re-arranged forward pass (``m3gnet.py``) is checked against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpcbench.potentials.neighbours import triplets

if TYPE_CHECKING:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet


class LayeredM3GNet:
    """The same call as ``RearrangedM3GNet``, by MatterSim's layers and autograd.

    The steps are those of ``M3Gnet.forward`` (MatterSim 1.2.3), which itself casts parts of its
    input to single precision. Three-body indices are built here: later releases mix them up
    between structures that share a batch (microsoft/mattersim #163).
    """

    def __init__(self, model: M3Gnet, dtype: torch.dtype) -> None:
        self._model = model.to(dtype).eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self.cutoff = float(model.model_args["cutoff"])
        self.threebody_cutoff = float(model.model_args["threebody_cutoff"])
        self.dtype = dtype

    def __call__(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies of atoms, and the gradient of their sum; as in ``RearrangedM3GNet``.

        ``edges`` are sorted by centre.
        """
        with torch.enable_grad():
            leaf = vectors.detach().to(self.dtype).requires_grad_(True)
            energies = self._energies(numbers, edges, leaf)
            (gradient,) = torch.autograd.grad(energies.sum(), leaf)
        return energies.detach().double(), gradient.double()

    def _energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        model = self._model
        lengths = torch.linalg.norm(vectors, dim=1)
        first, second = triplets(edges, lengths <= self.threebody_cutoff).unbind(1)
        cosines = (vectors[first] * vectors[second]).sum(1) / (lengths[first] * lengths[second])
        # MatterSim's own bound: the derivative of the arc cosine is infinite at 1.
        cosines = cosines.clamp(-1.0 + 1e-7, 1.0 - 1e-7)
        three_basis = model.sbf(lengths[second], torch.acos(cosines))
        one_hot = torch.nn.functional.one_hot(numbers, model.max_z + 1).to(self.dtype)
        atom_features = model.atom_embedding(one_hot)
        radial = model.rbf(lengths)
        edge_features = model.edge_encoder(radial)
        unused = torch.empty(0, device=vectors.device)
        for block in model.graph_conv:
            atom_features, edge_features = block(
                atom_features,
                edge_features,
                radial,
                edges,
                three_basis,
                torch.stack([first, second], dim=1),
                lengths.unsqueeze(-1),
                unused,
                unused,
                unused,
                total_num_atoms=len(numbers),
                total_num_bonds=edges.shape[1],
                three_body_edge_map=first,
            )
        return model.normalizer(model.final(atom_features).view(-1), numbers)
