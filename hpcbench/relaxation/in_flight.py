"""Relaxation of many crystals in one batch; new ones take the place of those that have finished.

The algorithm is that of ASE's ``FIRE`` on a ``FrechetCellFilter`` with ``FixSymmetry``, in float64
whatever the precision of the potential. One thing differs, with the same result: the logarithm of
the deformation and the positions in the reference cell are the optimiser's own variables, where ASE
computes them from the crystal at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpcbench.errors import HpcbenchError, RelaxationError
from hpcbench.potentials.protocol import Potential
from hpcbench.potentials.structures import Structures
from hpcbench.relaxation.batch import Batch
from hpcbench.relaxation.fire import Vector
from hpcbench.relaxation.segments import join, select
from hpcbench.relaxation.start import Minimum, Start

__all__ = ["InFlight", "Minimum", "Start"]

# PhononBench's scripts give a crystal up above this force (eV/A).
HOPELESS_FORCE = 1e4
# A crystal whose volume changes by more than this factor is no longer the given one.
LARGEST_VOLUME_CHANGE = 5.0


@dataclass(frozen=True, eq=False)
class _Crystal:
    key: Any
    start: Start
    cost: float


@dataclass(frozen=True, eq=False)
class _Progress:
    """Limits and counts of each crystal: arrays on the host, one element for each."""

    aim: NDArray[np.float64]
    accept: NDArray[np.float64]
    hopeless: NDArray[np.float64]
    free: NDArray[np.bool_]
    first_volume: NDArray[np.float64]
    most_steps: NDArray[np.int64]
    steps: NDArray[np.int64]
    force_calls: NDArray[np.int64]

    @classmethod
    def of(cls, starts: list[Start]) -> _Progress:
        # A crystal without a stage is only evaluated: any finite forces are accepted.
        stages = [start.stage for start in starts]
        return cls(
            np.array([stage.fmax_aim if stage else np.inf for stage in stages]),
            np.array([stage.fmax_accept if stage else np.inf for stage in stages]),
            np.array([HOPELESS_FORCE if stage else np.inf for stage in stages]),
            np.array([start.mode == "full" for start in starts]),
            np.array([start.first_volume for start in starts]),
            np.array([stage.steps if stage else 0 for stage in stages]),
            *np.zeros((2, len(starts)), dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class _Seen:
    """An evaluation as the host knows it: the rows of the batch's report, and problems."""

    fmax: NDArray[np.float64]
    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]
    wild: NDArray[np.float64]
    problems: Mapping[int, HpcbenchError]

    @property
    def broken(self) -> NDArray[np.bool_]:
        result = np.zeros(len(self.fmax), dtype=bool)
        result[list(self.problems)] = True
        return result


class InFlight:
    """The crystals that are being relaxed together.

    Parameters
    ----------
    potential : Potential
        Evaluates all of them in one call.
    """

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self._entering: list[_Crystal] = []
        self._crystals: list[_Crystal] = []
        self._batch: Batch | None = None
        self._progress = _Progress.of([])
        self._load = 0.0

    def __len__(self) -> int:
        return len(self._crystals) + len(self._entering)

    @property
    def load(self) -> float:
        """Cost of a forward pass of all crystals, in the potential's unit."""
        return self._load

    def add(self, key: Any, start: Start) -> None:
        """Add a crystal, from the next step on.

        Parameters
        ----------
        key : object
            Is returned with the crystal's outcome.
        start : Start
            The crystal and its limits.
        """
        cost = self._potential.cost(len(start.atoms), start.atoms.get_volume())
        self._entering.append(_Crystal(key, start, cost))
        self._load += cost

    def step(self) -> list[tuple[Any, Minimum | HpcbenchError]]:
        """Evaluate all crystals once, and make a step with those that have not finished.

        Returns
        -------
        list of (key, outcome)
            The crystals that left: with their minimum, or with the error that ended them
            (``RelaxationError``, or the potential's own error for this crystal).
        """
        self._enter()
        batch, progress = self._batch, self._progress
        if batch is None:
            return []
        here = batch.structures()
        evaluation = self._potential.evaluate_batch(here, stress=bool(progress.free.any()))
        progress.force_calls[:] += 1
        forces, stresses = batch.symmetrised(evaluation)
        generalised = batch.generalised(forces, stresses)
        fmax, volumes, energies, wild = batch.report(generalised, evaluation.energies)
        seen = _Seen(fmax, volumes, energies, wild, evaluation.problems)
        growth = seen.volumes / progress.first_volume
        refused = (
            seen.broken
            | (seen.wild > 0)
            | ~np.isfinite(seen.energies)
            | ~((growth > 1 / LARGEST_VOLUME_CHANGE) & (growth < LARGEST_VOLUME_CHANGE))
            | ~np.isfinite(seen.fmax)
            | (seen.fmax > progress.hopeless)
        )
        out_of_steps = progress.steps >= progress.most_steps
        ended = ~refused & ((seen.fmax < progress.aim) | out_of_steps)
        accepted = ended & (seen.fmax <= progress.accept)
        leaving = refused | ended
        outcomes: list[tuple[Any, Minimum | HpcbenchError]] = []
        if leaving.any():
            outcomes = [
                (self._crystals[index].key, self._failure(index, seen))
                for index in np.flatnonzero(leaving & ~accepted).tolist()
            ]
            arrived = np.flatnonzero(accepted)
            outcomes += self._minima(arrived, batch, here, forces, stresses, seen)
            kept = np.flatnonzero(~leaving)
            structures, atoms = batch.rows(kept)
            generalised = Vector(generalised.atoms[atoms], generalised.cells[structures])
            batch = batch.select(kept) if len(kept) else None
            self._keep(kept)
        if batch is not None:
            batch = batch.advanced(generalised)
            self._progress.steps[:] += 1
        self._batch = batch
        return outcomes

    def _enter(self) -> None:
        if not self._entering:
            return
        starts = [crystal.start for crystal in self._entering]
        batch, progress = Batch.of(starts, self._potential.device), _Progress.of(starts)
        if self._batch is None:
            self._batch, self._progress = batch, progress
        else:
            self._batch = self._batch.join(batch)
            self._progress = join(self._progress, progress)
        self._crystals += self._entering
        self._entering = []

    def _keep(self, kept: NDArray[np.int64]) -> None:
        self._crystals = [self._crystals[index] for index in kept.tolist()]
        self._load = sum(crystal.cost for crystal in self._crystals)
        self._progress = select(self._progress, kept)

    def _minima(
        self,
        arrived: NDArray[np.int64],
        batch: Batch,
        here: Structures,
        forces: torch.Tensor,
        stresses: torch.Tensor,
        seen: _Seen,
    ) -> list[tuple[Any, Minimum]]:
        """Return the minima of the crystals that converged; two transfers for all of them."""
        structures, atoms = batch.rows(arrived)
        of_atoms = torch.cat([here.positions[atoms], forces[atoms]], 1).cpu().numpy()
        of_cells = torch.cat([here.cells[structures], stresses[structures]], 1).cpu().numpy()
        natoms = batch.natoms[arrived]
        first_rows = np.cumsum(natoms) - natoms
        minima = []
        for place, index in enumerate(arrived.tolist()):
            crystal = self._crystals[index]
            rows = of_atoms[first_rows[place] :][: natoms[place]].copy()
            relaxed = crystal.start.atoms.copy()
            relaxed.set_cell(of_cells[place, :3])
            relaxed.positions[:] = rows[:, :3]
            stress = of_cells[place, 3:].copy()
            if crystal.start.mode != "full":
                stress[:] = np.nan
            minimum = Minimum(
                relaxed,
                float(seen.energies[index]),
                float(seen.fmax[index]),
                rows[:, 3:],
                stress,
                int(self._progress.steps[index]),
                int(self._progress.force_calls[index]),
            )
            minima.append((crystal.key, minimum))
        return minima

    def _failure(self, index: int, seen: _Seen) -> HpcbenchError:
        """Return the error of a crystal that did not converge."""
        stage = self._crystals[index].start.stage
        steps = int(self._progress.steps[index])
        fmax = seen.fmax[index]
        growth = seen.volumes[index] / self._progress.first_volume[index]
        if seen.wild[index]:
            return RelaxationError(
                "flew apart", f"step {steps} would have deformed its cell by more than a quarter"
            )
        if index in seen.problems:
            return seen.problems[index]
        if stage is None:
            return RelaxationError("nan", "the potential gives NaN for the crystal as it is")
        if not np.isfinite([seen.energies[index], fmax]).all():
            return RelaxationError("nan", f"energy or forces are not finite after {steps} steps")
        if fmax > HOPELESS_FORCE:
            return RelaxationError(
                "flew apart", f"a force of {fmax:.2g} eV/A after {steps} steps (limit 10,000)"
            )
        if not 1 / LARGEST_VOLUME_CHANGE < growth < LARGEST_VOLUME_CHANGE:
            return RelaxationError(
                "flew apart", f"its volume changed by a factor of {growth:.2f} in {steps} steps"
            )
        return RelaxationError(
            "not converged",
            f"largest force {fmax:.4f} eV/A after {steps} steps, wanted {stage.fmax_accept:g}",
        )
