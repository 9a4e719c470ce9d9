"""Columns that identify the crystal of a row, and the crystal of a row of a run's list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcbench.born import from_json
from hpcbench.crystal import Crystal
from hpcbench.origin import origins_from_json, origins_to_json


def crystal_of(row: Mapping[str, Any]) -> Crystal:
    """Return the crystal of a row of a run's list."""
    return Crystal(
        row["id"],
        row["name"],
        origins_from_json(row["origins"]),
        row["cell"],
        row["positions"],
        row["numbers"],
        row["supercell_matrix"] if row["has_supercell"] else None,
        # Lists of older versions do not have this column.
        from_json(row.get("nac_params", "")),
        row["masses"] if len(row.get("masses", ())) else None,
    )


def identity(crystal: Crystal) -> dict[str, Any]:
    """Return the columns that identify the crystal of a row."""
    return {
        "id": crystal.id,
        "name": crystal.name,
        "origins": origins_to_json(crystal.origins),
        "formula": crystal.formula,
        "natoms": crystal.natoms,
        "cell": crystal.cell,
        "numbers": crystal.numbers,
        "positions": crystal.positions,
        "masses": () if crystal.masses is None else crystal.masses,
    }
