"""Forward passes filled with displaced supercells of several crystals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import CrystalError, EvaluationError, OutOfMemoryError, TooLargeError

if TYPE_CHECKING:
    from hpcbench.potentials.columns import Response
    from hpcbench.potentials.copies import DisplacedCopies
    from hpcbench.potentials.protocol import Differentiable, Potential, PreparedCopies


@dataclass(frozen=True, eq=False)
class Passed:
    """The outcome of a forward pass.

    Attributes
    ----------
    finished : list of (key, ndarray or Response or error)
        Crystals that leave the pool: with forces in eV/A on all their copies, shape (ncopies,
        natoms, 3), with the response to all their columns, or with the ``UnsuitableError`` or
        ``EvaluationError`` that ended them.
    costs : dict
        The cost evaluated for each crystal, in the unit of the potential's capacity.
    """

    finished: list[
        tuple[Hashable, NDArray[np.float64] | Response | CrystalError | EvaluationError]
    ] = field(default_factory=list)
    costs: dict[Hashable, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Set:
    """The copies of one crystal; forces are known for the first ``done`` of them."""

    key: Hashable
    prepared: PreparedCopies
    forces: NDArray[np.float64]
    done: int = 0

    @property
    def left(self) -> int:
        return len(self.forces) - self.done

    @property
    def cost(self) -> float:
        """The cost of one copy; atoms without neighbours cost something as well."""
        return max(1.0, self.prepared.cost)


@dataclass(frozen=True, eq=False)
class _Part:
    """Copies of a set that share a pass with others: the next ``count``."""

    of: _Set
    count: int

    @property
    def cost(self) -> float:
        return self.count * self.of.cost

    def for_potential(self) -> tuple[PreparedCopies, int, int]:
        return self.of.prepared, self.of.done, self.of.done + self.count


class ForcePool:
    """A queue of displaced supercells that need forces, first in, first out.

    A pass takes copies up to the potential's capacity, first those of the crystal that has waited
    longest, then those of the next ones: a crystal may need several passes, and a pass may serve
    several crystals. But for rounding, the forces of a crystal do not depend on the others in its
    passes.

    Parameters
    ----------
    potential : Potential
        Computes the forces.
    linear : bool
        Whether to compute the change of forces to first order in the displacements, in place of
        forces.
    """

    def __init__(self, potential: Potential, *, linear: bool = False) -> None:
        self._potential = potential
        self._linear = linear
        self._sets: dict[Hashable, _Set] = {}

    def __len__(self) -> int:
        """Return the number of crystals in the pool."""
        return len(self._sets)

    def add(self, key: Hashable, copies: DisplacedCopies) -> None:
        """Add the displaced supercells of a crystal.

        Parameters
        ----------
        key : hashable
            Names the crystal in the results of :meth:`run_pass`.
        copies : DisplacedCopies
            Its displaced supercells.

        Raises
        ------
        TooLargeError
            If the data that the copies share is too large for the device.
        EvaluationError
            If the potential fails to prepare them.
        """
        try:
            prepared = self._potential.prepare(copies)
        except OutOfMemoryError as error:
            raise self._too_large(copies, error) from error
        self._sets[key] = _Set(key, prepared, np.full((len(copies), copies.natoms, 3), np.nan))

    def fills_a_pass(self) -> bool:
        """Tell whether there is enough for a whole forward pass."""
        wanted = self._potential.capacity
        load = 0.0
        for waiting in self._sets.values():
            load += waiting.left * waiting.cost
            if load >= wanted:
                return True
        return False

    def run_pass(self) -> Passed:
        """Run one forward pass, or several smaller ones if memory or the potential requires it.

        Every call makes progress: copies are evaluated, or a crystal is given up. An exception
        other than those of the potential protocol leaves the pool as it was.
        """
        return self._run(list(self._sets.values()))

    def _run(self, sets: Sequence[_Set]) -> Passed:
        most = float(self._potential.capacity)
        while True:
            parts = _pack(sets, most)
            try:
                answers = self._answers([part.for_potential() for part in parts])
            except OutOfMemoryError as error:
                if len(parts) == 1 and parts[0].count == 1:
                    alone = parts[0].of
                    return self._give_up(alone, self._too_large(alone.prepared.copies, error))
                # Nothing is lost: the same copies are packed again, at most half as many.
                most = min(self._potential.capacity, sum(part.cost for part in parts) / 2)
            except (EvaluationError, CrystalError) as error:
                if len(parts) == 1:
                    return self._give_up(parts[0].of, error)
                return self._run_apart(parts)
            else:
                return self._received(parts, answers)

    def _answers(self, parts: list[tuple[PreparedCopies, int, int]]) -> list[NDArray[np.float64]]:
        if self._linear:
            return cast("Differentiable", self._potential).linear_forces(parts)
        return self._potential.forces(parts)

    def _run_apart(self, parts: Sequence[_Part]) -> Passed:
        """Evaluate crystals one by one, to find those for which the potential fails."""
        together = Passed()
        for part in parts:
            alone = self._run([part.of])
            together.finished.extend(alone.finished)
            together.costs.update(alone.costs)
        return together

    def _received(self, parts: Sequence[_Part], answers: Sequence[NDArray[np.float64]]) -> Passed:
        passed = Passed()
        for part, forces in zip(parts, answers, strict=True):
            waiting = part.of
            waiting.forces[waiting.done : waiting.done + part.count] = forces
            waiting.done += part.count
            passed.costs[waiting.key] = part.cost
            if waiting.left == 0:
                del self._sets[waiting.key]
                passed.finished.append((waiting.key, waiting.forces))
        return passed

    def _give_up(self, waiting: _Set, error: CrystalError | EvaluationError) -> Passed:
        del self._sets[waiting.key]
        return Passed([(waiting.key, error)], {waiting.key: waiting.cost})

    def _too_large(self, copies: DisplacedCopies, error: OutOfMemoryError) -> TooLargeError:
        volume = abs(float(np.linalg.det(copies.cell)))
        cost = self._potential.cost(copies.natoms, volume)
        return TooLargeError(
            f"a displaced supercell of {copies.natoms} atoms (cost {cost:.0f}) does not fit into "
            f"the memory of {self._potential.device}: {error}",
        )


def _pack(sets: Sequence[_Set], most: float) -> list[_Part]:
    """Return copies of a total cost of at most ``most``, but at least one copy."""
    parts: list[_Part] = []
    room = most
    for waiting in sets:
        count = min(waiting.left, math.floor(room / waiting.cost))
        if count == 0 and not parts:
            return [_Part(waiting, 1)]
        if count:
            parts.append(_Part(waiting, count))
            room -= parts[-1].cost
        if room <= 0:
            break
    return parts
