"""Every format of an export by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.errors import StoreError
from hpcbench.exchange import band_structure, frames, phononbench, phonopy_files, tables

if TYPE_CHECKING:
    from hpcbench.store.reader import Store

_WRITERS: dict[str, Callable[[Store, Path], int]] = {
    **{kind: partial(tables.write_table, kind) for kind in ("csv", "json", "parquet")},
    "extxyz": frames.write_extxyz,
    "forces": frames.write_forces,
    "cif": frames.write_cifs,
    "phonopy": phonopy_files.write_folders,
    "band-yaml": phonopy_files.write_band_files,
    "pymatgen": band_structure.write_symmetry_lines,
    "phononbench": phononbench.write_folders,
}


def export(store: Store, kind: str, path: Path) -> int:
    """Write a store, or what was chosen of one, in a format of :data:`formats.FORMATS`.

    Crystals are read as they are written, block by block; only the table is in memory as a whole.

    Returns the number of crystals written: all for the tables and PhononBench's labels, those
    with phonons for the others, those with forces for ``forces``.

    Raises
    ------
    StoreError
        If the path cannot be written, or the store lacks what the format is made of.
    SetupError
        If a package is missing.
    """
    try:
        return _WRITERS[kind](store, path)
    except OSError as error:
        # h5py tells its errors without the word of the system.
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
