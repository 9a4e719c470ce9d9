"""The noise of forces, and how far it moves frequencies."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from phonopy.physical_units import get_physical_units

from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift

if TYPE_CHECKING:
    from collections.abc import Mapping

    from phonopy import Phonopy

    from hpcbench.phonons.stability import Spectrum

# Sets of made-up forces: a standard deviation over them is good to a quarter, the root of that,
# which is what we tell, to an eighth.
_SAMPLES = 8
# Where symmetrisation changes so little of random force constants, it says nothing of their noise.
_NO_CHANGE = 1e-3


@dataclass(frozen=True)
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
    """

    forces: float
    frequencies: dict[str, float]


UNKNOWN_NOISE = Noise(math.nan, dict.fromkeys(("path", "commensurate", "mesh"), math.nan))
"""Of force constants whose forces are not there."""


def measure_noise(
    phonon: Phonopy,
    forces: NDArray[np.float64],
    change: NDArray[np.float64],
    spectra: Mapping[str, Spectrum],
) -> Noise:
    """The noise of a crystal's forces, carried through to its lowest frequencies.

    Three laws tell what it is. The forces of a supercell add up to nothing. Those of a displaced
    one have the symmetry that is left to it: what violates these two is rounding, and what the
    cell itself lacks of its symmetry. And force constants do not depend on the order of their
    indices: what violates that is also the finite length of the displacement. The law that is
    violated most says how large the noise is. Made-up forces of such noise, independent in all
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
    """
    rng = np.random.default_rng(0)  # the same crystal gives the same numbers
    qpoints = {place: spectrum.lowest[1] for place, spectrum in spectra.items()}
    copy = pickle.loads(pickle.dumps(phonon))
    constants, changes = [], []
    # By place, of noise of 1 eV/A. Force constants may be large: none are kept.
    matrices: dict[str, list[NDArray[np.complex128]]] = {place: [] for place in qpoints}
    for _ in range(_SAMPLES):
        made_up, _ = subtract_drift(rng.standard_normal(forces.shape))
        changes.append(np.linalg.norm(fit_force_constants(copy, made_up)))
        constants.append(np.linalg.norm(copy.force_constants))
        for place, qpoint in qpoints.items():
            matrices[place].append(_matrix(copy, qpoint))
    without_drift, _ = subtract_drift(forces)
    # Independent noise of n atoms adds up to its root of n.
    by_sum = float(np.sqrt(forces.shape[1] * np.mean(forces.mean(axis=1) ** 2)))
    by_symmetry = _violated_symmetry(phonon, without_drift)
    by_permutation = float("nan")
    if np.linalg.norm(changes) > _NO_CHANGE * np.linalg.norm(constants):
        of_each = np.linalg.norm(changes) / np.sqrt(_SAMPLES)
        by_permutation = float(np.linalg.norm(change) / of_each)
    noise = float(np.nanmax([by_sum, by_symmetry, by_permutation]))
    frequencies = {}
    for place, qpoint in qpoints.items():
        exact = _matrix(phonon, qpoint)
        lowest = np.linalg.eigvalsh(exact)[0]
        moved = [np.linalg.eigvalsh(exact + noise * one)[0] - lowest for one in matrices[place]]
        frequencies[place] = float(np.mean(np.square(moved)) ** 0.25)
    return Noise(noise, frequencies)


def _violated_symmetry(phonon: Phonopy, forces: NDArray[np.float64]) -> float:
    """Standard deviation from the mean over the symmetry that a displaced supercell still has.

    NaN where none of them has any.
    """
    symmetry = phonon.symmetry
    permutations = symmetry.atomic_permutations  # of an atom: where the operation brings it
    lattice = phonon.supercell.cell.T
    rotations = lattice @ symmetry.symmetry_operations["rotations"] @ np.linalg.inv(lattice)
    squares = degrees = 0.0
    for entry, observed in zip(phonon.dataset["first_atoms"], forces, strict=True):
        atom, displacement = entry["number"], np.asarray(entry["displacement"])
        moved = np.abs(rotations @ displacement - displacement).max(axis=1)
        kept = (permutations[:, atom] == atom) & (moved < 1e-6 * np.linalg.norm(displacement))
        mean, fixed = np.zeros_like(observed), 0.0
        for rotation, permutation in zip(rotations[kept], permutations[kept], strict=True):
            mean[permutation] += observed @ rotation.T
            fixed += np.trace(rotation) * (permutation == np.arange(len(observed))).sum()
        mean /= kept.sum()
        squares += ((observed - mean) ** 2).sum()
        # All components but those that symmetry leaves free: the trace of the projection on them.
        degrees += observed.size - fixed / kept.sum()
    return float(np.sqrt(squares / degrees)) if degrees > 0.5 else float("nan")


def _matrix(phonon: Phonopy, qpoint: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The dynamical matrix at q, in THz^2."""
    result = phonon.run_qpoints([qpoint], with_dynamical_matrices=True)
    return np.asarray(result.dynamical_matrices[0]) * get_physical_units().DefaultToTHz ** 2
