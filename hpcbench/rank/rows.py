"""A crystal's result as a row of the store, and a record as a row of the list of crystals."""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpcbench.criteria import criteria_of
from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError
from hpcbench.planning.listing import identity
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.store.fields import Schema
from hpcbench.store.schema import AGAIN, DONE, DOUBLE, FAILED, result_schema
from hpcbench.versions import deciding_versions

if TYPE_CHECKING:
    from hpcbench.relaxation.relax import Relaxation


def schema_of(deciding: Mapping[str, Any], band_dtype: str = "float32") -> Schema:
    """The schema of the results that these deciding settings give."""
    return result_schema(
        len(deciding["temperatures"]),
        tuple(c.column for c in criteria_of(deciding)),
        band_dtype,
        deciding["dtype"],
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
        "notes": "; ".join(relaxation.complaints),
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
    }


def row_again(
    row: Mapping[str, Any],
    columns: Mapping[str, Any],
    provenance: str,
    what: str,
    *,
    in_double: bool,
) -> dict[str, Any]:
    """The row of a crystal's phonons computed again.

    ``row`` is that of the crystal, ``columns`` what the phonons give, ``what`` of ``AGAINS``.
    """
    if in_double:
        provenance = json.dumps(json.loads(provenance) | {"dtype": DOUBLE}, sort_keys=True)
    return {
        **row,
        **columns,
        "id": f"{row['id']}{AGAIN}{what}",
        "parent": row["id"],
        "again": what,
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
