"""MACE as a potential: models of package mace-torch, in an environment of its own, on our edges."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from hpcbench.errors import PotentialError
from hpcbench.potentials.edge_gradients import DifferentiableEdges, EnergyOfEdges
from hpcbench.potentials.spec import LoadRequest


def load_mace(request: LoadRequest) -> DifferentiableEdges:
    """Load a file that MACE's training or its authors' foundation models are in.

    Such a file is a program: torch unpickles it, so it must come from someone who is trusted.

    Raises
    ------
    PotentialError
        If package mace-torch is not installed, or the file has no model of MACE.
    """
    if importlib.util.find_spec("mace") is None:
        raise PotentialError(
            f"{request.spec.name} needs package mace-torch, in an environment of its own: it asks "
            f"for an older e3nn than other potentials (docs/howto/potentials.md)"
        )
    path, dtype = request.weights(), getattr(torch, request.dtype)
    try:
        model = torch.load(path, map_location=request.device, weights_only=False)
    except Exception as error:  # pickle raises many kinds
        raise PotentialError(f"{path}: no model of MACE that can be read ({error})") from error
    if not hasattr(model, "r_max") or not hasattr(model, "atomic_numbers"):
        raise PotentialError(f"{path}: no model of MACE but {type(model).__name__}")
    if len(getattr(model, "heads", None) or ["one"]) > 1:
        raise PotentialError(
            f"{path}: it has several heads ({', '.join(model.heads)}); save one of them with "
            f"mace_select_head"
        )
    elements = frozenset(int(z) for z in model.atomic_numbers)
    energies = MaceEnergies(model.to(request.device, dtype), dtype)
    return DifferentiableEdges.of(request, energies, request.info(elements, differentiable=True))


class MaceEnergies(EnergyOfEdges):
    """Energies of atoms by a model of MACE.

    Parameters
    ----------
    model : mace.modules.MACE
        On the device, in the precision ``dtype``; its forces are not asked for.
    dtype : torch.dtype
        In which it computes.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        model.requires_grad_(False)
        model.eval()
        self._model, self._dtype = model, dtype
        self.cutoff = float(model.r_max)
        numbers = model.atomic_numbers
        self._nelements = len(numbers)
        self._row = torch.full((120,), -1, dtype=torch.int64, device=numbers.device)
        self._row[numbers] = torch.arange(len(numbers), device=numbers.device)

    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """
        natoms, device = len(numbers), numbers.device
        vectors = vectors.to(self._dtype)
        one_hot = torch.zeros(natoms, self._nelements, dtype=self._dtype, device=device)
        one_hot.scatter_(1, self._row.index_select(0, numbers)[:, None], 1.0)
        # It takes positions and the translations of neighbours: atoms at one place, and
        # translations that are the edges. All are one structure.
        answer = self._model(
            {
                "positions": vectors.new_zeros(natoms, 3),
                "node_attrs": one_hot,
                "edge_index": edges,
                "shifts": vectors,
                "unit_shifts": torch.zeros_like(vectors),
                "cell": torch.eye(3, dtype=self._dtype, device=device),
                "batch": torch.zeros(natoms, dtype=torch.int64, device=device),
                "ptr": torch.tensor([0, natoms], device=device),
                "head": torch.zeros(1, dtype=torch.int64, device=device),
            },
            compute_force=False,
        )
        found: torch.Tensor = answer["node_energy"]
        return found.double()
