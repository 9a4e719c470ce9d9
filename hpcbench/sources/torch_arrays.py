"""Arrays of crystals that generators save with torch: the ``.pt`` files of CDVAE and its relatives.

DiffCSP, DiffCSP++, InvDesFlow-AL: a dictionary of flat arrays ``frac_coords``, ``atom_types``,
``num_atoms``, ``lengths`` (A), ``angles`` (degrees). CDVAE (``eval_gen.pt``): the same with a first
axis of evaluations. CrystalFlow and FlowMM: lists of such dictionaries, or of one crystal each, or
``lattices`` in place of lengths and angles.

Such a file is a pickle, which can run any program when it is loaded. Here torch loads it with
``weights_only=True``: tensors, plain types, NumPy's arrays, and only one other class,
``argparse.Namespace``, in which CDVAE keeps its settings.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.limits import Limits
from hpcbench.sources.opened import OpenFile
from hpcbench.sources.records import Entry

_ELEMENTS = 100
"""Number of columns of ``atom_types`` if it has probabilities, beginning with hydrogen."""


def read_arrays(file: OpenFile) -> Iterator[Entry | UnreadableError]:
    """Yield the crystals in the order of the file: evaluation by evaluation, batch by batch.

    Raises
    ------
    UnreadableError
        Kinds "unsafe" (objects of other classes), "no structure", "truncated", "syntax",
        "too large".
    """
    import torch

    # torch needs a stream that can be searched.
    stream = io.BytesIO(file.data())
    _check_unpacked(stream, file.limits)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_allowed()):
            warnings.simplefilter("ignore")  # of formats of older torch
            data = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UnreadableError(
                "unsafe",
                f"the file holds objects of {found.group(1)}, and loading those could run any "
                f"program",
            ) from error
        # Without torch's advice to load it unsafely.
        what = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise UnreadableError("syntax", f"not a file of arrays ({what or 'no pickle'})") from error
    except (RuntimeError, EOFError) as error:
        raise UnreadableError("truncated", f"torch cannot read the file ({error})") from error
    entries = _crystals(data, _Counted(file.limits))
    first = next(entries, None)
    if first is None:
        keys = ", ".join(map(repr, list(data)[:8])) if isinstance(data, Mapping) else "a list"
        raise UnreadableError("no structure", f"no arrays of crystals in the file ({keys})")
    yield first
    yield from entries


def _allowed() -> list[Any]:
    """Return the classes and functions that make arrays and may be called during loading."""
    multiarray = np._core.multiarray
    parts: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
    parts += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "i2", "u1", "?")]
    for name in ("_reconstruct", "scalar"):
        function = getattr(multiarray, name)
        # Before version 2, NumPy had another name for the module.
        parts += [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    return parts


def _check_unpacked(stream: IO[bytes], limits: Limits) -> None:
    """Compare the decompressed size of a file with the limit; torch itself does not compress."""
    if not zipfile.is_zipfile(stream):
        stream.seek(0)
        return
    try:
        with zipfile.ZipFile(stream) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnreadableError("truncated", f"torch cannot read the file ({error})") from error
    limits.check("torch", "bytes", size)
    stream.seek(0)


class _Counted:
    """Counts of the parts of a file; its lists may share parts, and contain themselves."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._bytes = self._lists = 0
        self.barren: set[int] = set()
        """Lists and dictionaries without crystals, by their identity: all live to the end."""

    def enter(self, depth: int) -> None:
        """Count a list or a dictionary at a depth."""
        self._lists += 1
        self.limits.check("torch", "members", self._lists)
        self.limits.check("torch", "nesting", depth)

    def add(self, array: NDArray[Any]) -> NDArray[Any]:
        """Count an array, and return it."""
        self._bytes += array.nbytes
        self.limits.check("torch", "bytes", self._bytes)
        return array


def _crystals(data: Any, counted: _Counted, depth: int = 1) -> Iterator[Entry | UnreadableError]:
    if not isinstance(data, list | tuple | Mapping) or id(data) in counted.barren:
        return
    counted.enter(depth)
    if isinstance(data, Mapping) and "frac_coords" in data and "atom_types" in data:
        yield from _of_arrays(data, counted)
        return
    is_barren = True
    for part in data.values() if isinstance(data, Mapping) else data:
        for entry in _crystals(part, counted, depth + 1):
            is_barren = False
            yield entry
    if is_barren:
        counted.barren.add(id(data))


def _of_arrays(data: Mapping[str, Any], counted: _Counted) -> Iterator[Entry | UnreadableError]:
    try:
        arrays = {name: _array(data[name], counted) for name in _ARRAYS if name in data}
        evaluations = [arrays]
        if arrays["frac_coords"].ndim == 3:
            # Several evaluations, one after the other.
            number = len(arrays["frac_coords"])
            evaluations = [{k: x[at] for k, x in arrays.items()} for at in range(number)]
    except _UNFIT as error:
        yield _unfit(error)
        return
    for evaluation in evaluations:
        yield from _of_evaluation(evaluation)


def _of_evaluation(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Entry | UnreadableError]:
    try:
        fractional, numbers = arrays["frac_coords"], arrays["atom_types"]
        if numbers.ndim == 2 and numbers.shape[1] >= _ELEMENTS:
            numbers = numbers.argmax(axis=1) + 1
        counts = np.asarray(arrays.get("num_atoms", len(numbers))).reshape(-1).astype(np.int64)
        if (counts < 0).any():
            raise ValueError(f"{counts.min()} atoms in a crystal")
        cells = _cells(arrays, len(counts))
        fractional = fractional.reshape(-1, 3).astype(np.float64)
        if not counts.sum() == len(fractional) == len(numbers):
            raise ValueError(
                f"{counts.sum()} atoms counted, {len(numbers)} named, {len(fractional)} placed"
            )
    except _UNFIT as error:
        yield _unfit(error)
        return
    ends = np.cumsum(counts)
    for cell, count, end in zip(cells, counts, ends, strict=True):
        atoms = slice(end - count, end)
        if isinstance(cell, UnreadableError):
            yield cell
        else:
            yield Entry(cell, fractional[atoms] @ cell, numbers[atoms])


def _unfit(error: Exception) -> UnreadableError:
    return UnreadableError("syntax", f"the arrays do not go together ({error})")


_UNFIT = (KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError)
_ARRAYS = ("frac_coords", "atom_types", "num_atoms", "lengths", "angles", "lattices")


def _array(value: Any, counted: _Counted, depth: int = 1) -> NDArray[Any]:
    """Convert a tensor, an array, or a list of numbers or batches to an array.

    Raises
    ------
    UnreadableError
        Kind "too large".
    ValueError
        If it is none of these, or has more elements than its storage.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_complex() or value.is_meta:
            raise ValueError("a tensor that is sparse, complex or empty of data")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("a tensor that shows the same numbers many times")
        return counted.add(value.detach().numpy())
    if isinstance(value, list | tuple):
        counted.enter(depth)
        if any(isinstance(part, list | tuple | torch.Tensor | np.ndarray) for part in value):
            # Several batches.
            return np.concatenate([_array(part, counted, depth + 1) for part in value])
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype} is no kind of number")
    return counted.add(array)


def _cells(
    arrays: Mapping[str, NDArray[Any]], number: int
) -> list[NDArray[np.float64] | UnreadableError]:
    from ase.geometry import cellpar_to_cell

    if "lattices" in arrays:
        return list(arrays["lattices"].astype(np.float64).reshape(number, 3, 3))
    lengths = arrays["lengths"].astype(np.float64).reshape(number, 3)
    angles = arrays["angles"].astype(np.float64).reshape(number, 3)
    cells: list[NDArray[np.float64] | UnreadableError] = []
    for parameters in np.concatenate([lengths, angles], axis=1):
        try:
            with np.errstate(invalid="ignore"):
                cell = np.asarray(cellpar_to_cell(parameters), dtype=np.float64)
        except AssertionError:
            cell = np.full((3, 3), np.nan)
        if (lengths_are_bad := not (parameters > 0).all()) or not np.isfinite(cell).all():
            what = "must be positive" if lengths_are_bad else "make no cell"
            message = f"lengths and angles {what}: {np.round(parameters, 4).tolist()}"
            cells.append(UnreadableError("no cell", message))
        else:
            cells.append(cell)
    return cells
