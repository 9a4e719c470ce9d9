"""Stores of a potential's phonons against DFT's, from other people's force sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench.interop.finding import Found, Job
from hpcbench.interop.importing import import_config, import_settings
from hpcbench.interop.one_crystal import How, import_one
from hpcbench.results.analysis_settings import phonon_settings
from hpcbench.results.phonon_columns import Keep
from hpcbench.results.rows import row_of, schema_of
from hpcbench.store.reader import Store
from hpcbench.store.schema import FAILED, REFERENCE
from hpcbench.store.table_writer import TableWriter

DFT = Path("phonons") / "dft-20A"
MACE = DFT / "mace-mp-0b3"
SMALL = ("mp-1000", "mp-1519", "mp-2612", "mp-19717")
"""Materials of two atoms, whose analysis takes seconds."""
SETTINGS = {"mesh": (8, 8, 8), "band_points": 31, "symprec": 1e-4, "workers": 0}


def make_store(
    out: Path, potential: Path, reference: Path, names: Sequence[str], **settings: Any
) -> Store:
    """Return a store whose crystals are the potential's, each with its reference behind it.

    As a run against references writes it: both are computed by the same code, and the crystal's id
    is that of the reference's cell.
    """
    config = import_config(Found((), (), ()), {"out": str(out), **SETTINGS, **settings}, None)
    found = import_settings(config)
    how = How(
        phonon_settings(config),
        str(config.criterion),
        config.symmetry_tolerance,
        Keep(False, "float64", False),
        found,
    )
    rows = []
    for name in names:
        ours, theirs = (
            import_one(Job(name, (path,)), how)[0]
            for path in (folder / f"{name}.yaml.xz" for folder in (potential, reference))
        )
        given = {key: theirs[key] for key in ("id", "cell", "positions")}
        rows += [{**ours, **given}, row_of(theirs, REFERENCE)]
    return write_store(out, rows, {**found, "model": "mace-mp-0b3", "relax": "full"})


def write_store(out: Path, rows: Sequence[Mapping[str, Any]], settings: dict[str, Any]) -> Store:
    """Write rows as a store."""
    with TableWriter(out, schema_of(settings, "float64"), settings) as writer:
        writer.append(rows)
    return Store(out)


def failed_row(row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return the row of a crystal that could not be computed."""
    kept = ("id", "name", "origins", "formula", "natoms", "cell", "numbers", "positions")
    return {**{key: row[key] for key in kept}, "status": FAILED, "reason": reason}
