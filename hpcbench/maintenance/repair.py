"""A store made of what is intact in a damaged one.

A store is read here as its own process has read it (:mod:`hpcbench.store.inspection`): what ended
or stopped that process is not read again, and a file whose structure is broken is left alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from hpcbench.criteria import criteria_of
from hpcbench.errors import DamageError, HpcbenchError, NoStoreError, StoreError
from hpcbench.results.recompute import AS_STORED, columns_again
from hpcbench.store.consolidate import alone
from hpcbench.store.damage import SUFFIX, find_damage, find_damage_apart, set_aside
from hpcbench.store.dimension_scales import decorate
from hpcbench.store.examiner import Examiner
from hpcbench.store.faults import NOT_AS_WRITTEN, Damage, left_alone
from hpcbench.store.fields import (
    Block,
    Field,
    Origin,
    Row,
    Schema,
    Values,
    block_of,
    conform,
    join,
    of_good_size,
)
from hpcbench.store.inspection import READING, inspect
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE, result_schema
from hpcbench.store.small_files import Stamp, stamp
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter


@dataclass
class Repair:
    """Hold the outcome of a repair.

    Attributes
    ----------
    damaged : str
        The damaged store's new name; empty if there was nothing to repair.
    kept : int
        Rows of the new store.
    lost_ids : list of str
        Crystals whose results are lost.
    lost_unnamed : int
        Results that are lost, of crystals whose ids cannot be read.
    emptied : Counter
        By field, how many rows have lost it and are kept.
    computed_again : int
        Rows of which something was computed again from the force constants.
    sentences : list of str
        What else there is to say.
    """

    damaged: str = ""
    kept: int = 0
    lost_ids: list[str] = dataclasses.field(default_factory=list)
    lost_unnamed: int = 0
    emptied: Counter[str] = dataclasses.field(default_factory=Counter)
    computed_again: int = 0
    sentences: list[str] = dataclasses.field(default_factory=list)


def repair(store: Path, patience: float = 120.0) -> Repair:
    """Make a store of what is intact; the damaged one stays beside it under another name.

    Damaged segments of the run are set aside. The same ``hpcbench run`` computes what is lost.

    Parameters
    ----------
    store : Path
        The store.
    patience : float
        Seconds that reading one block of one field may take.

    Raises
    ------
    StoreError
        If there is no such store, if it cannot be read or is none of this format (that is no
        damage), if the structure of its file is broken, or if the new one cannot be written. The
        store is as it was then.
    """
    folder = RunFolder(store)
    # What a link leads to is repaired, and the link stays.
    store = folder.store
    if not store.exists() and not folder.segment_paths():
        raise NoStoreError(f"{store}: no such store")
    if store.exists() and not folder.path.exists() and not h5py.is_hdf5(store):
        raise StoreError(f"{store}: not an HDF5 file")
    result = Repair(sentences=set_aside(find_damage_apart(folder.segment_paths())))
    if not store.exists():
        return result
    before = stamp(store)
    found = inspect(store, 0, patience)
    if why := found.broken:
        raise StoreError("\n".join([*result.sentences, f"{store}: {why}", left_alone(store)]))
    if found.damages or _has_one_twice(store):
        try:
            _rebuild(folder, found.damages, before, result)
        except DamageError as error:
            said = [*result.sentences, str(error), left_alone(store)]
            raise StoreError("\n".join(said)) from error
    return result


def _has_one_twice(store: Path) -> bool:
    with TableReader(store) as reader:
        ids = reader.column("id")
    return len(set(ids)) < len(ids)


def _free_name(store: Path) -> Path:
    names = itertools.chain([SUFFIX], (f"{SUFFIX}-{number}" for number in itertools.count(2)))
    return next(
        path
        for path in (store.with_name(store.name + name) for name in names)
        if not os.path.lexists(path)
    )


def _rebuild(folder: RunFolder, damages: Iterable[Damage], before: Stamp, result: Repair) -> None:
    """Write the new store in place of the damaged one, and note what became of the rows."""
    store, aside = folder.store, _free_name(folder.store)
    replacing = contextlib.ExitStack()

    def check(path: Path) -> None:
        for damage in find_damage([path]).values():
            raise StoreError(f"{path} does not read back ({damage}); nothing was changed")
        if folder.path.exists():
            replacing.enter_context(alone(folder))
        if stamp(store) != before:
            raise StoreError(f"{store} was replaced meanwhile; nothing was changed")
        # It keeps its old name as well until the new one takes that.
        try:
            os.link(store, aside)
        except OSError:  # a file system without links
            store.rename(aside)

    with Examiner(store, tolerant=True) as reader, replacing:
        settings = _settings(reader, folder)
        schema = _schema(reader, settings)
        blocks = _intact(reader, schema, set(damages), settings, result)
        try:
            with TableWriter(
                store,
                schema,
                settings,
                workplace=folder.path if folder.path.exists() else None,
                finish=lambda file: decorate(file, settings),
                check=check,
            ) as writer:
                writer.append_blocks(of_good_size(blocks, schema))
        except OSError as error:
            raise StoreError(f"{store}: cannot be repaired: {error}") from error
    result.damaged = str(aside)


def _settings(reader: TableReader, folder: RunFolder) -> dict[str, Any]:
    """Return what decided the results: the run's folder has it too."""
    try:
        return folder.settings()
    except StoreError:
        return reader.settings


def _schema(reader: TableReader, settings: Mapping[str, Any]) -> Schema:
    """Return the file's fields and those it should have, with units and meanings as they are."""
    known = result_schema(
        len(settings.get("temperatures", ())),
        tuple(criterion.column for criterion in criteria_of(settings)),
        force_dtype=settings.get("dtype", "float32"),
    )
    there = reader.schema
    texts = {field.name: field for field in (*known.columns, *known.ragged)}

    def as_known(field: Field) -> Field:
        same = texts.get(field.name, field)
        return replace(field, unit=same.unit, meaning=same.meaning)

    # Fields that cannot be opened are not in the file's schema. In the known order.
    mended = Schema(tuple(map(as_known, there.columns)), tuple(map(as_known, there.ragged)))
    return known.union(mended)


def _intact(
    reader: Examiner,
    schema: Schema,
    damages: set[Damage],
    settings: Mapping[str, Any],
    result: Repair,
) -> Iterator[Block]:
    """Yield what of each block is as it was written, or follows from what is."""
    try:
        sums: Mapping[str, Sequence[bytes | None]] = reader.sums()
    except Exception:  # a broken file fails in all kinds of ways
        # Then a value is as good as HDF5's own checksums say.
        sums = {}
    fields, readable = schema.by_path(), set(reader.schema.by_path())
    # A field that no file of this store has ever had is not lost.
    missing = {path for path in set(sums) & set(fields) if path not in readable}
    seen: set[str] = set()
    for number, (first, end) in enumerate(reader.edges()):
        told = {d.path: d.what for d in damages if d.path and d.first < end and d.end > first}
        for path in sorted(readable - told.keys()):
            expected = sums[path][number] if path in sums else None
            if what := reader.damage_of_values(path, first, end, expected):
                told[path] = what
        damaged = (told.keys() & fields.keys()) | missing
        essential = {path for path in damaged if fields[path].is_essential}
        in_part = {path for path in essential if _is_in_part(fields[path], told.get(path, ""))}
        rows, mended = _rows_left(reader, first, end, essential, in_part)
        _lose(reader, first, end, set(range(end - first)) - set(rows), damaged, result)
        if not rows:
            continue
        intact = reader.block(first, end, sorted(readable - damaged)).take(rows)
        block = _each_once(conform(Block(len(rows), intact.values | mended), schema), seen)
        lost = [fields[path] for path in damaged - essential]
        if any(field.origin is Origin.DERIVED for field in lost):
            block = _computed_again(block, schema, settings, lost, result)
        else:
            result.emptied.update({field.name: len(block) for field in lost})
        result.kept += len(block)
        yield block


def _rows_left(
    reader: Examiner, first: int, end: int, essential: set[str], in_part: set[str]
) -> tuple[list[int], dict[str, Values]]:
    """Return the rows of a block whose damaged essential fields can be had, and those fields."""
    if essential - in_part:
        return [], {}
    parts: dict[str, list[Values]] = {path: [] for path in essential}
    rows = []
    for row in range(end - first):
        values = {path: _one_row(reader, path, first + row) for path in essential}
        if None not in values.values():
            rows.append(row)
            for path, value in values.items():
                assert value is not None
                parts[path].append(value)
    blocks = [Block(1, {path: part[i] for path, part in parts.items()}) for i in range(len(rows))]
    return rows, join(blocks).values if blocks and essential else {}


def _is_in_part(field: Field, what: str) -> bool:
    """Tell whether some rows of a damaged field may be read.

    Where numbers do not read back, HDF5's checksums have found it, and vouch for those that do.
    Where all reads back and is not what was written, nobody knows which row it is. Texts have no
    checksums of their own, and what ended or stopped a process is not read again.
    """
    return not (field.is_text or what in ("", NOT_AS_WRITTEN) or what.startswith(READING))


def _one_row(reader: TableReader, path: str, row: int) -> Values | None:
    try:
        return reader.values(path, row, row + 1)
    except Exception:  # a broken file fails in all kinds of ways
        return None


def _lose(
    reader: Examiner, first: int, end: int, rows: set[int], damaged: set[str], result: Repair
) -> None:
    if not rows:
        return
    if "crystals/id" in damaged:
        result.lost_unnamed += len(rows)
    else:
        ids = reader.block(first, end, ("crystals/id",)).column("id")
        result.lost_ids += [str(ids[row]) for row in sorted(rows)]


def _each_once(block: Block, seen: set[str]) -> Block:
    """Return the block without crystals that were in an earlier one."""
    rows = []
    for row, key in enumerate(block.column("id")):
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return block if len(rows) == len(block) else block.take(rows)


def _computed_again(
    block: Block,
    schema: Schema,
    settings: Mapping[str, Any],
    lost: Sequence[Field],
    result: Repair,
) -> Block:
    """Return the block with its derived fields computed again, some of ``lost`` among them."""
    keep = replace(AS_STORED, dos=any(field.name.startswith("dos") for field in lost))
    rows: list[Row] = []
    for row in block.rows():
        if row["status"] != DONE:
            # It has no phonons.
            result.emptied.update(f.name for f in lost if f.origin is not Origin.DERIVED)
            rows.append(row)
            continue
        try:
            with warnings.catch_warnings():
                # The run has warned of this crystal.
                warnings.simplefilter("ignore")
                columns = columns_again(row, settings, keep)
        except (HpcbenchError, KeyError) as error:
            result.sentences.append(f"{row['id']}: cannot be computed again: {error}")
            result.lost_ids.append(str(row["id"]))
            continue
        result.emptied.update(field.name for field in lost if field.name not in columns)
        rows.append({**row, **columns})
        result.computed_again += 1
    return block_of(rows, schema)
