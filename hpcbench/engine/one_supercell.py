"""Ask for a crystal's phonons in one supercell, by displacements or by linear response."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.engine.displacement_tasks import Displaced, analyse_forces, displace_supercell
from hpcbench.engine.response_tasks import Planned, analyse_columns, plan_response
from hpcbench.engine.workflow_context import WorkflowContext
from hpcbench.protocols import Protocol
from hpcbench.results.analysis_settings import analysis_settings, phonon_settings
from hpcbench.results.phonon_columns import Analysed
from hpcbench.results.rows import Computation
from hpcbench.store.schema import FIRST
from hpcbench.work_requests import ANALYSIS, DISPLACEMENTS, ForcesOn, OnCpu, Request, ResponseTo

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.columns import Response


@dataclass(frozen=True, eq=False)
class ComputedPhonons:
    """A computation of a crystal's phonons.

    Attributes
    ----------
    kind : str
        One of the kinds in ``store.schema``.
    phonon : bytes
        The Phonopy object, pickled.
    analysed : Analysed
        The results.
    in_double : bool
        Whether forces were computed in double precision.
    """

    kind: str
    phonon: bytes
    analysed: Analysed
    in_double: bool = False


def computation_of(done: ComputedPhonons) -> Computation:
    """Return a computation as it is written into the rows."""
    return Computation(done.kind, done.analysed.columns, done.in_double)


def compute_phonons(
    context: WorkflowContext, atoms: Atoms, supercell_matrix: NDArray[np.int64], by_response: bool
) -> Generator[Request, Any, ComputedPhonons]:
    """Compute phonons in a supercell for the first time.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    atoms : Atoms
        The relaxed crystal.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell.
    by_response : bool
        Whether to use linear response instead of displacements.
    """
    if by_response:
        return (yield from compute_by_response(context, FIRST, atoms, supercell_matrix))
    displaced = yield from displace(context, atoms, supercell_matrix)
    analysed = yield from analyse_displaced(context, displaced, in_double=False)
    return ComputedPhonons(FIRST, displaced.phonon, analysed)


def compute_by_response(
    context: WorkflowContext,
    kind: str,
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    *,
    in_double: bool = False,
) -> Generator[Request, Any, ComputedPhonons]:
    """Compute force constants by linear response at all q of a supercell.

    Uses the primitive cell where the potential responds at any q, else the supercell.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    kind : str
        The kind of the computation, as in ``store.schema``.
    atoms : Atoms
        The relaxed crystal.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell.
    in_double : bool
        Whether to compute in double precision.
    """
    if not context.info.responds:
        return (yield from _by_linear_forces(context, kind, atoms, supercell_matrix, in_double))
    settings = phonon_settings(context.config)
    planned: Planned = yield OnCpu(
        DISPLACEMENTS, plan_response, (atoms, supercell_matrix, settings)
    )
    answers = yield from request_responses(planned, in_double=in_double)
    analysed = yield OnCpu(
        ANALYSIS, analyse_columns, (planned, *answers, *analysis_settings(context.config))
    )
    return ComputedPhonons(kind, planned.phonon, analysed, in_double)


def _by_linear_forces(
    context: WorkflowContext,
    kind: str,
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    in_double: bool,
) -> Generator[Request, Any, ComputedPhonons]:
    settings, *rest = analysis_settings(context.config)
    settings = replace(settings, linear=True)
    displaced: Displaced = yield OnCpu(
        DISPLACEMENTS, displace_supercell, (atoms, supercell_matrix, settings)
    )
    forces: NDArray[np.float64] = yield ForcesOn(displaced.copies, in_double, linear=True)
    analysed: Analysed = yield OnCpu(
        ANALYSIS, analyse_forces, (displaced.phonon, forces, settings, *rest)
    )
    return ComputedPhonons(kind, displaced.phonon, analysed, in_double)


def request_responses(
    planned: Planned, *, in_double: bool
) -> Generator[Request, Any, tuple[Response, Response | None]]:
    """Request the responses to a crystal's real and complex columns.

    Parameters
    ----------
    planned : Planned
        The crystal and its columns.
    in_double : bool
        Whether to compute in double precision.

    Returns
    -------
    real : Response
        Response to the real columns.
    complex : Response or None
        Response to the complex columns; ``None`` if there are none.
    """
    real: Response = yield ResponseTo(planned.atoms, planned.real, in_double)
    complex_: Response | None = None
    if len(planned.complex):
        complex_ = yield ResponseTo(planned.atoms, planned.complex, in_double)
    return real, complex_


def displace(
    context: WorkflowContext,
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    protocol: Protocol | None = None,
    *,
    lengths: bool = False,
) -> Generator[Request, Any, Displaced]:
    """Request the displaced supercells of a crystal.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    atoms : Atoms
        The relaxed crystal.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell.
    protocol : Protocol, optional
        Another protocol than the run's.
    lengths : bool
        Whether to add displacements of other lengths.
    """
    settings = phonon_settings(context.config, protocol)
    displaced: Displaced = yield OnCpu(
        DISPLACEMENTS, displace_supercell, (atoms, supercell_matrix, settings, lengths)
    )
    return displaced


def analyse_displaced(
    context: WorkflowContext,
    displaced: Displaced,
    *,
    in_double: bool,
    protocol: Protocol | None = None,
    lengths: bool = False,
    known: NDArray[np.float64] | None = None,
) -> Generator[Request, Any, Analysed]:
    """Request the forces on displaced supercells, and analyse them.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    displaced : Displaced
        The supercells.
    in_double : bool
        Whether to compute in double precision.
    protocol : Protocol, optional
        Another protocol than the run's.
    lengths : bool
        Whether the supercells have displacements of several lengths.
    known : ndarray, shape (n_known, natoms, 3), optional
        Forces in eV/A of the first length, with the copy that gives the noise; only those of
        the other lengths are requested then.
    """
    how = analysis_settings(context.config, protocol)
    copies = displaced.copies
    if known is not None:
        # The last known forces are those of half the first displacement: it is in the copies, too.
        copies = copies.only(slice(len(known) - 1, None))
    forces: NDArray[np.float64] = yield ForcesOn(copies, in_double)
    if known is not None:
        forces = np.concatenate([known[:-1], forces])
    analysed: Analysed = yield OnCpu(
        ANALYSIS, analyse_forces, (displaced.phonon, forces, *how, lengths)
    )
    return replace(analysed, forces=forces)
