"""Relaxation of crystals to a minimum of the potential, with their symmetry kept."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, RelaxationError
from hpcbench.potentials.ase_calculator import PotentialCalculator
from hpcbench.potentials.protocol import Potential
from hpcbench.protocols import Stage
from hpcbench.relaxation.symmetry import SpaceGroup, find_space_group, idealise

if TYPE_CHECKING:
    from ase import Atoms

# PhononBench's scripts give a crystal up above this force (eV/A).
HOPELESS_FORCE = 1e4
# A crystal whose volume grew or shrank by more than this factor is another object.
LARGEST_VOLUME_CHANGE = 5.0


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A relaxed crystal and how it got there.

    Attributes
    ----------
    atoms : Atoms
        The relaxed crystal: same axes, setting and order of atoms as given.
    energy : float
        Potential energy of the cell in eV.
    fmax : float
        Largest force in eV/A, the Frechet filter's rows for the cell included when the cell
        was free, as in ASE.
    stress : ndarray, shape (3, 3)
        Residual stress in eV/A^3; NaN where the cell was not free.
    steps : int
        Optimiser steps, all stages together.
    force_calls : int
        Evaluations of the potential.
    space_group_before, space_group_after : SpaceGroup
        Found at the symmetry tolerance in the crystal as given and as relaxed.
    idealised : bool
        Whether the relaxed cell was brought to its exact symmetry and relaxed on from there.
    """

    atoms: Atoms
    energy: float
    fmax: float
    stress: NDArray[np.float64]
    steps: int
    force_calls: int
    space_group_before: SpaceGroup
    space_group_after: SpaceGroup
    idealised: bool


def relax(
    structures: Sequence[Atoms],
    potential: Potential,
    *,
    mode: str,
    stages: Sequence[Stage],
    symmetry_tolerance: float,
) -> list[Relaxation | CrystalError]:
    """Relax a batch of crystals; one that fails gives its error in its place.

    Parameters
    ----------
    structures : sequence of Atoms
        Crystals as given; they are not changed.
    mode : str
        ``none`` (evaluate only), ``positions`` (the cell changes only as far as bringing it to
        its symmetry within the tolerance asks), or ``full`` (positions and cell together, with
        ASE's Frechet cell filter).
    stages : sequence of Stage
        What the protocol does, one stage after the other.
    symmetry_tolerance : float
        Tolerance in A at which the symmetry that is kept is found.
    """
    results: list[Relaxation | CrystalError] = []
    for structure in structures:
        try:
            results.append(_relax_one(structure, potential, mode, stages, symmetry_tolerance))
        except CrystalError as error:
            results.append(error)
    return results


def _relax_one(
    structure: Atoms,
    potential: Potential,
    mode: str,
    stages: Sequence[Stage],
    symmetry_tolerance: float,
) -> Relaxation:
    atoms = structure.copy()
    calculator = PotentialCalculator(potential, stress=mode == "full")
    before = find_space_group(atoms, symmetry_tolerance)
    steps = 0
    fmax = np.inf
    idealised = False
    for stage in stages if mode != "none" else ():
        if stage.idealise_first:
            ideal = idealise(atoms, symmetry_tolerance)
            atoms, idealised = ideal.atoms, ideal.succeeded
        atoms.calc = calculator
        atoms.set_constraint()
        if find_space_group(atoms, symmetry_tolerance).number > 1:
            atoms.set_constraint(FixSymmetry(atoms, symprec=symmetry_tolerance))
        stage_steps, fmax = _run_stage(atoms, mode, stage, structure.get_volume())
        steps += stage_steps
    atoms.calc = calculator
    if mode == "none":
        fmax = _largest_force(atoms)
    energy = float(atoms.get_potential_energy())
    stress = atoms.get_stress(voigt=False) if mode == "full" else np.full((3, 3), np.nan)
    if not np.isfinite([energy, fmax]).all():
        raise RelaxationError("nan", "the potential gives NaN for the crystal as it is")
    atoms.set_constraint()
    atoms.calc = None
    return Relaxation(
        atoms,
        energy,
        fmax,
        np.asarray(stress),
        steps,
        calculator.calls,
        before,
        find_space_group(atoms, symmetry_tolerance),
        idealised,
    )


def _run_stage(atoms: Atoms, mode: str, stage: Stage, first_volume: float) -> tuple[int, float]:
    """Relax in place; returns the steps taken and the largest force in eV/A."""
    steps = 0
    fmax = np.inf
    for _ in range(stage.rounds):
        # What converges must be measured on the optimiser's own degrees of freedom: a new
        # filter would refer the cell's rows to another reference cell.
        freedom = FrechetCellFilter(atoms) if mode == "full" else atoms
        optimiser = FIRE(freedom, logfile=None)
        try:
            with warnings.catch_warnings():
                # FixSymmetry warns before it refuses a large step; the refusal is recorded.
                warnings.simplefilter("ignore")
                for _ in optimiser.irun(fmax=stage.fmax_aim, steps=stage.steps):
                    fmax = _largest_force(freedom)
                    _refuse_hopeless(atoms, fmax, first_volume, steps + optimiser.nsteps)
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            # FixSymmetry's refusal of a wild step, a singular cell, or a failing neighbour list.
            raise RelaxationError(
                "flew apart", f"after {steps + optimiser.nsteps} steps: {error}"
            ) from error
        steps += optimiser.nsteps
        if fmax <= stage.fmax_accept:
            return steps, fmax
    raise RelaxationError(
        "not converged",
        f"largest force {fmax:.4f} eV/A after {steps} steps, wanted {stage.fmax_accept:g}",
    )


def _largest_force(freedom: Any) -> float:
    return float(np.sqrt((freedom.get_forces() ** 2).sum(axis=1).max()))


def _refuse_hopeless(atoms: Atoms, fmax: float, first_volume: float, steps: int) -> None:
    if not np.isfinite(fmax):
        raise RelaxationError("nan", f"forces are not finite after {steps} steps")
    if fmax > HOPELESS_FORCE:
        raise RelaxationError(
            "flew apart", f"a force of {fmax:.2g} eV/A after {steps} steps (limit 10,000)"
        )
    change = atoms.get_volume() / first_volume
    if not 1 / LARGEST_VOLUME_CHANGE < change < LARGEST_VOLUME_CHANGE:
        raise RelaxationError(
            "flew apart", f"its volume changed by a factor of {change:.2f} in {steps} steps"
        )
