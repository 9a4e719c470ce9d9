"""The last step of M3GNet, from features of atoms to their energies, linearised at some crystals.

Changes are arrays (rows, ncolumns, features), as in ``m3gnet_linear.py``.
"""

from __future__ import annotations

import torch

from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_gated import Three, per_column, sigmoid_slopes, silu_slopes


class Readout:
    """Energies of atoms by their features at some crystals: scale times value times gate.

    Attributes
    ----------
    energies : Tensor, shape (natoms,)
        In eV.
    gradient : Tensor, shape (natoms, U)
        Of their sum by the features, in eV.

    Parameters
    ----------
    model : RearrangedM3GNet
        Has the weights.
    atoms : Tensor, shape (natoms, U)
        The features.
    numbers : Tensor, shape (natoms,)
        Atomic numbers.
    """

    def __init__(self, model: RearrangedM3GNet, atoms: torch.Tensor, numbers: torch.Tensor) -> None:
        self._final = model._final
        self._layers: dict[str, list[Three]] = {}
        outputs = {}
        for branch, layers in self._final.items():
            hidden = torch.addmm(layers[0][1], atoms, layers[0][0])
            self._layers[branch] = []
            for weight, bias in layers[1:]:
                self._layers[branch].append(silu_slopes(hidden))
                hidden = torch.addmm(bias, self._layers[branch][-1][0], weight)
            outputs[branch] = hidden
        self._value, self._gate = outputs["g"], sigmoid_slopes(outputs["sigma"])
        self._scale = model._scale[numbers][:, None]
        self.energies = (self._scale * self._value * self._gate[0]).squeeze(1)
        self.energies = self.energies + model._shift[numbers]
        self._backs: dict[str, list[torch.Tensor]] = {}
        self.gradient = torch.zeros_like(atoms)
        start = {"g": self._gate[0], "sigma": self._value * self._gate[1]}
        for branch, layers in self._final.items():
            grad = self._scale * start[branch]
            self._backs[branch] = []
            for (weight, _), (_, slope, _) in zip(
                reversed(layers[1:]), reversed(self._layers[branch]), strict=True
            ):
                back = grad @ weight.T
                self._backs[branch].append(back)
                grad = back * slope
            self.gradient.addmm_(grad, layers[0][0].T)

    def tangent(self, atoms: torch.Tensor) -> torch.Tensor:
        """Return how the gradient changes when the features do.

        Parameters
        ----------
        atoms : Tensor, shape (natoms, ncolumns, U)
            Changes of the features.

        Returns
        -------
        Tensor, shape (natoms, ncolumns, U)
            In eV.
        """
        hidden: dict[str, list[torch.Tensor]] = {}
        outputs = {}
        for branch, layers in self._final.items():
            d_hidden = atoms @ layers[0][0]
            hidden[branch] = []
            for (weight, _), (_, slope, _) in zip(layers[1:], self._layers[branch], strict=True):
                hidden[branch].append(d_hidden)
                d_hidden = (d_hidden * per_column(slope)) @ weight
            outputs[branch] = d_hidden
        value, (_, slope, bend) = per_column(self._value), map(per_column, self._gate)
        d_start = {
            "g": slope * outputs["sigma"],
            "sigma": outputs["g"] * slope + value * bend * outputs["sigma"],
        }
        result = torch.zeros_like(atoms)
        for branch, layers in self._final.items():
            d_grad = per_column(self._scale) * d_start[branch]
            for (weight, _), (_, first, second), back, d_hidden in zip(
                reversed(layers[1:]),
                reversed(self._layers[branch]),
                self._backs[branch],
                reversed(hidden[branch]),
                strict=True,
            ):
                d_grad = (d_grad @ weight.T) * per_column(first) + per_column(
                    back * second
                ) * d_hidden
            result += d_grad @ layers[0][0].T
        return result
