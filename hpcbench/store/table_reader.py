"""Reading a table: columns, rows, blocks, and whether they are what was written."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import itertools
import json
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import DamageError, StoreError
from hpcbench.store.fields import Block, Field, Ragged, Schema, Values
from hpcbench.store.integrity import GROUP, digest
from hpcbench.store.table_writer import FORMAT, FORMAT_VERSION

# Bytes of a file that is read as a whole: HDF5 reads it in hundreds of pieces.
_SMALL = 16 * 2**20


NOT_AS_WRITTEN = "not what was written"
_SAYS_MORE = "hpcbench verify says more"


@dataclass(frozen=True)
class Damage:
    """Something that does not read back as it was written.

    Attributes
    ----------
    path : str
        The field; ``""`` for the file itself, or what is in it beside rows.
    first, end : int
        The rows in question.
    what : str
        What is wrong.
    """

    path: str
    first: int
    end: int
    what: str

    def __str__(self) -> str:
        where = f"{self.path}, rows {self.first} to {self.end - 1}: " if self.path else ""
        return f"{where}{self.what}"


class TableReader:
    """Reads a table; a context manager.

    Parameters
    ----------
    source : Path or file
        A file opened for reading may be anything that can seek, e.g. of fsspec.
    tolerant : bool
        Leave out fields that cannot be read, and go on with the others.

    Raises
    ------
    DamageError
        If the file is not what was written.
    StoreError
        If it cannot be read, or is not a table of this format.
    """

    def __init__(self, source: Path | BinaryIO, *, tolerant: bool = False) -> None:
        self.path = source if isinstance(source, Path) else getattr(source, "path", "file")
        try:
            if not isinstance(source, Path):
                self._file = h5py.File(source, "r")
            elif source.stat().st_size <= _SMALL:
                self._file = h5py.File(io.BytesIO(source.read_bytes()), "r")
            else:
                # Nobody changes a table that has its name: a lock that fails does not matter.
                self._file = h5py.File(source, "r", locking="best-effort")
        except FileNotFoundError as error:
            raise StoreError(f"{self.path}: no such file") from error
        except OSError as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(f"{self.path}: {_in_words(error)}; {_SAYS_MORE}") from error
        try:
            self._require_format()
        except (KeyError, OSError, RuntimeError) as error:
            self._file.close()
            raise DamageError(f"{self.path}: does not read back: {error}") from error
        except BaseException:
            self._file.close()
            raise
        _OPEN.add(self)
        self._tolerant = tolerant
        self._categories: dict[str, NDArray[Any]] = {}

    @functools.cached_property
    def _fields(self) -> dict[str, Field]:
        try:
            return dict(self._read_fields(tolerant=self._tolerant))
        except (KeyError, OSError, RuntimeError) as error:
            raise DamageError(f"{self.path}: does not read back: {error}") from error

    def _require_format(self) -> None:
        kind = self._file.attrs.get("encoding-type")
        major = str(self._file.attrs.get("encoding-version", "")).partition(".")[0]
        if kind != FORMAT or not major.isdecimal():
            if GROUP in self._file:
                raise DamageError(f"{self.path}: its format is not what was written")
            raise StoreError(f"{self.path}: an HDF5 file, but not one that hpcbench wrote")
        if int(major) > FORMAT_VERSION[0]:
            raise StoreError(
                f"{self.path}: written by a newer hpcbench; update this one to read it"
            )

    def _read_fields(self, *, tolerant: bool) -> Iterator[tuple[str, Field]]:
        for group in ("crystals", "arrays", "ragged"):
            try:
                names = list(self._file[group])
            except Exception:
                if tolerant:
                    continue
                raise
            for name in names:
                try:
                    field = _field(name, self._file[f"{group}/{name}"])
                except Exception:
                    if tolerant:
                        continue
                    raise
                if field is not None:
                    yield f"{group}/{name}", field

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return int(self._file["crystals/id"].shape[0])

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the results."""
        values: dict[str, Any] = json.loads(self._file["settings"][()].decode())
        return values

    @property
    def schema(self) -> Schema:
        """The fields of this file."""
        return Schema(
            tuple(f for path, f in self._fields.items() if not path.startswith("ragged/")),
            tuple(f for path, f in self._fields.items() if path.startswith("ragged/")),
        )

    def keys(self, voided: Mapping[str, float]) -> Iterator[tuple[int, str]]:
        """Places and ids of the rows; without failures that count no more.

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
        """A whole column, shape (N, ...); texts as ``str`` objects."""
        values = self.values(self._column_path(name))
        assert not isinstance(values, Ragged)
        return values

    def _column_path(self, name: str) -> str:
        path = f"arrays/{name}"
        return path if path in self._file else f"crystals/{name}"

    def paths(self) -> tuple[str, ...]:
        """Where the fields of this file lie, without a look at what they are."""
        return self._paths

    @functools.cached_property
    def _paths(self) -> tuple[str, ...]:
        groups = ("crystals", "arrays", "ragged")
        return tuple(f"{group}/{name}" for group in groups for name in self._file[group])

    def column_names(self) -> list[str]:
        """Names of all columns."""
        return [field.name for field in self.schema.columns]

    def scalar_names(self) -> list[str]:
        """Names of the columns that have one number or text a row."""
        return [field.name for field in self.schema.columns if not field.shape]

    def values(self, path: str, first: int = 0, end: int | None = None) -> Values:
        """The values of a field in some rows.

        Raises
        ------
        DamageError
            If they do not read back.
        StoreError
            If the system cannot read the file.
        """
        try:
            return self._values(path, first, end)
        except (OSError, RuntimeError, UnicodeError) as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(
                f"{self.path} is damaged: {path} does not read back ({error}); {_SAYS_MORE}"
            ) from error

    def _values(self, path: str, first: int, end: int | None) -> Values:
        if path.startswith("ragged/"):
            indptr = self._file[f"{path}/indptr"][first : None if end is None else end + 1]
            values = self._file[f"{path}/values"][indptr[0] : indptr[-1]]
            return Ragged(np.diff(indptr), values)
        item = self._file[path]
        if isinstance(item, h5py.Group):
            if path not in self._categories:
                self._categories[path] = item["categories"].asstr()[:]
            codes = item["codes"][first:end]
            return self._categories[path][codes] if len(codes) else codes.astype(object)
        if h5py.check_string_dtype(item.dtype):
            return np.asarray(item.asstr()[first:end], dtype=object)
        return np.asarray(item[first:end])

    def block(self, first: int, end: int, paths: Sequence[str] | None = None) -> Block:
        """Neighbouring rows: all fields, or those at ``paths``."""
        wanted = self._fields if paths is None else paths
        return Block(end - first, {path: self.values(path, first, end) for path in wanted})

    def rows(
        self, indices: Sequence[int], paths: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows in the order of ``indices``, with all fields or those at ``paths``.

        Neighbouring rows are read together, a block at most: one by one they take milliseconds
        each.
        """
        for first, end in _neighbours(indices, self._file[f"{GROUP}/rows"][:]):
            yield from self.block(indices[first], indices[first] + end - first, paths).rows()

    def row(self, index: int) -> dict[str, Any]:
        """One row with all fields of the file, ragged ones included."""
        (row,) = self.rows([index])
        return row

    def ragged(self, name: str, index: int) -> NDArray[Any]:
        """The values of one row of a ragged array."""
        values = self.values(f"ragged/{name}", index, index + 1)
        assert isinstance(values, Ragged)
        return values.values

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """All rows in the blocks in which they were written, each with its first row.

        Raises
        ------
        DamageError
            If a value is not what was written.
        StoreError
            If the file cannot be read.
        """
        try:
            sums = self.sums()
            for number, (first, end) in enumerate(self.edges()):
                block = self.block(first, end, [path for path in sums if path in self._fields])
                for path, values in block.values.items():
                    if digest(values) != sums[path][number]:
                        damage = Damage(path, first, end, NOT_AS_WRITTEN)
                        raise DamageError(f"{self.path}: {damage}")
                yield first, block
        except (KeyError, OSError, RuntimeError, UnicodeError) as error:
            if is_of_system(error):
                raise StoreError(f"{self.path}: cannot be read: {error}") from error
            raise DamageError(f"{self.path}: does not read back: {error}") from error

    def edges(self) -> Iterator[tuple[int, int]]:
        """First row and end of each block as it was written."""
        yield from itertools.pairwise(self._file[f"{GROUP}/rows"][:].tolist())

    def sums(self) -> dict[str, list[bytes]]:
        """SHA-256 of the values of each field, by block."""
        sums = self._file[f"{GROUP}/sha256"][:]
        paths = self._summed_paths()
        if set(paths) != set(self._fields) and len(paths) == len(self._fields):
            # Texts have no checksums of their own: a path has changed.
            paths = sorted(self._fields)
        return {
            path: [bytes(block) for block in sums[:, place]] for place, path in enumerate(paths)
        }

    def _summed_paths(self) -> list[str]:
        return list(self._file[f"{GROUP}/fields"].asstr()[:])


def _field(name: str, item: h5py.Group | h5py.Dataset) -> Field | None:
    """What an object in the file holds; ``None`` for one that this version does not know."""
    kind = item.attrs.get("encoding-type")
    shape: tuple[int, ...] = ()
    if kind == "categorical":
        dtype = "category"
    elif kind == "string-array":
        dtype = "str"
    elif kind in ("array", "ragged"):
        dataset = item["values"] if kind == "ragged" else item
        dtype, shape = dataset.dtype.str, dataset.shape[1:]
    else:
        return None
    unit, meaning = (str(item.attrs.get(key, "")) for key in ("unit", "meaning"))
    return Field(name, dtype, shape, unit, meaning)


# HDF5 closes what is still open when the process ends: after Python has, whose file objects it
# then calls, and the process ends with a segmentation fault.
_OPEN: weakref.WeakSet[TableReader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for reader in list(_OPEN):
        with contextlib.suppress(Exception):  # nobody is left to be told
            reader.close()


def _in_words(error: OSError) -> str:
    """Why HDF5 cannot open a file."""
    if cut := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", str(error)):
        there, written = map(int, cut.groups())
        return f"cut off: {there} of {written} bytes are there"
    if "file signature not found" in str(error):
        return "is no HDF5 file, or its beginning is damaged"
    return f"cannot be opened as HDF5 ({error})"


def without_path(error: DamageError, path: Path) -> str:
    """What a :class:`TableReader` has said of a file, for those who know which and what to do."""
    return str(error).removeprefix(f"{path}: ").removesuffix(f"; {_SAYS_MORE}").splitlines()[0]


def is_of_system(error: BaseException) -> bool:
    """Whether an error says nothing of the file: the system could not read it just now."""
    if isinstance(error, MemoryError):
        return True
    # HDF5's own errors come without a number; those of the system it quotes.
    return isinstance(error, OSError) and (error.errno is not None or "errno = " in str(error))


def _neighbours(indices: Sequence[int], edges: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive rows of one block in ``indices``, as positions in it."""
    blocks = np.searchsorted(edges, indices, side="right")
    start = 0
    for position in range(1, len(indices) + 1):
        if (
            position == len(indices)
            or indices[position] != indices[position - 1] + 1
            or blocks[position] != blocks[position - 1]
        ):
            yield start, position
            start = position
