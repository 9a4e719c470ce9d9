"""Blocks are leased by creating files: no master hands them out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcbench.farm.plan import Block


class Leases:
    """The leases of one launch, seen by one rank.

    A lease is a file that was created exclusively: whoever creates it has the block.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._leases = folder / "leases"
        self._ended = folder / "ended"
        self._rank = rank

    def take(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Take blocks, in their order, as long as there are any."""
        for number, block in enumerate(blocks):
            if self._create(self._leases / f"{number:07d}"):
                yield block

    def end(self, size: int) -> bool:
        """Mark this rank as ended; true on the one rank that ends last."""
        self._create(self._ended / f"rank-{self._rank:05d}")
        ended = sum(1 for path in self._ended.iterdir() if path.name.startswith("rank-"))
        return ended == size and self._create(self._ended / "last")

    def _create(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{self._rank} {socket.gethostname()} {os.getpid()}\n")
        return True
