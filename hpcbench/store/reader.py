"""Reading a store, finished or under way."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast, overload

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import StoreError, UsageError
from hpcbench.store.bands import Bands, bands_of
from hpcbench.store.fields import Schema
from hpcbench.store.physics import phonopy_of
from hpcbench.store.result import Result, compact_force_constants, result_of
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE
from hpcbench.store.table_reader import TableReader

if TYPE_CHECKING:
    import pandas
    import xarray
    from phonopy import Phonopy

# Files that are kept open: a run under way may have thousands of segments.
_MOST_OPEN = 16
_LISTED = ("id", "name", "origins", "formula", "natoms", "status", "reason")


class Store:
    """The results of a run: the consolidated file, and segments that are not in it yet.

    Opening it changes nothing and works while a run is under way; it shows what was committed
    when it was opened, or since :meth:`refresh`. When a launch ends, its segments become part
    of a new file: then it looks again by itself.

    ``store[id]`` is one crystal, ``store[:100]``, ``store[ids]`` and ``store[mask]`` are stores
    with some of the crystals, as ``store.where("natoms < 10")`` is; iterating gives one result
    after the other in the order of storage.

    Parameters
    ----------
    path : path or URL
        The store, e.g. ``store.h5``; with fsspec (and aiohttp) also ``https://...``, of a server
        that can send parts of a file.

    Raises
    ------
    StoreError
        If there is neither a store nor a run of this name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._where: dict[str, tuple[Path, int]] = {}
        self._inodes: dict[Path, int] = {}
        self._readers: dict[Path, TableReader] = {}
        self._table: pandas.DataFrame | None = None
        self._chosen: list[str] | None = None
        self._remote: BinaryIO | None = None
        self._parts: list[Path] = []
        if "://" in os.fspath(path):
            self._remote = _open_remote(os.fspath(path))
            self.folder = RunFolder(Path(os.fspath(path)))
            self.path = Path(os.fspath(path))
            self._parts = [self.path]
        else:
            self.folder = RunFolder(path)
            self.path = self.folder.store
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.close()
        self._where, self._inodes, self._table = {}, {}, None
        if self._remote is None:
            # Segments are listed before the store is: one that is consolidated in between is
            # then found in the store, not missed.
            segments = self.folder.segment_paths()
            segments = [path for path in segments if path.exists()]
            self._parts = [*([self.path] if self.path.exists() else []), *segments]
            if not self._parts and not self.folder.path.exists():
                raise StoreError(f"{self.path}: no such store")
        voided = self.folder.voided()
        for part in self._parts:
            if self._remote is None:
                self._inodes[part] = part.stat().st_ino
            for index, key in self._reader(part).keys(voided):
                self._where.setdefault(key, (part, index))
        if self._chosen is not None:
            self._where = {k: self._where[k] for k in self._chosen if k in self._where}

    def close(self) -> None:
        """Close the files; they are opened again if they are needed."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self, part: Path) -> TableReader:
        reader = self._readers.pop(part, None)
        if reader is None:
            while len(self._readers) >= _MOST_OPEN:
                self._readers.pop(next(iter(self._readers))).close()
            reader = TableReader(self._remote or part)
        self._readers[part] = reader  # the last one used is the last one
        return reader

    def _refresh_if_replaced(self) -> None:
        # A launch that ends puts its segments into a new file.
        for part, inode in self._inodes.items():
            if not part.exists() or part.stat().st_ino != inode:
                self.refresh()
                return

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def __repr__(self) -> str:
        return f"<hpcbench store {self.path} with {len(self)} crystals>"

    @property
    def ids(self) -> list[str]:
        """Content ids in order of storage."""
        return list(self._where)

    def finished_ids(self) -> list[str]:
        """Ids of crystals that have a result: computed, or failed with a reason."""
        return [key for key in self._where if not key.startswith("x")]

    def unfinished_ids(self) -> list[str]:
        """Ids of crystals of the run's list that have no result yet."""
        if not self.folder.crystals.exists():
            return []
        with TableReader(self.folder.crystals) as reader:
            listed = zip(reader.column("id"), reader.column("reason"), strict=True)
            return [key for key, reason in listed if not reason and key not in self._where]

    @property
    def schema(self) -> Schema:
        """All fields: their names, dtypes, shapes, units and meanings."""
        schema = Schema((), ())
        for part in self._parts:
            schema = schema.union(self._reader(part).schema)
        return schema

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the results: protocol, model, weights, precision, supercell, ..."""
        return self._reader(self._parts[0]).settings if self._parts else self.folder.settings()

    @overload
    def __getitem__(self, key: str) -> Result: ...
    @overload
    def __getitem__(self, key: slice | Sequence[Any] | NDArray[Any] | pandas.Series) -> Store: ...
    def __getitem__(self, key: Any) -> Result | Store:
        """One crystal by its id, the beginning of one, or its name; or some of them."""
        if isinstance(key, str):
            return result_of(self.row(self.find(key)))
        if isinstance(key, slice):
            return self._some(self.ids[key])
        wanted = np.asarray(key)
        if wanted.dtype == bool:
            if len(wanted) != len(self.table):
                raise UsageError(f"a mask of {len(wanted)} for {len(self.table)} crystals")
            return self._some(list(self.table.index[wanted]))
        unknown = [k for k in wanted.tolist() if k not in self._where]
        if unknown:
            raise UsageError(f"{self.path} has no crystal {unknown[0]!r}: give ids")
        return self._some(wanted.tolist())

    def where(self, condition: str) -> Store:
        """The crystals for which a condition holds, as pandas' ``query`` takes it.

        Raises
        ------
        UsageError
            If the condition cannot be understood.
        """
        try:
            return self._some(list(self.table.query(condition).index))
        except Exception as error:  # pandas raises whatever the words lead to
            raise UsageError(f"{condition!r} is no condition on the table: {error}") from error

    def _some(self, ids: Iterable[str]) -> Store:
        """A store with some of the crystals, in the order of storage."""
        wanted = set(ids)
        some = copy.copy(self)
        some._readers = {}
        some._chosen = [key for key in self._where if key in wanted]
        some._where = {key: self._where[key] for key in some._chosen}
        some._table = None
        return some

    def __iter__(self) -> Iterator[Result]:
        """All results, in the order of storage; reads as it goes."""
        for row in self.rows():
            yield result_of(row)

    def rows(self, paths: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows, with all fields or those at ``paths``, in the order of storage.

        Reads as it goes: memory is bounded by a block of rows.
        """
        self._refresh_if_replaced()
        by_part: dict[Path, list[int]] = {}
        for part, index in self._where.values():
            by_part.setdefault(part, []).append(index)
        for part, indices in by_part.items():
            # A reader of its own: the shared ones may be closed between two rows.
            with TableReader(self._remote or part) as reader:
                yield from reader.rows(indices, paths)

    def column(self, name: str) -> NDArray[Any]:
        """A column of any shape, in the order of :attr:`ids`."""
        self._refresh_if_replaced()
        columns = {part: self._reader(part).column(name) for part in self._parts}
        return np.array([columns[part][index] for part, index in self._where.values()])

    @property
    def table(self) -> pandas.DataFrame:
        """All scalar columns, a row for each crystal, those that failed included."""
        self._refresh_if_replaced()
        if self._table is None:
            self._table = self._read_table()
        return self._table

    def _read_table(self) -> pandas.DataFrame:
        import pandas

        frames = []
        for part in self._parts:
            reader = self._reader(part)
            frame = pandas.DataFrame({n: reader.column(n) for n in reader.scalar_names()})
            places = np.array([i for p, i in self._where.values() if p == part], dtype=np.int64)
            if not np.array_equal(places, np.arange(len(frame))):
                frame = frame.iloc[places]
            frames.append(frame)
        if self.folder.crystals.exists() and self._chosen is None:
            # Crystals that were set aside before the run have their row from the start.
            with TableReader(self.folder.crystals) as reader:
                frame = pandas.DataFrame({name: reader.column(name) for name in _LISTED})
            aside = (frame["reason"] != "") & ~frame["id"].isin(list(self._where))
            frames.append(frame[aside])
        frames = [frame for frame in frames if len(frame)]
        if not frames:
            return pandas.DataFrame({"id": [], "name": [], "status": [], "reason": []})
        table = frames[0]
        if len(frames) > 1:
            table = pandas.concat(frames, ignore_index=True)
            texts = [c for c in table.columns if not pandas.api.types.is_numeric_dtype(table[c])]
            table[texts] = table[texts].fillna("")
        return table.set_index("id", drop=False)

    def find(self, words: str) -> str:
        """The id of the crystal that an id, the beginning of one, or a name stands for.

        Raises
        ------
        UsageError
            If it stands for none or for several.
        """
        if words in self._where:
            return words
        table = self.table
        matches = list(table.index[table["name"] == words]) or [
            key for key in table.index if len(words) >= 4 and key.startswith(words)
        ]
        if len(matches) == 1:
            return str(matches[0])
        if not matches:
            raise UsageError(f"{self.path} has no crystal {words!r}: give an id or a name")
        raise UsageError(f"{words!r} stands for {len(matches)} crystals: {', '.join(matches[:5])}")

    def row(self, key: str) -> dict[str, Any]:
        """Everything that is stored of one crystal.

        Raises
        ------
        KeyError
            If there is no such id.
        """
        self._refresh_if_replaced()
        if key not in self._where:
            return self._listed_row(key)
        part, index = self._where[key]
        return self._reader(part).row(index)

    def _listed_row(self, key: str) -> dict[str, Any]:
        if self.folder.crystals.exists():
            with TableReader(self.folder.crystals) as reader:
                found = np.flatnonzero(reader.column("id") == key)
                if len(found):
                    return reader.row(int(found[0]))
        raise KeyError(key)

    def force_constants(self, key: str) -> NDArray[np.float64]:
        """Compact force constants of a crystal by its id, shape (nprim, nsuper, 3, 3), eV/A^2.

        Raises
        ------
        KeyError
            If there is no such id.
        """
        self._refresh_if_replaced()
        part, index = self._where[key]
        reader = self._reader(part)
        names = ("p2s_map", "force_constants")
        return compact_force_constants({name: reader.ragged(name, index) for name in names})

    def phonopy(self, key: str) -> Phonopy:
        """The crystal's ``Phonopy`` object with its force constants.

        ``key`` is an id, the beginning of one, or a name. Cells, matrices and force constants
        are those of the run.

        Raises
        ------
        UsageError
            If there is no such crystal.
        StoreError
            If the crystal has no phonons, or this phonopy orders its supercell otherwise.
        """
        key = self.find(key)
        row = self.row(key)
        self._require_phonons(key, row)
        return phonopy_of(row, self.settings["symprec"])

    def bands(self, key: str) -> Bands:
        """The crystal's band structure; ``key`` as in :meth:`phonopy`.

        Raises
        ------
        UsageError
            If there is no such crystal.
        StoreError
            If the crystal has no phonons.
        """
        key = self.find(key)
        row = self.row(key)
        self._require_phonons(key, row)
        return bands_of(row)

    def to_xarray(self, ragged: Sequence[str] = ()) -> xarray.Dataset:
        """Columns of all shapes as an xarray ``Dataset`` along ``id``.

        Parameters
        ----------
        ragged : sequence of str
            Ragged arrays to take along, e.g. ``("numbers",)``: as CF conventions' contiguous
            ragged arrays, values along ``<name>_value`` and ``<name>_count`` along ``id``.

        Raises
        ------
        UsageError
            If there is no array of that name.
        """
        from hpcbench.store.labelled import to_xarray

        return to_xarray(self, ragged)

    def _require_phonons(self, key: str, row: dict[str, Any]) -> None:
        if row["status"] != DONE:
            raise StoreError(f"{row['name']} ({key}) has no phonons: {row['reason']}")


def _open_remote(url: str) -> BinaryIO:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError as error:
        raise StoreError(f"{url}: to read from a server, pip install fsspec aiohttp") from error
    try:
        return cast("BinaryIO", fsspec.open(url).open())
    except Exception as error:  # of the many kinds of file systems
        raise StoreError(f"{url}: cannot be opened: {type(error).__name__}: {error}") from error


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store for reading; see :class:`Store`."""
    return Store(path)
