"""Workflow of one crystal, from its cell to its rows in the store."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from hpcbench.config import RunConfig
from hpcbench.crystal import Crystal
from hpcbench.engine.convergence import (
    RelaxedCrystal,
    compute_also_by_response,
    compute_at_more_q,
    compute_in_larger_supercell,
    compute_more_exactly,
)
from hpcbench.engine.one_supercell import (
    analyse_displaced,
    computation_of,
    compute_phonons,
    displace,
)
from hpcbench.engine.workflow_context import WorkflowContext
from hpcbench.errors import CrystalError, HpcbenchError, RelaxationError, UnsuitableError
from hpcbench.phonons.supercells import require_size, supercell_of
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.protocols import PROTOCOLS, RESPONSE, Protocol, Stage
from hpcbench.relaxation.relax import Relaxation, continued, relaxation_requests
from hpcbench.relaxation.symmetry import space_group_numbers
from hpcbench.results.phonon_columns import Keep
from hpcbench.results.recompute import columns_without_nac
from hpcbench.results.rows import done_row, failed_row, row_of, rows_of
from hpcbench.store.schema import BESIDE, FIRST, LARGER, WITHOUT_NAC
from hpcbench.work_requests import ANALYSIS, OnCpu, Request

if TYPE_CHECKING:
    from ase import Atoms

NO_MINIMUM = 0.05
"""Largest force in eV/A at which a crystal counts as relaxed; only there second derivatives give
phonons."""


def workflow(
    context: WorkflowContext, crystal: Crystal
) -> Generator[Request, Any, list[dict[str, Any]]]:
    """Relax a crystal, displace it, ask for forces, and analyse them.

    If the protocol has a second one beside it, that is computed first. If the verdict depends on
    noise, forces are computed again in double precision and for other displacements; if it is
    marginal, again in the next larger supercell.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    crystal : Crystal
        The crystal as given.

    Yields
    ------
    Request
        Each is answered by ``send``, or by ``throw`` with an error.

    Returns
    -------
    list of dict
        The crystal's row without the seconds that it took; then the rows of its earlier
        computations, of the protocol beside, and without Born charges if it has them.

    Raises
    ------
    CrystalError
        If the crystal cannot be computed, or an answer was an error.
    """
    config = context.config
    protocol = config.protocol_definition
    assert config.fmax is not None, "settings are resolved before a run"
    assert config.max_steps is not None, "settings are resolved before a run"
    require_elements(crystal, context.info)
    stages = protocol.stages(config.fmax, config.max_steps)
    if not protocol.beside:
        relaxation = yield from relax_crystal(context, crystal.to_ase(), stages)
        return (yield from _phonons(context, crystal, relaxation))
    beside = PROTOCOLS[protocol.beside]
    first = None
    try:
        first = yield from relax_crystal(
            context, crystal.to_ase(), beside.stages(beside.fmax, beside.max_steps)
        )
    except RelaxationError as error:
        # It refuses crystals whose refined cell has forces; the run's own protocol accepts them.
        literal = _failed_beside(context, crystal, error)
    else:
        literal = yield from _beside(context, crystal, first, beside)
    try:
        if first is None:
            relaxation = yield from relax_crystal(context, crystal.to_ase(), stages)
        else:
            second = yield from relax_crystal(context, first.atoms, stages[1:])
            relaxation = continued(first, second)
        rows = yield from _phonons(context, crystal, relaxation)
    except CrystalError as error:
        # The row of the other protocol must not be lost with it.
        rows = [failed_row(crystal, error, context.rank, context.provenance)]
    return [*rows, literal]


def relax_crystal(
    context: WorkflowContext, atoms: Atoms, stages: Sequence[Stage]
) -> Generator[Request, Any, Relaxation]:
    """Relax a crystal through stages of a protocol; what its symmetry lost becomes a warning.

    Parameters
    ----------
    context : WorkflowContext
        Settings and potential of the rank.
    atoms : Atoms
        The crystal.
    stages : sequence of Stage
        The stages.
    """
    config = context.config
    assert config.relax is not None, "settings are resolved before a run"
    relaxation = yield from relaxation_requests(
        atoms,
        mode=config.relax,
        stages=stages,
        symmetry_tolerance=config.symmetry_tolerance,
        pressure=config.pressure * GPa,
    )
    for complaint in relaxation.complaints:
        warnings.warn(complaint, stacklevel=1)
    return relaxation


def _beside(
    context: WorkflowContext, crystal: Crystal, relaxation: Relaxation, protocol: Protocol
) -> Generator[Request, Any, dict[str, Any]]:
    """Compute by the protocol beside the run's; return a row, maybe that of a failure."""
    try:
        supercell_matrix = supercell_of(crystal, protocol.supercell)
        require_size(crystal.natoms, supercell_matrix, context.config.largest_supercell)
        displaced = yield from displace(context, relaxation.atoms, supercell_matrix, protocol)
        analysed = yield from analyse_displaced(
            context, displaced, in_double=False, protocol=protocol
        )
        columns = analysed.columns
        row = done_row(crystal, relaxation, columns, context.rank, context.provenance)
        row |= yield from symmetry_columns(crystal, relaxation)
    except CrystalError as error:
        return _failed_beside(context, crystal, error)
    return row_of(row, BESIDE)


def _failed_beside(
    context: WorkflowContext, crystal: Crystal, error: CrystalError
) -> dict[str, Any]:
    return row_of(failed_row(crystal, error, context.rank, context.provenance), BESIDE)


def _phonons(
    context: WorkflowContext, crystal: Crystal, relaxation: Relaxation
) -> Generator[Request, Any, list[dict[str, Any]]]:
    """Compute the rows of a relaxed crystal."""
    relaxed, supercell_matrix = relaxation.atoms, matrix_asked_for(crystal, context.config)
    by_response = context.config.derivative == RESPONSE
    done = yield from compute_phonons(context, relaxed, supercell_matrix, by_response)
    here = RelaxedCrystal(relaxed, supercell_matrix, done, {FIRST: computation_of(done)})
    common = done_row(crystal, relaxation, {}, context.rank, context.provenance)
    common |= yield from symmetry_columns(crystal, relaxation)
    notes = [common["notes"]]
    if by_response and relaxation.fmax > NO_MINIMUM:
        notes.append(f"not at its minimum: forces of up to {relaxation.fmax:.2g} eV/A")
    for what, step in (
        ("more exactly", compute_more_exactly),
        (LARGER, compute_in_larger_supercell),
        ("by linear response", compute_also_by_response),
        ("at more q", compute_at_more_q),
    ):
        # The error of one step does not prevent the next.
        try:
            yield from step(context, here)
        except HpcbenchError as error:
            notes.append(f"not computed again ({what}): {error}")
            warnings.warn(notes[-1], stacklevel=1)
    common["notes"] = "; ".join(filter(None, notes))
    rows = rows_of(common, list(here.computations.values()), context.provenance)
    if rows[0]["nac_params"]:
        try:
            rows.append((yield from _without_nac(context, rows[0])))
        except HpcbenchError as error:
            note = f"not analysed without Born charges: {error}"
            rows[0]["notes"] = "; ".join(filter(None, (rows[0]["notes"], note)))
    return rows


def _without_nac(
    context: WorkflowContext, row: dict[str, Any]
) -> Generator[Request, Any, dict[str, Any]]:
    """Analyse a crystal with Born charges again without them; return the row."""
    keep = Keep(False, context.config.band_dtype, context.config.keep_dos)
    how = context.config.result_settings(), keep
    columns = yield OnCpu(ANALYSIS, columns_without_nac, (row, *how))
    return row_of(row | columns, WITHOUT_NAC)


def symmetry_columns(
    crystal: Crystal, relaxation: Relaxation
) -> Generator[Request, Any, dict[str, list[int]]]:
    """Return the columns of space groups, of a crystal as given and relaxed.

    Parameters
    ----------
    crystal : Crystal
        As given.
    relaxation : Relaxation
        Its relaxation.
    """
    # As an analysis, so that a run that is stopped finishes it.
    given, relaxed = yield OnCpu(
        ANALYSIS, space_group_numbers, (crystal.to_ase(), relaxation.atoms)
    )
    return {"spacegroup_numbers_before": given, "spacegroup_numbers": relaxed}


def require_elements(crystal: Crystal, info: PotentialInfo) -> None:
    """Refuse a crystal with elements that the potential does not know.

    Parameters
    ----------
    crystal : Crystal
        The crystal.
    info : PotentialInfo
        Description of the potential.

    Raises
    ------
    UnsuitableError
        If there are any.
    """
    if info.elements is None:
        return
    unknown = sorted({int(z) for z in crystal.numbers} - info.elements)
    if unknown:
        symbols = ", ".join(chemical_symbols[z] for z in unknown)
        raise UnsuitableError("unknown element", f"{info.name} does not know {symbols}")


def matrix_asked_for(crystal: Crystal, config: RunConfig) -> NDArray[np.int64]:
    """Return the supercell matrix that the settings ask for, shape (3, 3).

    Parameters
    ----------
    crystal : Crystal
        The crystal as given.
    config : RunConfig
        Resolved settings.

    Raises
    ------
    UnsuitableError
        If they leave it to a source that names none.
    """
    supercell = config.supercell_for(crystal)
    if isinstance(supercell, str) and crystal.supercell_matrix is None:
        raise UnsuitableError(
            "no supercell", "its source names no supercell; give --supercell N N N"
        )
    return supercell_of(crystal, supercell, config.supercell_atoms, config.supercell_shape)
