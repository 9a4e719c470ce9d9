"""The end of a validation in a few lines: how much was compared, and how well it agrees."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpcbench.analysis.accuracy.quantities import ANYWHERE, HIGHEST, errors_of
from hpcbench.analysis.accuracy.reading import read_compared
from hpcbench.counting import counted
from hpcbench.criteria import KELVIN_PER_TERAHERTZ
from hpcbench.store.schema import SET_ASIDE
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
        Those with phonons whose reference has values.
    frequencies : int
        Those with a highest frequency at commensurate q on both sides.
    error : float
        Mean absolute error of the highest frequency at commensurate q, in THz; NaN of none.
    labels : int
        Those of which a label has the highest frequency.
    label_error : float
        Mean absolute error of the highest frequency anywhere against labels, in THz; NaN of none.
    reasons : tuple of (str, int)
        Kinds of reasons of the others, and their numbers.
    """

    crystals: int
    compared: int
    frequencies: int
    error: float
    labels: int
    label_error: float
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
        for count, error, where in (
            (self.frequencies, self.error, "at commensurate q"),
            (self.labels, self.label_error, "anywhere, against labels"),
        ):
            if count:
                lines.append(
                    f"mean absolute error of the highest frequency {where}: {error:.4f} THz "
                    f"({error * KELVIN_PER_TERAHERTZ:.1f} K), {counted(count, 'crystal')}"
                )
        lines += [f"  {number} not compared: {shown_reason(kind)}" for kind, number in self.reasons]
        return "\n".join([*lines, f"tables: hpcbench accuracy {store}"])


def summary_of(store: Store) -> Summary:
    """Return the numbers of a validation: those of ``hpcbench accuracy``.

    Parameters
    ----------
    store : Store
        Of ``hpcbench validate``.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    compared = read_compared(store, frequencies=False)
    others = [one for one in compared.left_out if not one.kind.startswith(SET_ASIDE)]
    highest = errors_of(compared, HIGHEST)
    with_labels = [pair for pair in compared.pairs if pair not in highest.pairs]
    labels = errors_of(replace(compared, pairs=with_labels), ANYWHERE)
    # A kind begins with the crystal's status, which its reason says better.
    kinds = Counter(one.kind.rpartition(": ")[2] for one in others)
    return Summary(
        len(compared.pairs) + len(others),
        len(compared.pairs),
        len(highest.pairs),
        highest.mae.value / KELVIN_PER_TERAHERTZ,
        len(labels.pairs),
        labels.mae.value / KELVIN_PER_TERAHERTZ,
        tuple(kinds.most_common()),
    )
