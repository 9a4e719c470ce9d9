"""The reference of one crystal, read where the crystal is computed: its row, its displacements."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.crystal import Crystal
from hpcbench.errors import CrystalError, HpcbenchError
from hpcbench.interop.calculation import Calculation, forces_in, read_calculation
from hpcbench.interop.one_crystal import How, analysed, imported_row
from hpcbench.origin import Origin
from hpcbench.references.displaced import determines, without_forces
from hpcbench.references.finding import KIND, ROW, Files, files_of
from hpcbench.references.values import values_in
from hpcbench.results.identity import identity
from hpcbench.results.recompute import columns_again
from hpcbench.store.physics import phonopy_of
from hpcbench.store.reader import Store
from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    from phonopy import Phonopy

# In A: the same cell, read twice.
_SAME = 1e-6
_BORN = (
    "it has Born charges, which the potential's phonons have not; --leave-out-born compares both "
    "without them"
)


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference of a crystal.

    Attributes
    ----------
    row : dict or None
        Columns of its row; ``None`` if it has values only, which the crystal's origins carry.
    supercell_matrix : ndarray, shape (3, 3), or None
        Its supercell, where it has phonons.
    primitive_matrix : ndarray, shape (3, 3), or None
        Its primitive cell, where it has phonons.
    symprec : float
        Tolerance in A at which its displacements determine its force constants.
    displacements : dict or None
        phonopy's dataset of its displacements in A, without forces; ``None`` if it has none.
    note : str
        For the crystal's row; empty if there is nothing to say.
    """

    row: dict[str, Any] | None = None
    supercell_matrix: NDArray[np.int64] | None = None
    primitive_matrix: NDArray[np.float64] | None = None
    symprec: float = math.nan
    displacements: dict[str, Any] | None = None
    note: str = ""


def read_reference(crystal: Crystal, how: How, leave_out_born: bool) -> Reference:
    """Read the reference of a crystal, and compute its spectra as those of an import.

    If several calculations have the crystal, the first that can be compared with counts.

    Parameters
    ----------
    crystal : Crystal
        The crystal; its origins name the files.
    how : How
        Settings of the spectra.
    leave_out_born : bool
        Whether a reference with Born charges is taken without them.

    Raises
    ------
    CrystalError
        Of kind ``KIND``, with the reason why there is nothing to compare with.
    """
    problem: CrystalError | None = None
    found: Reference | None = None
    others: list[str] = []
    with warnings.catch_warnings():
        # phonopy warns that its defaults have changed.
        warnings.simplefilter("ignore")
        for name, read in _calculations(crystal):
            if found is not None:
                others.append(name)
                continue
            try:
                found = read(crystal, how, leave_out_born)
            except HpcbenchError as error:
                said = error.reason if isinstance(error, CrystalError) else str(error)
                problem = problem or _refused(said)
            except Exception as error:  # one strange file must not end the run
                problem = problem or _refused(f"{type(error).__name__}: {error}")
    if found is not None:
        note = f"reference there twice: not compared with {', '.join(others)}" if others else ""
        return replace(found, note=note)
    if problem is not None:
        raise problem
    if values_in(crystal.origins, crystal.natoms).is_empty:
        raise _refused(
            "its source has neither force constants nor forces, nor frequencies or heat capacities "
            "under a known name"
        )
    return Reference()


def _refused(text: str) -> CrystalError:
    return CrystalError(KIND, text)


_Reader = Callable[[Crystal, How, bool], Reference]


def _calculations(crystal: Crystal) -> Iterator[tuple[str, _Reader]]:
    """Yield the name and the reader of each calculation that the crystal comes from."""
    seen: set[Any] = set()
    for origin in crystal.origins:
        if ROW in dict(origin.columns):
            yield str(origin), _Stored(origin)
        elif (files := files_of(origin)) is not None and files not in seen:
            seen.add(files)
            yield origin.file, _Calculated(files)
        elif "::" in origin.file and values_in((origin,), crystal.natoms).is_empty:
            yield origin.file, _in_archive


def _in_archive(crystal: Crystal, how: How, leave_out_born: bool) -> Reference:
    raise CrystalError("archive", "its file is in an archive: unpack that, to read its phonons")


@dataclass(frozen=True)
class _Calculated:
    """A calculation in phonopy's files."""

    files: Files

    def __call__(self, crystal: Crystal, how: How, leave_out_born: bool) -> Reference:
        calculation, symprec = self._read(how)
        phonon = calculation.phonon
        if phonon.nac_params is not None and not leave_out_born:
            raise CrystalError("Born charges", _BORN)
        phonon.nac_params = None
        _require_same_crystal(crystal, phonon)
        _require_forces_on_all(calculation)
        how = replace(how, phonons=replace(how.phonons, symprec=symprec))
        # Before the analysis, which adds what it finds.
        displacements = without_forces(calculation.dataset)
        result = analysed(calculation, how.phonons)
        row = imported_row(crystal, calculation, result, how)
        return Reference(
            {**row, "energy": calculation.energy, "nac_params": ""},
            np.array(phonon.supercell_matrix, dtype=np.int64),
            np.array(phonon.primitive_matrix, dtype=np.float64),
            symprec,
            displacements,
        )

    def _read(self, how: How) -> tuple[Calculation, float]:
        """Return the calculation of the first file with phonons, and the tolerance it holds at.

        Displacements that need the symmetry which their program had found, at a larger tolerance,
        are read at that one.
        """
        problem: CrystalError | None = None
        symprec = how.phonons.symprec
        for path in self.files.candidates:
            try:
                found = self._read_one(path, how, symprec)
                if found.force_constants is not None:
                    return found, symprec
                if not forces_in(found.dataset):
                    raise CrystalError("no forces", "neither force constants nor forces")
                if determines(found.phonon, found.dataset or {}):
                    return found, symprec
                if found.symprec > symprec:
                    found = self._read_one(path, how, found.symprec)
                    if determines(found.phonon, found.dataset or {}):
                        return found, found.symprec
                raise CrystalError("forces", "its displacements do not determine force constants")
            except CrystalError as error:
                problem = problem or error
        assert problem is not None, "a calculation has at least one file"
        raise problem

    def _read_one(self, path: Path, how: How, symprec: float) -> Calculation:
        assert isinstance(how.phonons.primitive_matrix, str), "a protocol has no matrix"
        return read_calculation(
            path, self.files.beside, how.phonons.primitive_matrix, symprec, with_forces=True
        )


def _require_same_crystal(crystal: Crystal, phonon: Phonopy) -> None:
    cell = phonon.unitcell
    if not np.array_equal(cell.numbers, crystal.numbers):
        raise CrystalError("atoms", "the file has other atoms now than when the run began")
    if np.abs(cell.cell - crystal.cell).max() > _SAME:
        if np.linalg.det(cell.cell) < 0:
            raise CrystalError("cell", "its cell is left-handed")
        raise CrystalError("cell", "the file has another cell now than when the run began")


def _require_forces_on_all(calculation: Calculation) -> None:
    """Refuse forces on another number of atoms than the supercell has."""
    if calculation.force_constants is not None or not forces_in(calculation.dataset):
        return
    dataset, natoms = calculation.dataset or {}, len(calculation.phonon.supercell)
    entries = dataset.get("first_atoms")
    sets = dataset["forces"] if entries is None else [one["forces"] for one in entries]
    for one in sets:
        if np.shape(one) != (natoms, 3):
            raise CrystalError(
                "forces", f"there are {len(one)} of them for a supercell of {natoms} atoms"
            )


@dataclass(frozen=True)
class _Stored:
    """A row of a store of this program."""

    origin: Origin

    def __call__(self, crystal: Crystal, how: How, leave_out_born: bool) -> Reference:
        with Store(self.origin.file) as store:
            row = store.row(str(dict(self.origin.columns)[ROW]))
            settings = store.settings
        if row["status"] != DONE:
            raise CrystalError("failed", row["reason"])
        if row.get("nac_params") and not leave_out_born:
            raise CrystalError("Born charges", _BORN)
        row = {**row, "nac_params": "", "within_noise": ""}
        phonon = phonopy_of(row, settings["symprec"])
        # What the row has computed at single q, or extrapolated, does not decide here.
        plain = {**row, "computed_qpoints": (), "cause": ""}
        columns = {**plain, **columns_again(plain, how.settings, how.keep)}
        kept = {name: value for name, value in columns.items() if name not in _OF_CRYSTAL}
        return Reference(
            {**kept, **identity(crystal), "forces": np.zeros((0, 3))},
            np.array(row["supercell_matrix"], dtype=np.int64),
            np.array(row["primitive_matrix"], dtype=np.float64),
            settings["symprec"],
            without_forces(phonon.dataset),
        )


# Columns of a row that are those of the crystal that it is the reference of, or of its store.
_OF_CRYSTAL = ("again", "parent", "earlier_list", "cell", "positions")
