"""Start and end of a relaxation, and the parts of it that need no potential.

This module does not import torch: its functions run in worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import RelaxationError
from hpcbench.protocols import Stage
from hpcbench.relaxation.symmetry import (
    EXACT,
    Symmetry,
    SymmetryOperations,
    exact_operations,
    find_symmetry,
    idealise,
    no_operations,
    operations_to_keep,
)

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Start:
    """A crystal that is ready to be relaxed through one stage.

    Attributes
    ----------
    atoms : Atoms
        The crystal, without calculator and constraints, symmetric under ``operations``. It is
        exactly symmetric, but for the rare crystal (5 of 1,000 generated ones at 0.01 A) in which
        refinement revealed more symmetry within the tolerance; that symmetry is kept approximately,
        as in ASE, unless the stage asks for exact symmetry.
    operations : SymmetryOperations
        The symmetry that is kept.
    stage : Stage or None
        Aim and limits; ``None`` to evaluate the crystal without relaxation.
    mode : str
        ``none``, ``positions``, or ``full``: positions and cell.
    pressure : float
        External pressure in eV/A^3, for mode ``full``.
    first_volume : float
        Volume in A^3 of the given crystal, before any stage.
    """

    atoms: Atoms
    operations: SymmetryOperations
    stage: Stage | None
    mode: str
    pressure: float
    first_volume: float


@dataclass(frozen=True, eq=False)
class Minimum:
    """The result of a relaxation through one stage.

    Attributes
    ----------
    atoms : Atoms
        The relaxed crystal: same axes, setting and order of atoms as in its start.
    energy : float
        Potential energy of the cell in eV, without the term of the pressure.
    fmax : float
        Largest force in eV/A on the optimiser's degrees of freedom, with the rows of the cell if
        the cell was free, as in ASE.
    forces : ndarray, shape (natoms, 3)
        Forces in eV/A, their symmetric part.
    stress : ndarray, shape (3, 3)
        Cauchy stress in eV/A^3, its symmetric part; NaN if the cell was not free.
    steps : int
        Optimiser steps.
    force_calls : int
        Evaluations of the potential.
    """

    atoms: Atoms
    energy: float
    fmax: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    steps: int
    force_calls: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A start, and the symmetry found on the way to it.

    Attributes
    ----------
    start : Start
        The crystal, ready to be relaxed.
    found, exact : Symmetry
        Of the crystal before it was changed: at the tolerance, and within ``EXACT``.
    idealised : bool
        Whether the crystal was brought to its exact symmetry, as its stage asks.
    """

    start: Start
    found: Symmetry
    exact: Symmetry
    idealised: bool


def prepare(
    atoms: Atoms,
    stage: Stage | None,
    mode: str,
    symmetry_tolerance: float,
    pressure: float,
    first_volume: float | None,
    before: SymmetryOperations | None = None,
) -> Prepared:
    """Prepare a crystal for a round: refine its symmetry and find the operations to keep.

    Parameters
    ----------
    atoms : Atoms
        The crystal; it is not changed.
    stage : Stage or None
        Aim and limits; ``None`` to evaluate the crystal without relaxation.
    mode : str
        ``none``, ``positions``, or ``full``.
    symmetry_tolerance : float
        Tolerance in A for the symmetry that is kept.
    pressure : float
        External pressure in eV/A^3.
    first_volume : float or None
        Volume in A^3 of the crystal before any stage; ``None`` for the present one.
    before : SymmetryOperations, optional
        Operations kept in the previous round, if its constraint is still set when the crystal is
        refined.

    Raises
    ------
    RelaxationError
        If positions or cell are not finite, the cell has no volume, or a crystal that has to be
        refined cannot be.
    """
    bare = atoms.copy()
    bare.set_constraint()
    if not (np.isfinite(bare.positions).all() and np.isfinite(bare.cell[:]).all()):
        raise RelaxationError("nan", "positions or cell are not finite")
    volume = bare.get_volume()
    if volume < 1e-6 * np.prod(bare.cell.lengths()):
        raise RelaxationError("nan", "the cell has no volume")
    found, exact = (find_symmetry(bare, t) for t in (symmetry_tolerance, EXACT))
    operations = no_operations(len(bare))
    idealised = False
    if stage is not None and stage.symmetry == "exact":
        ideal = idealise(bare, symmetry_tolerance)
        bare, idealised = ideal.atoms, ideal.succeeded
        operations = exact_operations(bare)
    elif stage is not None:
        bare, operations = operations_to_keep(bare, symmetry_tolerance, before)
        idealised = stage.symmetry == "refined"
        if idealised and operations.complaint:
            raise RelaxationError(
                "symmetry", f"it cannot be refined as the protocol asks: {operations.complaint}"
            )
    return Prepared(
        Start(bare, operations, stage, mode, pressure, first_volume or volume),
        found,
        exact,
        idealised,
    )
