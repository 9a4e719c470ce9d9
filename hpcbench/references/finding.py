"""References in folders, files and stores, and the files behind the origin of a crystal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.crystal import Crystal
from hpcbench.errors import HpcbenchError, StoreError, UnreadableError
from hpcbench.interop.calculation import Beside
from hpcbench.interop.finding import KINDS, beside_names
from hpcbench.limits import DEFAULT, Limits
from hpcbench.origin import Origin
from hpcbench.references.values import COLUMNS, with_values_beside
from hpcbench.sources import LeftOut, SourceFile, Unreadable, find_sources, formats
from hpcbench.sources.discovery import Sources
from hpcbench.sources.reading import Record, failure
from hpcbench.store.reader import Store
from hpcbench.store.row_checks import as_stored, require_relaxed
from hpcbench.store.schema import DONE, SET_ASIDE
from hpcbench.store.small_files import begins_as_hdf5

KIND = "reference"
"""Kind of the reason of a crystal whose reference cannot be compared with."""
ROW = "reference_id"
"""Name of an origin's column: id of the row of a store that is the reference."""
_ENDINGS = tuple(f"{y}{c}" for c in ("", *formats.COMPRESSIONS) for y in (".yaml", ".yml"))
_OF_CRYSTALS = (
    "id", "name", "status", "reason", "relaxed_cell", "supercell_matrix",
)  # fmt: skip
# What lies beside references, by its format: kinds of files in the plural.
_LEFT_OUT = {
    **dict.fromkeys(("cif", "poscar", "torch"), "structures without phonons"),
    "archive": "archives, which have to be unpacked",
}
_ARRAYS = ("numbers", "relaxed_positions", "masses")


def find_references(sources: Sequence[str], limits: Limits = DEFAULT) -> Sources:
    """Find references: what a run takes as sources, and stores, which have to be named themselves.

    Structures without phonons and archives are left out where a folder has them.

    Parameters
    ----------
    sources : sequence of str
        As :func:`hpcbench.sources.find_sources` takes them, and stores.
    limits : Limits
        How much of a file is examined.

    Raises
    ------
    SourceError
        A source does not exist or holds nothing to read.
    """
    stores = [source for source in sources if is_store(source)]
    others = [source for source in sources if source not in stores]
    found = find_sources(others, limits) if others else Sources([], [])
    files, left_out = [], list(found.left_out)
    for file in found.files:
        kind = "" if file.explicit or file.problem else _LEFT_OUT.get(formats.format_of(file.path))
        if kind:
            left_out.append(LeftOut(file.path, kind))
        else:
            columns = tuple(dict.fromkeys((*file.columns, *COLUMNS)))
            files.append(replace(file, columns=columns))
    # Of no size: all ranks would read it, each a part.
    read = [SourceFile(os.path.normpath(path), explicit=True) for path in dict.fromkeys(stores)]
    return Sources([*read, *files], left_out)


def is_store(path: str) -> bool:
    """Tell whether a source is a store of this program, or an unfinished run."""
    place = Path(path)
    if place.is_file():
        return formats.format_of(path) == "" and begins_as_hdf5(place)
    return place.with_name(f"{place.name}.run").is_dir()


def read_store(path: str) -> Iterator[Record]:
    """Yield the crystals of a store as its rows have them relaxed, each with the id of its row.

    What failed in the store becomes a record with the reason.

    Parameters
    ----------
    path : str
        The store.
    """
    try:
        with Store(path) as store:
            known = store.schema.by_path()
            paths = [one for one, field in known.items() if field.name in (*_OF_CRYSTALS, *_ARRAYS)]
            for index, row in enumerate(store.rows(paths)):
                if row["status"] == SET_ASIDE:
                    continue
                origin = Origin(path, index, columns=((ROW, row["id"]),))
                if row["status"] != DONE:
                    yield Unreadable(row["name"], origin, KIND, f"it failed: {row['reason']}")
                    continue
                try:
                    yield _crystal_of(row, origin)
                except StoreError as error:
                    yield Unreadable(row["name"], origin, KIND, str(error))
    except HpcbenchError as error:
        yield failure(UnreadableError("store", str(error)), path, 0)


def _crystal_of(row: Mapping[str, Any], origin: Origin) -> Crystal:
    """Return the relaxed crystal of a row, in its supercell.

    Raises
    ------
    StoreError
        If its parts do not go together.
    """
    require_relaxed(row)
    with as_stored(row):
        matrix = np.asarray(row["supercell_matrix"], dtype=np.int32).reshape(3, 3)
        if round(abs(np.linalg.det(matrix))) < 1:
            raise StoreError(f"{row['name']}: its supercell matrix has no volume")
        return Crystal.from_arrays(
            row["name"],
            (origin,),
            row["relaxed_cell"],
            row["relaxed_positions"],
            np.asarray(row["numbers"], dtype=np.int32),
            matrix,
            masses=row["masses"] if len(row.get("masses", ())) else None,
        )


def as_reference(crystal: Crystal) -> Crystal:
    """Return a crystal as it is compared: with the values beside its file, without Born charges.

    Files of one calculation, of which one has Born charges, are so one crystal. The charges are
    found again with the force constants.

    Parameters
    ----------
    crystal : Crystal
        As it was read.
    """
    if crystal.nac_params is not None:
        crystal = Crystal.from_arrays(
            crystal.name,
            crystal.origins,
            crystal.cell,
            crystal.positions,
            crystal.numbers,
            crystal.supercell_matrix,
            masses=crystal.masses,
        )
    return with_values_beside(crystal)


@dataclass(frozen=True)
class Files:
    """The files of one calculation: YAML files, the one with most first, and those beside."""

    candidates: tuple[Path, ...]
    beside: Beside


def files_of(origin: Origin) -> Files | None:
    """Return phonopy's files of the calculation that a crystal comes from; ``None`` for others.

    Only names are tried, because a folder may have very many files.

    Parameters
    ----------
    origin : Origin
        Of the crystal.
    """
    if formats.format_of(origin.file) != "phonopy" or "::" in origin.file:
        return None
    path = Path(origin.file)
    stem = formats.phonopy_stem(path.name)
    match = formats.PHONOPY_FILE.fullmatch(stem)
    if match is None:
        return Files((path,), Beside())
    rest, own = match["rest"], path.name[len(stem) :]
    endings = dict.fromkeys((own, *_ENDINGS))
    names = [f"phonopy{kind}{rest}{ending}" for kind in KINDS for ending in endings]
    candidates = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    places = (path.with_name(name) for name in beside_names(rest))
    hdf5, text, forces, born = (place if place.is_file() else None for place in places)
    # Names in another case are not among those that were tried.
    return Files(tuple(candidates) or (path,), Beside(hdf5 or text, forces, born))
