"""Export of band structures for pymatgen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.interop.export_files import named_phonons
from hpcbench.outputs import written_whole
from hpcbench.phonons.spectrum import frequencies_on_path
from hpcbench.store.row_checks import require_path
from hpcbench.store.stored_bands import labels_of

if TYPE_CHECKING:
    from phonopy import Phonopy
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine

    from hpcbench.store.reader import Store


def write_symmetry_lines(store: Store, folder: Path) -> int:
    """Write a JSON file for each crystal with phonons; return their number.

    ``monty.serialization.loadfn`` reads the objects.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the files go.
    """
    number = 0
    for name, row, phonon in named_phonons(store):
        line = symmetry_line(row, phonon)
        with written_whole(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(line.as_dict()) + "\n")
        number += 1
    return number


def symmetry_line(row: Mapping[str, Any], phonon: Phonopy) -> PhononBandStructureSymmLine:
    """Return the band structure of a row, with frequencies from its force constants in float64.

    Parameters
    ----------
    row : mapping
        A crystal's row of a store.
    phonon : Phonopy
        The same crystal, with force constants.

    Raises
    ------
    StoreError
        If its band path and its labels are inconsistent.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.phonon.bandstructure import PhononBandStructureSymmLine

    require_path(row)
    qpoints, edges = row["band_qpoints"], row["band_segments"]
    labels = {}
    segments = itertools.pairwise(edges)
    for (first, end), ends in zip(segments, labels_of(row), strict=True):
        for at, label in zip((first, end - 1), ends, strict=True):
            # As pymatgen's own paths call it.
            labels["\\Gamma" if label == "GAMMA" else label] = qpoints[at].tolist()
    primitive = phonon.primitive
    lattice = Lattice(primitive.cell)
    return PhononBandStructureSymmLine(
        qpoints.tolist(),
        np.ascontiguousarray(frequencies_on_path(phonon, qpoints, edges).frequencies.T),
        lattice.reciprocal_lattice,
        has_nac=phonon.nac_params is not None,
        labels_dict=labels,
        structure=Structure(lattice, primitive.numbers.tolist(), primitive.scaled_positions),
    )
