"""The kinds of negative frequencies of a crystal: where they are, and whether they are real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcbench.phonons.modes import GammaModes
from hpcbench.phonons.rational import distance_from_gamma, nearest_commensurate
from hpcbench.phonons.stability import ACOUSTIC_MODES, IMAGINARY, Spectrum

CLEAN = "clean"
"""No negative frequency anywhere."""
NOISE = "within noise"
"""Negative frequencies, all of them closer to zero than the noise floor of their place."""
AT_GAMMA = "at Gamma"
"""A mode at Gamma that is not acoustic: the cell itself would distort."""
AT_COMMENSURATE = "at commensurate q"
"""At a commensurate q, where frequencies are exact: the supercell would distort. In a 2x2x2
supercell these q are at the zone boundary."""
BETWEEN = "between commensurate q"
"""Only at q where frequencies are interpolated: a larger supercell may not have them."""
NEAR_GAMMA = "acoustic near Gamma"
"""Only for long acoustic waves: an elastic instability, or an error of interpolation."""
CHARACTERS = (CLEAN, NOISE, AT_GAMMA, AT_COMMENSURATE, BETWEEN, NEAR_GAMMA)

# Near Gamma: within this share of the distance from Gamma to the nearest other commensurate q.
_NEAR = 0.5
# Relative: distances that are equal by symmetry must not differ by rounding.
_SAME_DISTANCE = 1e-6
_AT_GAMMA = 1e-8  # 1/A


@dataclass(frozen=True)
class Character:
    """The kinds of negative frequencies of a crystal.

    A frequency counts as negative if it is below -0.001 THz and farther from zero than the noise
    floor of its place, where that is known.

    Attributes
    ----------
    kinds : tuple of str
        Of ``CHARACTERS``: ``AT_GAMMA`` and ``AT_COMMENSURATE`` where they apply, else one other.
    gamma_acoustic : float
        The lowest of the three acoustic modes at Gamma, in THz: zero but for errors.
    gamma_optical : float
        The lowest other mode at Gamma, in THz; NaN if there is none.
    near_gamma : float
        The lowest of the three lowest modes near Gamma, on the path and the mesh, in THz; near
        means within half the distance to the nearest commensurate q. NaN if there is no such q.
    imaginary : dict
        By place, the share of modes that are below -0.001 THz, without the acoustic modes at Gamma.
    """

    kinds: tuple[str, ...]
    gamma_acoustic: float
    gamma_optical: float
    near_gamma: float
    imaginary: dict[str, float]


def character(
    spectra: Mapping[str, Spectrum],
    gamma: GammaModes,
    reciprocal: NDArray[np.float64],
    noise: Mapping[str, float],
    weights: NDArray[np.int64],
) -> Character:
    """Classify the negative frequencies of a crystal.

    Parameters
    ----------
    spectra : mapping
        By place: ``path``, ``commensurate``, ``mesh``.
    gamma : GammaModes
        From :func:`hpcbench.phonons.spectrum.modes_at_gamma`.
    reciprocal : ndarray, shape (3, 3)
        Reciprocal lattice vectors of the primitive cell as rows, in 1/A.
    noise : mapping
        Noise floor by place, in THz; NaN where it is not known.
    weights : ndarray, shape (nq,)
        For each q-point of the mesh, the number of points of the full mesh that it stands for.
    """
    acoustic = gamma.frequencies[gamma.acoustic]
    optical = gamma.frequencies[~gamma.acoustic]
    limit = {place: min(IMAGINARY, -float(np.nan_to_num(noise[place]))) for place in spectra}
    distances = {place: distance_from_gamma(s.qpoints, reciprocal) for place, s in spectra.items()}
    away = {place: distance > _AT_GAMMA for place, distance in distances.items()}
    commensurate = spectra["commensurate"].frequencies[away["commensurate"]]
    nearest = nearest_commensurate(spectra["commensurate"].qpoints, reciprocal)
    radius = (1.0 - _SAME_DISTANCE) * _NEAR * nearest
    near, is_far, is_near = np.inf, False, False
    for place in ("path", "mesh"):
        frequencies = np.sort(spectra[place].frequencies, axis=1)
        long = (distances[place] < radius) & away[place]
        waves = frequencies[long, :ACOUSTIC_MODES]
        near = min(near, float(waves.min(initial=np.inf)))
        is_near |= bool((waves < limit[place]).any())
        is_far |= bool(
            (frequencies[distances[place] >= radius] < limit[place]).any()
            or (frequencies[long, ACOUSTIC_MODES:] < limit[place]).any()
        )
    kinds = [
        kind
        for kind, frequencies in ((AT_GAMMA, optical), (AT_COMMENSURATE, commensurate))
        if (frequencies < limit["commensurate"]).any()
    ]
    if not kinds:
        lowest = min(spectrum.lowest[0] for spectrum in spectra.values())
        is_noise = NOISE if lowest < IMAGINARY else CLEAN
        kinds = [BETWEEN if is_far else NEAR_GAMMA if is_near else is_noise]
    return Character(
        tuple(kinds),
        float(acoustic.min()),
        float(optical.min(initial=np.inf)) if len(optical) else float("nan"),
        near if np.isfinite(near) else float("nan"),
        {
            place: _share(spectrum, away[place], optical, weights if place == "mesh" else None)
            for place, spectrum in spectra.items()
        },
    )


def _share(
    spectrum: Spectrum,
    away: NDArray[np.bool_],
    optical: NDArray[np.float64],
    weights: NDArray[np.int64] | None,
) -> float:
    """Return the share of imaginary modes, counting at Gamma the optical modes only."""
    counted = np.ones(len(spectrum.qpoints)) if weights is None else weights.astype(np.float64)
    below = (spectrum.frequencies[away] < IMAGINARY).sum(axis=1) @ counted[away]
    at_gamma = counted[~away].sum()
    below += at_gamma * (optical < IMAGINARY).sum()
    modes = counted[away].sum() * spectrum.frequencies.shape[1] + at_gamma * len(optical)
    return float(below / modes) if modes else 0.0
