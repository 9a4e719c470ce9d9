"""Perturbed supercells, in which all atoms are displaced at random: training data for potentials.

The recipe is that of Lee and Xia (arXiv 2407.09674, section II B): supercells of about 100 to 200
atoms of a relaxed crystal, all atoms displaced by 0.01 to 0.05 A. The paper does not say how the
displacements are distributed: here directions are uniform on the sphere, and the length of each
atom's is uniform in the range.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcbench.cells import EMPTY, gaps, heights

# In A: heights that differ by less are the same, and the smaller supercell is taken.
_SAME_HEIGHT = 0.01

DECIMALS = 8
"""Decimals of the positions, in A. Files have no more, so that labels are of what is written."""


def multiples_of_atoms(
    cell: NDArray[np.float64], positions: NDArray[np.float64], least: int, most: int
) -> tuple[int, int, int] | None:
    """Return how often a cell is repeated along its vectors to have a number of atoms in a range.

    Of the supercells in the range it is the one whose smallest height is the largest; of equal ones
    the one with the fewest atoms. The cell is not repeated across a vacuum, as in
    :func:`hpcbench.phonons.supercells.matrix_of_length`.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    least, most : int
        Smallest and largest number of atoms.

    Returns
    -------
    tuple of 3 int or None
        ``None`` if no supercell has so many atoms.
    """
    single, is_empty = heights(cell), gaps(cell, positions) > EMPTY
    fewest, highest = math.ceil(least / len(positions)), most // len(positions)
    # A direction across a vacuum limits nothing.
    single = np.where(is_empty, np.inf, single)
    largest = [1 if empty else highest for empty in is_empty]
    best: tuple[tuple[float, int], tuple[int, int, int]] | None = None
    for a in range(1, largest[0] + 1):
        for b in range(1, min(largest[1], highest // a) + 1):
            wanted = min(a * single[0], b * single[1])
            # More along the third vector than the other two have would only add atoms.
            enough = highest if np.isinf(wanted) else math.ceil((wanted - _SAME_HEIGHT) / single[2])
            c = min(max(enough, math.ceil(fewest / (a * b)), 1), highest // (a * b), largest[2])
            if c < 1 or not fewest <= a * b * c <= highest:
                continue
            lowest = min(wanted, c * single[2])
            steps = round(lowest / _SAME_HEIGHT) if lowest < np.inf else 0
            found = (steps, -a * b * c), (a, b, c)
            best = found if best is None or found[0] > best[0] else best
    return best and best[1]


def perturbations(
    positions: NDArray[np.float64], shortest: float, longest: float, key: str
) -> Iterator[NDArray[np.float64]]:
    """Yield the positions of a supercell with all atoms displaced at random, without an end.

    Parameters
    ----------
    positions : ndarray, shape (natoms, 3)
        Of the supercell, Cartesian, in A.
    shortest, longest : float
        Range of the lengths of the displacements, in A.
    key : str
        What the random numbers follow from.

    Yields
    ------
    ndarray, shape (natoms, 3)
        In A, of ``DECIMALS`` decimals.
    """
    rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    while True:
        directions = rng.normal(size=positions.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(shortest, longest, size=(len(positions), 1))
        yield np.round(positions + lengths * directions, DECIMALS)
