"""Criteria of dynamical stability applied to spectra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import THREE_LOWEST, Criterion

IMAGINARY = -1e-3
"""In THz, the threshold of the strictest criterion in use: acoustic modes at Gamma are never
exactly zero."""
ZERO = 1e-4
"""In THz: a frequency at Gamma that is closer to zero counts as zero. Force constants that obey the
sum rule to 1e-11 eV/A^2 (:mod:`hpcbench.phonons.force_constants`) give acoustic frequencies of up
to 5e-5 THz there, for the lightest atoms, with signs that are rounding: no verdict may depend on
them."""
ACOUSTIC_MODES = 3
"""Number of acoustic modes at Gamma."""
_AT_GAMMA = 1e-8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Frequencies at some q-points.

    Attributes
    ----------
    qpoints : ndarray, shape (nq, 3)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    frequencies : ndarray, shape (nq, nbands)
        In THz, ascending; negative if imaginary.
    acoustic : ndarray, shape (nbands,) or (nq, nbands)
        Which modes at Gamma are acoustic, by their eigenvectors; for each q if they depend on the
        direction towards Gamma (Born charges).
    """

    qpoints: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    acoustic: NDArray[np.bool_]

    @property
    def lowest(self) -> tuple[float, NDArray[np.float64]]:
        """The lowest frequency in THz and its q-point.

        It is the first of the q-points whose squared frequencies differ by less than ``ZERO``
        squared: they are equal by symmetry, and rounding would choose among them.
        """
        lowest = self.frequencies.min(axis=1)
        squares = signed_squares(lowest)
        at = int(np.argmax(squares < squares.min() + ZERO**2))
        return float(lowest[at]), self.qpoints[at]

    @property
    def highest(self) -> float:
        """The highest frequency in THz."""
        return float(self.frequencies.max())

    @property
    def at_gamma(self) -> NDArray[np.bool_]:
        """Mask of the acoustic modes at Gamma, shape (nq, nbands)."""
        found: NDArray[np.bool_] = is_gamma(self.qpoints)[:, None] & self.acoustic
        return found


def signed_squares(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared frequencies in THz^2, negative for imaginary ones."""
    return frequencies * np.abs(frequencies)


def signed_roots(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies in THz from squared ones, negative for negative squares."""
    roots: NDArray[np.float64] = np.sign(squares) * np.sqrt(np.abs(squares))
    return roots


def is_gamma(qpoints: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which q-points are Gamma or equivalent to it."""
    found: NDArray[np.bool_] = np.abs(qpoints - np.rint(qpoints)).max(axis=1) < _AT_GAMMA
    return found


def margin(criterion: Criterion, spectrum: Spectrum) -> float:
    """Return the lowest frequency minus the criterion's threshold, in THz.

    The acoustic modes at Gamma, which are zero but for errors, do not count.

    Parameters
    ----------
    criterion : Criterion
        Has the threshold.
    spectrum : Spectrum
        That of its place.
    """
    frequencies = np.where(spectrum.at_gamma, np.inf, spectrum.frequencies)
    return float(frequencies.min()) - criterion.threshold


def is_stable(criterion: Criterion, spectrum: Spectrum) -> bool:
    """Tell whether a spectrum is stable by a criterion.

    Parameters
    ----------
    criterion : Criterion
        The criterion.
    spectrum : Spectrum
        That of its place.
    """
    below = _is_below(spectrum, criterion.threshold)
    if criterion.gamma_apart:
        apart = spectrum.at_gamma
        if criterion.gamma_modes == THREE_LOWEST:
            apart = np.zeros_like(apart)
            apart[is_gamma(spectrum.qpoints), :ACOUSTIC_MODES] = True
        below[apart] = False
        if criterion.gamma_threshold is not None:
            below |= apart & _is_below(spectrum, criterion.gamma_threshold)
    return not below.any()


def _is_below(spectrum: Spectrum, threshold: float) -> NDArray[np.bool_]:
    """Tell which modes are below a threshold in THz; a zero at Gamma is not below zero."""
    below: NDArray[np.bool_] = ~(spectrum.frequencies >= threshold)
    if threshold <= 0.0:
        below[is_gamma(spectrum.qpoints)] &= ~(
            np.abs(spectrum.frequencies[is_gamma(spectrum.qpoints)]) < ZERO
        )
    return below


def is_undetermined(
    criterion: Criterion,
    spectrum: Spectrum,
    below: NDArray[np.float64],
    above: NDArray[np.float64],
) -> bool:
    """Tell whether a criterion's answer changes within the uncertainty of the frequencies.

    Parameters
    ----------
    criterion : Criterion
        The criterion.
    spectrum : Spectrum
        That of its place.
    below, above : ndarray, shape (nq, nbands)
        How far each mode's squared frequency may be below and above its value, in THz^2.
    """
    squares = signed_squares(spectrum.frequencies)
    answers = [
        is_stable(criterion, replace(spectrum, frequencies=signed_roots(moved)))
        for moved in (squares - below, squares + above)
    ]
    return answers[0] != answers[1]


def verdicts(spectra: Mapping[str, Spectrum], criteria: Iterable[Criterion]) -> dict[str, str]:
    """Return ``stable`` or ``unstable`` by the name of each criterion.

    Parameters
    ----------
    spectra : mapping of str to Spectrum
        By place.
    criteria : iterable of Criterion
        The criteria.
    """
    return {c.name: "stable" if is_stable(c, spectra[c.place]) else "unstable" for c in criteria}
