"""Errors of a crystal's frequencies as sums, and a histogram of them over all crystals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hpcbench.analysis.accuracy.statistics import Array

BIN = 0.1
"""Width of the bins of the histogram, in THz."""
ALL, THREE_LOWEST, OTHERS = "path", "three lowest", "others"
COMMENSURATE, ZONE = "commensurate", "zone"
"""Sets of modes: all on the band path; of these the three lowest branches at each q, among which
the acoustic ones are, and the others; all at the q commensurate with the supercell; all on a mesh
of the Brillouin zone."""
# Columns of the sums of a set of modes.
COUNT, REFERENCE, SQUARES, ABSOLUTE, SQUARED, PRODUCT = range(6)


def sums_of(potential: Array, reference: Array, weights: Array | None = None) -> Array:
    """Return sums of frequencies y (reference) and f (potential), shape (6,).

    They are: number, sum of y, of y^2, of |f - y|, of (f - y)^2, and of f y.

    Parameters
    ----------
    potential, reference : ndarray, shape (nq, nbands)
        Frequencies of the same modes in THz.
    weights : ndarray, shape (nq,), optional
        How often each q counts; by default once.
    """
    errors = potential - reference
    terms = (
        np.ones_like(reference),
        reference,
        reference**2,
        np.abs(errors),
        errors**2,
        potential * reference,
    )
    each = np.ones(len(reference)) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.array([float(each @ term.sum(axis=1)) for term in terms])


def sums_by_modes(potential: Array, reference: Array) -> dict[str, Array]:
    """Return the sums of frequencies on the band path, by the set of modes.

    The branches at a q are in ascending order in both, as in the literature: no mode is followed by
    its eigenvector.

    Parameters
    ----------
    potential, reference : ndarray, shape (nq, nbands)
        Frequencies in THz at the same q.
    """
    potential, reference = np.sort(potential, axis=1), np.sort(reference, axis=1)
    return {
        ALL: sums_of(potential, reference),
        THREE_LOWEST: sums_of(potential[:, :3], reference[:, :3]),
        OTHERS: sums_of(potential[:, 3:], reference[:, 3:]),
    }


@dataclass(eq=False)
class FrequencyHistogram:
    """Count pairs of frequencies in bins of 0.1 THz; only bins that have some are kept.

    Attributes
    ----------
    counts : Counter
        By (bin of the reference, bin of the potential); bin 0 is around 0 THz.
    """

    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, potential: Array, reference: Array) -> None:
        """Count the frequencies of one crystal.

        Parameters
        ----------
        potential, reference : ndarray, shape (nq, nbands)
            In THz, at the same q.
        """
        both = np.stack([np.sort(reference, axis=1).ravel(), np.sort(potential, axis=1).ravel()])
        bins, counts = np.unique(np.rint(both / BIN).astype(np.int64), axis=1, return_counts=True)
        for (x, y), count in zip(bins.T.tolist(), counts.tolist(), strict=True):
            self.counts[x, y] += count

    def dense(self, coarse: int = 1) -> tuple[NDArray[np.int64], float, float]:
        """Return the counts as an image, and the lowest and highest frequency of its axes, in THz.

        Parameters
        ----------
        coarse : int
            Number of bins that are joined into one, along each axis.

        Returns
        -------
        ndarray, shape (n, n)
            Counts; the first axis is the reference's frequency.
        """
        places = np.array(list(self.counts), dtype=np.int64).reshape(-1, 2) // coarse
        low, high = (int(places.min()), int(places.max())) if len(places) else (0, 0)
        image = np.zeros((high - low + 1, high - low + 1), dtype=np.int64)
        np.add.at(image, tuple((places - low).T), list(self.counts.values()))
        width = coarse * BIN
        # A bin is around a multiple of its width before it is joined with others.
        return image, low * width - BIN / 2, (high + 1) * width - BIN / 2
