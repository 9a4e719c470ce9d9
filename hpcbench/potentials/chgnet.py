"""CHGNet as a potential, through the ASE calculator of its package (extra ``chgnet``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpcbench.potentials.ase_calculator import CalculatorPotential
from hpcbench.potentials.catalogue import DOUBLE, LoadRequest

if TYPE_CHECKING:
    from chgnet.graph.crystalgraph import CrystalGraph
    from pymatgen.core import Structure

# The model that the package calls by this name, and whose weights are in the table.
VERSION = "0.3.0"


def load_chgnet(request: LoadRequest) -> CalculatorPotential:
    """Load CHGNet 0.3.0 with the weights of its package.

    Raises
    ------
    ImportError
        If its package is not installed.
    PotentialError
        If its weights are missing, or others than the table says.
    """
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    # As CHGNet.load does, from the very file whose SHA-256 is recorded.
    model = CHGNet.from_file(str(request.weights()), mlp_out_bias=False, version=VERSION)
    model.to(request.device)
    calculator = CHGNetCalculator(model, use_device=request.device, on_isolated_atoms="error")
    if request.dtype == DOUBLE:
        model.double()
        # It counts atoms, in single precision: energies are the same to 1e-7, forces have no share.
        model.composition_model.float()
        model.graph_converter = _DoubleGraphs(model.graph_converter)
    return CalculatorPotential(calculator, request.info())


class _DoubleGraphs(torch.nn.Module):
    """CHGNet's graphs, with positions and cell in the precision of the structure."""

    def __init__(self, converter: torch.nn.Module) -> None:
        super().__init__()
        self._converter = converter

    def forward(self, structure: Structure) -> CrystalGraph:
        graph = self._converter(structure)
        graph.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
        graph.lattice = torch.tensor(structure.lattice.matrix, requires_grad=True)
        graph.neighbor_image = graph.neighbor_image.double()
        return graph
