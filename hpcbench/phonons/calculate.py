"""The phonons of one crystal: everything before and after the forces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import CRITERIA, NO_FORCE, Criterion
from hpcbench.errors import PhononError
from hpcbench.phonons.character import Character, character, modes_at_gamma
from hpcbench.phonons.force_constants import decay, fit_force_constants, subtract_drift
from hpcbench.phonons.noise import UNKNOWN_NOISE, Noise, carry_noise, measure_noise
from hpcbench.phonons.spectrum import (
    BandPath,
    MeshResult,
    Mode,
    commensurate_qpoints,
    frequencies_at,
    imaginary_modes,
    lowest_modes,
    run_mesh,
    seekpath_band_path,
)
from hpcbench.phonons.stability import Spectrum, is_undetermined, margin, verdicts
from hpcbench.phonons.supercells import EMPTY, displace, gaps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from phonopy import Phonopy


@dataclass(frozen=True)
class PhononSettings:
    """How phonons are computed; units and meaning as in ``RunConfig``."""

    primitive_matrix: str
    displacement: float
    symprec: float
    band_points: int
    mesh: tuple[float, ...]
    temperatures: tuple[float, ...]
    cutoff_frequency: float
    criteria: tuple[Criterion, ...] = CRITERIA


@dataclass(frozen=True, eq=False)
class PhononResult:
    """The phonons of one crystal.

    Attributes
    ----------
    phonon : Phonopy
        With force constants (compact, symmetrised).
    displacements : int
        Number of displaced supercells; 0 where force constants were given.
    largest_drift : float
        Largest mean force of a supercell before it was subtracted, in eV/A; NaN where force
        constants were given.
    symmetrisation_change : float
        Largest change of a force constant by symmetrisation, in eV/A^2; NaN where force constants
        were given.
    noise : Noise
        NaN where force constants were given.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces without drift, in eV/A; none where force constants were given.
    path : BandPath
        The band path; ``spectra["path"]`` has the frequencies of its points.
    spectra : dict
        Spectra by place: ``path``, ``commensurate``, ``mesh``.
    mesh : MeshResult
        Thermal properties.
    lowest_modes : dict
        The lowest mode of each place.
    character : Character
        What kind of negative frequencies there are.
    verdicts : dict
        ``stable`` or ``unstable`` by the name of each criterion.
    undetermined : tuple of str
        Names of the criteria whose answers the noise could change.
    margins : dict
        By the name of each criterion, how far the lowest frequency is above its threshold, in
        THz; the three lowest modes at Gamma left out.
    decay : float
        See :func:`hpcbench.phonons.force_constants.decay`.
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
    undetermined: tuple[str, ...]
    margins: dict[str, float]
    decay: float

    @property
    def max_frequency(self) -> float:
        """Highest frequency of all spectra in THz."""
        return max(spectrum.highest for spectrum in self.spectra.values())

    @property
    def unstable_modes(self) -> tuple[Mode, ...]:
        """The lowest mode of each place, where it is imaginary; one that is in several once."""
        return imaginary_modes(self.lowest_modes.values())


def prepare(atoms: Atoms, supercell_matrix: NDArray[np.int64], settings: PhononSettings) -> Phonopy:
    """A Phonopy object with displacements, whose supercells want forces."""
    phonon = displace(
        atoms,
        supercell_matrix=supercell_matrix,
        primitive_matrix=settings.primitive_matrix,
        displacement=settings.displacement,
        symprec=settings.symprec,
    )
    if len(phonon.supercell) < 2:
        if (gaps(phonon.supercell.cell, phonon.supercell.positions) > EMPTY).all():
            raise PhononError(NO_FORCE, "an atom alone in its box has no phonons")
        raise PhononError("supercell", "a supercell of one atom has no phonons; give a larger one")
    return phonon


def analyse(
    phonon: Phonopy,
    forces: NDArray[np.float64],
    settings: PhononSettings,
    checks: NDArray[np.float64] | None = None,
) -> PhononResult:
    """Force constants, spectra, thermal properties and verdicts from forces.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`prepare`; force constants are put into it.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces of the displaced supercells in eV/A, as the potential gives them.
    checks : ndarray, shape (2, natoms, 3), optional
        The same of the supercell that is not displaced, and with the first displacement halved.

    Raises
    ------
    PhononError
        If force constants or the band path cannot be had, or frequencies are not finite.
    """
    without_drift, largest_drift = subtract_drift(forces)
    change = fit_force_constants(phonon, without_drift)
    path, mesh, spectra = _spectra(phonon, settings)
    noise = measure_noise(phonon, forces, change, spectra, settings.criteria, checks)
    return PhononResult(
        phonon,
        len(forces),
        largest_drift,
        float(np.abs(change).max()),
        noise,
        without_drift,
        path,
        spectra,
        mesh,
        lowest_modes(phonon, spectra),
        _character(phonon, spectra, noise, mesh),
        verdicts(spectra, settings.criteria),
        _undetermined(spectra, noise, settings),
        {c.name: margin(c, spectra[c.place]) for c in settings.criteria},
        decay(phonon),
    )


def analyse_force_constants(
    phonon: Phonopy, settings: PhononSettings, noise: Noise = UNKNOWN_NOISE
) -> PhononResult:
    """Spectra, thermal properties and verdicts from force constants as they are.

    Parameters
    ----------
    phonon : Phonopy
        With compact force constants, which are neither fitted nor symmetrised here.
    noise : Noise
        What is known of it. That of forces is carried through to the spectra of these settings
        where the displacements that the force constants are from are in ``phonon``.

    Raises
    ------
    PhononError
        If the band path cannot be had, or force constants or frequencies are not finite.
    """
    if not np.isfinite(phonon.force_constants).all():
        # LAPACK does not take them.
        raise PhononError("nan", "force constants are not finite")
    path, mesh, spectra = _spectra(phonon, settings)
    if phonon.dataset is not None and math.isfinite(noise.forces):
        noise = carry_noise(phonon, noise.forces, spectra, settings.criteria)
    return PhononResult(
        phonon,
        0,
        math.nan,
        math.nan,
        noise,
        np.zeros((0, len(phonon.supercell), 3)),
        path,
        spectra,
        mesh,
        lowest_modes(phonon, spectra),
        _character(phonon, spectra, noise, mesh),
        verdicts(spectra, settings.criteria),
        _undetermined(spectra, noise, settings),
        {c.name: margin(c, spectra[c.place]) for c in settings.criteria},
        decay(phonon),
    )


def _undetermined(
    spectra: Mapping[str, Spectrum], noise: Noise, settings: PhononSettings
) -> tuple[str, ...]:
    """The criteria whose answers noise could change; none where it is not known."""
    return tuple(
        c.name
        for c in settings.criteria
        if noise.spreads and is_undetermined(c, spectra[c.place], noise.spreads[c.place])
    )


def _character(
    phonon: Phonopy, spectra: dict[str, Spectrum], noise: Noise, mesh: MeshResult
) -> Character:
    acoustic, optical = modes_at_gamma(phonon)
    reciprocal = np.linalg.inv(phonon.primitive.cell).T
    return character(spectra, acoustic, optical, reciprocal, noise.frequencies, mesh.weights)


def _spectra(
    phonon: Phonopy, settings: PhononSettings
) -> tuple[BandPath, MeshResult, dict[str, Spectrum]]:
    path = seekpath_band_path(
        phonon, settings.band_points, cell_is_standard=settings.primitive_matrix == "P"
    )
    mesh = run_mesh(phonon, settings.mesh, settings.temperatures, settings.cutoff_frequency)
    spectra = {
        "path": frequencies_at(phonon, path.qpoints),
        "commensurate": frequencies_at(phonon, commensurate_qpoints(phonon)),
        "mesh": mesh.spectrum,
    }
    if not all(np.isfinite(spectrum.frequencies).all() for spectrum in spectra.values()):
        raise PhononError("nan", "frequencies are not finite")
    return path, mesh, spectra
