"""Threads that read crystals and write results during the computation."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.crystal import Crystal
from hpcbench.engine.timing import READING, WRITING, Timing

Row = Mapping[str, Any]
Inbox = queue.SimpleQueue[Any]
"""Queue that brings the main thread messages of the threads and of the worker processes."""


@dataclass(frozen=True, eq=False)
class BlockRead:
    """Crystals that this rank has leased."""

    crystals: list[Crystal]


@dataclass(frozen=True)
class ListEnded:
    """No block is left to lease, or an error ended the reading."""

    error: BaseException | None = None


@dataclass(frozen=True)
class WritingFailed:
    """Results could not be written."""

    error: Exception


class Reader:
    """Lease and read blocks of crystals, at most one block ahead.

    Posts ``BlockRead`` for each block and ``ListEnded`` at the end. The next lease is not taken
    before :meth:`next_block` is called, because no other rank can compute a leased block.

    Parameters
    ----------
    blocks : iterable
        Blocks of crystals; run through in the thread.
    inbox : Inbox
        The queue to post to.
    account : Timing
        Counts the time of reading.
    """

    def __init__(self, blocks: Iterable[Iterable[Crystal]], inbox: Inbox, account: Timing) -> None:
        self._blocks = iter(blocks)
        self._inbox = inbox
        self._account = account
        self._wanted = threading.Semaphore(0)
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def next_block(self) -> None:
        """Read one more block."""
        self._wanted.release()

    def close(self) -> None:
        """End the thread, after the block that is being read."""
        self._closed = True
        self._wanted.release()
        self._thread.join()

    def _read(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                if self._closed:
                    return
                with self._account.stage(READING):
                    block = next(self._blocks, None)
                    crystals = None if block is None else list(block)
                if crystals is None:
                    break
                self._inbox.put(BlockRead(crystals))
        except BaseException as error:  # the main thread raises it
            self._inbox.put(ListEnded(error))
        else:
            self._inbox.put(ListEnded())


class Writer:
    """Collect rows and commit them at intervals.

    Parameters
    ----------
    commit : callable
        Writes rows; raises ``StoreError`` if that fails.
    interval : float
        Seconds from one commit to the next.
    inbox : Inbox
        The queue to which ``WritingFailed`` is posted.
    account : Timing
        Counts the time of writing.
    """

    # A writer that falls behind must delay the computation, not fill the memory.
    MOST_WAITING = 256

    def __init__(
        self,
        commit: Callable[[Sequence[Row]], None],
        interval: float,
        inbox: Inbox,
        account: Timing,
    ) -> None:
        self._commit = commit
        self._interval = interval
        self._inbox = inbox
        self._account = account
        # None asks for a commit at once.
        self._given: queue.Queue[Sequence[Row] | None] = queue.Queue(self.MOST_WAITING)
        self._rows: list[Row] = []
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Row]) -> None:
        """Add the rows of a crystal; all are written in one commit."""
        self._given.put(rows)

    def hurry(self) -> None:
        """Commit now the rows so far, because the run is about to end."""
        self._given.put(None)

    def close(self) -> None:
        """Commit the remaining rows, with those of a failed commit, and end the thread.

        Raises
        ------
        StoreError
            If the rows cannot be written.
        """
        self._closed = True
        self._given.put(None)
        self._thread.join()
        self._commit_rows()

    def _write(self) -> None:
        due = time.monotonic() + self._interval
        failed = False
        while not self._closed:
            # Without rows, wait until some are added.
            timeout = max(0.0, due - time.monotonic()) if self._rows and not failed else None
            rows = None
            with contextlib.suppress(queue.Empty):
                rows = self._given.get(timeout=timeout)
            self._rows += rows or ()
            if failed or (rows is not None and time.monotonic() < due):
                continue
            try:
                self._commit_rows()
            except Exception as error:  # the main thread raises it; rows are still taken
                failed = True
                self._inbox.put(WritingFailed(error))
            due = time.monotonic() + self._interval
        while not self._given.empty():
            self._rows += self._given.get() or ()

    def _commit_rows(self) -> None:
        if self._rows:
            with self._account.stage(WRITING):
                self._commit(self._rows)
            self._rows = []
