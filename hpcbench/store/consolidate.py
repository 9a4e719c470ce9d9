"""Segments become one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcbench.errors import StoreError
from hpcbench.store.damage import find_damage, set_aside
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import CRYSTALS, UNREADABLE
from hpcbench.store.tables import Row, Schema, TableReader, TableWriter


def consolidate(folder: RunFolder, schema: Schema, settings: Mapping[str, Any]) -> int:
    """Bring the store and all committed segments together in a new store.

    Damaged segments are set aside, and the others consolidated.

    Returns the number of rows.

    Raises
    ------
    StoreError
        If the new file cannot be written, or does not read back; and in the end if a segment
        was damaged, for its crystals must be computed again.
    """
    try:
        return _consolidate(folder, schema, settings)
    except Exception:  # broken files raise what they like
        sentences = set_aside(find_damage(folder.segment_paths()))
        if not sentences:
            raise
    _consolidate(folder, schema, settings)
    raise StoreError("\n".join([*sentences, "give the same command again"]))


def _consolidate(folder: RunFolder, schema: Schema, settings: Mapping[str, Any]) -> int:
    """The same without damaged segments.

    Of two results for one crystal the first committed stays; crystals that could not be read
    or were set aside get their row from the list of crystals, and names and origins are as the
    list has them now. The new file takes the store's name when it is whole, and segments are
    removed only after it has been read back. Memory is bounded by a block of rows.
    """
    segments = folder.segment_paths()
    listed = {row["id"]: row for row in _listed(folder)}
    if not segments and _is_up_to_date(folder, listed):
        return len(listed)
    seen: set[str] = set()
    voided = folder.voided()
    # The old store first: it holds what was committed first.
    sources = [path for path in (folder.store, *segments) if path.exists()]

    def rows() -> Iterator[Row]:
        for path in sources:
            with TableReader(path) as reader:
                statuses = reader.column("status")
                new = []
                for index, key in reader.keys(voided):
                    # What could not be read is as the list has it now: a file may be mended.
                    if key not in seen and statuses[index] != UNREADABLE:
                        seen.add(key)
                        new.append(index)
                for row in reader.rows(new, schema):
                    yield row | _identity(listed.get(row["id"]))
        for key, aside in listed.items():
            if aside["reason"] and key not in seen:
                seen.add(key)
                yield aside

    try:
        with TableWriter(
            folder.store,
            schema,
            settings,
            workplace=folder.path,
            check=lambda path: _require(path, len(seen), segments),
        ) as writer:
            writer.append(rows())
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot write {folder.store}: {error}; the segments are safe") from error
    for path in segments:
        path.unlink(missing_ok=True)
    return len(seen)


def _listed(folder: RunFolder) -> Iterator[Row]:
    """Names and origins of all crystals of the list, and whole rows of those set aside."""
    if not folder.crystals.exists():
        return
    with TableReader(folder.crystals) as reader:
        columns = [reader.column(name) for name in ("id", "name", "origins", "reason")]
        aside = []
        for index, (key, name, origins, reason) in enumerate(zip(*columns, strict=True)):
            if reason:
                aside.append(index)
            else:
                yield {"id": key, "name": name, "origins": origins, "reason": ""}
        yield from reader.rows(aside, CRYSTALS)


def _is_up_to_date(folder: RunFolder, listed: Mapping[str, Row]) -> bool:
    """Whether the store already says what the list says."""
    if not folder.store.exists():
        return False
    with TableReader(folder.store) as reader:
        names = ("id", "name", "origins", "reason", "status")
        stored = {row[0]: row for row in zip(*map(reader.column, names), strict=True)}
    for key, row in listed.items():
        there = stored.pop(key, None)
        same = there is not None and there[1:3] == (row["name"], row["origins"])
        if not same or (there is not None and row["reason"] and there[3] != row["reason"]):
            return False
    return all(row[4] != UNREADABLE for row in stored.values())


def _identity(listed: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if listed is None else {k: listed[k] for k in ("name", "origins")}


def _require(path: Path, rows: int, segments: Iterable[Path]) -> None:
    """Refuse a new store that does not read back, or that is not the newest."""
    with TableReader(path) as reader:
        reader.read_everything()
        if len(reader) != rows:
            raise StoreError(f"{path}: {len(reader)} rows of {rows}; the segments are kept")
    if not all(segment.exists() for segment in segments):
        # This process was stopped meanwhile, and its store may lack what came later.
        raise StoreError("another process has consolidated the segments")
