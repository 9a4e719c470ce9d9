"""Rows of the store: results and failures of crystals."""

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
    """Return the schema of the results that these settings give.

    Parameters
    ----------
    result_settings : mapping
        The settings that results depend on.
    band_dtype : str
        Precision in which bands are stored.
    """
    return result_schema(
        len(result_settings["temperatures"]),
        tuple(c.column for c in criteria_of(result_settings)),
        band_dtype,
        result_settings["dtype"],
    )


def failed_row(crystal: Crystal, error: CrystalError, rank: int, provenance: str) -> dict[str, Any]:
    """Return the row of a crystal that could not be computed.

    Parameters
    ----------
    crystal : Crystal
        The crystal as it was read.
    error : CrystalError
        The reason.
    rank : int
        Number of the rank that computed it.
    provenance : str
        Provenance of the run, see :func:`provenance_of`.
    """
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
    """Return the row of a crystal that was computed.

    Parameters
    ----------
    crystal : Crystal
        The crystal as it was read.
    relaxation : Relaxation
        Its relaxation.
    columns : mapping
        Columns of its phonons.
    rank : int
        Number of the rank that computed it.
    provenance : str
        Provenance of the run, see :func:`provenance_of`.
    """
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
        One of the kinds in :mod:`hpcbench.store.schema`; ``FIRST`` for the first.
    columns : mapping
        Columns of its phonons.
    in_double : bool
        Whether its forces are in double precision, in a run in single precision.
    """

    kind: str
    columns: Mapping[str, Any]
    in_double: bool = False


def rows_of(
    common: Mapping[str, Any], computations: Sequence[Computation], provenance: str
) -> list[dict[str, Any]]:
    """Return the row of a crystal, followed by the rows of its earlier computations.

    All columns of phonons in the crystal's row are those of the last computation.

    Parameters
    ----------
    common : mapping
        Columns that are the same for all of them: of the crystal, its relaxation, and notes.
    computations : sequence of Computation
        In the order of their computation; the first is of kind ``FIRST``, each kind comes once.
    provenance : str
        Provenance of the run, see :func:`provenance_of`.
    """
    *history, last = (_computed(common, computation, provenance) for computation in computations)
    if not history:
        last["again"] = ""
    return [last, *(row_of(row, row["again"]) for row in history)]


def row_of(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a further row of a crystal, which names the crystal's own row as its parent.

    Parameters
    ----------
    row : mapping
        Columns of the row, with the id of the crystal.
    what : str
        A kind of computation, ``BESIDE``, ``WITHOUT_NAC`` or ``REFERENCE``.
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
    """Return the versions, device and weights that results depend on, as JSON."""
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
