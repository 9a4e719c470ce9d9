"""Settings of a phonon calculation, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import (
    CRITERIA,
    Criterion,
)
from hpcbench.phonons.character import Character
from hpcbench.phonons.modes import Mode, imaginary_modes
from hpcbench.phonons.noise import (
    Noise,
)
from hpcbench.phonons.rational import Suspicions
from hpcbench.phonons.spectrum import BandPath, MeshResult
from hpcbench.phonons.stability import Spectrum

if TYPE_CHECKING:
    from phonopy import Phonopy


@dataclass(frozen=True)
class PhononSettings:
    """Settings of a phonon calculation; units and meaning as in ``RunConfig``.

    Attributes
    ----------
    primitive_matrix : str or ndarray, shape (3, 3)
        phonopy's: ``auto``, ``P``, or the matrix.
    literal : bool
        Whether every criterion gives an answer, however uncertain it is, as in the scripts of a
        benchmark. The exception is ``exact-q`` where interpolated frequencies are negative.
    linear : bool
        Whether forces are proportional to displacements, so that neither opposite displacements nor
        other lengths give anything new.
    """

    primitive_matrix: str | NDArray[np.float64]
    displacement: float
    symprec: float
    band_points: int
    mesh: tuple[float, ...]
    temperatures: tuple[float, ...]
    cutoff_frequency: float
    criteria: tuple[Criterion, ...] = CRITERIA
    literal: bool = False
    most_denominator: int = 6
    most_qpoints: int = 8
    linear: bool = False


@dataclass(frozen=True, eq=False)
class PhononResult:
    """The phonons of one crystal.

    Attributes
    ----------
    phonon : Phonopy
        With force constants (compact, symmetrised), and Born charges where the crystal has them:
        all results are then with the non-analytic correction.
    displacements : int
        Number of supercells with computed forces, without those that measure the noise; 0 if the
        force constants were given.
    largest_drift : float
        Largest mean force of a supercell before it was subtracted, in eV/A; NaN if the force
        constants were given.
    symmetrisation_change : float
        Largest change of a force constant by symmetrisation, in eV/A^2; NaN if the force constants
        were given.
    noise : Noise
        Uncertainty of the frequencies; NaN if the force constants were given.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces without drift, in eV/A; empty if the force constants were given.
    path : BandPath
        The band path; ``spectra["path"]`` has the frequencies of its points.
    spectra : dict
        Spectra by place: ``path``, ``commensurate``, ``mesh``.
    mesh : MeshResult
        Thermal properties.
    lowest_modes : dict
        The lowest mode of each place.
    character : Character
        The kinds of negative frequencies.
    verdicts : dict
        ``stable`` or ``unstable`` by the name of each criterion.
    undetermined : dict
        Names of the criteria that have no certain answer, and the cause.
    margins : dict
        By the name of each criterion, the lowest frequency minus the threshold, in THz, without the
        acoustic modes at Gamma.
    decay : float
        See :func:`hpcbench.phonons.force_constants.decay`.
    suspicions : Suspicions
        Where frequencies between the commensurate q are below the threshold of ``exact-q``, if
        those at the commensurate q are not.
    roughness : float
        See :class:`hpcbench.phonons.displacement_length.Lengths`; NaN if forces were computed for
        one length only.
    """

    phonon: Phonopy
    displacements: int
    largest_drift: float
    symmetrisation_change: float
    noise: Noise
    forces: NDArray[np.float64]
    path: BandPath
    spectra: dict[str, Spectrum]
    mesh: MeshResult
    lowest_modes: dict[str, Mode]
    character: Character
    verdicts: dict[str, str]
    undetermined: dict[str, str]
    margins: dict[str, float]
    decay: float
    suspicions: Suspicions
    roughness: float = math.nan

    @property
    def max_frequency(self) -> float:
        """Highest frequency of all spectra in THz."""
        return max(spectrum.highest for spectrum in self.spectra.values())

    @property
    def unstable_modes(self) -> tuple[Mode, ...]:
        """The imaginary ones among the lowest modes of all places, each of them once."""
        return imaginary_modes(self.lowest_modes.values())
