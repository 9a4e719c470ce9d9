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
    """Which rows of a tensor belong together.

    Sums run over the rows of a segment in their order, so that a result depends neither on the
    segments beside it nor, on a GPU, on the order in which threads come to it.

    Attributes
    ----------
    lengths : Tensor, shape (nsegments,), int64
        Rows of each segment; at least one.
    owners : Tensor, shape (nrows,), int64
        The segment of each row.
    """

    lengths: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, lengths: NDArray[np.int64], device: torch.device) -> Segments:
        """Segments of given lengths."""
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
        """Sum of each segment: shape (nrows, ...) to (nsegments, ...)."""
        # `unsafe` leaves out a check of the lengths that would wait for the device.
        return torch.segment_reduce(rows, "sum", lengths=self.lengths, unsafe=True)

    def largest(self, rows: torch.Tensor) -> torch.Tensor:
        """Largest of each segment, NaN where one is NaN."""
        return torch.segment_reduce(rows, "max", lengths=self.lengths, unsafe=True)


def rows_of(lengths: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of the segments ``kept`` (ascending), where each segment has so many rows."""
    mask = np.zeros(len(lengths), dtype=bool)
    mask[kept] = True
    return np.flatnonzero(np.repeat(mask, lengths))


def select(record: Record, rows: torch.Tensor | NDArray[np.int64]) -> Record:
    """Some rows of a dataclass whose fields all have the same first axis."""
    return type(record)(*(value[rows] for value in _values(record)))


def join(first: Record, second: Record) -> Record:
    """The rows of two such dataclasses, one after the other."""
    pairs = zip(_values(first), _values(second), strict=True)
    return type(first)(
        *(
            np.concatenate(pair) if isinstance(pair[0], np.ndarray) else torch.cat(pair)
            for pair in pairs
        )
    )


def _values(record: Any) -> list[Any]:
    return [getattr(record, field.name) for field in fields(record)]
