"""A crystal's result as a row of the store, and a record as a row of the list of crystals."""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcbench.criteria import criteria_of
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError
from hpcbench.origin import notes_of
from hpcbench.package_versions import deciding_versions
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.results.identity import identity
from hpcbench.results.phonon_columns import joined_notes
from hpcbench.store.fields import Schema
from hpcbench.store.schema import AGAIN, DONE, DOUBLE, FAILED, result_schema

if TYPE_CHECKING:
    from hpcbench.relaxation.relax import Relaxation


def schema_of(result_settings: Mapping[str, Any], band_dtype: str = "float32") -> Schema:
    """The schema of the results that these settings give."""
    return result_schema(
        len(result_settings["temperatures"]),
        tuple(c.column for c in criteria_of(result_settings)),
        band_dtype,
        result_settings["dtype"],
    )


def failed_row(crystal: Crystal, error: CrystalError, rank: int, provenance: str) -> dict[str, Any]:
    """The result of a crystal that could not be computed."""
    return {
        **identity(crystal),
        **_place(rank, provenance),
        "status": FAILED,
        "reason": error.reason,
    }


def done_row(
    crystal: Crystal,
    relaxation: Relaxation,
    columns: Mapping[str, Any],
    rank: int,
    provenance: str,
) -> dict[str, Any]:
    """The result of a crystal; ``columns`` are those that its phonons give."""
    return {
        **identity(crystal),
        **_place(rank, provenance),
        "status": DONE,
        "reason": "",
        "spacegroup": relaxation.space_group_after.symbol,
        "spacegroup_number": relaxation.space_group_after.number,
        "spacegroup_before": relaxation.space_group_before.symbol,
        "spacegroup_number_before": relaxation.space_group_before.number,
        "energy": relaxation.energy,
        "fmax": relaxation.fmax,
        "stress": relaxation.stress,
        "relaxation_steps": relaxation.steps,
        "force_calls": relaxation.force_calls,
        "idealised": relaxation.idealised,
        "relaxed_cell": relaxation.atoms.cell[:],
        "relaxed_positions": relaxation.atoms.positions,
        "stage_steps": [one.steps for one in relaxation.rounds],
        "stage_energy": [one.energy for one in relaxation.rounds],
        "stage_fmax": [one.fmax for one in relaxation.rounds],
        "stage_stress": [one.stress for one in relaxation.rounds],
        **columns,
        "notes": joined_notes(
            "; ".join(filter(None, (notes_of(crystal.origins), *relaxation.complaints))),
            columns.get("notes", ""),
        ),
    }


@dataclass(frozen=True)
class Computation:
    """One computation of a crystal's phonons.

    Attributes
    ----------
    kind : str
        Of those in :mod:`hpcbench.store.schema`; ``FIRST`` of the first.
    columns : mapping
        What its phonons give.
    in_double : bool
        Whether its forces are in double precision, of a run that is in single.
    """

    kind: str
    columns: Mapping[str, Any]
    in_double: bool = False


def rows_of(
    common: Mapping[str, Any], computations: Sequence[Computation], provenance: str
) -> list[dict[str, Any]]:
    """Return the row of a crystal, and behind it those of its history.

    The last computation decides: all that the crystal's row says of its phonons is from it alone.

    Parameters
    ----------
    common : mapping
        What is the same for all of them: who the crystal is, its relaxation, what was noted.
    computations : sequence of Computation
        In the order in which they were done, the first one of kind ``FIRST``, each kind once.
    provenance : str
        Of the run, see :func:`provenance_of`.
    """
    *history, last = (_computed(common, computation, provenance) for computation in computations)
    if not history:
        last["again"] = ""
    return [last, *(row_of(row, row["again"]) for row in history)]


def row_of(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a row that belongs to the crystal's own.

    ``what`` is a kind of computation, ``BESIDE`` or ``WITHOUT_NAC``.
    """
    return {**row, "id": f"{row['id']}{AGAIN}{what}", "parent": row["id"], "again": what}


def _computed(
    common: Mapping[str, Any], computation: Computation, provenance: str
) -> dict[str, Any]:
    if computation.in_double:
        provenance = json.dumps(json.loads(provenance) | {"dtype": DOUBLE}, sort_keys=True)
    return {
        **common,
        **computation.columns,
        "notes": joined_notes(common["notes"], computation.columns["notes"]),
        "again": computation.kind,
        "parent": "",
        "provenance": provenance,
    }


def provenance_of(info: PotentialInfo) -> str:
    """Versions, device and weights behind a result, as JSON."""
    values = deciding_versions() | {
        "python": platform.python_version(),
        "potential": info.name,
        info.package: info.version,
        "weights_sha256": info.weights_sha256,
        "dtype": info.dtype,
        "device": info.device,
        "forward_pass": info.forward_pass,
    }
    return json.dumps(values, sort_keys=True)


def _place(rank: int, provenance: str) -> dict[str, Any]:
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "finished": time.time(),
        "provenance": provenance,
    }
