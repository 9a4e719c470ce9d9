"""Symmetry of a CIF file: the operators that it lists, and the space group that it names.

gemmi has the tables of space groups and the Hall symbols; pymatgen parses operators.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.sources.cif_sites import UNKNOWN
from hpcbench.symmetry import symmetry_dataset

Operations = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rotations, shape (n, 3, 3), and translations, shape (n, 3), in fractional coordinates."""

LISTED = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m_full",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_SETTING = ("_space_group_it_coordinate_system_code",)

_NO_ISOMETRY = 0.02
"""Largest change of the metric tensor by an operator, relative to the lengths: cells are rounded,
and relaxed cells have their symmetry only nearly."""
_TOLERANCES = (0.01, 0.1, 0.001)
"""Tolerances in A at which the named group is searched: coordinates are rounded."""
_MOST_OPERATORS = 400
"""Largest number in a file: 192 in the tables, and more in cells with other centrings."""
_SAME_TRANSLATION = 0.02
"""In fractions of the cell: some programs write decimals."""
_MOST_ATOMS = 200
"""Largest crystal whose group is checked: spglib takes seconds for more atoms."""


@dataclass(frozen=True, eq=False)
class Group:
    """The space group that a file names.

    Attributes
    ----------
    name : str
        Name in the file.
    number : int
        Number in the International Tables.
    settings : tuple of Operations
        Settings that the name may mean, the usual one first; one if the name gives the setting.
    is_sure : bool
        Whether the name is known; false if only a number beside it is.
    is_explicit : bool
        Whether the name gives the setting, if there are several.
    contradiction : str
        A contradiction between the file's names of the group; empty if there is none.
    """

    name: str
    number: int
    settings: tuple[Operations, ...]
    is_sure: bool = True
    is_explicit: bool = True
    contradiction: str = ""


def text_of(tags: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of several tags that has a value; of a column its first text.

    Parameters
    ----------
    tags : mapping
        Tags in lower case with their text or column of texts.
    names : sequence of str
        Tags, in order of preference.
    """
    for tag in names:
        value = tags.get(tag)
        if isinstance(value, list):
            value = value[0] if value else ""
        if value is not None and value.strip() not in UNKNOWN:
            return str(value).strip()
    return ""


def listed_operations(tags: Mapping[str, Any], cell: NDArray[np.float64]) -> Operations | None:
    """Return the operators that a file lists; ``None`` if it lists none.

    Parameters
    ----------
    tags : mapping
        As in :func:`text_of`.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.

    Raises
    ------
    UnreadableError
        Kind "symmetry": they cannot be parsed, are not a group, or do not fit the cell.
    """
    for tag in LISTED:
        value = tags.get(tag)
        texts = [value] if isinstance(value, str) else list(value or ())
        if texts:
            operations = _parsed(tuple(texts))
            wrong = ~_is_isometry(operations, cell)
            if wrong.any():
                first = texts[int(np.argmax(wrong))]
                message = f"the operator {first!r} does not leave the cell as it is"
                raise UnreadableError("symmetry", message)
            return operations
    return None


@lru_cache(maxsize=1024)
def _parsed(texts: tuple[str, ...]) -> Operations:
    # gemmi rounds translations to 24ths: it takes 0.29 for 7/24.
    from pymatgen.core.operations import SymmOp

    if len(texts) > _MOST_OPERATORS:
        message = f"{len(texts):,} symmetry operations (limit {_MOST_OPERATORS})"
        raise UnreadableError("too large", message)
    try:
        matrices = np.array([SymmOp.from_xyz_str(text).affine_matrix for text in texts])
    except (ValueError, IndexError, ZeroDivisionError) as error:
        message = f"the symmetry operations cannot be parsed ({error})"
        raise UnreadableError("symmetry", message) from error
    operations = matrices[:, :3, :3], matrices[:, :3, 3]
    # pymatgen reads an axis that it does not understand as zero.
    if not np.allclose(np.abs(np.linalg.det(operations[0])), 1.0):
        raise UnreadableError("symmetry", "a symmetry operation is not a rotation")
    if not _is_group(operations):
        raise UnreadableError(
            "symmetry",
            f"the {len(texts)} operators that are listed make no group: some are missing",
        )
    return operations


def _is_group(operations: Operations) -> bool:
    """Tell whether the operators are a group, except for lattice translations."""
    rotations, translations = np.rint(operations[0]).astype(np.int64), operations[1]
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    moved = (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]).reshape(
        -1, 3
    )
    flat = rotations.reshape(-1, 9)
    for rotation in np.unique(products, axis=0):
        known = translations[(flat == rotation).all(axis=1)]
        between = moved[(products == rotation).all(axis=1)][:, None] - known
        away = np.abs(between - np.rint(between)).max(axis=-1)
        if not known.size or (away.min(axis=1) > _SAME_TRANSLATION).any():
            return False
    return True


def _arrays(operations: Sequence[Any]) -> Operations:
    rotations = np.array([one.rot for one in operations], dtype=np.float64)
    translations = np.array([one.tran for one in operations], dtype=np.float64)
    # gemmi counts in 24ths.
    return rotations / operations[0].DEN, translations / operations[0].DEN


def _is_isometry(operations: Operations, cell: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which operators keep lengths and angles of the cell, shape (n,)."""
    rotations, _ = operations
    metric = cell @ cell.T
    lengths = np.sqrt(np.diag(metric))
    change = rotations.transpose(0, 2, 1) @ metric @ rotations - metric
    relative = np.abs(change / np.outer(lengths, lengths)).max(axis=(1, 2))
    return np.asarray(relative < _NO_ISOMETRY)


def fits(operations: Operations, cell: NDArray[np.float64]) -> bool:
    """Tell whether all operators keep lengths and angles of a cell.

    Parameters
    ----------
    operations : Operations
        The operators.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    """
    return bool(_is_isometry(operations, cell).all())


def named_group(tags: Mapping[str, Any]) -> Group | None:
    """Return the space group that a file names; ``None`` if it names none.

    A Hall symbol is unique; a name may leave the setting open (origin choices, rhombohedral or
    hexagonal axes); a number means the usual setting.

    Raises
    ------
    UnreadableError
        Kind "symmetry", if the group is unknown.
    """
    name, number = text_of(tags, _NAMES), text_of(tags, _NUMBERS)
    hall, setting = text_of(tags, _HALL), text_of(tags, _SETTING)
    if not (name or number or hall):
        return None
    group = _group(name, number, hall, setting)
    if group is None:
        raise UnreadableError(
            "symmetry", f"the space group {name or hall or number!r} is not known"
        )
    return group


@lru_cache(maxsize=1024)
def _group(name: str, number: str, hall: str, setting: str) -> Group | None:
    import gemmi

    listed_number = int(number) if re.fullmatch(r"\d{1,3}", number) else 0
    by_hall, by_name = _by_hall(hall), _by_name(name, setting)
    found = by_hall or by_name
    if found is None:
        known = gemmi.find_spacegroup_by_number(listed_number) if listed_number else None
        if known is None:
            return None
        settings = _settings(known, is_named=False)
        return Group(name or number, known.number, settings, is_sure=not (name or hall))
    if by_hall and by_name:
        found = replace(by_hall, name=name)
        if not _agree(by_hall, by_name):
            contradiction = f"the space group is {name!r}, but its Hall symbol {hall!r}"
            found = replace(found, contradiction=contradiction)
    if listed_number and found.number and listed_number != found.number:
        contradiction = f"the space group is {found.name!r}, but its number {listed_number}"
        found = replace(found, contradiction=contradiction)
    return found


def _by_hall(symbol: str) -> Group | None:
    import gemmi

    if not symbol:
        return None
    try:
        operations = gemmi.symops_from_hall(symbol)
    except (ValueError, RuntimeError):
        return None  # the name may be better
    known = gemmi.find_spacegroup_by_ops(operations)
    return Group(symbol, known.number if known else 0, (_sorted(operations),))


def _by_name(name: str, setting: str) -> Group | None:
    import gemmi

    if not name:
        return None
    spelled = _spelled(name)
    code = setting.upper()
    if code in ("1", "2", "H", "R") and ":" not in spelled:
        coded: Any = gemmi.find_spacegroup_by_name(f"{spelled}:{code}")
        if coded is not None:
            return Group(name, coded.number, _settings(coded, is_named=True))
    known: Any = gemmi.find_spacegroup_by_name(spelled)  # None where it is unknown
    if known is None:
        return None
    # Among gemmi's names, only those of R groups may end with a letter for the axes.
    is_named = bool(":" in spelled or re.search(r"[HhRr]$", spelled) or spelled[0] in "Hh")
    settings = _settings(known, is_named=is_named)
    return Group(name, known.number, settings, is_explicit=is_named)


def _agree(by_hall: Group, by_name: Group) -> bool:
    """Tell whether a Hall symbol is one of the settings that a name may mean."""
    return by_hall.number == by_name.number and (
        not by_name.is_explicit or _is_same(by_hall.settings[0], by_name.settings[0])
    )


def _is_same(one: Operations, other: Operations) -> bool:
    return all(a.shape == b.shape and np.allclose(a, b) for a, b in zip(one, other, strict=True))


def _spelled(name: str) -> str:
    """Return a name in gemmi's spelling: without underscores, origins after a colon."""
    name = re.sub(r"[_\s]+", " ", name.replace("_", "")).strip()
    name = re.sub(r"\s*[(\[]?\s*origin\s*(?:choice)?\s*([12])\s*[)\]]?$", r":\1", name, flags=re.I)
    # ICSD's letters.
    return re.sub(r"\s*([SZ])$", lambda match: ":1" if match[1] == "S" else ":2", name)


def _settings(known: Any, *, is_named: bool) -> tuple[Operations, ...]:
    """Return the named setting, or the usual one and others of the same name."""
    import gemmi

    others = (
        []
        if is_named
        else [
            one
            for one in gemmi.spacegroup_table()
            if one.hm == known.hm and one.ext != known.ext and one.ext in "12HR"
        ]
    )
    return tuple(_sorted(one.operations()) for one in (known, *others))


def _sorted(group: Any) -> Operations:
    """Sort operators independently of libraries: the order of atoms is part of an id."""
    rotations, translations = _arrays(list(group))
    matrices = np.zeros((len(rotations), 4, 4))
    matrices[:, :3, :3], matrices[:, :3, 3], matrices[:, 3, 3] = rotations, translations % 1.0, 1.0
    order = sorted(
        matrices,
        key=lambda m: (not np.allclose(m, np.eye(4)), m.round(6).ravel().tolist()),
    )
    return np.array(order)[:, :3, :3], np.array(order)[:, :3, 3]


def group_note(
    group: Group | None,
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
    numbers: NDArray[np.int32],
) -> str:
    """Return a note if a crystal has another space group than its file names; else return "".

    P1 gives no note, since files without symmetry name it, and neither do large crystals.

    Parameters
    ----------
    group : Group or None
        The group that the file names.
    cell, positions, numbers : ndarray
        The crystal: lattice vectors as rows and positions in A, atomic numbers.
    """
    if group is None or group.number <= 1 or len(numbers) > _MOST_ATOMS:
        return ""
    first = None
    for tolerance in _TOLERANCES:
        found = symmetry_dataset(cell, positions, numbers, tolerance)
        if found is not None and found.number == group.number:
            return ""
        first = first or found
    if first is None:
        return ""
    return (
        f"its file names the space group {group.name} ({group.number}), it has "
        f"{first.international} ({first.number})"
    )
