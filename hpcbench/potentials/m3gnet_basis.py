"""M3GNet's functions of distances and directions, as MatterSim has them."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class RadialBasis:
    """MatterSim's ``SmoothBesselBasis``: its recursion is linear, so it is one matrix."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._first = weights["rbf.n_1_pi_cutoff"]
        self._second = weights["rbf.n_2_pi_cutoff"]
        factors, en, dn = weights["rbf.fnr_weights"][0], weights["rbf.en"][0], weights["rbf.dn"]
        rows = [torch.zeros_like(factors)]
        rows[0][0] = factors[0]
        for order in range(1, len(factors)):
            row = rows[-1] * torch.sqrt(en[order] / dn[order - 1])
            row[order] += factors[order]
            rows.append(row / torch.sqrt(dn[order]))
        self._mixing = torch.stack(rows, dim=1)

    def __call__(self, lengths: torch.Tensor) -> torch.Tensor:
        """Compute values (nedges, 4) at lengths (nedges, 1) in A."""
        first, second = lengths * self._first, lengths * self._second
        return (torch.sin(first) / first + torch.sin(second) / second) @ self._mixing


class SphericalBessel:
    """Radial part of MatterSim's ``SphericalBasisLayer``: orders 0 to 3, four roots each."""

    def __init__(self, weights: Mapping[str, torch.Tensor], cutoff: float) -> None:
        coefficients = weights["sbf.coef"]
        self._cutoff = cutoff
        self._factor = weights["sbf.factor"]
        self._roots = coefficients[[0, 1, 2, 3], [0, 1, 1, 1]]
        self._one = coefficients[1, [0, 2]]
        self._two = coefficients[2, [0, 2, 4]]
        self._three = coefficients[3, [0, 2, 4, 6]]

    def __call__(self, lengths: torch.Tensor) -> torch.Tensor:
        """Compute values (nedges, 16) at lengths (nedges, 1) in A: by order, then by root."""
        r = lengths / self._cutoff
        angles = r[:, None, :] * self._roots
        sines, cosines = torch.sin(angles).unbind(1), torch.cos(angles[:, 1:]).unbind(1)
        one, two, three = self._one, self._two, self._three
        orders = [
            sines[0] / r,
            (one[0] * r * cosines[0] + one[1] * sines[1]) / r**2,
            (two[0] * r**2 * sines[2] - two[1] * r * cosines[1] + two[2] * sines[2]) / r**3,
            (
                three[0] * r**3 * cosines[2]
                - three[1] * r**2 * sines[3]
                - three[2] * r * cosines[2]
                + three[3] * sines[3]
            )
            / r**4,
        ]
        return torch.cat(orders, dim=1) * self._factor


def cutoff_envelope(lengths: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Compute MatterSim's ``polynomial``, from one to zero at the three-body cutoff.

    Parameters
    ----------
    lengths : Tensor
        Of edges, in A.
    cutoff : float
        The three-body cutoff, in A.
    """
    ratio = lengths / cutoff
    return (1 - ratio**3 * (10 - 15 * ratio + 6 * ratio**2)).clamp(min=0)


def real_harmonics(directions: torch.Tensor) -> list[torch.Tensor]:
    """Compute real spherical harmonics of degree 0 to 3 in Racah's normalisation.

    By the addition theorem ``sum_m S_lm(u) S_lm(v) = P_l(u . v)``.

    Parameters
    ----------
    directions : Tensor, shape (nedges, 3)
        Unit vectors.

    Returns
    -------
    list of Tensor, shapes (nedges, 1), (nedges, 3), (nedges, 5), (nedges, 7)
        By degree.
    """
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    root3, root6, root10, root15 = 3**0.5, 6**0.5, 10**0.5, 15**0.5
    return [
        torch.ones_like(directions[:, :1]),
        directions,
        torch.stack(
            [
                root3 * x * y,
                root3 * y * z,
                (3 * zz - 1) / 2,
                root3 * x * z,
                root3 / 2 * (xx - yy),
            ],
            dim=1,
        ),
        torch.stack(
            [
                root10 / 4 * y * (3 * xx - yy),
                root15 * x * y * z,
                root6 / 4 * y * (5 * zz - 1),
                z * (5 * zz - 3) / 2,
                root6 / 4 * x * (5 * zz - 1),
                root15 / 2 * z * (xx - yy),
                root10 / 4 * x * (xx - 3 * yy),
            ],
            dim=1,
        ),
    ]
