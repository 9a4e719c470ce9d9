"""A crystal's result as a row of the store, and a record as a row of the list of crystals."""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.crystal import Crystal, Origin
from hpcbench.errors import CrystalError
from hpcbench.phonons.stability import CRITERIA
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.sources import Unreadable
from hpcbench.store.schema import DONE, FAILED, UNREADABLE, result_schema
from hpcbench.store.tables import Schema

if TYPE_CHECKING:
    from hpcbench.relaxation.relax import Relaxation


def schema_of(deciding: Mapping[str, Any]) -> Schema:
    """The schema of the results that these deciding settings give."""
    return result_schema(len(deciding["temperatures"]), tuple(c.column for c in CRITERIA))


def listed_crystal(crystal: Crystal, cost: float, problem: CrystalError | None) -> dict[str, Any]:
    """A crystal's row in the list; ``problem`` is why it is set aside, if it is."""
    matrix = crystal.supercell_matrix
    return {
        **_identity(crystal),
        "status": FAILED if problem else "",
        "reason": problem.reason if problem else "",
        "has_supercell": matrix is not None,
        "supercell_matrix": np.zeros((3, 3)) if matrix is None else matrix,
        "cost": cost,
    }


def listed_unreadable(entry: Unreadable) -> dict[str, Any]:
    """The row of an entry that could not be read."""
    return {
        "id": entry.id,
        "name": entry.name,
        "origins": _origins((entry.origin,)),
        "status": UNREADABLE,
        "reason": entry.reason,
    }


def crystal_of(row: Mapping[str, Any]) -> Crystal:
    """The crystal of a row of the list."""
    return Crystal(
        row["id"],
        row["name"],
        tuple(Origin(*origin) for origin in json.loads(row["origins"])),
        row["cell"],
        row["positions"],
        row["numbers"],
        row["supercell_matrix"] if row["has_supercell"] else None,
    )


def failed_row(crystal: Crystal, error: CrystalError, rank: int, provenance: str) -> dict[str, Any]:
    """The result of a crystal that could not be computed."""
    return {
        **_identity(crystal),
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
        **_identity(crystal),
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
        **columns,
    }


def provenance_of(info: PotentialInfo) -> str:
    """Versions, device and weights behind a result, as JSON."""
    packages = ("hpcbench", "phonopy", "ase", "spglib", "seekpath", "numpy", "torch")
    values = {package: _version(package) for package in packages}
    values |= {
        "python": platform.python_version(),
        "potential": info.name,
        info.package: info.version,
        "weights_sha256": info.weights_sha256,
        "dtype": info.dtype,
        "device": info.device,
        "forward_pass": info.forward_pass,
    }
    return json.dumps(values, sort_keys=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _identity(crystal: Crystal) -> dict[str, Any]:
    return {
        "id": crystal.id,
        "name": crystal.name,
        "origins": _origins(crystal.origins),
        "formula": crystal.formula,
        "natoms": crystal.natoms,
        "cell": crystal.cell,
        "numbers": crystal.numbers,
        "positions": crystal.positions,
    }


def _origins(origins: tuple[Origin, ...]) -> str:
    return json.dumps([[o.file, o.index, o.generator] for o in origins])


def _place(rank: int, provenance: str) -> dict[str, Any]:
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "finished": time.time(),
        "provenance": provenance,
    }
