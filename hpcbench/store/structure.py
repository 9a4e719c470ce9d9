"""Tell whether the structure of a table's file is one that hpcbench writes.

A store may come from a stranger. HDF5 can be made to read other files (external storage, virtual
datasets, links), to wait for a pipe, and to give back terabytes that are nowhere; so each object of
a file is looked at before anything of it is read. What is refused here no damage can cause.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import h5py
from h5py import h5d, h5g, h5l, h5o, h5t, h5z

# A store of a thousand criteria has fewer.
_MOST_OBJECTS = 10_000
_DEEPEST = 4
LEAST_BYTES_OF_A_ROW = 24
"""An id, and its reference in the column: ids differ, so each has its own place."""
# What gzip makes of a byte, at most.
_MOST_FROM_A_BYTE = 1032
COLUMNS_PER_BYTE, COLUMNS_AT_LEAST = 64, 256 * 2**20
"""All columns together may have so many bytes for each byte of the file: a row has some 3 kB in
columns, most of which repeat, and is never smaller than 100 B. Small files may have so much."""
_FILTERS = frozenset({h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32})
_GALLERY = "gallery"
_BANDS = (".", "/ragged/band_frequencies/values")


@dataclass(frozen=True)
class Storage:
    """Describe how a dataset is stored.

    Attributes
    ----------
    path : str
        Where it is.
    nbytes : int
        Bytes that it declares; of texts, of their references.
    is_text, is_number : bool
        What its values are.
    is_elsewhere : bool
        Whether its values are in another file.
    is_view : bool
        Whether they are those of other datasets.
    views : tuple of (str, str)
        Files and datasets that a view is of.
    filters : tuple of int
        What they go through when they are read.
    """

    path: str
    nbytes: int
    is_text: bool
    is_number: bool
    is_elsewhere: bool
    is_view: bool
    views: tuple[tuple[str, str], ...]
    filters: tuple[int, ...]


def storage_of(path: str, dataset: h5d.DatasetID) -> Storage:
    """Look at how a dataset is stored, and read nothing of it.

    Parameters
    ----------
    path : str
        What the dataset is called.
    dataset : h5d.DatasetID
        The dataset.
    """
    plan, kind = dataset.get_create_plist(), dataset.get_type()
    layout = plan.get_layout()
    is_view, is_chunked = layout == h5d.VIRTUAL, layout == h5d.CHUNKED
    sources = range(plan.get_virtual_count()) if is_view else ()
    filters = range(plan.get_nfilters()) if is_chunked else ()
    return Storage(
        path,
        math.prod(dataset.shape or ()) * kind.get_size(),
        isinstance(kind, h5t.TypeStringID) and kind.is_variable_str(),
        isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID | h5t.TypeEnumID),
        not is_chunked and plan.get_external_count() > 0,
        is_view,
        tuple((plan.get_virtual_filename(n), plan.get_virtual_dsetname(n)) for n in sources),
        tuple(plan.get_filter(number)[0] for number in filters),
    )


def _is_in_the_file(one: Storage, size: int) -> str:
    """Say that values are not in this file; the gallery's may be a view of those of the rows."""
    if one.is_elsewhere:
        return "its values are in another file"
    if one.is_view and not (one.path.startswith(f"{_GALLERY}/") and set(one.views) <= {_BANDS}):
        return "it is put together from other datasets"
    return ""


def _is_packed_as_written(one: Storage, size: int) -> str:
    known = _FILTERS if one.is_number else frozenset()
    if not known.issuperset(one.filters) or len(set(one.filters)) < len(one.filters):
        return "it is packed otherwise than hpcbench packs"
    return ""


def _is_of_a_known_type(one: Storage, size: int) -> str:
    return "" if one.is_text or one.is_number else "its values are neither numbers nor texts"


def _has_room(one: Storage, size: int) -> str:
    """Say that more is declared than a file of this size can hold."""
    most = (1 if one.is_text else _MOST_FROM_A_BYTE) * size
    if one.nbytes > most and not one.is_view:
        return f"it is to have {one.nbytes:,} bytes, in a file of {size:,}"
    return ""


CHECKS: dict[str, Callable[[Storage, int], str]] = {
    "place": _is_in_the_file,
    "packing": _is_packed_as_written,
    "type": _is_of_a_known_type,
    "room": _has_room,
}
"""Checks of each dataset before anything of it is read, given the file's size in bytes. A
check gives a few words about what is wrong; empty if nothing is."""


def what_is_foreign(storage: Storage, size: int) -> str:
    """Say why a dataset is none that hpcbench has written; empty if it may be.

    Parameters
    ----------
    storage : Storage
        Of the dataset.
    size : int
        Of the file, in bytes.
    """
    found = (check(storage, size) for check in CHECKS.values())
    return next((f"{storage.path}: {what}" for what in found if what), "")


def foreign_link(group: h5g.GroupID, path: str = "") -> str:
    """Say which link of a group does not lead to an object of this file; empty if all do.

    Parameters
    ----------
    group : h5g.GroupID
        The group.
    path : str
        Where it is in the file.
    """
    return next(
        (_LINK.format(path + name) for name, kind, _ in _links(group) if kind != h5l.TYPE_HARD), ""
    )


_LINK = "{} is a link to somewhere else"


def _links(group: h5g.GroupID) -> list[tuple[str, int, int]]:
    """Return names, kinds, and where the objects lie."""
    found: list[tuple[str, int, int]] = []
    with contextlib.suppress(OSError, RuntimeError):  # damaged: nobody finds more in it
        group.links.iterate(
            lambda name, info: found.append((name.decode(errors="replace"), info.type, info.u)),
            info=True,
        )
    return found


def foreign_object(file: h5py.File, *, with_gallery: bool) -> str:
    """Look at all objects of a file, and say what no hpcbench has written.

    Parameters
    ----------
    file : h5py.File
        The file.
    with_gallery : bool
        Whether the datasets of the gallery are looked at as well, which nobody reads but who
        looks for damage.

    Raises
    ------
    OSError, RuntimeError, KeyError
        If the file does not read back.
    """
    size = file.id.get_filesize()
    groups: list[tuple[str, h5g.GroupID]] = [("", file.id)]
    seen: set[int] = set()
    columns = 0
    for prefix, group in groups:
        for name, kind, place in _links(group):
            path = prefix + name
            if kind != h5l.TYPE_HARD:
                return _LINK.format(path)
            if place in seen:
                return f"{path} is an object that has another name, too"
            seen.add(place)
            if len(seen) > _MOST_OBJECTS:
                return f"it has more than {_MOST_OBJECTS:,} objects"
            is_gallery = path.startswith(f"{_GALLERY}/")
            if is_gallery and not with_gallery:
                continue
            try:
                item = h5o.open(group, name.encode())
            except (OSError, RuntimeError, KeyError):
                continue  # damaged: nobody else can open it
            if isinstance(item, h5g.GroupID):
                if path.count("/") + 1 >= _DEEPEST:
                    return f"{path} is a group in a group in a group"
                groups.append((f"{path}/", item))
            elif isinstance(item, h5d.DatasetID):
                storage = storage_of(path, item)
                if what := what_is_foreign(storage, size):
                    return what
                columns += 0 if path.startswith(("ragged/", _GALLERY)) else storage.nbytes
    if columns > max(COLUMNS_AT_LEAST, COLUMNS_PER_BYTE * size):
        return f"its columns are to have {columns:,} bytes, in a file of {size:,}"
    return ""


def uneven_field(file: h5py.File) -> str:
    """Say which field does not have a value for each row; empty if all have.

    Raises
    ------
    OSError, RuntimeError, KeyError
        If the file does not read back.
    """
    (rows,) = file["crystals/id"].shape
    if rows * LEAST_BYTES_OF_A_ROW > file.id.get_filesize():
        return f"{rows:,} rows in a file of {file.id.get_filesize():,} bytes"
    for path, shape in _shapes(file):
        axes = len(shape) > 1 if path.startswith("arrays/") else len(shape) == 1
        if not axes or shape[0] != rows + path.startswith("ragged/"):
            return f"{path} is of shape {shape}, with {rows} rows"
    return ""


def _shapes(file: h5py.File) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the shapes of the datasets that have a value for each row."""
    for group, part in (("crystals", b"codes"), ("arrays", b"codes"), ("ragged", b"indptr")):
        parent = file[group].id
        for name in parent:
            item = h5o.open(parent, name)
            if isinstance(item, h5g.GroupID) and part in item:
                item = h5o.open(item, part)
            # What has neither is of an encoding that a later version knows.
            if isinstance(item, h5d.DatasetID):
                yield f"{group}/{name.decode(errors='replace')}", item.shape
