"""One crystal's results as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.criteria import PLACES
from hpcbench.store.row_checks import as_stored
from hpcbench.store.schema import DONE
from hpcbench.store.stored_bands import Bands, bands_of

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


@dataclass(frozen=True, eq=False)
class Cell:
    """A crystal's cell.

    Attributes
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    lattice : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    """

    numbers: NDArray[np.int32]
    lattice: NDArray[np.float64] = field(repr=False)
    positions: NDArray[np.float64] = field(repr=False)

    def to_ase(self) -> Atoms:
        """Return the cell as ASE ``Atoms``."""
        from ase import Atoms

        return Atoms(self.numbers, positions=self.positions, cell=self.lattice, pbc=True)

    def to_pymatgen(self) -> Structure:
        """Return the cell as a pymatgen ``Structure``."""
        from pymatgen.core import Lattice, Structure

        return Structure(
            Lattice(self.lattice), self.numbers, self.positions, coords_are_cartesian=True
        )


@dataclass(frozen=True, eq=False)
class UnstableMode:
    """An imaginary mode.

    Attributes
    ----------
    frequency : float
        In THz, negative.
    qpoint : ndarray, shape (3,)
        Reduced, of the primitive cell.
    eigenvector : ndarray, shape (natoms of the primitive cell, 3)
        Complex, of length one, in phonopy's convention of phases.
    """

    frequency: float
    qpoint: NDArray[np.float64]
    eigenvector: NDArray[np.complex128] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Result:
    """Hold the results of one crystal; ``row`` has everything by the store's names.

    Attributes
    ----------
    id, name, formula, status, reason : str
        As in the table.
    verdict : str
        By the protocol's criterion; empty if the crystal failed.
    verdicts : dict
        By the name of each criterion.
    given : Cell
        The crystal as it came; ``None`` if it could not be read.
    relaxed : Cell
        ``None`` if the crystal failed; so are the rest.
    energy : float
        Of the relaxed cell, in eV.
    min_frequencies : dict
        In THz, by place: ``path``, ``commensurate``, ``mesh``; not a number if it failed.
    bands : Bands
        Along the band path.
    force_constants : ndarray, shape (nprim, nsuper, 3, 3)
        Compact, in eV/A^2; ``None`` in a reanalysis, too.
    unstable_modes : tuple of UnstableMode
        The lowest mode of each place, where it is imaginary.
    row : mapping
        All fields by name; docs/store.md has units and meaning.
    """

    id: str
    name: str
    formula: str
    status: str
    reason: str
    verdict: str
    verdicts: dict[str, str]
    given: Cell | None
    relaxed: Cell | None
    energy: float | None
    min_frequencies: dict[str, float]
    bands: Bands | None = field(repr=False)
    force_constants: NDArray[np.float64] | None = field(repr=False)
    unstable_modes: tuple[UnstableMode, ...]
    row: Mapping[str, Any] = field(repr=False)


def result_of(row: Mapping[str, Any]) -> Result:
    """Return a row of a store as a value.

    Raises
    ------
    StoreError
        If what is stored of it does not go together.
    """
    with as_stored(row):
        return _result_of(row)


def _result_of(row: Mapping[str, Any]) -> Result:
    done = row["status"] == DONE
    numbers = row.get("numbers", ())
    prefix = "verdict_"
    return Result(
        **{name: row[name] for name in ("id", "name", "formula", "status", "reason")},
        verdict=row.get("verdict", ""),
        verdicts={k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix) and v},
        given=Cell(numbers, row["cell"], row["positions"]) if len(numbers) else None,
        relaxed=Cell(numbers, row["relaxed_cell"], row["relaxed_positions"]) if done else None,
        energy=float(row["energy"]) if done else None,
        min_frequencies={p: float(row.get(f"min_frequency_{p}", math.nan)) for p in PLACES},
        bands=bands_of(row) if done else None,
        force_constants=compact_force_constants(row) if done and has_force_constants(row) else None,
        unstable_modes=_unstable_modes(row) if done else (),
        row=row,
    )


def has_force_constants(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has force constants: those of a reanalysis are in the analysed store."""
    return len(row["force_constants"]) > 0


def compact_force_constants(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a row's force constants, shape (nprim, nsuper, 3, 3), in eV/A^2."""
    return np.array(row["force_constants"]).reshape(len(row["p2s_map"]), -1, 3, 3)


def _unstable_modes(row: Mapping[str, Any]) -> tuple[UnstableMode, ...]:
    frequencies = row.get("mode_frequencies", ())
    if not len(frequencies):
        return ()
    parts = np.asarray(row["mode_eigenvectors"]).reshape(len(frequencies), -1, 3, 2)
    vectors = parts[..., 0] + 1j * parts[..., 1]
    return tuple(
        UnstableMode(float(frequency), qpoint, vector)
        for frequency, qpoint, vector in zip(frequencies, row["mode_qpoints"], vectors, strict=True)
    )
