"""Records of read crystals and of entries that could not be read, and merging of both."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcbench.cells import periodicity, right_handed
from hpcbench.crystal import Crystal
from hpcbench.errors import UnreadableError
from hpcbench.masses import ISOTOPES, NOT_TAKEN, named
from hpcbench.origin import UNKNOWN, Generator, Origin, with_note
from hpcbench.texts import shortened


@dataclass(frozen=True)
class SourceFile:
    """A file or an archive to be read.

    Attributes
    ----------
    path : str
        The path as given, or below a folder as given (never made absolute, so that origins are the
        same on every machine).
    explicit : bool
        True if a person named the file (or a pattern that matched it), false if it was found
        in a folder. A named file of unknown format becomes an :class:`Unreadable` record.
    made_by : Generator
        The generator that wrote it, according to a manifest.
    columns : tuple of str
        Names of its columns to carry along with each crystal.
    size : int
        In bytes, when it was found.
    problem : str
        Why there is nothing to read: a file of a manifest does not exist.
    """

    path: str
    explicit: bool
    made_by: Generator = UNKNOWN
    columns: tuple[str, ...] = ()
    size: int = field(default=0, compare=False)
    problem: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A file among the sources that is not read, with its kind in the plural."""

    path: str
    kind: str


@dataclass(frozen=True)
class Unreadable:
    """A file, or one of its entries, that could not be read as a crystal.

    ``kind`` is a short, stable word for counting, ``message`` is for people.
    """

    name: str
    origin: Origin
    kind: str
    message: str

    @property
    def id(self) -> str:
        """Hash of the origin (not of the reason): "x" and 15 hexadecimal digits."""
        key = f"{self.origin.file}\0{self.origin.index}"
        if self.origin.generator:
            key += f"\0{self.origin.generator}"
        return "x" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:15]

    @property
    def reason(self) -> str:
        """The text for a table: ``kind: message``."""
        return shortened(f"{self.kind}: {self.message}")


@dataclass(frozen=True, eq=False)
class Entry:
    """One crystal as a format's reader returns it: cell and positions in A, without checks.

    ``labels`` are other data of its file, by name; ``masses`` are in u, NaN if the file gives none;
    ``pbc`` are its periodic boundary conditions; ``notes`` name data that were changed or ignored.
    """

    cell: ArrayLike
    positions: ArrayLike
    numbers: ArrayLike
    name: str = ""
    generator: str = ""
    supercell_matrix: NDArray[np.int32] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    nac_params: Mapping[str, Any] | None = None
    masses: ArrayLike | None = None
    pbc: Sequence[bool] = (True, True, True)
    notes: tuple[str, ...] = ()

    def to_crystal(self, name: str, origin: Origin) -> Crystal:
        """Check the data, and return the crystal in a right-handed cell.

        Parameters
        ----------
        name : str
            For people.
        origin : Origin
            Where it comes from.

        Raises
        ------
        UnreadableError
            Kinds "no cell", "no atoms", "not finite", "unknown element", "syntax", "not periodic".
        """
        cell = np.asarray(self.cell, dtype=np.float64)
        positions = np.asarray(self.positions, dtype=np.float64)
        numbers = _whole(self.numbers)
        if numbers.size == 0:
            raise UnreadableError("no atoms", "there are no atoms")
        if cell.shape != (3, 3):
            raise UnreadableError("no cell", "there is no cell with three lattice vectors")
        if positions.shape != (numbers.size, 3):
            raise UnreadableError("syntax", "elements and positions differ in number")
        if not np.isfinite(cell).all():
            raise UnreadableError("not finite", "the cell holds NaN or infinity")
        if not np.isfinite(positions).all():
            atom = int(np.argmin(np.isfinite(positions).all(axis=1)))
            raise UnreadableError("not finite", f"the position of atom {atom + 1} is not finite")
        if not np.linalg.norm(cell, axis=1).all():
            raise UnreadableError("no cell", "a lattice vector is zero: this is not a 3D crystal")
        if numbers.min() < 1 or numbers.max() > 118:
            raise UnreadableError("unknown element", "an atomic number is not in 1 to 118")
        notes = [*self.notes]
        # A flat cell is refused later.
        if abs(np.linalg.det(cell)) > _FLAT * np.linalg.norm(cell, axis=1).prod():
            repeats = periodicity(self.pbc, cell, positions)
            if repeats.is_isolated:
                raise UnreadableError("not periodic", repeats.note)
            notes.append(repeats.note)
        masses, problem = named(numbers, self.masses)
        notes.append(NOT_TAKEN + problem if problem else "")
        cell, turned = right_handed(cell)
        return Crystal.from_arrays(
            name,
            with_note((origin,), (*notes, turned)),
            cell,
            positions,
            numbers.astype(np.int32),
            self.supercell_matrix,
            self.nac_params,
            masses,
        )


# Relative to the volume of a right-angled cell with the same lengths.
_FLAT = 1e-9


def _whole(numbers: ArrayLike) -> NDArray[np.int64]:
    """Return atomic numbers as int64, and refuse those that are not whole numbers."""
    try:
        given = np.asarray(numbers)
        found = given.astype(np.int64)
        is_whole = bool((found == given).all())
    except (OverflowError, TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise UnreadableError("unknown element", "an atomic number is not a whole number")
    return found


@lru_cache(maxsize=1)
def _atomic_numbers() -> dict[str, int]:
    from ase.data import chemical_symbols

    table = {symbol: number for number, symbol in enumerate(chemical_symbols) if number > 0}
    return table | dict.fromkeys(ISOTOPES, 1)


def is_element(symbol: str) -> bool:
    """Tell whether ``symbol`` is that of an element (D and T included)."""
    return symbol in _atomic_numbers()


def atomic_number(symbol: str) -> int:
    """Return the atomic number of an element's symbol in any case; D and T count as hydrogen.

    Raises
    ------
    UnreadableError
        Kind "unknown element", for dummy atoms such as X as well.
    """
    number = _atomic_numbers().get(symbol.strip().capitalize())
    if number is None:
        raise UnreadableError("unknown element", f"{symbol.strip()!r} is not an element")
    return number


def isotope_masses(symbols: Iterable[str]) -> list[float] | None:
    """Return masses in u of D and T, NaN for other symbols; ``None`` if there are only others."""
    masses = [ISOTOPES.get(symbol.strip().capitalize(), math.nan) for symbol in symbols]
    return None if all(map(math.isnan, masses)) else masses


def boundary_conditions(value: Any) -> tuple[bool, bool, bool]:
    """Return the three flags of a file; periodic if it has anything else."""
    flags = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(flags, list | tuple) and len(flags) == 3:
        return bool(flags[0]), bool(flags[1]), bool(flags[2])
    return True, True, True


def name_from_labels(labels: dict[str, object], stem: str = "") -> str:
    """Return the name of a frame, database row or JSON object, or an empty string.

    ``name`` is used unchanged. An identifier is joined to the generator if there is one
    ("DiffCSP-47"); otherwise a mere number is joined to the file's stem.

    Parameters
    ----------
    labels : dict
        Data of the frame, row or object, by name.
    stem : str
        Of the file.
    """
    name = _label(labels, "name")
    if name:
        return name
    for key in ("material_id", "mp_id", "source_id", "id"):
        identifier = _label(labels, key)
        if identifier:
            generator = _label(labels, "generator")
            if generator and not identifier.startswith(generator):
                return f"{generator}-{identifier}"
            if identifier.isdigit() and stem:
                return f"{stem}-{identifier}"
            return identifier
    return ""


def generator_from_labels(labels: dict[str, object]) -> str:
    """Return the generator of a crystal that its frame or row names, or an empty string."""
    return _label(labels, "generator")


SUPERCELLS = ("phonondb_supercell", "fc2_supercell", "supercell_matrix")
"""Names of labels with a supercell: three or nine whole numbers."""


def named_supercell(labels: Mapping[str, Any]) -> NDArray[np.int32] | None:
    """Return the supercell matrix that the labels of a crystal name, shape (3, 3), if any."""
    for name in SUPERCELLS:
        value = labels.get(name)
        if isinstance(value, str):
            value = re.findall(r"-?\d+", value)
        try:
            numbers = np.asarray(value, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            continue
        matrix = np.diag(numbers) if numbers.size == 3 else numbers
        if matrix.size == 9 and (matrix == np.rint(matrix)).all():
            whole: NDArray[np.int32] = matrix.reshape(3, 3).astype(np.int32)
            if round(float(np.linalg.det(whole))) > 0:
                return whole
    return None


def columns_of(labels: Mapping[str, Any], wanted: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Return some of the labels, with numbers as numbers; lists and other objects are left out.

    Parameters
    ----------
    labels : mapping
        Data of a crystal, by name.
    wanted : sequence of str
        Names of the labels.
    """
    found = []
    for name in wanted:
        value = labels.get(name)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            value = value.strip()
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, str | int | float) and value != "":
            found.append((name, value))
    return tuple(found)


def _label(labels: dict[str, object], key: str) -> str:
    value = labels.get(key)
    # In extended XYZ a key without a value becomes True.
    if value is None or isinstance(value, bool | list | dict | np.ndarray):
        return ""
    return re.sub(r"\s+", " ", str(value)).strip()


def merge(
    records: Iterable[Crystal | Unreadable],
) -> tuple[list[Crystal], list[Unreadable]]:
    """Join crystals of the same content id, and separate unreadable entries.

    Returns
    -------
    crystals : list of Crystal
        In the order of first occurrence, each with all its origins and its first name.
    unreadable : list of Unreadable
        In the order given, each origin once.
    """
    first: dict[str, Crystal] = {}
    origins: dict[str, dict[Origin, None]] = {}
    unreadable: dict[str, Unreadable] = {}
    for record in records:
        if isinstance(record, Unreadable):
            unreadable.setdefault(record.id, record)
            continue
        first.setdefault(record.id, record)
        # A dict as an ordered set: one origin read twice stays one origin.
        origins.setdefault(record.id, {}).update(dict.fromkeys(record.origins))
    crystals = [
        crystal.with_origins(tuple(origins[identifier])) for identifier, crystal in first.items()
    ]
    return crystals, list(unreadable.values())
