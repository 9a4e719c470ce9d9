"""The phonons of one crystal: all steps before and after the forces."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.cells import EMPTY, gaps
from hpcbench.criteria import (
    NO_FORCE,
)
from hpcbench.errors import PhononError
from hpcbench.phonons.displacement_length import extrapolate, pairs_of
from hpcbench.phonons.force_constants import (
    fit_force_constants,
    subtract_drift,
    symmetrise,
)
from hpcbench.phonons.judging import judged_spectra, result_of, spectra_of
from hpcbench.phonons.limit import fit_limit
from hpcbench.phonons.noise import (
    OTHER_DISPLACEMENTS,
    UNKNOWN_NOISE,
    Noise,
    Uncertainty,
    nonlinearity,
    rounding_of_response,
)
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.response import dynamical_matrices, set_force_constants
from hpcbench.phonons.supercells import displace

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy


def prepare(atoms: Atoms, supercell_matrix: NDArray[np.int64], settings: PhononSettings) -> Phonopy:
    """Return a Phonopy object with displacements, ready for the forces of its supercells.

    Parameters
    ----------
    atoms : Atoms
        The crystal.
    supercell_matrix : ndarray, shape (3, 3)
        In phonopy's sense.
    settings : PhononSettings
        Settings of the calculation.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal, or the supercell has only one atom.
    """
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
        From :func:`prepare`; it is given the force constants.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces of the displaced supercells in eV/A, as the potential returns them.
    settings : PhononSettings
        Settings of the calculation.
    checks : ndarray, shape (2 or 3, natoms, 3), optional
        Forces in eV/A of the undisplaced supercell, of the one with half the first displacement,
        and of the one with a quarter of it. They show how much the length of the displacements may
        matter, and whether the potential is smooth there; if it is not, there is no limit to
        compare with.

    Raises
    ------
    PhononError
        If phonopy cannot fit force constants, there is no band path, or frequencies are not finite.
    """
    without_drift, largest_drift = subtract_drift(forces)
    change = fit_force_constants(phonon, without_drift)
    path, mesh, spectra = spectra_of(phonon, settings)
    judged = judged_spectra(phonon, spectra)
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
        result_of(phonon, settings, path, mesh, spectra, judged, noise),
        displacements=len(forces),
        largest_drift=largest_drift,
        symmetrisation_change=float(np.abs(change).max()),
        forces=without_drift,
        roughness=roughness,
    )


def analyse_lengths(
    phonon: Phonopy, forces: NDArray[np.float64], settings: PhononSettings
) -> PhononResult:
    """Compute the same as :func:`analyse`, in the limit of zero displacement where it exists.

    Where the potential is not smooth over the lengths of the displacements there is no limit, and
    the force constants are those of phonopy's displacements.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`prepare`; it is given the force constants.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of the supercells of :func:`hpcbench.phonons.displacement_length.with_shorter`, in eV/A.
    settings : PhononSettings
        Settings of the calculation.

    Raises
    ------
    PhononError
        If phonopy cannot fit force constants, there is no band path, or frequencies are not finite.
    """
    limit = fit_limit(phonon, forces)
    displaced = len((phonon.dataset or {})["first_atoms"])
    without_drift, largest_drift = subtract_drift(forces[:displaced])
    path, mesh, spectra = spectra_of(phonon, settings)
    judged = judged_spectra(phonon, spectra)
    noise = limit.uncertainty.noise(limit.rounding, judged, settings.criteria, error=limit.error)
    return dataclasses.replace(
        result_of(phonon, settings, path, mesh, spectra, judged, noise),
        displacements=len(forces),
        largest_drift=largest_drift,
        symmetrisation_change=float(np.abs(limit.change).max()),
        forces=without_drift,
        roughness=limit.roughness,
    )


def analyse_force_constants(
    phonon: Phonopy, settings: PhononSettings, noise: Noise = UNKNOWN_NOISE
) -> PhononResult:
    """Compute spectra, thermal properties and verdicts from given force constants.

    Parameters
    ----------
    phonon : Phonopy
        With compact force constants, which are neither fitted nor symmetrised here.
    settings : PhononSettings
        Settings of the calculation.
    noise : Noise
        What is known of the noise. That of forces is carried over to the spectra of these settings
        if ``phonon`` has the displacements that the force constants come from.

    Raises
    ------
    PhononError
        If there is no band path, or force constants or frequencies are not finite.
    """
    if not np.isfinite(phonon.force_constants).all():
        # LAPACK does not take them.
        raise PhononError("nan", "force constants are not finite")
    path, mesh, spectra = spectra_of(phonon, settings)
    judged = judged_spectra(phonon, spectra)
    if phonon.dataset is not None and math.isfinite(noise.forces):
        noise = Uncertainty(phonon).noise(
            noise.forces, judged, settings.criteria, nonlinearity=noise.nonlinearity
        )
    return result_of(phonon, settings, path, mesh, spectra, judged, noise)


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
        From :func:`prepare`; it is given the force constants.
    qpoints : ndarray, shape (nq, 3)
        All q that are commensurate with its supercell, in phonopy's order.
    force_constants : ndarray, shape (nq, 3 natoms, 3 natoms)
        At these q, see :func:`hpcbench.phonons.response.force_constants_at`.
    rounding : float
        The largest part of them that is not Hermitian, in eV/A^2.
    settings : PhononSettings
        Settings of the calculation.

    Raises
    ------
    PhononError
        If there is no band path, or the response or frequencies are not finite.
    """
    phonon.dataset = None  # nothing is displaced
    set_force_constants(phonon, dynamical_matrices(phonon, force_constants, qpoints))
    raw = np.array(phonon.force_constants)
    symmetrise(phonon)
    path, mesh, spectra = spectra_of(phonon, settings)
    judged = judged_spectra(phonon, spectra)
    noise = rounding_of_response(phonon, rounding, judged, settings.criteria)
    return dataclasses.replace(
        result_of(phonon, settings, path, mesh, spectra, judged, noise),
        symmetrisation_change=float(np.abs(phonon.force_constants - raw).max()),
    )
