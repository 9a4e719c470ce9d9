"""Results in formats that other programs read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.errors import StoreError
from hpcbench.store.reader import Store
from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from ase import Atoms


def write(store: Store, kind: str, path: Path) -> int:
    """Write ``csv``, ``json``, ``extxyz`` or ``phonopy`` to a file or folder.

    Returns the number of crystals written: all for the tables, those with phonons for the
    others.

    Raises
    ------
    StoreError
        If the path cannot be written.
    """
    try:
        if kind in ("csv", "json"):
            _replace(path, table_text(store, kind))
            return len(store.table)
        if kind == "extxyz":
            return _write_extxyz(store, path)
        return _write_phonopy(store, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


def table_text(store: Store, kind: str) -> str:
    """The table of results as CSV or JSON (a list of objects)."""
    if kind == "csv":
        return str(store.table.to_csv(index=False))
    return str(store.table.to_json(orient="records", indent=1)) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


def _done(store: Store) -> Iterator[str]:
    table = store.table
    yield from table.index[table["status"] == DONE]


def _write_extxyz(store: Store, path: Path) -> int:
    from ase.io import write as ase_write

    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    number = 0
    with temporary.open("w") as stream:
        for key in _done(store):
            ase_write(stream, relaxed_atoms(store, key), format="extxyz")
            number += 1
    os.replace(temporary, path)
    return number


def relaxed_atoms(store: Store, key: str) -> Atoms:
    """A relaxed crystal as ASE ``Atoms``: energy and stress, and its results in ``info``."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    row = store.row(key)
    atoms = Atoms(
        numbers=row["numbers"],
        cell=row["relaxed_cell"],
        positions=row["relaxed_positions"],
        pbc=True,
    )
    results = {"energy": float(row["energy"])}
    if np.isfinite(row["stress"]).all():
        results["stress"] = full_3x3_to_voigt_6_stress(row["stress"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    for name in (
        "id",
        "name",
        "verdict",
        "spacegroup_number",
        "min_frequency_path",
        "min_frequency_commensurate",
        "max_frequency",
    ):
        value = row[name]
        atoms.info[name] = value if isinstance(value, str) else value.item()
    return atoms


def _write_phonopy(store: Store, folder: Path) -> int:
    number = 0
    for key in _done(store):
        # The id keeps apart crystals of one name.
        name = re.sub(r"[^A-Za-z0-9.+-]+", "_", store.row(key)["name"])[:80]
        target = folder / f"{name}-{key}"
        target.mkdir(parents=True, exist_ok=True)
        store.phonopy(key).save(target / "phonopy_params.yaml", settings={"force_constants": True})
        number += 1
    return number
