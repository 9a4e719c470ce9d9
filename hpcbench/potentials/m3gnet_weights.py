"""The weights of MatterSim's M3GNet, sorted as the re-arranged forward pass takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hpcbench.potentials.m3gnet_constants import DEFAULTS

# The orders and roots of the spherical Bessel functions that MatterSim's checkpoints have.
KNOWN_MAX_L = KNOWN_MAX_N = 4


class UnknownArchitectureError(Exception):
    """The weights are not of the architecture that is re-arranged here."""


class MissingWeightsError(Exception):
    """Weights of the architecture are not there, so that nothing can be computed."""


@dataclass(frozen=True, eq=False)
class GatedLayers:
    """Weights of one gated MLP on edges, with U units.

    Attributes
    ----------
    centre, neighbour, edge : Tensor, shape (U, 2U)
        First layer by the part of its input: value, then gate.
    first_bias : Tensor, shape (2U,)
        Bias of the first layer.
    value, gate : Tensor, shape (U, U)
        Second layer.
    value_bias, gate_bias : Tensor, shape (U,)
        Its biases.
    """

    centre: torch.Tensor
    neighbour: torch.Tensor
    edge: torch.Tensor
    first_bias: torch.Tensor
    value: torch.Tensor
    value_bias: torch.Tensor
    gate: torch.Tensor
    gate_bias: torch.Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """Weights of one block; see ``MainBlock`` of MatterSim."""

    edge_layers: GatedLayers
    atom_layers: GatedLayers
    edge_radial: torch.Tensor  # (4, U)
    atom_radial: torch.Tensor  # (4, U)
    threebody: torch.Tensor  # (16, 2U): value, then gate
    atom_gate: torch.Tensor  # (U, 16)
    atom_gate_bias: torch.Tensor  # (16,)


def columns(weight: torch.Tensor) -> torch.Tensor:
    """Return a linear layer's weight as the right factor of a product."""
    return weight.T.contiguous()


def _gated_layers(weights: Mapping[str, torch.Tensor], name: str) -> GatedLayers:
    first = torch.cat([weights[f"{name}.{branch}.0.linear.weight"] for branch in ("g", "sigma")])
    centre, neighbour, edge = first.chunk(3, dim=1)
    return GatedLayers(
        columns(centre),
        columns(neighbour),
        columns(edge),
        torch.cat([weights[f"{name}.{branch}.0.linear.bias"] for branch in ("g", "sigma")]),
        columns(weights[f"{name}.g.1.linear.weight"]),
        weights[f"{name}.g.1.linear.bias"],
        columns(weights[f"{name}.sigma.1.linear.weight"]),
        weights[f"{name}.sigma.1.linear.bias"],
    )


def block_weights(weights: Mapping[str, torch.Tensor], name: str) -> Block:
    """Return the weights of one block.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The state of MatterSim's ``M3Gnet``.
    name : str
        What the names of the block's weights begin with.
    """
    threebody = [
        weights[f"{name}three_body.edge_gate_mlp.{branch}.0.linear.weight"]
        for branch in ("g", "sigma")
    ]
    return Block(
        edge_layers=_gated_layers(weights, f"{name}gated_mlp_edge"),
        atom_layers=_gated_layers(weights, f"{name}gated_mlp_atom"),
        edge_radial=columns(weights[f"{name}edge_layer_edge.linear.weight"]),
        atom_radial=columns(weights[f"{name}edge_layer_atom.linear.weight"]),
        threebody=columns(torch.cat(threebody)),
        atom_gate=columns(weights[f"{name}three_body.atom_mlp.linear.weight"]),
        atom_gate_bias=weights[f"{name}three_body.atom_mlp.linear.bias"],
    )


def require_known(arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that the re-arranged pass does not know what to do with.

    Parameters
    ----------
    arguments : mapping
        ``model_args`` of the checkpoint, all of them.
    weights : mapping of str to Tensor
        The state of MatterSim's ``M3Gnet``, buffers included.

    Raises
    ------
    UnknownArchitectureError
        For arguments, names, shapes or constants other than those of MatterSim v1.
    MissingWeightsError
        If weights of that architecture are missing.
    """
    # MatterSim's own constructor ignores what else is there, but it may mean something.
    if unknown := set(arguments) - set(DEFAULTS) - {"device"}:
        raise UnknownArchitectureError(f"unknown arguments: {', '.join(sorted(unknown))}")
    if arguments["max_l"] != KNOWN_MAX_L or arguments["max_n"] != KNOWN_MAX_N:
        raise UnknownArchitectureError("max_l and max_n other than 4")
    expected = _expected_shapes(arguments)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if absent := sorted(expected.keys() - found.keys()):
        raise MissingWeightsError(f"weights are missing: {', '.join(absent[:5])}")
    if found != expected:
        differing = sorted(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        raise UnknownArchitectureError(f"weights differ: {', '.join(differing[:5])}")
    coefficients = weights["sbf.coef"]
    for order, rows in ((1, (1, 3)), (2, (1, 3, 5)), (3, (1, 3, 5, 7))):
        if any(not torch.equal(coefficients[order, 1], coefficients[order, r]) for r in rows):
            raise UnknownArchitectureError("unknown roots of the spherical Bessel functions")


def _expected_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    units, elements = int(arguments["units"]), int(arguments["max_z"]) + 1
    radial, both = KNOWN_MAX_N, KNOWN_MAX_N * KNOWN_MAX_L
    shapes: dict[str, tuple[int, ...]] = {
        "rbf.dn": (radial,),
        "rbf.en": (1, radial),
        "rbf.fnr_weights": (1, radial),
        "rbf.n_1_pi_cutoff": (1, radial),
        "rbf.n_2_pi_cutoff": (1, radial),
        "rbf.r_max": (),
        "sbf.factor": (),
        "sbf.coef": (4, 9, 4),
        "edge_encoder.mlp.0.linear.weight": (units, radial),
        "atom_embedding.mlp.0.linear.weight": (units, elements),
        "normalizer.scale": (elements,),
        "normalizer.shift": (elements,),
    }
    for branch in ("g", "sigma"):
        for layer, size in enumerate((units, units, 1)):
            shapes[f"final.{branch}.{layer}.linear.weight"] = (size, units)
            shapes[f"final.{branch}.{layer}.linear.bias"] = (size,)
    for index in range(int(arguments["num_blocks"])):
        name = f"graph_conv.{index}."
        for mlp in ("gated_mlp_atom", "gated_mlp_edge"):
            for branch in ("g", "sigma"):
                for layer, size in enumerate((3 * units, units)):
                    shapes[f"{name}{mlp}.{branch}.{layer}.linear.weight"] = (units, size)
                    shapes[f"{name}{mlp}.{branch}.{layer}.linear.bias"] = (units,)
        shapes[f"{name}edge_layer_atom.linear.weight"] = (units, radial)
        shapes[f"{name}edge_layer_edge.linear.weight"] = (units, radial)
        shapes[f"{name}three_body.atom_mlp.linear.weight"] = (both, units)
        shapes[f"{name}three_body.atom_mlp.linear.bias"] = (both,)
        for branch in ("g", "sigma"):
            shapes[f"{name}three_body.edge_gate_mlp.{branch}.0.linear.weight"] = (units, both)
    return shapes
