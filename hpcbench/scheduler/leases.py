"""Leases of blocks as symbolic links, without a master.

A link is made exclusively and whole in one file operation, also on a full disk. Its name has the
number of the block and that of the holder, counted from 0: a rank that takes over a block of a
dead one becomes its next holder, and only one rank can.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.planning.blocks import Block
from hpcbench.scheduler.journal import Journal, Told

# A rank that takes blocks dealt to others chooses at random among so many, to avoid collisions.
CHOICE = 8
# Failures in a row after which it lists the free blocks again.
PATIENCE = 3
# Seconds after which a rank computes again how much is left for all.
LOOK = 300.0


@dataclass(frozen=True)
class Lease:
    """A block that this rank holds.

    Attributes
    ----------
    number : int
        The block's index in the plan.
    block : Block
        The block.
    holder : int
        Number of ranks that had it before this one: they have died, or given it back.
    """

    number: int
    block: Block
    holder: int = 0


class Leases:
    """The leases of one launch, as one rank sees them.

    Parameters
    ----------
    folder : Path
        The launch's folder.
    rank, size : int
        This rank, and the number of ranks.
    blocks : sequence of Block
        The blocks of the plan; the same on all ranks.
    journal : Journal
        This rank's journal.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        blocks: Sequence[Block],
        journal: Journal,
    ) -> None:
        self._folder = folder / "leases"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._blocks = blocks
        self._journal = journal
        # Blocks are dealt out evenly, so that most leases succeed at the first try.
        self._own = dict.fromkeys(range(rank, len(blocks), size))
        self._left: list[int] | None = None
        # Predicted seconds of each block and all after it; later, those left at the last count,
        # and its time.
        seconds = [*(block.seconds for block in blocks), 0.0]
        self._from_here = list(itertools.accumulate(reversed(seconds)))[::-1]
        self._mine: set[tuple[int, int]] = set()
        self._seen, self._looked = self._from_here[0], time.monotonic()

    def take(self, fits: Callable[[Block], bool], *, suspect: bool = False) -> Lease | None:
        """Lease a block that no rank has had; ``None`` if none is left that fits.

        Parameters
        ----------
        fits : callable
            Tells whether this rank may begin a block now.
        suspect : bool
            Whether to take a block of suspects instead of others.

        Raises
        ------
        OSError
            If no lease can be made.
        """

        def wanted(number: int) -> bool:
            block = self._blocks[number]
            return block.suspect == suspect and fits(block)

        for number in list(self._own):
            if wanted(number):
                del self._own[number]
                if lease := self._try(number, 0):
                    return lease
        failures = 0
        while free := [number for number in self._free() if wanted(number)][:CHOICE]:
            number = random.choice(free)
            self._free().remove(number)
            if lease := self._try(number, 0):
                return lease
            failures += 1
            if failures % PATIENCE == 0:
                self._left = None
        return None

    def seconds_left(self) -> float:
        """Return the predicted seconds of blocks that no rank has had; rather too many.

        Raises
        ------
        OSError
            If the folder of leases cannot be listed.
        """
        if time.monotonic() - self._looked > LOOK:
            self._looked, self._left = time.monotonic(), None
            self._seen = sum(self._blocks[number].seconds for number in self._free())
        first = next(iter(self._own or self._left or ()), None)
        return self._seen if first is None else min(self._seen, self._from_here[first])

    def take_over(self, number: int, holder: int) -> Lease | None:
        """Become the next holder of a block; return ``None`` if another rank was first.

        Parameters
        ----------
        number : int
            The block's index in the plan.
        holder : int
            Number of ranks that had it before.
        """
        return self._try(number, holder)

    def held_by(
        self, rank: int, told: Told, tried: Container[tuple[int, int]] = ()
    ) -> Iterable[tuple[int, int]]:
        """Yield the blocks that a rank left behind: number, and the number of the next holder.

        Parameters
        ----------
        rank : int
            The rank.
        told : Told
            Its journal.
        tried : container of (int, int)
            Blocks and holders to leave out, because this rank has tried them.
        """
        for number, holder in told.taken:
            left = number < len(self._blocks) and number not in told.done
            if not left or (number, holder + 1) in tried:
                continue
            if self._holder(number, holder) == rank:
                yield number, holder + 1

    def holders(self, lease: Lease) -> list[int]:
        """Return the ranks that had a block before."""
        ranks = [self._holder(lease.number, holder) for holder in range(lease.holder)]
        return [rank for rank in ranks if rank is not None]

    def _free(self) -> list[int]:
        if self._left is None:
            # The folder is listed only when all blocks dealt to this rank are taken.
            taken = {entry.name.partition(".")[0] for entry in os.scandir(self._folder)}
            self._left = [n for n in range(len(self._blocks)) if f"{n:07d}" not in taken]
        return self._left

    def _try(self, number: int, holder: int) -> Lease | None:
        block = self._blocks[number]
        # Before the lease: a rank that dies in between must not leave an unknown lease.
        self._journal.take(number, holder)
        try:
            self._path(number, holder).symlink_to(str(self._rank))
        except FileExistsError:
            # NFS may report this for a link that this rank has just made, if a reply was lost.
            made = self._holder(number, holder) == self._rank
            if not made or (number, holder) in self._mine:
                return None
        self._mine.add((number, holder))
        return Lease(number, block, holder)

    def _holder(self, number: int, holder: int) -> int | None:
        try:
            return int(os.readlink(self._path(number, holder)))
        except (FileNotFoundError, ValueError):
            return None

    def _path(self, number: int, holder: int) -> Path:
        return self._folder / f"{number:07d}.{holder}"
