"""Tasks of linear response, for a rank's worker processes.

They plan columns and analyse responses. This module does not load torch.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy

from hpcbench.criteria import EXACT, ROUNDING
from hpcbench.phonons.calculate import analyse_response, prepare
from hpcbench.phonons.elasticity import (
    lowest_stiffness,
    slowest_sound,
    stiffness,
    strain_columns,
)
from hpcbench.phonons.exact_q import AtQ
from hpcbench.phonons.modes import mode_of
from hpcbench.phonons.noise import rounding_of_response
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.phonons.rational import Suspicions
from hpcbench.phonons.response import (
    at_gamma_without_sums,
    commensurate_of,
    constants_at_gamma,
    dynamical_matrices,
    force_constants_at,
)
from hpcbench.phonons.response_plan import Plan, plan_columns
from hpcbench.phonons.stability import Spectrum, is_undetermined
from hpcbench.phonons.supercells import primitive_atoms
from hpcbench.potentials.columns import Columns, Response, joined
from hpcbench.results.checked_columns import Checked, is_among
from hpcbench.results.phonon_columns import (
    Analysed,
    Keep,
    exact_cause,
    phonon_columns,
)
from hpcbench.store.schema import BY_RESPONSE

# q without any symmetry, in reciprocal lattice vectors, where frequencies are compared, too.
GENERIC = np.array([[0.1293, 0.2617, 0.4171], [0.3819, 0.0737, 0.2281]])
_SAME = 1e-6
_STRAINS = 6


@dataclass(frozen=True, eq=False)
class Planned:
    """A crystal whose linear response is to be computed.

    Attributes
    ----------
    phonon : bytes
        The Phonopy object, pickled.
    atoms : Atoms
        Its primitive cell.
    qpoints : ndarray, shape (nq, 3)
        The q at which force constants are computed, in reciprocal lattice vectors.
    plan : Plan
        The columns needed for these q.
    """

    phonon: bytes
    atoms: Atoms
    qpoints: NDArray[np.float64]
    plan: Plan

    @property
    def real(self) -> Columns:
        """Return the columns with real phases, followed by six strains."""
        return joined(self.plan.real, strain_columns(len(self.atoms)))

    @property
    def complex(self) -> Columns:
        """Return the columns with complex phases."""
        return self.plan.complex

    @property
    def cost(self) -> int:
        """Return the number of real columns, where a complex column counts as two."""
        return self.plan.cost + _STRAINS


def plan_response(
    atoms: Atoms, supercell_matrix: NDArray[np.int64], settings: PhononSettings
) -> Planned:
    """Return the columns that give force constants at all q commensurate with a supercell.

    Parameters
    ----------
    atoms : Atoms
        The relaxed crystal.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell.
    settings : PhononSettings
        See :func:`hpcbench.phonons.calculate.prepare`.
    """
    phonon = prepare(atoms, supercell_matrix, settings)
    qpoints = commensurate_of(phonon)
    return _planned(phonon, qpoints)


def analyse_columns(
    planned: Planned,
    real: Response,
    complex_: Response | None,
    settings: PhononSettings,
    criterion: str,
    keep: Keep,
) -> Analysed:
    """Analyse the response to a crystal's columns.

    Parameters
    ----------
    planned : Planned
        From :func:`plan_response`.
    real, complex_ : Response
        Responses to its columns; ``complex_`` is ``None`` if it has no complex ones.
    settings : PhononSettings
        Settings of the analysis.
    criterion : str
        The criterion that gives the verdict.
    keep : Keep
        Columns to return besides force constants and verdicts.
    """
    phonon: Phonopy = pickle.loads(planned.phonon)
    phonon.dataset = None
    constants, rounding = force_constants_at(planned.plan, real, complex_)
    gamma = np.flatnonzero(np.abs(planned.qpoints).max(axis=1) < _SAME)
    constants[gamma] = at_gamma_without_sums(constants[gamma])
    result = analyse_response(phonon, planned.qpoints, constants, rounding, settings)
    elastic = _elastic_columns(phonon, real, constants[gamma[0]])
    columns = phonon_columns(result, criterion, keep) | {
        "derivative": BY_RESPONSE,
        "response_columns": planned.cost,
        **elastic,
    }
    return Analysed(columns, result.suspicions, exact_cause(result))


def plan_check(
    phonon: bytes,
    columns: Mapping[str, Any],
    found: Suspicions,
    below: Sequence[NDArray[np.float64]],
) -> tuple[Planned, NDArray[np.float64]]:
    """Plan the computation of q at which interpolated frequencies are checked.

    These are the q of the lowest frequencies on path and mesh, suspicious q, and ``GENERIC``.
    Frequencies at q commensurate with the supercell are exact and not checked.

    Parameters
    ----------
    phonon : bytes
        The Phonopy object of the crystal, without force constants.
    columns : mapping
        The columns of :func:`hpcbench.results.phonon_columns.phonon_columns`.
    found : Suspicions
        Suspicious q of the same result.
    below : sequence of ndarray, shape (3,)
        Further q, see :func:`hpcbench.results.checked_columns.surely_below`.

    Returns
    -------
    planned : Planned
        The columns to compute.
    interpolated : ndarray, shape (nq, nbands)
        Interpolated frequencies in THz, ascending.
    """
    crystal: Phonopy = pickle.loads(phonon)
    crystal.dataset = None
    crystal.force_constants = columns["force_constants"]
    known = [columns["min_q_path"], columns["min_q_mesh"], *below]
    exact = np.asarray(columns["commensurate_qpoints"])
    qpoints = [suspicion.qpoint.coordinates for suspicion in found.chosen]
    for qpoint in known:
        if not is_among(qpoint, np.array([*exact, *qpoints])):
            qpoints.append(np.asarray(qpoint))
    chosen = np.concatenate([np.reshape(qpoints, (-1, 3)), GENERIC])
    frequencies = np.sort(crystal.run_qpoints(chosen).frequencies, axis=1)
    return _planned(crystal, chosen), frequencies


def compare(
    planned: Planned,
    interpolated: NDArray[np.float64],
    real: Response,
    complex_: Response | None,
    columns: Mapping[str, Any],
    settings: PhononSettings,
) -> Checked:
    """Compare interpolated frequencies with computed ones.

    Parameters
    ----------
    planned : Planned
        From :func:`plan_check`.
    interpolated : ndarray, shape (nq, nbands)
        From :func:`plan_check`, in THz.
    real, complex_ : Response
        Responses to its columns; ``complex_`` is ``None`` if it has no complex ones.
    columns : mapping
        The columns of :func:`hpcbench.results.phonon_columns.phonon_columns`.
    settings : PhononSettings
        With the exact criterion.
    """
    phonon: Phonopy = pickle.loads(planned.phonon)
    (criterion,) = (one for one in settings.criteria if one.name == EXACT)
    constants, rounding = force_constants_at(planned.plan, real, complex_)
    matrices = dynamical_matrices(phonon, constants, planned.qpoints)
    error, computed = 0.0, []
    phonon.force_constants = columns["force_constants"]
    elastic = _elastic_columns(phonon, real, constants_at_gamma(phonon))
    for qpoint, matrix, guessed in zip(planned.qpoints, matrices, interpolated, strict=True):
        frequencies, mode = mode_of(phonon, qpoint, matrix)
        error = max(error, float(np.abs(frequencies - guessed).max()))
        here = {"q": Spectrum(qpoint[None], frequencies[None], np.zeros(len(frequencies), bool))}
        at_q = dataclasses.replace(criterion, place="q")
        reach = rounding_of_response(phonon, rounding, here, [at_q]).reach("q", of_rounding=True)
        cause = ROUNDING * is_undetermined(at_q, here["q"], *reach)
        below = not cause and bool(frequencies[0] < criterion.threshold)
        computed.append(AtQ(frequencies, mode, np.eye(3, dtype=np.int64), 0, below, cause))
    return Checked(error, tuple(computed), planned.cost, elastic)


def _planned(phonon: Phonopy, qpoints: NDArray[np.float64]) -> Planned:
    atoms = primitive_atoms(phonon)
    plan = plan_columns(phonon, qpoints)
    return Planned(pickle.dumps(phonon, pickle.HIGHEST_PROTOCOL), atoms, qpoints, plan)


def _elastic_columns(
    phonon: Phonopy, real: Response, at_gamma: NDArray[np.complex128]
) -> dict[str, Any]:
    strains = Response(real.forces[-_STRAINS:], real.virials[-_STRAINS:])
    volume, mass = float(phonon.primitive.volume), float(phonon.primitive.masses.sum())
    constants = stiffness(strains, at_gamma, volume)
    return {
        "elastic_constants": constants,
        "lowest_stiffness": lowest_stiffness(constants),
        "slowest_sound": slowest_sound(constants, mass, volume),
    }
