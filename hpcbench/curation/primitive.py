"""Crystals in their primitive cells."""

from __future__ import annotations

import warnings

import numpy as np
import spglib

from hpcbench.crystal import Crystal


def primitive_of(crystal: Crystal, tolerance: float) -> Crystal:
    """The crystal in its primitive cell, neither idealised nor turned.

    Its content id is that of the new cell. Unchanged where the cell is primitive already, where
    spglib finds no symmetry, where the source asks for a supercell, which would be another, and
    where it has Born charges or masses, which are of the atoms of its cell.

    Parameters
    ----------
    crystal : Crystal
        As read.
    tolerance : float
        Within which atoms are images of each other, in A.
    """
    # spglib ends the process with a segmentation fault on NaN.
    is_finite = np.isfinite(crystal.cell).all() and np.isfinite(crystal.positions).all()
    own = crystal.supercell_matrix, crystal.nac_params, crystal.masses
    is_bound = any(one is not None for one in own)
    if not is_finite or is_bound:
        return crystal
    try:
        fractional = np.linalg.solve(crystal.cell.T, crystal.positions.T).T
        with warnings.catch_warnings():
            # spglib 2.7 and 2.8 warn at every call of a change in how they report errors.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = spglib.standardize_cell(
                (crystal.cell, fractional, crystal.numbers),
                to_primitive=True,
                no_idealize=True,
                symprec=tolerance,
            )
    except (spglib.SpglibError, np.linalg.LinAlgError):
        return crystal
    if found is None or len(found[2]) >= crystal.natoms:
        return crystal
    cell, positions, numbers = found
    return Crystal.from_arrays(
        crystal.name, crystal.origins, cell, np.asarray(positions) @ cell, numbers
    )
