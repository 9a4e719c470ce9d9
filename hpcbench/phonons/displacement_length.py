"""Dependence of force constants on the length of the displacements, and their limit at zero.

A finite displacement d gives ``Phi(d) = Phi_0 + a d^2 + ...``: a bias that all displacements share
and that averaging does not remove. Two lengths give ``Phi_0`` but for terms of fourth order
(Richardson, Phil. Trans. R. Soc. A 210, 307 (1911)). A third length shows whether the potential is
smooth there: only then does the bias fall to a quarter with each halving. Finite differences find
no limit for energies with a cusp, as CHGNet's angles at collinear bonds have.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.phonons.linear_fit import operations_of
from hpcbench.potentials.copies import DisplacedCopies

if TYPE_CHECKING:
    from phonopy import Phonopy

SHORTER = (0.5, 0.25)
"""Further lengths of each displacement, relative to phonopy's."""
NOT_SMOOTH = 0.5
"""Roughness (see :class:`Lengths`) from which a potential is not smooth. Potentials with an
analytic energy have 0.001 to 0.06 at 0.01 A, CHGNet at collinear bonds 1.6 to 7
(``tests/test_displacement_length.py``)."""
EXTRAPOLATED_NOISE = 4.8
"""Noise of an extrapolated force, relative to that of the forces it is made of: the root of the
summed squares of its coefficients (8/3, -2, -1/2, -1/6), times the root of two, since opposite
displacements share the noise."""
ERROR_NOISE = 1.5
"""Noise of ``Lengths.error``, relative to that of an extrapolated force: 16/45 of 21, over 4.8."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A displacement and its opposite.

    Attributes
    ----------
    first : int
        Index of the displacement in phonopy's dataset.
    second : int or None
        Index of its opposite; ``None`` if a symmetry operation maps the first onto it.
    rotation : ndarray, shape (3, 3)
        Cartesian rotation of that operation.
    permutation : ndarray, shape (natoms,)
        Index that each atom has after that operation.
    """

    first: int
    second: int | None
    rotation: NDArray[np.float64]
    permutation: NDArray[np.int64]

    def opposite(self, forces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the forces of the opposite displacement, from all (nsupercells, natoms, 3)."""
        if self.second is not None:
            return forces[self.second]
        found = np.empty_like(forces[self.first])
        found[self.permutation] = forces[self.first] @ self.rotation.T
        return found


def pairs_of(phonon: Phonopy) -> list[Pair]:
    """Return the pairs of opposite displacements.

    Phonopy also displaces an atom in the opposite direction unless a symmetry operation of the
    crystal maps one displacement onto the other (``is_plusminus="auto"``).
    """
    rotations, permutations = operations_of(phonon)
    entries = [
        (int(entry["number"]), np.asarray(entry["displacement"]))
        for entry in (phonon.dataset or {})["first_atoms"]
    ]
    pairs: list[Pair] = []
    taken: set[int] = set()
    for first, (atom, displacement) in enumerate(entries):
        if first in taken:
            continue
        nearly = 1e-6 * float(np.linalg.norm(displacement))
        second = next(
            (
                index
                for index, (other, opposite) in enumerate(entries)
                if other == atom and np.abs(opposite + displacement).max() < nearly
            ),
            None,
        )
        if second is not None:
            taken.add(second)
            pairs.append(Pair(first, second, np.eye(3), np.arange(len(phonon.supercell))))
            continue
        turned = np.abs(rotations @ displacement + displacement).max(axis=1) < nearly
        index = np.flatnonzero(turned & (permutations[:, atom] == atom))[0]
        pairs.append(Pair(first, None, rotations[index], permutations[index]))
    return pairs


def with_shorter(copies: DisplacedCopies, pairs: list[Pair]) -> DisplacedCopies:
    """Return displaced supercells, and others in addition for the extrapolation.

    After phonopy's follow the undisplaced one, then one for each pair and each length of
    ``SHORTER``.

    Parameters
    ----------
    copies : DisplacedCopies
        The supercells with phonopy's displacements.
    pairs : list of Pair
        From :func:`pairs_of`.
    """
    first = [pair.first for pair in pairs]
    shorter = [factor * copies.displacements[first] for factor in SHORTER]
    atoms = [copies.atoms, copies.atoms[:1], *[copies.atoms[first]] * len(SHORTER)]
    nothing = np.zeros((1, 3))
    return dataclasses.replace(
        copies,
        atoms=np.concatenate(atoms),
        displacements=np.concatenate([copies.displacements, nothing, *shorter]),
    )


@dataclass(frozen=True, eq=False)
class Lengths:
    """Forces of displaced supercells in the limit of zero displacement, and their errors.

    Attributes
    ----------
    forces : ndarray, shape (nsupercells, natoms, 3)
        Extrapolated, as if proportional to phonopy's displacements, in eV/A.
    error : ndarray, shape (nsupercells, natoms, 3)
        Estimate of the next order, which extrapolation leaves in them, in eV/A.
    roughness : float
        Share of the change from d to d/2 that is not four times the change from d/2 to d/4, beyond
        rounding: 0 for an analytic energy.
    """

    forces: NDArray[np.float64]
    error: NDArray[np.float64]
    roughness: float

    @property
    def smooth(self) -> bool:
        """Return whether the potential is smooth over these lengths."""
        return self.roughness < NOT_SMOOTH


def extrapolate(
    pairs: list[Pair], forces: NDArray[np.float64], nsupercells: int, rounding: float
) -> Lengths:
    """Extrapolate forces to displacements of zero length.

    With F(x) the forces at x times the displacement u: the even part ``(F(1) + F(-1))/2 - F(0)``
    goes with the square of x, so it is known at all lengths; of the odd part O(x) the slope
    ``S(x) = O(x)/x`` is extrapolated, ``(4 S(1/2) - S(1))/3``.

    Parameters
    ----------
    pairs : list of Pair
        From :func:`pairs_of`.
    forces : ndarray, shape (ncopies, natoms, 3)
        Of the supercells of :func:`with_shorter`, in eV/A.
    nsupercells : int
        The number of supercells with phonopy's displacements.
    rounding : float
        Standard deviation of a component of a force, in eV/A.
    """
    none = forces[nsupercells]
    shorter = forces[nsupercells + 1 :].reshape(len(SHORTER), len(pairs), *none.shape)
    limits, errors = np.zeros((2, nsupercells, *none.shape))
    excess = change = 0.0
    for number, pair in enumerate(pairs):
        plus, minus = forces[pair.first], pair.opposite(forces)
        even = (plus + minus) / 2 - none
        slopes = [(plus - minus) / 2] + [
            (found[number] - none - factor**2 * even) / factor
            for factor, found in zip(SHORTER, shorter, strict=True)
        ]
        first, second = slopes[0] - slopes[1], slopes[1] - slopes[2]
        fourth = first - 4 * second
        limit = (4 * slopes[1] - slopes[0]) / 3
        # With S = S_0 + a x^2 + b x^4: the fourth order is 45/64 b, and b/4 is left in the limit.
        error = 16 / 45 * fourth
        for index, sign in ((pair.first, 1.0), (pair.second, -1.0)):
            if index is not None:
                limits[index], errors[index] = sign * limit, sign * error
        # Two standard deviations of rounding: the coefficients' squares add up to 21 squared.
        excess += max(float((fourth**2).sum()) - fourth.size * (2 * 21 * rounding) ** 2, 0.0)
        change += float((first**2).sum())
    return Lengths(limits, errors, math.sqrt(excess / change) if change else 0.0)
