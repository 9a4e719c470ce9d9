"""Recognise tables of this format, and their fields."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
from h5py import h5o

from hpcbench.errors import DamageError, StoreError
from hpcbench.store.datasets import REFUSED
from hpcbench.store.faults import SAYS_MORE
from hpcbench.store.fields import Field
from hpcbench.store.integrity import GROUP
from hpcbench.store.known import known_fields, origin_of
from hpcbench.store.structure import foreign_link, foreign_object, uneven_field
from hpcbench.store.table_writer import FORMAT, FORMAT_VERSION


def require_format(file: h5py.File, path: Path | str) -> None:
    """Refuse a file that is no table of this format.

    Parameters
    ----------
    file : h5py.File
        The file.
    path : Path or str
        Names it in errors.

    Raises
    ------
    DamageError
        If it is one whose format does not read back.
    StoreError
        If it is none, or of a later version, or links in it lead to somewhere else.
    """
    kind = _attribute(file, "encoding-type")
    major = _attribute(file, "encoding-version").partition(".")[0]
    if kind != FORMAT or not major.isdecimal():
        if GROUP in file:
            raise DamageError(f"{path}: its format is not what was written")
        raise StoreError(f"{path}: an HDF5 file, but not one that hpcbench wrote")
    if int(major) > FORMAT_VERSION[0]:
        raise StoreError(f"{path}: written by a newer hpcbench; update this one to read it")
    for group in (b"/", b"crystals", b"arrays", b"ragged", GROUP.encode()):
        what = ""
        with contextlib.suppress(KeyError, OSError, RuntimeError):  # damaged, or not there
            what = foreign_link(h5o.open(file.id, group), group.decode())
        if what:
            raise StoreError(REFUSED.format(path, what))


def require_own(file: h5py.File, path: Path | str) -> None:
    """Refuse a file that no hpcbench has written.

    Parameters
    ----------
    file, path
        As :func:`require_format` takes them.

    Raises
    ------
    DamageError
        If its fields do not have as many rows.
    StoreError
        If there is something in it that hpcbench does not write.
    """
    if what := foreign_object(file, with_gallery=False):
        raise StoreError(REFUSED.format(path, what))
    if what := uneven_field(file):
        raise DamageError(f"{path} is damaged: {what}; {SAYS_MORE}")


def fields_of(file: h5py.File, *, tolerant: bool) -> Iterator[tuple[str, Field]]:
    """Go through the fields of a file, each with its path.

    Parameters
    ----------
    file : h5py.File
        The file.
    tolerant : bool
        Leave out fields that cannot be read, and go on with the others.
    """
    for group in ("crystals", "arrays", "ragged"):
        try:
            names = list(file[group])
        except Exception:
            if tolerant:
                continue
            raise
        for name in names:
            try:
                field = _field(name, file[f"{group}/{name}"])
            except Exception:
                if tolerant:
                    continue
                raise
            if field is not None:
                yield f"{group}/{name}", field


def _field(name: str, item: h5py.Group | h5py.Dataset) -> Field | None:
    """Return the field of an object in the file; ``None`` if this version does not know it.

    Raises
    ------
    ValueError
        If the object has another kind than the field of this name.
    """
    kind = _attribute(item, "encoding-type")
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
    unit, meaning = (_attribute(item, key) for key in ("unit", "meaning"))
    field = Field(name, dtype, shape, unit, meaning, origin=origin_of(name))
    known = known_fields().get(name, field)
    has_texts = isinstance(item, h5py.Dataset) and bool(h5py.check_string_dtype(item.dtype))
    if (field.is_text, len(field.shape)) != (known.is_text, len(known.shape)) or (
        has_texts != (kind == "string-array")
    ):
        raise ValueError(f"{name} is not of the kind that it should be")
    return replace(field, is_essential=known.is_essential, stays_behind=known.stays_behind)


def _attribute(item: h5py.Group | h5py.Dataset, name: str) -> str:
    """Return a text attribute of an object; empty if there is none."""
    if name not in item.attrs or item.attrs.get_id(name).shape != ():
        return ""
    return str(item.attrs[name])
