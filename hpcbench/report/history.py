"""Crystals that were computed more than once: the final computation, and its effect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcbench.store.schema import (
    BESIDE,
    DONE,
    DOUBLE,
    EXTRAPOLATED,
    FIRST,
    LARGER,
    REFERENCE,
    REFINED,
    RESPONSE,
    WITHOUT_NAC,
)

if TYPE_CHECKING:
    import pandas

    from hpcbench.store.reader import Store

_WORDS = {
    FIRST: "first computation",
    EXTRAPOLATED: "displacements of several lengths, extrapolated",
    DOUBLE: "in float64",
    LARGER: "next larger supercell",
    RESPONSE: "linear response in place of displacements",
    REFINED: "linear response at more q, until interpolation is right",
    BESIDE: "protocol phononbench",
    WITHOUT_NAC: "without Born charges",
    REFERENCE: "the reference",
}
MOST_CHANGED = 200


@dataclass(frozen=True)
class Change:
    """A crystal whose final verdict differs from that of its first computation.

    Attributes
    ----------
    key, name : str
        Its id and its name.
    how : str
        The final computation, in words.
    first, decided : str
        The verdicts.
    lowest_first, lowest : float
        The lowest frequencies in THz.
    """

    key: str
    name: str
    how: str
    first: str
    decided: str
    lowest_first: float
    lowest: float


@dataclass(frozen=True)
class History:
    """The effect of further computations.

    Attributes
    ----------
    count : int
        Crystals that were computed more than once.
    ways : tuple of (str, int)
        Kinds of the final computation, in words, and their numbers of crystals.
    transitions : tuple of (str, str, int)
        First and final verdict, and the number of crystals; for changed verdicts.
    changed : tuple of Change
        Crystals with changed verdicts, in the order of the store.
    """

    count: int
    ways: tuple[tuple[str, int], ...]
    transitions: tuple[tuple[str, str, int], ...]
    changed: tuple[Change, ...]


def computation_words(kind: str) -> str:
    """Return the kind of a row's computation in words."""
    return _WORDS.get(kind, kind)


def history_of(store: Store, threshold: float | None = None) -> History | None:
    """Compare the verdicts of crystals with those of their first computations.

    Parameters
    ----------
    store : Store
        The store of a run.
    threshold : float, optional
        Threshold of the criterion of the verdict, in THz. The lowest frequencies are then those
        that it compared, without the acoustic modes at Gamma; otherwise those on the band path.

    Returns
    -------
    History or None
        ``None`` if each crystal was computed once.
    """
    table = store.table
    if "again" not in table:
        return None
    decided = table[(table["status"] == DONE) & (table["again"] != "")]
    if not len(decided):
        return None
    ways = Counter(computation_words(kind) for kind in decided["again"])
    changed = list(_changes(store, decided, threshold))
    transitions = Counter((one.first, one.decided) for one in changed)
    return History(
        len(decided),
        tuple(ways.most_common()),
        tuple((*verdicts, count) for verdicts, count in transitions.most_common()),
        tuple(changed),
    )


def _changes(store: Store, decided: pandas.DataFrame, threshold: float | None) -> Iterator[Change]:
    lowest, above = ("min_frequency_path", 0.0) if threshold is None else ("margin", threshold)
    table = store.history.table
    firsts = table[table["again"] == FIRST]
    before: dict[str, tuple[str, float]] = {
        parent: (verdict, float(frequency) + above)
        for parent, verdict, frequency in firsts[["parent", "verdict", lowest]].itertuples(
            index=False
        )
    }
    for row in decided.to_dict("records"):
        # A damaged store may have lost some of the history.
        first, lowest_first = before.get(row["id"], (row["verdict"], math.nan))
        if first != row["verdict"]:
            yield Change(
                row["id"],
                row["name"],
                computation_words(row["again"]),
                first,
                row["verdict"],
                lowest_first,
                row[lowest] + above,
            )
