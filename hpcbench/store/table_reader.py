"""Reading a table: columns, rows, blocks, and whether they are what was written."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import DamageError, StoreError
from hpcbench.store.datasets import MOST_AT_ONCE, Datasets, in_memory, neighbours
from hpcbench.store.faults import NOT_AS_WRITTEN, SAYS_MORE, Damage, in_words, is_of_system
from hpcbench.store.fields import Block, Field, Ragged, Schema, Values
from hpcbench.store.integrity import GROUP, digest
from hpcbench.store.known import settings_of, wrong_id
from hpcbench.store.structure import LEAST_BYTES_OF_A_ROW
from hpcbench.store.table_format import fields_of, require_format, require_own

_IDS = "crystals/id"


class TableReader:
    """Reads a table; a context manager.

    Parameters
    ----------
    source : Path or file
        A file opened for reading may be anything that can seek, e.g. of fsspec.
    tolerant : bool
        Leave out fields that cannot be read, and go on with the others.
    every_object : bool
        Look at all objects of the file before anything is read, not only at each that is read.

    Raises
    ------
    DamageError
        If the file is not what was written.
    StoreError
        If it cannot be read, or is not a table of this format.
    """

    def __init__(
        self, source: Path | BinaryIO, *, tolerant: bool = False, every_object: bool = False
    ) -> None:
        self.path = source if isinstance(source, Path) else getattr(source, "path", "file")
        self._tolerant = tolerant
        self._categories: dict[str, NDArray[Any]] = {}
        try:
            stream = in_memory(source) if isinstance(source, Path) else source
            if stream is None:
                # Nobody changes a table that has its name: a lock that fails does not matter.
                self._file = h5py.File(source, "r", locking="best-effort")
            else:
                self._file = h5py.File(stream, "r")
        except FileNotFoundError as error:
            raise StoreError(f"{self.path}: no such file") from error
        except OSError as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(f"{self.path}: {in_words(error)}; {SAYS_MORE}") from error
        self._data = Datasets(self._file, stream, str(self.path))
        try:
            require_format(self._file, self.path)
            if every_object:
                require_own(self._file, self.path)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            self._file.close()
            raise DamageError(f"{self.path}: does not read back: {error}") from error
        except BaseException:
            self._file.close()
            raise
        _OPEN.add(self)

    @functools.cached_property
    def _fields(self) -> dict[str, Field]:
        try:
            return dict(fields_of(self._file, tolerant=self._tolerant))
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise DamageError(f"{self.path}: does not read back: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._data.get(_IDS))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decided the results.

        Raises
        ------
        DamageError
            If there are none.
        StoreError
            If they are not settings of a run.
        """
        try:
            text = str(self._data.get("settings").asstr()[()])
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise DamageError(f"{self.path}: its settings do not read back: {error}") from error
        return settings_of(text, str(self.path))

    @property
    def schema(self) -> Schema:
        """Return the fields of this file."""
        return Schema(
            tuple(f for path, f in self._fields.items() if not path.startswith("ragged/")),
            tuple(f for path, f in self._fields.items() if path.startswith("ragged/")),
        )

    def keys(self, voided: Mapping[str, float]) -> Iterator[tuple[int, str]]:
        """Yield places and ids of the rows; without failures that count no more.

        Parameters
        ----------
        voided : mapping
            By id, when the crystal failed.
        """
        ids = self.column("id")
        if not voided:
            return iter(enumerate(ids))
        finished = self.column("finished")
        # Not a number: set aside before anything was computed.
        return (
            (index, key)
            for index, key in enumerate(ids)
            if key not in voided or str(voided[key]) != str(float(finished[index]))
        )

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column, shape (N, ...); texts as ``str`` objects.

        Raises
        ------
        StoreError
            As :meth:`values`.
        """
        path = self._column_path(name)
        values = self.values(path)
        assert not isinstance(values, Ragged)
        if len(values) != len(self):
            raise DamageError(f"{self.path} is damaged: {path} has {len(values)} rows; {SAYS_MORE}")
        return values

    def _column_path(self, name: str) -> str:
        path = f"arrays/{name}"
        return path if path in self._file else f"crystals/{name}"

    def paths(self) -> tuple[str, ...]:
        """Return where the fields of this file lie, without a look at what they are."""
        return self._paths

    @functools.cached_property
    def _paths(self) -> tuple[str, ...]:
        groups = ("crystals", "arrays", "ragged")
        return tuple(f"{group}/{name}" for group in groups for name in self._file[group])

    def column_names(self) -> list[str]:
        """Return names of all columns."""
        return [field.name for field in self.schema.columns]

    def scalar_names(self) -> list[str]:
        """Return names of the columns that have one number or text a row."""
        return [field.name for field in self.schema.columns if not field.shape]

    def values(self, path: str, first: int = 0, end: int | None = None) -> Values:
        """Return the values of a field in some rows.

        Parameters
        ----------
        path : str
            The field.
        first, end : int
            The rows, as of a slice.

        Raises
        ------
        DamageError
            If they do not read back.
        StoreError
            If the system cannot read the file.
        """
        try:
            return self._values(path, first, end)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(
                f"{self.path} is damaged: {path} does not read back ({error}); {SAYS_MORE}"
            ) from error

    def _values(self, path: str, first: int, end: int | None) -> Values:
        if path.startswith("ragged/"):
            return self._ragged(path, first, end)
        if not self._has_categories(path):
            if not h5py.check_string_dtype(self._data.get(path).dtype):
                return self._data.numbers(path, first, end)
            texts = self._data.texts(path, first, end)
            if path == _IDS and (wrong := wrong_id(texts)) is not None:
                raise ValueError(f"{wrong!r} is no id")
            return texts
        if path not in self._categories:
            self._categories[path] = self._data.texts(f"{path}/categories")
        categories = self._categories[path]
        codes = self._data.places(f"{path}/codes", first, end)
        if not len(codes):
            return codes.astype(object)
        if codes.min() < 0 or codes.max() >= len(categories):
            raise ValueError("codes without a category")
        return categories[codes]

    def _ragged(self, path: str, first: int, end: int | None) -> Ragged:
        places = self._data.places(f"{path}/indptr", first, None if end is None else end + 1)
        counts, length = np.diff(places), len(self._data.get(f"{path}/values"))
        if not len(places) or places[0] < 0 or places[-1] > length or (counts < 0).any():
            raise ValueError("indptr leads out of the values")
        values = self._data.numbers(f"{path}/values", int(places[0]), int(places[-1]))
        return Ragged(counts, values)

    def _has_categories(self, path: str) -> bool:
        return isinstance(self._file.get(path), h5py.Group)

    def block(self, first: int, end: int, paths: Sequence[str] | None = None) -> Block:
        """Return neighbouring rows.

        Parameters
        ----------
        first, end : int
            The rows.
        paths : sequence of str, optional
            Fields; by default all.

        Raises
        ------
        StoreError
            As :meth:`values`.
        """
        wanted = self._fields if paths is None else paths
        block = Block(end - first, {})
        for path in wanted:
            values = block.values[path] = self.values(path, first, end)
            if len(values) != len(block):
                raise DamageError(
                    f"{self.path} is damaged: {path} has {len(values)} of {len(block)} rows from "
                    f"{first} on; {SAYS_MORE}"
                )
            if block.nbytes > MOST_AT_ONCE:
                raise DamageError(
                    f"{self.path} is damaged: rows {first} to {end - 1} have more than "
                    f"{MOST_AT_ONCE:,} bytes; {SAYS_MORE}"
                )
        return block

    def rows(
        self, indices: Sequence[int], paths: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield rows in any order.

        Neighbouring rows are read together, a block at most: one by one they take milliseconds
        each.

        Parameters
        ----------
        indices : sequence of int
            Places of the rows.
        paths : sequence of str, optional
            Fields; by default all.

        Raises
        ------
        StoreError
            As :meth:`values`.
        """
        for first, end in neighbours(indices, self._block_ends()):
            yield from self.block(indices[first], indices[first] + end - first, paths).rows()

    def row(self, index: int) -> dict[str, Any]:
        """Return one row with all fields of the file, ragged ones included."""
        (row,) = self.rows([index])
        return row

    def ragged(self, name: str, index: int) -> NDArray[Any]:
        """Return the values of one row of a ragged array.

        Parameters
        ----------
        name : str
            Of the array.
        index : int
            Place of the row.
        """
        values = self.values(f"ragged/{name}", index, index + 1)
        assert isinstance(values, Ragged)
        return values.values

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield all rows in the blocks in which they were written, each with its first row.

        Raises
        ------
        DamageError
            If a value is not what was written.
        StoreError
            If the file cannot be read.
        """
        try:
            sums, edges = self.sums(), list(self.edges())
            if sum(end - first for first, end in edges) != len(self):
                raise ValueError(f"{len(self)} rows, and blocks of others")
            for number, (first, end) in enumerate(edges):
                block = self.block(first, end, [path for path in sums if path in self._fields])
                for path, values in block.values.items():
                    if digest(values) != sums[path][number]:
                        damage = Damage(path, first, end, NOT_AS_WRITTEN)
                        raise DamageError(f"{self.path}: {damage}")
                yield first, block
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(f"{self.path}: does not read back: {error}") from error

    def edges(self) -> Iterator[tuple[int, int]]:
        """Yield first row and end of each block as it was written.

        Raises
        ------
        DamageError
            If they are no blocks of rows.
        """
        yield from itertools.pairwise(self._block_ends().tolist())

    def _block_ends(self) -> NDArray[np.int64]:
        try:
            ends = self._data.places(f"{GROUP}/rows")
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise DamageError(f"{self.path}: does not read back: {error}") from error
        most = self._file.id.get_filesize() // LEAST_BYTES_OF_A_ROW
        if not len(ends) or ends[0] != 0 or (np.diff(ends) <= 0).any() or ends[-1] > most:
            raise DamageError(f"{self.path} is damaged: its blocks are none; {SAYS_MORE}")
        return ends

    def sums(self) -> dict[str, list[bytes]]:
        """Return the SHA-256 of the values of each field, by block.

        Raises
        ------
        ValueError
            If they are not those of the blocks.
        """
        paths, ends = self._summed_paths(), self._block_ends()
        sums = self._data.numbers(f"{GROUP}/sha256")
        if sums.dtype != np.uint8 or sums.shape != (len(ends) - 1, len(paths), 32):
            raise ValueError("no sum for each field and block")
        if set(paths) != set(self._fields) and len(paths) == len(self._fields):
            # Texts have no checksums of their own: a path has changed.
            paths = sorted(self._fields)
        return {
            path: [bytes(block) for block in sums[:, place]] for place, path in enumerate(paths)
        }

    def _summed_paths(self) -> list[str]:
        return list(self._data.texts(f"{GROUP}/fields"))


# HDF5 closes what is still open when the process ends: after Python has, whose file objects it
# then calls, and the process ends with a segmentation fault.
_OPEN: weakref.WeakSet[TableReader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for reader in list(_OPEN):
        with contextlib.suppress(Exception):  # nobody is left to be told
            reader.close()
