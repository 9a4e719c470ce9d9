"""A store made of what is intact in a damaged one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from hpcbench.child_processes import command, environment
from hpcbench.criteria import PLACES, criteria_of
from hpcbench.errors import DamageError, HpcbenchError, NoStoreError, StoreError
from hpcbench.outputs import says_at_work, temporary_name
from hpcbench.results.recompute import columns_again
from hpcbench.store.consolidate import alone
from hpcbench.store.contents import can_be_put_together, read_contents
from hpcbench.store.damage import SUFFIX, find_damage, find_damage_apart, set_aside
from hpcbench.store.dimension_scales import decorate
from hpcbench.store.examiner import Examiner
from hpcbench.store.faults import NOT_AS_WRITTEN, Damage
from hpcbench.store.fields import (
    Block,
    Field,
    Row,
    Schema,
    Values,
    block_of,
    conform,
    join,
    of_good_size,
)
from hpcbench.store.inspection import READING, inspect
from hpcbench.store.run_folder import RunFolder, stamp
from hpcbench.store.schema import DONE, result_schema
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter

ESSENTIAL = frozenset(
    {
        "id", "status", "reason", "numbers", "positions", "cell", "relaxed_cell",
        "relaxed_positions", "energy", "supercell_matrix", "primitive_matrix", "p2s_map",
        "force_constants", "nac_params", "masses", "provenance",
    }
)  # fmt: skip
"""Fields without which a result is lost."""
_DERIVED = frozenset(
    {
        "max_frequency", "margin", "cause", "supercell_height", "force_constants_decay",
        "modes_left_out", "mesh_change",
        "free_energy", "entropy", "heat_capacity", "dimensionality", "vacuum", "band_labels",
        "band_qpoints", "band_segments", "band_frequencies", "commensurate_qpoints",
        "commensurate_frequencies", "mode_frequencies", "mode_qpoints", "mode_eigenvectors",
        "character", "gamma_acoustic", "gamma_optical", "min_frequency_near_gamma",
        *(f"{what}_{place}" for what in ("min_frequency", "min_q", "acoustic", "imaginary")
          for place in PLACES),
    }
)  # fmt: skip


def is_derived(name: str) -> bool:
    """Whether a field is computed again from the force constants. A row is kept without others."""
    return name in _DERIVED or name.startswith("verdict")


@dataclass(frozen=True)
class Repair:
    """What became of a damaged store.

    Attributes
    ----------
    kept : int
        Rows of the new store; -1 if there was nothing to repair.
    lost_ids : tuple of str
        Crystals whose results are lost.
    lost_unnamed : int
        Results that are lost, of crystals whose ids cannot be read.
    emptied : dict
        By field, how many rows have lost it and are kept.
    computed_again : int
        Rows of which something was computed again from the force constants.
    damaged : str
        The damaged store's new name; empty if there was nothing to repair.
    sentences : tuple of str
        What else there is to say.
    """

    kept: int = -1
    lost_ids: tuple[str, ...] = ()
    lost_unnamed: int = 0
    emptied: Mapping[str, int] | None = None
    computed_again: int = 0
    damaged: str = ""
    sentences: tuple[str, ...] = ()


def repair(store: Path, patience: float = 120.0) -> Repair:
    """Make a store of what is intact; the damaged one stays beside it under another name.

    Damaged segments of the run are set aside. The same ``hpcbench run`` computes what is lost.
    Everything that a damaged file may do to its reader, it does to another process.

    Raises
    ------
    StoreError
        If there is no such store, if it cannot be read or is none of this format (that is no
        damage), or if the new one cannot be written.
    """
    folder = RunFolder(store)
    # What a link leads to is repaired, and the link stays.
    store = folder.store
    if not store.exists() and not folder.segment_paths():
        raise NoStoreError(f"{store}: no such store")
    if (
        store.exists()
        and not folder.path.exists()
        and not h5py.is_hdf5(store)
        and not can_be_put_together(store)
    ):
        raise StoreError(f"{store}: not an HDF5 file")
    sentences = set_aside(find_damage_apart(folder.segment_paths()))
    if not store.exists():
        return Repair(sentences=tuple(sentences))
    before = stamp(store)
    found = inspect(store, 0, patience)
    if not found.damages and not _twice(store):
        return Repair(sentences=tuple(sentences))
    aside = _free_name(store)
    with _put_together(store) as source:
        damages = found.damages if source == store else inspect(source, 0, patience).damages
        order = {
            "store": str(store),
            "source": str(source),
            "aside": str(aside),
            "before": before,
            "damages": [list(asdict(damage).values()) for damage in damages],
        }
        process = subprocess.run(
            command("hpcbench.maintenance.repair"),
            env=environment(),
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode == StoreError.exit_code:
        raise StoreError(process.stderr.strip())
    if process.returncode:
        # Not even its fields can be listed.
        _put_aside(store, aside)
        sentences.append("nothing in it can be read")
        lost = max(found.rows, 0)
        return Repair(0, (), lost, {}, 0, str(aside), tuple(sentences))
    told = json.loads(process.stdout)
    return Repair(
        **told | {"lost_ids": tuple(told["lost_ids"])},
        damaged=str(aside),
        sentences=tuple(sentences),
    )


@contextlib.contextmanager
def _put_together(store: Path) -> Iterator[Path]:
    """A file of the damaged one's values, found without its structure; itself if that fails.

    Raises
    ------
    StoreError
        If there is no room for it.
    """
    contents = read_contents(store) if can_be_put_together(store) else None
    if contents is None:
        yield store
        return
    folder = RunFolder(store)
    path = temporary_name(folder.path if folder.path.exists() else store.parent, store.name)
    try:
        with TableWriter(path, contents.schema, contents.settings) as writer:
            writer.put_together(store, contents)
        with path.open("rb") as stream:
            if not says_at_work(stream.fileno(), path):
                raise StoreError(f"{path} was removed meanwhile: give the same command again")
            yield path
    except OSError as error:
        raise StoreError(f"{store}: cannot be repaired: {error}") from error
    finally:
        path.unlink(missing_ok=True)


def _twice(store: Path) -> list[str]:
    with TableReader(store) as reader:
        return [key for key, number in Counter(reader.column("id")).items() if number > 1]


def _free_name(store: Path) -> Path:
    names = itertools.chain([SUFFIX], (f"{SUFFIX}-{number}" for number in itertools.count(2)))
    return next(
        path
        for path in (store.with_name(store.name + name) for name in names)
        if not os.path.lexists(path)
    )


def _put_aside(store: Path, aside: Path, *, keep: bool = False) -> None:
    """Give the damaged store its new name; with ``keep`` also under the old one, for now."""
    if keep:
        with contextlib.suppress(OSError):  # a file system without links
            os.link(store, aside)
            return
    store.rename(aside)


def rebuild(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write the new store, and say what became of the rows; in a process of its own.

    Raises
    ------
    StoreError
        If it cannot be written, or the damaged one has been replaced.
    """
    store, source, aside = (Path(order[name]) for name in ("store", "source", "aside"))
    folder = RunFolder(store)
    damages = {Damage(*values) for values in order["damages"]}
    fate = _Fate()
    replacing = contextlib.ExitStack()

    def check(path: Path) -> None:
        for damage in find_damage([path]).values():
            raise StoreError(f"{path} does not read back ({damage}); nothing was changed")
        if folder.path.exists():
            replacing.enter_context(alone(folder))
        now = stamp(store)
        if now is None or list(now) != list(order["before"]):
            raise StoreError(f"{store} was replaced meanwhile; nothing was changed")
        _put_aside(store, aside, keep=True)

    with Examiner(source, tolerant=True) as reader, replacing:
        settings = _settings(reader, folder)
        schema = _schema(reader, settings)
        blocks = _intact(reader, schema, damages, settings, fate)
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
    return {
        "kept": fate.kept,
        "lost_ids": fate.lost_ids,
        "lost_unnamed": fate.lost_unnamed,
        "emptied": dict(fate.emptied),
        "computed_again": fate.computed_again,
    }


class _Fate:
    """What becomes of the rows, as it is found."""

    def __init__(self) -> None:
        self.kept = 0
        self.lost_ids: list[str] = []
        self.lost_unnamed = 0
        self.emptied: Counter[str] = Counter()
        self.computed_again = 0
        self.seen: set[str] = set()


def _settings(reader: TableReader, folder: RunFolder) -> dict[str, Any]:
    """What decided the results: the run's folder has it too."""
    try:
        return folder.settings()
    except StoreError:
        try:
            return reader.settings
        except Exception as error:  # a broken file fails in all kinds of ways
            raise DamageError(f"its settings cannot be read ({error})") from error


def _schema(reader: TableReader, settings: Mapping[str, Any]) -> Schema:
    """The file's fields and those it should have, with units and meanings as they should be."""
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
    fate: _Fate,
) -> Iterator[Block]:
    """What of each block is as it was written, or follows from what is."""
    try:
        sums: Mapping[str, Sequence[bytes | None]] = reader.sums()
    except Exception:  # a broken file fails in all kinds of ways
        # Then a value is as good as HDF5's own checksums say.
        sums = {}
    readable = set(reader.schema.by_path())
    # A field that no file of this store has ever had is not lost.
    missing = {path for path in set(sums) & set(schema.by_path()) if path not in readable}
    for number, (first, end) in enumerate(reader.edges()):
        told = {d.path: d.what for d in damages if d.path and d.first < end and d.end > first}
        for path in sorted(readable - told.keys()):
            expected = sums[path][number] if path in sums else None
            if what := reader.damage_of_values(path, first, end, expected):
                told[path] = what
        damaged = told.keys() | missing
        essential = {path for path in damaged if path.rpartition("/")[2] in ESSENTIAL}
        rows, mended = _rows_left(reader, first, end, {p: told.get(p, "") for p in essential})
        _lose(reader, first, end, set(range(end - first)) - set(rows), damaged, fate)
        if not rows:
            continue
        intact = reader.block(first, end, sorted(readable - damaged)).take(rows)
        block = conform(Block(len(rows), intact.values | mended), schema)
        block = _without_twice(block, fate)
        names = {path.rpartition("/")[2] for path in damaged - essential}
        derived = set(filter(is_derived, names))
        for name in names - derived:
            fate.emptied[name] += len(block)
        if derived:
            block = _computed_again(block, schema, settings, fate)
        fate.kept += len(block)
        yield block


def _rows_left(
    reader: Examiner, first: int, end: int, damaged: Mapping[str, str]
) -> tuple[list[int], dict[str, Values]]:
    """The rows of a block whose essential fields can be had, and those fields, row by row.

    Where a part of the values does not read back, HDF5's checksums have found it, and vouch for
    the rest. Where all reads back and is not what was written, nobody knows which row it is.
    """
    parts: dict[str, list[Values]] = {path: [] for path in damaged}
    rows = []
    for row in range(end - first):
        values = {
            path: _one_row(reader, path, first + row) if _is_in_part(what) else None
            for path, what in damaged.items()
        }
        if None not in values.values():
            rows.append(row)
            for path, value in values.items():
                assert value is not None
                parts[path].append(value)
    blocks = [Block(1, {path: part[i] for path, part in parts.items()}) for i in range(len(rows))]
    return rows, join(blocks).values if blocks and damaged else {}


def _is_in_part(what: str) -> bool:
    # Nor is anything read again that ended or stopped the process.
    return bool(what) and what != NOT_AS_WRITTEN and not what.startswith(READING)


def _one_row(reader: TableReader, path: str, row: int) -> Values | None:
    try:
        return reader.values(path, row, row + 1)
    except Exception:  # a broken file fails in all kinds of ways
        return None


def _lose(
    reader: Examiner, first: int, end: int, rows: set[int], damaged: set[str], fate: _Fate
) -> None:
    if not rows:
        return
    if "crystals/id" in damaged:
        fate.lost_unnamed += len(rows)
    else:
        ids = reader.block(first, end, ("crystals/id",)).column("id")
        fate.lost_ids += [str(ids[row]) for row in sorted(rows)]


def _without_twice(block: Block, fate: _Fate) -> Block:
    """The block without crystals that were in an earlier one."""
    rows = []
    for row, key in enumerate(block.column("id")):
        if key not in fate.seen:
            fate.seen.add(key)
            rows.append(row)
    return block if len(rows) == len(block) else block.take(rows)


def _computed_again(
    block: Block, schema: Schema, settings: Mapping[str, Any], fate: _Fate
) -> Block:
    rows: list[Row] = []
    for row in block.rows():
        if row["status"] != DONE:
            rows.append(row)
            continue
        try:
            rows.append({**row, **columns_again(row, settings)})
        except (HpcbenchError, KeyError) as error:
            print(f"{row['id']}: {error}", file=sys.stderr)
            fate.lost_ids.append(str(row["id"]))
        else:
            fate.computed_again += 1
    return block_of(rows, schema)


if __name__ == "__main__":
    # Libraries that print must not be taken for the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        result = rebuild(json.load(sys.stdin))
    except DamageError as problem:
        sys.exit(f"{problem}")
    except StoreError as problem:
        print(problem, file=sys.stderr)
        sys.exit(StoreError.exit_code)
    os.write(answer, json.dumps(result).encode())
