"""Tasks of the method of displacements, for a rank's worker processes.

They displace supercells and analyse forces. This module loads neither torch nor MPI.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.criteria import EXACT
from hpcbench.phonons.calculate import analyse, analyse_lengths, prepare
from hpcbench.phonons.displacement_length import pairs_of, with_shorter
from hpcbench.phonons.exact_q import AtQ, analyse_at
from hpcbench.phonons.nondiagonal import displace_at
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.phonons.rational import RationalQ
from hpcbench.phonons.supercells import CHECKS, displaced_copies, with_checks
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.results.phonon_columns import Analysed, Keep, exact_cause, phonon_columns
from hpcbench.store.schema import BY_RESPONSE


@dataclass(frozen=True, eq=False)
class Displaced:
    """The displaced supercells of a crystal, whose forces are to be computed.

    Attributes
    ----------
    phonon : bytes
        The Phonopy object, pickled once and passed on: this takes a millisecond, while finding
        the symmetry of a supercell again takes up to a second.
    copies : DisplacedCopies
        The displaced supercells, and those from which the noise of forces is estimated.
    """

    phonon: bytes
    copies: DisplacedCopies


def displace_supercell(
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    settings: PhononSettings,
    lengths: bool = False,
) -> Displaced:
    """Return the displaced supercells of a crystal.

    Where forces are linear in the displacements, these are phonopy's alone.

    Parameters
    ----------
    atoms : Atoms
        The crystal.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell, as phonopy defines it.
    settings : PhononSettings
        See :func:`hpcbench.phonons.calculate.prepare`.
    lengths : bool
        Whether to add displacements of other lengths, for the extrapolation to zero length.
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
    """Analyse the forces on a crystal's supercells.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_supercell`.
    forces : ndarray, shape (ncopies, natoms, 3)
        Forces on its copies, in eV/A.
    settings : PhononSettings
        Those that the supercells were displaced with.
    criterion : str
        The criterion that gives the verdict.
    keep : Keep
        Columns to return besides force constants and verdicts.
    lengths : bool
        Whether the copies have displacements of several lengths.
    checks : int
        Number of copies at the end from which the noise is estimated. Not used with ``lengths``
        or linear forces.
    """
    if settings.linear:
        result = analyse(pickle.loads(phonon), forces, settings)
    elif lengths:
        result = analyse_lengths(pickle.loads(phonon), forces, settings)
    else:
        result = analyse(pickle.loads(phonon), forces[:-checks], settings, forces[-checks:])
    columns = phonon_columns(result, criterion, keep)
    if settings.linear:
        # Linear forces are not those of any displaced supercell.
        columns |= {"derivative": BY_RESPONSE, "forces": np.zeros((0, 3))}
    return Analysed(columns, result.suspicions, exact_cause(result))


def displace_at_q(phonon: bytes, qpoint: RationalQ, settings: PhononSettings) -> Displaced:
    """Return displaced supercells that give the frequencies at a rational q.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_supercell`, of the crystal's own supercell.
    qpoint : RationalQ
        The q.
    settings : PhononSettings
        Length of displacements, symmetry tolerance, and whether forces are linear.
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
    """Return the frequencies at a rational q.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_at_q`.
    forces : ndarray, shape (ncopies, natoms, 3)
        Forces on its copies, in eV/A.
    qpoint : RationalQ
        The q.
    settings : PhononSettings
        With the exact criterion.
    """
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    return analyse_at(pickle.loads(phonon), forces, qpoint.coordinates, criterion)
