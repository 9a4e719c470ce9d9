"""Nequix as a potential: its weights, without its package (extra ``nequix``: e3nn)."""

from __future__ import annotations

import torch

from hpcbench.potentials.edge_gradients import DifferentiableEdges
from hpcbench.potentials.nequix_model import NequixEnergies
from hpcbench.potentials.nequix_weights import read_nequix
from hpcbench.potentials.spec import LoadRequest


def load_nequix(request: LoadRequest) -> DifferentiableEdges:
    """Load a Nequix potential.

    Raises
    ------
    ImportError
        If e3nn is not installed.
    PotentialError
        If the weights are missing, or are not those of Nequix.
    """
    weights = read_nequix(request.weights())
    model = NequixEnergies(weights, torch.device(request.device), getattr(torch, request.dtype))
    elements = frozenset(int(z) for z in weights.configuration["atomic_numbers"])
    return DifferentiableEdges.of(request, model, request.info(elements, differentiable=True))
