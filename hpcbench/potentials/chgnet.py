"""CHGNet as a potential: the layers of its package (extra ``chgnet``) on our edges.

CHGNet's graph has undirected bonds. One within the cutoff of its bond graph (3 A) has features that
angles change; a longer one has features of its length alone. So only the short ones are paired with
their reverses here, and a long one may be there twice.

The angle between two bonds comes from an arc cosine, whose slope has a jump where bonds are
collinear: CHGNet's energy has a cusp there, which is the potential's and is kept (see
``docs/results/labels.md``).
"""

from __future__ import annotations

from typing import Any

import torch

from hpcbench.errors import EvaluationError
from hpcbench.potentials.edge_gradients import EnergyOfEdges
from hpcbench.potentials.edge_pairs import pairs_at_centres, reverses
from hpcbench.potentials.edge_potential import EdgePotential
from hpcbench.potentials.spec import LoadRequest

# The model that the package calls by this name, and whose weights are in the table.
VERSION = "0.3.0"

# In A. What is at the very cutoff must count in both directions or in none; its weight is zero.
MARGIN = 1.37e-6

# CHGNet shortens cosines by it, so that the slope of their arc is finite.
SHORTENED = 1 - 1e-6


def load_chgnet(request: LoadRequest) -> EdgePotential:
    """Load CHGNet 0.3.0 with the weights of its package.

    Raises
    ------
    ImportError
        If its package is not installed.
    PotentialError
        If its weights are missing, or others than the table says.
    """
    # The package unpickles the file, which has to be the one that the table knows.
    request.spec.weights_sha256()
    from chgnet.model import CHGNet

    # As CHGNet.load does, from the very file whose SHA-256 is recorded.
    model = CHGNet.from_file(str(request.weights()), mlp_out_bias=False, version=VERSION)
    dtype = getattr(torch, request.dtype)
    energies = CHGNetEnergies(model.to(request.device, dtype), dtype)
    return EdgePotential.of(request, energies, request.info())


class CHGNetEnergies(EnergyOfEdges):
    """Energies of atoms by CHGNet's layers.

    Parameters
    ----------
    model : chgnet.model.CHGNet
        On the device, in the precision ``dtype``.
    dtype : torch.dtype
        In which it computes; geometry is in double precision.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        model.requires_grad_(False)
        model.eval()
        self._model, self._dtype = model, dtype
        self.cutoff = float(model.graph_converter.atom_graph_cutoff)
        self._short = float(model.graph_converter.bond_graph_cutoff)
        # Energies by element, from hydrogen on.
        self._references = model.composition_model.fc.weight[0].double()

    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.

        Raises
        ------
        EvaluationError
            If an atom has no neighbour: CHGNet is not made for such.
        """
        model, centre = self._model, edges[0]
        alone = int((torch.bincount(centre, minlength=len(numbers)) == 0).sum())
        if alone:
            raise EvaluationError(f"{alone} isolated atom(s): no neighbour within {self.cutoff} A")
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        short = torch.nonzero(lengths <= self._short + MARGIN).squeeze(1)
        # Of a short bond the edge that comes first; of a long one each edge.
        back = reverses(edges[:, short], vectors[short].detach())
        index = torch.arange(len(centre), device=centre.device)
        first = index.index_copy(0, short, torch.minimum(short, short[back]))
        bonds, bond_of_edge = torch.unique(first, return_inverse=True)
        graph = torch.stack([centre, edges[1]], dim=1)

        basis = model.bond_basis_expansion
        of_bonds = lengths[bonds].to(self._dtype)
        radial = basis.rbf_expansion_ag(of_bonds)
        bond_feas = model.bond_embedding(radial)
        bond_weights = model.bond_weights_ag(radial)
        left, right = pairs_at_centres(centre[short])
        directions = (vectors / lengths[:, None]).index_select(0, short)
        cosines = (directions[left] * directions[right]).sum(1) * SHORTENED
        angles = model.angle_embedding(
            model.angle_basis_expansion.fourier_expansion(torch.acos(cosines).to(self._dtype))
        )
        bond_of_short = bond_of_edge[short]
        line_graph = torch.stack(
            [centre[short][left], bond_of_short[left], bond_of_short[right]], dim=1
        )
        angle_weights = model.bond_weights_bg(basis.rbf_expansion_bg(of_bonds))

        atoms = model.atom_embedding(numbers - 1)
        middle = zip(
            model.atom_conv_layers[:-1], model.bond_conv_layers, model.angle_layers, strict=True
        )
        for atom_layer, bond_layer, angle_layer in middle:
            atoms = atom_layer(atoms, bond_feas, bond_weights, graph, bond_of_edge)
            if len(left):
                bond_feas = bond_layer(atoms, bond_feas, angle_weights, angles, line_graph)
                angles = angle_layer(atoms, bond_feas, angles, line_graph)
        atoms = model.atom_conv_layers[-1](atoms, bond_feas, bond_weights, graph, bond_of_edge)
        found: torch.Tensor = model.mlp(model.readout_norm(atoms)).squeeze(1)
        return found.double() + self._references.index_select(0, numbers - 1)
