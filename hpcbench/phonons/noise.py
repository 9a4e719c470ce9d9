"""Uncertainty of frequencies from rounding of the forces and from the displacements' length.

Rounding is noise. Its size follows from laws that the forces violate: the sum rule and the symmetry
of displaced supercells (Togo and Tanaka, Scr. Mater. 108, 1 (2015); Ackland, Warren and Clark,
J. Phys.: Condens. Matter 9, 7861 (1997)). Random forces of that size, fitted like the real ones,
give its effect on frequencies. The length of the displacements is a bias
(:mod:`hpcbench.phonons.displacement_length`): it may have the same sign for all pairs of atoms, so
it is bounded and not averaged.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from phonopy.physical_units import get_physical_units

from hpcbench.criteria import PLACES
from hpcbench.phonons.displacement_length import ERROR_NOISE, pairs_of
from hpcbench.phonons.force_constants import subtract_drift
from hpcbench.phonons.linear_fit import LinearFit, operations_of
from hpcbench.phonons.stability import signed_squares

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from phonopy import Phonopy

    from hpcbench.criteria import Criterion
    from hpcbench.phonons.stability import Spectrum

# Number of sets of random forces: a standard deviation over them is accurate to a quarter.
_SAMPLES = 8
# Rounding is taken to move a squared frequency by at most so many standard deviations.
DEVIATIONS = 2.0
# Number of q-points of a place that are examined: those with the lowest frequencies.
_MOST_QPOINTS = 64
# If symmetrisation changes random force constants by less than this share, its change of the real
# ones does not measure their noise.
_NO_CHANGE = 1e-3
OTHER_DISPLACEMENTS = 6.0
"""Factor for the nonlinearity of other displacements than the first, the only one that is halved.
For 44 demo crystals, half of them rattled, and 8 generated ones with CHGNet, extrapolation moved
the lowest mode of any examined q by up to 4.2 times the estimate from the first displacement, with
a median of 0.3."""


_Reach = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Noise:
    """Uncertainty of frequencies.

    Attributes
    ----------
    forces : float
        Standard deviation of a force component by rounding, in eV/A.
    frequencies : dict
        By place, in THz, for the lowest mode of its spectrum: the root of the standard deviation
        of its squared frequency by rounding. A mode closer to zero may have either sign.
    bias, deviation : dict
        By place, for the lowest q-points, in THz^2, shape (nq, nbands): how far the displacements'
        length may have moved each mode's squared frequency, and its standard deviation by
        rounding. Zero for acoustic modes at Gamma, NaN for higher q-points. Empty if not known.
    nonlinearity : float
        Largest relative change of the interaction of each pair of atoms in the limit of zero
        displacement; NaN if it was not measured.
    """

    forces: float
    frequencies: dict[str, float]
    bias: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    deviation: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    nonlinearity: float = math.nan

    def reach(self, place: str, *, of_rounding: bool = False) -> _Reach:
        """Return how far squared frequencies may be below and above their values, in THz^2.

        Parameters
        ----------
        place : str
            The place of the spectrum.
        of_rounding : bool
            Whether to count rounding alone (``DEVIATIONS`` standard deviations), without the bias.

        Returns
        -------
        ndarray, ndarray, shape (nq, nbands)
            The reach below and above.
        """
        moved = DEVIATIONS * self.deviation[place]
        if not of_rounding:
            moved = moved + self.bias[place]
        # q-points that were not examined are higher: a shift that raises the lowest above a
        # threshold does the same to them.
        return np.nan_to_num(moved), np.where(np.isnan(moved), np.nanmax(moved), moved)


UNKNOWN_NOISE = Noise(math.nan, dict.fromkeys(PLACES, math.nan))
"""For force constants that come without forces."""


class Uncertainty:
    """Estimate the effect of rounding and of the displacements' length on a crystal's frequencies.

    Parameters
    ----------
    phonon : Phonopy
        With symmetrised compact force constants and the displacements that they are from.
    """

    def __init__(self, phonon: Phonopy) -> None:
        self._phonon = phonon
        self._copy: Phonopy = pickle.loads(pickle.dumps(phonon))
        self._copy.nac_params = None  # which no error of the forces moves
        rng = np.random.default_rng(0)  # the same crystal gives the same numbers
        shape = _SAMPLES, len((phonon.dataset or {})["first_atoms"]), len(phonon.supercell), 3
        forces = rng.standard_normal(shape)
        self._fit = LinearFit(phonon)
        raw = self._fit.raw(forces - forces.mean(axis=2, keepdims=True))
        self._samples = self._fit.symmetrised(raw)
        self._sample_changes = float(np.linalg.norm(self._samples - raw)) / math.sqrt(_SAMPLES)

    def rounding(
        self, forces: NDArray[np.float64], none: NDArray[np.float64] | None, change: float
    ) -> float:
        """Return the standard deviation of a force component by rounding, in eV/A.

        The forces on a supercell sum to zero and have the symmetry that the displacement leaves.
        Deviations from both measure rounding, and how far the cell itself is from its symmetry; the
        larger one counts. If no displaced supercell has any symmetry, the change of the force
        constants by symmetrisation is used in place of it, which also contains some of the
        displacements' length.

        Parameters
        ----------
        forces : ndarray, shape (nsupercells, natoms, 3)
            As the potential returned them, with their drift, in eV/A.
        none : ndarray, shape (natoms, 3), optional
            The same for the undisplaced supercell.
        change : float
            Norm of the change of the force constants by symmetrisation, in eV/A^2.
        """
        entries = [
            (entry["number"], np.asarray(entry["displacement"]))
            for entry in (self._phonon.dataset or {})["first_atoms"]
        ]
        if none is not None:
            entries.append((entries[0][0], np.zeros(3)))
            forces = np.concatenate([forces, none[None]])
        # Independent noise of n atoms adds up to its root of n.
        by_sum = float(np.sqrt(forces.shape[1] * np.mean(forces.mean(axis=1) ** 2)))
        by_symmetry = _violated_symmetry(self._phonon, entries, subtract_drift(forces)[0])
        if math.isnan(by_symmetry) and self._sample_changes > _NO_CHANGE * float(
            np.linalg.norm(self._samples)
        ) / math.sqrt(_SAMPLES):
            by_symmetry = change / self._sample_changes
        return float(np.nanmax([by_sum, by_symmetry]))

    def noise(
        self,
        rounding: float,
        spectra: Mapping[str, Spectrum],
        criteria: Iterable[Criterion],
        *,
        nonlinearity: float = math.nan,
        error: NDArray[np.float64] | None = None,
    ) -> Noise:
        """Return the uncertainty of the frequencies of some spectra.

        Parameters
        ----------
        rounding : float
            Standard deviation of a component of a force, in eV/A.
        spectra : mapping of str to Spectrum
            By place.
        criteria : iterable of Criterion
            Their places are examined.
        nonlinearity : float
            See :class:`Noise`.
        error : ndarray, shape (nsupercells, natoms, 3), optional
            Error of extrapolated forces, of either sign, in eV/A.
        """
        lowest = np.array([spectrum.lowest[1] for spectrum in spectra.values()])
        _, spread = self._shifts(lowest, rounding, 0.0, None)
        biases: dict[str, NDArray[np.float64]] = {}
        deviations: dict[str, NDArray[np.float64]] = {}
        for place in {criterion.place for criterion in criteria}:
            spectrum = spectra[place]
            squares = np.where(spectrum.at_gamma, np.inf, signed_squares(spectrum.frequencies))
            chosen = np.argsort(squares.min(axis=1), kind="stable")[:_MOST_QPOINTS]
            bias, deviation = self._shifts(
                spectrum.qpoints[chosen], rounding, float(np.nan_to_num(nonlinearity)), error
            )
            for found, moved in ((biases, bias), (deviations, deviation)):
                found[place] = np.full_like(squares, np.nan)
                found[place][chosen] = moved
                found[place][spectrum.at_gamma] = 0.0
        floors = dict(zip(spectra, np.sqrt(spread[:, 0]).tolist(), strict=True))
        return Noise(rounding, floors, biases, deviations, nonlinearity)

    def _shifts(
        self,
        qpoints: NDArray[np.float64],
        rounding: float,
        nonlinearity: float,
        error: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return shifts of squared frequencies to first order, shape (nq, nbands), in THz^2.

        The bias, and the standard deviation by rounding.
        """
        vectors = self._phonon.run_qpoints(qpoints, with_eigenvectors=True).eigenvectors

        def moved(constants: NDArray[np.float64]) -> NDArray[np.float64]:
            matrices = _matrices(self._copy, qpoints, constants)
            shift: NDArray[np.float64] = (vectors.conj() * (matrices @ vectors)).sum(axis=1).real
            return shift

        spread = rounding * np.sqrt(np.mean([moved(one) ** 2 for one in self._samples], axis=0))
        bias = np.zeros_like(spread)
        if nonlinearity:
            springs = _springs(self._phonon)
            bias = nonlinearity * moved(springs)
        if error is not None:
            # What rounding makes of it is no bias.
            left = np.abs(moved(self._fit.symmetrised(self._fit.raw(error[None]))[0]))
            bias = bias + np.maximum(left - DEVIATIONS * ERROR_NOISE * spread, 0.0)
        return bias, spread


def rounding_of_response(
    phonon: Phonopy,
    rounding: float,
    spectra: Mapping[str, Spectrum],
    criteria: Iterable[Criterion],
) -> Noise:
    """Return the uncertainty of frequencies by the rounding of a linear response alone.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    rounding : float
        Standard deviation of a force constant at a q, in eV/A^2.
    spectra : mapping of str to Spectrum
        By place.
    criteria : iterable of Criterion
        Their places are examined.
    """
    factor = get_physical_units().DefaultToTHz ** 2
    spread = rounding / float(np.min(phonon.primitive.masses)) * factor
    deviations = {}
    for place in {criterion.place for criterion in criteria}:
        deviations[place] = np.full(spectra[place].frequencies.shape, spread)
        deviations[place][spectra[place].at_gamma] = 0.0
    biases = {place: np.zeros_like(found) for place, found in deviations.items()}
    return Noise(math.nan, dict.fromkeys(spectra, math.sqrt(spread)), biases, deviations)


def nonlinearity(
    phonon: Phonopy,
    forces: NDArray[np.float64],
    none: NDArray[np.float64],
    half: NDArray[np.float64],
) -> float:
    """Return the relative deviation of forces from proportionality to the displacement.

    It is extrapolated from the slopes of the forces at the first displacement and at half of it,
    without their even part (:mod:`hpcbench.phonons.displacement_length`): four thirds of the
    difference. The norms of the forces on all atoms but the displaced one are summed.

    Parameters
    ----------
    phonon : Phonopy
        With displacements.
    forces : ndarray, shape (nsupercells, natoms, 3)
        In eV/A.
    none, half : ndarray, shape (natoms, 3)
        The same for the undisplaced supercell, and with half the first displacement.
    """
    pair = pairs_of(phonon)[0]
    plus, minus = forces[pair.first], pair.opposite(forces)
    even, odd = (plus + minus) / 2 - none, (plus - minus) / 2
    change = 4 / 3 * (odd - 2 * (half - none - even / 4))
    others = np.arange(len(none)) != (phonon.dataset or {})["first_atoms"][0]["number"]
    whole = float(np.linalg.norm(odd[others], axis=1).sum())
    return float(np.linalg.norm(change[others], axis=1).sum()) / whole if whole else 0.0


def _springs(phonon: Phonopy) -> NDArray[np.float64]:
    """Return compact force constants of isotropic springs as stiff as each pair of atoms.

    The pair's norm is on the diagonal, so that the spring resists in all directions, and the sum
    rule holds: long waves feel little of the springs, as of the pairs themselves.
    """
    norms = np.linalg.norm(phonon.force_constants, ord=2, axis=(-2, -1))
    rows = np.arange(len(norms)), np.asarray(phonon.primitive.p2s_map)
    norms[rows] = 0.0
    norms[rows] = -norms.sum(axis=1)
    return -norms[:, :, None, None] * np.eye(3)


def _violated_symmetry(
    phonon: Phonopy,
    displacements: Sequence[tuple[int, NDArray[np.float64]]],
    forces: NDArray[np.float64],
) -> float:
    """Return the standard deviation of forces from their mean over the supercells' symmetry.

    ``displacements`` are the atom and its shift for each supercell. NaN if no supercell has any
    symmetry.
    """
    rotations, permutations = operations_of(phonon)
    squares = degrees = 0.0
    for (atom, displacement), observed in zip(displacements, forces, strict=True):
        length = np.linalg.norm(displacement)
        moved = np.abs(rotations @ displacement - displacement).max(axis=1)
        kept = (permutations[:, atom] == atom) & (moved < 1e-6 * length)
        if length == 0.0:
            kept[:] = True
        mean, fixed = np.zeros_like(observed), 0.0
        for rotation, permutation in zip(rotations[kept], permutations[kept], strict=True):
            mean[permutation] += observed @ rotation.T
            fixed += np.trace(rotation) * (permutation == np.arange(len(observed))).sum()
        mean /= kept.sum()
        squares += ((observed - mean) ** 2).sum()
        # All components but those that symmetry leaves free: the trace of the projection on them.
        degrees += observed.size - fixed / kept.sum()
    return float(np.sqrt(squares / degrees)) if degrees > 0.5 else float("nan")


def _matrices(
    phonon: Phonopy, qpoints: NDArray[np.float64], force_constants: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return dynamical matrices in THz^2, shape (nq, nbands, nbands)."""
    phonon.force_constants = force_constants
    result = phonon.run_qpoints(qpoints, with_dynamical_matrices=True)
    return np.asarray(result.dynamical_matrices) * get_physical_units().DefaultToTHz ** 2
