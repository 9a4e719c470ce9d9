"""The displaced supercells of a reference, made of another cell of the same crystal."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.interop.calculation import Calculation
from hpcbench.interop.one_crystal import analysed
from hpcbench.phonons.calculate import prepare
from hpcbench.phonons.linear_fit import operations_of
from hpcbench.phonons.phonon_result import PhononSettings
from hpcbench.phonons.supercells import displaced_copies
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.results.phonon_columns import Keep, phonon_columns

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy

OTHER_DISPLACEMENTS = (
    "displacements of its own: those of the reference do not determine the force constants in the "
    "relaxed cell, which has less symmetry"
)
# Of directions of unit length that count as linearly independent.
_INDEPENDENT = 1e-3


@dataclass(frozen=True, eq=False)
class Displaced:
    """Displaced supercells of a crystal, whose forces are to be computed.

    Attributes
    ----------
    phonon : bytes
        The Phonopy object with its displacements, pickled.
    copies : tuple of DisplacedCopies
        The supercells, in the order of the displacements. Where all atoms are displaced at once,
        each supercell is a set of its own, whose perfect supercell is the displaced one.
    note : str
        For the row; empty if all is as in the reference.
    """

    phonon: bytes
    copies: tuple[DisplacedCopies, ...]
    note: str = ""


def displace_like(
    atoms: Atoms,
    supercell_matrix: NDArray[np.int64],
    settings: PhononSettings,
    displacements: Mapping[str, Any] | None,
) -> Displaced:
    """Return the supercells of a crystal, with the displacements of its reference.

    Parameters
    ----------
    atoms : Atoms
        The crystal, its atoms in the order of the reference.
    supercell_matrix : ndarray, shape (3, 3)
        The reference's supercell, as phonopy defines it.
    settings : PhononSettings
        With the reference's primitive matrix.
    displacements : mapping or None
        phonopy's dataset without forces, in A. Where there is none, or it does not determine the
        force constants of this cell, displacements are phonopy's, of the same length.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    """
    if displacements is not None and "first_atoms" in displacements:
        vectors = [one["displacement"] for one in displacements["first_atoms"]]
        length = float(np.linalg.norm(vectors, axis=1).max())
        settings = replace(settings, displacement=length)
    phonon, note = prepare(atoms, supercell_matrix, settings), ""
    if displacements is not None:
        if determines(phonon, displacements):
            phonon.dataset = dict(displacements)
        else:
            note = OTHER_DISPLACEMENTS
    return Displaced(pickle.dumps(phonon, pickle.HIGHEST_PROTOCOL), _copies(phonon), note)


def _copies(phonon: Phonopy) -> tuple[DisplacedCopies, ...]:
    dataset, supercell = phonon.dataset or {}, phonon.supercell
    if "first_atoms" in dataset:
        return (displaced_copies(phonon),)
    numbers = np.array(supercell.numbers, dtype=np.int64)
    cell = np.array(supercell.cell, dtype=np.float64)
    return tuple(
        DisplacedCopies(
            numbers, supercell.positions + one, cell, np.zeros(1, np.int64), np.zeros((1, 3))
        )
        for one in np.asarray(dataset["displacements"], dtype=np.float64)
    )


def determines(phonon: Phonopy, dataset: Mapping[str, Any]) -> bool:
    """Tell whether displacements of single atoms determine the force constants by symmetry.

    Each atom must be equivalent to a displaced one, and the displacements of that one, with those
    that its site symmetry makes of them, must span all directions. Sets in which all atoms are
    displaced are left to symfc.

    Parameters
    ----------
    phonon : Phonopy
        The crystal, with the symmetry that its tolerance finds.
    dataset : mapping
        phonopy's dataset of displacements.
    """
    if "first_atoms" not in dataset:
        return True
    rotations, permutations = operations_of(phonon)
    natoms = len(phonon.supercell)
    by_atom: dict[int, list[NDArray[np.float64]]] = {}
    for entry in dataset["first_atoms"]:
        by_atom.setdefault(int(entry["number"]), []).append(np.asarray(entry["displacement"]))
    if not by_atom or max(by_atom) >= natoms:
        return False
    reached = np.unique(permutations[:, list(by_atom)])
    if len(reached) < natoms:
        return False
    for atom, vectors in by_atom.items():
        stay = rotations[permutations[:, atom] == atom]
        turned = np.concatenate([stay @ (one / np.linalg.norm(one)) for one in vectors])
        if np.linalg.matrix_rank(turned.reshape(-1, 3), tol=_INDEPENDENT) < 3:
            # phonopy fits each displaced atom by itself, also where another one is equivalent.
            return False
    return True


def analyse_like(
    phonon: bytes,
    forces: NDArray[np.float64],
    settings: PhononSettings,
    criterion: str,
    keep: Keep,
) -> dict[str, Any]:
    """Return the columns of phonons from the forces on displaced supercells.

    It is the same analysis as that of the reference.

    Parameters
    ----------
    phonon : bytes
        From :func:`displace_like`.
    forces : ndarray, shape (ncopies, natoms, 3)
        On its copies, in eV/A.
    settings : PhononSettings
        Settings of the calculation.
    criterion : str
        The criterion that gives the verdict.
    keep : Keep
        Columns to return besides force constants and verdicts.

    Raises
    ------
    PhononError
        If force constants cannot be fitted, there is no band path, or frequencies are not finite.
    """
    crystal: Phonopy = pickle.loads(phonon)
    calculation = Calculation(crystal, None, with_forces(crystal.dataset or {}, forces), 0, "")
    result = analysed(calculation, settings)
    return {**phonon_columns(result, criterion, keep), "displacements": len(forces)}


def with_forces(dataset: Mapping[str, Any], forces: NDArray[np.float64]) -> dict[str, Any]:
    """Return phonopy's dataset of displacements with forces.

    Parameters
    ----------
    dataset : mapping
        Displacements of single atoms, or of all.
    forces : ndarray, shape (nsupercells, natoms, 3)
        In eV/A, in the order of the displacements.
    """
    if "first_atoms" not in dataset:
        return {**dataset, "forces": forces}
    entries = [
        {**entry, "forces": one} for entry, one in zip(dataset["first_atoms"], forces, strict=True)
    ]
    return {**dataset, "first_atoms": entries}


def without_forces(dataset: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return phonopy's dataset of displacements without forces; ``None`` if there are none."""
    if not dataset:
        return None
    if "first_atoms" not in dataset:
        found = dataset.get("displacements")
        return None if found is None or not len(found) else {"displacements": np.asarray(found)}
    entries = [
        {"number": int(one["number"]), "displacement": np.asarray(one["displacement"])}
        for one in dataset["first_atoms"]
    ]
    return {"natom": dataset["natom"], "first_atoms": entries} if entries else None
