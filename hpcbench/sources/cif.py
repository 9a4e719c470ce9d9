"""CIF files.

The text is taken apart by pymatgen: its tokens are the most tolerant and five times as fast as
ASE's. What the tokens mean is decided here, since both libraries change what a generator wrote:
pymatgen sorts the atoms by electronegativity, moves 0.3333 to 1/3 in cells without symmetry as
well, and joins two atoms at one place into a "disordered" site; ASE drops the second of them
without a word. Here a list without symmetry stays as it is: order, coordinates and overlaps.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.origin import MENDED
from hpcbench.sources.readers import FULL_OCCUPANCY
from hpcbench.sources.records import Entry, atomic_number, is_element

SITE_TOLERANCE = 0.1
"""Length in A below which two images of one site are the same atom.

pymatgen's CIF files "with symmetry" list sites up to 0.1 A off their special positions, rounded
numbers do the same on a small scale, and two atoms so close would be an overlap otherwise.
"""

MOST_CHARACTERS = 2**21
"""Of a data block: text of some 20,000 atoms, which is no crystal for phonons any more."""

MOST_ATOMS = 10_000
"""Of a crystal, after its symmetry has been applied."""

MOST_OPERATIONS = 1536
"""Of a crystal: those of a cubic group, 192, for a cell of eight."""

FORMULA_TOLERANCE = 0.01
"""Largest difference of an element's share between the formula and the atoms."""

_BLOCK = re.compile(r"^[ \t]*data_", re.MULTILINE | re.IGNORECASE)
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m_alt",
    "_space_group_name_hall",
    "_symmetry_space_group_name_hall",
)
_GROUP_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_UNKNOWN = ("", "?", ".")

Operations = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rotations, shape (n, 3, 3), and translations, shape (n, 3), in fractional coordinates."""


def read_blocks(text: str) -> Iterator[Entry | UnreadableError]:
    """Crystals of a CIF file, one for each data block that lists atoms.

    Names are those of the blocks, empty where they are ASE's counters.
    """
    pieces = _BLOCK.split(text)[1:]
    if not pieces:
        raise UnreadableError("syntax", "the file has no data block: it is not a CIF file")
    found = False
    for piece in pieces:
        name = piece.split(maxsplit=1)[0] if piece.strip() else ""
        try:
            tags = _tags(piece)
            if not any(tag.startswith("_atom_site_") for tag in tags):
                continue  # blocks with a publication's text or a powder pattern
            found = True
            entry = _read_block(tags, "" if re.fullmatch(r"image\d+", name) else name)
        except UnreadableError as error:
            found = True
            yield error
        else:
            yield entry
    if not found:
        raise UnreadableError("no atoms", "the CIF file lists no atoms")


def _tags(piece: str) -> dict[str, Any]:
    """Tags in lower case (CIF ignores case) with their text or column of texts."""
    from pymatgen.io.cif import CifBlock

    if len(piece) > MOST_CHARACTERS:
        message = f"a data block of {len(piece):,} characters (limit {MOST_CHARACTERS:,})"
        raise UnreadableError("too large", message)

    try:
        block = CifBlock.from_str(f"data_{piece}")
    except (ValueError, IndexError, ZeroDivisionError) as error:
        message = "a loop is incomplete: the file is malformed or was cut off"
        raise UnreadableError("truncated", message) from error
    return {tag.lower().rstrip("_"): value for tag, value in block.data.items()}


def _read_block(tags: dict[str, Any], name: str) -> Entry:
    if any(tag.startswith(("_space_group_symop_magn", "_space_group_magn")) for tag in tags):
        raise UnreadableError("magnetic", "magnetic space groups are not supported")
    if "_cell_modulation_dimension" in tags:
        raise UnreadableError("modulated", "modulated structures are not supported")
    cell = _cell(tags)
    symbols, fractional = _sites(tags)
    if len(symbols) > MOST_ATOMS:
        raise UnreadableError("too large", f"{len(symbols):,} atoms (limit {MOST_ATOMS:,})")
    operations, certain = _operations(tags)
    # An expanded list may come with the name of its space group and no operators, or with the
    # identity alone; a generated one with an asymmetric unit, too. Applying the group to a full
    # list puts atoms on others, or spoils the formula.
    owners, expanded = _expand(fractional, cell, operations)
    numbers = np.array([atomic_number(symbol) for symbol in symbols], dtype=np.int32)
    if not certain and (
        _coincide(owners, expanded, fractional, cell) or not _formula_fits(tags, numbers[owners])
    ):
        owners, expanded = np.arange(len(numbers)), fractional
    if not _formula_fits(tags, numbers[owners]):
        formula = str(tags["_chemical_formula_sum"])
        message = f"the atoms do not add up to the formula {formula!r}: incomplete or cut off"
        raise UnreadableError("formula", message)
    labels = {}
    if not certain and len(owners) > len(fractional):
        group = _text(tags, _GROUP_NAMES) or _text(tags, _GROUP_NUMBERS)
        labels[MENDED] = f"symmetry operators of {group}"
    return Entry(cell, expanded @ cell, numbers[owners], name, labels=labels)


def _number(value: str, what: str) -> float:
    """A number with or without its uncertainty: 0.3333(2)."""
    try:
        return float(re.sub(r"\(.*", "", value))
    except ValueError as error:
        raise UnreadableError("syntax", f"{what} is {value!r}, not a number") from error


def _text(tags: dict[str, Any], names: tuple[str, ...]) -> str:
    for tag in names:
        value = tags.get(tag)
        if isinstance(value, list):
            value = value[0] if value else ""
        if value is not None and value.strip() not in _UNKNOWN:
            return str(value).strip()
    return ""


def _cell(tags: dict[str, Any]) -> NDArray[np.float64]:
    from ase.geometry import cellpar_to_cell

    names = [f"_cell_length_{axis}" for axis in "abc"]
    names += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
    values = []
    for tag in names:
        value = _text(tags, (tag,))
        if not value:
            raise UnreadableError("no cell", f"{tag} is missing")
        values.append(_number(value, tag))
    if min(values) <= 0.0:
        raise UnreadableError("no cell", f"lengths and angles must be positive: {values}")
    try:
        # a along x, b in the xy plane; right angles give exact zeros.
        cell = np.asarray(cellpar_to_cell(values), dtype=np.float64)
    except AssertionError:
        cell = np.full((3, 3), np.nan)
    if not np.isfinite(cell).all():
        raise UnreadableError("no cell", f"no cell has these lengths and angles: {values}")
    return cell


def _sites(tags: dict[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    """Elements and fractional coordinates, shape (n, 3), of the listed sites."""
    columns = {tag: value for tag, value in tags.items() if tag.startswith("_atom_site_")}
    columns = {t: v if isinstance(v, list) else [v] for t, v in columns.items()}
    kinds = columns.get("_atom_site_type_symbol")
    labels = columns.get("_atom_site_label") or kinds
    axes = [columns.get(f"_atom_site_fract_{axis}") for axis in "xyz"]
    if not labels or any(axis is None for axis in axes):
        raise UnreadableError("no atoms", "elements or fractional coordinates are missing")
    symbols: list[str] = []
    rows: list[list[float]] = []
    for index, label in enumerate(labels):
        occupancy = columns.get("_atom_site_occupancy", ["1"] * len(labels))[index]
        share = 1.0 if occupancy in _UNKNOWN else _number(occupancy, f"occupancy of {label}")
        if share == 0.0:
            continue
        if not FULL_OCCUPANCY <= share <= 2.0 - FULL_OCCUPANCY:
            raise UnreadableError("disordered", f"site {label} has an occupancy of {share:g}")
        symbols.append(_symbol(kinds[index], typed=True) if kinds else _symbol(label, typed=False))
        rows.append([_number(axis[index], f"a coordinate of {label}") for axis in axes if axis])
    if not symbols:
        raise UnreadableError("no atoms", "the list of atoms is empty")
    return symbols, np.array(rows)


def _symbol(text: str, *, typed: bool) -> str:
    """The element of a type symbol (Fe, FE, Fe3+) or of a label (Fe1, FeA, O1w)."""
    match = re.match(r"[A-Za-z]+", text)
    letters = match.group() if match else text
    if is_element(letters.capitalize()):
        return letters.capitalize()
    # Labels go on in letters: "Ow" is oxygen of water, "CaA" the first calcium.
    candidates = [] if typed else [letters[:2], letters[:1]]
    for candidate in candidates:
        if is_element(candidate):
            return candidate
    raise UnreadableError("unknown element", f"{text!r} is not an element")


def _operations(tags: dict[str, Any]) -> tuple[Operations, bool]:
    """Symmetry operations, and whether they are certain to be meant for the listed sites."""
    from pymatgen.core.operations import SymmOp

    listed: list[str] = []
    for tag in _OPERATIONS:
        value = tags.get(tag, [])
        listed = listed or ([value] if isinstance(value, str) else list(value))
    identity = (np.eye(3)[None], np.zeros((1, 3)))
    if len(listed) > MOST_OPERATIONS:
        message = f"{len(listed):,} symmetry operations (limit {MOST_OPERATIONS:,})"
        raise UnreadableError("too large", message)
    if listed:
        try:
            matrices = np.array([SymmOp.from_xyz_str(text).affine_matrix for text in listed])
        except (ValueError, IndexError, ZeroDivisionError) as error:
            message = f"the symmetry operations cannot be parsed ({error})"
            raise UnreadableError("symmetry", message) from error
        operations = matrices[:, :3, :3], matrices[:, :3, 3]
        # pymatgen reads an axis that it does not understand as zero.
        if not np.allclose(np.abs(np.linalg.det(operations[0])), 1.0):
            raise UnreadableError("symmetry", "a symmetry operation is not a rotation")
        if len(listed) > 1 or not np.allclose(matrices[0], np.eye(4)):
            return operations, True
    group, number = _text(tags, _GROUP_NAMES), _text(tags, _GROUP_NUMBERS)
    if re.sub(r"[\s_]", "", group) in ("P1", "p1") or (not group and number in ("", "1")):
        return identity, True
    from_group = _group_operations(group, number)
    if from_group is not None:
        return from_group, False
    if listed:
        return identity, True
    raise UnreadableError("symmetry", f"the space group {group or number!r} is not known")


@lru_cache(maxsize=1024)  # pymatgen takes 0.3 s for a cubic group
def _group_operations(group: str, number: str) -> Operations | None:
    """Operations of a named space group, in pymatgen's setting as in CrystaLLM's own tools."""
    from pymatgen.io.cif import CifBlock, CifParser

    data = {"_symmetry_space_group_name_H-M": group, "_space_group_IT_number": number}
    data = {tag: value for tag, value in data.items() if value}
    parser = CifParser.from_str("data_group\n_cell_length_a 1\n")
    found = parser.get_symops(CifBlock(data, [], "group"))
    # Without success pymatgen gives the identity. Its order is that of a set: sorted here, with
    # the identity first, as the order of atoms is part of a crystal's id.
    if len(found) < 2:
        return None
    order = sorted(
        (op.affine_matrix for op in found),
        key=lambda m: (not np.allclose(m, np.eye(4)), m.round(6).ravel().tolist()),
    )
    matrices = np.array(order)
    return matrices[:, :3, :3], matrices[:, :3, 3]


def _expand(
    fractional: NDArray[np.float64], cell: NDArray[np.float64], operations: Operations
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All atoms of the cell, site by site: the site of each, and fractional coordinates.

    A site within ``SITE_TOLERANCE`` of a special position is moved onto it, as rounded numbers
    would leave its images slightly apart. Without symmetry nothing is moved or wrapped.
    """
    rotations, translations = operations
    if len(rotations) == 1:
        return np.arange(len(fractional)), fractional
    owners: list[int] = []
    atoms: list[NDArray[np.float64]] = []
    for index, site in enumerate(fractional):
        if len(owners) > MOST_ATOMS:
            raise UnreadableError("too large", f"more than {MOST_ATOMS:,} atoms in the cell")
        shifts = _nearest(rotations @ site + translations - site)
        own = np.linalg.norm(shifts @ cell, axis=1) < SITE_TOLERANCE
        special = site + shifts[own].mean(axis=0) if own.any() else site
        images = rotations @ special + translations
        images -= np.floor(images + 1e-9)
        between = _nearest(images[:, None] - images[None])
        same = np.linalg.norm(between @ cell, axis=2) < SITE_TOLERANCE
        kept = np.flatnonzero(same.argmax(axis=1) == np.arange(len(images)))
        owners += [index] * len(kept)
        atoms += list(images[kept])
    return np.array(owners), np.array(atoms)


def _nearest(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    return difference - np.rint(difference)


def _coincide(
    owners: NDArray[np.int64],
    expanded: NDArray[np.float64],
    fractional: NDArray[np.float64],
    cell: NDArray[np.float64],
) -> bool:
    """Whether an image of one site falls on another listed site."""
    for index, site in enumerate(fractional):
        others = expanded[owners != index]
        distances = np.linalg.norm(_nearest(others - site) @ cell, axis=1)
        if (distances < SITE_TOLERANCE).any():
            return True
    return False


def _formula_fits(tags: dict[str, Any], numbers: NDArray[np.int32]) -> bool:
    """Whether the atoms have the composition of the file's formula, if it gives one.

    A file cut off between two atoms can be told by nothing else.
    """
    formula = _text(tags, ("_chemical_formula_sum",))
    parts = re.findall(r"([A-Z][a-z]?)\s*([0-9.]*)", formula)
    # Formulas with groups or isotopes in brackets are not worth guessing at.
    if not parts or re.sub(r"([A-Z][a-z]?)\s*([0-9.]*)[\s,]*", "", formula):
        return True
    expected: defaultdict[int, float] = defaultdict(float)
    try:
        for symbol, count in parts:
            expected[atomic_number(symbol)] += float(count or 1)
    except (UnreadableError, ValueError):
        return True
    found = Counter(numbers.tolist())
    whole = sum(expected.values())
    return whole > 0 and all(
        abs(expected[z] / whole - found[z] / len(numbers)) < FORMULA_TOLERANCE
        for z in expected.keys() | found.keys()
    )
