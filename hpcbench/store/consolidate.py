"""Segments become one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS, UNREADABLE
from hpcbench.store.tables import Row, Schema, TableReader, TableWriter


def consolidate(folder: RunFolder, schema: Schema, settings: Mapping[str, Any]) -> int:
    """Bring the store and all committed segments together in a new store.

    Of two results for one crystal the first committed stays; crystals that could not be read
    or were set aside get their row from the list of crystals, and names and origins are as the
    list has them now. The new file takes the store's name when it is whole, and segments are
    removed only after it has been read back. Memory is bounded by a block of rows.

    Returns the number of rows.

    Raises
    ------
    StoreError
        If the new file cannot be written, or does not read back.
    """
    segments = folder.segment_paths()
    listed = {row["id"]: row for row in _listed(folder)}
    seen: set[str] = set()
    # The old store first: it holds what was committed first.
    sources = [path for path in (folder.store, *segments) if path.exists()]

    def rows() -> Iterator[Row]:
        for path in sources:
            with TableReader(path) as reader:
                ids, statuses = reader.column("id"), reader.column("status")
                for index, (key, status) in enumerate(zip(ids, statuses, strict=True)):
                    # What could not be read is as the list has it now: a file may be mended.
                    if key in seen or status == UNREADABLE:
                        continue
                    seen.add(key)
                    for row in reader.rows([index], schema):
                        yield row | _identity(listed.get(key))
        for key, row in listed.items():
            if row["reason"] and key not in seen:
                seen.add(key)
                yield row

    try:
        with TableWriter(folder.store, schema, settings, workplace=folder.path) as writer:
            writer.append(rows())
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot write {folder.store}: {error}; the segments are safe") from error
    _read_back(folder.store, len(seen))
    for path in segments:
        path.unlink()
    return len(seen)


def _listed(folder: RunFolder) -> Iterator[dict[str, Any]]:
    if not folder.crystals.exists():
        return
    with TableReader(folder.crystals) as reader:
        reasons, names = reader.column("reason"), reader.column("name")
        ids, origins = reader.column("id"), reader.column("origins")
        for i, reason in enumerate(reasons):
            if reason:
                yield from reader.rows([i], CRYSTALS)
            else:
                yield {"id": ids[i], "name": names[i], "origins": origins[i], "reason": ""}


def _identity(listed: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if listed is None else {k: listed[k] for k in ("name", "origins")}


def _read_back(path: Path, expected: int) -> None:
    with TableReader(path) as reader:
        # Reading every column checks its checksums.
        for name in reader.column_names():
            if len(reader.column(name)) != expected:
                raise StoreError(f"{path}: {name} did not read back; the segments are kept")
