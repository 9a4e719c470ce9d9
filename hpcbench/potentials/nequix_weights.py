"""Reading Nequix's files of weights, without its package.

A file begins with a line of JSON, the configuration. What follows is, in a file ``.nqx``, one array
of numpy's format after the other (equinox, which Nequix is trained with, writes the leaves of its
tree so), and in a file ``.pt`` the state of the model in torch.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcbench.errors import PotentialError

LONGEST_LINE = 2**20


@dataclass(frozen=True)
class Channels:
    """The sizes of a layer of Nequix, by degree of the spherical harmonics.

    Attributes
    ----------
    inputs, outputs : tuple of int
        Channels of each degree; those of ``outputs`` are behind the gate.
    paths : tuple of tuple of int
        ``(degree of the input, of the edge, of the output)`` of all products, sorted by output.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    paths: tuple[tuple[int, int, int], ...]

    @property
    def gates(self) -> int:
        """Return the number of scalars that gate the other channels."""
        return sum(self.outputs[1:])

    @property
    def before_gate(self) -> tuple[int, ...]:
        """Return the channels before the gate, of each degree."""
        return (self.outputs[0] + self.gates, *self.outputs[1:])

    def summed(self, degree: int) -> int:
        """Return the channels of a degree that all products come to."""
        return sum(self.inputs[path[0]] for path in self.paths if path[2] == degree)


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The weights of a layer.

    Attributes
    ----------
    channels : Channels
        Their sizes.
    radial : tuple of Tensor
        Matrices of the radial network.
    first, second, skip : tuple of Tensor
        Matrices (in, out) of each degree that a linear map has: before the products, after them,
        and past them.
    norm : tuple of Tensor
        Factors of the channels of each degree.
    """

    channels: Channels
    radial: tuple[torch.Tensor, ...]
    first: tuple[torch.Tensor, ...]
    second: tuple[torch.Tensor, ...]
    skip: tuple[torch.Tensor, ...]
    norm: tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class NequixWeights:
    """The contents of a file of weights.

    Attributes
    ----------
    configuration : mapping
        As the file has it.
    lmax : int
        Highest degree of the spherical harmonics.
    atom_energies : Tensor, shape (nelements,)
        Energies of isolated atoms, in eV.
    layers : tuple of LayerWeights
        From the first on.
    readout : Tensor, shape (channels, 1)
        From scalars to energies.
    """

    configuration: Mapping[str, Any]
    lmax: int
    atom_energies: torch.Tensor
    layers: tuple[LayerWeights, ...]
    readout: torch.Tensor


Take = Callable[[str, tuple[int, ...]], torch.Tensor]
"""Returns the array of a name, in a shape; the names are those of the state in torch."""


def read_nequix(path: Path) -> NequixWeights:
    """Read a file of weights of Nequix, ``.nqx`` or ``.pt``.

    Raises
    ------
    PotentialError
        If it is none, or of another architecture.
    """
    try:
        with path.open("rb") as stream:
            configuration = json.loads(stream.readline(LONGEST_LINE))
            rest = stream.read()
        if not isinstance(configuration, dict):
            raise ValueError("it does not begin with a configuration")
        if rest.startswith(b"\x93NUMPY"):
            return _weights(configuration, _from_leaves(io.BytesIO(rest)))
        state = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
        return _weights(configuration, _from_state(state))
    except Exception as error:  # json, numpy and torch raise many kinds for a file that is none
        raise PotentialError(
            f"{path}: no weights of Nequix that can be read ({type(error).__name__}: {error}); "
            f"give a file .nqx, or the .pt that Nequix's save_model writes"
        ) from error


def _from_leaves(stream: io.BytesIO) -> Take:
    def take(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        array = np.load(stream, allow_pickle=False)
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
        return torch.from_numpy(array)

    return take


def _from_state(state: Mapping[str, torch.Tensor]) -> Take:
    # All matrices of a linear map are one row of numbers there.
    used: dict[str, int] = {}

    def take(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        begin = used.get(name, 0)
        used[name] = begin + int(np.prod(shape))
        row = state[name].flatten()[begin : used[name]]
        return row.reshape(shape)

    return take


def _weights(configuration: Mapping[str, Any], take: Take) -> NequixWeights:
    if configuration["index_weights"] or not configuration["layer_norm"]:
        raise ValueError("it is not the architecture of Nequix 1: index_weights, no layer_norm")
    lmax, nelements = int(configuration["lmax"]), len(configuration["atomic_numbers"])
    hidden = _channels_of(configuration["hidden_irreps"])
    atom_energies = take("atom_energies", (nelements,))
    layers = []
    count = int(configuration["n_layers"])
    for index in range(count):
        inputs = hidden if index else (nelements,)
        outputs = hidden if index < count - 1 else hidden[:1]
        layers.append(_layer(configuration, f"layers.{index}.", inputs, outputs, take))
    readout = take("readout.weight", (hidden[0], 1))
    return NequixWeights(configuration, lmax, atom_energies, tuple(layers), readout)


def _channels_of(irreps: str) -> tuple[int, ...]:
    """Return the channels of each degree of ``128x0e + 64x1o + ...``."""
    channels = []
    for degree, part in enumerate(irreps.replace(" ", "").split("+")):
        number, _, kind = part.partition("x")
        if kind != f"{degree}{'eo'[degree % 2]}":
            raise ValueError(f"hidden channels {irreps} are not known here")
        channels.append(int(number))
    return tuple(channels)


def _layer(
    configuration: Mapping[str, Any],
    prefix: str,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    take: Take,
) -> LayerWeights:
    lmax = int(configuration["lmax"])
    products = [
        (a, b, c)
        for a in range(len(inputs))
        for b in range(lmax + 1)
        for c in range(abs(a - b), min(a + b, len(outputs) - 1) + 1)
        # Harmonics of degree l have the parity (-1)^l, and so have all channels.
        if (a + b + c) % 2 == 0
    ]
    channels = Channels(inputs, outputs, tuple(sorted(products, key=lambda path: path[2])))
    width, depth = int(configuration["radial_mlp_size"]), int(configuration["radial_mlp_layers"])
    ends = (
        int(configuration["radial_basis_size"]),
        *[width] * depth,
        sum(inputs[path[0]] for path in channels.paths),
    )
    before = channels.before_gate
    shapes: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        "radial": [
            (f"radial_mlp.layers.{n}.weights", shape)
            for n, shape in enumerate(itertools.pairwise(ends))
        ],
        "first": [("linear_1.weight", (n, n)) for n in inputs],
        "second": [
            ("linear_2.weight", (channels.summed(degree), n)) for degree, n in enumerate(before)
        ],
        "skip": [("skip.weight", shape) for shape in zip(inputs, before, strict=False)],
        "norm": [(f"layer_norm.affine_weight.{degree}", (n,)) for degree, n in enumerate(before)],
    }
    found = {
        field: tuple(take(prefix + name, shape) for name, shape in shapes[field])
        for field in shapes
    }
    return LayerWeights(channels, **found)
