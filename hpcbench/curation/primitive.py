"""Reduction of crystals to their primitive cells."""

from __future__ import annotations

import warnings

import numpy as np
import spglib

from hpcbench.crystal import Crystal


def primitive_of(crystal: Crystal, tolerance: float) -> Crystal:
    """Return the crystal in its primitive cell, neither idealised nor rotated.

    Its content id is that of the new cell. The crystal is returned unchanged if the cell is
    primitive, if spglib finds no symmetry, if the source asks for a supercell (which would be
    another one), or if it has Born charges or masses (which belong to the atoms of its cell).

    Parameters
    ----------
    crystal : Crystal
        The crystal as read.
    tolerance : float
        In A, within which atoms are images of each other.
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
