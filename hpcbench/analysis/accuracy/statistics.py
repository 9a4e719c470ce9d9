"""Statistics of errors over materials, each with a bootstrap interval.

A statistic is a function of sums over materials, and each material has one row of sums: the mean
absolute error is the sum of absolute errors over their number. A bootstrap draws materials with
replacement (B. Efron, Ann. Statist. 7, 1, 1979), so that the values of one material, of which the
frequencies of a crystal are thousands, stay together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcbench.analysis.rates import CONFIDENCE

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Takes sums, shape (..., k), and returns values, shape (...)."""

DRAWS = 2000
"""Draws of a bootstrap: the ends of its 95 % interval then lie within 94 and 96 %."""
# Draws that are held in memory together.
_TOGETHER = 100


@dataclass(frozen=True)
class Estimate:
    """A statistic of some materials, with its 95 % bootstrap interval.

    Attributes
    ----------
    value, low, high : float
        The statistic and its interval; NaN of nothing.
    count : int
        Number of materials.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Difference:
    """A statistic of one potential minus that of another one, on the same materials.

    Attributes
    ----------
    estimate : Estimate
        The difference.
    chance_smaller : float
        The share of bootstrap draws in which the first one's is smaller; ties count half.
    """

    estimate: Estimate
    chance_smaller: float


# Of the sum of squares: what a spread that is none comes to.
_ROUNDING = 1e-12


def ratio(sums: Array) -> Array:
    """Return the first sum over the second: a mean, or a slope through the origin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = sums[..., 0] / sums[..., 1]
    return found


def root_ratio(sums: Array) -> Array:
    """Return the root of the first sum over the second: a root mean square."""
    return np.sqrt(ratio(sums))


def determination(sums: Array) -> Array:
    """Return R2 = 1 - sum (y - f)^2 / sum (y - mean y)^2, as Lee and Xia define it.

    Parameters
    ----------
    sums : ndarray, shape (..., 4)
        Number of values, sum of reference values y, of their squares, and of squared errors.
    """
    count, total, squares, errors = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - total**2 / count
        # Of equal values it is rounding, and R2 is not defined.
        found: Array = np.where(spread > _ROUNDING * squares, 1 - errors / spread, np.nan)
    return found


def estimate(sums: Array, statistic: Statistic, seed: int = 0) -> Estimate:
    """Return a statistic with its bootstrap interval.

    Parameters
    ----------
    sums : ndarray, shape (nmaterials, k)
        Of each material.
    statistic : callable
        Of the sums over materials.
    seed : int
        Of the random numbers.
    """
    if not len(sums):
        return Estimate(math.nan, math.nan, math.nan, 0)
    drawn = np.concatenate([statistic(drawn) for drawn in _drawn_sums(sums, seed)])
    return _estimate(float(statistic(sums.sum(axis=0))), drawn, len(sums))


def difference(first: Array, second: Array, statistic: Statistic, seed: int = 0) -> Difference:
    """Return the difference of a statistic between two potentials, paired by material.

    Parameters
    ----------
    first, second : ndarray, shape (nmaterials, k)
        Sums of the same materials in the same order.
    statistic : callable
        Of the sums over materials.
    seed : int
        Of the random numbers.
    """
    if not len(first):
        return Difference(Estimate(math.nan, math.nan, math.nan, 0), math.nan)
    width = first.shape[1]
    drawn = np.concatenate(
        [
            statistic(sums[:, :width]) - statistic(sums[:, width:])
            for sums in _drawn_sums(np.hstack([first, second]), seed)
        ]
    )
    value = statistic(first.sum(axis=0)) - statistic(second.sum(axis=0))
    known = drawn[np.isfinite(drawn)]
    chance = float((known < 0).mean() + (known == 0).mean() / 2) if len(known) else math.nan
    return Difference(_estimate(float(value), drawn, len(first)), chance)


def _drawn_sums(sums: Array, seed: int) -> Iterator[Array]:
    """Yield sums over materials drawn with replacement, shape (some draws, k)."""
    generator = np.random.default_rng(seed)
    number = len(sums)
    for first in range(0, DRAWS, _TOGETHER):
        counts = [
            np.bincount(generator.integers(number, size=number), minlength=number)
            for _ in range(min(_TOGETHER, DRAWS - first))
        ]
        yield np.array(counts, dtype=np.float64) @ sums


def _estimate(value: float, drawn: Array, count: int) -> Estimate:
    # A draw of one material many times has no spread, and R2 of it is not defined.
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Estimate(value, math.nan, math.nan, count)
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), count)
