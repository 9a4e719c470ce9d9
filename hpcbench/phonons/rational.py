"""Rational q at which negative interpolated frequencies can be checked.

Force constants of a supercell give exact frequencies at the q that are commensurate with it.
Between those, frequencies are interpolated, and a negative one is a suspicion. It is checked at a
rational q nearby, where a small supercell gives exact frequencies
(:mod:`hpcbench.phonons.nondiagonal`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hpcbench.phonons.stability import ACOUSTIC_MODES, Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# A q can stand for another one within this share of the distance from Gamma to the nearest other
# commensurate q, because interpolation has no structure finer than that distance. Acoustic waves
# within the same distance from Gamma are long waves, as in hpcbench.phonons.character.
_NEAR = 0.5
# Its own interpolated frequency must also be at least this share of the other's: a q beside a deep
# minimum has no information about it.
_DEEP = 0.5
_SAME = 1e-6  # of a q in reduced coordinates, of a distance in 1/A, of a frequency in THz


@dataclass(frozen=True, order=True)
class RationalQ:
    """A rational q in reduced coordinates of the primitive cell's reciprocal lattice.

    Attributes
    ----------
    numerators, denominators : tuple of 3 int
        Of fractions in lowest terms, from 0 to 1.
    """

    numerators: tuple[int, int, int]
    denominators: tuple[int, int, int]

    @property
    def cells(self) -> int:
        """Number of primitive cells in the smallest supercell that is commensurate with it."""
        return math.lcm(*self.denominators)

    @property
    def coordinates(self) -> NDArray[np.float64]:
        """The fractions as floating-point numbers, shape (3,)."""
        return np.array(self.numerators) / np.array(self.denominators)


@dataclass(frozen=True, eq=False)
class Suspicion:
    """A region of negative interpolated frequencies, and the q at which to check it.

    Attributes
    ----------
    qpoint : RationalQ
        The q to compute; an arm of its star is near the region.
    frequency : float
        The lowest interpolated frequency at ``qpoint``, in THz.
    lowest : float
        The lowest interpolated frequency that no earlier suspicion stands for, in THz.
    lowest_qpoint : ndarray, shape (3,)
        The q of ``lowest``, in reduced coordinates of the primitive cell's reciprocal lattice.
    distance : float
        From there to the nearest arm of the star of ``qpoint``, in 1/A (without 2 pi).
    """

    qpoint: RationalQ
    frequency: float
    lowest: float
    lowest_qpoint: NDArray[np.float64]
    distance: float


@dataclass(frozen=True, eq=False)
class Suspicions:
    """All negative interpolated frequencies of a crystal.

    Attributes
    ----------
    chosen : tuple of Suspicion
        Suspicions to be checked, the lowest first.
    left_open : int
        Number of regions without a q in ``chosen``: because there would be too many, or no allowed
        rational q is near and negative enough.
    lowest_open : float
        The lowest interpolated frequency of those, in THz; NaN if there are none.
    long_waves : float
        The lowest frequency of acoustic waves near Gamma, in THz, if it is below the threshold;
        else NaN. Only the elastic tensor can confirm it, no rational q.
    """

    chosen: tuple[Suspicion, ...]
    left_open: int
    lowest_open: float
    long_waves: float


NO_SUSPICIONS = Suspicions((), 0, math.nan, math.nan)


def rational_qpoints(
    most_denominator: int, most_cells: int, operations: NDArray[np.int64]
) -> list[RationalQ]:
    """Return one q of each star of rational q, without Gamma.

    Parameters
    ----------
    most_denominator : int
        The largest denominator of a component.
    most_cells : int
        The largest least common multiple of the three denominators.
    operations : ndarray, shape (nops, 3, 3)
        Whole numbers; q and ``operation @ q`` have the same frequencies.
    """
    if most_denominator < 2:
        return []
    grid = math.lcm(*range(1, most_denominator + 1))
    fractions = np.unique([n * grid // d for d in range(1, most_denominator + 1) for n in range(d)])
    points = np.array(list(itertools.product(fractions, repeat=3)))[1:]
    cells = grid // np.gcd(grid, np.gcd.reduce(points, axis=1))
    points = points[cells <= most_cells]
    _, first = np.unique(_star_codes(points, grid, operations).min(axis=0), return_index=True)
    return [_rational(point, grid) for point in points[np.sort(first)]]


def suspicions(
    spectra: Iterable[Spectrum],
    commensurate: NDArray[np.float64],
    reciprocal: NDArray[np.float64],
    operations: NDArray[np.int64],
    interpolate: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    threshold: float,
    most_denominator: int,
    most_cells: int,
    most_qpoints: int,
) -> Suspicions:
    """Choose the rational q at which to check negative interpolated frequencies.

    Points of the spectra and rational q with frequencies below the threshold are taken from the
    lowest up. For each a rational q is chosen: within half the distance from Gamma to the nearest
    other commensurate q, and with at least half its negative frequency; of those the one with the
    smallest supercell, then the lowest frequency. It stands for all points as near as that to an
    arm of its star. A q that is commensurate, or equivalent by symmetry to a commensurate one, is
    exact and no suspicion. At points as near as that to Gamma the three lowest modes are long
    waves. If the spectra have nothing below the threshold, nothing else is examined.

    Parameters
    ----------
    spectra : iterable of Spectrum
        Interpolated, on the path and the mesh.
    commensurate : ndarray, shape (nq, 3)
        All q that are commensurate with the supercell, Gamma included.
    reciprocal : ndarray, shape (3, 3)
        Reciprocal lattice vectors of the primitive cell as rows, in 1/A, without 2 pi.
    operations : ndarray, shape (nops, 3, 3)
        Whole numbers; q and ``operation @ q`` have the same frequencies (phonopy's
        ``primitive_symmetry.reciprocal_operations``, which have time reversal).
    interpolate : callable
        Frequencies in THz, shape (nq, nbands), at q of shape (nq, 3).
    threshold : float
        In THz, negative.
    most_denominator, most_cells : int
        See :func:`rational_qpoints`.
    most_qpoints : int
        The largest number of q to choose.
    """
    interpolated = [*spectra]
    if not any((spectrum.frequencies < threshold).any() for spectrum in interpolated):
        return NO_SUSPICIONS
    # A supercell, and so its interpolation, may have less symmetry than the crystal: q that are
    # equivalent only in the crystal are examined one by one.
    candidates = rational_qpoints(
        most_denominator, most_cells, _kept_by_supercell(operations, commensurate)
    )
    rational = np.array([q.coordinates for q in candidates]).reshape(-1, 3)
    exact = partial(_is_exact, commensurate=commensurate, operations=operations)
    is_new = ~exact(rational)
    candidates = list(itertools.compress(candidates, is_new))
    if candidates:
        frequencies = interpolate(rational[is_new])
        interpolated.append(Spectrum(rational[is_new], frequencies, interpolated[-1].acoustic))

    qpoints = np.concatenate([spectrum.qpoints for spectrum in interpolated])
    frequencies = np.sort(np.concatenate([s.frequencies for s in interpolated]), axis=1)
    index_of_first = len(qpoints) - len(candidates)
    radius = _NEAR * nearest_commensurate(commensurate, reciprocal)
    is_long = distance_from_gamma(qpoints, reciprocal) < radius - _SAME
    padded = np.pad(frequencies, ((0, 0), (0, 1)), constant_values=np.inf)
    depths = np.where(is_long, padded[:, ACOUSTIC_MODES], padded[:, 0])
    # Rational q that are negative but above the threshold can stand for ones below it.
    negative = depths < 0.0
    negative[:index_of_first] &= depths[:index_of_first] < threshold
    at = np.flatnonzero(negative)
    at = at[~exact(qpoints[at])]
    long = frequencies[is_long & ~exact(qpoints), 0]
    regions = _Regions(qpoints[at], depths[at], reciprocal, operations, radius)
    chosen, lowest_open = regions.choose(
        {
            place: candidates[i - index_of_first]
            for place, i in enumerate(at)
            if i >= index_of_first
        },
        threshold,
        most_qpoints,
    )
    return Suspicions(
        tuple(chosen),
        len(lowest_open),
        min(lowest_open, default=math.nan),
        float(long.min()) if (long < threshold).any() else math.nan,
    )


class _Regions:
    """Negative points, and which of them are near each other."""

    def __init__(
        self,
        qpoints: NDArray[np.float64],
        depths: NDArray[np.float64],
        reciprocal: NDArray[np.float64],
        operations: NDArray[np.int64],
        radius: float,
    ) -> None:
        self._qpoints, self._depths = qpoints, depths
        self._basis, self._operations = reciprocal, operations
        self._radius = radius + _SAME
        images = _images(qpoints, reciprocal)
        self._tree = cKDTree(images.reshape(-1, 3)) if len(qpoints) else None
        self._shifts = images.shape[1]

    def choose(
        self, candidates: dict[int, RationalQ], threshold: float, most: int
    ) -> tuple[list[Suspicion], list[float]]:
        """Return the q to compute, and the lowest frequency of each region that is left open."""
        waiting = self._depths < threshold
        chosen: list[Suspicion] = []
        left_open = []
        # Rounded: the order of equivalent points must not depend on the machine.
        for point in np.argsort(np.round(self._depths, 6), kind="stable"):
            if not waiting[point]:
                continue
            depth = self._depths[point]
            near = self._near(self._qpoints[point])
            inside = [
                (
                    # One that is not below the threshold itself can only stand for the others.
                    self._depths[i] >= threshold,
                    candidates[i].cells,
                    round(float(self._depths[i]), 6),
                    candidates[i],
                    i,
                )
                for i in near
                if i in candidates and self._depths[i] <= _DEEP * depth + _SAME
            ]
            if inside and len(chosen) < most:
                *_, qpoint, index = min(inside)
                chosen.append(
                    Suspicion(
                        qpoint,
                        float(self._depths[index]),
                        float(depth),
                        self._qpoints[point],
                        self._distance(self._qpoints[point], self._qpoints[index]),
                    )
                )
                near = self._near(self._qpoints[index])
            else:
                left_open.append(float(depth))
            waiting[near] = False
        return chosen, left_open

    def _arms(self, qpoint: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the star of a q, in 1/A, within the cell that :func:`_images` surrounds."""
        return _images(self._operations @ qpoint, self._basis)[:, 0]

    def _near(self, qpoint: NDArray[np.float64]) -> list[int]:
        """Return the points within the radius of an arm of a q's star, with the q itself."""
        assert self._tree is not None
        found = self._tree.query_ball_point(self._arms(qpoint), self._radius)
        return sorted({i // self._shifts for indices in found for i in indices})

    def _distance(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
        images = _images(second[None], self._basis)[0]
        return float(cKDTree(images).query(self._arms(first))[0].min())


def _images(qpoints: NDArray[np.float64], reciprocal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fold each q into one cell, and return it with its images in the 26 cells around.

    In 1/A, shape (nq, 27, 3). The cell is reduced, so that the nearest image of a q is among these.
    """
    basis, _ = minkowski_reduce(reciprocal)
    reduced = qpoints @ (reciprocal @ np.linalg.inv(basis))
    shifts = np.array(sorted(itertools.product((-1, 0, 1), repeat=3), key=np.linalg.norm))
    images: NDArray[np.float64] = ((reduced - np.floor(reduced))[:, None] + shifts) @ basis
    return images


def distance_from_gamma(
    qpoints: NDArray[np.float64], reciprocal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance of each q from the nearest reciprocal lattice point, in 1/A.

    Parameters
    ----------
    qpoints : ndarray, shape (nq, 3)
        In reduced coordinates.
    reciprocal : ndarray, shape (3, 3)
        Reciprocal lattice vectors as rows, in 1/A.
    """
    distances: NDArray[np.float64] = np.linalg.norm(_images(qpoints, reciprocal), axis=2).min(
        axis=1
    )
    return distances


def nearest_commensurate(
    commensurate: NDArray[np.float64], reciprocal: NDArray[np.float64]
) -> float:
    """Return the distance from Gamma to the nearest other commensurate q, or its image, in 1/A.

    Parameters
    ----------
    commensurate : ndarray, shape (nq, 3)
        All commensurate q, in reduced coordinates.
    reciprocal : ndarray, shape (3, 3)
        Reciprocal lattice vectors as rows, in 1/A.
    """
    distances = distance_from_gamma(commensurate, reciprocal)
    basis, _ = minkowski_reduce(reciprocal)
    return float(distances[distances > _SAME].min(initial=np.linalg.norm(basis, axis=1).min()))


def _rational(point: NDArray[np.int64], grid: int) -> RationalQ:
    common = np.gcd(point, grid)
    a, b, c = (int(n) for n in point // common)
    d, e, f = (int(n) for n in grid // common)
    return RationalQ((a, b, c), (d, e, f))


def _star_codes(
    points: NDArray[np.int64], grid: int, operations: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return a number for each arm of the star of each q, given on a grid; shape (nops, nq)."""
    arms = np.einsum("oij,qj->oqi", operations, points) % grid
    codes: NDArray[np.int64] = arms @ np.array([grid**2, grid, 1])
    return codes


def _on_grid(
    qpoints: NDArray[np.float64], grid: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Round each q to units of 1/grid, and tell which of them are on the grid."""
    points = np.rint(qpoints * grid).astype(np.int64)
    return points, np.abs(qpoints - points / grid).max(axis=1, initial=0.0) < _SAME


def _kept_by_supercell(
    operations: NDArray[np.int64], commensurate: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the operations that map the commensurate q onto themselves."""
    points, _ = _on_grid(commensurate, len(commensurate))
    identity = np.eye(3, dtype=np.int64)[None]
    (itself,) = _star_codes(points, len(commensurate), identity)
    codes = _star_codes(points, len(commensurate), operations)
    return operations[np.isin(codes, itself).all(axis=1)]


def _is_exact(
    qpoints: NDArray[np.float64],
    commensurate: NDArray[np.float64],
    operations: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell which q are commensurate, or equivalent to one that is."""
    grid = len(commensurate)  # a group of that order: its elements are multiples of 1/grid
    known, _ = _on_grid(commensurate, grid)
    points, is_whole = _on_grid(qpoints, grid)
    (codes,) = _star_codes(points, grid, np.eye(3, dtype=np.int64)[None])
    return is_whole & np.isin(codes, _star_codes(known, grid, operations))
