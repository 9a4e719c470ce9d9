"""A band structure as it is stored."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.json_text import json_of
from hpcbench.store.row_checks import as_stored, require_path
from hpcbench.texts import one_line


@dataclass(frozen=True, eq=False)
class Bands:
    """A band structure as stored.

    Attributes
    ----------
    distances : list of ndarray, each shape (nq,)
        Distance along the path in 1/A, by segment.
    frequencies : list of ndarray, each shape (nq, nbands)
        In THz, by segment.
    labels : list of (str, str)
        First and last point of each segment.
    qpoints : list of ndarray, each shape (nq, 3)
        Reduced coordinates in the reciprocal lattice of the primitive cell, by segment.
    """

    distances: list[NDArray[np.float64]]
    frequencies: list[NDArray[np.float64]]
    labels: list[tuple[str, str]]
    qpoints: list[NDArray[np.float64]]


def bands_of(row: Mapping[str, Any]) -> Bands:
    """Return the band structure in a crystal's row.

    Raises
    ------
    StoreError
        If its parts do not go together.
    """
    require_path(row)
    labels = labels_of(row)
    with as_stored(row):
        qpoints, edges = row["band_qpoints"], row["band_segments"]
        frequencies = np.asarray(row["band_frequencies"], dtype=np.float64)
        frequencies = frequencies.reshape(len(qpoints), -1)
        return Bands(
            path_distances(qpoints, edges, row["primitive_matrix"].T @ row["relaxed_cell"]),
            [frequencies[a:b] for a, b in itertools.pairwise(edges)],
            labels,
            [qpoints[a:b] for a, b in itertools.pairwise(edges)],
        )


def labels_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names of the first and the last point of each segment.

    Raises
    ------
    StoreError
        If there are not two for each.
    """
    labels = json_of(row["band_labels"], f"{row['name']} ({row['id']}): its band labels")
    with as_stored(row):
        ends = [(one_line(str(first)), one_line(str(last))) for first, last in labels]
        if len(ends) != len(row["band_segments"]) - 1:
            raise ValueError(f"labels of {len(ends)} segments")
    return ends


def path_distances(
    qpoints: NDArray[np.float64], edges: Sequence[int], primitive: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return distances along the path in 1/A, by segment; where it jumps they do not grow.

    Parameters
    ----------
    qpoints : ndarray, shape (nq, 3)
        Reduced.
    edges : sequence of int
        First and end of each segment in ``qpoints``.
    primitive : ndarray, shape (3, 3)
        Lattice vectors of the primitive cell as rows, in A.
    """
    cartesian = qpoints @ np.linalg.inv(primitive).T
    distances, start = [], 0.0
    for first, end in itertools.pairwise(edges):
        steps = np.linalg.norm(np.diff(cartesian[first:end], axis=0), axis=1)
        distances.append(start + np.concatenate([[0.0], np.cumsum(steps)]))
        start = float(distances[-1][-1])
    return distances
