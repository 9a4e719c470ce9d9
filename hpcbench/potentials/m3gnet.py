r"""MatterSim's M3GNet, re-arranged: the same weights and numbers at a fraction of the cost.

The architecture is that of ``mattersim.forcefield.m3gnet`` (MatterSim 1.2.3). Four things are done
in another order.

**No triplets.** M3GNet's three-body term of an edge :math:`ij` sums over all other edges
:math:`ik` of its centre, within the three-body cutoff:

.. math::

   T_{ij,ln} = f(r_{ij}) \sum_{k \ne j} Y_{l0}(\cos\theta_{jik}) \, R_{ln}(r_{ik}) f(r_{ik})

with :math:`Y_{l0}(x) = \sqrt{(2l+1)/4\pi}\, P_l(x)`. By the addition theorem of the spherical
harmonics :math:`P_l(\hat u \cdot \hat u') = \sum_m S_{lm}(\hat u) S_{lm}(\hat u')`, where
:math:`S_{lm} = \sqrt{4\pi/(2l+1)}\, Y_{lm}` are the real harmonics in Racah's normalisation. So
the sum over :math:`k` becomes moments of the atom,

.. math::

   M_{i,lmn} &= \sum_k S_{lm}(\hat u_{ik}) R_{ln}(r_{ik}) f(r_{ik}), \\
   T_{ij,ln} &= \sqrt{\tfrac{2l+1}{4\pi}} f(r_{ij})
       \Bigl[\sum_m S_{lm}(\hat u_{ij}) M_{i,lmn} - R_{ln}(r_{ij}) f(r_{ij})\Bigr] .

The last term takes the edge itself, for which all :math:`P_l(1) = 1`, out of the sum again. Cost
and memory go with edges instead of triplets. MatterSim multiplies each term by a gate of the
atom's features; it depends on the centre and on :math:`ln` only, so that :math:`T` is the same in
all blocks and is computed once. There is no arc cosine, whose derivative diverges for collinear
atoms.

**Split first layers.** The first layer of a gated MLP takes the features of both atoms and of the
edge. Its products with atoms' features are formed once per atom and gathered, instead of once per
edge; value and gate share one product.

**Gradients by hand.** Weights are constants, so only the gradient with respect to the edge vectors
is needed: it is written out, keeps three arrays of each gated MLP, and uses no autograd graph
except for the small geometric part.

**Vectors, not positions.** The input are edge vectors, formed in float64 from positions in
float64; forces and stress follow from the gradient with respect to them (``mattersim.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import silu

from hpcbench.potentials.m3gnet_basis import (
    RadialBasis,
    SphericalBessel,
    cutoff_envelope,
    real_harmonics,
)
from hpcbench.potentials.m3gnet_block import (
    block_backward,
    block_forward,
    sigmoid_backward,
    silu_backward,
    threebody_backward,
    threebody_gate,
)
from hpcbench.potentials.m3gnet_weights import (
    KNOWN_MAX_L,
    KNOWN_MAX_N,
    block_weights,
    columns,
    require_known,
)


class RearrangedM3GNet:
    """M3GNet's energy and its gradient with respect to the edge vectors.

    Parameters
    ----------
    arguments : mapping
        ``model_args`` of the checkpoint.
    weights : mapping of str to Tensor
        The state of MatterSim's ``M3Gnet``, buffers included.
    device : torch.device
        Where to compute.
    dtype : torch.dtype
        In which precision.

    Raises
    ------
    UnknownArchitectureError
        If the weights are not those of the architecture that is written out here.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        require_known(arguments, weights)
        weights = {
            name: tensor.detach().to(device=device, dtype=dtype) for name, tensor in weights.items()
        }
        self.cutoff = float(arguments["cutoff"])
        self.threebody_cutoff = float(arguments["threebody_cutoff"])
        self.dtype = dtype
        self._embedding = columns(weights["atom_embedding.mlp.0.linear.weight"])
        self._edge_encoder = columns(weights["edge_encoder.mlp.0.linear.weight"])
        blocks = range(int(arguments["num_blocks"]))
        self._blocks = [block_weights(weights, f"graph_conv.{index}.") for index in blocks]
        self._final = {
            branch: [
                (
                    columns(weights[f"final.{branch}.{layer}.linear.weight"]),
                    weights[f"final.{branch}.{layer}.linear.bias"],
                )
                for layer in range(3)
            ]
            for branch in ("g", "sigma")
        }
        self._scale = weights["normalizer.scale"]
        self._shift = weights["normalizer.shift"]
        self._radial = RadialBasis(weights)
        self._bessel = SphericalBessel(weights, self.cutoff)
        degrees = torch.arange(KNOWN_MAX_L, device=device, dtype=dtype)
        self._harmonic_norm = torch.sqrt((2 * degrees + 1) / (4 * torch.pi)).repeat_interleave(
            KNOWN_MAX_N
        )

    def __call__(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute energies of atoms, and the gradient of their sum.

        Parameters
        ----------
        numbers : Tensor, shape (natoms,)
            Atomic numbers.
        edges : Tensor, shape (2, nedges)
            Centre and neighbour of each edge, both directions of a pair being there.
        vectors : Tensor, shape (nedges, 3), float64
            From the centre to the neighbour, in A, none longer than the cutoff.

        Returns
        -------
        energies : Tensor, shape (natoms,), float64
            In eV.
        gradient : Tensor, shape (nedges, 3), float64
            With respect to ``vectors``, in eV/A.
        """
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        # Edges with a three-body term first, so that theirs are the head of every array.
        within = lengths <= self.threebody_cutoff
        short, long = torch.nonzero(within).squeeze(1), torch.nonzero(~within).squeeze(1)
        order = torch.cat([short, long])
        centre, neighbour = edges.index_select(1, order)
        with torch.enable_grad():
            leaf = vectors.index_select(0, order).requires_grad_(True)
            radial, threebody = self._geometry(leaf, centre, len(short), len(numbers))
        with torch.no_grad():
            energies, grad_radial, grad_threebody = self._network(
                numbers, centre, neighbour, radial.detach(), threebody.detach()
            )
        with torch.enable_grad():
            # One number: given gradients of outputs, torch loads sympy to compare their shapes,
            # a third of a second and hundreds of files in every rank.
            slope = (radial * grad_radial).sum() + (threebody * grad_threebody).sum()
        (gradient,) = torch.autograd.grad(slope, leaf)
        unordered = torch.empty_like(gradient)
        unordered[order] = gradient
        return energies.double(), unordered

    def _geometry(
        self, vectors: torch.Tensor, centre: torch.Tensor, nshort: int, natoms: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Radial basis (nedges, 4) and three-body term (nshort, 16) before the atoms' gates."""
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        radial = self._radial(lengths.to(self.dtype))
        short_lengths = lengths[:nshort]
        directions = (vectors[:nshort] / short_lengths).to(self.dtype)
        short_lengths = short_lengths.to(self.dtype)
        envelope = cutoff_envelope(short_lengths, self.threebody_cutoff)
        basis = self._bessel(short_lengths) * envelope
        harmonics = real_harmonics(directions)
        by_degree = basis.split(KNOWN_MAX_N, dim=1)
        products = torch.cat(
            [
                (s[:, :, None] * b[:, None, :]).flatten(1)
                for s, b in zip(harmonics, by_degree, strict=True)
            ],
            dim=1,
        )
        moments = torch.zeros(natoms, products.shape[1], dtype=self.dtype, device=vectors.device)
        moments = moments.index_add(0, centre[:nshort], products)
        gathered = moments.index_select(0, centre[:nshort])
        sums = []
        start = 0
        for harmonic in harmonics:
            size = harmonic.shape[1] * KNOWN_MAX_N
            part = gathered[:, start : start + size].unflatten(1, (harmonic.shape[1], KNOWN_MAX_N))
            sums.append((harmonic[:, :, None] * part).sum(1))
            start += size
        return radial, self._harmonic_norm * envelope * (torch.cat(sums, dim=1) - basis)

    def _network(
        self,
        numbers: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
        radial: torch.Tensor,
        threebody: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energies of atoms, and gradients of their sum by ``radial`` and ``threebody``."""
        short_centre = centre[: len(threebody)]
        # Rows of a table of all centres' and then all neighbours' features.
        pairs = torch.stack([centre, neighbour + len(numbers)], dim=1)
        atoms = self._embedding.index_select(0, numbers)
        encoded = radial @ self._edge_encoder
        edges = silu(encoded)
        passes = []
        for block in self._blocks:
            atoms, kept = block_forward(block, atoms, edges, pairs, centre, radial, threebody)
            passes.append(kept)
        energies, grad_atoms = self._readout(atoms, numbers)
        grad_edges = torch.zeros_like(edges)
        grad_radial = torch.zeros_like(radial)
        grad_threebody = torch.zeros_like(threebody)
        for block in reversed(self._blocks):
            # Popped, so that memory is free again as soon as the block is done.
            kept = passes.pop()
            block_backward(
                block, kept, (centre, neighbour), radial, grad_edges, grad_atoms, grad_radial
            )
            gathered_gates = kept.gates.index_select(0, short_centre)
            value_in, gate = threebody_gate(block, threebody * gathered_gates)
            grad_gated = threebody_backward(block, value_in, gate, grad_edges[: len(threebody)])
            grad_threebody.addcmul_(grad_gated, gathered_gates)
            grad_gates = torch.zeros_like(kept.gates)
            grad_gates.index_add_(0, short_centre, grad_gated * threebody)
            grad_atoms.addmm_(sigmoid_backward(grad_gates, kept.gates), block.atom_gate.T)
        grad_radial.addmm_(silu_backward(grad_edges, encoded), self._edge_encoder.T)
        return energies, grad_radial, grad_threebody

    def _readout(
        self, atoms: torch.Tensor, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies of atoms, and the gradient of their sum by the atoms' features."""
        inputs: dict[str, list[torch.Tensor]] = {}
        outputs = {}
        for branch, layers in self._final.items():
            hidden = atoms
            inputs[branch] = []
            for weight, bias in layers:
                hidden = torch.addmm(bias, hidden, weight)
                inputs[branch].append(hidden)
                hidden = silu(hidden)
            outputs[branch] = inputs[branch].pop()
        value, gate = outputs["g"], torch.sigmoid(outputs["sigma"])
        scale = self._scale[numbers]
        energies = scale * (value * gate).squeeze(1) + self._shift[numbers]
        gradient = torch.zeros_like(atoms)
        start = {"g": gate, "sigma": value * gate * (1 - gate)}
        for branch, layers in self._final.items():
            grad = start[branch] * scale[:, None]
            for (weight, _), hidden in zip(
                reversed(layers[1:]), reversed(inputs[branch]), strict=True
            ):
                grad = silu_backward(grad @ weight.T, hidden)
            gradient.addmm_(grad, layers[0][0].T)
        return energies, gradient
