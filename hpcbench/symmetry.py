"""spglib's answer for a cell, or none: used wherever symmetry is looked at."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray


def symmetry_dataset(
    cell: NDArray[np.float64],
    positions: NDArray[np.float64],
    numbers: NDArray[np.integer[Any]],
    tolerance: float,
) -> Any | None:
    """Return spglib's symmetry dataset of a crystal, or ``None`` where it finds none.

    The answers to the last questions are kept: do not change them.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Lattice vectors as rows, in A.
    positions : ndarray, shape (natoms, 3)
        Cartesian, in A.
    numbers : ndarray, shape (natoms,)
        Atomic numbers.
    tolerance : float
        In A.
    """
    # spglib ends the process with a segmentation fault on NaN.
    if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        return None
    values = np.concatenate([cell, positions]).astype(np.float64)
    return _asked(values.tobytes(), tuple(np.asarray(numbers).tolist()), tolerance)


# The steps of a relaxation and the rows of its result ask for the same cells again.
@functools.lru_cache(maxsize=64)
def _asked(values: bytes, numbers: tuple[int, ...], tolerance: float) -> Any | None:
    cell, positions = np.split(np.frombuffer(values).reshape(-1, 3), [3])
    try:
        fractional = np.linalg.solve(cell.T, positions.T).T
        with warnings.catch_warnings():
            # spglib 2.7 and 2.8 warn at every call of a change in how they report errors.
            warnings.simplefilter("ignore", DeprecationWarning)
            return spglib.get_symmetry_dataset((cell, fractional, numbers), symprec=tolerance)
    except (spglib.SpglibError, np.linalg.LinAlgError):
        return None
