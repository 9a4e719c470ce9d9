"""What displacements need beside the potential, in a rank's worker processes.

Supercells are displaced there, and their forces analysed. Loads neither torch nor MPI.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.criteria import EXACT
from hpcbench.phonons.calculate import PhononSettings, analyse, analyse_lengths, prepare
from hpcbench.phonons.displacement_length import pairs_of, with_shorter
from hpcbench.phonons.exact_q import AtQ, analyse_at
from hpcbench.phonons.nondiagonal import displace_at
from hpcbench.phonons.rational import RationalQ
from hpcbench.phonons.supercells import CHECKS, displaced_copies, with_checks
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.results.phonon_columns import Analysed, Keep, exact_cause, phonon_columns
from hpcbench.store.schema import BY_RESPONSE


@dataclass(frozen=True, eq=False)
class Displaced:
    """A crystal whose displaced supercells want forces.

    Attributes
    ----------
    phonon : bytes
        The Phonopy object, pickled once and handed on as it is: that takes a millisecond,
        finding the symmetry of a supercell again up to a second.
    copies : DisplacedCopies
        The supercells, and those that tell the noise of their forces.
    """

    phonon: bytes
    copies: DisplacedCopies


def displace_supercell(
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    settings: PhononSettings,
    lengths: bool = False,
) -> Displaced:
    """Return supercells of a crystal that want forces.

    See :func:`hpcbench.phonons.calculate.prepare`; with ``lengths`` also those that displacements
    of no length are extrapolated from. Where forces are linear, phonopy's alone.
    """
    phonon = prepare(atoms, supercell_matrix, settings)
    copies = displaced_copies(phonon)
    if not settings.linear:
        copies = with_shorter(copies, pairs_of(phonon)) if lengths else with_checks(copies)
    return Displaced(pickle.dumps(phonon, pickle.HIGHEST_PROTOCOL), copies)


def analyse_forces(
    phonon: bytes,
    forces: NDArray[np.float64],
    settings: PhononSettings,
    criterion: str,
    keep: Keep,
    lengths: bool = False,
    checks: int = CHECKS,
) -> Analysed:
    """Return what the forces on a crystal's supercells come to.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_supercell`.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of its copies, in eV/A.
    criterion : str
        The one whose answer is the verdict.
    keep : Keep
        What is among the columns beside force constants and verdicts.
    lengths : bool
        Whether the copies are of several lengths of the displacements.
    checks : int
        How many copies behind the displaced ones tell the noise, if not; of linear forces none do.
    """
    if settings.linear:
        result = analyse(pickle.loads(phonon), forces, settings)
    elif lengths:
        result = analyse_lengths(pickle.loads(phonon), forces, settings)
    else:
        result = analyse(pickle.loads(phonon), forces[:-checks], settings, forces[-checks:])
    columns = phonon_columns(result, criterion, keep)
    if settings.linear:
        # Nor are these the forces of any displaced supercell.
        columns |= {"derivative": BY_RESPONSE, "forces": np.zeros((0, 3))}
    return Analysed(columns, result.suspicions, exact_cause(result))


def displace_at_q(phonon: bytes, qpoint: RationalQ, settings: PhononSettings) -> Displaced:
    """Return supercells that give the frequencies at a rational q.

    ``phonon`` is from :func:`displace_supercell`, of the crystal's own supercell.
    """
    crystal: Phonopy = pickle.loads(phonon)
    small = displace_at(
        crystal.primitive,
        qpoint,
        displacement=settings.displacement,
        symprec=settings.symprec,
        opposite=not settings.linear,
    )
    small.nac_params = crystal.nac_params
    copies = displaced_copies(small)
    if not settings.linear:
        copies = with_shorter(copies, pairs_of(small))
    return Displaced(pickle.dumps(small, pickle.HIGHEST_PROTOCOL), copies)


def analyse_at_q(
    phonon: bytes, forces: NDArray[np.float64], qpoint: RationalQ, settings: PhononSettings
) -> AtQ:
    """Return the frequencies at a rational q, from the forces on :func:`displace_at_q`'s copies."""
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    return analyse_at(pickle.loads(phonon), forces, qpoint.coordinates, criterion)
