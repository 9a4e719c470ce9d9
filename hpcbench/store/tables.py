"""Tables in HDF5: columns of equal length, and ragged arrays beside them.

Layout of a file with N rows::

    /columns/<name>          (N, ...)         one value a row
    /ragged/<name>/values    (M, ...)         the values of all rows, one after the other
    /ragged/<name>/indptr    (N + 1,)         row i has values[indptr[i]:indptr[i + 1]]
    /settings                scalar text      JSON: what decided the results

Every dataset carries its unit and meaning as attributes.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import StoreError

FORMAT = "hpcbench"
FORMAT_VERSION = 1
# Small enough that a segment of few rows stays small (HDF5 stores whole chunks), large enough
# that reading a column of a long table takes few reads.
CHUNK_ROWS = 1024
# Rows copied or appended at a time: bounds the memory of consolidation.
BLOCK_ROWS = 256
# Bytes of a file that is read as a whole.
SMALL = 16 * 2**20


@dataclass(frozen=True)
class Field:
    """One column, or one ragged array, of a table.

    Attributes
    ----------
    name : str
        Its name in the file.
    dtype : str
        ``str``, or a numpy dtype.
    shape : tuple of int
        Shape of one value.
    unit : str
        Empty for a pure number or a text.
    meaning : str
        What it is, in a few words.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    meaning: str = ""

    @property
    def missing(self) -> Any:
        """The value of a row that has none."""
        if self.dtype == "str":
            return ""
        if np.dtype(self.dtype).kind == "f":
            return np.full(self.shape, np.nan)
        return np.zeros(self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class Schema:
    """The fields of a table."""

    columns: tuple[Field, ...]
    ragged: tuple[Field, ...]


def blocks(rows: Iterable[Row], length: int = BLOCK_ROWS) -> Iterator[list[Row]]:
    """Rows in lists of at most ``length``."""
    iterator = iter(rows)
    while block := list(itertools.islice(iterator, length)):
        yield block


Row = Mapping[str, Any]
"""One row: values by field name; a field that is not in it has its missing value."""


def _storage(field: Field) -> Any:
    return h5py.string_dtype() if field.dtype == "str" else np.dtype(field.dtype)


class _PatientFile(io.FileIO):
    """A file that remembers its first error instead of raising it.

    HDF5 does not survive a write that fails: on a full disk it ends the process with a
    segmentation fault when it closes the file. Nor does it survive to read something else than
    it has written. So it is told that all went well, what could not be written is kept until the
    file is closed, and the writer looks at ``error`` after each block of rows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        place, done = self.tell(), 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        if done < len(view):
            self._unwritten.append((place, bytes(view)))
            self.seek(place + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        place = self.tell()
        there = super().readinto(view) or 0
        if self.error is None:
            return there
        view[there:] = bytes(len(view) - there)
        for first, data in self._unwritten:
            start, end = max(first, place), min(first + len(data), place + len(view))
            if start < end:
                view[start - place : end - place] = data[start - first : end - first]
        self.seek(place + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


class TableWriter:
    """Writes a table to a temporary file, which takes its final name when it is whole.

    Use as a context manager: leaving it normally closes the file, flushes it to the disk and
    renames it; leaving it by an exception removes it. Nobody ever sees a half-written table.

    Parameters
    ----------
    path : Path
        Its final name.
    schema : Schema
        Of the rows.
    settings : mapping
        What decided the results.
    workplace : Path, optional
        Folder of the temporary file, on the same file system; else beside the final one.
    check : callable, optional
        Looks at the temporary file before it is renamed, and may raise.
    small : bool
        Put the file together in memory and write it at once: HDF5 makes some hundred small
        writes of each.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        settings: Mapping[str, Any],
        workplace: Path | None = None,
        check: Callable[[Path], None] | None = None,
        *,
        small: bool = False,
    ) -> None:
        self._check = check
        self._path = path
        self._temporary = (workplace or path.parent) / f".{path.name}.{os.getpid()}.part"
        self._schema = schema
        self._stream: io.BytesIO | _PatientFile
        self._stream = io.BytesIO() if small else _PatientFile(self._temporary)
        self._file = h5py.File(self._stream, "w")
        self._rows = 0
        self._file.attrs["format"] = FORMAT
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file["settings"] = json.dumps(dict(settings), sort_keys=True)
        for group in ("columns", "ragged"):
            # Readers see the fields in the order of the schema, not of the alphabet.
            self._file.create_group(group, track_order=True)
        for field in schema.columns:
            self._create(f"columns/{field.name}", field)
        for field in schema.ragged:
            self._create(f"ragged/{field.name}/values", field)
            self._file.create_dataset(
                f"ragged/{field.name}/indptr",
                data=np.zeros(1, dtype=np.int64),
                maxshape=(None,),
                chunks=(4096,),
                fletcher32=True,
            )

    def _create(self, name: str, field: Field) -> None:
        options: dict[str, Any] = {}
        if field.dtype != "str":
            # HDF5 cannot filter texts of variable length.
            options = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
            options["fletcher32"] = True
        dataset = self._file.create_dataset(
            name,
            shape=(0, *field.shape),
            maxshape=(None, *field.shape),
            dtype=_storage(field),
            chunks=(CHUNK_ROWS, *field.shape),
            **options,
        )
        dataset.attrs["unit"] = field.unit
        dataset.attrs["meaning"] = field.meaning

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows, in order; memory is bounded by a block of them.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        for block in blocks(rows):
            self._append(block)
            self._raise_write_error()

    def _append(self, rows: Sequence[Row]) -> None:
        for field in self._schema.columns:
            values = [row.get(field.name, field.missing) for row in rows]
            data: Any = values
            if field.dtype != "str":
                data = np.asarray(values, dtype=field.dtype).reshape(len(rows), *field.shape)
            _extend(self._file[f"columns/{field.name}"], data, len(rows))
        for field in self._schema.ragged:
            parts = [
                np.asarray(row.get(field.name, ()), dtype=field.dtype).reshape(-1, *field.shape)
                for row in rows
            ]
            indptr = self._file[f"ragged/{field.name}/indptr"]
            ends = indptr[-1] + np.cumsum([len(part) for part in parts])
            values_of_rows = np.concatenate(parts)
            _extend(self._file[f"ragged/{field.name}/values"], values_of_rows, len(values_of_rows))
            _extend(indptr, ends, len(ends))
        self._rows += len(rows)

    def _raise_write_error(self) -> None:
        if isinstance(self._stream, _PatientFile) and self._stream.error is not None:
            raise self._stream.error

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._commit()
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise
        else:
            if kind is not None:
                self._temporary.unlink(missing_ok=True)
        finally:
            self._stream.close()

    def _commit(self) -> None:
        self._raise_write_error()
        if isinstance(self._stream, io.BytesIO):
            with self._temporary.open("wb") as stream:
                stream.write(self._stream.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
        else:
            _flush(self._temporary)
        if self._check is not None:
            self._check(self._temporary)
        os.replace(self._temporary, self._path)
        _flush(self._path.parent)


def _extend(dataset: h5py.Dataset, data: Any, length: int) -> None:
    if length:
        dataset.resize(dataset.shape[0] + length, axis=0)
        dataset[-length:] = data


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _neighbours(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive rows in ``indices``, as positions in it, of at most a block each."""
    start = 0
    for position in range(1, len(indices) + 1):
        ends = position == len(indices) or indices[position] != indices[position - 1] + 1
        if ends or position - start == BLOCK_ROWS:
            yield start, position
            start = position


class TableReader:
    """Reads a table; a context manager.

    Raises
    ------
    StoreError
        If the file cannot be opened or is not a table of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size <= SMALL:
                # HDF5 reads it in hundreds of pieces.
                self._file = h5py.File(io.BytesIO(path.read_bytes()), "r")
            else:
                self._file = h5py.File(path, "r", locking=False)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no such file") from error
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened as HDF5: {error}") from error
        if self._file.attrs.get("format") != FORMAT:
            self._file.close()
            raise StoreError(f"{path}: an HDF5 file, but not one that hpcbench wrote")
        if int(self._file.attrs["format_version"]) > FORMAT_VERSION:
            self._file.close()
            raise StoreError(f"{path}: written by a newer hpcbench; update this one to read it")

    def __enter__(self) -> TableReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._file["columns/id"].shape[0])

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the results."""
        values: dict[str, Any] = json.loads(self._file["settings"][()].decode())
        return values

    def keys(self, voided: Mapping[str, float]) -> Iterator[tuple[int, str]]:
        """Places and ids of the rows; without failures that count no more.

        Parameters
        ----------
        voided : mapping
            By id, when the crystal failed.
        """
        ids = self.column("id")
        finished = self.column("finished") if voided else np.zeros(len(ids))
        for index, key in enumerate(ids):
            # Not a number: set aside before anything was computed.
            if key not in voided or str(voided[key]) != str(float(finished[index])):
                yield index, key

    def column(self, name: str) -> NDArray[Any]:
        """A whole column, shape (N, ...); texts as ``str`` objects."""
        dataset = self._file[f"columns/{name}"]
        if h5py.check_string_dtype(dataset.dtype):
            return np.asarray(dataset.asstr()[:], dtype=object)
        return np.asarray(dataset[:])

    def column_names(self) -> list[str]:
        """Names of all columns."""
        return list(self._file["columns"])

    def rows(self, indices: Sequence[int], schema: Schema) -> Iterator[dict[str, Any]]:
        """Whole rows, in the order of ``indices``; fields that this file lacks are left out.

        Neighbouring rows are read together: one by one they take milliseconds each.
        """
        for first, end in _neighbours(indices):
            block = self._block(indices[first], indices[first] + end - first, schema)
            for offset in range(end - first):
                yield {name: values[offset] for name, values in block.items()}

    def _block(self, first: int, end: int, schema: Schema) -> dict[str, Sequence[Any]]:
        block: dict[str, Sequence[Any]] = {}
        for field in schema.columns:
            if f"columns/{field.name}" in self._file:
                dataset = self._file[f"columns/{field.name}"]
                is_text = h5py.check_string_dtype(dataset.dtype)
                block[field.name] = (dataset.asstr() if is_text else dataset)[first:end]
        for field in schema.ragged:
            if f"ragged/{field.name}" in self._file:
                group = self._file[f"ragged/{field.name}"]
                indptr = group["indptr"][first : end + 1]
                values = group["values"][indptr[0] : indptr[-1]]
                block[field.name] = np.split(values, indptr[1:-1] - indptr[0])
        return block

    def read_everything(self) -> None:
        """Read every value once, in parts, which checks HDF5's checksums.

        Raises
        ------
        StoreError
            If something does not read back.
        """
        datasets: list[h5py.Dataset] = []
        self._file.visititems(
            lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None
        )
        try:
            for dataset in datasets:
                if dataset.shape == ():
                    dataset[()]
                    continue
                for start in range(0, dataset.shape[0], 64 * CHUNK_ROWS):
                    dataset[start : start + 64 * CHUNK_ROWS]
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{self.path}: does not read back: {error}") from error

    def check_lengths(self) -> None:
        """Compare the lengths of all columns and arrays.

        Raises
        ------
        StoreError
            If they do not go together.
        """
        lengths = {name: len(self._file[f"columns/{name}"]) for name in self.column_names()}
        for name, group in self._file["ragged"].items():
            indptr = group["indptr"][:]
            if (np.diff(indptr) < 0).any() or indptr[0] != 0 or indptr[-1] != len(group["values"]):
                raise StoreError(f"{self.path}: the index of {name} is wrong")
            lengths[name] = len(indptr) - 1
        if len(set(lengths.values())) > 1:
            raise StoreError(f"{self.path}: columns have different lengths")

    def row(self, index: int) -> dict[str, Any]:
        """One row with all fields of the file, ragged ones included."""
        row: dict[str, Any] = {}
        for name in self.column_names():
            value = self._file[f"columns/{name}"][index]
            row[name] = value.decode() if isinstance(value, bytes) else value
        for name in self._file["ragged"]:
            row[name] = self.ragged(name, index)
        return row

    def ragged(self, name: str, index: int) -> NDArray[Any]:
        """The values of one row of a ragged array."""
        group = self._file[f"ragged/{name}"]
        start, end = group["indptr"][index : index + 2]
        return np.asarray(group["values"][start:end])
