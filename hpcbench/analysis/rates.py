"""Rates of stable crystals, their uncertainty, and the uncertainty of a ranking by them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DRAWS = 10_000
"""Draws of a bootstrap: its probabilities then have an error of at most half a percent."""


@dataclass(frozen=True)
class Rate:
    """A share of a number of crystals.

    Attributes
    ----------
    count, of : int
        The share is ``count / of``.
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """The share; NaN of nothing."""
        return self.count / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of Wilson, also valid for few crystals and shares near 0 and 1.

        E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
        """
        if not self.of:
            return math.nan, math.nan
        z, n, share = _z(), self.of, self.share
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return max(middle - half, 0.0), min(middle + half, 1.0)


def stable_rate(verdicts: Iterable[str], failed: int = 0) -> Rate:
    """Return the rate of stable crystals among those that are stable or unstable.

    Undetermined crystals are in neither of the two numbers.

    Parameters
    ----------
    verdicts : iterable of str
        Of crystals with phonons.
    failed : int
        Number of other crystals that count as unstable.
    """
    counts = Counter(verdicts)
    return Rate(counts["stable"], counts["stable"] + counts["unstable"] + failed)


def _z() -> float:
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def size_for(share: float, half_width: float) -> int:
    """Return the number of crystals for which the 95 % interval has a given width.

    Half the width of Wilson's interval (:attr:`Rate.interval`), solved for the number by bisection.

    Parameters
    ----------
    share : float
        The expected rate, from 0 to 1.
    half_width : float
        Above 0 and below 0.5.
    """

    def width(n: int) -> float:
        z = _z()
        return z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)

    most = 1
    while width(most) > half_width:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if width(middle) > half_width else (least, middle)
    return most


@dataclass(frozen=True)
class Ranking:
    """Rates in order, with probabilities of that order.

    Attributes
    ----------
    order : list of int
        Indices of the given rates, the highest rate first.
    above_next : list of float
        For each in this order, the probability that it is above the next one; NaN for the last.
    all_right : float
        The probability that the whole order is right.
    ranks : list of tuple of int
        For each in this order, the lowest and highest rank of its 95 % interval.
    """

    order: list[int]
    above_next: list[float]
    all_right: float
    ranks: list[tuple[int, int]]


def rank(rates: Sequence[Rate], draws: int = DRAWS, seed: int = 0) -> Ranking:
    """Rank rates, with probabilities from a bootstrap over the crystals of each.

    Resampling a set of stable and unstable crystals with replacement gives binomial numbers of
    stable ones, which are drawn directly. Equal draws count half. Rates of nothing come last,
    without probabilities.

    Parameters
    ----------
    rates : sequence of Rate
        The rates.
    draws : int
        Number of draws of the bootstrap.
    seed : int
        Of the random numbers.
    """
    known = sorted((i for i, r in enumerate(rates) if r.of), key=lambda i: -rates[i].share)
    order = known + [i for i, r in enumerate(rates) if not r.of]
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [rng.binomial(rates[i].of, rates[i].share, draws) / rates[i].of for i in known]
    ).reshape(len(known), draws)
    above = [_chance_above(one, other) for one, other in itertools.pairwise(drawn)]
    above += [math.nan] * (len(order) - len(above))
    falls = np.diff(drawn, axis=0)
    # Either order of a tie is equally likely.
    all_right = float(((falls <= 0).all(axis=0) * 0.5 ** (falls == 0).sum(axis=0)).mean())
    # Rank 1 is the highest; ties are broken at random, else the first would win them.
    noisy = drawn + rng.uniform(0.0, 1e-12, drawn.shape)
    ranks = 1 + np.argsort(np.argsort(-noisy, axis=0), axis=0) if len(known) else drawn
    low, high = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    spans = [
        (int(np.quantile(r, low, method="lower")), int(np.quantile(r, high, method="higher")))
        for r in ranks
    ]
    spans += [(len(known) + 1, len(order))] * (len(order) - len(known))
    return Ranking(order, above, all_right, spans)


def _chance_above(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float((one > other).mean() + (one == other).mean() / 2)
