"""Verdicts from q at which frequencies are exact.

Force constants of a supercell are exact at the q that are commensurate with it. A negative
frequency between those is only a suspicion: the frequencies at a nearby rational q, in a supercell
of its own, confirm or refute it. Long acoustic waves need the elastic tensor instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.criteria import BETWEEN_Q, LENGTH, LONG_WAVES, ROUNDING, Criterion
from hpcbench.phonons.limit import fit_limit
from hpcbench.phonons.modes import Mode, mode_at
from hpcbench.phonons.rational import Suspicions, suspicions
from hpcbench.phonons.stability import Spectrum, is_stable, is_undetermined

STABLE, UNSTABLE, UNDETERMINED = "stable", "unstable", "undetermined"
MOST_CELLS = 12
"""Largest number of primitive cells in the supercell of a rational q."""


@dataclass(frozen=True, eq=False)
class AtQ:
    """Frequencies computed at a rational q, in its own supercell.

    Attributes
    ----------
    frequencies : ndarray, shape (nbands,)
        In THz, ascending.
    mode : Mode
        The lowest mode.
    supercell_matrix : ndarray, shape (3, 3)
        Of the primitive cell, in phonopy's sense.
    supercells : int
        Number of supercells with computed forces.
    is_below : bool
        Whether a frequency is below the criterion's threshold with certainty.
    cause : str
        Why the answer is uncertain; empty if it is not.
    """

    frequencies: NDArray[np.float64]
    mode: Mode
    supercell_matrix: NDArray[np.int64]
    supercells: int
    is_below: bool
    cause: str


@dataclass(frozen=True)
class Answer:
    """A verdict, and the cause if it is undetermined."""

    verdict: str
    cause: str = ""


def find_suspicions(
    phonon: Phonopy,
    path: Spectrum,
    mesh: Spectrum,
    commensurate: Spectrum,
    threshold: float,
    most_denominator: int,
    most_qpoints: int,
) -> Suspicions:
    """Find interpolated frequencies below a threshold, and the rational q at which to check them.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    path, mesh, commensurate : Spectrum
        The crystal's spectra at these places.
    threshold : float
        In THz, negative.
    most_denominator, most_qpoints : int
        See :func:`hpcbench.phonons.rational.suspicions`.
    """
    return suspicions(
        [path, mesh],
        commensurate.qpoints,
        np.linalg.inv(phonon.primitive.cell).T,
        np.asarray(phonon.primitive_symmetry.reciprocal_operations, dtype=np.int64),
        lambda qpoints: np.sort(phonon.run_qpoints(qpoints).frequencies, axis=1),
        threshold=threshold,
        most_denominator=most_denominator,
        most_cells=MOST_CELLS,
        most_qpoints=most_qpoints,
    )


def analyse_at(
    phonon: Phonopy, forces: NDArray[np.float64], qpoint: NDArray[np.float64], criterion: Criterion
) -> AtQ:
    """Return the frequencies at a q that is commensurate with a supercell.

    Parameters
    ----------
    phonon : Phonopy
        From :func:`hpcbench.phonons.nondiagonal.displace_at`; it is given the force constants.
    forces : ndarray, shape (ncopies, natoms, 3)
        As :func:`hpcbench.phonons.limit.fit_limit` takes them, in eV/A.
    qpoint : ndarray, shape (3,)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    criterion : Criterion
        The criterion whose threshold applies.

    Raises
    ------
    PhononError
        If the forces are not finite or phonopy cannot fit them.
    """
    limit = fit_limit(phonon, forces)
    frequencies = np.sort(phonon.run_qpoints([qpoint]).frequencies, axis=1)
    spectrum = Spectrum(np.array([qpoint]), frequencies, np.zeros(frequencies.shape[1], bool))
    here = dataclasses.replace(criterion, place="q")
    noise = limit.uncertainty.noise(limit.rounding, {"q": spectrum}, [here], error=limit.error)
    causes = [
        cause
        for cause, of_rounding in ((ROUNDING, True), (LENGTH, False))
        if is_undetermined(here, spectrum, *noise.reach("q", of_rounding=of_rounding))
    ]
    return AtQ(
        frequencies[0],
        mode_at(phonon, qpoint),
        np.asarray(phonon.supercell_matrix, dtype=np.int64),
        len(forces),
        not causes and not is_stable(here, spectrum),
        causes[0] if causes else "",
    )


def undecided(found: Suspicions) -> str:
    """Return why suspicions leave a crystal undetermined; empty if they do not."""
    if found.chosen or found.left_open:
        return BETWEEN_Q
    return LONG_WAVES if np.isfinite(found.long_waves) else ""


def decide(found: Suspicions, computed: Sequence[AtQ], threshold: float) -> Answer:
    """Return the verdict on a crystal that is stable at all commensurate q.

    Parameters
    ----------
    found : Suspicions
        The suspicions.
    computed : sequence of AtQ
        The computed frequencies, in the order of ``found.chosen``; fewer only if one is unstable.
    threshold : float
        In THz, negative.
    """
    if any(one.is_below for one in computed):
        return Answer(UNSTABLE)
    causes = [one.cause for one in computed if one.cause]
    if not causes and any(
        # Negative as it was interpolated: then the lowest place nearby is as it was, too.
        one.mode.frequency * suspicion.lowest / suspicion.frequency < threshold
        for suspicion, one in zip(found.chosen, computed, strict=False)
    ):
        causes = [BETWEEN_Q]
    cause = causes[0] if causes else undecided(dataclasses.replace(found, chosen=()))
    return Answer(UNDETERMINED, cause) if cause else Answer(STABLE)


def decide_checked(
    found: Suspicions, computed: Sequence[AtQ], threshold: float, *, lowest_seen: bool
) -> Answer:
    """Return the verdict where linear response was computed at the lowest interpolated q as well.

    Parameters
    ----------
    found : Suspicions
        The suspicions.
    computed : sequence of AtQ
        The computed frequencies, in any order.
    threshold : float
        In THz, negative.
    lowest_seen : bool
        Whether the lowest q of path and mesh are among the computed ones, or commensurate.
    """
    if any(one.is_below for one in computed):
        return Answer(UNSTABLE)
    if causes := [one.cause for one in computed if one.cause]:
        return Answer(UNDETERMINED, causes[0])
    if not (found.chosen or found.left_open):
        # Where the lowest long wave was computed, it is not what interpolation made of it.
        is_open = np.isfinite(found.long_waves) and not lowest_seen
        return Answer(UNDETERMINED, LONG_WAVES) if is_open else Answer(STABLE)
    by_q = {_key(one.mode.qpoint): one for one in computed}
    matched = [by_q.get(_key(suspicion.qpoint.coordinates)) for suspicion in found.chosen]
    if None in matched:
        return Answer(UNDETERMINED, BETWEEN_Q)
    return decide(found, [one for one in matched if one is not None], threshold)


def _key(qpoint: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(qpoint, 6).tolist())
