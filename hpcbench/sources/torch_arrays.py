"""Arrays of crystals as generators save them with torch: the ``.pt`` files of CDVAE's family.

DiffCSP, DiffCSP++, InvDesFlow-AL: a dictionary of flat arrays ``frac_coords``, ``atom_types``,
``num_atoms``, ``lengths`` (A), ``angles`` (degrees). CDVAE (``eval_gen.pt``): the same behind one
more axis, of evaluations. CrystalFlow and FlowMM: lists of such dictionaries, or of one crystal
each, or ``lattices`` in place of lengths and angles.

Such a file is a pickle, which can run any program when it is loaded. Here torch loads it with
``weights_only=True``: tensors and plain types, NumPy's arrays, and of other classes
``argparse.Namespace`` alone, in which CDVAE keeps its settings.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import UnreadableError
from hpcbench.sources.records import Entry

_ELEMENTS = 100
"""Columns of ``atom_types`` where it holds probabilities, first that of hydrogen."""


def read_arrays(stream: IO[bytes]) -> Iterator[Entry | UnreadableError]:
    """Crystals in the order of the file: evaluation by evaluation, batch by batch.

    Raises
    ------
    UnreadableError
        Kinds "unsafe" (objects of other classes), "no structure", "truncated", "syntax".
    """
    import torch

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
    entries = _crystals(data)
    first = next(entries, None)
    if first is None:
        keys = ", ".join(map(repr, list(data)[:8])) if isinstance(data, Mapping) else "a list"
        raise UnreadableError("no structure", f"no arrays of crystals in the file ({keys})")
    yield first
    yield from entries


def _allowed() -> list[Any]:
    """Classes and functions that may be called while a file is loaded: they make arrays."""
    multiarray = np._core.multiarray
    parts: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
    parts += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "i2", "u1", "?")]
    for name in ("_reconstruct", "scalar"):
        function = getattr(multiarray, name)
        # Before its version 2, NumPy had another name for the module.
        parts += [(function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    return parts


def _crystals(data: Any) -> Iterator[Entry | UnreadableError]:
    if isinstance(data, list | tuple):
        for part in data:
            yield from _crystals(part)
    elif isinstance(data, Mapping):
        if "frac_coords" in data and "atom_types" in data:
            yield from _of_arrays(data)
        else:
            for part in data.values():
                if isinstance(part, list | tuple | Mapping):
                    yield from _crystals(part)


def _of_arrays(data: Mapping[str, Any]) -> Iterator[Entry | UnreadableError]:
    try:
        fractional = _array(data["frac_coords"])
        numbers = _array(data["atom_types"])
        if fractional.ndim == 3:
            # Of several evaluations, one after the other.
            for index in range(len(fractional)):
                yield from _of_arrays({k: _array(data[k])[index] for k in _ARRAYS if k in data})
            return
        if numbers.ndim == 2 and numbers.shape[1] >= _ELEMENTS:
            numbers = numbers.argmax(axis=1) + 1
        counts = _array(data["num_atoms"]) if "num_atoms" in data else np.array([len(numbers)])
        counts = counts.reshape(-1).astype(np.int64)
        cells = _cells(data, len(counts))
        fractional = fractional.reshape(-1, 3).astype(np.float64)
        if not counts.sum() == len(fractional) == len(numbers):
            raise ValueError(
                f"{counts.sum()} atoms counted, {len(numbers)} named, {len(fractional)} placed"
            )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        yield UnreadableError("syntax", f"the arrays do not go together ({error})")
        return
    ends = np.cumsum(counts)
    for cell, count, end in zip(cells, counts, ends, strict=True):
        atoms = slice(end - count, end)
        if isinstance(cell, UnreadableError):
            yield cell
        else:
            yield Entry(cell, fractional[atoms] @ cell, numbers[atoms])


_ARRAYS = ("frac_coords", "atom_types", "num_atoms", "lengths", "angles", "lattices")


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, list | tuple) and value and np.ndim(value[0]):
        # Of several batches.
        return np.concatenate([_array(part) for part in value])
    return np.asarray(value.detach().numpy() if hasattr(value, "detach") else value)


def _cells(data: Mapping[str, Any], number: int) -> list[NDArray[np.float64] | UnreadableError]:
    from ase.geometry import cellpar_to_cell

    if "lattices" in data:
        return list(_array(data["lattices"]).astype(np.float64).reshape(number, 3, 3))
    lengths = _array(data["lengths"]).astype(np.float64).reshape(number, 3)
    angles = _array(data["angles"]).astype(np.float64).reshape(number, 3)
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
