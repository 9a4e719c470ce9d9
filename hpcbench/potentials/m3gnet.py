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
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding_bag, silu

from hpcbench.potentials.m3gnet_basis import (
    RadialBasis,
    SphericalBessel,
    cutoff_envelope,
    real_harmonics,
)
from hpcbench.potentials.m3gnet_weights import (
    KNOWN_MAX_L,
    KNOWN_MAX_N,
    Block,
    GatedLayers,
    block_weights,
    columns,
    require_known,
)

silu_backward = torch.ops.aten.silu_backward
sigmoid_backward = torch.ops.aten.sigmoid_backward


def _silu_backward_(gradient: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The gradient through SiLU, in place: fresh memory costs as much as the arithmetic."""
    return silu_backward.grad_input(gradient, inputs, grad_input=gradient)


def _sigmoid_backward_(gradient: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The gradient through the logistic function, in place."""
    return sigmoid_backward.grad_input(gradient, outputs, grad_input=gradient)


@dataclass(frozen=True, eq=False)
class _GatedPass:
    """What a gated MLP keeps of its forward pass for the way back.

    The rest is computed again: a small product or an exponential takes less time than an array
    takes to memory and back.
    """

    hidden: torch.Tensor  # (nedges, 2U), before the activation
    value_in: torch.Tensor  # (nedges, U), before the activation
    gate: torch.Tensor  # (nedges, U)


@dataclass(frozen=True, eq=False)
class _BlockPass:
    """What a block keeps of its forward pass for the way back."""

    gates: torch.Tensor  # (natoms, 16)
    edge_pass: _GatedPass
    atom_pass: _GatedPass


class RearrangedM3GNet:
    """M3GNet's energy and its gradient with respect to the edge vectors.

    Parameters
    ----------
    arguments : mapping
        ``model_args`` of the checkpoint.
    weights : mapping of str to Tensor
        The state of MatterSim's ``M3Gnet``, buffers included.
    device, dtype
        Where and in which precision to compute.

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
        """Energies of atoms, and the gradient of their sum.

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
            atoms, kept = _forward(block, atoms, edges, pairs, centre, radial, threebody)
            passes.append(kept)
        energies, grad_atoms = self._readout(atoms, numbers)
        grad_edges = torch.zeros_like(edges)
        grad_radial = torch.zeros_like(radial)
        grad_threebody = torch.zeros_like(threebody)
        for block in reversed(self._blocks):
            # Popped, so that memory is free again as soon as the block is done.
            kept = passes.pop()
            _backward(block, kept, (centre, neighbour), radial, grad_edges, grad_atoms, grad_radial)
            gathered_gates = kept.gates.index_select(0, short_centre)
            value_in, gate = _threebody_gate(block, threebody * gathered_gates)
            grad_gated = _threebody_backward(block, value_in, gate, grad_edges[: len(threebody)])
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


def _forward(
    block: Block,
    atoms: torch.Tensor,
    edges: torch.Tensor,
    pairs: torch.Tensor,
    centre: torch.Tensor,
    radial: torch.Tensor,
    threebody: torch.Tensor,
) -> tuple[torch.Tensor, _BlockPass]:
    """One block: new features of the atoms; those of the edges are changed in place."""
    nshort = len(threebody)
    gates = torch.addmm(block.atom_gate_bias, atoms, block.atom_gate).sigmoid_()
    gated = threebody * gates.index_select(0, centre[:nshort])
    value_in, gate = _threebody_gate(block, gated)
    edges[:nshort].addcmul_(silu(value_in), gate)

    edge_pass, product = _gated(block.edge_layers, atoms, edges, pairs)
    edges.addcmul_(product, radial @ block.edge_radial)

    atom_pass, messages = _gated(block.atom_layers, atoms, edges, pairs)
    messages.mul_(silu(radial @ block.atom_radial))
    return atoms.index_add(0, centre, messages), _BlockPass(gates, edge_pass, atom_pass)


def _threebody_gate(block: Block, gated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gated MLP of the three-body term: value before its activation, and gate."""
    value_in, gate = (gated @ block.threebody).chunk(2, dim=1)
    return value_in.contiguous(), gate.sigmoid()


def _backward(
    block: Block,
    kept: _BlockPass,
    ends: tuple[torch.Tensor, torch.Tensor],
    radial: torch.Tensor,
    grad_edges: torch.Tensor,
    grad_atoms: torch.Tensor,
    grad_radial: torch.Tensor,
) -> None:
    """A block's way back down to its three-body term; gradients are changed in place."""
    gradient = grad_atoms.index_select(0, ends[0])
    factor_in = radial @ block.atom_radial
    by_factor = _gated_backward(
        block.atom_layers, kept.atom_pass, silu(factor_in), gradient, ends, grad_edges, grad_atoms
    )
    grad_radial.addmm_(_silu_backward_(by_factor, factor_in), block.atom_radial.T)
    factor = radial @ block.edge_radial
    gradient = grad_edges.clone()
    by_factor = _gated_backward(
        block.edge_layers, kept.edge_pass, factor, gradient, ends, grad_edges, grad_atoms
    )
    grad_radial.addmm_(by_factor, block.edge_radial.T)


def _threebody_backward(
    block: Block, value_in: torch.Tensor, gate: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Gradient by the gated three-body term (nshort, 16), from that by the short edges."""
    by_gate = silu(value_in).mul_(gradient)
    _sigmoid_backward_(by_gate, gate)
    by_value = _silu_backward_(gate.mul_(gradient), value_in)
    return torch.cat([by_value, by_gate], dim=1) @ block.threebody.T


def _gated(
    layers: GatedLayers, atoms: torch.Tensor, edges: torch.Tensor, pairs: torch.Tensor
) -> tuple[_GatedPass, torch.Tensor]:
    """A gated MLP on [centre, neighbour, edge]: what it keeps, and its value times its gate."""
    units = layers.value.shape[0]
    by_atom = torch.cat(
        [torch.addmm(layers.first_bias, atoms, layers.centre), atoms @ layers.neighbour]
    )
    # The bag of an edge are its centre's and its neighbour's rows: gathered and added at once.
    hidden = embedding_bag(pairs, by_atom, mode="sum").addmm_(edges, layers.edge)
    activated = silu(hidden)
    value_in = torch.addmm(layers.value_bias, activated[:, :units], layers.value)
    gate = torch.addmm(layers.gate_bias, activated[:, units:], layers.gate).sigmoid_()
    return _GatedPass(hidden, value_in, gate), silu(value_in).mul_(gate)


def _gated_backward(
    layers: GatedLayers,
    kept: _GatedPass,
    factor: torch.Tensor,
    gradient: torch.Tensor,
    ends: tuple[torch.Tensor, torch.Tensor],
    grad_edges: torch.Tensor,
    grad_atoms: torch.Tensor,
) -> torch.Tensor:
    """Add a gated MLP's gradient to those of edges and atoms; returns that of its factor.

    ``gradient`` is that of ``value * gate * factor``; it is overwritten.
    """
    units = layers.value.shape[0]
    by_gate = silu(kept.value_in).mul_(gradient)
    by_factor = by_gate * kept.gate
    by_gate = _sigmoid_backward_(by_gate.mul_(factor), kept.gate)
    by_value = _silu_backward_(gradient.mul_(factor).mul_(kept.gate), kept.value_in)
    hidden = torch.empty_like(kept.hidden)
    torch.mm(by_value, layers.value.T, out=hidden[:, :units])
    torch.mm(by_gate, layers.gate.T, out=hidden[:, units:])
    _silu_backward_(hidden, kept.hidden)
    grad_edges.addmm_(hidden, layers.edge.T)
    sums = torch.zeros(len(grad_atoms), 2 * units, dtype=hidden.dtype, device=hidden.device)
    for atom, weight in zip(ends, (layers.centre, layers.neighbour), strict=True):
        grad_atoms.addmm_(sums.zero_().index_add_(0, atom, hidden), weight.T)
    return by_factor
