"""Nequix's energies, re-arranged: the same weights and numbers, in fewer and larger products.

The architecture is that of ``nequix.torch_impl.model`` (Nequix 0.4.5), NequIP with a norm of
layers. Features of atoms have their channels last, so that the linear maps after the sum over edges
(``edge_messages.py``) are plain matrix products of atoms. Lengths and directions are formed in
double precision, from edge vectors in double precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.nn.functional import silu

from hpcbench.potentials.edge_gradients import EnergyOfEdges
from hpcbench.potentials.edge_messages import Branch, make_branch, summed_messages
from hpcbench.potentials.nequix_weights import Channels, LayerWeights, NequixWeights

# Added to the mean square that a layer is normed by, so that zeros stay zeros.
EPSILON = 1e-12

# Quantiles of the normal distribution over which e3nn averages an activation's square.
QUANTILES = 1_000_001


class NequixEnergies(EnergyOfEdges):
    """Energies of atoms as Nequix computes them.

    Parameters
    ----------
    weights : NequixWeights
        As they were read.
    device : torch.device
        Where to compute.
    dtype : torch.dtype
        In which precision.

    Raises
    ------
    ImportError
        If e3nn is not installed.
    """

    def __init__(self, weights: NequixWeights, device: torch.device, dtype: torch.dtype) -> None:
        configuration = weights.configuration
        self.cutoff = float(configuration["cutoff"])
        self._dtype, self._lmax = dtype, weights.lmax
        self._power = float(configuration["radial_polynomial_p"])
        degrees = torch.arange(1, int(configuration["radial_basis_size"]) + 1, device=device)
        self._waves = degrees.double() * torch.pi / self.cutoff
        numbers = torch.tensor(configuration["atomic_numbers"], device=device)
        self._row = torch.full((int(numbers.max()) + 1,), -1, dtype=torch.int64, device=device)
        # Rows of the weights are in the order of atomic numbers.
        self._row[numbers.sort().values] = torch.arange(len(numbers), device=device)
        self._scale, self._shift = float(configuration["scale"]), float(configuration["shift"])
        self._atom_energies = weights.atom_energies.to(device).double()
        many = float(configuration["avg_n_neighbors"])
        self._layers = [
            _Layer(layer, weights.lmax, many, device, dtype) for layer in weights.layers
        ]
        readout = weights.readout.double() / len(weights.readout) ** 0.5
        self._readout = readout.to(device, dtype)

    def energies(
        self, numbers: torch.Tensor, edges: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Compute energies of atoms; see ``EdgeModel``.

        Parameters
        ----------
        numbers, edges, vectors : Tensor
            As in ``EdgeModel``.
        """
        centre, neighbour = edges
        rows = self._row.index_select(0, numbers)
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        radial = self._radial(lengths).to(self._dtype)
        harmonics = self._harmonics(vectors / lengths).to(self._dtype)
        # One-hot vectors of the elements, as one channel of degree 0 for each.
        one_hot = torch.zeros(
            len(numbers), 1, len(self._atom_energies), dtype=self._dtype, device=numbers.device
        )
        one_hot.scatter_(2, rows[:, None, None], 1.0)
        features = [one_hot]
        for layer in self._layers:
            features = layer(features, radial, harmonics, centre, neighbour)
        found = (features[0].squeeze(1) @ self._readout).squeeze(1)
        shifts = self._shift + self._atom_energies.index_select(0, rows)
        return found.double() * self._scale + shifts

    def _radial(self, lengths: torch.Tensor) -> torch.Tensor:
        """Bessel functions times a polynomial that ends smoothly at the cutoff."""
        x, p = lengths / self.cutoff, self._power
        envelope = (
            1
            - (p + 1) * (p + 2) / 2 * x**p
            + p * (p + 2) * x ** (p + 1)
            - p * (p + 1) / 2 * x ** (p + 2)
        )
        envelope = torch.where(x < 1, envelope, 0.0)
        return 2 / self.cutoff * torch.sin(self._waves * lengths) / lengths * envelope

    def _harmonics(self, directions: torch.Tensor) -> torch.Tensor:
        from e3nn import o3

        found: torch.Tensor = o3.spherical_harmonics(
            list(range(self._lmax + 1)), directions, normalize=False, normalization="component"
        )
        return found


class _Layer:
    """One interaction of Nequix: messages, their sum over edges, norm and gate."""

    def __init__(
        self,
        weights: LayerWeights,
        lmax: int,
        neighbours: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        def placed(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return [tensor.to(device, dtype) for tensor in tensors]

        def linear(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            # The variance of what goes in is kept, whatever the number of channels.
            return placed([matrix.double() / len(matrix) ** 0.5 for matrix in matrices])

        self._channels = weights.channels
        self._first, self._second = linear(weights.first), linear(weights.second)
        self._skip, self._norm = linear(weights.skip), placed(weights.norm)
        self._second = [matrix / neighbours**0.5 for matrix in self._second]
        self._branches, order = _branches(weights.channels, lmax, device, dtype)
        self._widths = [branch.channels * len(branch.rows) for branch in self._branches]
        *inner, last = placed(weights.radial)
        self._radial = [*inner, last[:, order]]
        self._gain = 1 / _rms_of_silu()

    def __call__(
        self,
        features: list[torch.Tensor],
        radial: torch.Tensor,
        harmonics: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Return the features (natoms, 2 l + 1, channels) of each degree after the layer."""
        *inner, last = self._radial
        for matrix in inner:
            radial = silu(radial @ matrix)
        of_branches = (radial @ last).split(self._widths, dim=1)
        sums: list[list[torch.Tensor]] = [[] for _ in self._channels.outputs]
        for branch, x, matrix, factors in zip(
            self._branches, features, self._first, of_branches, strict=True
        ):
            found = summed_messages(branch, x @ matrix, harmonics, factors, centre, neighbour)
            for degree, first, end in branch.rows:
                sums[degree].append(found[:, first:end])
        after = [
            torch.cat(parts, dim=2) @ matrix
            for parts, matrix in zip(sums, self._second, strict=True)
        ]
        for degree, (x, matrix) in enumerate(zip(features, self._skip, strict=False)):
            after[degree] = after[degree] + x @ matrix
        return self._gated(self._normed(after))

    def _normed(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        squares = [x.square().sum(2).mean(1) / (x.shape[1] * len(features)) for x in features]
        factor = (torch.stack(squares).sum(0) + EPSILON).rsqrt()[:, None, None]
        return [x * factor * norm for x, norm in zip(features, self._norm, strict=True)]

    def _gated(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        scalars, *others = features
        scalars = silu(scalars) * self._gain
        scalars, *gates = scalars.split(list(self._channels.outputs), dim=2)
        return [scalars, *(x * gate for x, gate in zip(others, gates, strict=True))]


def _branches(
    channels: Channels, lmax: int, device: torch.device, dtype: torch.dtype
) -> tuple[list[Branch], torch.Tensor]:
    """Return the branches of a layer, and the order of radial weights that they want."""
    # The file has the radial weights in the order of paths.
    widths = [channels.inputs[path[0]] for path in channels.paths]
    columns = torch.arange(sum(widths)).split(widths)
    branches, order = [], []
    for degree, count in enumerate(channels.inputs):
        chosen = [n for n, path in enumerate(channels.paths) if path[0] == degree]
        # Of each degree the outputs are joined.
        paths = [(edge, out, out) for _, edge, out in (channels.paths[n] for n in chosen)]
        branches.append(make_branch(degree, count, paths, lmax, device, dtype))
        order += [columns[n] for n in chosen]
    return branches, torch.cat(order).to(device)


@functools.cache
def _rms_of_silu() -> float:
    """Return the root mean square of SiLU of a normal variable, as e3nn computes it."""
    quantiles = torch.linspace(-1.0, 1.0, QUANTILES + 2, dtype=torch.float64)[1:-1]
    normal = 2**0.5 * torch.special.erfinv(quantiles)
    return float(silu(normal).square().mean().sqrt())
