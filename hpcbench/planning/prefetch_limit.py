"""Limit of the work that a rank holds at a time."""

from __future__ import annotations

# Seconds that a rank may always hold: a device with less work has nothing to batch, and it does
# not matter if ranks end so far apart.
NEVER_TOO_MUCH = 10.0
# Part of its share of the remaining work that a rank may hold.
PART_OF_SHARE = 1 / 4


def most_seconds_held(left: float, ranks: int, lease: float) -> float:
    """Return the predicted seconds of work above which a rank leases no more.

    No other rank can compute the work that a rank holds. So the limit decreases with the
    remaining work, for all ranks to end at about the same time even if predictions are wrong
    (``benchmarks/scaling.py``).

    Parameters
    ----------
    left : float
        Approximate predicted seconds of work that no rank has leased.
    ranks : int
        Number of ranks that share it.
    lease : float
        Most seconds of work to lose if a rank dies.
    """
    # The other half is for the block that is leased next.
    if ranks == 1:
        return lease / 2
    return min(lease / 2, max(NEVER_TOO_MUCH, PART_OF_SHARE * left / ranks))
