"""Segments of a rank become one: a run of days would leave a file every half minute."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.store.damage import find_damage
from hpcbench.store.fields import Schema, of_good_size
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

TOGETHER = 16
"""So many segments are joined."""
# In bytes: larger ones stay as they are, or each byte would be written again and again.
_LARGE = 8 * 2**20
# Seconds that who consolidates waits for who joins; one that was stopped may hold the lock.
_PATIENCE = 60.0


def join_segments(folder: RunFolder, schema: Schema, settings: Mapping[str, Any], rank: int) -> int:
    """Bring the small segments of a rank together in a new one; return how many they were.

    None where there are few, and while somebody consolidates. To be called by the rank itself.
    Readers find each row in the old segments or in the new one, and for a moment in both.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    schema : Schema
        Of the new segment; fields that only the old ones have are added.
    settings : mapping
        What decides the results.
    rank : int
        The rank.

    Raises
    ------
    StoreError
        If a segment cannot be read, or the new one not be written: nothing is lost, and the old
        ones stay.
    """
    with _alone(folder) as is_alone:
        small = [path for path in folder.segments_of([rank]) if path.stat().st_size < _LARGE]
        if not is_alone or len(small) < TOGETHER:
            return 0
        readers: list[TableReader] = []
        with contextlib.ExitStack() as closing:
            for path in small:
                readers.append(closing.enter_context(TableReader(path)))
                schema = schema.union(readers[-1].schema)
            blocks = (block for reader in readers for _, block in reader.blocks())
            path = folder.next_segment(rank)
            try:
                with TableWriter(
                    path, schema, settings, check=_require_sound, small=True
                ) as writer:
                    writer.append_blocks(of_good_size(blocks, schema))
            except (OSError, RuntimeError) as error:
                raise StoreError(f"cannot write {path}: {error}") from error
        for path in small:
            path.unlink(missing_ok=True)
        return len(small)


def _require_sound(path: Path) -> None:
    for damage in find_damage([path]).values():
        raise StoreError(f"{path} does not read back ({damage})")


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[bool]:
    """Take the lock of joining; the lock goes with the process."""
    lock = os.open(folder.path / "joining", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Somebody does, or this file system has no locks.
            yield False
        else:
            yield True
    finally:
        os.close(lock)


@contextlib.contextmanager
def nobody_joins(folder: RunFolder) -> Iterator[None]:
    """Keep ranks from joining segments, for who consolidates them."""
    lock = os.open(folder.path / "joining", os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:
                break
        yield
    finally:
        os.close(lock)
