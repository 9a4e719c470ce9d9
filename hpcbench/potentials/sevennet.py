"""SevenNet as a potential, through the ASE calculator of its package (extra ``sevennet``)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from hpcbench.potentials.ase_calculator import DifferentiablePotential
from hpcbench.potentials.catalogue import LoadRequest

if TYPE_CHECKING:
    from ase import Atoms


def load_sevennet(request: LoadRequest) -> DifferentiablePotential:
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
    calculator.model.requires_grad_(False)  # its parameters; positions keep theirs
    elements = frozenset(int(z) for z in calculator.type_map)
    return DifferentiablePotential(
        calculator,
        request.info(elements, differentiable=True),
        functools.partial(_forces_and_shifts, calculator),
    )


def _forces_and_shifts(calculator: Any, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    """Return forces of SevenNet, and the shifts of the atoms that they can be differentiated by."""
    from sevenn import _keys as key
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    data = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, calculator.cutoff))
    data.to(calculator.device)
    vectors = data[key.EDGE_VEC]
    shifts = torch.zeros(
        (len(atoms), 3), dtype=torch.float64, device=vectors.device, requires_grad=True
    )
    sources, targets = data[key.EDGE_IDX]
    data[key.EDGE_VEC] = vectors + (shifts[targets] - shifts[sources]).to(vectors.dtype)
    # It keeps what differentiating takes in training alone.
    last = calculator.model.force_output
    last.training = True
    try:
        output = calculator.model(data)
    finally:
        last.training = False
    return output[key.PRED_FORCE], shifts
