"""Errors of frequencies over all crystals: mean absolute error, R2, softening."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hpcbench.analysis.accuracy.pairs import Compared, Pair
from hpcbench.analysis.accuracy.spectra import (
    ABSOLUTE,
    COUNT,
    PRODUCT,
    REFERENCE,
    SQUARED,
    SQUARES,
)
from hpcbench.analysis.accuracy.statistics import (
    Array,
    Estimate,
    determination,
    estimate,
    ratio,
    root_ratio,
)


@dataclass(frozen=True)
class FrequencyErrors:
    """Errors of the frequencies of a set of modes.

    Attributes
    ----------
    modes : str
        The set, see :mod:`hpcbench.analysis.accuracy.spectra`.
    frequencies : int
        Number of frequencies.
    mae, rmse : Estimate
        Over all frequencies of all crystals, in THz.
    r2 : Estimate
        The same, of the coefficient of determination.
    mae_of_materials : Estimate
        Mean over crystals of each one's mean absolute error, in THz: large cells count no more
        than small ones.
    slope : Estimate
        Of the potential's frequencies against the reference's, by least squares through the origin:
        below 1 the potential is too soft.
    """

    modes: str
    frequencies: int
    mae: Estimate
    rmse: Estimate
    r2: Estimate
    mae_of_materials: Estimate
    slope: Estimate


def frequency_errors(pairs: list[Pair], modes: str) -> FrequencyErrors:
    """Return the errors of a set of modes over crystals.

    Parameters
    ----------
    pairs : list of Pair
        Those without comparable frequencies do not count.
    modes : str
        A set of modes.
    """
    sums = sums_over(pairs, modes)
    return FrequencyErrors(
        modes,
        int(sums[:, COUNT].sum()),
        estimate(sums[:, [ABSOLUTE, COUNT]], ratio),
        estimate(sums[:, [SQUARED, COUNT]], root_ratio),
        estimate(sums[:, [COUNT, REFERENCE, SQUARES, SQUARED]], determination),
        estimate(by_material(sums), ratio),
        estimate(sums[:, [PRODUCT, SQUARES]], ratio),
    )


def sums_over(pairs: list[Pair], modes: str) -> Array:
    """Return the sums of all crystals that have such modes, shape (ncrystals, 6).

    Parameters
    ----------
    pairs : list of Pair
        The crystals.
    modes : str
        A set of modes.
    """
    found = [pair.frequencies[modes] for pair in pairs if has_frequencies(pair, modes)]
    return np.array(found).reshape(-1, 6)


def has_frequencies(pair: Pair, modes: str) -> bool:
    """Tell whether a crystal has frequencies of a set of modes to compare.

    Parameters
    ----------
    pair : Pair
        The crystal.
    modes : str
        A set of modes.
    """
    return modes in pair.frequencies and bool(pair.frequencies[modes][COUNT])


def mae_of(pair: Pair, modes: str) -> float:
    """Return a crystal's mean absolute error of frequencies, in THz.

    Parameters
    ----------
    pair : Pair
        A crystal that has such frequencies.
    modes : str
        A set of modes.
    """
    sums = pair.frequencies[modes]
    return float(sums[ABSOLUTE] / sums[COUNT])


def by_material(sums: Array) -> Array:
    """Return each crystal's mean absolute error and a one, shape (ncrystals, 2)."""
    return np.stack([sums[:, ABSOLUTE] / sums[:, COUNT], np.ones(len(sums))], axis=1)


def frequency_problems(compared: Compared) -> dict[str, int]:
    """Count the crystals whose frequencies cannot be compared, by reason."""
    problems = Counter(pair.problem for pair in compared.pairs if pair.problem)
    return dict(problems.most_common())
