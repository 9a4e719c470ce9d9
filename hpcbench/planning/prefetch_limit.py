"""How much of the work a rank may hold at a time."""

from __future__ import annotations

# So many seconds are never too much: a device that gets less at a time has nothing to batch, and
# ranks that end so far apart have lost nothing that anyone would notice.
NEVER_TOO_MUCH = 10.0
# A rank may hold this part of its share of what is left.
PART_OF_SHARE = 1 / 4


def most_seconds_held(left: float, ranks: int, lease: float) -> float:
    """Predicted seconds of work above which a rank takes no more.

    What one rank holds no other can compute. So it shrinks with what is left to be taken, for
    all ranks to come to their end together, whatever was wrong in the predictions
    (``benchmarks/scaling.py``).

    Parameters
    ----------
    left : float
        Predicted seconds of what nobody has taken, about.
    ranks : int
        That share it.
    lease : float
        Seconds that a death may cost.
    """
    # The block that comes on top has the other half.
    if ranks == 1:
        return lease / 2
    return min(lease / 2, max(NEVER_TOO_MUCH, PART_OF_SHARE * left / ranks))
