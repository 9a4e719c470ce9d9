"""Look at the datasets of a table's file before they are read, and read them in bounds."""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5o
from numpy.typing import NDArray

from hpcbench.errors import StoreError
from hpcbench.store.structure import foreign_link, storage_of, what_is_foreign

MOST_AT_ONCE = 2 * 2**30
"""Bytes of values that are read at once, of a column or of a block of rows."""
REFUSED = "{}: refused: {}; hpcbench writes no such file"
# Bytes of a file that is read as a whole: HDF5 reads it in hundreds of pieces.
_SMALL = 16 * 2**20
# Of a text in a dataset: bytes, place of the collection that holds it, number in there.
_REFERENCE = np.dtype([("bytes", "<u4"), ("place", "<u8"), ("number", "<u4")])


def in_memory(path: Path) -> io.BytesIO | None:
    """Read a small file; ``None`` for a larger one.

    Raises
    ------
    StoreError
        If it is no file: reading from a pipe would wait for somebody who writes.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is no file")
    return io.BytesIO(path.read_bytes()) if found.st_size <= _SMALL else None


def neighbours(indices: Sequence[int], edges: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive rows of one block, as first and end positions in ``indices``.

    Parameters
    ----------
    indices : sequence of int
        Places of rows.
    edges : ndarray, shape (nblocks + 1,)
        First rows of the blocks, and the end.
    """
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


class Datasets:
    """Read datasets of a file that a stranger may have made.

    All that is read is refused with a ``StoreError`` where hpcbench writes no such dataset, and
    with a ``ValueError`` where its values are not of the kind that is asked for, or too many.

    Parameters
    ----------
    file : h5py.File
        The file.
    stream : file or None
        What it is read from, if that is not a path.
    name : str
        What errors call it.
    """

    def __init__(self, file: h5py.File, stream: BinaryIO | None, name: str) -> None:
        self._file = file
        self._stream = stream
        self._name = name
        self._size = file.id.get_filesize()
        self._known: dict[str, h5py.Dataset] = {}

    def get(self, path: str) -> h5py.Dataset:
        """Return a dataset that hpcbench may have written."""
        if path not in self._known:
            group, _, _ = path.rpartition("/")
            prefix = f"{group}/" if group else ""
            what = foreign_link(h5o.open(self._file.id, group.encode() or b"/"), prefix)
            item = None if what else self._file[path]
            if isinstance(item, h5py.Dataset):
                what = what_is_foreign(storage_of(path, item.id), self._size)
            elif not what:
                raise ValueError("no dataset is there")
            if what:
                raise StoreError(REFUSED.format(self._name, what))
            self._known[path] = item
        return self._known[path]

    def numbers(self, path: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return numbers of some rows, or of all.

        Parameters
        ----------
        path : str
            The dataset.
        first, end : int
            The rows, as of a slice.
        """
        dataset = self.get(path)
        if h5py.check_string_dtype(dataset.dtype) or not dataset.shape:
            raise ValueError("no numbers where there should be")
        rows = len(range(*slice(first, end).indices(len(dataset))))
        size = dataset.dtype.itemsize * rows * math.prod(dataset.shape[1:])
        if size > MOST_AT_ONCE:
            raise ValueError(f"{size:,} bytes at once, more than {MOST_AT_ONCE:,}")
        return np.asarray(dataset[first:end])

    def places(self, path: str, first: int = 0, end: int | None = None) -> NDArray[np.int64]:
        """Return whole numbers, one a row.

        Parameters
        ----------
        path : str
            The dataset.
        first, end : int
            The rows, as of a slice.
        """
        places = self.numbers(path, first, end)
        if places.dtype.kind not in "iu" or places.ndim != 1:
            raise ValueError("no places where there should be")
        return places.astype(np.int64)

    def texts(self, path: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        """Return texts of some rows, or of all, as ``str`` objects.

        Parameters
        ----------
        path : str
            The dataset.
        first, end : int
            The rows, as of a slice.
        """
        dataset = self.get(path)
        if not h5py.check_string_dtype(dataset.dtype) or dataset.ndim != 1:
            raise ValueError("no texts where there should be")
        # Each text has its own place in the file: many rows that lead to a long one do not.
        if self._bytes_of_texts(dataset, first, end) > self._size:
            raise ValueError(f"texts of more bytes than the file has ({self._size:,})")
        return np.asarray(dataset.asstr()[first:end], dtype=object)

    def _bytes_of_texts(self, dataset: h5py.Dataset, first: int, end: int | None) -> int:
        rows = range(*slice(first, end).indices(len(dataset)))
        if not rows:
            return 0
        if dataset.chunks is None:
            place = dataset.id.get_offset()
            data = (
                b"" if place is None else self._bytes_at(place, len(dataset) * _REFERENCE.itemsize)
            )
            parts = [data]
        else:
            (step,) = dataset.chunks
            places = range(rows.start // step * step, rows.stop, step)
            parts = [dataset.id.read_direct_chunk((place,))[1] for place in places]
        return sum(
            int(np.frombuffer(part, _REFERENCE)["bytes"].sum(dtype=np.int64)) for part in parts
        )

    def _bytes_at(self, place: int, size: int) -> bytes:
        if self._stream is None:
            return os.pread(self._file.id.get_vfd_handle(), size, place)
        self._stream.seek(place)
        return self._stream.read(size)
