"""Checksums of values, and of everything in a file that is not a value of a row.

docs/store.md defines what is summed, so that others can check it as well.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcbench.store.fields import Ragged, Values

GROUP = "integrity"
# HDF5's own bookkeeping of dimension scales: addresses in the file, different in each copy.
_BOOKKEEPING = frozenset(
    {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid"}
)


def digest(values: Values) -> bytes:
    """Return the SHA-256 of the values of a field in some rows."""
    sha = hashlib.sha256()
    if isinstance(values, Ragged):
        sha.update(np.ascontiguousarray(values.counts, dtype="<i8").data)
        sha.update(_numbers(values.values))
    elif values.dtype == object:
        for text in values:
            data = str(text).encode()
            sha.update(struct.pack("<q", len(data)))
            sha.update(data)
    else:
        sha.update(_numbers(values))
    return sha.digest()


def _numbers(values: NDArray[Any]) -> memoryview | bytes:
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    # An empty array has no buffer to look at.
    return np.ascontiguousarray(values).view(np.uint8).data if values.size else b""


def digest_frame(file: h5py.File, fields: set[str]) -> bytes:
    """Return the SHA-256 of all that is not a value of a row: settings, units, names, scales.

    Parameters
    ----------
    file : h5py.File
        The store.
    fields : set of str
        Paths of the fields whose values have sums of their own.
    """
    objects: list[tuple[str, h5py.Group | h5py.Dataset]] = [("/", file)]
    file.visititems(lambda path, item: objects.append((path, item)))
    described = [
        _describe(path, item, fields)
        for path, item in sorted(objects, key=lambda entry: entry[0])
        if path.partition("/")[0] != GROUP
    ]
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _describe(path: str, item: h5py.Group | h5py.Dataset, fields: set[str]) -> list[Any]:
    attributes = {
        name: np.asarray(value).tolist()
        for name, value in item.attrs.items()
        if name not in _BOOKKEEPING
    }
    if isinstance(item, h5py.Group):
        return [path, "group", attributes, ""]
    is_text = h5py.check_string_dtype(item.dtype) is not None
    if path in fields or path.rpartition("/")[0] in fields:
        # Of a field only how it looks: its values, codes and lengths are summed by block.
        shape = "text" if is_text else [item.dtype.str, *item.shape[1:]]
        return [path, shape, attributes, ""]
    raw = item.asstr()[()] if is_text else item[()]
    values = np.atleast_1d(np.asarray(raw, dtype=object if is_text else None))
    return [
        path,
        "text" if is_text else [item.dtype.str, *item.shape],
        attributes,
        digest(values.ravel() if is_text else values).hex(),
    ]
