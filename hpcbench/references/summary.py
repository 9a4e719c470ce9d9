"""The end of a validation in a few lines: how much was compared, and how well it agrees."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.counting import counted
from hpcbench.criteria import KELVIN_PER_TERAHERTZ
from hpcbench.references.values import values_of
from hpcbench.store.schema import DONE, SET_ASIDE
from hpcbench.texts import shown_reason

if TYPE_CHECKING:
    from hpcbench.store.reader import Store


@dataclass(frozen=True)
class Summary:
    """The numbers of a validation.

    Attributes
    ----------
    crystals : int
        Crystals of the store, without those set aside.
    compared : int
        Those with phonons whose highest frequency or heat capacity the reference has.
    frequencies : int
        Those with a highest frequency on both sides.
    error : float
        Mean absolute difference of the highest frequencies in THz; NaN if there are none.
    reasons : tuple of (str, int)
        Kinds of reasons of the others, and their numbers.
    """

    crystals: int
    compared: int
    frequencies: int
    error: float
    reasons: tuple[tuple[str, int], ...]

    def words(self, store: str) -> str:
        """Return the lines that a terminal shows.

        Parameters
        ----------
        store : str
            Path of the store.
        """
        lines = [
            f"compared with references: {self.compared} of {counted(self.crystals, 'crystal')}"
        ]
        if self.frequencies:
            kelvin = self.error * KELVIN_PER_TERAHERTZ
            lines.append(
                f"mean absolute error of the highest frequency: {self.error:.4f} THz "
                f"({kelvin:.1f} K), {counted(self.frequencies, 'crystal')}"
            )
        lines += [f"  {number} not compared: {shown_reason(kind)}" for kind, number in self.reasons]
        return "\n".join([*lines, f"tables: hpcbench accuracy {store}"])


def summary_of(store: Store) -> Summary:
    """Return the numbers of a validation.

    Parameters
    ----------
    store : Store
        Of ``hpcbench validate``.
    """
    table, references = store.table, store.references.table
    done = references[references["status"] == DONE]
    theirs = dict(zip(done["parent"], done["max_frequency"], strict=True))
    differences, compared, reasons = [], 0, Counter[str]()
    for key, row in zip(table.index, table.to_dict("records"), strict=True):
        if row["status"] == SET_ASIDE:
            continue
        if row["status"] != DONE:
            reasons[str(row["reason"]).partition(":")[0]] += 1
            continue
        compared += 1
        highest = theirs.get(key)
        if highest is None:
            highest = values_of({str(name): value for name, value in row.items()}).max_frequency
        if math.isfinite(highest):
            differences.append(abs(float(row["max_frequency"]) - float(highest)))
    return Summary(
        int((table["status"] != SET_ASIDE).sum()),
        compared,
        len(differences),
        float(np.mean(differences)) if differences else math.nan,
        tuple(reasons.most_common()),
    )
