"""Sites of a CIF file: their elements, and checks that each is one atom."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.sources.readers import FULL_OCCUPANCY
from hpcbench.sources.records import is_element

UNKNOWN = ("", "?", ".")
"""Values without information."""

_VACANCIES = ("VA", "VAC", "VC", "VACANCY", "VOID")
_DUMMIES = ("X", "XX", "Q", "DU", "DUM", "DUMMY", "CNT", "CENT")
# An element's symbol, with a charge before or after its sign: Fe, FE, Na1, Fe3+, Fe+3, O2-.
_TYPE = re.compile(r"([A-Za-z]{1,2})[0-9.]*([+-][0-9.]*)?")
# Letters that distinguish sites of an element: Ow, Oa, but not Wat, Phe or Cg.
_SITE_LETTERS = "abcdew"
_HYDROXYL = re.compile(r"O\W?[Hh]\W?\d*")


@dataclass(frozen=True, eq=False)
class Sites:
    """The listed sites that are atoms.

    Attributes
    ----------
    symbols : list of str
        Elements; D and T are possible.
    fractional : ndarray, shape (n, 3)
        Fractional coordinates as listed.
    notes : tuple of str
        Sites that were left out.
    """

    symbols: list[str]
    fractional: NDArray[np.float64]
    notes: tuple[str, ...]


def number(value: str, what: str) -> float:
    """Return a number, without its uncertainty: 0.3333(2).

    Parameters
    ----------
    value : str
        The number.
    what : str
        Its name in the error.

    Raises
    ------
    UnreadableError
        Kind "syntax", if it is not a number.
    """
    try:
        return float(value.partition("(")[0])
    except ValueError as error:
        raise UnreadableError("syntax", f"{what} is {value!r}, not a number") from error


def read_sites(tags: Mapping[str, Any], formula: Collection[str]) -> Sites:
    """Return the sites of a data block.

    Parameters
    ----------
    tags : mapping
        Tags of the block in lower case, each with its text or column of texts.
    formula : collection of str
        Elements of its formula, which decide the meaning of labels; empty without one.

    Raises
    ------
    UnreadableError
        Kinds "no atoms", "disordered" (occupancy, disorder groups, mixtures), "vacancy",
        "hydrogens" (that exist, but are not listed), "unknown element", "syntax".
    """
    columns = {
        tag: value if isinstance(value, list) else [value]
        for tag, value in tags.items()
        if tag.startswith("_atom_site_")
    }
    kinds = columns.get("_atom_site_type_symbol")
    labels = columns.get("_atom_site_label") or kinds
    axes = [columns.get(f"_atom_site_fract_{axis}") for axis in "xyz"]
    if not labels or any(axis is None for axis in axes):
        raise UnreadableError("no atoms", "elements or fractional coordinates are missing")
    count = len(labels)
    if any(len(axis or ()) != count for axis in axes) or len(kinds or labels) != count:
        raise UnreadableError("syntax", "elements and coordinates differ in number")

    def column(name: str) -> list[str]:
        values = columns.get(f"_atom_site_{name}", [])
        return values if len(values) == count else [""] * count

    occupancies, hydrogens = column("occupancy"), column("attached_hydrogens")
    flags = column("calc_flag")
    _require_one_disorder_group(column("disorder_assembly"), column("disorder_group"), labels)
    kept: list[int] = []
    dummies: list[str] = []
    for index, label in enumerate(labels):
        if flags[index].lower() == "dum":
            dummies.append(label)
            continue
        occupancy = occupancies[index]
        share = 1.0 if occupancy in UNKNOWN else number(occupancy, f"occupancy of {label}")
        if share == 0.0:
            continue
        if not FULL_OCCUPANCY <= share <= 2.0 - FULL_OCCUPANCY:
            raise UnreadableError("disordered", f"site {label} has an occupancy of {share:g}")
        attached = hydrogens[index]
        if attached not in UNKNOWN and number(attached, f"hydrogens of {label}") > 0:
            message = f"{attached} of site {label} are not listed, and have no place"
            raise UnreadableError("hydrogens", message)
        kept.append(index)
    if not kept:
        raise UnreadableError("no atoms", "the list of atoms is empty")
    if kinds:
        symbols = [_of_type(kinds[index], labels[index]) for index in kept]
    else:
        symbols = [_of_label(labels[index], formula) for index in kept]
        _require_hydrogens([labels[index] for index in kept], symbols)
    rows = [
        [number(axis[index], f"a coordinate of {labels[index]}") for axis in axes if axis]
        for index in kept
    ]
    notes = (f"dummy sites left out: {', '.join(dummies)}",) if dummies else ()
    return Sites(symbols, np.array(rows), notes)


def _require_one_disorder_group(
    assemblies: Sequence[str], groups: Sequence[str], labels: Sequence[str]
) -> None:
    """Refuse sites that exclude each other, at any occupancy."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for assembly, group, label in zip(assemblies, groups, labels, strict=True):
        if group in UNKNOWN:
            continue
        found[assembly].add(group)
        # Negative: about a special position, with its own images.
        if len(found[assembly]) > 1 or group.startswith("-"):
            raise UnreadableError("disordered", f"site {label} is one of several alternatives")


def _of_type(text: str, label: str) -> str:
    """Return the element of a type symbol.

    Raises
    ------
    UnreadableError
        If it is a mixture, a vacancy, or no element.
    """
    match = _TYPE.fullmatch(text)
    if match and is_element(match[1].capitalize()):
        return match[1].capitalize()
    raise _no_element(text, f"site {label}")


def _no_element(text: str, where: str) -> UnreadableError:
    """Return the error for a site that is not an atom of one element."""
    elements = {part for part in re.findall(r"[A-Z][a-z]?", text) if is_element(part)}
    if len(elements) > 1:
        return UnreadableError("disordered", f"{where} is a mixture: {text!r}")
    if text.strip("0123456789").upper() in (*_VACANCIES, "\N{WHITE SQUARE}"):
        return UnreadableError("vacancy", f"{where} is a vacancy: {text!r}")
    return UnreadableError("unknown element", f"{text!r} is not an element ({where})")


def _of_label(label: str, formula: Collection[str]) -> str:
    """Return the element of a label: a symbol, then characters that number sites (Fe1, O1w).

    Raises
    ------
    UnreadableError
        If it is a mixture, a vacancy, no element, or ambiguous.
    """
    where = f"site {label}"
    match = re.match(r"[A-Za-z]+", label)
    letters, rest = (match.group(), label[match.end() :]) if match else ("", label)
    others = [part for part in re.findall(r"[A-Z][a-z]", rest) if is_element(part)]
    if others or re.search(r"[,/+&;|]\s*[A-Za-z]", rest):
        raise UnreadableError("disordered", f"{where} is a mixture")
    options = _options(letters)
    if formula:
        options = [symbol for symbol in options if symbol in formula] or options
    elif letters.upper() in _VACANCIES:
        raise UnreadableError("vacancy", f"{where} is a vacancy")
    elif letters.upper() in _DUMMIES:
        options = []
    elif letters == "T":
        # Tetrahedral sites are called so.
        options = []
    elif re.fullmatch(r"[A-Z][HCNO]", letters) and len(options) > 1:
        raise UnreadableError(
            "unknown element",
            f"{where} may be {' or '.join(options)}: the file needs _atom_site_type_symbol",
        )
    if not options:
        raise _no_element(label, where)
    return options[0]


def _options(letters: str) -> list[str]:
    """Return elements that the letters of a label may mean, the most likely first."""
    options = [letters.capitalize()] if len(letters) <= 2 else []
    for length in (2, 1):
        symbol, tail = letters[:length], letters[length:]
        is_tail = tail == tail.upper() or (len(tail) == 1 and tail in _SITE_LETTERS)
        if is_tail and symbol not in options:
            options.append(symbol)
    return [symbol for symbol in options if is_element(symbol)]


def _require_hydrogens(labels: Sequence[str], symbols: Sequence[str]) -> None:
    """Refuse hydroxyl without hydrogen, if only labels give the elements."""
    if any(symbol in ("H", "D", "T") for symbol in symbols):
        return
    for label in labels:
        if _HYDROXYL.fullmatch(label):
            raise UnreadableError("hydrogens", f"that of site {label} is not listed")


def elements_of(formula: str) -> dict[str, float]:
    """Return counts of elements in a formula such as ``Na4 Cl4``; empty if it is anything else."""
    parts = re.findall(r"([A-Z][a-z]?)\s*([0-9.]*)", formula)
    # Formulas with groups or isotopes in brackets are not guessed.
    if re.sub(r"([A-Z][a-z]?)\s*([0-9.]*)[\s,]*", "", formula):
        return {}
    counts: defaultdict[str, float] = defaultdict(float)
    for symbol, count in parts:
        try:
            counts[symbol] += float(count or 1)
        except ValueError:
            return {}
    if not all(map(is_element, counts)) or not math.isfinite(sum(counts.values())):
        return {}
    return dict(counts)
