"""Reading of extended XYZ, frame by frame.

ASE parses the comment line, but not the frames: its reader gives up the whole file at the first bad
frame, and refuses frames because of results (forces, stress) that are not needed here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits
from hpcbench.masses import NOT_TAKEN
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import (
    Entry,
    atomic_number,
    boundary_conditions,
    generator_from_labels,
    isotope_masses,
    name_from_labels,
)
from hpcbench.sources.streams import lines_of

_COUNT = re.compile(r"\s*\d+\s*$")
_LONGEST_COUNT = 100


class _Lines:
    """Lines of a text, with the next one visible; an empty string is the end."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.next = next(lines, "")

    def take(self) -> str:
        line, self.next = self.next, ""  # also if the next line exceeds a limit
        self.next = next(self._lines, "")
        return line


def read_frames(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the frames in order; a bad one as an error, after which the next header is searched.

    A header is a line with nothing but the number of atoms, which no line of an atom can be.

    They are read line by line, because trajectories may be larger than a node's memory.

    Raises
    ------
    UnreadableError
        Kind "too large", at a line that is longer than the limit or after too many bytes.
    """
    lines = _Lines(lines_of(file.stream, "xyz", file.limits))
    while lines.next:
        if not lines.next.strip():
            lines.take()
            continue
        try:
            comment, rows = _take_frame(lines, file.limits)
            yield _parse_frame(comment, rows, file.stem)
        except UnreadableError as error:
            yield error


def _take_frame(lines: _Lines, limits: Limits) -> tuple[str, list[str]]:
    header = lines.next
    if "\0" in header:
        _skip_to_header(lines)
        raise UnreadableError("binary", "the file is not text")
    if not _COUNT.match(header):
        _skip_to_header(lines)
        raise UnreadableError("syntax", f"no number of atoms: {header.strip()[:60]!r}")
    lines.take()
    # Python refuses to convert very long numbers.
    count = int(header) if len(header) < _LONGEST_COUNT else sys.maxsize
    if count > limits.of("xyz", "members"):
        _skip_to_header(lines)
        raise limits.error("xyz", "members")
    comment = lines.take()
    rows: list[str] = []
    while len(rows) < count:
        if not lines.next or _COUNT.match(lines.next):
            raise UnreadableError("truncated", f"{count} atoms announced, {len(rows)} found")
        rows.append(lines.take())
    # Anything else belongs to the next frame.
    if _is_atom(lines.next):
        _skip_to_header(lines)
        raise UnreadableError("syntax", f"{count} atoms announced, but more lines follow")
    return comment, rows


def _skip_to_header(lines: _Lines) -> None:
    while lines.next and not _COUNT.match(lines.next):
        # Binary data has no headers.
        if "\0" in lines.take():
            while lines.take():
                pass


def _is_atom(line: str) -> bool:
    try:
        return len([float(word) for word in line.split()[1:4]]) == 3
    except ValueError:
        return False


def _parse_frame(comment: str, rows: list[str], stem: str) -> Entry:
    info = _labels(comment)
    if not rows:
        raise UnreadableError("no atoms", "the frame has no atoms")
    if "Lattice" not in info:
        raise UnreadableError("no cell", "the frame has no Lattice (a molecule?)")
    cell = _cell(info["Lattice"])
    columns = _columns(str(info.get("Properties", "species:S:1:pos:R:3")))
    table = [row.split() for row in rows]
    notes = []
    try:
        at = columns["pos"]
        positions = np.array([row[at : at + 3] for row in table], dtype=np.float64)
        if "species" in columns:
            symbols = [row[columns["species"]] for row in table]
            numbers = [atomic_number(symbol) for symbol in symbols]
            masses: ArrayLike | None = isotope_masses(symbols)
        else:
            numbers, masses = [int(row[columns["Z"]]) for row in table], None
        if "masses" in columns:
            named = [float(row[columns["masses"]]) for row in table]
            if any(map(math.isnan, named)):
                notes.append(f"{NOT_TAKEN}some are no numbers")
            else:
                masses = named
    except KeyError as error:
        raise UnreadableError("syntax", f"Properties name no column {error}") from error
    except (ValueError, IndexError) as error:
        raise UnreadableError("syntax", f"a line of an atom is malformed ({error})") from error
    if "mass" in columns and "masses" not in columns:
        # QUIP's are in eV fs^2/A^2.
        notes.append(f"{NOT_TAKEN}the unit of a column 'mass' is not certain")
    return Entry(
        cell,
        positions,
        numbers,
        name_from_labels(info, stem),
        generator_from_labels(info),
        labels=info,
        masses=masses,
        pbc=boundary_conditions(info.get("pbc")),
        notes=tuple(notes),
    )


# ASE refuses a comment in which one of these does not have nine numbers.
_MATRICES = re.compile(r"(?<!\S)(Lattice|stress|virial)(?=\s*=)")


def _labels(comment: str) -> dict[str, Any]:
    """Parse a comment line; the three matrices are unchanged lists of numbers."""
    from ase.io.extxyz import key_val_str_to_dict

    marked = _MATRICES.sub(r"hpcbench_\1", comment.strip())
    try:
        info = key_val_str_to_dict(marked) if marked else {}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UnreadableError("syntax", f"the comment line cannot be parsed: {error}") from error
    return {key.removeprefix("hpcbench_"): value for key, value in info.items()}


def _cell(value: Any) -> NDArray[np.float64]:
    """Return lattice vectors as rows, from nine numbers, three of a diagonal, or Voigt's six."""
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (ValueError, TypeError) as error:
        raise UnreadableError("syntax", f"Lattice is malformed: {value!r}") from error
    if numbers.size == 9:
        return numbers.reshape(3, 3)
    # Six numbers whose last three are not zero may be lengths and angles.
    if numbers.size == 3 or (numbers.size == 6 and not numbers[3:].any()):
        return np.diag(numbers[:3])
    raise UnreadableError(
        "no cell", f"Lattice has {numbers.size} numbers: nine are needed, vector by vector"
    )


def _columns(properties: str) -> dict[str, int]:
    """Return the first column of each property, from ``name:type:count:name:type:count ...``."""
    fields = properties.split(":")
    if len(fields) % 3 or not all(count.isdigit() for count in fields[2::3]):
        raise UnreadableError("syntax", f"Properties are malformed: {properties[:60]!r}")
    columns = {}
    start = 0
    for name, count in zip(fields[::3], fields[2::3], strict=True):
        columns[name] = start
        start += int(count)
    return columns
