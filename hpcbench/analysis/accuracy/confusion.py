"""Confusion matrices of dynamical stability, by the rules of the two papers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpcbench.analysis.accuracy.pairs import Compared
from hpcbench.analysis.rates import Rate


@dataclass(frozen=True)
class Confusion:
    """Count the crystals on whose stability a potential and the reference agree.

    Attributes
    ----------
    true_stable, false_unstable : int
        Crystals that are stable by the reference: also by the potential, and not.
    true_unstable, false_stable : int
        Crystals that are unstable by the reference: also by the potential, and not.
    reasons : dict
        Number of crystals that are in no cell, by reason.
    """

    true_stable: int
    false_unstable: int
    true_unstable: int
    false_stable: int
    reasons: dict[str, int]

    @property
    def total(self) -> int:
        """Crystals in the matrix."""
        return self.true_stable + self.false_unstable + self.true_unstable + self.false_stable

    @property
    def of_stable(self) -> Rate:
        """Found stable, of those that are: Loew's TS; FU is the rest."""
        return Rate(self.true_stable, self.true_stable + self.false_unstable)

    @property
    def of_unstable(self) -> Rate:
        """Found unstable, of those that are: Loew's TU; FS is the rest."""
        return Rate(self.true_unstable, self.true_unstable + self.false_stable)

    @property
    def accuracy(self) -> Rate:
        """Right answers, of all."""
        return Rate(self.true_stable + self.true_unstable, self.total)

    @property
    def shares(self) -> dict[str, Rate]:
        """Each cell as a share of all crystals; positive is stable, as Lee and Xia count."""
        cells = {
            "true positive": self.true_stable,
            "true negative": self.true_unstable,
            "false positive": self.false_stable,
            "false negative": self.false_unstable,
        }
        return {name: Rate(count, self.total) for name, count in cells.items()}


def confusion(compared: Compared, rule: str) -> Confusion:
    """Count agreement on stability by a rule.

    Parameters
    ----------
    compared : Compared
        The crystals of a store.
    rule : str
        ``LOEW`` or ``LEE_XIA`` of :mod:`hpcbench.analysis.accuracy.values`.
    """
    cells: Counter[tuple[bool, bool]] = Counter()
    reasons: Counter[str] = Counter()
    for pair in compared.pairs:
        ours, theirs = pair.potential.stable.get(rule), pair.reference.stable.get(rule)
        if theirs is None:
            reasons["not known of the reference"] += 1
        elif ours is None:
            reasons["not known of the potential"] += 1
        else:
            cells[theirs, ours] += 1
    return Confusion(
        cells[True, True],
        cells[True, False],
        cells[False, False],
        cells[False, True],
        dict(reasons.most_common()),
    )
