"""M3GNet through MatterSim's own layers: what the re-arranged forward pass is checked against."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet


def triplets(edges: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """All ordered pairs of different short edges of one centre, sorted by the first.

    Parameters
    ----------
    edges : Tensor, shape (2, nedges), int64
        Centre and neighbour of each edge, sorted by centre.
    short : Tensor, shape (nedges,), bool
        Which edges take part.

    Returns
    -------
    Tensor, shape (ntriplets, 2), int64
        Indices of two edges.
    """
    chosen = short.nonzero().squeeze(1)
    counts = torch.unique_consecutive(edges[0].index_select(0, chosen), return_counts=True)[1]
    # Each edge meets all others of its centre, which are a run in the list of chosen edges.
    others = torch.repeat_interleave(counts - 1, counts)
    begin = torch.repeat_interleave(starts(counts), counts) - starts(others)
    first = torch.repeat_interleave(others)
    second = begin.index_select(0, first)
    second += torch.arange(len(second), device=second.device)
    second += second >= first  # the edge itself is passed over
    return torch.stack([chosen.index_select(0, first), chosen.index_select(0, second)], dim=1)


def starts(counts: torch.Tensor) -> torch.Tensor:
    """Where runs of these lengths begin when they follow each other."""
    return counts.cumsum(0) - counts


def require_mattersim() -> None:
    """Skip a test where the installed MatterSim does not load, as some do beside today's ASE."""
    reason = f"MatterSim {version('mattersim')} does not load here"
    pytest.importorskip("mattersim.forcefield", reason=reason, exc_type=ImportError)


def require_known_layers() -> None:
    """Skip a test where the installed MatterSim's blocks take other arguments than 1.2.3's."""
    require_mattersim()
    from mattersim.forcefield.m3gnet.modules import MainBlock

    taken = set(inspect.signature(MainBlock.forward).parameters)
    if not {"total_num_atoms", "total_num_bonds", "three_body_edge_map"} <= taken:
        pytest.skip(f"the layers of MatterSim {version('mattersim')} are called in another way")


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
