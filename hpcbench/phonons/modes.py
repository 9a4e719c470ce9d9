"""Modes: acoustic ones at Gamma, the lowest of spectra, and unstable ones with eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from phonopy.physical_units import get_physical_units

from hpcbench.phonons.stability import (
    ACOUSTIC_MODES,
    IMAGINARY,
    Spectrum,
    signed_roots,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from phonopy import Phonopy


@dataclass(frozen=True, eq=False)
class GammaModes:
    """The modes at Gamma.

    Attributes
    ----------
    frequencies : ndarray, shape (nbands,)
        In THz, ascending; negative where imaginary.
    acoustic : ndarray, shape (nbands,)
        Which three are acoustic.
    """

    frequencies: NDArray[np.float64]
    acoustic: NDArray[np.bool_]


def modes_at_gamma(phonon: Phonopy, direction: NDArray[np.float64] | None = None) -> GammaModes:
    """Return the modes at Gamma, and which of them are acoustic.

    The acoustic modes move all atoms alike: they are the three with the largest
    :func:`acoustic_share`, not the three lowest, since optical ones may be imaginary.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    direction : ndarray, shape (3,), optional
        Direction of the limit q -> 0, in reduced coordinates; it matters only with Born charges.
    """
    result = phonon.run_qpoints(
        [[0.0, 0.0, 0.0]], with_eigenvectors=True, nac_q_direction=direction
    )
    frequencies = np.asarray(result.frequencies[0])
    order = np.argsort(frequencies, kind="stable")
    vectors = result.eigenvectors[0].T[order].reshape(len(order), -1, 3)
    share = acoustic_share(vectors, phonon.primitive.masses)
    acoustic = np.zeros(len(order), dtype=bool)
    acoustic[np.argsort(share, kind="stable")[-ACOUSTIC_MODES:]] = True
    return GammaModes(frequencies[order], acoustic)


@dataclass(frozen=True, eq=False)
class Mode:
    """A phonon mode.

    Attributes
    ----------
    frequency : float
        In THz; negative if imaginary.
    qpoint : ndarray, shape (3,)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    eigenvector : ndarray, shape (natoms, 3)
        Complex, normalised, for the primitive cell's atoms, with phonopy's phases.
    acoustic : float
        Share that moves all atoms alike: 1 in the acoustic branches near Gamma.
    """

    frequency: float
    qpoint: NDArray[np.float64]
    eigenvector: NDArray[np.complex128]
    acoustic: float


def lowest_modes(phonon: Phonopy, spectra: Mapping[str, Spectrum]) -> dict[str, Mode]:
    """Return the lowest mode of each spectrum, by place.

    With Born charges, the mode at Gamma is the one without a direction, that is without the
    electric field of longitudinal modes.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    spectra : mapping of str to Spectrum
        By place.
    """
    return {place: mode_at(phonon, spectrum.lowest[1]) for place, spectrum in spectra.items()}


def mode_at(phonon: Phonopy, qpoint: NDArray[np.float64]) -> Mode:
    """Return the lowest mode at a q.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    qpoint : ndarray, shape (3,)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    """
    result = phonon.run_qpoints([qpoint], with_eigenvectors=True)
    branch = int(np.argmin(result.frequencies[0]))
    vector = result.eigenvectors[0][:, branch].reshape(-1, 3)
    share = float(acoustic_share(vector, phonon.primitive.masses))
    return Mode(float(result.frequencies[0, branch]), qpoint, vector, share)


def mode_of(
    phonon: Phonopy, qpoint: NDArray[np.float64], matrix: NDArray[np.complex128]
) -> tuple[NDArray[np.float64], Mode]:
    """Return the frequencies of a dynamical matrix in THz, ascending, and the lowest mode.

    Parameters
    ----------
    phonon : Phonopy
        Its primitive cell has the masses.
    qpoint : ndarray, shape (3,)
        The q of the matrix, in reduced coordinates.
    matrix : ndarray, shape (nbands, nbands)
        In eV/(A^2 u), with phonopy's phases.
    """
    values, vectors = np.linalg.eigh(matrix)
    frequencies = signed_roots(values) * get_physical_units().DefaultToTHz
    vector = vectors[:, 0].reshape(-1, 3)
    share = float(acoustic_share(vector, phonon.primitive.masses))
    return frequencies, Mode(float(frequencies[0]), qpoint, vector, share)


def imaginary_modes(modes: Iterable[Mode]) -> tuple[Mode, ...]:
    """Return the modes below -0.001 THz, each q once.

    That is below zero for the strictest criterion in use: acoustic modes at Gamma are never exactly
    zero.
    """
    found = {tuple(np.round(m.qpoint, 9)): m for m in modes if m.frequency < IMAGINARY}
    return tuple(found.values())


def acoustic_share(
    vectors: NDArray[np.complex128], masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of modes that moves all atoms alike: 1 for an acoustic mode at Gamma.

    ``sum_x |sum_k sqrt(m_k) e_kx|^2 / sum_k m_k`` for eigenvectors e.

    Parameters
    ----------
    vectors : ndarray, shape (..., natoms, 3)
        Eigenvectors of the dynamical matrix.
    masses : ndarray, shape (natoms,)
        In any unit.

    Returns
    -------
    ndarray, shape (...)
        From 0 to 1.
    """
    alike = np.einsum("k,...kx->...x", np.sqrt(masses), vectors)
    share: NDArray[np.float64] = (np.abs(alike) ** 2).sum(axis=-1) / np.sum(masses)
    return share
