"""Comparison of two protocols: crystals with different verdicts, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.analysis.breakdown import lowest_frequencies
from hpcbench.analysis.rates import stable_rate
from hpcbench.criteria import PLACES, Criterion
from hpcbench.report.wording import rate_words, texts_of
from hpcbench.store.schema import BESIDE, DONE

if TYPE_CHECKING:
    import pandas

    from hpcbench.store.reader import Store

# In THz: that of the strictest criterion in use, and two looser ones.
THRESHOLDS = (-0.001, -0.01, -0.1)
MOST_CHANGED = 200


@dataclass(frozen=True)
class Shares:
    """Stable crystals by a criterion: by the run's protocol, by the other, and changes."""

    name: str
    here: int
    beside: int
    became_stable: int
    became_unstable: int


@dataclass(frozen=True)
class Changed:
    """A crystal for which the protocols give different verdicts by the run's criterion."""

    name: str
    groups: str
    beside: str
    here: str
    lowest_beside: float
    lowest_here: float
    displacements: str


@dataclass(frozen=True)
class Protocols:
    """The report's comparison of two protocols.

    Attributes
    ----------
    name : str
        Name of the protocol beside the run's.
    count : int
        Crystals that are done by both.
    criteria : tuple of Shares
        By each criterion.
    places : tuple of Shares
        By each place and threshold: no frequency there is below it.
    share : tuple of str
        Shares of stable crystals by the run's criterion, without undetermined ones: by the other
        protocol, and by the run's.
    changed : tuple of Changed
        Crystals with different verdicts by the run's criterion.
    """

    name: str
    count: int
    criteria: tuple[Shares, ...]
    places: tuple[Shares, ...]
    share: tuple[str, str]
    changed: tuple[Changed, ...]


def protocols_of(
    store: Store, done: pandas.DataFrame, criteria: Sequence[Criterion], criterion: Criterion
) -> Protocols | None:
    """Compare the crystals that are done by two protocols; ``None`` if there is only one protocol.

    Parameters
    ----------
    store : Store
        The store of a run.
    done : pandas.DataFrame
        Rows of ``Store.table`` with phonons.
    criteria : sequence of Criterion
        Those of the store.
    criterion : Criterion
        The criterion of the run's verdict.
    """
    if not len(store.beside):
        return None
    table = store.beside.table
    beside = table[table["status"] == DONE].set_index("parent")
    ids = [key for key in done.index if key in beside.index]
    if not ids:
        return None
    here, beside = done.loc[ids], beside.loc[ids]
    by_criterion = tuple(
        _shares(c.name, *(np.array(texts_of(t, c.column)) for t in (here, beside)))
        for c in criteria
    )
    by_place = tuple(
        _shares(
            f"{place}, {threshold:g} THz",
            *(
                np.where(lowest_frequencies(t, place) >= threshold, "stable", "unstable")
                for t in (here, beside)
            ),
        )
        for place in PLACES
        for threshold in THRESHOLDS
    )
    column = criterion.column
    differs = np.array(texts_of(here, column)) != np.array(texts_of(beside, column))
    shares = [rate_words(stable_rate(texts_of(t, column))) for t in (beside, here)]
    changed = zip(here[differs].to_dict("records"), beside[differs].to_dict("records"), strict=True)
    lowest = f"min_frequency_{criterion.stored_place}"
    return Protocols(
        BESIDE,
        len(ids),
        by_criterion,
        by_place,
        (shares[0], shares[1]),
        tuple(
            Changed(
                str(one["name"]),
                f"{other['spacegroup']} | {one['spacegroup']}",
                str(other[column]),
                str(one[column]),
                float(other[lowest]),
                float(one[lowest]),
                f"{other['displacements']:.0f} | {one['displacements']:.0f}",
            )
            for one, other in changed
        )[:MOST_CHANGED],
    )


def _shares(name: str, here: np.ndarray, beside: np.ndarray) -> Shares:
    """Count verdicts; undetermined ones are in no change."""
    return Shares(
        name,
        int((here == "stable").sum()),
        int((beside == "stable").sum()),
        int(((here == "stable") & (beside == "unstable")).sum()),
        int(((here == "unstable") & (beside == "stable")).sum()),
    )
