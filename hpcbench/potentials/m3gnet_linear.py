r"""M3GNet linearised at some crystals: how the gradient changes when the edge vectors do.

The pass that gives the energy and its gradient by the edge vectors (``m3gnet.py``) is
differentiated once more, forwards, along displacements :math:`u_j e^{2 \pi i q \cdot R}` of the
atoms of all cells. All numbers of the crystal are those of its own cell, and so are all changes,
but for a phase wherever something passes along an edge:

* edge vectors change by :math:`\dot r_e = e^{2 \pi i q \cdot R_e} u_{j(e)} - u_{i(e)}`,
* an edge sees of its neighbour :math:`e^{2 \pi i q \cdot R_e} \dot x_{j(e)}`,
* what an edge sends back to its neighbour gets :math:`e^{-2 \pi i q \cdot R_e}`,
* and so does its part of the neighbour's force.

Everything else is local to a centre and its edges. One pass forwards and back keeps the slopes and
bends of all functions, which do not depend on the displacement; a column after that takes products
with weights and sums only. docs/concepts/response.md has the equations.

Changes are arrays (rows, ncolumns, features). Where phases are complex, a column has its real part
among the first half of the columns and its imaginary part among the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_gated import (
    Gated,
    GatedBends,
    GatedTangent,
    Phases,
    Three,
    add_product,
    gated_back,
    gated_slopes,
    gated_tangent,
    gated_tangent_back,
    per_column,
    sigmoid_slopes,
    silu_slopes,
    sums_by_atom,
)
from hpcbench.potentials.m3gnet_geometry import Geometry
from hpcbench.potentials.m3gnet_readout import Readout
from hpcbench.potentials.m3gnet_weights import Block


@dataclass(frozen=True, eq=False)
class _BlockState:
    """A block at the crystals, forwards.

    Attributes
    ----------
    gate : Three
        The atoms' gates (natoms, 16), with slopes and bends.
    gates : Tensor, shape (nshort, 16)
        The gates at the edges of their atoms.
    three_value, three_gate : Three
        Value and gate of the three-body term's gated MLP, with slopes and bends.
    edge, atom : Gated
        The gated MLPs.
    edge_factor, edge_slope : Tensor, shape (nedges, U)
        That of edges, linear in the radial basis, and its slope by the edge's length.
    atom_factor : Three
        That of messages, with slope and bend by its input.
    atom_slope : Tensor, shape (nedges, U)
        Slope of that input by the edge's length.
    """

    weights: Block
    gate: Three
    gates: torch.Tensor
    three_value: Three
    three_gate: Three
    edge: Gated
    edge_factor: torch.Tensor
    edge_slope: torch.Tensor
    atom: Gated
    atom_factor: Three
    atom_slope: torch.Tensor


@dataclass(frozen=True, eq=False)
class _BlockBack:
    """A block at the crystals, on the way back.

    Attributes
    ----------
    gate : Tensor, shape (natoms, 16)
        Bend of the atoms' gates times the gradient.
    gated : Tensor, shape (nshort, 16)
        Gradient by the three-body term times gates.
    short : tuple of Tensor, shape (nshort, U)
        Slopes of value times gate of the three-body term by both, and their bends times the
        gradient: value twice, both, gate twice.
    edge, atom : GatedBends
        Of the gated MLPs.
    by_edge : tuple of Tensor, shape (nedges, U)
        Gradient by the edges' features; the slopes of their factor, times value times gate and
        times the gradient.
    message : tuple of Tensor, shape (nedges, U)
        Factor of messages; and by the factor's input, the slope times value times gate and the
        slope times the gradient; both by the edge's length, and the bend times value times gate
        times the gradient.
    """

    gate: torch.Tensor
    gated: torch.Tensor
    short: tuple[torch.Tensor, ...]
    edge: GatedBends
    atom: GatedBends
    by_edge: tuple[torch.Tensor, ...]
    message: tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class _BlockTangent:
    gate_in: torch.Tensor | None  # none in the first block, at which no atom has changed
    three_value: torch.Tensor
    three_gate: torch.Tensor
    edge: GatedTangent
    atom: GatedTangent


class LinearM3GNet:
    """M3GNet at some crystals, with the slopes and bends of all of its functions.

    Attributes
    ----------
    energies : Tensor, shape (natoms,), float64
        In eV.
    gradient : Tensor, shape (nedges, 3), float64
        Of the energy by ``vectors``, in eV/A.

    Parameters
    ----------
    model : RearrangedM3GNet
    numbers : Tensor, shape (natoms,)
        Atomic numbers.
    ends : Tensor, shape (2, nedges)
        Centre and neighbour of each edge, edges within the three-body cutoff first.
    vectors : Tensor, shape (nedges, 3), float64
        From the centre to the neighbour, in A.
    """

    def __init__(
        self,
        model: RearrangedM3GNet,
        numbers: torch.Tensor,
        ends: torch.Tensor,
        vectors: torch.Tensor,
    ) -> None:
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        self._nshort = int((lengths <= model.threebody_cutoff).sum())
        self._model, self._ends, self._natoms = model, ends, len(numbers)
        self._short_centre = ends[0, : self._nshort]
        self._geometry = Geometry(model, vectors, self._short_centre, self._natoms)
        self._blocks: list[_BlockState] = []
        self._forward(numbers)
        self.energies = self._readout.energies.double()
        self.gradient = self._back()

    def _forward(self, numbers: torch.Tensor) -> None:
        model, ends, radial = self._model, self._ends, self._geometry.radial
        threebody = self._geometry.threebody
        x = model._embedding.index_select(0, numbers)
        units = x.shape[1]
        by_length = self._geometry.radial_slope
        self._encoder = silu_slopes(radial @ model._edge_encoder)
        self._encoder_slope = by_length @ model._edge_encoder
        edges = self._encoder[0].clone()
        for block in model._blocks:
            gate = sigmoid_slopes(torch.addmm(block.atom_gate_bias, x, block.atom_gate))
            gates = gate[0].index_select(0, self._short_centre)
            three = (threebody * gates) @ block.threebody
            value, tgate = silu_slopes(three[:, :units]), sigmoid_slopes(three[:, units:])
            edges[: self._nshort].addcmul_(value[0], tgate[0])
            edge = gated_slopes(block.edge_layers, x, edges, ends)
            edge_factor = radial @ block.edge_radial
            edges.addcmul_(edge.product, edge_factor)
            atom = gated_slopes(block.atom_layers, x, edges, ends)
            factor = silu_slopes(radial @ block.atom_radial)
            x = x + sums_by_atom(atom.product * factor[0], ends[0], self._natoms)
            self._blocks.append(
                _BlockState(
                    weights=block,
                    gate=gate,
                    gates=gates,
                    three_value=value,
                    three_gate=tgate,
                    edge=edge,
                    edge_factor=edge_factor,
                    edge_slope=by_length @ block.edge_radial,
                    atom=atom,
                    atom_factor=factor,
                    atom_slope=by_length @ block.atom_radial,
                )
            )
        self._readout = Readout(model, x, numbers)

    def _back(self) -> torch.Tensor:
        model, ends, nshort = self._model, self._ends, self._nshort
        radial, threebody = self._geometry.radial, self._geometry.threebody
        g_x = self._readout.gradient.clone()
        g_edges = torch.zeros_like(self._encoder[0])
        g_radial, g_threebody = torch.zeros_like(radial), torch.zeros_like(threebody)
        self._backs: list[_BlockBack] = []
        for state in reversed(self._blocks):
            block = state.weights
            factor, slope, bend = state.atom_factor
            by_message = g_x.index_select(0, ends[0])
            product = state.atom.product
            by_length = state.atom_slope
            message = (
                factor,
                product * slope,
                by_message * slope,
                product * slope * by_length,
                by_message * slope * by_length,
                by_message * product * bend * by_length,
            )
            g_radial.addmm_(by_message * message[1], block.atom_radial.T)
            atom_bends = gated_back(state.atom, by_message * factor, ends, g_edges, g_x)
            edge = g_edges.clone()
            by_edge = edge, state.edge.product * state.edge_slope, edge * state.edge_slope
            g_radial.addmm_(edge * state.edge.product, block.edge_radial.T)
            edge_bends = gated_back(state.edge, edge * state.edge_factor, ends, g_edges, g_x)
            g, value, gate = g_edges[:nshort], state.three_value, state.three_gate
            by_value, by_gate = value[1] * gate[0], value[0] * gate[1]
            short = (
                by_value,
                by_gate,
                g * value[2] * gate[0],
                g * value[1] * gate[1],
                g * value[0] * gate[2],
            )
            gated = torch.cat([g * by_value, g * by_gate], dim=1) @ block.threebody.T
            g_threebody.addcmul_(gated, state.gates)
            by_gates = sums_by_atom(gated * threebody, self._short_centre, self._natoms)
            g_x.addmm_(by_gates * state.gate[1], block.atom_gate.T)
            gate_bend = by_gates * state.gate[2]
            self._backs.append(
                _BlockBack(gate_bend, gated, short, edge_bends, atom_bends, by_edge, message)
            )
        self._encoder_bend = g_edges * self._encoder[2] * self._encoder_slope
        g_radial.addmm_(g_edges * self._encoder[1], model._edge_encoder.T)
        return self._geometry.back(g_radial, g_threebody)

    def tangent(self, vectors: torch.Tensor, phases: Phases) -> torch.Tensor:
        """Return how the gradient changes when the edge vectors do.

        Parameters
        ----------
        vectors : Tensor, shape (nedges, ncolumns, 3), float64
            Changes of the edge vectors.
        phases : Phases

        Returns
        -------
        Tensor, shape (nedges, ncolumns, 3), float64
        """
        vectors = vectors.to(self._model.dtype)
        along, d_threebody, kept_geometry = self._geometry.tangent(vectors)
        d_x, d_edges, kept = self._tangent_forward(along, d_threebody, phases)
        d_gx, d_gedges = self._readout.tangent(d_x), torch.zeros_like(d_edges)
        by_radial, by_threebody = self._tangent_back(
            along, d_threebody, d_gx, d_gedges, kept, phases
        )
        return self._geometry.tangent_back(vectors, by_radial, by_threebody, kept_geometry).double()

    def _tangent_forward(
        self, along: torch.Tensor, d_threebody: torch.Tensor, phases: Phases
    ) -> tuple[torch.Tensor, torch.Tensor, list[_BlockTangent]]:
        ends, nshort = self._ends, self._nshort
        threebody, units = self._geometry.threebody, self._model._embedding.shape[1]
        # An atom's embedding does not change: there is nothing to pass on in the first block.
        d_x: torch.Tensor | None = None
        d_edges = along * per_column(self._encoder[1] * self._encoder_slope)
        kept: list[_BlockTangent] = []
        for state, back in zip(self._blocks, reversed(self._backs), strict=True):
            block = state.weights
            d_gated, d_gate_in = d_threebody * per_column(state.gates), None
            if d_x is not None:
                d_gate_in = d_x @ block.atom_gate
                d_gates = d_gate_in * per_column(state.gate[1])
                d_gates = d_gates.index_select(0, self._short_centre)
                d_gated.addcmul_(per_column(threebody), d_gates)
            d_value = d_gated @ block.threebody[:, :units]
            d_gate = d_gated @ block.threebody[:, units:]
            short = d_edges[:nshort]
            short.addcmul_(per_column(back.short[0]), d_value)
            short.addcmul_(per_column(back.short[1]), d_gate)
            edge = gated_tangent(state.edge, d_x, d_edges, ends, phases)
            d_edges.addcmul_(edge.product, per_column(state.edge_factor))
            d_edges.addcmul_(along, per_column(back.by_edge[1]))
            atom = gated_tangent(state.atom, d_x, d_edges, ends, phases)
            d_message = atom.product * per_column(back.message[0])
            d_message.addcmul_(along, per_column(back.message[3]))
            sums = sums_by_atom(d_message, ends[0], self._natoms)
            d_x = sums if d_x is None else d_x + sums
            kept.append(_BlockTangent(d_gate_in, d_value, d_gate, edge, atom))
        assert d_x is not None, "a model has blocks"
        return d_x, d_edges, kept

    def _tangent_back(
        self,
        along: torch.Tensor,
        d_threebody: torch.Tensor,
        d_gx: torch.Tensor,
        d_gedges: torch.Tensor,
        kept: list[_BlockTangent],
        phases: Phases,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return changes of the gradients by radial basis and three-body term."""
        nshort, units = self._nshort, self._model._embedding.shape[1]
        encoder, threebody = self._model._edge_encoder, self._geometry.threebody
        d_gradial = along.new_zeros(*along.shape[:2], encoder.shape[0])
        d_gthreebody = torch.zeros_like(d_threebody)
        for state, back in zip(reversed(self._blocks), self._backs, strict=True):
            # Popped, so that memory is free again as soon as the block is done.
            block, tangent = state.weights, kept.pop()
            # Nothing asks for changes of the gradient by the embedding.
            to_atoms = d_gx if kept else None
            # Messages: value times gate times factor.
            d_g = d_gx.index_select(0, self._ends[0])
            factor, by_product, by_slope, _, slope, bend = map(per_column, back.message)
            by_factor = d_g * by_product
            by_factor.addcmul_(by_slope, tangent.atom.product).addcmul_(along, bend)
            add_product(d_gradial, by_factor, block.atom_radial.T)
            d_g.mul_(factor).addcmul_(along, slope)
            gated_tangent_back(
                state.atom, back.atom, tangent.atom, d_g, self._ends, phases, d_gedges, to_atoms
            )
            # Edges: the same, with a factor that is linear.
            by_edge, _, slope = map(per_column, back.by_edge)
            by_factor = d_gedges * per_column(state.edge.product)
            by_factor.addcmul_(by_edge, tangent.edge.product)
            add_product(d_gradial, by_factor, block.edge_radial.T)
            d_g = d_gedges * per_column(state.edge_factor)
            d_g.addcmul_(along, slope)
            gated_tangent_back(
                state.edge, back.edge, tangent.edge, d_g, self._ends, phases, d_gedges, to_atoms
            )
            # The three-body term.
            d_g = d_gedges[:nshort]
            by_value, by_gate, vv, vg, gg = map(per_column, back.short)
            d_value, d_gate = tangent.three_value, tangent.three_gate
            part = (d_g * by_value).addcmul_(vv, d_value).addcmul_(vg, d_gate)
            d_ggated = part @ block.threebody[:, :units].T
            torch.mul(d_g, by_gate, out=part).addcmul_(gg, d_gate).addcmul_(vg, d_value)
            add_product(d_ggated, part, block.threebody[:, units:].T)
            d_gthreebody.addcmul_(d_ggated, per_column(state.gates))
            if tangent.gate_in is None:
                continue
            slope, g_gated = per_column(state.gate[1]), per_column(back.gated)
            d_gates = (slope * tangent.gate_in).index_select(0, self._short_centre)
            d_gthreebody.addcmul_(g_gated, d_gates)
            d_ggate = (d_ggated * per_column(threebody)).addcmul_(g_gated, d_threebody)
            d_ggate = sums_by_atom(d_ggate, self._short_centre, self._natoms).mul_(slope)
            d_ggate.addcmul_(per_column(back.gate), tangent.gate_in)
            add_product(d_gx, d_ggate, block.atom_gate.T)
        part = along * per_column(self._encoder_bend)
        part.addcmul_(d_gedges, per_column(self._encoder[1]))
        add_product(d_gradial, part, encoder.T)
        return d_gradial, d_gthreebody
