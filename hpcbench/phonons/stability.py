"""What criteria of dynamical stability say of a spectrum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import Criterion

IMAGINARY = -1e-3
"""THz, of the strictest criterion in use: acoustic modes at Gamma are never exactly zero."""
ACOUSTIC = 3
"""Acoustic modes at Gamma."""
_AT_GAMMA = 1e-8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Frequencies at some q-points.

    Attributes
    ----------
    qpoints : ndarray, shape (nq, 3)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    frequencies : ndarray, shape (nq, nbands)
        In THz, ascending; negative where imaginary.
    """

    qpoints: NDArray[np.float64]
    frequencies: NDArray[np.float64]

    @property
    def lowest(self) -> tuple[float, NDArray[np.float64]]:
        """The lowest frequency in THz and its q-point."""
        at = int(self.frequencies.min(axis=1).argmin())
        return float(self.frequencies[at].min()), self.qpoints[at]

    @property
    def highest(self) -> float:
        """The highest frequency in THz."""
        return float(self.frequencies.max())


def is_gamma(qpoints: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which q-points are Gamma, or a reciprocal lattice vector away from it."""
    found: NDArray[np.bool_] = np.abs(qpoints - np.rint(qpoints)).max(axis=1) < _AT_GAMMA
    return found


def margin(criterion: Criterion, spectrum: Spectrum) -> float:
    """How far the lowest frequency is above the threshold, in THz; negative below it.

    The three lowest modes at Gamma, which are zero but for errors, are left out.
    """
    frequencies = np.sort(spectrum.frequencies, axis=1)
    frequencies[is_gamma(spectrum.qpoints), :ACOUSTIC] = np.inf
    return float(frequencies.min()) - criterion.threshold


def is_stable(criterion: Criterion, spectrum: Spectrum) -> bool:
    """The criterion's answer for the spectrum of its place."""
    frequencies = np.sort(spectrum.frequencies, axis=1)
    if not criterion.gamma_apart:
        return bool((frequencies >= criterion.threshold).all())
    away = ~is_gamma(spectrum.qpoints)
    at_gamma = frequencies[~away]
    acoustic_are_fine = criterion.gamma_threshold is None or bool(
        (at_gamma[:, :ACOUSTIC] >= criterion.gamma_threshold).all()
    )
    return (
        acoustic_are_fine
        and bool((frequencies[away] >= criterion.threshold).all())
        and bool((at_gamma[:, ACOUSTIC:] >= criterion.threshold).all())
    )


def is_undetermined(criterion: Criterion, spectrum: Spectrum, spread: NDArray[np.float64]) -> bool:
    """Whether moving each mode by its own noise would change the criterion's answer.

    Parameters
    ----------
    spread : ndarray, shape (nq, nbands)
        Standard deviation of each mode's squared frequency, in THz^2.
    """
    squares = spectrum.frequencies * np.abs(spectrum.frequencies)
    answers = []
    for moved in (squares - spread, squares + spread):
        frequencies = np.sign(moved) * np.sqrt(np.abs(moved))
        answers.append(is_stable(criterion, Spectrum(spectrum.qpoints, frequencies)))
    return answers[0] != answers[1]


def verdicts(spectra: Mapping[str, Spectrum], criteria: Iterable[Criterion]) -> dict[str, str]:
    """``stable`` or ``unstable`` by the name of each criterion; spectra by place."""
    return {c.name: "stable" if is_stable(c, spectra[c.place]) else "unstable" for c in criteria}
