"""Rates by crystal system and by elements, and rates against the number of crystals."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcbench.analysis.rates import Rate, stable_rate
from hpcbench.criteria import NO_FORCE
from hpcbench.curation.sampling import in_random_order
from hpcbench.store.schema import DONE

if TYPE_CHECKING:
    import pandas

Key = TypeVar("Key", str, int)

CRYSTAL_SYSTEMS = {
    "triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167,
    "hexagonal": 194, "cubic": 230,
}  # fmt: skip
"""Crystal systems with the last number of their space groups."""


@dataclass(frozen=True)
class Convergence:
    """A rate against the number of crystals, taken in random order.

    Attributes
    ----------
    sizes : ndarray, shape (n,)
        Numbers of crystals.
    shares, low, high : ndarray, shape (n,)
        The rate of the first so many crystals, and its 95 % interval.
    """

    sizes: NDArray[np.int64]
    shares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def crystal_system(number: int) -> str:
    """Return the crystal system of a space group; empty if there is none (0)."""
    if not number:
        return ""
    return next(name for name, last in CRYSTAL_SYSTEMS.items() if number <= last)


def elements_of(formula: str) -> list[str]:
    """Return the elements of a formula, sorted."""
    return sorted(set(re.findall(r"[A-Z][a-z]?", formula)))


def by_crystal_system(table: pandas.DataFrame) -> dict[str, Rate]:
    """Return the rates of stable crystals by the crystal system of the relaxed crystal.

    Undetermined crystals do not count. Systems without crystals have a rate of zero of zero.
    """
    done = _done(table)
    systems = [crystal_system(int(number)) for number in done["spacegroup_number"]]
    found = _rates(systems, done)
    return {name: found.get(name, Rate(0, 0)) for name in CRYSTAL_SYSTEMS}


def by_number_of_elements(table: pandas.DataFrame) -> dict[int, Rate]:
    """Return the rates of stable crystals by the number of elements, without undetermined ones."""
    done = _done(table)
    found = _rates([len(elements_of(formula)) for formula in done["formula"]], done)
    return dict(sorted(found.items()))


def lowest_frequencies(done: pandas.DataFrame, place: str) -> NDArray[np.float64]:
    """Return the lowest frequencies of crystals with phonons in THz, to compare with thresholds.

    They are minus infinity for crystals without restoring forces, whose zeros no threshold may call
    stable.

    Parameters
    ----------
    done : DataFrame
        Rows of ``Store.table``.
    place : str
        ``path``, ``commensurate`` or ``mesh``.
    """
    lowest = done[f"min_frequency_{place}"].to_numpy(dtype=float, copy=True)
    if "cause" in done:  # an older store does not have it
        lowest[done["cause"].astype(str).str.startswith(NO_FORCE).to_numpy()] = -np.inf
    return lowest


def _done(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return crystals with phonons; if there are none, a store may lack the columns."""
    done = table[table["status"] == DONE]
    return done if len(done) else done.assign(verdict="", spacegroup_number=0, formula="")


def _rates(keys: Sequence[Key], done: pandas.DataFrame) -> dict[Key, Rate]:
    verdicts: dict[Key, list[str]] = defaultdict(list)
    for key, verdict in zip(keys, done["verdict"], strict=True):
        verdicts[key].append(verdict)
    return {key: stable_rate(of_one) for key, of_one in verdicts.items()}


def elements_in_stable(table: pandas.DataFrame) -> dict[str, int]:
    """Count the stable crystals by element, the most frequent first (PhononBench's Figure 4)."""
    done = _done(table)
    stable = done[done["verdict"] == "stable"]
    counts: Counter[str] = Counter()
    for formula in stable["formula"]:
        counts.update(elements_of(formula))
    return dict(counts.most_common())


def convergence(determined: list[str], stable: list[str], seed: int = 0) -> Convergence:
    """Return the rate of stable crystals against the number of crystals (PhononBench's Figure 5).

    Parameters
    ----------
    determined, stable : list of str
        Ids of crystals that are stable or unstable, and of the stable ones among them.
    seed : int
        Of the random order.
    """
    wanted = set(stable)
    counts = np.cumsum([key in wanted for key in in_random_order(determined, seed)])
    sizes = np.unique(np.geomspace(1, max(len(determined), 1), 200).astype(np.int64))
    sizes = sizes[sizes <= len(determined)]
    rates = [Rate(int(counts[n - 1]), int(n)) for n in sizes]
    low, high = np.array([rate.interval for rate in rates]).reshape(-1, 2).T
    return Convergence(sizes, np.array([rate.share for rate in rates]), low, high)
