"""Compute a relaxed crystal's phonons again: more exactly, in a larger supercell, at more q."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.born import NAC_PARAMS
from hpcbench.criteria import BETWEEN_Q, EXACT, LENGTH, LONG_WAVES, ROUNDING
from hpcbench.engine.displacement_tasks import analyse_at_q, analyse_forces, displace_at_q
from hpcbench.engine.one_supercell import (
    ComputedPhonons,
    analyse_displaced,
    computation_of,
    compute_by_response,
    compute_phonons,
    displace,
    request_responses,
)
from hpcbench.engine.response_tasks import compare, plan_check
from hpcbench.engine.workflow_context import WorkflowContext
from hpcbench.errors import CrystalError, EvaluationError, PotentialError
from hpcbench.phonons.displacement_length import NOT_SMOOTH
from hpcbench.phonons.exact_q import AtQ
from hpcbench.phonons.supercells import CHECKS, half_again, next_larger, require_size
from hpcbench.protocols import BOTH, RESPONSE
from hpcbench.results.analysis_settings import analysis_settings, phonon_settings
from hpcbench.results.checked_columns import Checked, checked_columns, surely_below
from hpcbench.results.phonon_columns import decided_columns
from hpcbench.results.rows import Computation
from hpcbench.store.schema import BY_RESPONSE, DOUBLE, EXTRAPOLATED, LARGER, REFINED
from hpcbench.store.schema import RESPONSE as RESPONDED
from hpcbench.work_requests import ANALYSIS, DISPLACEMENTS, ForcesOn, OnCpu, Request

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 1000
"""Atoms of the largest supercell that is refined, where a run sets no limit."""
MOST_REFINEMENTS = 3
"""Times that a supercell is made half as high again to correct interpolated frequencies."""


@dataclass(eq=False)
class RelaxedCrystal:
    """A relaxed crystal and its computations so far.

    Attributes
    ----------
    atoms : Atoms
        The relaxed cell.
    supercell_matrix : ndarray, shape (3, 3)
        The supercell of the last computation.
    done : ComputedPhonons
        The last computation.
    computations : dict
        All computations by kind, as they are written into the rows.
    """

    atoms: Atoms
    supercell_matrix: NDArray[np.int64]
    done: ComputedPhonons
    computations: dict[str, Computation]

    def take(self, done: ComputedPhonons) -> None:
        """Add a computation, which becomes the last one."""
        self.done = done
        self.computations[done.kind] = computation_of(done)


def compute_more_exactly(
    context: WorkflowContext, here: RelaxedCrystal
) -> Generator[Request, Any, None]:
    """Compute again where errors of the force constants could change the verdict.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    here : RelaxedCrystal
        The crystal; new computations are added to it.
    """
    by_response = context.config.derivative == RESPONSE
    for better in (
        yield from _more_exact(context, here.atoms, here.supercell_matrix, here.done, by_response)
    ):
        here.take(better)


def compute_in_larger_supercell(
    context: WorkflowContext, here: RelaxedCrystal
) -> Generator[Request, Any, None]:
    """Compute a marginal crystal in the next larger supercell.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    here : RelaxedCrystal
        The crystal; new computations are added to it.

    Raises
    ------
    CrystalError
        If that supercell has more atoms than the run allows.
    """
    config, atoms = context.config, here.atoms
    if abs(here.done.analysed.columns["margin"]) >= config.check_margin:
        return
    larger = next_larger(atoms.cell[:], atoms.positions, here.supercell_matrix)
    require_size(len(atoms), larger, config.largest_supercell)
    by_response = config.derivative == RESPONSE
    done = yield from compute_phonons(context, atoms, larger, by_response)
    for better in (yield from _more_exact(context, atoms, larger, done, by_response)):
        done = better
    here.supercell_matrix = larger
    here.take(replace(done, kind=LARGER))


def compute_also_by_response(
    context: WorkflowContext, here: RelaxedCrystal
) -> Generator[Request, Any, None]:
    """Compute by linear response, too, if the run compares both derivatives.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    here : RelaxedCrystal
        The crystal; new computations are added to it.
    """
    if context.config.derivative == BOTH:
        here.take(
            (yield from _exact_response(context, RESPONDED, here.atoms, here.supercell_matrix))
        )


def compute_at_more_q(
    context: WorkflowContext, here: RelaxedCrystal
) -> Generator[Request, Any, None]:
    """Compute q between those of the supercell, where interpolation is not enough.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    here : RelaxedCrystal
        The crystal; new computations are added to it.
    """
    if _is_interpolation_checked(context, here.atoms):
        yield from _check_interpolation(context, here)
    elif here.done.analysed.columns["cause"] == BETWEEN_Q and context.config.criterion == EXACT:
        kind, columns = here.done.kind, (yield from _decide_at_q(context, here.done))
        here.computations[kind] = replace(here.computations[kind], columns=columns)


def _more_exact(
    context: WorkflowContext,
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    done: ComputedPhonons,
    by_response: bool,
) -> Generator[Request, Any, list[ComputedPhonons]]:
    """Compute again where errors of the force constants could change the verdict.

    If the length of displacements or rounding could change it, extrapolate to zero length, and
    use double precision if that is not enough. Return the new computations in order.
    """
    better: list[ComputedPhonons] = []
    if by_response:
        if done.analysed.columns["cause"] == ROUNDING and context.has_double:
            done = yield from compute_by_response(
                context, DOUBLE, atoms, supercell_matrix, in_double=True
            )
            better.append(done)
    elif done.analysed.columns["cause"] in (LENGTH, ROUNDING):
        displaced = yield from displace(context, atoms, supercell_matrix, lengths=True)
        known = done.analysed.forces
        # A quarter of the first displacement shows whether the other lengths are needed.
        quarter = len(known) - 1 + (len(displaced.copies) - len(known) + 1) // 2
        one = displaced.copies.only(slice(quarter, quarter + 1))
        forces = np.concatenate([known, (yield ForcesOn(one))])
        analysed = yield OnCpu(
            ANALYSIS,
            analyse_forces,
            (done.phonon, forces, *analysis_settings(context.config), False, CHECKS + 1),
        )
        if analysed.columns["roughness"] >= NOT_SMOOTH:
            done = ComputedPhonons(done.kind, done.phonon, analysed)
            better.append(done)
            if analysed.columns["cause"] != ROUNDING:
                return better
        analysed = yield from analyse_displaced(
            context, displaced, in_double=False, lengths=True, known=known
        )
        better.append(ComputedPhonons(EXTRAPOLATED, displaced.phonon, analysed))
        if analysed.columns["cause"] in (LENGTH, ROUNDING) and context.has_double:
            analysed = yield from analyse_displaced(
                context, displaced, in_double=True, lengths=True
            )
            better.append(ComputedPhonons(DOUBLE, displaced.phonon, analysed, in_double=True))
    return better


def _exact_response(
    context: WorkflowContext,
    kind: str,
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    *,
    in_double: bool = False,
) -> Generator[Request, Any, ComputedPhonons]:
    """Compute by linear response, again in double precision where rounding could matter."""
    done = yield from compute_by_response(
        context, kind, atoms, supercell_matrix, in_double=in_double
    )
    if done.analysed.columns["cause"] == ROUNDING and context.has_double and not in_double:
        done = yield from compute_by_response(
            context, kind, atoms, supercell_matrix, in_double=True
        )
    return done


def _is_interpolation_checked(context: WorkflowContext, atoms: Atoms) -> bool:
    """Tell whether interpolated frequencies are compared with computed ones."""
    return bool(
        context.info.responds
        and context.config.interpolation_error
        and not context.config.protocol_definition.literal
        # The response of a potential does not include the macroscopic electric field.
        and NAC_PARAMS not in atoms.info
    )


def _check_interpolation(
    context: WorkflowContext, here: RelaxedCrystal
) -> Generator[Request, Any, None]:
    """Compare interpolated with computed frequencies; compute more q until they agree."""
    most_atoms = context.config.largest_supercell or MOST_ATOMS
    below: list[NDArray[np.float64]] = []
    for refinements in range(MOST_REFINEMENTS + 1):
        done, atoms = here.done, here.atoms
        columns, error = yield from _compare_interpolated(context, done, below)
        here.computations[done.kind] = Computation(done.kind, columns, done.in_double)
        is_open = columns["cause"] in (BETWEEN_Q, LONG_WAVES)
        if error <= context.config.interpolation_error and not is_open:
            return
        larger = half_again(atoms.cell[:], atoms.positions, here.supercell_matrix, most_atoms)
        if refinements == MOST_REFINEMENTS or (larger == here.supercell_matrix).all():
            return
        # These q are surely below the threshold: compute them with the next supercell, too.
        below = surely_below(columns, phonon_settings(context.config))
        here.supercell_matrix = larger
        here.take(
            (yield from _exact_response(context, REFINED, atoms, larger, in_double=done.in_double))
        )


def _compare_interpolated(
    context: WorkflowContext, done: ComputedPhonons, below: Sequence[NDArray[np.float64]]
) -> Generator[Request, Any, tuple[dict[str, Any], float]]:
    """Return the columns of a computation with those of the comparison, and the error in THz.

    ``below`` are further q that are compared.
    """
    settings, criterion = phonon_settings(context.config), str(context.config.criterion)
    columns, found = done.analysed.columns, done.analysed.suspicions
    planned, interpolated = yield OnCpu(
        DISPLACEMENTS, plan_check, (done.phonon, columns, found, below)
    )
    answers = yield from request_responses(planned, in_double=done.in_double)
    arguments = planned, interpolated, *answers, columns, settings
    checked: Checked = yield OnCpu(ANALYSIS, compare, arguments)
    if any(one.cause for one in checked.computed) and context.has_double and not done.in_double:
        # If double precision fails, the result in single precision stands.
        with contextlib.suppress(EvaluationError, CrystalError, PotentialError):
            answers = yield from request_responses(planned, in_double=True)
            arguments = planned, interpolated, *answers, columns, settings
            checked = yield OnCpu(ANALYSIS, compare, arguments)
    return checked_columns(columns, done.analysed, checked, settings, criterion), checked.error


def _decide_at_q(
    context: WorkflowContext, done: ComputedPhonons
) -> Generator[Request, Any, dict[str, Any]]:
    """Compute frequencies at the q where interpolation gives negative ones; return the columns."""
    analysed = done.analysed
    linear = context.info.differentiable and analysed.columns["derivative"] == BY_RESPONSE
    settings = replace(phonon_settings(context.config), linear=linear)
    computed: list[AtQ] = []
    for suspicion in analysed.suspicions.chosen:
        small = yield OnCpu(DISPLACEMENTS, displace_at_q, (done.phonon, suspicion.qpoint, settings))
        one: AtQ | None = None
        for in_double in (False, True) if context.has_double else (False,):
            if one is None or one.cause:
                forces = yield ForcesOn(small.copies, in_double, linear)
                arguments = small.phonon, forces, suspicion.qpoint, settings
                one = yield OnCpu(ANALYSIS, analyse_at_q, arguments)
        assert one is not None, "single precision is always asked for"
        computed.append(one)
        if one.is_below:
            break  # one is enough
    if not computed:
        return analysed.columns
    return decided_columns(analysed.columns, analysed.suspicions, computed, settings)
