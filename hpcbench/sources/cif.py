"""Reading of CIF files.

gemmi parses the text, with the syntax of the standard; ``cif_symmetry.py`` reads symmetry,
``cif_sites.py`` elements. This module makes the list of atoms itself, since libraries change what a
generator wrote: pymatgen sorts the atoms by electronegativity, moves 0.3333 to 1/3 even in cells
without symmetry, and joins two atoms at one place into a "disordered" site; ASE silently drops the
second of them. Here a list without symmetry stays as it is: order, coordinates and overlaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.origin import MENDED
from hpcbench.sources.cif_contents import (
    BY_COMPOSITION,
    BY_FORMULA,
    BY_UNITS,
    MOST_ATOMS,
    Asked,
    Contents,
    coincide,
    expand,
    is_same,
)
from hpcbench.sources.cif_sites import elements_of, number, read_sites
from hpcbench.sources.cif_symmetry import (
    LISTED,
    Group,
    fits,
    group_note,
    listed_operations,
    named_group,
    text_of,
)
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import Entry, atomic_number, isotope_masses

MOST_CHARACTERS = 2**21
"""Largest length of a data block: text of some 20,000 atoms, too many for phonons."""

# The beginning of a data block, or of a line that begins or ends a text field.
_MARK = re.compile(r"^(?:(;)|[ \t]*data_)", re.MULTILINE | re.IGNORECASE)
# Longest line of a header; longer ones are running text.
_LONGEST_LINE = 300
_CUT_OFF = "a loop or a text is incomplete: the file is malformed or was cut off"
_USED = ("_atom_site_", "_cell_", "_chemical_formula_sum", "_space_group_", "_symmetry_")


def read_cif(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the crystals of a CIF file, as :func:`read_blocks` of its text."""
    return read_blocks(file.text())


def read_blocks(text: str) -> Iterator[Entry | UnreadableError]:
    """Yield the crystals of the text of a CIF file, one for each data block that lists atoms.

    Names are those of the blocks, or empty for ASE's counters.
    """
    pieces = _blocks(text)
    if not pieces:
        raise UnreadableError("syntax", "the file has no data block: it is not a CIF file")
    found = False
    for piece in pieces:
        name = re.match(r"\S*", piece)[0]  # type: ignore[index]
        try:
            tags, mended = _tags(piece.removeprefix(name))
            if not any(tag.startswith("_atom_site_") for tag in tags):
                continue  # blocks with a publication's text or a powder pattern
            found = True
            entry = _read_block(tags, "" if re.fullmatch(r"image\d+", name) else name, mended)
        except UnreadableError as error:
            found = True
            yield error
        else:
            yield entry
    if not found:
        raise UnreadableError("no atoms", "the CIF file lists no atoms")


def _blocks(text: str) -> list[str]:
    """Return the text after each ``data_``; those in text fields begin no block."""
    edges: list[tuple[int, int]] = []
    is_text = False
    for mark in _MARK.finditer(text):
        if mark[1]:
            is_text = not is_text
        elif not is_text:
            edges.append(mark.span())
    if not edges:
        return []
    ends = [start for start, _ in edges[1:]] + [len(text)]
    return [text[start:end] for (_, start), end in zip(edges, ends, strict=True)]


def _tags(piece: str) -> tuple[dict[str, Any], str]:
    """Return tags in lower case (CIF ignores case) with their text or column of texts.

    The second value names what had to be corrected for that. Tags of CIF's second dictionary
    language, which have a dot, are converted to those of the first.
    """
    if len(piece) > MOST_CHARACTERS:
        message = f"a data block of {len(piece):,} characters (limit {MOST_CHARACTERS:,})"
        raise UnreadableError("too large", message)
    # Words after the name of the block are not tokens.
    first, _, rest = piece.partition("\n")
    if first.strip() and not re.match(r"\s*(_|loop_|#)", first):
        piece = f"\n{rest}"
    mended = ""
    try:
        block = _parsed(piece)
    except ValueError as error:
        try:
            block = _parsed("\n".join(map(_quoted, piece.split("\n"))))
        except ValueError:
            raise _syntax(piece, str(error)) from error
        mended = "texts without quotes"
    tags: dict[str, Any] = {}
    for item in block:
        for tag, value in _pairs(item):
            if tag in tags and tags[tag] != value:
                raise UnreadableError("syntax", f"{tag} is given twice, with other values")
            tags[tag] = value
    return tags, mended


def _quoted(line: str) -> str:
    """Return a line with its text in quotes, if several words follow one tag."""
    words = line.split() if len(line) < _LONGEST_LINE else []
    is_tag = [word.startswith("_") for word in words]
    if len(words) < 3 or is_tag != [True] + [False] * len(words[1:]) or set("'\"#;") & set(line):
        return line
    return f"{words[0]} '{' '.join(words[1:])}'"


def _parsed(piece: str) -> Any:
    import gemmi

    # The caller checks tags that are given twice.
    return gemmi.cif.read_string(f"data_x{piece}", check_level=0).sole_block()


def _pairs(item: Any) -> Iterator[tuple[str, Any]]:
    from gemmi.cif import as_string

    if item.pair is not None:
        tag = _tag(item.pair[0])
        if tag.startswith(_USED):
            yield tag, as_string(item.pair[1])
    elif item.loop is not None:
        values, width = item.loop.values, item.loop.width()
        for place, name in enumerate(item.loop.tags):
            tag = _tag(name)
            if tag.startswith(_USED):
                if not values:
                    raise UnreadableError("truncated", _CUT_OFF)
                yield tag, [as_string(value) for value in values[place::width]]


def _tag(name: str) -> str:
    return name.lower().rstrip("_").replace(".", "_")


def _syntax(piece: str, message: str) -> UnreadableError:
    """Return the error for a text that gemmi refuses; its message begins ``string:LINE:``."""
    place, _, what = message.partition(" ")
    if "Wrong number of values" in what or "unterminated" in what:
        return UnreadableError("truncated", _CUT_OFF)
    found = re.match(r"string:(\d+)", place)
    lines = f"data_x{piece}".split("\n")
    at = min(int(found[1]) if found else 1, len(lines)) - 1
    return UnreadableError("syntax", f"not CIF at {lines[at].strip()[:60]!r} ({what})")


def _read_block(tags: dict[str, Any], name: str, mended: str) -> Entry:
    if any(tag.startswith(("_space_group_symop_magn", "_space_group_magn")) for tag in tags):
        raise UnreadableError("magnetic", "magnetic space groups are not supported")
    if "_cell_modulation_dimension" in tags:
        raise UnreadableError("modulated", "modulated structures are not supported")
    cell = _cell(tags)
    formula = elements_of(text_of(tags, ("_chemical_formula_sum",)))
    sites = read_sites(tags, formula)
    if len(sites.symbols) > MOST_ATOMS:
        raise UnreadableError("too large", f"{len(sites.symbols):,} atoms (limit {MOST_ATOMS:,})")
    of_sites = np.array([atomic_number(symbol) for symbol in sites.symbols], dtype=np.int32)
    asked = Asked(formula, _formula_units(tags), of_sites)
    listed, group = listed_operations(tags, cell), _group_of(tags)
    notes = [*sites.notes]
    as_listed = Contents(np.arange(len(of_sites)), sites.fractional)
    texts = [mended]
    if listed is not None and len(listed[0]) > 1:
        contents = expand(sites.fractional, cell, listed)
    elif group is None or (group.number == 1 and (listed is not None or not group.contradiction)):
        contents = as_listed
    else:
        contents, note = _by_group(group, as_listed, cell, asked, is_listed=listed is not None)
        notes.append(note)
        if len(contents.owners) > len(of_sites):
            texts.append(f"symmetry operators of {group.name}")
    if not asked.rank(contents):
        raise asked.problem(contents)
    numbers, positions = of_sites[contents.owners], contents.fractional @ cell
    notes.append(group_note(group, cell, positions, numbers))
    text = "; ".join(filter(None, texts))
    return Entry(
        cell,
        positions,
        numbers,
        name,
        labels={MENDED: text} if text else {},
        masses=isotope_masses([sites.symbols[owner] for owner in contents.owners]),
        notes=tuple(filter(None, notes)),
    )


def _cell(tags: dict[str, Any]) -> NDArray[np.float64]:
    from ase.geometry import cellpar_to_cell

    names = [f"_cell_length_{axis}" for axis in "abc"]
    names += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
    values = []
    for tag in names:
        value = text_of(tags, (tag,))
        if not value:
            raise UnreadableError("no cell", f"{tag} is missing")
        values.append(number(value, tag))
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


def _group_of(tags: Mapping[str, Any]) -> Group | None:
    """Return the named group; ``None`` also if it is unknown and operators are listed."""
    try:
        return named_group(tags)
    except UnreadableError:
        if any(tag in tags for tag in LISTED):
            return None
        raise


def _by_group(
    group: Group,
    as_listed: Contents,
    cell: NDArray[np.float64],
    asked: Asked,
    *,
    is_listed: bool,
) -> tuple[Contents, str]:
    """Return the atoms of a file that names its group and lists at most the identity.

    Its list may be the full cell or an asymmetric unit; generators write both. Applied to a full
    list, the group would place atoms on others or violate the formula. The list that fits the
    formula best is taken. If both fit alike, it is the asymmetric unit if no operator is listed,
    else the full cell.

    Raises
    ------
    UnreadableError
        Kind "symmetry", if the group is inconsistent with the cell or with itself; "formula".
    """
    fitting = [setting for setting in group.settings if fits(setting, cell)]
    if group.contradiction and not is_listed:
        raise UnreadableError("symmetry", group.contradiction)
    expanded = [expand(as_listed.fractional, cell, setting) for setting in fitting]
    alone = [one for one in expanded if not coincide(one, as_listed, cell)]
    ranks = [asked.rank(one) for one in alone]
    best = max(ranks, default=0)
    of_list = asked.rank(as_listed)
    # An unknown name beside a number: only the formula can confirm the number.
    needed = BY_COMPOSITION if group.is_sure else BY_FORMULA
    is_full = of_list and (len(alone) < len(expanded) or of_list == BY_UNITS or is_listed)
    if is_full and (of_list >= best if is_listed else not best):
        return as_listed, ""
    if best >= needed:
        first, *others = (one for one, rank in zip(alone, ranks, strict=True) if rank == best)
        is_open = any(not is_same(first, other) for other in others)
        return first, f"usual setting of {group.name} taken: its file names none" * is_open
    if not fitting:
        message = f"the operators of {group.name} do not leave the cell as it is"
        raise UnreadableError("symmetry", message)
    if not group.is_sure:
        raise UnreadableError("symmetry", f"the space group {group.name!r} is not known")
    raise asked.problem((alone or expanded)[0])


def _formula_units(tags: Mapping[str, Any]) -> int:
    """Return the formula units in the cell (Z); 0 if the file does not give them."""
    text = text_of(tags, ("_cell_formula_units_z",))
    return int(text) if re.fullmatch(r"\d{1,5}", text) else 0
