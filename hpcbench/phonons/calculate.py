"""The phonons of one crystal: everything before and after the forces."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.cells import EMPTY, gaps
from hpcbench.criteria import (
    CRITERIA,
    EXACT_Q,
    LENGTH,
    NO_FORCE,
    ROUNDING,
    SUPERCELL_Q,
    Criterion,
)
from hpcbench.errors import PhononError
from hpcbench.phonons.character import Character, character
from hpcbench.phonons.displacement_length import extrapolate, pairs_of
from hpcbench.phonons.exact_q import STABLE, find_suspicions, undecided
from hpcbench.phonons.force_constants import (
    decay,
    fit_force_constants,
    subtract_drift,
    symmetrise,
)
from hpcbench.phonons.limit import fit_limit
from hpcbench.phonons.noise import (
    OTHER_DISPLACEMENTS,
    UNKNOWN_NOISE,
    Noise,
    Uncertainty,
    nonlinearity,
    rounding_of_response,
)
from hpcbench.phonons.rational import NO_SUSPICIONS, Suspicions
from hpcbench.phonons.response import dynamical_matrices, set_force_constants
from hpcbench.phonons.spectrum import (
    BandPath,
    MeshResult,
    Mode,
    commensurate_qpoints,
    frequencies_at,
    frequencies_on_path,
    imaginary_modes,
    lowest_modes,
    modes_at_gamma,
    run_mesh,
    seekpath_band_path,
    supercell_qpoints,
)
from hpcbench.phonons.stability import Spectrum, is_undetermined, margin, verdicts
from hpcbench.phonons.supercells import displace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from phonopy import Phonopy


@dataclass(frozen=True)
class PhononSettings:
    """How phonons are computed; units and meaning as in ``RunConfig``.

    ``literal``: every criterion has an answer, however uncertain, as in the scripts of a benchmark;
    but for ``exact-q`` where interpolated frequencies are negative. ``linear``: forces are in
    proportion to displacements, so that neither opposite ones nor other lengths tell any more.
    """

    primitive_matrix: str
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
        everything here is then with the non-analytic correction.
    displacements : int
        Number of supercells that forces were computed of, but for those that tell the noise; 0
        where force constants were given.
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
    undetermined : dict
        Names of the criteria that have no sure answer, and the cause.
    margins : dict
        By the name of each criterion, how far the lowest frequency is above its threshold, in
        THz; the acoustic modes at Gamma left out.
    decay : float
        See :func:`hpcbench.phonons.force_constants.decay`.
    suspicions : Suspicions
        Where frequencies between the commensurate q are below the threshold of ``exact-q``, if
        those at them are not.
    roughness : float
        See :class:`hpcbench.phonons.displacement_length.Lengths`; NaN where forces of one length
        were given.
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
        opposite=not settings.linear,
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
    """Compute force constants, spectra, thermal properties and verdicts from forces.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`prepare`; force constants are put into it.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces of the displaced supercells in eV/A, as the potential gives them.
    checks : ndarray, shape (2 or 3, natoms, 3), optional
        The same of the supercell that is not displaced, with the first displacement halved, and
        with a quarter of it: they tell what the length of the displacements may add, and whether
        the potential is smooth there. If it is not, there is no limit that they could add to.

    Raises
    ------
    PhononError
        If force constants or the band path cannot be had, or frequencies are not finite.
    """
    without_drift, largest_drift = subtract_drift(forces)
    change = fit_force_constants(phonon, without_drift)
    path, mesh, spectra = _spectra(phonon, settings)
    judged = _judged(phonon, spectra)
    uncertainty = Uncertainty(phonon)
    none = None if checks is None else checks[0]
    rounding = uncertainty.rounding(forces, none, float(np.linalg.norm(change)))
    reach = roughness = math.nan
    if checks is not None:
        reach = OTHER_DISPLACEMENTS * nonlinearity(phonon, forces, checks[0], checks[1])
        if len(checks) > 2:
            first = pairs_of(phonon)[:1]
            lengths = extrapolate(first, np.concatenate([forces, checks]), len(forces), rounding)
            roughness = lengths.roughness
            reach = reach if lengths.smooth else math.nan
    noise = uncertainty.noise(rounding, judged, settings.criteria, nonlinearity=reach)
    return dataclasses.replace(
        _result(phonon, settings, path, mesh, spectra, judged, noise),
        displacements=len(forces),
        largest_drift=largest_drift,
        symmetrisation_change=float(np.abs(change).max()),
        forces=without_drift,
        roughness=roughness,
    )


def analyse_lengths(
    phonon: Phonopy, forces: NDArray[np.float64], settings: PhononSettings
) -> PhononResult:
    """Compute the same in the limit of displacements of no length, where there is one.

    Where the potential is not smooth over the lengths of the displacements there is none, and
    force constants are those of phonopy's displacements.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`prepare`; force constants are put into it.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of the supercells of :func:`hpcbench.phonons.displacement_length.with_shorter`, in eV/A.

    Raises
    ------
    PhononError
        If force constants or the band path cannot be had, or frequencies are not finite.
    """
    limit = fit_limit(phonon, forces)
    displaced = len((phonon.dataset or {})["first_atoms"])
    without_drift, largest_drift = subtract_drift(forces[:displaced])
    path, mesh, spectra = _spectra(phonon, settings)
    judged = _judged(phonon, spectra)
    noise = limit.uncertainty.noise(limit.rounding, judged, settings.criteria, error=limit.error)
    return dataclasses.replace(
        _result(phonon, settings, path, mesh, spectra, judged, noise),
        displacements=len(forces),
        largest_drift=largest_drift,
        symmetrisation_change=float(np.abs(limit.change).max()),
        forces=without_drift,
        roughness=limit.roughness,
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
    judged = _judged(phonon, spectra)
    if phonon.dataset is not None and math.isfinite(noise.forces):
        noise = Uncertainty(phonon).noise(
            noise.forces, judged, settings.criteria, nonlinearity=noise.nonlinearity
        )
    return _result(phonon, settings, path, mesh, spectra, judged, noise)


def analyse_response(
    phonon: Phonopy,
    qpoints: NDArray[np.float64],
    force_constants: NDArray[np.complex128],
    rounding: float,
    settings: PhononSettings,
) -> PhononResult:
    """Compute spectra, thermal properties and verdicts from a linear response.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`prepare`; force constants are put into it.
    qpoints : ndarray, shape (nq, 3)
        All that are commensurate with its supercell, in phonopy's order.
    force_constants : ndarray, shape (nq, 3 natoms, 3 natoms)
        At these, see :func:`hpcbench.phonons.response.force_constants_at`.
    rounding : float
        Largest part of theirs that is not Hermitian, in eV/A^2.

    Raises
    ------
    PhononError
        If the band path cannot be had, or the response or frequencies are not finite.
    """
    phonon.dataset = None  # nothing is displaced
    set_force_constants(phonon, dynamical_matrices(phonon, force_constants, qpoints))
    raw = np.array(phonon.force_constants)
    symmetrise(phonon)
    path, mesh, spectra = _spectra(phonon, settings)
    judged = _judged(phonon, spectra)
    noise = rounding_of_response(phonon, rounding, judged, settings.criteria)
    return dataclasses.replace(
        _result(phonon, settings, path, mesh, spectra, judged, noise),
        symmetrisation_change=float(np.abs(phonon.force_constants - raw).max()),
    )


def _judged(phonon: Phonopy, spectra: Mapping[str, Spectrum]) -> dict[str, Spectrum]:
    """Return the spectra that criteria look at: those of a store, and others of their q."""
    return {
        **spectra,
        SUPERCELL_Q: frequencies_at(phonon, supercell_qpoints(phonon)),
        EXACT_Q: spectra["commensurate"],
    }


def _result(
    phonon: Phonopy,
    settings: PhononSettings,
    path: BandPath,
    mesh: MeshResult,
    spectra: dict[str, Spectrum],
    judged: Mapping[str, Spectrum],
    noise: Noise,
) -> PhononResult:
    """Return what follows from spectra, without what only forces tell."""
    answers = verdicts(judged, settings.criteria)
    undetermined = _undetermined(judged, noise, settings)
    found = NO_SUSPICIONS
    for criterion in settings.criteria:
        if criterion.place == EXACT_Q and answers[criterion.name] == STABLE:
            found = find_suspicions(
                phonon,
                spectra["path"],
                spectra["mesh"],
                spectra["commensurate"],
                criterion.threshold,
                settings.most_denominator,
                settings.most_qpoints,
            )
            if cause := undecided(found):
                undetermined.setdefault(criterion.name, cause)
    return PhononResult(
        phonon=phonon,
        displacements=0,
        largest_drift=math.nan,
        symmetrisation_change=math.nan,
        noise=noise,
        forces=np.zeros((0, len(phonon.supercell), 3)),
        path=path,
        spectra=spectra,
        mesh=mesh,
        lowest_modes=lowest_modes(phonon, spectra),
        character=_character(phonon, spectra, noise, mesh),
        verdicts=answers,
        undetermined=undetermined,
        margins={c.name: margin(c, judged[c.place]) for c in settings.criteria},
        decay=decay(phonon),
        suspicions=found,
    )


def _undetermined(
    spectra: Mapping[str, Spectrum], noise: Noise, settings: PhononSettings
) -> dict[str, str]:
    """Return the criteria whose answers could be others, and why; none where it is not known."""
    found = {}
    for criterion in settings.criteria if noise.deviation and not settings.literal else ():
        spectrum = spectra[criterion.place]
        for cause, of_rounding in ((ROUNDING, True), (LENGTH, False)):
            if is_undetermined(
                criterion, spectrum, *noise.reach(criterion.place, of_rounding=of_rounding)
            ):
                found[criterion.name] = cause
                break
    return found


def _character(
    phonon: Phonopy, spectra: dict[str, Spectrum], noise: Noise, mesh: MeshResult
) -> Character:
    reciprocal = np.linalg.inv(phonon.primitive.cell).T
    return character(spectra, modes_at_gamma(phonon), reciprocal, noise.frequencies, mesh.weights)


def _spectra(
    phonon: Phonopy, settings: PhononSettings
) -> tuple[BandPath, MeshResult, dict[str, Spectrum]]:
    path = seekpath_band_path(
        phonon, settings.band_points, cell_is_standard=settings.primitive_matrix == "P"
    )
    mesh = run_mesh(phonon, settings.mesh, settings.temperatures, settings.cutoff_frequency)
    spectra = {
        "path": frequencies_on_path(phonon, path.qpoints, path.indptr),
        "commensurate": frequencies_at(phonon, commensurate_qpoints(phonon)),
        "mesh": mesh.spectrum,
    }
    if not all(np.isfinite(spectrum.frequencies).all() for spectrum in spectra.values()):
        raise PhononError("nan", "frequencies are not finite")
    return path, mesh, spectra
