"""Writing a table: whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from hpcbench.outputs import remove_left_over, says_at_work, temporary_name
from hpcbench.store import integrity
from hpcbench.store.failsafe_file import PatientFile
from hpcbench.store.fields import (
    Block,
    Field,
    Ragged,
    Row,
    Schema,
    blocks_of,
    column_path,
    conform,
    ragged_path,
)

FORMAT = "hpcbench-store"
FORMAT_VERSION = (1, 0)
COMPRESSION = {
    "compression": "gzip",
    "compression_opts": 1,
    "shuffle": True,
    "fletcher32": True,
}
"""Of all numbers: every reader of HDF5 knows these. Higher levels take longer and gain nothing:
what does not repeat are the last digits of numbers."""

# HDF5 reads whole chunks. One row of a column is a chunk of it; an array is many chunks.
_COLUMN_CHUNK, _RAGGED_CHUNK = 16 * 1024, 128 * 1024


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
    finish : callable, optional
        Adds to the file what is not a row, before it is summed and closed.
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
        finish: Callable[[h5py.File], None] | None = None,
        check: Callable[[Path], None] | None = None,
        *,
        small: bool = False,
    ) -> None:
        self._finish = finish
        self._check = check
        self._path = path
        self._schema = schema
        self._fields = schema.by_path()
        self._summed = sorted(self._fields)
        self._categories: dict[str, dict[str, int]] = {}
        self._ends = [0]
        self._sums: list[list[bytes]] = []
        self._stream: io.BytesIO | PatientFile
        self._temporary, self._stream = _opened(workplace or path.parent, path.name, small=small)
        # From 1.10 on, HDF5 has checksums for the file's own structure.
        self._file = h5py.File(self._stream, "w", libver=("v110", "v110"))
        self._lay_out(settings)

    def _lay_out(self, settings: Mapping[str, Any]) -> None:
        file = self._file
        _encode(file, FORMAT, ".".join(map(str, FORMAT_VERSION)))
        file["settings"] = json.dumps(dict(settings), sort_keys=True)
        _encode(file["settings"], "json", "1.0")
        # Readers see the fields in the order of the schema, not of the alphabet.
        crystals = file.create_group("crystals", track_order=True)
        _encode(crystals, "dataframe", "0.2.0")
        names = [field.name for field in self._schema.columns if not field.shape]
        crystals.attrs["_index"] = names[0]
        crystals.attrs["column-order"] = np.array(names[1:], dtype=h5py.string_dtype())
        for group in ("arrays", "ragged"):
            _encode(file.create_group(group, track_order=True), "dict", "0.1.0")
        for field in self._schema.columns:
            self._create_column(column_path(field), field)
        for field in self._schema.ragged:
            self._create_ragged(ragged_path(field), field)

    def _create_column(self, path: str, field: Field) -> None:
        if field.dtype == "category":
            self._categories[path] = {}
            group = self._file.create_group(path)
            _encode(group, "categorical", "0.2.0")
            _describe(group, field)
            group.attrs["ordered"] = False
            _create(group, "codes", np.dtype("i4"), (), _COLUMN_CHUNK)
            return
        if field.dtype == "str":
            dataset = self._file.create_dataset(
                path, (0,), h5py.string_dtype(), maxshape=(None,), chunks=(1024,)
            )
            _encode(dataset, "string-array", "0.2.0")
        else:
            dataset = _create(self._file, path, np.dtype(field.dtype), field.shape, _COLUMN_CHUNK)
            _encode(dataset, "array", "0.2.0")
        _describe(dataset, field)

    def _create_ragged(self, path: str, field: Field) -> None:
        group = self._file.create_group(path)
        _encode(group, "ragged", "1.0")
        _describe(group, field)
        values = _create(group, "values", np.dtype(field.dtype), field.shape, _RAGGED_CHUNK)
        values.attrs["unit"] = field.unit
        indptr = _create(group, "indptr", np.dtype("<i8"), (), _COLUMN_CHUNK)
        _extend(indptr, np.zeros(1, dtype=np.int64))

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows, in order; memory is bounded by a block of them.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        self.append_blocks(blocks_of(rows, self._schema))

    def append_blocks(self, blocks: Iterable[Block]) -> None:
        """Append blocks as they are: fields that the schema lacks are left out.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        for block in blocks:
            if len(block):
                self._append(conform(block, self._schema))
                self._raise_write_error()

    def _append(self, block: Block) -> None:
        for path, values in block.values.items():
            if isinstance(values, Ragged):
                indptr = self._file[f"{path}/indptr"]
                ends = indptr[-1] + np.cumsum(values.counts)
                _extend(self._file[f"{path}/values"], values.values)
                _extend(indptr, ends)
            elif path in self._categories:
                known = self._categories[path]
                codes = [known.setdefault(text, len(known)) for text in values]
                _extend(self._file[f"{path}/codes"], np.array(codes, dtype="i4"))
            else:
                _extend(self._file[path], values)
        self._ends.append(self._ends[-1] + len(block))
        self._sums.append([integrity.digest(block.values[path]) for path in self._summed])

    def _seal(self) -> None:
        """Write what is known only in the end: categories, extras, sums."""
        for path, known in self._categories.items():
            categories = np.array([*known], dtype=object)
            self._file.create_dataset(
                f"{path}/categories", data=categories, dtype=h5py.string_dtype()
            )
        if self._finish is not None:
            self._finish(self._file)
        group = self._file.create_group(integrity.GROUP)
        _encode(group, "integrity", "1.0")
        group["fields"] = np.array(self._summed, dtype=object)
        sums = np.frombuffer(b"".join(b"".join(block) for block in self._sums), dtype="u1")
        shape = (len(self._sums), len(self._summed), 32)
        frame = integrity.digest_frame(self._file, set(self._fields))
        for name, values in (
            ("rows", np.array(self._ends, dtype="<i8")),
            ("sha256", sums.reshape(shape)),
            ("frame", np.frombuffer(frame, dtype="u1")),
        ):
            group.create_dataset(name, data=values, fletcher32=values.size > 0)

    def _raise_write_error(self) -> None:
        if isinstance(self._stream, PatientFile) and self._stream.error is not None:
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
            if kind is None:
                try:
                    self._seal()
                finally:
                    self._file.close()
                self._commit()
            else:
                self._file.close()
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
            with self._temporary.open("xb") as stream:
                stream.write(self._stream.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
        else:
            _flush(self._temporary)
        if self._check is not None:
            self._check(self._temporary)
        os.replace(self._temporary, self._path)
        _flush(self._path.parent)


def _opened(folder: Path, name: str, *, small: bool) -> tuple[Path, io.BytesIO | PatientFile]:
    """Return the temporary file, and what to write to."""
    if small:
        return temporary_name(folder, name), io.BytesIO()
    remove_left_over(folder)
    while True:
        path = temporary_name(folder, name)
        stream = PatientFile(path)
        if says_at_work(stream.fileno(), path):
            return path, stream
        stream.close()


def _encode(item: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


def _describe(item: h5py.Group | h5py.Dataset, field: Field) -> None:
    item.attrs["unit"] = field.unit
    item.attrs["meaning"] = field.meaning


def _create(
    parent: h5py.Group, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], chunk: int
) -> h5py.Dataset:
    size = dtype.itemsize * int(np.prod(shape, dtype=int))
    return parent.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        dtype=dtype,
        chunks=(max(1, chunk // size), *shape),
        **COMPRESSION,
    )


def _extend(dataset: h5py.Dataset, data: Any) -> None:
    if len(data):
        dataset.resize(dataset.shape[0] + len(data), axis=0)
        dataset[-len(data) :] = data


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
