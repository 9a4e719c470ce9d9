"""One block of M3GNet, forwards and back: gated MLPs with gradients written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag, silu

from hpcbench.potentials.m3gnet_weights import Block, GatedLayers

silu_backward = torch.ops.aten.silu_backward
sigmoid_backward = torch.ops.aten.sigmoid_backward


def _silu_backward_(gradient: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return the gradient through SiLU, in place: fresh memory costs as much as the arithmetic."""
    return silu_backward.grad_input(gradient, inputs, grad_input=gradient)


def _sigmoid_backward_(gradient: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the gradient through the logistic function, in place."""
    return sigmoid_backward.grad_input(gradient, outputs, grad_input=gradient)


@dataclass(frozen=True, eq=False)
class _GatedPass:
    """Hold what a gated MLP keeps of its forward pass for the way back.

    The rest is computed again: a small product or an exponential takes less time than an array
    takes to memory and back.
    """

    hidden: torch.Tensor  # (nedges, 2U), before the activation
    value_in: torch.Tensor  # (nedges, U), before the activation
    gate: torch.Tensor  # (nedges, U)


@dataclass(frozen=True, eq=False)
class BlockPass:
    """Hold what a block keeps of its forward pass for the way back."""

    gates: torch.Tensor  # (natoms, 16)
    edge_pass: _GatedPass
    atom_pass: _GatedPass


def block_forward(
    block: Block,
    atoms: torch.Tensor,
    edges: torch.Tensor,
    pairs: torch.Tensor,
    centre: torch.Tensor,
    radial: torch.Tensor,
    threebody: torch.Tensor,
) -> tuple[torch.Tensor, BlockPass]:
    """Compute new features of atoms; those of edges are changed in place.

    Parameters
    ----------
    block : Block
        The weights, for U units.
    atoms : Tensor, shape (natoms, U)
        Features of atoms.
    edges : Tensor, shape (nedges, U)
        Features of edges, those within the three-body cutoff first.
    pairs : Tensor, shape (nedges, 2)
        Centre, and neighbour plus natoms: rows of a table of all centres' and all neighbours'.
    centre : Tensor, shape (nedges,)
        Centre of each edge.
    radial : Tensor, shape (nedges, 4)
        Radial basis.
    threebody : Tensor, shape (nshort, 16)
        Three-body term before the atoms' gates.

    Returns
    -------
    atoms : Tensor, shape (natoms, U)
        The new features.
    kept : BlockPass
        For the way back.
    """
    nshort = len(threebody)
    gates = torch.addmm(block.atom_gate_bias, atoms, block.atom_gate).sigmoid_()
    gated = threebody * gates.index_select(0, centre[:nshort])
    value_in, gate = threebody_gate(block, gated)
    edges[:nshort].addcmul_(silu(value_in), gate)

    edge_pass, product = _gated(block.edge_layers, atoms, edges, pairs)
    edges.addcmul_(product, radial @ block.edge_radial)

    atom_pass, messages = _gated(block.atom_layers, atoms, edges, pairs)
    messages.mul_(silu(radial @ block.atom_radial))
    return atoms.index_add(0, centre, messages), BlockPass(gates, edge_pass, atom_pass)


def threebody_gate(block: Block, gated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return value (before its activation) and gate of the three-body term's gated MLP.

    Parameters
    ----------
    block : Block
        The weights, for U units.
    gated : Tensor, shape (nshort, 16)
        The three-body term times the atoms' gates.

    Returns
    -------
    value_in, gate : Tensor, shape (nshort, U)
    """
    value_in, gate = (gated @ block.threebody).chunk(2, dim=1)
    return value_in.contiguous(), gate.sigmoid()


def block_backward(
    block: Block,
    kept: BlockPass,
    ends: tuple[torch.Tensor, torch.Tensor],
    radial: torch.Tensor,
    grad_edges: torch.Tensor,
    grad_atoms: torch.Tensor,
    grad_radial: torch.Tensor,
) -> None:
    """Go the way back through a block down to its three-body term; gradients change in place.

    Parameters
    ----------
    block : Block
        The weights, for U units.
    kept : BlockPass
        Of the forward pass.
    ends : tuple of Tensor, shape (nedges,)
        Centre and neighbour of each edge.
    radial : Tensor, shape (nedges, 4)
        Radial basis.
    grad_edges, grad_atoms : Tensor, shape (nedges, U) and (natoms, U)
        Gradient by the features that the block gave; afterwards by those that it was given, but
        for its three-body term.
    grad_radial : Tensor, shape (nedges, 4)
        Gradient by the radial basis, added to.
    """
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


def threebody_backward(
    block: Block, value_in: torch.Tensor, gate: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Return the gradient by the gated three-body term, from that by the short edges.

    Parameters
    ----------
    block : Block
        The weights, for U units.
    value_in, gate : Tensor, shape (nshort, U)
        As :func:`threebody_gate` gave them; ``gate`` is overwritten.
    gradient : Tensor, shape (nshort, U)
        By the features of the edges.

    Returns
    -------
    Tensor, shape (nshort, 16)
    """
    by_gate = silu(value_in).mul_(gradient)
    _sigmoid_backward_(by_gate, gate)
    by_value = _silu_backward_(gate.mul_(gradient), value_in)
    return torch.cat([by_value, by_gate], dim=1) @ block.threebody.T


def _gated(
    layers: GatedLayers, atoms: torch.Tensor, edges: torch.Tensor, pairs: torch.Tensor
) -> tuple[_GatedPass, torch.Tensor]:
    """Compute a gated MLP on [centre, neighbour, edge]: what it keeps, and value times gate."""
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
