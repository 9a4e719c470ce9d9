"""A store made of what is intact in a damaged one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.errors import StoreError
from hpcbench.store.damage import SUFFIX, find_damage, set_aside
from hpcbench.store.decorations import decorate
from hpcbench.store.fields import Block, Field, Schema, of_good_size
from hpcbench.store.inspection import inspect
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import result_schema
from hpcbench.store.table_reader import Damage, TableReader
from hpcbench.store.table_writer import TableWriter

BOOKKEEPING = frozenset(
    {
        "name", "origins", "seconds_relaxation", "seconds_forces", "seconds_analysis",
        "peak_memory", "peak_device_memory", "attempts", "finished", "rank", "host",
    }
)  # fmt: skip
"""Fields that a result is worth keeping without."""


@dataclass(frozen=True)
class Repair:
    """What became of a damaged store.

    Attributes
    ----------
    kept : int
        Rows of the new store.
    lost_ids : tuple of str
        Crystals whose results are lost.
    lost_unnamed : int
        Results that are lost, of crystals whose ids cannot be read.
    emptied : dict
        By field, how many rows have lost it and are kept.
    damaged : Path or None
        The damaged store's new name.
    sentences : tuple of str
        What else there is to say.
    """

    kept: int
    lost_ids: tuple[str, ...]
    lost_unnamed: int
    emptied: dict[str, int]
    damaged: Path | None
    sentences: tuple[str, ...]


def repair(store: Path, patience: float = 120.0) -> Repair:
    """Make a store of what is intact; the damaged one stays beside it under another name.

    Damaged segments of the run are set aside. The same ``hpcbench run`` computes what is lost.

    Raises
    ------
    StoreError
        If there is no such store, or the new one cannot be written.
    """
    folder = RunFolder(store)
    if not store.exists() and not folder.segment_paths():
        raise StoreError(f"{store}: no such store")
    sentences = set_aside(find_damage(folder.segment_paths()))
    found = inspect(store, 0, patience) if store.exists() else None
    if found is None or not found.damages:
        return Repair(-1, (), 0, {}, None, tuple(sentences))
    aside = store.with_name(store.name + SUFFIX)
    number = itertools.count(2)
    while aside.exists():
        aside = store.with_name(f"{store.name}{SUFFIX}-{next(number)}")
    if not _opens(store):
        store.rename(aside)
        sentences.append("nothing in it can be read")
        return Repair(0, (), max(found.rows, 0), {}, aside, tuple(sentences))
    try:
        return _rebuild(store, folder, found.damages, aside, sentences)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{store}: cannot be repaired: {error}; nothing was changed") from error


def _opens(store: Path) -> bool:
    try:
        with TableReader(store, tolerant=True) as reader:
            return reader.expected_rows() >= 0 and bool(reader.schema.columns)
    except Exception:  # a broken file fails in all kinds of ways
        return False


def _rebuild(
    store: Path,
    folder: RunFolder,
    damages: Iterable[Damage],
    aside: Path,
    sentences: list[str],
) -> Repair:
    with TableReader(store, tolerant=True) as reader:
        rows = reader.expected_rows()
        essential, emptied = _lost(damages, rows)
        settings = _settings(reader, folder, sentences)
        schema = _as_known(reader.schema)
        lost_ids, unnamed = _names_of(reader, np.flatnonzero(essential), damages)
        workplace = folder.path if folder.path.exists() else None
        with TableWriter(
            store,
            schema,
            settings,
            workplace=workplace,
            finish=lambda file: decorate(file, settings),
            check=lambda path: _replace(path, store, aside),
        ) as writer:
            blocks = _intact(reader, schema, essential, emptied)
            writer.append_blocks(of_good_size(blocks, schema))
    kept = int((~essential).sum())
    counts = {name: int((where & ~essential).sum()) for name, where in emptied.items()}
    return Repair(
        kept, lost_ids, unnamed, {k: n for k, n in counts.items() if n}, aside, tuple(sentences)
    )


def _as_known(schema: Schema) -> Schema:
    """The schema with units and meanings as this version has them: the file's may be damaged."""
    known = {f.name: f for f in (*result_schema(0, ()).columns, *result_schema(0, ()).ragged)}

    def as_known(field: Field) -> Field:
        there = known.get(field.name, field)
        return replace(field, unit=there.unit, meaning=there.meaning)

    return Schema(tuple(map(as_known, schema.columns)), tuple(map(as_known, schema.ragged)))


def _lost(damages: Iterable[Damage], rows: int) -> tuple[Any, dict[str, Any]]:
    """Which rows are lost, and which of the others lose a field."""
    essential = np.zeros(rows, dtype=bool)
    emptied: dict[str, Any] = {}
    for damage in damages:
        name = damage.path.rpartition("/")[2]
        if name in BOOKKEEPING:
            emptied.setdefault(name, np.zeros(rows, dtype=bool))[damage.first : damage.end] = True
        elif damage.path:
            essential[damage.first : damage.end] = True
    return essential, emptied


def _settings(reader: TableReader, folder: RunFolder, sentences: list[str]) -> dict[str, Any]:
    """What decided the results: the run's folder has it too."""
    try:
        return folder.settings()
    except StoreError:
        try:
            return reader.settings
        except Exception as error:  # a broken file fails in all kinds of ways
            sentences.append(f"what decided the results cannot be read ({error})")
            return {}


def _names_of(
    reader: TableReader, rows: Any, damages: Iterable[Damage]
) -> tuple[tuple[str, ...], int]:
    unreadable = {row for d in damages if d.path == "crystals/id" for row in range(d.first, d.end)}
    readable = [int(row) for row in rows if int(row) not in unreadable]
    ids = []
    for row in readable:
        ids.append(str(reader.block(row, row + 1, ("crystals/id",)).column("id")[0]))
    return tuple(ids), len(rows) - len(readable)


def _intact(
    reader: TableReader, schema: Schema, essential: Any, emptied: dict[str, Any]
) -> Iterator[Block]:
    for first, end in reader.edges():
        lost = essential[first:end]
        if lost.all():
            continue
        empty = {name for name, where in emptied.items() if where[first:end].any()}
        # Blocks are damaged as a whole: a field is there for all rows of one, or for none.
        paths = [path for path, field in schema.by_path().items() if field.name not in empty]
        yield reader.block(first, end, paths).take(np.flatnonzero(~lost))


def _replace(path: Path, store: Path, aside: Path) -> None:
    for damage in find_damage([path]).values():
        raise StoreError(f"{path} does not read back ({damage}); nothing was changed")
    store.rename(aside)
