"""Force constants of many sets of forces at once, by one linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from phonopy.harmonic.force_constants import (
    _get_sym_mappings_from_permutations,
    get_nsym_list_and_s2pp,
)

if TYPE_CHECKING:
    from phonopy import Phonopy


class LinearFit:
    """The linear map from forces of displaced supercells to compact force constants.

    :meth:`raw` is the same least-squares fit as phonopy's: a pseudo-inverse for each displaced
    atom, and symmetry for the other atoms of the primitive cell. :meth:`symmetrised` is the
    orthogonal projection that phonopy's permutation and drift conditions converge to when they are
    repeated. Phonopy's own fit takes as long for one set of forces as this for dozens.

    Parameters
    ----------
    phonon : Phonopy
        With displacements.
    """

    def __init__(self, phonon: Phonopy) -> None:
        primitive = phonon.primitive
        rotations, permutations = operations_of(phonon)
        p2s = np.array(primitive.p2s_map)
        place = {int(atom): number for number, atom in enumerate(p2s)}
        self._shape = len(p2s), len(phonon.supercell)
        entries = (phonon.dataset or {})["first_atoms"]
        numbers = np.array([entry["number"] for entry in entries])
        shifts = np.array([entry["displacement"] for entry in entries])
        displaced = np.unique(numbers)
        self._groups = []
        for atom in displaced:
            which = np.flatnonzero(numbers == atom)
            stay = np.flatnonzero(permutations[:, atom] == atom)
            turned = np.einsum("sab,db->dsa", rotations[stay], shifts[which]).reshape(-1, 3)
            inverse = np.linalg.pinv(turned).reshape(3, len(which), len(stay))
            # An operation brings atom k to permutation[k]: the force comes from its origin.
            origin = np.argsort(permutations[stay], axis=1)
            self._groups.append((place[int(atom)], which, rotations[stay], inverse, origin))
        sources, operations = _get_sym_mappings_from_permutations(permutations, displaced)
        self._copies = [
            (number, place[int(sources[atom])], rotations[operations[atom]],
             permutations[operations[atom]])
            for number, atom in enumerate(p2s)
            if int(atom) not in set(displaced.tolist())
        ]  # fmt: skip
        s2pp, shifts_of = get_nsym_list_and_s2pp(
            primitive.s2p_map, primitive.p2p_map, primitive.atomic_permutations
        )
        self._primitive_of = np.asarray(s2pp)
        self._back = primitive.atomic_permutations[np.asarray(shifts_of)][:, p2s].T

    def raw(self, forces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return force constants without symmetrisation, in eV/A^2.

        Parameters
        ----------
        forces : ndarray, shape (nsets, nsupercells, natoms, 3)
            In eV/A, in the order of phonopy's displacements.

        Returns
        -------
        ndarray, shape (nsets, natoms of the primitive cell, natoms, 3, 3)
        """
        found = np.zeros((len(forces), *self._shape, 3, 3))
        for number, which, rotations, inverse, origin in self._groups:
            for index, rotation in enumerate(rotations):
                turned = forces[:, which][:, :, origin[index]] @ rotation.T
                fitted = np.tensordot(turned, inverse[:, :, index], axes=(1, 1))
                found[:, number] -= fitted.transpose(0, 1, 3, 2)
        for number, source, rotation, permutation in self._copies:
            found[:, number] = rotation.T @ found[:, source][:, permutation] @ rotation
        return found

    def symmetrised(self, constants: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return force constants that obey permutation symmetry and the sum rule.

        ``constants`` are from :meth:`raw`.
        """
        nprimitive, natoms = self._shape
        turned = constants[:, self._primitive_of[None, :], self._back].swapaxes(-1, -2)
        constants = 0.5 * (constants + turned)
        # Sums of rows are of Gamma's matrix alone: what they lack is spread over all images.
        gamma = np.zeros((len(constants), nprimitive, nprimitive, 3, 3))
        for number in range(nprimitive):
            gamma[:, :, number] = constants[:, :, self._primitive_of == number].sum(axis=2)
        rows, columns = gamma.mean(axis=2, keepdims=True), gamma.mean(axis=1, keepdims=True)
        excess = (rows + columns - rows.mean(axis=1, keepdims=True)) / (natoms // nprimitive)
        symmetric: NDArray[np.float64] = constants - excess[:, :, self._primitive_of]
        return symmetric


def operations_of(phonon: Phonopy) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the supercell's symmetry operations: rotations and permutations of atoms.

    The rotations are Cartesian, shape (noperations, 3, 3). The permutations, shape (noperations,
    natoms), have the index that each atom has after the operation.
    """
    lattice = phonon.supercell.cell.T
    found = np.asarray(phonon.symmetry.symmetry_operations["rotations"], dtype=np.float64)
    return lattice @ found @ np.linalg.inv(lattice), phonon.symmetry.atomic_permutations
