"""Reading a store, finished or under way."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from hpcbench.counting import counted
from hpcbench.errors import StoreError, UsageError
from hpcbench.store.columns import columns_of, schema_of, table_of
from hpcbench.store.fields import Schema
from hpcbench.store.files import Files
from hpcbench.store.list_rows import listed_row, unfinished_ids
from hpcbench.store.names import hint_of, ids_of, is_beside, is_history, is_reference
from hpcbench.store.physics import phonopy_of
from hpcbench.store.result import Result, compact_force_constants, result_of
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import AGAIN, DONE, EARLIER_LIST
from hpcbench.store.selection import Selection
from hpcbench.store.stored_bands import Bands, bands_of

if TYPE_CHECKING:
    import pandas
    import xarray
    from phonopy import Phonopy


class Store:
    """The results of a run: the consolidated file, and segments that are not in it yet.

    Opening it changes nothing and works while a run is under way; it shows what was committed
    when it was opened, or since :meth:`refresh`. When a launch ends, its segments become part
    of a new file: then it looks again by itself.

    ``store[id]`` is one crystal, ``store[:100]``, ``store[ids]`` and ``store[mask]`` are stores
    with some of the crystals, as ``store.where("natoms < 10")`` is; iterating gives one result
    after the other in the order of storage.

    It is of the crystals of the run's latest list: those that only earlier lists have are in
    :attr:`earlier`, in no table and in no count, and are found by their ids.

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
        self._files = Files(path)
        self._selection = Selection(self._files)
        # By the generation of the files.
        self._table: tuple[int, pandas.DataFrame] | None = None

    @property
    def path(self) -> Path:
        """Return the path of the store's file."""
        return self.folder.store

    @property
    def folder(self) -> RunFolder:
        """Return the folder of the run beside it."""
        return self._files.folder

    def refresh(self) -> None:
        """Look again at what is committed."""
        self._files.refresh()

    def close(self) -> None:
        """Close the files; they are opened again if they are needed."""
        self._files.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._selection.where)

    def __contains__(self, key: object) -> bool:
        return key in self._selection.where

    def __repr__(self) -> str:
        return f"<hpcbench store {self.path} with {counted(len(self), 'crystal')}>"

    @property
    def ids(self) -> list[str]:
        """Return content ids in the order of storage."""
        return list(self._selection.where)

    def finished_ids(self) -> list[str]:
        """Return ids of crystals that have a result: computed, or failed with a reason.

        Those of earlier lists are among them: they are not computed again.
        """
        aside = self._files.set_aside
        keys = self._files.where if self._selection.is_whole else self._selection.where
        return [k for k in keys if not k.startswith("x") and k not in aside and AGAIN not in k]

    def unfinished_ids(self) -> list[str]:
        """Return ids of crystals of the run's list that have no result yet."""
        # Also of a part of the store: of the whole run.
        return unfinished_ids(self.folder, self._files.where.keys() - self._files.set_aside)

    @property
    def schema(self) -> Schema:
        """Return all fields: their names, dtypes, shapes, units, meanings and origins."""
        return self._files.steadily(lambda: schema_of(self._files))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decided the results: protocol, model, weights, precision, supercell, ..."""
        if not self._files.parts:
            return self.folder.settings()
        return self._files.steadily(lambda: self._files.reader(self._files.parts[0]).settings)

    @overload
    def __getitem__(self, key: str | int) -> Result: ...
    @overload
    def __getitem__(self, key: slice | Sequence[Any] | NDArray[Any] | pandas.Series) -> Store: ...
    def __getitem__(self, key: Any) -> Result | Store:
        """One crystal by its id, the beginning of one, its name or its place; or some of them."""
        if isinstance(key, str):
            return result_of(self.row(self.find(key)))
        if isinstance(key, int | np.integer):
            return result_of(self.row(self.ids[key]))
        if isinstance(key, slice):
            return self._some(self.ids[key])
        wanted = np.asarray(key)
        if wanted.dtype == bool:
            # A pandas Series says itself what it is about.
            index: Any = getattr(key, "index", None)
            if not hasattr(index, "isin"):
                index = self.table.index
            if len(wanted) != len(index):
                raise UsageError(f"a mask of {len(wanted)} for {len(index)} crystals")
            return self._some(list(index[wanted]))
        unknown = [k for k in wanted.tolist() if not self._selection.has(k)]
        if unknown:
            raise UsageError(f"{self.path} has no crystal {unknown[0]!r}: give ids")
        return self._some(wanted.tolist())

    @property
    def earlier(self) -> Store:
        """Return crystals that earlier lists of the run have, and the latest one has not."""
        return self._some(self._files.earlier)

    @property
    def history(self) -> Store:
        """Return computations of these crystals before the last one, which is the crystal's row.

        Their ids are the crystal's with ``:first`` or what else they were (column ``again``);
        the column ``parent`` has the crystal's. The store itself, its table and its length, is
        of the crystals alone.
        """
        return self._some(self._selection.belonging(is_history))

    @property
    def beside(self) -> Store:
        """Return these crystals by the protocol beside the run's; ids end with ``:phononbench``."""
        return self._some(self._selection.belonging(is_beside))

    @property
    def references(self) -> Store:
        """Return what these crystals were validated against; ids end with ``:reference``."""
        return self._some(self._selection.belonging(is_reference))

    def computations(self, key: str) -> list[str]:
        """Return ids of a crystal's computations, in the order in which they were done.

        The last one, which decides, has the crystal's own id.
        """
        others = self._files.others.get(key, ())
        return [*filter(is_history, others), key]

    def versions(self, key: str) -> list[str]:
        """Return a crystal's id, where it has a result, and those of all rows that belong to it.

        These are its history, in the order in which it was, the protocol beside, what it
        would be without its Born charges, and what it was validated against.
        """
        there = [key] if key in self._files.where else []
        return [*there, *self._files.others.get(key, ())]

    def where(self, condition: str) -> Store:
        """Return the crystals for which a condition holds, as pandas' ``query`` takes it.

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
        """Return a store with some of the rows, in the order of storage."""
        some = copy.copy(self)
        some._selection, some._table = Selection(self._files, ids), None
        return some

    def __iter__(self) -> Iterator[Result]:
        """All results, in the order of storage; reads as it goes."""
        for row in self.rows():
            yield result_of(row)

    def rows(self, paths: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield all rows, with all fields or those at ``paths``, in the order of storage.

        Reads as it goes: memory is bounded by a block of rows.
        """
        left = self._files.steadily(lambda: list(self._selection.where))
        while left:
            reader, indices = self._files.steadily(functools.partial(self._files.first_part, left))
            left = left[len(indices) :]
            with reader:
                yield from reader.rows(indices, paths)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of any shape, in the order of :attr:`ids`.

        Raises
        ------
        UsageError
            If there is no such column.
        """

        def read() -> NDArray[Any]:
            field = {field.name: field for field in schema_of(self._files).columns}.get(name)
            if field is None:
                raise UsageError(f"{self.path} has no column {name!r}")
            return columns_of(self._files, self._selection.where, [field])[name]

        return self._files.steadily(read)

    @property
    def table(self) -> pandas.DataFrame:
        """Return all scalar columns, a row for each crystal, those that failed included."""

        def read() -> pandas.DataFrame:
            if self._table is None or self._table[0] != self._files.generation:
                table = table_of(
                    self._files, self._selection.where, with_set_aside=self._selection.is_whole
                )
                self._table = self._files.generation, table
            return self._table[1]

        return self._files.steadily(read)

    def find(self, words: str) -> str:
        """Return the id of the crystal that an id, the beginning of one, or a name stands for.

        With ``:first`` and the like behind it, the id of that computation of the crystal.

        Raises
        ------
        UsageError
            If it stands for none or for several.
        """
        if self._selection.has(words):
            return words
        table = self.table
        matches = ids_of(table, words)
        if not matches and self._selection.is_whole:
            matches = ids_of(self.earlier.table, words)
        if len(matches) == 1:
            return str(matches[0])
        if not matches:
            crystal, _, what = words.rpartition(AGAIN)
            if crystal:
                return self._find_of(self.find(crystal), what)
            raise UsageError(f"{self.path} has no crystal {words!r}{hint_of(table, words)}")
        raise UsageError(f"{words!r} stands for {len(matches)} crystals: {', '.join(matches[:5])}")

    def _find_of(self, key: str, what: str) -> str:
        """Return the id of a computation of a crystal, or of the protocol beside."""
        others = self._files.others.get(key, ())
        if (wanted := f"{key}{AGAIN}{what}") in others:
            return wanted
        there = ", ".join(others) or "nothing but the crystal itself"
        raise UsageError(f"{self.path} has no {what!r} of {key}: there is {there}")

    def row(self, key: str) -> dict[str, Any]:
        """Return everything that is stored of one crystal.

        Raises
        ------
        KeyError
            If there is no such id.
        """

        def read() -> dict[str, Any]:
            if not self._selection.has(key):
                if (listed := listed_row(self.folder, key)) is not None:
                    return listed
                raise KeyError(
                    f"{self.path} has no crystal with the id {key!r}; store[name] takes names too"
                )
            part, index = self._files.where[key]
            row = self._files.reader(part).row(index)
            if EARLIER_LIST in row:
                row[EARLIER_LIST] = key.partition(AGAIN)[0] in self._files.earlier
            return row

        return self._files.steadily(read)

    def force_constants(self, key: str) -> NDArray[np.float64]:
        """Return compact force constants of a crystal, shape (nprim, nsuper, 3, 3), in eV/A^2.

        Raises
        ------
        KeyError
            If there is no such id.
        """

        def read() -> NDArray[np.float64]:
            part, index = self._files.where[key]
            reader = self._files.reader(part)
            names = ("p2s_map", "force_constants")
            return compact_force_constants({name: reader.ragged(name, index) for name in names})

        return self._files.steadily(read)

    def phonopy(self, key: str) -> Phonopy:
        """Return the crystal's ``Phonopy`` object with its force constants.

        ``key`` is an id, the beginning of one, or a name. Cells, matrices and force constants
        are those of the run, and Born charges where the crystal has them.

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
        """Return the crystal's band structure; ``key`` as in :meth:`phonopy`.

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
        """Return columns of all shapes as an xarray ``Dataset`` along ``id``.

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


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store for reading; see :class:`Store`."""
    return Store(path)
