"""The atoms in a CIF file's cell: sites, expanded by symmetry, checked by the formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcbench.crystal import OFF_GRID
from hpcbench.errors import UnreadableError
from hpcbench.sources.cif_symmetry import Operations
from hpcbench.sources.records import atomic_number

SITE_TOLERANCE = 0.1
"""Length in A below which two images of one site are the same atom.

pymatgen's CIF files "with symmetry" list sites up to 0.1 A off their special positions, rounded
numbers do the same on a small scale, and two atoms so close would be an overlap otherwise.
"""

MOST_ATOMS = 10_000
"""Largest number of atoms of a crystal, after its symmetry has been applied."""

FORMULA_TOLERANCE = 0.01
"""Largest difference of an element's share between the formula and the atoms."""

BY_COMPOSITION, BY_FORMULA, BY_UNITS = 1, 2, 3
"""Agreement of atoms with a file's formula: the same ratio of elements, or no formula; the same
numbers as the formula; the same numbers as Z formula units."""


@dataclass(frozen=True, eq=False)
class Contents:
    """Atoms of the cell: the site of each, and fractional coordinates."""

    owners: NDArray[np.int64]
    fractional: NDArray[np.float64]


def expand(
    fractional: NDArray[np.float64], cell: NDArray[np.float64], operations: Operations
) -> Contents:
    """Return all atoms of the cell, site by site.

    A site within ``SITE_TOLERANCE`` of a special position is moved onto it, since rounded numbers
    would leave its images slightly apart. Without symmetry nothing is moved or wrapped.

    Parameters
    ----------
    fractional : ndarray, shape (nsites, 3)
        Fractional coordinates of the sites.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    operations : Operations
        The symmetry.
    """
    rotations, translations = operations
    if len(rotations) == 1:
        return Contents(np.arange(len(fractional)), fractional)
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
    return Contents(np.array(owners), np.array(atoms))


def _nearest(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    return difference - np.rint(difference)


def coincide(contents: Contents, as_listed: Contents, cell: NDArray[np.float64]) -> bool:
    """Tell whether an image of one site falls on another listed site.

    Parameters
    ----------
    contents : Contents
        After the symmetry was applied.
    as_listed : Contents
        Before.
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    """
    for index, site in enumerate(as_listed.fractional):
        others = contents.fractional[contents.owners != index]
        distances = np.linalg.norm(_nearest(others - site) @ cell, axis=1)
        if (distances < SITE_TOLERANCE).any():
            return True
    return False


def is_same(one: Contents, other: Contents) -> bool:
    """Tell whether two expansions have the same atoms, in any order.

    Parameters
    ----------
    one, other : Contents
        The expansions.
    """
    return len(one.owners) == len(other.owners) and _grid(one) == _grid(other)


def _grid(contents: Contents) -> set[tuple[float, ...]]:
    # Shifted, so that no usual fraction is at a boundary between grid points.
    places = np.floor((contents.fractional % 1.0) * 1e4 + OFF_GRID) % 1e4
    return set(map(tuple, np.column_stack([contents.owners, places]).tolist()))


@dataclass(frozen=True, eq=False)
class Asked:
    """A file's information about the contents of its cell, apart from the list of sites.

    Attributes
    ----------
    formula : mapping
        Counts of elements; empty if it gives none.
    units : int
        Formula units in the cell; 0 if it does not give them.
    of_sites : ndarray, shape (nsites,)
        Atomic numbers of the sites.
    """

    formula: Mapping[str, float]
    units: int
    of_sites: NDArray[np.int32]

    def rank(self, contents: Contents) -> int:
        """Tell how well atoms agree with the file: 0 not at all, else one of the constants above.

        Only this reveals a file that was cut off between two atoms. Many writers give the formula
        of the whole cell, whatever Z is.
        """
        whole = sum(self.formula.values())
        if not whole:
            return BY_COMPOSITION
        found = Counter(self.of_sites[contents.owners].tolist())
        natoms = len(contents.owners)
        expected: Counter[int] = Counter()
        for symbol, count in self.formula.items():
            expected[atomic_number(symbol)] += count  # type: ignore[assignment]
        if any(
            abs(expected[z] / whole - found[z] / natoms) >= FORMULA_TOLERANCE
            for z in expected.keys() | found.keys()
        ):
            return 0
        if self.units and abs(natoms - self.units * whole) < 0.5:
            return BY_UNITS
        if abs(natoms - whole) < 0.5:
            return BY_FORMULA
        return 0 if self.units else BY_COMPOSITION

    def problem(self, contents: Contents) -> UnreadableError:
        """Return the error for atoms that do not agree with the file."""
        words = " ".join(f"{symbol}{count:g}" for symbol, count in self.formula.items())
        natoms, whole = len(contents.owners), sum(self.formula.values())
        times = f"{self.units} x " * bool(self.units)
        message = (
            f"the atoms do not add up to the formula {times}{words!r}: {natoms} of them, "
            f"{max(self.units, 1) * whole:g} expected; incomplete, cut off or in another setting"
        )
        return UnreadableError("formula", message)
