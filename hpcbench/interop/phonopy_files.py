"""Export of phonopy's own files, with phonopy's own writers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench.interop.export_files import named_phonons
from hpcbench.outputs import written_whole
from hpcbench.phonons.displacement_length import NOT_SMOOTH
from hpcbench.store.row_checks import require_path
from hpcbench.store.stored_bands import labels_of

if TYPE_CHECKING:
    from phonopy import Phonopy

    from hpcbench.store.reader import Store


def write_folders(store: Store, folder: Path) -> int:
    """Write a folder for each crystal with phonons; return their number.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the folders go.
    """
    number = 0
    for name, row, phonon in named_phonons(store):
        write_calculation(row, phonon, folder / name)
        number += 1
    return number


def write_calculation(row: Mapping[str, Any], phonon: Phonopy, folder: Path) -> None:
    """Write phonopy.yaml, force_constants.hdf5, band.yaml, and FORCE_SETS of kept forces.

    Parameters
    ----------
    row : mapping
        A crystal's row of a store.
    phonon : Phonopy
        The same crystal, with force constants.
    folder : Path
        Where the files go.
    """
    from phonopy.file_IO import write_force_constants_to_hdf5, write_FORCE_SETS

    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "phonopy.yaml") as temporary:
        phonon.save(temporary, settings={"force_constants": False, "force_sets": False})
    with written_whole(folder / "force_constants.hdf5") as temporary:
        write_force_constants_to_hdf5(
            phonon.force_constants,
            filename=str(temporary),
            p2s_map=phonon.primitive.p2s_map,
            physical_unit="eV/angstrom^2",
            compression="gzip",
        )
    # Kept forces are of one length: after an extrapolation phonopy would fit other force constants.
    if len(row["forces"]) and not row.get("roughness", math.nan) < NOT_SMOOTH:
        with written_whole(folder / "FORCE_SETS") as temporary:
            write_FORCE_SETS(phonon.dataset, filename=temporary)
    write_bands(row, phonon, folder / "band.yaml")


def write_band_files(store: Store, folder: Path) -> int:
    """Write a band.yaml for each crystal with phonons; return their number.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the files go.
    """
    number = 0
    for name, row, phonon in named_phonons(store):
        write_bands(row, phonon, folder / f"{name}.yaml")
        number += 1
    return number


def write_bands(row: Mapping[str, Any], phonon: Phonopy, path: Path) -> None:
    """Write band.yaml: frequencies from the force constants, on the path of the row.

    Parameters
    ----------
    row : mapping
        A crystal's row of a store.
    phonon : Phonopy
        The same crystal, with force constants.
    path : Path
        The file.
    """
    require_path(row)
    qpoints, edges = row["band_qpoints"], row["band_segments"]
    segments = [qpoints[first:end] for first, end in itertools.pairwise(edges)]
    ends = labels_of(row)
    # phonopy calls a segment connected if its end is the start of the next one.
    connections = [a[1] == b[0] for a, b in itertools.pairwise(ends)] + [False]
    labels: list[str] = [ends[0][0]]
    for number, connected in enumerate(connections):
        labels.append(ends[number][1])
        if not connected and number + 1 < len(ends):
            labels.append(ends[number + 1][0])
    phonon.run_band_structure(
        segments, path_connections=connections, labels=labels, is_legacy_plot=False
    )
    with written_whole(path) as temporary:
        phonon.band_structure.write_yaml(filename=temporary)
