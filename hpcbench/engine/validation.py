"""Workflow of a crystal that is compared with its reference: both spectra become rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.crystal import Crystal
from hpcbench.engine.workflow import (
    matrix_asked_for,
    relax_crystal,
    require_elements,
    symmetry_columns,
)
from hpcbench.engine.workflow_context import WorkflowContext
from hpcbench.errors import CrystalError, HpcbenchError
from hpcbench.interop.one_crystal import How
from hpcbench.phonons.supercells import require_size
from hpcbench.references.displaced import Displaced, analyse_like, displace_like
from hpcbench.references.reading import Reference, read_reference
from hpcbench.results.analysis_settings import analysis_settings
from hpcbench.results.phonon_columns import Keep
from hpcbench.results.rows import done_row, failed_row, row_of
from hpcbench.store.schema import REFERENCE
from hpcbench.work_requests import ANALYSIS, DISPLACEMENTS, ForcesOn, OnCpu, Request

if TYPE_CHECKING:
    from hpcbench.relaxation.relax import Relaxation


def validate(
    context: WorkflowContext, crystal: Crystal
) -> Generator[Request, Any, list[dict[str, Any]]]:
    """Compute a crystal as its reference was, and the reference's own spectra.

    What cannot be compared is not computed: the reason is in the crystal's row, and in that of its
    reference.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    crystal : Crystal
        The crystal as the reference has it.

    Yields
    ------
    Request
        Each is answered by ``send``, or by ``throw`` with an error.

    Returns
    -------
    list of dict
        The crystal's row; then the row of its reference, unless that has no phonons but values.

    Raises
    ------
    HpcbenchError
        If the crystal cannot be computed, or an answer was an error; with the row of its reference.
    """
    config = context.config
    settings, criterion, keep = analysis_settings(config)
    # The forces of others are in their own files.
    how = How(
        settings,
        criterion,
        config.symmetry_tolerance,
        Keep(False, keep.band_dtype, keep.dos),
        config.result_settings(),
    )
    try:
        reference: Reference = yield OnCpu(
            DISPLACEMENTS, read_reference, (crystal, how, config.leave_out_born)
        )
    except CrystalError as error:
        failed = failed_row(crystal, error, context.rank, context.provenance)
        return [failed, row_of(failed, REFERENCE)]
    theirs: tuple[dict[str, Any], ...] = ()
    if reference.row is not None:
        theirs = (row_of({**reference.row, "rank": context.rank}, REFERENCE),)
    try:
        row = yield from _computed(context, crystal, reference)
    except HpcbenchError as error:
        # It may be the potential that is to blame, which the driver finds out.
        error.further_rows = theirs
        raise
    return [row, *theirs]


def _computed(
    context: WorkflowContext, crystal: Crystal, reference: Reference
) -> Generator[Request, Any, dict[str, Any]]:
    """Compute the row of a crystal in the supercell of its reference, displaced as that."""
    config = context.config
    assert config.fmax is not None, "settings are resolved before a run"
    assert config.max_steps is not None, "settings are resolved before a run"
    require_elements(crystal, context.info)
    matrix = reference.supercell_matrix
    if matrix is None:
        matrix = matrix_asked_for(crystal, config)
    require_size(crystal.natoms, matrix, config.largest_supercell)
    stages = config.protocol_definition.stages(config.fmax, config.max_steps)
    relaxation: Relaxation = yield from relax_crystal(context, crystal.to_ase(), stages)
    settings, criterion, keep = analysis_settings(config)
    if reference.primitive_matrix is not None:
        settings = dataclasses.replace(
            settings, primitive_matrix=reference.primitive_matrix, symprec=reference.symprec
        )
    displaced: Displaced = yield OnCpu(
        DISPLACEMENTS,
        displace_like,
        (relaxation.atoms, matrix, settings, reference.displacements),
    )
    sets: list[NDArray[np.float64]] = []
    for copies in displaced.copies:
        sets.append((yield ForcesOn(copies)))
    columns = yield OnCpu(
        ANALYSIS,
        analyse_like,
        (displaced.phonon, np.concatenate(sets), settings, criterion, keep),
    )
    notes = filter(None, (columns["notes"], reference.note, displaced.note))
    columns["notes"] = "; ".join(notes)
    row = done_row(crystal, relaxation, columns, context.rank, context.provenance)
    return row | (yield from symmetry_columns(crystal, relaxation))
