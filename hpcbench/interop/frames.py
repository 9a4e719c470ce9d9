"""Export of crystals as frames of atoms: extended XYZ, CIF."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from hpcbench.errors import StoreError
from hpcbench.interop.export_files import done_rows, file_name, file_names
from hpcbench.outputs import CIF_MARK, written_whole
from hpcbench.store.row_checks import as_stored, require_cells
from hpcbench.texts import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.store.reader import Store

_CRYSTAL = ("numbers", "masses", "relaxed_cell", "relaxed_positions")
_TOLD = (
    "id",
    "name",
    "verdict",
    "spacegroup_number",
    "min_frequency_path",
    "min_frequency_commensurate",
    "max_frequency",
)


def relaxed_atoms(row: Mapping[str, Any]) -> Atoms:
    """Return a relaxed crystal as ASE ``Atoms``.

    Raises
    ------
    StoreError
        If the stored data do not make a crystal.
    """
    from ase import Atoms

    with as_stored(row):
        return Atoms(
            numbers=row["numbers"],
            cell=row["relaxed_cell"],
            positions=row["relaxed_positions"],
            masses=row["masses"] if len(row.get("masses", ())) else None,
            pbc=True,
        )


def relaxed_atoms_with_results(row: Mapping[str, Any]) -> Atoms:
    """Return a relaxed crystal with energy and stress, if known, and with results in ``info``."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = relaxed_atoms(row)
    results: dict[str, Any] = {}
    if math.isfinite(row["energy"]):
        results["energy"] = float(row["energy"])
    if np.isfinite(row["stress"]).all():
        results["stress"] = full_3x3_to_voigt_6_stress(row["stress"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    for name in _TOLD:
        value = row[name]
        # A line break in a name would end the frame's comment line.
        atoms.info[name] = one_line(value) if isinstance(value, str) else value.item()
    return atoms


def write_extxyz(store: Store, path: Path) -> int:
    """Write relaxed crystals with their results; return their number.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.
    """
    number = 0
    with path.open("w") as stream:
        for row in done_rows(store, (*_CRYSTAL, "energy", "stress", *_TOLD)):
            _write_frame(stream, relaxed_atoms_with_results(row))
            number += 1
    return number


def write_forces(store: Store, path: Path) -> int:
    """Write displaced supercells with their forces; return the number of crystals.

    Drift is subtracted from the forces, as before the force constants were fitted. There is no
    energy: a run does not keep it for displaced supercells.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.

    Raises
    ------
    StoreError
        If the store has no forces.
    """
    names = (
        *_CRYSTAL,
        "supercell_matrix",
        "primitive_matrix",
        "displacement_atoms",
        "displacement_vectors",
        "forces",
        "p2s_map",
        "force_constants",
    )
    number = 0
    with path.open("w") as stream:
        for row in done_rows(store, names):
            if len(row["forces"]):
                number += 1
                for atoms in displaced_supercells(row):
                    _write_frame(stream, atoms)
    if number == 0:
        raise StoreError(
            f"{store.path}: no forces of displaced supercells were kept; they are with "
            f"`hpcbench run --keep-forces`, for a new store"
        )
    return number


def displaced_supercells(row: Mapping[str, Any]) -> Iterator[Atoms]:
    """Yield the displaced supercells of a crystal whose forces were kept, with forces in eV/A.

    Raises
    ------
    StoreError
        If the stored data are inconsistent.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import get_supercell

    require_cells(row)
    cell = PhonopyAtoms(
        numbers=row["numbers"], cell=row["relaxed_cell"], positions=row["relaxed_positions"]
    )
    supercell = get_supercell(cell, row["supercell_matrix"])
    forces = np.asarray(row["forces"], dtype=np.float64).reshape(-1, len(supercell), 3)
    displaced = zip(row["displacement_atoms"], row["displacement_vectors"], forces, strict=True)
    for atom, vector, answer in displaced:
        positions = np.array(supercell.positions)
        positions[atom] += vector
        atoms = Atoms(supercell.numbers, positions=positions, cell=supercell.cell, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, forces=answer)
        atoms.info.update(id=row["id"], name=one_line(row["name"]), displaced_atom=int(atom))
        yield atoms


def _write_frame(stream: TextIO, atoms: Atoms) -> None:
    from ase.io import write

    write(stream, atoms, format="extxyz")


def write_one_cif(store: Store, path: Path) -> int:
    """Write relaxed crystals as blocks of one CIF, without symmetry; return their number.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The file; an existing one is replaced.
    """
    number = 0
    with path.open("w") as stream:
        stream.write(CIF_MARK)
        for row in done_rows(store, _CRYSTAL):
            stream.write(cif_text(row))
            number += 1
    return number


def write_cifs(store: Store, folder: Path) -> int:
    """Write a CIF of each relaxed crystal, without symmetry; return their number.

    Parameters
    ----------
    store : Store
        The store.
    folder : Path
        Where the files go.
    """
    number = 0
    names = file_names(store)
    for row in done_rows(store, _CRYSTAL):
        write_cif(row, folder / f"{names[row['id']]}.cif")
        number += 1
    return number


def write_cif(row: Mapping[str, Any], path: Path) -> None:
    """Write a relaxed crystal as a CIF.

    Parameters
    ----------
    row : mapping
        A crystal's row of a store.
    path : Path
        The file; an existing one is replaced.
    """
    with written_whole(path) as temporary:
        temporary.write_text(CIF_MARK + cif_text(row))


def cif_text(row: Mapping[str, Any]) -> str:
    """Return a relaxed crystal as a block of a CIF, with all digits."""
    import io

    from ase.io import write

    stream = io.BytesIO()
    atoms = relaxed_atoms(row)
    with as_stored(row):
        write(stream, atoms, format="cif")
    # ASE calls all blocks image0.
    _, _, rest = stream.getvalue().decode().partition("\n")
    return f"data_{file_name(row)}\n{rest}\n"
