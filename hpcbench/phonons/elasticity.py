"""Elastic constants from a linear response to strains."""

from __future__ import annotations

import numpy as np
from ase.units import GPa, _amu
from numpy.typing import NDArray
from scipy.optimize import minimize

from hpcbench.potentials.columns import Columns, Response

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
# Eigenvalues of the force constants at Gamma that are smaller than this share of the largest belong
# to translations of the whole crystal.
_NO_FORCE = 1e-7
_DIRECTIONS = 500


def strain_columns(natoms: int) -> Columns:
    """Return six strains with fixed atoms, in Voigt's order, with engineering shear strains."""
    strains = np.zeros((6, 3, 3))
    for strain, (a, b) in zip(strains, VOIGT, strict=True):
        strain[a, b] += 0.5
        strain[b, a] += 0.5
    return Columns(np.zeros((6, natoms, 3), dtype=np.complex128), np.zeros((6, 3)), strains)


def stiffness(
    response: Response, at_gamma: NDArray[np.complex128], volume: float
) -> NDArray[np.float64]:
    """Return the elastic constants with relaxed atoms, in GPa, shape (6, 6), in Voigt's order.

    ``C = (C_0 - L^T Phi^+ L) / V`` with the second derivatives C_0 by strain, L by strain and
    position, and Phi by positions (Born and Huang, Dynamical Theory of Crystal Lattices, 1954,
    section 11). It holds for a crystal without stress.

    Parameters
    ----------
    response : Response
        To :func:`strain_columns`.
    at_gamma : ndarray, shape (3 natoms, 3 natoms)
        Force constants at Gamma, in eV/A^2.
    volume : float
        Of the cell, in A^3.
    """
    symmetric = (response.virials + response.virials.transpose(0, 2, 1)) / 2
    fixed = np.array([[one[a, b] for a, b in VOIGT] for one in symmetric])
    internal = response.forces.real.reshape(6, -1)
    softer = internal @ np.linalg.pinv(at_gamma.real, rcond=_NO_FORCE, hermitian=True) @ internal.T
    found = (fixed - softer) / volume / GPa
    return np.asarray((found + found.T) / 2)


def lowest_stiffness(constants: NDArray[np.float64]) -> float:
    """Return the lowest eigenvalue of elastic constants, in GPa; NaN if they are not known.

    A crystal is elastically stable (Born) if it is positive (Mouhat and Coudert, Phys. Rev. B 90,
    224104 (2014)). Mandel's notation makes the eigenvalues those of the fourth-rank tensor.
    """
    if not np.isfinite(constants).all():
        return float("nan")
    scale = np.array([1.0, 1.0, 1.0, *[np.sqrt(2.0)] * 3])
    return float(np.linalg.eigvalsh(constants * scale[:, None] * scale[None, :])[0])


def slowest_sound(constants: NDArray[np.float64], mass: float, volume: float) -> float:
    """Return the lowest speed of sound over all directions, in m/s; NaN if ``constants`` are.

    It is the slope of the lowest acoustic branch at Gamma, from Christoffel's equation
    ``det(C_ijkl n_j n_l - rho v^2 delta_ik) = 0``. If the lowest v^2 is negative, the result is
    ``-sqrt(-v^2)``, in the way of imaginary frequencies: long waves grow.

    Parameters
    ----------
    constants : ndarray, shape (6, 6)
        Elastic constants in GPa, in Voigt's order.
    mass : float
        Of a cell, in u.
    volume : float
        Of a cell, in A^3.
    """
    if not np.isfinite(constants).all():
        return float("nan")
    tensor = np.zeros((3, 3, 3, 3))
    for row, (a, b) in zip(constants, VOIGT, strict=True):
        for value, (c, d) in zip(row, VOIGT, strict=True):
            tensor[a, b, c, d] = tensor[b, a, c, d] = tensor[a, b, d, c] = tensor[b, a, d, c] = (
                value
            )

    def lowest(n: NDArray[np.float64]) -> NDArray[np.float64]:
        matrices = np.einsum("...b,abcd,...d->...ac", n, tensor, n)
        length = np.linalg.norm(n, axis=-1)
        return np.asarray(np.linalg.eigvalsh(matrices)[..., 0] / length**2)

    # Directions spread evenly along a spiral; the best is the start of a minimisation.
    z = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    angles = np.pi * (1 + 5**0.5) * np.arange(_DIRECTIONS)
    across = np.sqrt(1 - z**2)
    directions = np.stack([across * np.cos(angles), across * np.sin(angles), z], axis=1)
    start = directions[int(lowest(directions).argmin())]
    found = float(minimize(lambda n: float(lowest(n)), start, method="Nelder-Mead").fun)
    square = found * 1e9 / (mass * _amu / (volume * 1e-30))
    return float(np.sign(square) * np.sqrt(abs(square)))
