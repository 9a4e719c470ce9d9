"""Compute the gated MLPs of M3GNet on edges: slopes, bends, and changes along a wave with phases.

Changes are arrays (rows, ncolumns, features), as in ``m3gnet_linear.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpcbench.potentials.m3gnet_weights import GatedLayers

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Phases:
    """Hold exp(2 pi i q.R) of each edge for each column.

    Attributes
    ----------
    cosine, sine : Tensor, shape (nedges, ncolumns, 1)
        ``sine`` is None where all phases are real.
    """

    cosine: torch.Tensor
    sine: torch.Tensor | None

    @classmethod
    def of(cls, cycles: torch.Tensor, dtype: torch.dtype, *, real: bool) -> Phases:
        """Return the phases of ``q.R`` (nedges, ncolumns), in float64.

        Parameters
        ----------
        cycles : Tensor, shape (nedges, ncolumns)
            ``q.R``, in float64.
        dtype : torch.dtype
            Of the phases.
        real : bool
            Whether all are 1 or -1.
        """
        if real:
            return cls((1 - 2 * (2 * cycles).round().remainder(2))[:, :, None].to(dtype), None)
        angles = 2 * torch.pi * (cycles - cycles.round())[:, :, None]
        return cls(torch.cos(angles).to(dtype), torch.sin(angles).to(dtype))

    @property
    def parts(self) -> int:
        """Return how many real numbers make one number of the changes."""
        return 1 if self.sine is None else 2

    def add_times_(self, total: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add to ``total`` what a neighbour's change (nedges, ncolumns, features) is here.

        Parameters
        ----------
        total : Tensor
            What is added to, in place.
        x : Tensor, shape (nedges, ncolumns, features)
            The neighbour's change.
        """
        if self.sine is None:
            return total.addcmul_(x, self.cosine)
        parts = total.unflatten(1, (2, -1))
        self._add(parts.addcmul_(x.unflatten(1, (2, -1)), self.cosine[:, None]), x, 1)
        return total

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """Return the adjoint of what is added."""
        if self.sine is None:
            return x * self.cosine
        result = x.unflatten(1, (2, -1)) * self.cosine[:, None]
        self._add(result, x, -1)
        return result.flatten(1, 2)

    def _add(self, parts: torch.Tensor, x: torch.Tensor, sign: int) -> None:
        assert self.sine is not None, "only complex phases have an imaginary part"
        x = x.unflatten(1, (2, -1))
        parts[:, 0].addcmul_(x[:, 1], self.sine, value=-sign)
        parts[:, 1].addcmul_(x[:, 0], self.sine, value=sign)


def silu_slopes(x: torch.Tensor) -> Three:
    """Return SiLU, its slope and its bend."""
    s = torch.sigmoid(x)
    slope = s * (1 - s)
    return x * s, torch.addcmul(s, x, slope), slope * (2 + x * (1 - 2 * s))


def sigmoid_slopes(x: torch.Tensor) -> Three:
    """Return the logistic function, its slope and its bend."""
    s = torch.sigmoid(x)
    slope = s * (1 - s)
    return s, slope, slope * (1 - 2 * s)


def add_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add ``a @ b`` to ``x`` in place, which is contiguous.

    Parameters
    ----------
    x : Tensor, contiguous
        What is added to, seen as a matrix of its last axis.
    a, b : Tensor
        The factors; ``b`` is a matrix.
    """
    x.view(-1, x.shape[-1]).addmm_(a.reshape(-1, a.shape[-1]), b)


def sums_by_atom(x: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    """Return sums of edges (nedges, ...) by atom.

    Parameters
    ----------
    x : Tensor, shape (nedges, ...)
        Values of edges.
    index : Tensor, shape (nedges,)
        The atom of each edge.
    rows : int
        Number of atoms.
    """
    return x.new_zeros(rows, *x.shape[1:]).index_add_(0, index, x)


def per_column(x: torch.Tensor) -> torch.Tensor:
    """Return what all columns share, for products with each."""
    return x[:, None, :]


@dataclass(frozen=True, eq=False)
class Gated:
    """Hold a gated MLP on edges at the crystals.

    Attributes
    ----------
    first : Tensor, shape (nedges, 2U)
        Slope of the first layer's activation.
    by_value, by_gate : Tensor, shape (nedges, U)
        Slopes of value times gate.
    product : Tensor, shape (nedges, U)
        Value times gate.
    """

    layers: GatedLayers
    first: torch.Tensor
    first_bend: torch.Tensor
    value: Three
    gate: Three
    by_value: torch.Tensor
    by_gate: torch.Tensor
    product: torch.Tensor


@dataclass(frozen=True, eq=False)
class GatedBends:
    """Hold second derivatives of a gated MLP times the gradients of its way back.

    Attributes
    ----------
    first : Tensor, shape (nedges, 2U)
    vv, vg, gg : Tensor, shape (nedges, U)
        By value twice, value and gate, gate twice.
    """

    first: torch.Tensor
    vv: torch.Tensor
    vg: torch.Tensor
    gg: torch.Tensor


@dataclass(frozen=True, eq=False)
class GatedTangent:
    """Hold the changes of a gated MLP's hidden layer, value, gate, and value times gate."""

    hidden: torch.Tensor  # (nedges, ncolumns, 2U)
    value: torch.Tensor  # (nedges, ncolumns, U)
    gate: torch.Tensor
    product: torch.Tensor


def gated_slopes(
    layers: GatedLayers, atoms: torch.Tensor, edges: torch.Tensor, ends: torch.Tensor
) -> Gated:
    """Return a gated MLP on [centre, neighbour, edge] with the slopes and bends of its parts.

    Parameters
    ----------
    layers : GatedLayers
        Weights of the MLP.
    atoms, edges : Tensor, shape (natoms, U), (nedges, U)
        Features.
    ends : Tensor, shape (2, nedges)
        Centre and neighbour of each edge.
    """
    units = layers.value.shape[0]
    hidden = (atoms @ layers.centre + layers.first_bias).index_select(0, ends[0])
    hidden += (atoms @ layers.neighbour).index_select(0, ends[1])
    hidden.addmm_(edges, layers.edge)
    activated, first, first_bend = silu_slopes(hidden)
    value = silu_slopes(activated[:, :units] @ layers.value + layers.value_bias)
    gate = sigmoid_slopes(activated[:, units:] @ layers.gate + layers.gate_bias)
    by_value, by_gate = value[1] * gate[0], value[0] * gate[1]
    return Gated(layers, first, first_bend, value, gate, by_value, by_gate, value[0] * gate[0])


def gated_back(
    gated: Gated,
    grad: torch.Tensor,
    ends: torch.Tensor,
    g_edges: torch.Tensor,
    g_atoms: torch.Tensor,
) -> GatedBends:
    """Add to the gradients by edges and atoms, of what has ``grad`` by value times gate.

    Parameters
    ----------
    gated : Gated
        The MLP at the crystals.
    grad : Tensor, shape (nedges, U)
        Gradient by value times gate.
    ends : Tensor, shape (2, nedges)
        Centre and neighbour of each edge.
    g_edges, g_atoms : Tensor
        Gradients by features of edges and atoms, added to in place.
    """
    layers, value, gate, natoms = gated.layers, gated.value, gated.gate, len(g_atoms)
    back = torch.cat(
        [(grad * gated.by_value) @ layers.value.T, (grad * gated.by_gate) @ layers.gate.T], dim=1
    )
    first_bend = back * gated.first_bend
    back *= gated.first
    g_edges.addmm_(back, layers.edge.T)
    g_atoms.addmm_(sums_by_atom(back, ends[0], natoms), layers.centre.T)
    g_atoms.addmm_(sums_by_atom(back, ends[1], natoms), layers.neighbour.T)
    return GatedBends(
        first_bend,
        grad * value[2] * gate[0],
        grad * value[1] * gate[1],
        grad * value[0] * gate[2],
    )


def gated_tangent(
    gated: Gated,
    atoms: torch.Tensor | None,
    edges: torch.Tensor,
    ends: torch.Tensor,
    phases: Phases,
) -> GatedTangent:
    """Return the change of value times gate with those of the features.

    Parameters
    ----------
    gated : Gated
        The MLP with its slopes, from :func:`gated_slopes`.
    atoms : Tensor, shape (natoms, ncolumns, U), or None
        Changes of the features of atoms, if there are any.
    edges : Tensor, shape (nedges, ncolumns, U)
        Changes of the features of edges.
    ends : Tensor, shape (2, nedges)
        Centre and neighbour of each edge.
    phases : Phases
        Phases of the edges.
    """
    layers = gated.layers
    units = layers.value.shape[0]
    if atoms is None:
        hidden = edges @ layers.edge
    else:
        hidden = phases.add_times_(
            (atoms @ layers.centre).index_select(0, ends[0]),
            (atoms @ layers.neighbour).index_select(0, ends[1]),
        )
        add_product(hidden, edges, layers.edge)
    activated = hidden * per_column(gated.first)
    value = activated[..., :units] @ layers.value
    gate = activated[..., units:] @ layers.gate
    product = value * per_column(gated.by_value)
    product.addcmul_(per_column(gated.by_gate), gate)
    return GatedTangent(hidden, value, gate, product)


def gated_tangent_back(
    gated: Gated,
    bends: GatedBends,
    tangent: GatedTangent,
    grad: torch.Tensor,
    ends: torch.Tensor,
    phases: Phases,
    g_edges: torch.Tensor,
    g_atoms: torch.Tensor | None,
) -> None:
    """Add to the changes of gradients by edges and atoms; that by value times gate is ``grad``.

    Parameters
    ----------
    gated, bends, tangent : Gated, GatedBends, GatedTangent
        The MLP at the crystals, its bends, and its change.
    grad : Tensor, shape (nedges, ncolumns, U)
        Change of the gradient by value times gate.
    ends : Tensor, shape (2, nedges)
        Centre and neighbour of each edge.
    phases : Phases
        Of the edges.
    g_edges, g_atoms : Tensor
        Changes of the gradients by features of edges and atoms, added to in place; of atoms
        ``None`` if nobody needs it.
    """
    layers = gated.layers
    units = layers.value.shape[0]
    back = torch.empty_like(tangent.hidden)
    rows = back.view(-1, 2 * units)
    part = grad * per_column(gated.by_value)
    part.addcmul_(per_column(bends.vv), tangent.value).addcmul_(per_column(bends.vg), tangent.gate)
    torch.mm(part.view(-1, units), layers.value.T, out=rows[:, :units])
    torch.mul(grad, per_column(gated.by_gate), out=part)
    part.addcmul_(per_column(bends.vg), tangent.value).addcmul_(per_column(bends.gg), tangent.gate)
    torch.mm(part.view(-1, units), layers.gate.T, out=rows[:, units:])
    back.mul_(per_column(gated.first)).addcmul_(per_column(bends.first), tangent.hidden)
    add_product(g_edges, back, layers.edge.T)
    if g_atoms is not None:
        natoms = len(g_atoms)
        add_product(g_atoms, sums_by_atom(back, ends[0], natoms), layers.centre.T)
        add_product(g_atoms, sums_by_atom(phases.back(back), ends[1], natoms), layers.neighbour.T)
