"""Forward passes filled with columns of the linear response of several crystals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.errors import CrystalError, EvaluationError, OutOfMemoryError, TooLargeError
from hpcbench.phonons.packing import Passed
from hpcbench.potentials.columns import Columns, Response

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.protocol import Linearised, Responsive

# Memory of a linearised crystal, as a number of columns (about as many values for each edge, see
# m3gnet_linear.py).
_KEPT = 4
# Crystals share passes only if one has at least this share of the other's number of columns,
# because a pass is equally wide for both.
_ALIKE = 0.5
_ANY = 2**30


@dataclass(eq=False)
class _Waiting:
    """The columns of one crystal; answers are there for the first ``done`` of them."""

    key: Hashable
    atoms: Atoms
    columns: Columns
    cost: float
    answers: list[Response] = field(default_factory=list)
    done: int = 0

    @property
    def left(self) -> int:
        return len(self.columns) - self.done

    def together(self) -> Response:
        """Return all answers as one."""
        return Response(
            np.concatenate([one.forces for one in self.answers]),
            np.concatenate([one.virials for one in self.answers]),
        )


@dataclass(eq=False)
class _Group:
    """Crystals that were linearised together and share passes until their columns are done."""

    members: list[_Waiting]
    linearised: Linearised
    most: int = _ANY  # columns of each in a pass


class ColumnPool:
    """A queue of columns of linear response, first in, first out.

    Crystals with similar numbers of columns are linearised together in one pass, and their columns
    go through passes together, as many at once as the potential's capacity allows. But for
    rounding, the results of a crystal do not depend on the others in its passes.
    """

    def __init__(self, potential: Responsive) -> None:
        self._potential = potential
        self._waiting: dict[Hashable, _Waiting] = {}
        self._group: _Group | None = None
        self._most_together = _ANY
        self._apart: set[Hashable] = set()

    def __len__(self) -> int:
        """Return the number of crystals in the pool."""
        return len(self._waiting)

    def add(self, key: Hashable, atoms: Atoms, columns: Columns) -> None:
        """Add the columns of a crystal.

        Parameters
        ----------
        key : hashable
            Names the crystal in the results of :meth:`run_pass`.
        atoms : Atoms
            The primitive cell.
        columns : Columns
            Either all with real phases or all with complex ones.
        """
        cost = self._potential.cost(len(atoms), float(atoms.get_volume()))
        self._waiting[key] = _Waiting(key, atoms, columns, max(1.0, cost))

    def fills_a_pass(self) -> bool:
        """Tell whether there is enough for a whole forward pass."""
        if self._group is not None:
            return True
        load = sum(one.left * one.cost * one.columns.parts for one in self._waiting.values())
        return load >= self._potential.capacity

    def run_pass(self) -> Passed:
        """Run one forward pass, or linearise a group of crystals.

        Every call makes progress: crystals are linearised, columns are computed, a group is made
        smaller, or a crystal is given up. An exception other than those of the potential protocol
        leaves the pool as it was.
        """
        if self._group is None:
            return self._linearise(self._chosen())
        return self._respond(self._group)

    def _chosen(self) -> list[_Waiting]:
        """Return crystals to be linearised together."""
        first, *others = self._waiting.values()
        if first.key in self._apart:
            return [first]
        chosen, load = [first], first.cost * first.columns.parts
        most = first.left + _KEPT
        for other in others:
            alike = _ALIKE * first.left <= other.left <= first.left / _ALIKE
            same = other.columns.parts == first.columns.parts and other.key not in self._apart
            if not (alike and same):
                continue
            wider, more = max(most, other.left + _KEPT), other.cost * other.columns.parts
            if (load + more) * wider > self._potential.capacity:
                continue
            if len(chosen) == self._most_together:
                break
            chosen, load, most = [*chosen, other], load + more, wider
        return chosen

    def _linearise(self, chosen: list[_Waiting]) -> Passed:
        from hpcbench.potentials.structures import Structures

        batch = Structures.from_atoms([one.atoms for one in chosen], self._potential.device)
        costs = {one.key: one.cost for one in chosen}
        try:
            linearised = self._potential.linearise(batch)
        except OutOfMemoryError as error:
            if len(chosen) == 1:
                return self._give_up(chosen[0], self._too_large(chosen[0], error))
            self._most_together = max(1, len(chosen) // 2)
        except (EvaluationError, CrystalError) as error:
            if len(chosen) == 1:
                return self._give_up(chosen[0], error)
            # Alone, to find out which of them it is.
            self._apart.update(one.key for one in chosen)
        else:
            self._group = _Group(chosen, linearised)
        return Passed([], costs)

    def _respond(self, group: _Group) -> Passed:
        members, cost = group.members, group.linearised.cost * group.members[0].columns.parts
        count = min(
            max(1, int(self._potential.capacity / max(1.0, cost)) - _KEPT),
            group.most,
            max(one.left for one in members),
        )
        parts = [one.columns.only(slice(one.done, one.done + count)) for one in members]
        # Those that are done have left the pool, while others of their group go on.
        costs = {
            one.key: one.cost * len(part)
            for one, part in zip(members, parts, strict=True)
            if one.left
        }
        try:
            answers = self._potential.respond(group.linearised, parts)
        except OutOfMemoryError as error:
            # With one column of each, only fewer crystals help.
            if count > 1:
                group.most = count // 2
                return Passed([], costs)
            self._group = None
            if len(members) == 1:
                return self._give_up(members[0], self._too_large(members[0], error))
            self._most_together = max(1, len(members) // 2)
            return Passed([], costs)
        except (EvaluationError, CrystalError) as error:
            self._group = None
            if len(members) == 1:
                return self._give_up(members[0], error)
            self._apart.update(one.key for one in members)
            return Passed([], costs)
        return self._received(group, parts, answers, costs)

    def _received(
        self,
        group: _Group,
        parts: Sequence[Columns],
        answers: Sequence[Response],
        costs: dict[Hashable, float],
    ) -> Passed:
        passed = Passed([], costs)
        for one, part, answer in zip(group.members, parts, answers, strict=True):
            if not one.left:
                continue
            one.answers.append(answer)
            one.done += len(part)
            if not one.left:
                self._leave(one)
                passed.finished.append((one.key, one.together()))
        if not any(one.left for one in group.members):
            self._group, self._most_together = None, _ANY
        return passed

    def _give_up(self, one: _Waiting, error: CrystalError | EvaluationError) -> Passed:
        self._leave(one)
        return Passed([(one.key, error)], {one.key: one.cost})

    def _leave(self, one: _Waiting) -> None:
        del self._waiting[one.key]
        self._apart.discard(one.key)

    def _too_large(self, one: _Waiting, error: OutOfMemoryError) -> TooLargeError:
        return TooLargeError(
            f"the linear response of a cell of {len(one.atoms)} atoms (cost {one.cost:.0f}) does "
            f"not fit into the memory of {self._potential.device}: {error}",
        )
