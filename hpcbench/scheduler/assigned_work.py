"""The crystals that a rank has leased and not committed, and the time that they will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterable, Mapping

from hpcbench.scheduler.journal import Journal


class AssignedWork:
    """The crystals that a rank has leased, until their results are committed.

    Several threads use it: one leases, one computes, one writes.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        # Predicted seconds by id of crystals without a result, and in total of those with one.
        self._left: dict[str, float] = {}
        self._finished = 0.0
        self._busy = 0.0
        self._since: float | None = None
        self._blocks: dict[int, set[str]] = {}

    def add(self, block: int, seconds: Mapping[str, float]) -> None:
        """Add a leased block.

        Parameters
        ----------
        block : int
            Number of the block.
        seconds : mapping of str to float
            Predicted seconds by the ids of its crystals.
        """
        with self._lock:
            if not self._left and seconds:
                self._since = time.monotonic()
            self._left |= seconds
            self._blocks[block] = set(seconds)
        self.commit(())

    def finish(self, key: str) -> None:
        """Note that a crystal has its result."""
        with self._lock:
            if key in self._left:
                self._finished += self._left.pop(key)
                if not self._left and self._since is not None:
                    self._busy += time.monotonic() - self._since
                    self._since = None

    def commit(self, keys: Iterable[str]) -> None:
        """Note that results are on disk, and write completed blocks into the journal."""
        keys = set(keys)
        with self._lock:
            for waiting in self._blocks.values():
                waiting -= keys
            done = [number for number, waiting in self._blocks.items() if not waiting]
            for number in done:
                del self._blocks[number]
        if done:
            self._journal.done(done)

    def seconds_left(self, more: float = 0.0, without: Container[str] = ()) -> float:
        """Return the seconds for crystals without a result, and for ``more`` predicted ones.

        Predictions are corrected by the pace so far; crystals in progress count as half done.

        Parameters
        ----------
        more : float
            Predicted seconds of other work.
        without : container of str
            Ids of crystals that do not count.
        """
        with self._lock:
            left = sum(seconds for key, seconds in self._left.items() if key not in without)
            return (left + more) * self._pace()

    def predicted(self, key: str) -> float:
        """Return the seconds for a leased crystal, corrected by the pace; 0 for any other."""
        with self._lock:
            return self._left.get(key, 0.0) * self._pace()

    def _pace(self) -> float:
        busy = self._busy
        if self._since is not None:
            busy += time.monotonic() - self._since
        done = self._finished + sum(self._left.values()) / 2
        return busy / done if self._finished > 0.0 and done > 0.0 else 1.0
