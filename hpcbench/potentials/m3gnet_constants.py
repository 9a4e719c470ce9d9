"""Compute the constants of MatterSim's M3GNet, for checkpoints that leave them out.

Older checkpoints are without the constants of the two bases, or without arguments that MatterSim
has a default for. MatterSim's package adds both when it loads one; so does this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

DEFAULTS: Mapping[str, Any] = {
    "num_blocks": 4,
    "units": 128,
    "max_l": 4,
    "max_n": 4,
    "cutoff": 5.0,
    "max_z": 94,
    "threebody_cutoff": 4.0,
}
"""Arguments of MatterSim's ``M3Gnet`` that need not be given; lengths in A."""

BASES = frozenset(
    {
        *(f"rbf.{name}" for name in ("dn", "en", "fnr_weights")),
        *(f"rbf.{name}" for name in ("n_1_pi_cutoff", "n_2_pi_cutoff", "r_max")),
        "sbf.factor",
        "sbf.coef",
    }
)
"""Names of the constants in a checkpoint."""


def constants(cutoff: float) -> dict[str, torch.Tensor]:
    """Compute the constants of the radial and the three-body basis, four functions of each order.

    Parameters
    ----------
    cutoff : float
        Of edges, in A.

    Returns
    -------
    dict of str to Tensor, float32
        By their names in a checkpoint.

    Notes
    -----
    The radial basis is that of Kocer et al., AIP Advances 10, 015021 (2020); spherical Bessel
    functions scaled to their roots as in Gasteiger et al., arXiv 2003.03123.
    """
    n = torch.arange(4, dtype=torch.float64)
    en = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
    dn = [1.0]
    for value in en[1:].tolist():
        dn.append(1 - value / dn[-1])
    factors = (-1) ** n * math.sqrt(2) * math.pi / cutoff**1.5
    factors = factors * (n + 1) * (n + 2) / torch.sqrt(2 * n**2 + 6 * n + 5)
    found = {
        "rbf.dn": torch.tensor(dn, dtype=torch.float64),
        "rbf.en": en[None],
        "rbf.fnr_weights": factors[None],
        "rbf.n_1_pi_cutoff": (n + 1)[None] * math.pi / cutoff,
        "rbf.n_2_pi_cutoff": (n + 2)[None] * math.pi / cutoff,
        "rbf.r_max": torch.tensor(cutoff),
        "sbf.factor": torch.tensor(math.sqrt(2 / cutoff**3)),
        "sbf.coef": _bessel_coefficients(),
    }
    return {name: tensor.float() for name, tensor in found.items()}


def _bessel_coefficients() -> torch.Tensor:
    """Return coefficients of j_l(z r) / abs(j_(l+1)(z)) by powers of r, and the roots z.

    Shape (4, 9, 4): order; coefficients and roots in turn, as the layer reads them; root.
    """
    # By order, the factors of sine and cosine from the highest power of 1 / x to the lowest.
    terms = ((1.0,), (-1.0, 1.0), (-1.0, 3.0, 3.0), (1.0, 6.0, 15.0, 15.0))
    table = torch.zeros(4, 9, 4, dtype=torch.float64)
    for order, roots in enumerate(_roots()):
        for index, root in enumerate(roots):
            if order == 0:
                table[0, 0, index] = root
                continue
            scale = 1 / abs(_bessel(order + 1, root))
            for power, factor in enumerate(terms[order], start=1):
                table[order, 2 * power - 2, index] = factor * scale / root**power
                table[order, 2 * power - 1, index] = root
    return table


def _roots() -> list[list[float]]:
    """Return the first four positive roots of the spherical Bessel functions of order 0 to 3."""
    roots = [[math.pi * k for k in range(1, 8)]]
    for order in range(1, 4):
        # Those of one order lie between those of the order below.
        pairs = zip(roots[-1], roots[-1][1:], strict=False)
        roots.append([_root(order, a, b) for a, b in pairs])
    return [values[:4] for values in roots]


def _root(order: int, low: float, high: float) -> float:
    """Return the root of a spherical Bessel function between two where it has different signs."""
    sign = math.copysign(1.0, _bessel(order, low))
    for _ in range(60):
        middle = (low + high) / 2
        if math.copysign(1.0, _bessel(order, middle)) == sign:
            low = middle
        else:
            high = middle
    return low


def _bessel(order: int, x: float) -> float:
    """Return the spherical Bessel function of an order, by recursion."""
    before, value = math.cos(x) / x, math.sin(x) / x
    for n in range(order):
        before, value = value, (2 * n + 1) / x * value - before
    return value
