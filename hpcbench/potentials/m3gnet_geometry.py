"""M3GNet's functions of single edges with their slopes and bends, and the three-body term's.

An edge within the three-body cutoff has 33 numbers that depend on itself only: harmonics S (16) of
its direction, radial functions times envelope B (16) and the envelope V of its length. The
three-body term is made of products of these and of their sums over the edges of a centre.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

from hpcbench.potentials.jets import Jet
from hpcbench.potentials.m3gnet import RearrangedM3GNet
from hpcbench.potentials.m3gnet_basis import cutoff_envelope, real_harmonics
from hpcbench.potentials.m3gnet_weights import KNOWN_MAX_L, KNOWN_MAX_N

# Columns (lm) of harmonics and (ln) of radial functions that meet in the moments (lmn).
_DEGREES, _ROOTS = range(KNOWN_MAX_L), range(KNOWN_MAX_N)
_LM = [m for degree in _DEGREES for m in range(degree**2, (degree + 1) ** 2) for _ in _ROOTS]
_LN = [
    KNOWN_MAX_N * degree + n for degree in _DEGREES for _ in range(2 * degree + 1) for n in _ROOTS
]


@dataclass(frozen=True, eq=False)
class Polynomials:
    """The harmonics as polynomials of direction: one + two n + n three n + (four n n) n.

    Attributes
    ----------
    linear, quadratic, cubic : Tensor, shapes (16, 3), (16, 3, 3), (16, 3, 3, 3)
        Symmetric coefficients, in float64.
    """

    linear: torch.Tensor
    quadratic: torch.Tensor
    cubic: torch.Tensor

    @classmethod
    @functools.cache
    def of_harmonics(cls, device: torch.device) -> Polynomials:
        """Fit the coefficients to ``real_harmonics``, which are cubic polynomials."""
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(64, 3, generator=generator, dtype=torch.float64)
        powers = [
            axes
            for degree in range(4)
            for axes in itertools.combinations_with_replacement(range(3), degree)
        ]
        products = [points[:, list(axes)].prod(1) for axes in powers]
        values = torch.cat(real_harmonics(points), dim=1)
        fitted = torch.linalg.lstsq(torch.stack(products, dim=1), values).solution
        parts = [torch.zeros(16, *[3] * degree, dtype=torch.float64) for degree in range(4)]
        for axes, coefficients in zip(powers, fitted, strict=True):
            places = set(itertools.permutations(axes))
            for place in places:
                where: tuple[slice | int, ...] = (slice(None), *place)
                parts[len(axes)][where] = coefficients / len(places)
        return cls(*(part.to(device) for part in parts[1:]))

    def slopes(self, n: torch.Tensor) -> torch.Tensor:
        """Return gradients (nedges, 16, 3) by the direction (nedges, 3), its length left free."""
        found = self.linear + 2 * torch.einsum("kij,ej->eki", self.quadratic, n)
        return found + 3 * torch.einsum("kijl,ej,el->eki", self.cubic, n, n)

    def bends(self, n: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the second derivatives of sums of harmonics by the direction.

        Parameters
        ----------
        n : Tensor, shape (nedges, 3)
            Directions, whose lengths are left free.
        weights : Tensor, shape (nedges, 16)
            Of the harmonics in the sum.

        Returns
        -------
        Tensor, shape (nedges, 3, 3)
        """
        found = 2 * torch.einsum("ek,kij->eij", weights, self.quadratic)
        return found + 6 * torch.einsum("ek,kijl,el->eij", weights, self.cubic, n)


def _with_derivatives(function: Callable[[Any], Any], lengths: torch.Tensor) -> Jet:
    """Return a function of lengths, written for tensors, with its derivatives."""
    return cast(Jet, function(Jet.variable(lengths)))


def _at_edges(products: torch.Tensor, centre: torch.Tensor, natoms: int) -> torch.Tensor:
    """Return sums over the edges of a centre, at each of them."""
    sums = products.new_zeros(natoms, *products.shape[1:]).index_add_(0, centre, products)
    return sums.index_select(0, centre)


class Geometry:
    """The functions of the edges of some crystals, the short edges first.

    Attributes
    ----------
    radial, radial_slope : Tensor, shape (nedges, 4)
        The radial basis, and its slope by the length.
    threebody : Tensor, shape (nshort, 16)
        The three-body term before the atoms' gates.
    """

    def __init__(
        self, model: RearrangedM3GNet, vectors: torch.Tensor, centre: torch.Tensor, natoms: int
    ) -> None:
        """Compute all functions; ``vectors`` (nedges, 3), ``centre`` (nshort,) of short edges."""
        dtype = model.dtype
        self._natoms, self._centre, nshort = natoms, centre, len(centre)
        self._lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        self._directions = vectors / self._lengths
        self._radial_jet = _with_derivatives(model._radial, self._lengths.to(dtype))
        self.radial, self.radial_slope = self._radial_jet.value, self._radial_jet.slope
        self._n = self._directions.to(dtype)
        lengths, n = self._lengths[:nshort].to(dtype), self._directions[:nshort]
        self._v = _with_derivatives(
            partial(cutoff_envelope, cutoff=model.threebody_cutoff), lengths
        )
        self._b = _with_derivatives(model._bessel, lengths) * self._v
        self._s = torch.cat(real_harmonics(n), dim=1).to(dtype)
        self._polynomials = Polynomials.of_harmonics(vectors.device)
        across = self._polynomials.slopes(n)
        along = (across * n[:, None, :]).sum(2, keepdim=True)
        # Of the direction, whose length is one: the part across it, by the length of the edge.
        self._s_slopes = ((across - along * n[:, None, :]) / self._lengths[:nshort, :, None]).to(
            dtype
        )
        self._norm = model._harmonic_norm
        identity = torch.eye(16, dtype=dtype, device=vectors.device)
        self._sum_m, self._sum_n = identity[_LN], identity[_LM]
        self._wide_s, self._wide_b = self._s[:, _LM], self._b.value[:, _LN]
        self._moments = _at_edges(self._wide_s * self._wide_b, centre, natoms)
        self._inner = (self._wide_s * self._moments) @ self._sum_m - self._b.value
        self.threebody = self._norm * self._v.value * self._inner

    def back(self, by_radial: torch.Tensor, by_threebody: torch.Tensor) -> torch.Tensor:
        """Return the gradient by the edge vectors (nedges, 3), float64; keep its bends.

        Parameters
        ----------
        by_radial, by_threebody : Tensor
            Gradients by ``radial`` and ``threebody``.
        """
        nshort = len(self._s)
        self._g_threebody = self._norm * by_threebody
        self._g_inner = self._v.value * self._g_threebody
        s, b = self._wide_s, self._wide_b
        self._wide_g = g = self._g_inner[:, _LN]
        self._g_moments = _at_edges(s * g, self._centre, self._natoms)
        by_s = ((self._moments * g + self._g_moments * b) @ self._sum_n).double()
        by_b = ((self._g_moments * s) @ self._sum_m - self._g_inner).double()
        by_v = (self._g_threebody * self._inner).sum(1, keepdim=True).double()
        slope = (by_radial.double() * self._radial_jet.slope).sum(1, keepdim=True)
        bend = (by_radial.double() * self._radial_jet.bend).sum(1, keepdim=True)
        slope[:nshort] += (by_b * self._b.slope).sum(1, keepdim=True) + by_v * self._v.slope
        bend[:nshort] += (by_b * self._b.bend).sum(1, keepdim=True) + by_v * self._v.bend
        gradient = self._directions * slope
        gradient[:nshort] += torch.einsum("ekx,ek->ex", self._s_slopes.double(), by_s)
        self._bend = self._bends(by_s, slope, bend).to(self.radial.dtype)
        return gradient

    def _bends(self, by_s: torch.Tensor, slope: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
        """Return second derivatives by the vector (nedges, 3, 3) of an edge's own functions."""
        n, r = self._directions, self._lengths
        along = n[:, :, None] * n[:, None, :]
        across = torch.eye(3, dtype=n.dtype, device=n.device) - along
        found = bend[:, :, None] * along + (slope / r)[:, :, None] * across
        nshort = len(by_s)
        n, p = n[:nshort], across[:nshort]
        # h(r / |r|): P H P less what the curvature of the sphere adds, by the square of the length.
        gradient = torch.einsum("eki,ek->ei", self._polynomials.slopes(n), by_s)
        radial = (gradient * n).sum(1)[:, None, None]
        tangent = (p @ gradient[:, :, None]).squeeze(2)
        mixed = tangent[:, :, None] * n[:, None, :]
        on_sphere = p @ self._polynomials.bends(n, by_s) @ p - radial * p
        on_sphere -= mixed + mixed.transpose(1, 2)
        found[:nshort] += on_sphere / (r[:nshort, :, None] ** 2)
        return found

    def tangent(
        self, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return changes of lengths and of ``threebody`` with those of vectors.

        Parameters
        ----------
        vectors : Tensor, shape (nedges, ncolumns, 3)

        Returns
        -------
        along : Tensor, shape (nedges, ncolumns, 1)
        threebody : Tensor, shape (nshort, ncolumns, 16)
        kept : tuple
            For :meth:`tangent_back`.
        """
        nshort = len(self._s)
        along = (vectors * self._n[:, None, :]).sum(2, keepdim=True)
        short = along[:nshort]
        d_b, d_v = short * self._b.slope[:, None, :], short * self._v.slope[:, None, :]
        d_s = vectors[:nshort] @ self._s_slopes.transpose(1, 2)
        wide_s, wide_b = d_s[..., _LM], d_b[..., _LN]
        products = (wide_s * self._wide_b[:, None, :]).addcmul_(self._wide_s[:, None, :], wide_b)
        moments = _at_edges(products, self._centre, self._natoms)
        inner = (wide_s * self._moments[:, None, :]).addcmul_(self._wide_s[:, None, :], moments)
        inner = inner @ self._sum_m - d_b
        threebody = (d_v * self._inner[:, None, :]).addcmul_(self._v.value[:, None, :], inner)
        return along, threebody * self._norm, (d_v, wide_s, wide_b, moments, inner)

    def tangent_back(
        self,
        vectors: torch.Tensor,
        by_radial: torch.Tensor,
        by_threebody: torch.Tensor,
        kept: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Return changes of the gradient by the edge vectors, (nedges, ncolumns, 3).

        Parameters
        ----------
        vectors : Tensor, shape (nedges, ncolumns, 3)
            As they were given to :meth:`tangent`.
        by_radial, by_threebody : Tensor
            Changes of the gradients by ``radial`` and ``threebody``.
        kept : tuple
            From :meth:`tangent`.
        """
        nshort = len(self._s)
        d_v, wide_s, wide_b, moments, inner = kept
        grad = self._norm * by_threebody
        g_inner = (self._v.value[:, None, :] * grad).addcmul_(d_v, self._g_threebody[:, None, :])
        wide_g = g_inner[..., _LN]
        s, b, g = self._wide_s[:, None, :], self._wide_b[:, None, :], self._wide_g[:, None, :]
        g_moments = _at_edges((wide_s * g).addcmul_(s, wide_g), self._centre, self._natoms)
        by_s = (moments * g).addcmul_(self._moments[:, None, :], wide_g)
        by_s.addcmul_(g_moments, b).addcmul_(self._g_moments[:, None, :], wide_b)
        by_b = (g_moments * s).addcmul_(self._g_moments[:, None, :], wide_s)
        by_b = by_b @ self._sum_m - g_inner
        by_v = (grad * self._inner[:, None, :]).addcmul_(self._g_threebody[:, None, :], inner)
        slope = (by_radial * self._radial_jet.slope[:, None, :]).sum(2, keepdim=True)
        slope[:nshort] += (by_b * self._b.slope[:, None, :]).sum(2, keepdim=True)
        slope[:nshort] += by_v.sum(2, keepdim=True) * self._v.slope[:, None, :]
        result = vectors @ self._bend
        result += slope * self._n[:, None, :]
        result[:nshort] += (by_s @ self._sum_n) @ self._s_slopes
        return result
