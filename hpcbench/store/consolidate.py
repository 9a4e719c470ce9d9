"""Segments become one file."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import DamageError, StoreError
from hpcbench.store.damage import find_damage, find_damage_apart, set_aside
from hpcbench.store.dimension_scales import decorate
from hpcbench.store.fields import Block, Row, Schema, of_good_size
from hpcbench.store.joining import nobody_joins
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import AGAIN, EARLIER_LIST, SET_ASIDE, UNREADABLE
from hpcbench.store.small_files import stamp
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

# Seconds that a process waits for another one that is just replacing the store.
_PATIENCE = 60


def consolidate(folder: RunFolder, schema: Schema, settings: Mapping[str, Any]) -> int:
    """Bring the store and all committed segments together in a new store.

    May be called while ranks write, and killed at any moment: segments stay until they are in
    the store. Damaged segments are set aside, and the others consolidated.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    schema : Schema
        Of the new store; fields that only the files have are added.
    settings : mapping
        What decides the results.

    Returns
    -------
    int
        Number of rows of the new store.

    Raises
    ------
    StoreError
        If the new file cannot be written, or does not read back; if another process was faster;
        and in the end if a segment was damaged, for its crystals must be computed again.
    """
    sentences: list[str] = []
    while True:
        try:
            with nobody_joins(folder):
                rows = _consolidate(folder, schema, settings)
            break
        except DamageError as error:
            # Which one, and whether it is: seen by a process that may die of it.
            found = set_aside(find_damage_apart(folder.segment_paths()))
            if not found:
                raise StoreError(f"{error}; hpcbench repair {folder.store}") from error
            sentences += found
    if sentences:
        raise StoreError("\n".join([*sentences, "give the same command again"]))
    return rows


def _consolidate(folder: RunFolder, schema: Schema, settings: Mapping[str, Any]) -> int:
    """Consolidate a folder without damaged segments.

    Of two results for one crystal the first committed stays; crystals that could not be read
    or were set aside get their row from the list of crystals, and names and origins are as the
    list has them now. What the list has not is marked as of an earlier one. Fields that only the
    files have are carried on. The new file takes the store's name when it is whole, and segments
    are removed only after it has been read back. Memory is bounded by a block of rows.
    """
    before = stamp(folder.store)
    segments = folder.segment_paths()
    listed = {row["id"]: row for row in _listed(folder)}
    if not segments and _is_up_to_date(folder, listed):
        return len(listed)
    # The old store first: it holds what was committed first.
    sources = [path for path in (folder.store, *segments) if path.exists()]
    for path in sources:
        with TableReader(path) as reader:
            schema = schema.union(reader.schema)
    seen: set[str] = set()
    replacing = contextlib.ExitStack()

    def check(path: Path) -> None:
        _require(path, len(seen))
        replacing.enter_context(alone(folder))
        if stamp(folder.store) != before or not all(map(Path.exists, segments)):
            # This process was stopped meanwhile, and its store may lack what came later.
            raise StoreError("another process has consolidated the segments")

    try:
        with replacing:
            with TableWriter(
                folder.store,
                schema,
                settings,
                workplace=folder.path,
                finish=lambda file: decorate(file, settings),
                check=check,
            ) as writer:
                blocks = _blocks(sources, folder.voided(), listed, seen)
                writer.append_blocks(of_good_size(blocks, schema))
                aside = [row for key, row in listed.items() if row["reason"] and key not in seen]
                seen.update(row["id"] for row in aside)
                writer.append(aside)
            for path in segments:
                path.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot write {folder.store}: {error}; the segments are safe") from error
    return len(seen)


@contextlib.contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Keep others from putting their store in place; the lock goes with the process.

    Raises
    ------
    StoreError
        If another process does so for a minute.
    """
    lock = os.open(folder.path / "replacing", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for attempt in itertools.count():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == _PATIENCE:
                    raise StoreError(f"another process is replacing {folder.store}") from None
                time.sleep(1.0)
                continue
            except OSError:
                # A file system without locks: two that replace it in the same moment are
                # not kept apart.
                pass
            break
        yield
    finally:
        os.close(lock)


def _blocks(
    sources: Iterable[Path],
    voided: Mapping[str, float],
    listed: Mapping[str, Row],
    seen: set[str],
) -> Iterator[Block]:
    """Yield the rows of the sources that count, and add their ids to ``seen``."""
    for path in sources:
        with TableReader(path) as reader:
            counting = dict(reader.keys(voided))
            for first, block in reader.blocks():
                statuses = block.column("status")
                rows = []
                for row in range(len(block)):
                    key = counting.get(first + row)
                    # What could not be read, or was not asked for, is as the list has it now: a
                    # file may be mended.
                    is_result = statuses[row] not in (UNREADABLE, SET_ASIDE)
                    if key is not None and key not in seen and is_result:
                        seen.add(key)
                        rows.append(row)
                if rows:
                    yield _as_listed(block if len(rows) == len(block) else block.take(rows), listed)


def _as_listed(block: Block, listed: Mapping[str, Row]) -> Block:
    """Return the block with names and origins as the list has them, and what it has not marked."""
    values = dict(block.values)
    ids = [str(key) for key in block.column("id")]
    for field in ("name", "origins"):
        texts = block.column(field).copy()
        for row in range(len(block)):
            if ids[row] in listed:
                texts[row] = listed[ids[row]][field]
        values[f"crystals/{field}"] = texts
    if listed:
        values[f"crystals/{EARLIER_LIST}"] = _earlier(ids, listed)
    return Block(len(block), values)


def _earlier(ids: Iterable[str], listed: Mapping[str, Row]) -> NDArray[np.bool_]:
    """Tell whether a row is of an earlier list, the history of a crystal as the crystal."""
    return np.array([key.partition(AGAIN)[0] not in listed for key in ids], dtype=bool)


def _listed(folder: RunFolder) -> Iterator[Row]:
    """Names and origins of all crystals of the list; whole rows of those with a reason."""
    if not folder.crystals.exists():
        return
    with TableReader(folder.crystals) as reader:
        names = ("id", "reason", "name", "origins")
        columns = [reader.column(name) for name in names]
        aside = []
        for index, values in enumerate(zip(*columns, strict=True)):
            row = dict(zip(names, values, strict=True))
            if row["reason"]:
                aside.append(index)
            else:
                yield row
        yield from reader.rows(aside)


def _is_up_to_date(folder: RunFolder, listed: Mapping[str, Row]) -> bool:
    """Return whether the store has the statuses of the list already."""
    if not folder.store.exists():
        return False
    with TableReader(folder.store) as reader:
        names = ("id", "reason", "status", "name", "origins")
        stored = {row[0]: row for row in zip(*map(reader.column, names), strict=True)}
        has_marks = f"crystals/{EARLIER_LIST}" in reader.paths()
        marks = reader.column(EARLIER_LIST) if has_marks else np.zeros(len(reader), dtype=bool)
        if listed and (marks != _earlier(reader.column("id"), listed)).any():
            return False
    for key, row in listed.items():
        there = stored.pop(key, None)
        if there is None or there[3:] != (row["name"], row["origins"]):
            return False
        was_computed = there[2] not in (UNREADABLE, SET_ASIDE)
        if row["reason"] and there[1] != row["reason"] and not was_computed:
            return False
        if not row["reason"] and not was_computed:
            return False
    return all(row[2] not in (UNREADABLE, SET_ASIDE) for row in stored.values())


def _require(path: Path, rows: int) -> None:
    """Refuse a new store that does not read back."""
    for damage in find_damage([path]).values():
        raise StoreError(f"{path} does not read back ({damage}); the segments are kept")
    with TableReader(path) as reader:
        if len(reader) != rows:
            raise StoreError(f"{path}: {len(reader)} rows of {rows}; the segments are kept")
