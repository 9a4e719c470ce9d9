"""Blocks are leased by creating files: no master hands them out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcbench.farm.attendance import create
from hpcbench.planning.blocks import Block


class Leases:
    """The leases of one launch, seen by one rank.

    A lease is a file that was created exclusively: whoever creates it has the block.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder / "leases"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._holder = f"{rank} {socket.gethostname()} {os.getpid()}\n"

    def take(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Take blocks, in their order, as long as there are any."""
        for number, block in enumerate(blocks):
            if create(self._folder / f"{number:07d}", self._holder):
                yield block
