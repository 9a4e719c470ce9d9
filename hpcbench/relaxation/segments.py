"""Ragged batches: rows of structures of different size, one structure after the other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Record = TypeVar("Record")


@dataclass(frozen=True, eq=False)
class Segments:
    """The rows of a tensor that belong to each structure, or more generally to each segment.

    Sums run over the rows of a segment in order, so that a result depends neither on the other
    segments nor, on a GPU, on the order of threads.

    Attributes
    ----------
    lengths : Tensor, shape (nsegments,), int64
        Number of rows of each segment; at least one.
    owners : Tensor, shape (nrows,), int64
        The segment of each row.
    """

    lengths: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, lengths: NDArray[np.int64], device: torch.device) -> Segments:
        """Return segments of given lengths.

        Parameters
        ----------
        lengths : ndarray, shape (nsegments,)
            Number of rows of each; at least one.
        device : torch.device
            Where the tensors are.
        """
        on_device = torch.as_tensor(lengths, device=device)
        owners = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), on_device, output_size=int(lengths.sum())
        )
        return cls(on_device, owners)

    @property
    def starts(self) -> torch.Tensor:
        """The first row of each segment, shape (nsegments,)."""
        return torch.cumsum(self.lengths, 0) - self.lengths

    def sum(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum over each segment, from shape (nrows, ...) to (nsegments, ...)."""
        # `unsafe` leaves out a check of the lengths that would wait for the device.
        return torch.segment_reduce(rows, "sum", lengths=self.lengths, unsafe=True)

    def largest(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the largest value of each segment, NaN if one is NaN."""
        return torch.segment_reduce(rows, "max", lengths=self.lengths, unsafe=True)


def rows_of(lengths: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of some segments.

    Parameters
    ----------
    lengths : ndarray, shape (nsegments,)
        Number of rows of each segment.
    kept : ndarray
        Ascending indices of segments.
    """
    mask = np.zeros(len(lengths), dtype=bool)
    mask[kept] = True
    return np.flatnonzero(np.repeat(mask, lengths))


def select(record: Record, rows: torch.Tensor | NDArray[np.int64]) -> Record:
    """Return some rows of a dataclass whose fields all have the same first axis.

    Parameters
    ----------
    record : dataclass
        Its fields are tensors or arrays.
    rows : Tensor or ndarray
        Indices of rows.
    """
    return type(record)(*(value[rows] for value in _values(record)))


def join(first: Record, second: Record) -> Record:
    """Concatenate two dataclasses whose fields all have the same first axis.

    Parameters
    ----------
    first, second : dataclass
        Of the same type; their fields are tensors or arrays.
    """
    pairs = zip(_values(first), _values(second), strict=True)
    return type(first)(
        *(
            np.concatenate(pair) if isinstance(pair[0], np.ndarray) else torch.cat(pair)
            for pair in pairs
        )
    )


def _values(record: Any) -> list[Any]:
    return [getattr(record, field.name) for field in fields(record)]
