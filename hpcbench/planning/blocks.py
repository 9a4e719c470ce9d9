"""Blocks of crystals, in the order in which a run computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Most crystals that a rank computes at once; it limits the memory where crystals are tiny.
MOST_UNDER_WAY = 1024


@dataclass(frozen=True)
class Block:
    """Crystals that one rank leases together.

    Attributes
    ----------
    rows : tuple of int
        Rows of the list of crystals.
    seconds : float
        Predicted time on one rank.
    suspect : bool
        Whether a process died while it computed them. An isolated worker computes these.
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
    """Divide rows into blocks, the most expensive first.

    With this order all ranks have work until the end, even if costs differ widely. A block costs
    at most a small share of a rank's work: cheap crystals are grouped, expensive ones are alone.

    Parameters
    ----------
    rows : sequence of int
        Rows of the list of crystals that are to be computed.
    seconds : sequence of float
        Predicted seconds of each.
    ranks : int
        Number of ranks that will share the work.
    largest : int
        Most crystals in a block; 0 chooses it by the length of the list.
    longest : float
        Most predicted seconds of a block of several crystals.
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
