"""The noise of forces, and how far it moves frequencies."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from phonopy.physical_units import get_physical_units

from hpcbench.criteria import PLACES
from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.stability import ACOUSTIC, is_gamma

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from phonopy import Phonopy

    from hpcbench.criteria import Criterion
    from hpcbench.phonons.stability import Spectrum

# Sets of made-up forces: a standard deviation over them is good to a quarter, the root of that,
# which is what we tell, to an eighth.
_SAMPLES = 8
# A mode is looked at whose square is nearer to a threshold's than so many times the largest
# spread of squares seen at the lowest modes' q: others have no chance.
_REACH = 3.0
# q-points of a place that are looked at: its lowest.
_MOST_QPOINTS = 64
# Where symmetrisation changes so little of random force constants, it says nothing of their noise.
_NO_CHANGE = 1e-3


@dataclass(frozen=True, eq=False)
class Noise:
    """What forces violate of laws that hold exactly, and what follows for frequencies.

    Attributes
    ----------
    forces : float
        Standard deviation of a component of a force, in eV/A.
    frequencies : dict
        By place, in THz, for the lowest mode of its spectrum: the root of the standard deviation
        of its squared frequency. A mode whose frequency is closer to zero may be of either sign;
        one of a larger frequency f is uncertain by about the square of this, over 2 f.
    spreads : dict
        By place: the standard deviation of each mode's squared frequency in THz^2, shape
        (nq, nbands). Zero for the three lowest modes at Gamma, and for modes that are too far from
        the thresholds of all criteria to cross one. Empty where the noise is not known.
    """

    forces: float
    frequencies: dict[str, float]
    spreads: dict[str, NDArray[np.float64]]


UNKNOWN_NOISE = Noise(math.nan, dict.fromkeys(PLACES, math.nan), {})
"""Of force constants whose forces are not there."""


def measure_noise(
    phonon: Phonopy,
    forces: NDArray[np.float64],
    change: NDArray[np.float64],
    spectra: Mapping[str, Spectrum],
    criteria: Iterable[Criterion],
    checks: NDArray[np.float64] | None = None,
) -> Noise:
    """The noise of a crystal's forces, carried through to its lowest frequencies.

    Four laws tell what it is. The forces of a supercell add up to nothing. They have its
    symmetry, or what is left of it to a displaced one: what violates these two is rounding, and
    what the cell itself lacks of its symmetry. Force constants do not depend on the order of their
    indices: what violates that is also the finite length of the displacement. And forces change
    in proportion to a displacement: how far they do not, beyond the noise that is known from the
    first two, is what its length adds. The law that is violated most says how large the noise
    is. Made-up forces of such noise, independent in all
    components, then go the way of the real ones, and are added to those: so far does the lowest
    frequency move.

    Parameters
    ----------
    phonon : Phonopy
        With symmetrised compact force constants.
    forces : ndarray, shape (nsupercells, natoms, 3)
        As the potential gave them, with their drift, in eV/A.
    change : ndarray, shape (natoms in primitive cell, natoms in supercell, 3, 3)
        Of the force constants by symmetrisation, in eV/A^2.
    spectra : mapping of str to Spectrum
        By place.
    criteria : iterable of Criterion
        Whose thresholds matter.
    checks : ndarray, shape (2, natoms, 3), optional
        As ``forces``: of the supercell that is not displaced, and with the first displacement
        halved.
    """
    made_up = _made_up(phonon)
    displaced = (phonon.dataset or {})["first_atoms"]
    entries = [(entry["number"], np.asarray(entry["displacement"])) for entry in displaced]
    observed = forces
    if checks is not None:
        entries.append((entries[0][0], np.zeros(3)))
        observed = np.concatenate([forces, checks[:1]])
    # Independent noise of n atoms adds up to its root of n.
    by_sum = float(np.sqrt(forces.shape[1] * np.mean(observed.mean(axis=1) ** 2)))
    by_symmetry = _violated_symmetry(phonon, entries, subtract_drift(observed)[0])
    by_permutation = float("nan")
    if np.linalg.norm(made_up.changes) > _NO_CHANGE * np.linalg.norm(made_up.constants):
        of_each = np.linalg.norm(made_up.changes) / np.sqrt(_SAMPLES)
        by_permutation = float(np.linalg.norm(change) / of_each)
    noise = float(np.nanmax([by_sum, by_symmetry, by_permutation]))
    if checks is not None:
        opposite = _opposite(phonon, entries, forces)
        rounding = float(np.nanmax([by_sum, by_symmetry]))
        noise = max(noise, _bend(forces[0], opposite, checks[0], checks[1], rounding))
    return _carried(phonon, made_up, noise, spectra, criteria)


def carry_noise(
    phonon: Phonopy,
    forces: float,
    spectra: Mapping[str, Spectrum],
    criteria: Iterable[Criterion],
) -> Noise:
    """The noise that is known of a crystal's forces, carried through to these spectra.

    As :func:`measure_noise` does it, which has found that noise before.

    Parameters
    ----------
    phonon : Phonopy
        With symmetrised compact force constants, and the displacements that they are from.
    forces : float
        Standard deviation of a component of a force, in eV/A.
    spectra : mapping of str to Spectrum
        By place.
    criteria : iterable of Criterion
        Whose thresholds matter.
    """
    return _carried(phonon, _made_up(phonon), forces, spectra, criteria)


@dataclass(frozen=True, eq=False)
class _MadeUp:
    """Force constants of made-up forces that are noise of 1 eV/A, several times.

    ``phonon`` is a copy to compute with, ``constants`` are symmetrised, and ``changes`` the norms
    of what symmetrisation has changed.
    """

    phonon: Phonopy
    constants: list[NDArray[np.float64]]
    changes: list[float]


def _made_up(phonon: Phonopy) -> _MadeUp:
    rng = np.random.default_rng(0)  # the same crystal gives the same numbers
    made_up = _MadeUp(pickle.loads(pickle.dumps(phonon)), [], [])
    # What noise adds to a dynamical matrix has no part of the Born charges in it.
    made_up.phonon.nac_params = None
    shape = len((phonon.dataset or {})["first_atoms"]), len(phonon.supercell), 3
    for _ in range(_SAMPLES):
        forces, _ = subtract_drift(rng.standard_normal(shape))
        made_up.changes.append(float(np.linalg.norm(fit_force_constants(made_up.phonon, forces))))
        made_up.constants.append(np.array(made_up.phonon.force_constants))
    return made_up


def _carried(
    phonon: Phonopy,
    made_up: _MadeUp,
    noise: float,
    spectra: Mapping[str, Spectrum],
    criteria: Iterable[Criterion],
) -> Noise:
    copy, constants = made_up.phonon, made_up.constants
    lowest = np.array([spectrum.lowest[1] for spectrum in spectra.values()])
    matrices = [_matrices(copy, lowest, one) for one in constants]
    exact = _matrices(phonon, lowest)
    moved = [np.linalg.eigvalsh(exact + noise * one)[:, 0] for one in matrices]
    squares = np.square(moved - np.linalg.eigvalsh(exact)[:, 0]).mean(axis=0)
    reach = _REACH * noise * _spread(phonon, lowest, matrices).max()
    spreads = {}
    for place, spectrum in spectra.items():
        thresholds = [c.threshold for c in criteria if c.place == place]
        spreads[place] = np.zeros_like(spectrum.frequencies)
        near = _near(spectrum, thresholds, reach)
        if not len(near):
            continue
        matrices = [_matrices(copy, spectrum.qpoints[near], one) for one in constants]
        spreads[place][near] = noise * _spread(phonon, spectrum.qpoints[near], matrices)
        spreads[place][is_gamma(spectrum.qpoints), :ACOUSTIC] = 0.0
    return Noise(noise, dict(zip(spectra, map(float, squares**0.25), strict=True)), spreads)


def _near(spectrum: Spectrum, thresholds: Sequence[float], reach: float) -> NDArray[np.int64]:
    """The lowest q-points with a mode that is within reach (THz^2) of a threshold (THz)."""
    squares = spectrum.frequencies * np.abs(spectrum.frequencies)
    squares[is_gamma(spectrum.qpoints), :ACOUSTIC] = np.inf
    is_near = np.zeros(len(squares), dtype=bool)
    for threshold in thresholds:
        is_near |= (np.abs(squares - threshold * abs(threshold)) < reach).any(axis=1)
    near = np.flatnonzero(is_near)
    return near[np.argsort(squares[near].min(axis=1))][:_MOST_QPOINTS]


def _spread(
    phonon: Phonopy, qpoints: NDArray[np.float64], matrices: Sequence[NDArray[np.complex128]]
) -> NDArray[np.float64]:
    """Standard deviation of squared frequencies, shape (nq, nbands), to first order.

    ``matrices`` are what is added to the dynamical matrices, shape (nq, nbands, nbands) each.
    """
    vectors = phonon.run_qpoints(qpoints, with_eigenvectors=True).eigenvectors
    moved = [(vectors.conj() * (one @ vectors)).sum(axis=1).real for one in matrices]
    spread: NDArray[np.float64] = np.sqrt(np.square(moved).mean(axis=0))
    return spread


def _opposite(
    phonon: Phonopy,
    entries: Sequence[tuple[int, NDArray[np.float64]]],
    forces: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Forces with the opposite of the first displacement.

    Phonopy has displaced that one as well, unless an operation makes it of the first.
    """
    atom, displacement = entries[0]
    nearly = 1e-6 * np.linalg.norm(displacement)
    for (other, opposite), found in zip(entries, forces, strict=False):
        if other == atom and np.abs(opposite + displacement).max() < nearly:
            return found
    rotations, permutations = _operations(phonon)
    turned = np.abs(rotations @ displacement + displacement).max(axis=1) < nearly
    index = np.flatnonzero(turned & (permutations[:, atom] == atom))[0]
    result = np.empty_like(forces[0])
    result[permutations[index]] = forces[0] @ rotations[index].T
    return result


def _bend(
    whole: NDArray[np.float64],
    opposite: NDArray[np.float64],
    none: NDArray[np.float64],
    half: NDArray[np.float64],
    rounding: float,
) -> float:
    """What the length of a displacement adds to a component of the forces, in eV/A.

    From forces with the displacement, its opposite, none, and half of it. As displacements go in
    both directions, what goes with the square drops out of force constants, and is taken off
    here. What goes with the cube is left: three quarters of it stand between a step and two
    halves. Of the noise that is known, as much is taken off as these sums have of it.
    """
    even = (whole + opposite) / 2 - none
    left = whole + none - 2 * half - even / 2
    squares = float(np.mean(left**2)) - (0.75**2 + 0.25**2 + 1.5**2 + 2.0**2) * rounding**2
    return math.sqrt(max(squares, 0.0)) * 4 / 3


def _operations(phonon: Phonopy) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cartesian rotations of the supercell, and where each brings the atoms."""
    lattice = phonon.supercell.cell.T
    found = np.asarray(phonon.symmetry.symmetry_operations["rotations"], dtype=np.float64)
    return lattice @ found @ np.linalg.inv(lattice), phonon.symmetry.atomic_permutations


def _violated_symmetry(
    phonon: Phonopy,
    displacements: Sequence[tuple[int, NDArray[np.float64]]],
    forces: NDArray[np.float64],
) -> float:
    """Standard deviation from the mean over the symmetry that a displaced supercell still has.

    ``displacements`` are the atom and its shift for each supercell. NaN where none of them has
    any symmetry.
    """
    rotations, permutations = _operations(phonon)
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
    phonon: Phonopy, qpoints: NDArray[np.float64], other: NDArray[np.float64] | None = None
) -> NDArray[np.complex128]:
    """Dynamical matrices in THz^2, shape (nq, nbands, nbands), if asked of other constants."""
    if other is not None:
        phonon.force_constants = other
    result = phonon.run_qpoints(qpoints, with_dynamical_matrices=True)
    return np.asarray(result.dynamical_matrices) * get_physical_units().DefaultToTHz ** 2
