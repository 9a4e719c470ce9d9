"""Readers of POSCAR, pymatgen's JSON, ASE databases and phonopy's YAML files."""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import (
    Entry,
    atomic_number,
    boundary_conditions,
    generator_from_labels,
    is_element,
    isotope_masses,
    name_from_labels,
)
from hpcbench.sources.streams import Capped

SQLITE = b"SQLite format 3\0"
"""The first bytes of a database."""
FULL_OCCUPANCY = 0.99
"""Occupancy from which a site counts as full: refinements end at 0.998 and the like."""


def read_poscar(file: OpenFile) -> Iterator[Entry]:
    """Yield the crystal of a POSCAR or CONTCAR; velocities after the positions are ignored.

    Raises
    ------
    UnreadableError
        Kinds "syntax", "truncated", "unknown element".
    """
    from ase.data import chemical_symbols
    from ase.io.vasp import read_vasp_configuration

    lines = file.text().split("\n")
    if len([line for line in lines if line.strip()]) < 8:
        raise UnreadableError("truncated", "a POSCAR has at least eight lines")
    words = lines[5].split()
    if words and words[0].isdigit():
        # Without names, as before VASP 5: the comment may consist of the symbols.
        words = _symbols_of_comment(lines[0], len(_counts(lines[5])))
        lines.insert(5, "")
    # Names of elements may carry a potential's name and hash: "Na_pv/6a2f546d".
    symbols = [re.split(r"[_/]", word)[0] for word in words]
    numbers = [atomic_number(symbol) for symbol in symbols]
    counts = _counts(lines[6])
    if len(counts) != len(symbols):
        raise UnreadableError(
            "syntax", f"{len(symbols)} elements are named, {len(counts)} numbers of atoms given"
        )
    # ASE allocates memory for all atoms before it reads them.
    if sum(counts) > len(lines):
        raise UnreadableError("truncated", "there are fewer lines than atoms announced")
    # ASE knows no isotopes of hydrogen.
    lines[5] = " ".join(chemical_symbols[number] for number in numbers)
    try:
        atoms = read_vasp_configuration(io.StringIO("\n".join(lines)))
    except (ValueError, IndexError) as error:
        raise UnreadableError("syntax", f"not a complete POSCAR ({error})") from error
    each = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    yield Entry(atoms.cell[:], atoms.positions, atoms.numbers, masses=isotope_masses(each))


def _counts(line: str) -> list[int]:
    """Return the numbers of atoms at the beginning of a line; a comment may follow."""
    found = re.match(r"\s*((\d{1,9}\s+)*\d{1,9})?(?!\S)", line)
    return [int(word) for word in found[0].split()] if found else []


def _symbols_of_comment(comment: str, number: int) -> list[str]:
    """Return the elements of a comment that is their symbols in order: ``Mg O`` or ``MgO``.

    Raises
    ------
    UnreadableError
        Kind "unknown element", if it is anything else.
    """
    symbols = re.findall(r"[A-Z][a-z]?", comment)
    is_all = re.fullmatch(r"(\s*[A-Z][a-z]?)*\s*", comment) is not None
    if not is_all or len(symbols) != number or not all(map(is_element, symbols)):
        raise UnreadableError(
            "unknown element",
            "the file does not name its elements, neither in a line above their numbers nor as "
            "its first line alone",
        )
    return symbols


def read_json(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the crystals of a JSON file with pymatgen structures.

    Known layouts: one structure; a list or a dictionary of names with structures, or with objects
    that have one under the key ``structure``; such an object alone.
    """
    try:
        data = json.loads(file.text())
    except (ValueError, RecursionError) as error:
        raise UnreadableError("syntax", f"not valid JSON ({error})") from error
    yield from read_structures(data)


def read_structures(data: Any) -> Iterator[Entry | UnreadableError]:
    """Yield the pymatgen structures of parsed JSON; layouts are those of :func:`read_json`.

    Raises
    ------
    UnreadableError
        Kind "no structure", if there is none.
    """
    while isinstance(data, dict) and not _structure_in(data) and "structure" in data:
        data = data["structure"]
    if _structure_in(data):
        items: list[tuple[str, Any]] = [("", data)]
    elif isinstance(data, list):
        items = [("", item) for item in data]
    elif isinstance(data, dict):
        items = list(data.items())
    else:
        items = []
    if not any(_structure_in(item) for _, item in items):
        raise UnreadableError("no structure", "there is no pymatgen structure")
    for name, item in items:
        try:
            yield _json_entry(name, item)
        except UnreadableError as error:
            yield error


def _structure_in(item: Any) -> dict[str, Any] | None:
    """Return the structure that an object is or contains; ``None`` if there is none."""
    if not isinstance(item, dict):
        return None
    if "sites" in item:
        return item
    inner = item.get("structure")
    return inner if isinstance(inner, dict) and "sites" in inner else None


def _json_entry(name: str, item: Any) -> Entry:
    # Read by hand: pymatgen's from_dict is much slower and gives the same numbers.
    structure = _structure_in(item)
    if structure is None:
        raise UnreadableError("no structure", "the entry holds no pymatgen structure")
    if "lattice" not in structure:
        raise UnreadableError("no cell", "the entry has no lattice: a molecule")
    try:
        cell = np.array(structure["lattice"]["matrix"], dtype=np.float64)
        sites = structure["sites"]
        symbols = [_site_symbol(site["species"]) for site in sites]
        numbers = [atomic_number(symbol) for symbol in symbols]
        fractional = np.array([site["abc"] for site in sites], dtype=np.float64).reshape(-1, 3)
        positions = fractional @ cell
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        message = f"the structure is malformed ({type(error).__name__}: {error})"
        raise UnreadableError("syntax", message) from error
    labels = {key: value for key, value in item.items() if key != "sites"}
    return Entry(
        cell,
        positions,
        numbers,
        name or name_from_labels(labels),
        generator_from_labels(labels),
        labels=labels,
        masses=isotope_masses(symbols),
        pbc=boundary_conditions(structure["lattice"].get("pbc")),
    )


def _site_symbol(species: list[dict[str, Any]]) -> str:
    if len(species) != 1 or float(species[0]["occu"]) < FULL_OCCUPANCY:
        parts = ", ".join(f"{part['element']} {part['occu']:g}" for part in species)
        raise UnreadableError("disordered", f"a site is partially occupied ({parts or 'empty'})")
    return str(species[0]["element"])


def read_database(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the rows of an ASE database (SQLite) in the order of their row ids."""
    stream, stem, limits = file.stream, file.stem, file.limits
    # A member of a tar archive also has a name, but that is no file on disk.
    raw = getattr(stream, "raw", None)
    if isinstance(raw, io.FileIO) and isinstance(raw.name, str):
        yield from _read_rows(raw.name, stem, limits)
        return
    # SQLite needs a file: members of archives and compressed databases are copied out.
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as folder:
        path = Path(folder) / "rows.db"
        capped = io.BufferedReader(Capped(stream, "database", limits))
        if capped.peek(16)[:16] not in (SQLITE, b""):
            raise UnreadableError("database", "not an ASE database (file is not a database)")
        with path.open("wb") as copy:
            shutil.copyfileobj(capped, copy)
        yield from _read_rows(str(path), stem, limits)


def _read_rows(path: str, stem: str, limits: Limits) -> Iterator[Entry | UnreadableError]:
    from ase.db import connect

    if Path(path).stat().st_size == 0:
        raise UnreadableError("empty", "the file is empty")
    try:
        # Opened read-only first, because ASE would create its tables in a foreign database.
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as raw:
            sizes = _sizes_of_rows(raw, limits)
    except sqlite3.Error as error:
        raise UnreadableError("database", f"not an ASE database ({error})") from error
    if not sizes:
        raise UnreadableError("empty", "the database has no rows")
    limits.check("database", "members", len(sizes))
    database = connect(path, type="db", use_lock_file=False)
    for identifier, size in sizes:
        if size > limits.of("database", "line"):
            yield limits.error("database", "line")
            continue
        # Row by row and not by a selection, which ends at the first bad row.
        try:
            row = database.get(id=identifier)
            labels = dict(row.key_value_pairs)
            entry = Entry(
                row.cell,
                row.positions,
                row.numbers,
                name_from_labels(labels, stem),
                generator_from_labels(labels),
                labels=labels,
                masses=row.masses if "masses" in row else None,
                pbc=row.pbc,
            )
        except Exception as error:  # a bad row raises anything from ValueError to sqlite3.Error
            yield UnreadableError("database", f"row {identifier} is malformed ({error})")
        else:
            yield entry


def _sizes_of_rows(database: sqlite3.Connection, limits: Limits) -> list[tuple[int, int]]:
    """Return the id of each row and its bytes, at most one more than the limit of rows.

    Raises
    ------
    sqlite3.Error
        If there is no table of systems. A view is not accepted: it may be endless.
    """
    named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'systems'"
    if not database.execute(named).fetchone():
        raise sqlite3.DatabaseError("no such table: systems")
    # A generated column may produce values of any size.
    hidden = [c[1] for c in database.execute("PRAGMA table_xinfo(systems)") if c[6] in (2, 3)]
    if hidden:
        raise sqlite3.DatabaseError(f"the column {hidden[0]!r} is computed")
    columns = [c[1].replace('"', '""') for c in database.execute("PRAGMA table_info(systems)")]
    size = " + ".join(f'coalesce(length("{name}"), 0)' for name in columns)
    most = limits.of("database", "members") + 1
    return list(database.execute(f"SELECT id, {size} FROM systems ORDER BY id LIMIT {most}"))
