"""Atomic masses that a source names: isotopes, and masses in a file.

The default masses of the elements are phonopy's: a crystal has masses only if they are others. They
affect frequencies, but neither forces nor the sign of a squared frequency.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

ISOTOPES = {"D": 2.01410178, "T": 3.01604928}
"""Masses in u of hydrogen's isotopes that have symbols of their own."""

NOT_TAKEN = "masses of the source not taken: "
"""Beginning of the note on masses that cannot be used."""

TOLERANCE = 1e-3
"""A mass that differs by more, relative to the table, is another isotope; a smaller difference is
another edition of the table."""


@lru_cache(maxsize=1)
def of_elements() -> NDArray[np.float64]:
    """Return phonopy's masses in u by atomic number; NaN where it has none."""
    from phonopy.structure.atomic_data import get_atomic_data

    table = np.full(119, np.nan)
    for row in get_atomic_data().atom_data:
        if row[0] < len(table) and row[3] is not None:
            table[row[0]] = row[3]
    return table


def named(
    numbers: NDArray[np.integer[Any]], masses: ArrayLike | None
) -> tuple[NDArray[np.float64] | None, str]:
    """Return the masses of a source if they differ from those of the elements.

    Parameters
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    masses : array_like, shape (natoms,), or None
        In u; NaN if the source names none.

    Returns
    -------
    masses : ndarray, shape (natoms,), or None
        Of all atoms; ``None`` if they are those of the elements, or cannot be used.
    problem : str
        Why they cannot be used; empty if they can.
    """
    if masses is None:
        return None, ""
    given = np.asarray(masses, dtype=np.float64)
    if given.shape != np.shape(numbers):
        return None, f"{given.size} masses for {len(numbers)} atoms"
    is_named = ~np.isnan(given)
    wrong = is_named & ~(np.isfinite(given) & (given > 0))
    if wrong.any():
        atom = int(np.argmax(wrong))
        return None, f"atom {atom + 1} has a mass of {given[atom]:g}"
    known = of_elements()[numbers]
    # An element without a mass in phonopy's table has that of the source.
    other = is_named & ~(np.abs(given / known - 1) <= TOLERANCE)
    if not other.any():
        return None, ""
    return np.where(is_named, given, known), ""


def species(numbers: NDArray[np.integer[Any]], masses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of each atom's isotope within its element, shape (natoms,): 0, 1, ...

    Parameters
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    masses : ndarray, shape (natoms,)
        In u.
    """
    kinds = np.zeros(len(numbers), dtype=np.int64)
    for number in np.unique(numbers):
        atoms = np.flatnonzero(numbers == number)
        order = atoms[np.argsort(masses[atoms], kind="stable")]
        steps = masses[order][1:] > masses[order][:-1] * (1 + TOLERANCE)
        kinds[order] = np.concatenate([[0], np.cumsum(steps)])
    return kinds


def phonopy_atoms(
    numbers: NDArray[np.integer[Any]],
    masses: NDArray[np.float64] | None = None,
    **cell: Any,
) -> PhonopyAtoms:
    """Make phonopy's cell, with masses if they are not those of the elements.

    Isotopes of one element are separate species (H, H1), since symmetry does not exchange them; see
    :func:`tells_isotopes`.

    Parameters
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    masses : ndarray, shape (natoms,), or None
        In u; ``None`` for those of the elements.
    **cell
        The other arguments of ``PhonopyAtoms``.
    """
    from ase.data import chemical_symbols
    from phonopy.structure.atoms import PhonopyAtoms

    if masses is None:
        return PhonopyAtoms(numbers=numbers, **cell)
    kinds = species(numbers, masses)
    symbols = [
        f"{chemical_symbols[number]}{kind or ''}"
        for number, kind in zip(numbers, kinds, strict=True)
    ]
    return PhonopyAtoms(symbols=symbols, masses=masses, **cell)


def tells_isotopes(cell: PhonopyAtoms) -> bool:
    """Tell whether a cell has several isotopes of an element (``distinguish_symbol_index``)."""
    return len(set(cell.symbols)) > len(set(cell.numbers))


def make_phonopy(cell: PhonopyAtoms, primitive_matrix: Any, symprec: float, **more: Any) -> Phonopy:
    """Make a Phonopy object whose symmetry distinguishes isotopes of one element.

    Parameters
    ----------
    cell : PhonopyAtoms
        The unit cell.
    primitive_matrix : str or array_like, shape (3, 3)
        In phonopy's sense. ``auto`` is resolved here, because Phonopy warns of a change since its
        version 3.
    symprec : float
        In A.
    **more
        Other arguments of ``Phonopy``.
    """
    from phonopy import Phonopy
    from phonopy.structure.cells import get_primitive_matrix_with_auto

    isotopes = {"distinguish_symbol_index": True} if tells_isotopes(cell) else {}
    if isinstance(primitive_matrix, str):
        primitive_matrix = get_primitive_matrix_with_auto(
            cell, primitive_matrix, symprec, **isotopes
        )
    return Phonopy(cell, primitive_matrix=primitive_matrix, symprec=symprec, **isotopes, **more)


def listed(numbers: NDArray[np.integer[Any]], masses: NDArray[np.float64]) -> str:
    """Format masses for people: ``H 2.014``.

    Parameters
    ----------
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    masses : ndarray, shape (natoms,)
        In u; those of the elements are not listed.
    """
    from ase.data import chemical_symbols

    known = of_elements()[numbers]
    other = ~(np.abs(masses / known - 1) <= TOLERANCE)
    pairs = zip(numbers[other], masses[other], strict=True)
    return ", ".join(dict.fromkeys(f"{chemical_symbols[z]} {mass:.4g}" for z, mass in pairs))
