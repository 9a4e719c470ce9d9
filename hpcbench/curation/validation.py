"""Checks for crystals that were read but cannot be computed."""

from __future__ import annotations

import numpy as np

from hpcbench.crystal import Crystal
from hpcbench.errors import UnsuitableError
from hpcbench.masses import of_elements

MAX_EDGE = 1e4
"""Longest lattice vector in A: longer ones are errors of the program that wrote them."""

MIN_VOLUME = 1.0
"""Smallest volume per atom in A^3. Hydrogen at 400 GPa has 1.4."""

MIN_HEIGHT = 0.1
"""Smallest distance in A between opposite faces of a cell: flatter cells have too many
neighbours."""


def examine(crystal: Crystal, *, min_distance: float = 0.5) -> None:
    """Refuse a crystal that cannot be computed by any potential or by phonopy.

    Parameters
    ----------
    crystal : Crystal
        The crystal as read.
    min_distance : float, optional
        Two atoms closer than this, in A, overlap; periodic images count.

    Raises
    ------
    UnsuitableError
        Kinds, in the order of the checks: "cell" (not finite, absurdly long, less than 1 A^3 per
        atom, flat), "coordinates" (not finite), "overlap", "no mass" (an element without an
        atomic mass in phonopy, such as Pu, Po, Ra, where the source names none).
    """
    _check_cell(crystal)
    if not np.isfinite(crystal.positions).all():
        atom = int(np.argmin(np.isfinite(crystal.positions).all(axis=1)))
        raise UnsuitableError("coordinates", f"the position of atom {atom + 1} is not finite")
    _check_distances(crystal, min_distance)
    _check_masses(crystal)


def _check_cell(crystal: Crystal) -> None:
    cell = crystal.cell
    if not np.isfinite(cell).all():
        raise UnsuitableError("cell", "the cell holds NaN or infinity")
    longest = float(np.linalg.norm(cell, axis=1).max())
    if longest > MAX_EDGE:
        message = f"a lattice vector is {longest:.3g} A long (limit {MAX_EDGE:g} A)"
        raise UnsuitableError("cell", message)
    volume = abs(float(np.linalg.det(cell)))
    per_atom = volume / max(crystal.natoms, 1)
    if per_atom < MIN_VOLUME:
        message = f"the volume is {per_atom:.3g} A^3 per atom (limit {MIN_VOLUME:g} A^3)"
        raise UnsuitableError("cell", message)
    faces = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    height = volume / float(faces.max())
    if height < MIN_HEIGHT:
        message = f"the cell is {height:.3g} A high (limit {MIN_HEIGHT:g} A)"
        raise UnsuitableError("cell", message)


def _check_distances(crystal: Crystal, min_distance: float) -> None:
    from ase.data import chemical_symbols
    from ase.neighborlist import primitive_neighbor_list

    first, second, distances, images = primitive_neighbor_list(
        "ijdS", [True] * 3, crystal.cell, crystal.positions, min_distance, self_interaction=False
    )
    if len(distances) == 0:
        return
    # The closest pair; of its two directions the one with the lower atom first.
    closest = min(range(len(distances)), key=lambda n: (distances[n].round(9), first[n]))
    one, other = int(first[closest]), int(second[closest])
    image = " (a periodic image)" if images[closest].any() else ""
    raise UnsuitableError(
        "overlap",
        f"{chemical_symbols[crystal.numbers[one]]} (atom {one + 1}) and "
        f"{chemical_symbols[crystal.numbers[other]]} (atom {other + 1}){image} are "
        f"{distances[closest]:.3f} A apart (limit {min_distance:g} A)",
    )


def _check_masses(crystal: Crystal) -> None:
    masses = of_elements()[crystal.numbers] if crystal.masses is None else crystal.masses
    missing = {int(z) for z in crystal.numbers[np.isnan(masses)]}
    if missing:
        from ase.data import chemical_symbols

        symbols = ", ".join(chemical_symbols[z] for z in sorted(missing))
        raise UnsuitableError("no mass", f"phonopy has no atomic mass for {symbols}")
