"""A table's contents, listed once more at the end of its file: where each piece of it lies.

HDF5 says in headers and trees where the values are, and says it once: one flipped bit there and
values that are intact cannot be found. The list is a ZIP archive behind the HDF5 file, which HDF5
does not look at; from it and the values alone the table can be put together anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import DamageError
from hpcbench.store.fields import Field, Schema

_LIST, _PLACES, _SUMS = "contents.json", "places.npy", "sha256.npy"
# Of a text in a chunk: bytes, place of the collection that holds it, number in there.
_TEXT = struct.Struct("<IQI")
# Bytes of a list, unpacked, for each byte of the file, and of that of a small file.
_PER_BYTE, _AT_LEAST = 16, 16 * 2**20
_MOST_FROM_A_BYTE = 1032


@dataclass(frozen=True, eq=False)
class Chunks:
    """Where the values of a dataset lie.

    Attributes
    ----------
    length : int
        Of its first axis.
    rows : int
        How many of that a chunk has.
    places : ndarray of int64, shape (nchunks, 4)
        Place in the first axis, place in the file, bytes, HDF5's mask of filters left out.
    """

    length: int
    rows: int
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contents:
    """What is in a table's file, and where.

    Attributes
    ----------
    settings : dict
        What decided the results.
    schema : Schema
        The fields.
    categories : dict
        Of categorical columns, by path.
    ends : list of int
        Edges of the blocks, beginning with 0.
    sums : ndarray of uint8, shape (blocks, fields, 32)
        SHA-256 of the values, fields in the order of their paths.
    chunks : dict
        By the path of the dataset.
    """

    settings: Mapping[str, Any]
    schema: Schema
    categories: Mapping[str, list[str]]
    ends: list[int]
    sums: NDArray[np.uint8]
    chunks: Mapping[str, Chunks]


def find_chunks(file: h5py.File, schema: Schema) -> dict[str, Chunks]:
    """Where the values of all fields lie; the file must have been flushed."""
    found = {}
    for path, field in schema.by_path().items():
        is_ragged, is_category = path.startswith("ragged/"), field.dtype == "category"
        for part in ["/values", "/indptr"] if is_ragged else ["/codes" if is_category else ""]:
            dataset = file[path + part]
            places: list[tuple[int, int, int, int]] = []
            dataset.id.chunk_iter(
                lambda info, places=places: places.append(
                    (info.chunk_offset[0], info.byte_offset, info.size, info.filter_mask)
                )
            )
            array = np.array(places, dtype=np.int64).reshape(-1, 4)
            found[path + part] = Chunks(len(dataset), dataset.chunks[0], array)
    return found


def pack(contents: Contents) -> bytes:
    """The list, as it is appended to the file."""
    chunks = contents.chunks
    told = {
        "settings": dict(contents.settings),
        "columns": [asdict(field) for field in contents.schema.columns],
        "ragged": [asdict(field) for field in contents.schema.ragged],
        "categories": dict(contents.categories),
        "ends": contents.ends,
        "datasets": {path: [c.length, c.rows, len(c.places)] for path, c in chunks.items()},
    }
    places = np.concatenate(
        [np.zeros((0, 4), dtype=np.int64), *(c.places for c in chunks.values())]
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(_LIST, json.dumps(told))
        for name, array in ((_PLACES, places), (_SUMS, contents.sums)):
            with archive.open(name, "w", force_zip64=True) as member:
                # numpy writes to what it takes for a file piece by piece.
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def read_contents(path: Path) -> Contents | None:
    """The list at the end of a file; ``None`` if there is none.

    Raises
    ------
    DamageError
        If it does not read back.
    OSError
        If the system cannot read the file.
    """
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            return None
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(stream) as archive:
                contents = _read(archive, size)
            if what := _astray(contents, size):
                raise ValueError(what)
            return contents
        except OSError:
            raise
        except Exception as error:  # a broken archive fails in all kinds of ways
            raise DamageError(
                f"the list of contents at its end does not read back ({error})"
            ) from error


def can_be_put_together(path: Path) -> bool:
    """Whether a file has a list that reads back."""
    try:
        return read_contents(path) is not None
    except DamageError:
        return False


def _read(archive: zipfile.ZipFile, size: int) -> Contents:
    # A list takes some kilobytes for each thousand rows, and rows are larger.
    if sum(entry.file_size for entry in archive.infolist()) > _PER_BYTE * size + _AT_LEAST:
        raise ValueError("it is larger than the list of a file of this size")
    told = json.loads(archive.read(_LIST))
    places, sums = (np.load(io.BytesIO(archive.read(name))) for name in (_PLACES, _SUMS))
    columns, ragged = (
        tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in told[kind])
        for kind in ("columns", "ragged")
    )
    datasets = told["datasets"]
    ends = np.cumsum([number for _, _, number in datasets.values()])
    parts = np.split(places, ends[:-1]) if datasets else []
    return Contents(
        told["settings"],
        Schema(columns, ragged),
        told["categories"],
        told["ends"],
        sums,
        {
            path: Chunks(length, rows, part)
            for (path, (length, rows, _)), part in zip(datasets.items(), parts, strict=True)
        },
    )


def _astray(contents: Contents, size: int) -> str:
    """Say what of a list leads out of its file of ``size`` bytes; empty if nothing does."""
    fields = contents.schema.by_path()
    for path, field in fields.items():
        kind = "" if field.is_text else np.dtype(field.dtype).kind
        if kind not in ("", *"biuf") or not all(0 <= axis < size for axis in field.shape):
            return f"{path} is of no kind that hpcbench writes"
    texts = {path for path, field in fields.items() if field.dtype == "str"}
    for path, chunks in contents.chunks.items():
        places = chunks.places
        if places.dtype.kind != "i" or places.ndim != 2 or places.shape[1] != 4:
            return f"{path} has no places"
        most = size // _TEXT.size if path in texts else _MOST_FROM_A_BYTE * size
        if not (0 <= chunks.length <= most and chunks.rows > 0):
            return f"{path} is to have {chunks.length} values"
        ends = places[:, 1] + places[:, 2]
        most = max(size, chunks.length)
        if len(places) and (places.min() < 0 or places.max() > most or ends.max() > size):
            return f"{path} is to lie outside of the file"
    ends = np.asarray(contents.ends)
    if (
        ends.dtype.kind != "i"
        or not len(ends)
        or ends[0] != 0
        or (np.diff(ends) <= 0).any()
        or ends[-1] > size
    ):
        return "its blocks are none"
    return ""


def raw_chunks(stream: BinaryIO, chunks: Chunks) -> Iterator[tuple[int, int, bytes]]:
    """The chunks as they lie in a file: place in the first axis, mask of filters, bytes."""
    for first, place, size, mask in chunks.places.tolist():
        stream.seek(place)
        yield first, mask, stream.read(size)


def texts(stream: BinaryIO, chunks: Chunks) -> list[str]:
    """The texts of a dataset of texts, which lie in HDF5's global heap.

    One that is not to be found there is empty. The layout of chunk and heap: HDF5 File Format
    Specification 3.0, sections III.E and VIII.
    """
    found = [""] * chunks.length
    heap = _Heap(stream)
    for first, _, data in raw_chunks(stream, chunks):
        for number in range(min(len(data) // _TEXT.size, chunks.length - first)):
            length, place, index = _TEXT.unpack_from(data, number * _TEXT.size)
            if length:
                found[first + number] = heap.text(place, index, length)
    return found


class _Heap:
    """HDF5's global heap: collections of up to some thousand objects each."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._collections: dict[int, dict[int, bytes]] = {}
        # Collections do not overlap: all of them are no more than the file.
        self._left = stream.seek(0, io.SEEK_END)

    def text(self, place: int, index: int, length: int) -> str:
        if place not in self._collections:
            self._collections[place] = {}
            with contextlib.suppress(struct.error, OSError, OverflowError):
                self._collections[place] = dict(self._objects(place))
        data = self._collections[place].get(index, b"")[:length]
        return data.decode(errors="replace")

    def _objects(self, place: int) -> Iterator[tuple[int, bytes]]:
        self._stream.seek(place)
        magic, size = struct.unpack("<4s4xQ", self._stream.read(16))
        if magic != b"GCOL" or size > self._left:
            return
        self._left -= size
        data = self._stream.read(size - 16)
        at = 0
        while at + 16 <= len(data):
            index, length = struct.unpack_from("<H6xQ", data, at)
            if index == 0:
                # What is left is free.
                return
            yield index, data[at + 16 : at + 16 + length]
            at += 16 + (length + 7) // 8 * 8
