"""Force constants in the limit of zero displacement, where the potential has one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.phonons.displacement_length import EXTRAPOLATED_NOISE, extrapolate, pairs_of
from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.noise import Uncertainty

if TYPE_CHECKING:
    from phonopy import Phonopy


@dataclass(frozen=True, eq=False)
class Limit:
    """The uncertainty of fitted force constants.

    Attributes
    ----------
    change : ndarray
        Change of the force constants by symmetrisation, in eV/A^2.
    uncertainty : Uncertainty
        Of the crystal.
    rounding : float
        Standard deviation of a component of the fitted forces, in eV/A.
    error : ndarray or None
        Error that extrapolation leaves in the forces, in eV/A; ``None`` if the potential is not
        smooth.
    roughness : float
        See :class:`hpcbench.phonons.displacement_length.Lengths`.
    """

    change: NDArray[np.float64]
    uncertainty: Uncertainty
    rounding: float
    error: NDArray[np.float64] | None
    roughness: float


def fit_limit(phonon: Phonopy, forces: NDArray[np.float64]) -> Limit:
    """Fit force constants to extrapolated forces, and set them in ``phonon``.

    If the potential is not smooth over the lengths, or there is only one length, they are fitted to
    the forces of phonopy's displacements.

    Parameters
    ----------
    phonon : Phonopy
        With displacements.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of the supercells of :func:`hpcbench.phonons.displacement_length.with_shorter`, in eV/A; or
        of phonopy's alone, if forces are proportional to displacements.

    Raises
    ------
    PhononError
        If the forces are not finite or phonopy cannot fit them.
    """
    count = len((phonon.dataset or {})["first_atoms"])
    change = fit_force_constants(phonon, subtract_drift(forces[:count])[0])
    uncertainty = Uncertainty(phonon)
    none = forces[count] if len(forces) > count else None
    rounding = uncertainty.rounding(forces[:count], none, float(np.linalg.norm(change)))
    if none is None:
        return Limit(change, uncertainty, rounding, None, math.nan)
    lengths = extrapolate(pairs_of(phonon), forces, count, rounding)
    if not lengths.smooth:
        return Limit(change, uncertainty, rounding, None, lengths.roughness)
    change = fit_force_constants(phonon, subtract_drift(lengths.forces)[0])
    rounding *= EXTRAPOLATED_NOISE
    return Limit(change, uncertainty, rounding, lengths.error, lengths.roughness)
