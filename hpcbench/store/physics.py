"""Check that stored bands follow from stored force constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.born import from_json
from hpcbench.errors import StoreError
from hpcbench.json_text import json_of
from hpcbench.masses import make_phonopy, phonopy_atoms
from hpcbench.phonons.spectrum import frequencies_at, frequencies_on_path
from hpcbench.store.result import compact_force_constants, has_force_constants
from hpcbench.store.row_checks import as_stored, require_cells
from hpcbench.store.schema import DONE, REANALYSIS_OF
from hpcbench.store.table_reader import TableReader

if TYPE_CHECKING:
    from phonopy import Phonopy

# The sum over a row of force constants, in eV/A^2, which symmetrisation has made zero.
LARGEST_SUM = 1e-6
# Differences of frequencies in THz: bands are stored in float32.
LARGEST_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Deviation:
    """A crystal whose stored values do not go together.

    Attributes
    ----------
    id, name : str
        Of the crystal.
    what : str
        In words.
    """

    id: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} ({self.id}): {self.what}"


def check_physics(
    reader: TableReader, sample: int, tell: Callable[[int], None] = lambda row: None
) -> Iterator[Deviation | int]:
    """Look at crystals here and there in a store; yield deviations, then how many it looked at.

    Parameters
    ----------
    reader : TableReader
        Of the store.
    sample : int
        How many crystals are looked at, if there are as many.
    tell : callable
        Told each row before it is looked at.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    done = np.flatnonzero(reader.column("status") == DONE)
    if REANALYSIS_OF in reader.settings:
        # Its force constants are in the store that it is of.
        done = done[:0]
    chosen = done[np.linspace(0, len(done) - 1, min(sample, len(done))).astype(int)]
    if not len(chosen):
        yield 0
        return
    symprec = reader.settings["symprec"]
    for index in chosen:
        tell(int(index))
        row = reader.row(int(index))
        try:
            for what in deviations(row, symprec):
                yield Deviation(row["id"], row["name"], what)
        except Exception as error:  # phonopy and LAPACK raise many kinds
            yield Deviation(row["id"], row["name"], f"{type(error).__name__}: {error}")
    yield len(chosen)


def deviations(row: Mapping[str, Any], symprec: float) -> Iterator[str]:
    """Yield, in words, what of a crystal's row does not follow from its force constants.

    Parameters
    ----------
    row : mapping
        Of a crystal that is done, by field name.
    symprec : float
        phonopy's tolerance of symmetry, in A.
    """
    force_constants = compact_force_constants(row)
    # Force constants that were imported are as they were.
    if np.isfinite(row["symmetrisation_change"]):
        largest = np.abs(force_constants.sum(axis=1)).max()
        if not largest < LARGEST_SUM:
            yield f"force constants add up to {largest:.2g} eV/angstrom^2 instead of 0"
    try:
        phonon = phonopy_of(row, symprec)
    except StoreError as error:
        yield str(error)
        return
    path = frequencies_on_path(phonon, row["band_qpoints"], row["band_segments"])
    commensurate = frequencies_at(phonon, row["commensurate_qpoints"])
    for place, name, spectrum in (
        ("band path", "band", path),
        ("commensurate q", "commensurate", commensurate),
    ):
        stored = np.asarray(row[f"{name}_frequencies"], dtype=np.float64)
        computed = spectrum.frequencies.ravel()
        if stored.shape != computed.shape:
            yield f"{place}: {len(stored)} frequencies, {len(computed)} follow"
        elif len(stored):
            difference = np.abs(stored - computed).max()
            if not difference < LARGEST_DIFFERENCE:
                yield f"{place}: frequencies differ by {difference:.2g} THz from those that follow"


def phonopy_of(row: Mapping[str, Any], symprec: float) -> Phonopy:
    """Return the ``Phonopy`` object of a crystal's row, with its force constants and Born charges.

    The displacements that they are from are in it where they are known, and the forces where they
    were kept.

    Parameters
    ----------
    row : mapping
        Of a crystal that is done, by field name.
    symprec : float
        phonopy's tolerance of symmetry, in A.

    Raises
    ------
    StoreError
        If the installed phonopy orders the supercell otherwise, there are no force constants, or
        what is stored does not go together.
    """
    if not has_force_constants(row):
        raise StoreError(
            f"{row['name']} ({row['id']}): its force constants are in the store that was analysed "
            f"again"
        )
    require_cells(row)
    with as_stored(row):
        return _phonopy_of(row, symprec)


def _phonopy_of(row: Mapping[str, Any], symprec: float) -> Phonopy:
    # Stores of older versions have no masses.
    masses = row.get("masses", ())
    cell = phonopy_atoms(
        row["numbers"],
        np.asarray(masses) if len(masses) else None,
        cell=row["relaxed_cell"],
        positions=row["relaxed_positions"],
    )
    phonon = make_phonopy(
        cell, row["primitive_matrix"], symprec, supercell_matrix=row["supercell_matrix"]
    )
    if not np.array_equal(phonon.primitive.p2s_map, row["p2s_map"]):
        versions = json_of(row["provenance"], f"{row['name']} ({row['id']}): its provenance")
        raise StoreError(
            f"{row['id']}: the installed phonopy orders the supercell otherwise than the one that "
            f"computed it ({versions.get('phonopy')})"
        )
    phonon.nac_params = from_json(row.get("nac_params", ""))
    phonon.dataset = _dataset(row, len(phonon.supercell))
    # After the dataset: that drops force constants which it does not belong to.
    force_constants: NDArray[np.float64] = compact_force_constants(row)
    phonon.force_constants = force_constants
    return phonon


def _dataset(row: Mapping[str, Any], natoms: int) -> dict[str, Any] | None:
    """Displacements and forces as phonopy keeps them. A damaged store may lack their fields."""
    atoms, vectors = row.get("displacement_atoms", ()), row.get("displacement_vectors", ())
    if not len(atoms):
        return None
    displaced = [
        {"number": int(atom), "displacement": np.array(vector)}
        for atom, vector in zip(atoms, vectors, strict=True)
    ]
    if len(row.get("forces", ())):
        forces = np.asarray(row["forces"], dtype=np.float64).reshape(-1, natoms, 3)
        for entry, answer in zip(displaced, forces, strict=True):
            entry["forces"] = answer
    return {"natom": natoms, "first_atoms": displaced}
