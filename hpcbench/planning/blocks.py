"""What a run has to do, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What limits a rank's memory where crystals are tiny.
MOST_UNDER_WAY = 1024


@dataclass(frozen=True)
class Block:
    """Crystals that one rank takes together.

    Attributes
    ----------
    rows : tuple of int
        In the list of crystals.
    seconds : float
        Predicted for one rank.
    suspect : bool
        They have been with a process when it died, and are computed by an isolated worker.
    """

    rows: tuple[int, ...]
    seconds: float = 0.0
    suspect: bool = False


def make_blocks(
    rows: Sequence[int],
    seconds: Sequence[float],
    ranks: int,
    largest: int = 0,
    longest: float = math.inf,
) -> list[Block]:
    """Share rows out in blocks, most expensive first.

    Longest first keeps all ranks busy to the end on a skewed list. A block costs at most a
    small share of a rank's work, so that cheap crystals go together and expensive ones alone.

    Parameters
    ----------
    rows : sequence of int
        Rows of the list of crystals that want computing.
    seconds : sequence of float
        Predicted for each of them.
    ranks : int
        Number of ranks that will share the work.
    largest : int
        Most crystals in a block; 0 to decide by the length of the list.
    longest : float
        Most seconds of a block of several crystals.
    """
    order = sorted(range(len(rows)), key=lambda i: (-seconds[i], rows[i]))
    most = largest or min(64, max(1, math.ceil(len(rows) / (16 * ranks))))
    share = min(sum(seconds) / (8 * ranks), longest)
    blocks: list[Block] = []
    block: list[int] = []
    cost = 0.0
    for i in order:
        if block and (len(block) >= most or cost + seconds[i] > share):
            blocks.append(Block(tuple(block), cost))
            block, cost = [], 0.0
        block.append(rows[i])
        cost += seconds[i]
    if block:
        blocks.append(Block(tuple(block), cost))
    return blocks
