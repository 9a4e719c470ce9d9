"""Check that the parts of a crystal's row go together, so that something can be made of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from hpcbench.errors import HpcbenchError, StoreError
from hpcbench.texts import one_line, shown_reason

_HEAVIEST = 118
# phonopy fills the box around a supercell with cells before it cuts the supercell out of it.
_BOX_PER_CELL, _BOX = 100, 100_000


@contextlib.contextmanager
def as_stored(row: Mapping[str, Any]) -> Iterator[None]:
    """Make something of a row; what fails of it is said of its crystal.

    Raises
    ------
    StoreError
        If its values are not what this version makes something of.
    """
    try:
        yield
    except (HpcbenchError, OSError, ImportError):
        raise
    except Exception as error:  # numpy, phonopy and others raise many kinds
        what = f"{type(error).__name__}: {shown_reason(str(error))}"
        raise StoreError(f"{_whose(row)}: what is stored does not go together ({what})") from error


def _whose(row: Mapping[str, Any]) -> str:
    return one_line(f"{row.get('name', '')} ({row.get('id', '')})")


def require_cells(row: Mapping[str, Any]) -> None:
    """Refuse a row of whose cells no phonopy could make anything, or only in a very long time.

    Raises
    ------
    StoreError
        With the first thing that is wrong.
    """
    _require(row, CHECKS.values())


def require_relaxed(row: Mapping[str, Any]) -> None:
    """Refuse a row whose relaxed cell is no crystal.

    Raises
    ------
    StoreError
        With the first thing that is wrong.
    """
    _require(row, (_atoms, _lattice))


def _require(row: Mapping[str, Any], checks: Iterable[Callable[[Mapping[str, Any]], str]]) -> None:
    with as_stored(row):
        what = next((what for check in checks if (what := check(row))), "")
    if what:
        raise StoreError(f"{_whose(row)}: what is stored does not go together ({what})")


def _atoms(row: Mapping[str, Any]) -> str:
    numbers = np.asarray(row["numbers"])
    if not len(numbers) or numbers.min() < 1 or numbers.max() > _HEAVIEST:
        return "its atoms are no elements"
    if np.shape(row["relaxed_positions"]) != (len(numbers), 3):
        return "not each atom has a position"
    return ""


def _lattice(row: Mapping[str, Any]) -> str:
    cell = np.asarray(row["relaxed_cell"])
    if not (np.isfinite(cell).all() and np.isfinite(row["relaxed_positions"]).all()):
        return "its cell has numbers that are none"
    return "" if abs(np.linalg.det(cell)) > 0 else "its cell has no volume"


def _supercell(row: Mapping[str, Any]) -> str:
    matrix = [[int(x) for x in line] for line in np.asarray(row["supercell_matrix"])]
    cells = _cells_of(matrix)
    if cells < 1:
        return "its supercell matrix has no volume"
    boxes = (matrix, list(zip(*matrix, strict=True)))
    box = max(math.prod(sum(map(abs, line)) for line in lines) for lines in boxes)
    return "its supercell matrix is skew" if box > max(_BOX, _BOX_PER_CELL * cells) else ""


def _primitive(row: Mapping[str, Any]) -> str:
    matrix, number = np.asarray(row["primitive_matrix"]), len(row["p2s_map"])
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > _BOX:
        return "its primitive matrix has numbers that are none"
    if not number or round(len(row["numbers"]) * abs(np.linalg.det(matrix))) != number:
        return "its primitive cell has another number of atoms"
    return ""


def _force_constants(row: Mapping[str, Any]) -> str:
    atoms = len(row["numbers"]) * _cells_of(row["supercell_matrix"])
    values, wanted = np.asarray(row["force_constants"]), len(row["p2s_map"]) * atoms
    # Flat as they are read, or of each two atoms as they were computed.
    if values.size != 9 * wanted:
        return f"{values.size} numbers of force constants where its cells have {9 * wanted}"
    return "" if np.isfinite(values).all() else "its force constants have numbers that are none"


def _displacements(row: Mapping[str, Any]) -> str:
    displaced, forces = row.get("displacement_atoms", ()), row.get("forces", ())
    atoms = len(row["numbers"]) * _cells_of(row["supercell_matrix"])
    if len(displaced) and (np.min(displaced) < 0 or np.max(displaced) >= atoms):
        return "atoms are displaced that are not in its supercell"
    if np.size(forces) not in (0, 3 * len(displaced) * atoms):
        return (
            f"{np.size(forces)} numbers of forces on {len(displaced)} supercells of {atoms} atoms"
        )
    return ""


def _cells_of(matrix: Any) -> int:
    """Count the cells of a supercell, in whole numbers of any size."""
    (a, b, c), (d, e, f), (g, h, i) = ([int(x) for x in line] for line in matrix)
    return abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


CHECKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "atoms": _atoms,
    "lattice": _lattice,
    "supercell": _supercell,
    "primitive cell": _primitive,
    "force constants": _force_constants,
    "displacements": _displacements,
}
"""Checks of a row before phonopy gets its cells, by their subject. A check gives a few
words about what is wrong; empty if nothing is."""


def require_path(row: Mapping[str, Any]) -> None:
    """Refuse a row whose band path is not one of its q-points.

    Raises
    ------
    StoreError
        If segments lead out of the q-points, or have no q.
    """
    with as_stored(row):
        qpoints, edges = row["band_qpoints"], np.asarray(row["band_segments"])
        ok = len(edges) > 1 and edges[0] == 0 and edges[-1] == len(qpoints)
        ok = ok and bool((np.diff(edges) > 0).all()) and bool(np.isfinite(qpoints).all())
    if not ok:
        raise StoreError(f"{_whose(row)}: its band path is none of its q-points")
