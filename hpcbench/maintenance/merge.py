"""Several stores as one."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import NoStoreError, StoreError
from hpcbench.origin import Generator, Origin, origins_from_json, origins_to_json
from hpcbench.store.damage import find_damage
from hpcbench.store.dimension_scales import decorate
from hpcbench.store.faults import require_each_once
from hpcbench.store.fields import Block, Schema, of_good_size
from hpcbench.store.run_folder import RunFolder, refuse_difference
from hpcbench.store.schema import DONE, EARLIER_LIST, FAILED
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter


@dataclass(frozen=True)
class Merged:
    """Count the rows of a merge.

    Attributes
    ----------
    crystals : int
        Of the new store.
    in_several : int
        Crystals that were in more than one store.
    earlier : int
        Those that only earlier lists of all their runs have.
    """

    crystals: int
    in_several: int
    earlier: int


def merge(stores: Sequence[Path], out: Path) -> Merged:
    """Write the crystals of several stores into a new one.

    A crystal that is in several is taken from the first one that could compute it, with its
    history from there, and has the origins of all. It counts if it does in one of them.

    Parameters
    ----------
    stores : sequence of Path
        The stores, the first ones before later ones.
    out : Path
        The new store.

    Raises
    ------
    StoreError
        If a store is missing or damaged or has segments, if ``out`` exists or cannot be written.
    StoreMismatchError
        If the stores were computed with different settings; the message lists them.
    """
    folder = RunFolder(out)
    out = folder.store
    folder.require_free()
    for path in stores:
        if RunFolder(path).segment_paths():
            raise StoreError(
                f"{path} has results that are not in it yet: hpcbench consolidate {path}"
            )
        if not path.exists():
            raise NoStoreError(f"{path}: no such store")
    settings: dict[str, object] = {}
    schema = Schema((), ())
    found: dict[str, _Place] = {}
    origins: dict[str, dict[int, str]] = {}
    counting: set[str] = set()
    for number, path in enumerate(stores):
        with TableReader(path, every_object=True) as reader:
            if number == 0:
                settings = reader.settings
            else:
                refuse_difference(settings, reader.settings, stores[0], f"in {path}")
            require_each_once(path, reader.column("id"))
            schema = schema.union(reader.schema)
            columns = (reader.column(name) for name in ("id", "status", "origins"))
            parents, marks = _parents(reader), _marks(reader)
            for parent, mark, key, status, texts in zip(parents, marks, *columns, strict=True):
                if parent != key:
                    continue
                if not mark:
                    counting.add(key)
                origins.setdefault(key, {})[number] = texts
                if key not in found or _worth(status) > _worth(found[key].status):
                    found[key] = _Place(number, status)
    try:
        with TableWriter(
            out,
            schema,
            settings,
            finish=lambda file: decorate(file, settings),
            check=lambda path: _require_sound(path, folder),
        ) as writer:
            writer.append_blocks(of_good_size(_chosen(stores, found, origins, counting), schema))
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{out}: cannot be written: {error}") from error
    several = sum(len(texts) > 1 for texts in origins.values())
    return Merged(len(found), several, len(found.keys() - counting))


@dataclass(frozen=True)
class _Place:
    """From which store a crystal is taken, with its history."""

    store: int
    status: str


def _parents(reader: TableReader) -> Sequence[str]:
    """Return the crystal's id of each row: its own, or that of its parent."""
    ids = reader.column("id")
    if "parent" not in [field.name for field in reader.schema.columns]:
        return list(ids)
    return [parent or key for parent, key in zip(reader.column("parent"), ids, strict=True)]


def _marks(reader: TableReader) -> Sequence[bool]:
    """Tell whether each row is of an earlier list; an older store does not say it: all count."""
    if f"crystals/{EARLIER_LIST}" not in reader.paths():
        return [False] * len(reader)
    return list(reader.column(EARLIER_LIST))


def _chosen(
    stores: Sequence[Path],
    found: Mapping[str, _Place],
    origins: Mapping[str, Mapping[int, str]],
    counting: Collection[str],
) -> Iterator[Block]:
    for number, path in enumerate(stores):
        with TableReader(path) as reader:
            parents = _parents(reader)
            for first, block in reader.blocks():
                of = parents[first : first + len(block)]
                rows = [
                    r for r, key in enumerate(of) if key in found and found[key].store == number
                ]
                if not rows:
                    continue
                block = block.take(rows)
                for row, index in enumerate(rows):
                    block.column("origins")[row] = _all_origins(origins[of[index]], number)
                    if f"crystals/{EARLIER_LIST}" in block.values:
                        block.column(EARLIER_LIST)[row] = of[index] not in counting
                yield block


def _worth(status: str) -> int:
    """Return the precedence of a row: results before failures, and those before unfinished ones."""
    return {DONE: 2, FAILED: 1}.get(status, 0)


def _all_origins(texts: Mapping[int, str], number: int) -> str:
    """Each origin once, as the store says of it from which the crystal is taken."""
    first = [texts[number], *(text for store, text in texts.items() if store != number)]
    unique: dict[tuple[str, int, Generator], Origin] = {}
    for origin in itertools.chain.from_iterable(map(origins_from_json, first)):
        unique.setdefault((origin.file, origin.index, origin.made_by), origin)
    # In the order of the stores, as before.
    order = [
        (origin.file, origin.index, origin.made_by)
        for origin in itertools.chain.from_iterable(map(origins_from_json, texts.values()))
    ]
    return origins_to_json(unique[key] for key in dict.fromkeys(order))


def _require_sound(path: Path, folder: RunFolder) -> None:
    for damage in find_damage([path]).values():
        raise StoreError(f"{path} does not read back: {damage}")
    # Another one may have been made meanwhile.
    folder.require_free()
