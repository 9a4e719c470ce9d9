"""Elastic constants from a linear response to strains."""

from __future__ import annotations

import numpy as np
from ase.units import GPa, _amu
from numpy.typing import NDArray
from scipy.optimize import minimize

from hpcbench.potentials.columns import Columns, Response

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
# Of the force constants at Gamma, relative to the largest: what is smaller moves all atoms alike.
_NO_FORCE = 1e-7
_DIRECTIONS = 500


def strain_columns(natoms: int) -> Columns:
    """Return the six strains of Voigt's order, engineering ones for shear, with atoms fixed."""
    strains = np.zeros((6, 3, 3))
    for strain, (a, b) in zip(strains, VOIGT, strict=True):
        strain[a, b] += 0.5
        strain[b, a] += 0.5
    return Columns(np.zeros((6, natoms, 3), dtype=np.complex128), np.zeros((6, 3)), strains)


def stiffness(
    response: Response, at_gamma: NDArray[np.complex128], volume: float
) -> NDArray[np.float64]:
    """Return the elastic constants with relaxed atoms, Voigt's (6, 6), in GPa.

    ``C = (C_0 - L^T Phi^+ L) / V`` with the second derivatives by strain C_0, by strain and
    position L, and by positions Phi (Born and Huang, Dynamical Theory of Crystal Lattices, 1954,
    section 11). For a crystal without stress.

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
    """Return the lowest eigenvalue of elastic constants in GPa: Born's criterion, if positive.

    NaN where they are not known. In Mandel's notation, in which the matrix is that of a tensor
    (Mouhat and Coudert, Phys. Rev. B 90, 224104).
    """
    if not np.isfinite(constants).all():
        return float("nan")
    scale = np.array([1.0, 1.0, 1.0, *[np.sqrt(2.0)] * 3])
    return float(np.linalg.eigvalsh(constants * scale[:, None] * scale[None, :])[0])


def slowest_sound(constants: NDArray[np.float64], mass: float, volume: float) -> float:
    """Return the lowest velocity of sound in any direction, in m/s; NaN if ``constants`` are.

    The slope of the lowest acoustic branch at Gamma, by Christoffel's equation. Where its square is
    negative, minus the root of what is left: long waves grow, as imaginary frequencies say.

    Parameters
    ----------
    constants : ndarray, shape (6, 6)
        Elastic constants in GPa, Voigt's.
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

    # Spread evenly on a sphere, along a spiral; then downhill from the lowest.
    z = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    angles = np.pi * (1 + 5**0.5) * np.arange(_DIRECTIONS)
    across = np.sqrt(1 - z**2)
    directions = np.stack([across * np.cos(angles), across * np.sin(angles), z], axis=1)
    start = directions[int(lowest(directions).argmin())]
    found = float(minimize(lambda n: float(lowest(n)), start, method="Nelder-Mead").fun)
    square = found * 1e9 / (mass * _amu / (volume * 1e-30))
    return float(np.sign(square) * np.sqrt(abs(square)))
