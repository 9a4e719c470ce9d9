"""Add scales and plots to a store, for programs that do not know its format.

HDF5's dimension scales tell what an axis is; NeXus' ``NXdata`` tells h5web and others what to
draw against what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from hpcbench.errors import StoreError
from hpcbench.store.phonon_fields import THERMAL
from hpcbench.store.schema import AGAIN, EARLIER_LIST
from hpcbench.store.stored_bands import path_distances

# Each plot is an object of the file, and those take a millisecond to make and to list.
GALLERY = 100


def decorate(file: h5py.File, settings: Mapping[str, Any]) -> None:
    """Add temperatures, dimension scales and the gallery of bands to a store being written.

    Parameters
    ----------
    file : h5py.File
        The store.
    settings : mapping
        What decided its results.

    Raises
    ------
    StoreError
        If there are bands whose parts do not go together.
    """
    temperatures = np.asarray(settings.get("temperatures", ()), dtype=np.float64)
    scale = file.create_dataset("temperatures", data=temperatures)
    scale.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    scale.attrs.update({"unit": "K", "meaning": "temperatures of the thermal properties"})
    _attach_scales(file)
    _add_gallery(file)
    file.visititems(_say_what_it_is)


def _say_what_it_is(path: str, item: h5py.Group | h5py.Dataset) -> None:
    """Add an encoding, and a unit to a dataset, where the element it is part of has them alone."""
    if "encoding-type" not in item.attrs:
        is_group = isinstance(item, h5py.Group)
        kind = "dict" if is_group else "array"
        if not is_group and h5py.check_string_dtype(item.dtype):
            kind = "string-array" if item.shape else "string"
        item.attrs["encoding-type"] = kind
        item.attrs["encoding-version"] = "0.1.0" if is_group else "0.2.0"
    if isinstance(item, h5py.Dataset) and "unit" not in item.attrs:
        item.attrs["unit"] = item.attrs.get("units", "")


def _attach_scales(file: h5py.File) -> None:
    ids, temperatures = file["crystals/id"], file["temperatures"]
    ids.make_scale("id")
    temperatures.make_scale("temperature")
    datasets = [
        item if isinstance(item, h5py.Dataset) else item["codes"]
        for item in (*file["crystals"].values(), *file["arrays"].values())
    ]
    for dataset in datasets:
        if dataset != ids:
            dataset.dims[0].attach_scale(ids)
    for name in THERMAL:
        if f"arrays/{name}" in file and file[f"arrays/{name}"].shape[1] == len(temperatures):
            file[f"arrays/{name}"].dims[1].attach_scale(temperatures)


def _add_gallery(file: h5py.File) -> None:
    if "ragged/band_frequencies" not in file:
        return
    gallery = file.create_group("gallery")
    gallery.attrs["NX_class"] = "NXentry"
    file.attrs["NX_class"] = "NXroot"
    ids = file["crystals/id"].asstr()[:]
    with_bands = np.flatnonzero(np.diff(file["ragged/band_frequencies/indptr"][:]))
    marks = file.get(f"crystals/{EARLIER_LIST}")
    earlier = np.zeros(len(ids), dtype=bool) if marks is None else marks[:]
    # Of each crystal of the latest list those of the computation that decides.
    rows = [row for row in with_bands if AGAIN not in ids[row] and not earlier[row]][:GALLERY]
    for row in rows:
        try:
            name = _add_bands(file, gallery, int(row))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise StoreError(f"{ids[row]}: its bands do not go together: {error}") from error
        if row == rows[0]:
            gallery.attrs["default"] = name
            file.attrs["default"] = "gallery"


def _add_bands(file: h5py.File, gallery: h5py.Group, row: int) -> str:
    """Write a group that draws the band structure of one crystal; return its name."""
    values, start, end = _ragged(file, "band_frequencies", row)
    qpoints, first, last = _ragged(file, "band_qpoints", row)
    segments, a, b = _ragged(file, "band_segments", row)
    labels_of_row = file["crystals/band_labels/categories"][file["crystals/band_labels/codes"][row]]
    labels = json.loads(labels_of_row)
    primitive = file["arrays/primitive_matrix"][row].T @ file["arrays/relaxed_cell"][row]
    distances = np.concatenate(path_distances(qpoints[first:last], segments[a:b], primitive))
    group = gallery.create_group(file["crystals/id"].asstr()[row])
    name, formula = (file[f"crystals/{field}"].asstr()[row] for field in ("name", "formula"))
    group.attrs.update(
        {"NX_class": "NXdata", "signal": "frequencies", "title": f"{formula}, {name}"}
    )
    group.attrs["axes"] = ["distance", "band"]
    group.attrs["labels"] = [" ".join(pair) for pair in labels]
    shape = (last - first, (end - start) // (last - first))
    layout = h5py.VirtualLayout(shape, values.dtype)
    layout[:] = h5py.VirtualSource(".", values.name, values.shape, values.dtype)[start:end]
    frequencies = group.create_virtual_dataset("frequencies", layout)
    frequencies.attrs["units"] = "THz"
    group["distance"] = distances
    group["distance"].attrs["units"] = "1/angstrom"
    group["band"] = np.arange(shape[1])
    return str(group.name).rpartition("/")[2]


def _ragged(file: h5py.File, name: str, row: int) -> tuple[h5py.Dataset, int, int]:
    start, end = file[f"ragged/{name}/indptr"][row : row + 2]
    return file[f"ragged/{name}/values"], int(start), int(end)
