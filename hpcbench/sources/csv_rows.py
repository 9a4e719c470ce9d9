"""Reading of tables with a crystal in each row: CIF, pymatgen's dictionary, or Wyckoff positions.

CDVAE and its relatives, FlowMM, language models and data sets such as MP-20 write the first,
CrystalFormer writes the second (``*_struct.csv``) and the third (``output_<space group>.csv``).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits
from hpcbench.origin import MENDED
from hpcbench.sources import cif, readers
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import Entry, generator_from_labels, name_from_labels
from hpcbench.sources.streams import Capped

_STRUCTURES = ("cif", "relxed_structure", "relaxed_structure", "structure", "cif_string")
_WYCKOFF = {"L", "X", "A", "W", "M"}
HEADER_BYTES = 2**16
"""Bytes at the beginning of a file in which its header is searched."""
_SAME_SITE = 1e-3
"""Fractional coordinates that differ by less are one atom of an orbit."""
# Characters of a skipped line that are read at once.
_PART = 2**16
# In characters: Python's parser takes a kilobyte of memory for a value.
_LONGEST_LITERAL = 2**20
# Columns with the place of a structure, in the tables of PhononBench's scripts and others.
_PLACES = {"path", "file", "filename", "id", "name"}


def structure_column(header: Sequence[str]) -> str:
    """Return the column with structures, ``X`` for CrystalFormer's raw output, or ""."""
    by_lower = {name.strip().lower(): name for name in reversed(header)}
    for name in _STRUCTURES:
        if name in by_lower:
            return by_lower[name]
    if set(header) >= _WYCKOFF:
        return "X"
    for lower, name in by_lower.items():
        words = set(lower.split("_"))
        if "cif" in words and not words & _PLACES:
            return name
    return ""


def has_structures(start: bytes) -> bool:
    """Tell whether the beginning of a CSV file names a column with structures."""
    line = start[:HEADER_BYTES].decode("utf-8-sig", errors="replace").partition("\n")[0]
    try:
        header = next(csv.reader([line]), [])
    except csv.Error:
        return False
    return bool(structure_column(header))


class _Lines:
    """Lines for the parser in bounded memory: no row of a table is longer than the limit."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._most = limits.of("csv", "line")
        self._error = limits.error("csv", "line")
        reader = io.BufferedReader(Capped(stream, "csv", limits))
        self._text = io.TextIOWrapper(reader, encoding="utf-8-sig", errors="replace", newline="")
        self._used = 0
        self.goes_on = True
        """True if reading can continue with a new row after one that was too long."""
        self.have_ended = False
        """True if more lines were requested than there are: within a row, a quote is open."""

    def begin_row(self) -> None:
        self._used = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._most + 1)
        self._used += len(line)
        if self._used > self._most:
            # If the quotes of this one line are closed, the next line is a new row.
            self.goes_on = self._used == len(line) and self._rest_is_closed(line)
            raise self._error
        if not line:
            self.have_ended = True
            raise StopIteration
        return line

    def _rest_is_closed(self, line: str) -> bool:
        quotes = line.count('"')
        while line and not line.endswith("\n"):
            line = self._text.readline(_PART)
            quotes += line.count('"')
        return quotes % 2 == 0


def read_rows(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the rows in order; a bad one as an error.

    The path of a file gives the space group of its Wyckoff positions.

    Raises
    ------
    UnreadableError
        Kinds "no structure" (the message names the columns), "syntax", "too large".
    """
    limits = file.limits
    lines = _Lines(file.stream, limits)
    # A structure takes some kilobytes; the module's own limit of 128 kB cuts large ones off.
    before = csv.field_size_limit(limits.of("csv", "line"))
    try:
        yield from _rows(csv.DictReader(lines), lines, file.path, file.stem, limits)
    except csv.Error as error:
        raise UnreadableError("syntax", f"not a CSV table ({error})") from error
    finally:
        csv.field_size_limit(before)


def _rows(
    rows: csv.DictReader[str], lines: _Lines, path: str, stem: str, limits: Limits
) -> Iterator[Entry | UnreadableError]:
    header = rows.fieldnames or []
    if header and lines.have_ended:
        raise _cut_off()
    column = structure_column(header)
    if not column:
        named = ", ".join(repr(name) for name in header[:10]) or "none"
        raise UnreadableError(
            "no structure", f"no column of structures among {named}: is there one named 'cif'?"
        )
    is_raw = set(header) >= _WYCKOFF and column == "X"
    operations = _operations_of(_space_group_in(path)) if is_raw else None
    while lines.goes_on:
        lines.begin_row()
        try:
            if (row := next(rows, None)) is None:
                return
            if lines.have_ended:
                raise _cut_off()
            if operations is not None:
                yield _from_wyckoff(row, operations, limits)
                continue
            labels = {k: v for k, v in row.items() if k not in (column, None) and v}
            entry = _structure(row[column] or "", limits)
            yield replace(
                entry,
                name=name_from_labels(dict(labels), stem),
                generator=generator_from_labels(dict(labels)),
                labels={**labels, **entry.labels},
            )
        except UnreadableError as error:
            yield error
        except csv.Error:
            raise
        except Exception as error:  # one strange row must not end the table
            yield UnreadableError("syntax", f"{type(error).__name__}: {error}")


def _cut_off() -> UnreadableError:
    return UnreadableError("syntax", "a quoted cell does not end: the file may be cut off")


def _structure(text: str, limits: Limits) -> Entry:
    start = text.lstrip()[:1]
    if start == "{":
        entry = next(readers.read_structures(_dictionary(text, limits)))
    elif start:
        # Some writers escape the line breaks of a cell as in source code.
        lines = text.replace("\r\n", "\n") if "\n" in text else text.replace("\\n", "\n")
        entry = next(cif.read_blocks(lines))
        if isinstance(entry, Entry) and "\n" not in text:
            entry = replace(entry, labels={MENDED: "line breaks", **entry.labels})
    else:
        raise UnreadableError("empty", "the row has no structure")
    if isinstance(entry, UnreadableError):
        raise entry
    return entry


def _dictionary(text: str, limits: Limits) -> Any:
    """Parse JSON, or a dictionary as Python prints it."""
    limits.check_tree("csv", text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # Chains of signs and sums nest as well.
    if len(text) > _LONGEST_LITERAL or re.search(r"[-+~]{3}", text):
        raise UnreadableError("syntax", "not a structure (neither JSON nor a short dictionary)")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UnreadableError("syntax", f"not a structure ({type(error).__name__})") from error


def _space_group_in(path: str) -> int:
    """Return the number at the end of the file's name, which is CrystalFormer's space group."""
    name = posixpath.basename(path.replace("\\", "/").replace("::", "/"))
    found = re.search(r"(\d+)\.csv", name, re.IGNORECASE)
    number = int(found.group(1)) if found else 0
    if not 1 <= number <= 230:
        raise UnreadableError(
            "symmetry",
            "a table of Wyckoff positions needs its space group at the end of its name, as in "
            "output_225.csv",
        )
    return number


Operations = tuple[NDArray[np.float64], NDArray[np.float64]]


@lru_cache(maxsize=256)
def _operations_of(number: int) -> Operations:
    """Return the operations of a space group in the setting of CrystalFormer.

    It is that of the International Tables with the second choice of origin if there are two,
    hexagonal axes, and unique axis b.
    """
    import spglib

    settings = [h for h in range(1, 531) if spglib.get_spacegroup_type(h).number == number]
    second = [h for h in settings if spglib.get_spacegroup_type(h).choice.startswith("2")]
    found = spglib.get_symmetry_from_database((second or settings)[0])
    return np.array(found["rotations"], dtype=np.float64), np.array(found["translations"])


def _from_wyckoff(row: Mapping[str, str], operations: Operations, limits: Limits) -> Entry:
    """Read a row of lattice L, coordinates X, atomic numbers A, multiplicities M, padded by 0."""
    from ase.geometry import cellpar_to_cell

    for name in "LXAM":
        limits.check_tree("csv", row.get(name) or "")
    try:
        lengths_angles, sites, numbers, multiplicities = (
            np.array(json.loads(row[name]), dtype=np.float64) for name in "LXAM"
        )
        cell = np.asarray(cellpar_to_cell(lengths_angles))
        sites = sites.reshape(-1, 3)
        if not len(sites) == len(numbers) == len(multiplicities):
            raise ValueError("X, A and M differ in length")
    except (ValueError, TypeError, KeyError, AssertionError, RecursionError) as error:
        raise UnreadableError("syntax", f"L, X, A, W and M are malformed ({error})") from error
    positions, atoms = [], []
    for site, number, multiplicity in zip(sites, numbers, multiplicities, strict=True):
        if number == 0:
            continue
        orbit = _orbit(site, operations)
        if len(orbit) != multiplicity:
            raise UnreadableError(
                "symmetry",
                f"a site at {np.round(site, 4).tolist()} has {len(orbit)} images, but a "
                f"multiplicity of {multiplicity:g}",
            )
        positions.append(orbit)
        atoms += [int(number)] * len(orbit)
    if not atoms:
        raise UnreadableError("no atoms", "there are no atoms")
    return Entry(cell, np.concatenate(positions) @ cell, atoms)


def _orbit(site: NDArray[np.float64], operations: Operations) -> NDArray[np.float64]:
    rotations, translations = operations
    images = (rotations @ site + translations) % 1.0
    kept: list[NDArray[np.float64]] = []
    for image in images:
        shifts = np.array(kept).reshape(-1, 3) - image
        if not (np.abs(shifts - np.rint(shifts)).max(axis=1) < _SAME_SITE).any():
            kept.append(image)
    return np.array(kept)
