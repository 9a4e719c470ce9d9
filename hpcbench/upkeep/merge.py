"""Several stores as one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import StoreError
from hpcbench.store.damage import find_damage
from hpcbench.store.decorations import decorate
from hpcbench.store.fields import Block, Schema, of_good_size
from hpcbench.store.run_folder import RunFolder, refuse_difference
from hpcbench.store.schema import DONE
from hpcbench.store.table_reader import TableReader
from hpcbench.store.table_writer import TableWriter


@dataclass(frozen=True)
class Merged:
    """What a merge came to.

    Attributes
    ----------
    rows : int
        Of the new store.
    in_several : int
        Crystals that were in more than one store.
    """

    rows: int
    in_several: int


def merge(stores: Sequence[Path], out: Path) -> Merged:
    """Write the crystals of several stores into a new one.

    A crystal that is in several is taken from the first one that could compute it, and has the
    origins of all.

    Raises
    ------
    StoreError
        If a store is missing or damaged or has segments, if ``out`` exists or cannot be written.
    StoreMismatchError
        If the stores were computed with different settings; the message lists them.
    """
    folder = RunFolder(out)
    if out.exists() or folder.path.exists():
        there = out if out.exists() else folder.path
        raise StoreError(f"{there} exists already: give another name, or remove it")
    for path in stores:
        if RunFolder(path).segment_paths():
            raise StoreError(
                f"{path} has results that are not in it yet: hpcbench consolidate {path}"
            )
    settings: dict[str, object] = {}
    schema = Schema((), ())
    found: dict[str, _Place] = {}
    origins: dict[str, list[str]] = {}
    for number, path in enumerate(stores):
        with TableReader(path) as reader:
            if number == 0:
                settings = reader.settings
            else:
                refuse_difference(settings, reader.settings, stores[0], f"in {path}")
            schema = schema.union(reader.schema)
            columns = (reader.column(name) for name in ("id", "status", "origins"))
            for row, (key, status, texts) in enumerate(zip(*columns, strict=True)):
                origins.setdefault(key, []).append(texts)
                if key not in found or (found[key].status != DONE and status == DONE):
                    found[key] = _Place(number, row, status)
    try:
        with TableWriter(
            out,
            schema,
            settings,
            finish=lambda file: decorate(file, settings),
            check=_require_sound,
        ) as writer:
            writer.append_blocks(of_good_size(_chosen(stores, found, origins), schema))
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{out}: cannot be written: {error}") from error
    return Merged(len(found), sum(len(texts) > 1 for texts in origins.values()))


@dataclass(frozen=True)
class _Place:
    """From which store and row a crystal is taken."""

    store: int
    row: int
    status: str


def _chosen(
    stores: Sequence[Path],
    found: Mapping[str, _Place],
    origins: Mapping[str, Sequence[str]],
) -> Iterator[Block]:
    chosen = {(place.store, place.row) for place in found.values()}
    for number, path in enumerate(stores):
        with TableReader(path) as reader:
            for first, block in reader.blocks():
                rows = [row for row in range(len(block)) if (number, first + row) in chosen]
                if not rows:
                    continue
                block = block.take(rows)
                for row, key in enumerate(block.column("id")):
                    block.column("origins")[row] = _all_origins(origins[key])
                yield block


def _all_origins(texts: Iterable[str]) -> str:
    parts = [json.loads(text) if text else [] for text in texts]
    unique = {json.dumps(origin): origin for origin in itertools.chain.from_iterable(parts)}
    return json.dumps(list(unique.values()))


def _require_sound(path: Path) -> None:
    for damage in find_damage([path]).values():
        raise StoreError(f"{path} does not read back: {damage}")
