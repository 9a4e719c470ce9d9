"""Force constants at any q from a potential's linear response and the crystal's symmetry.

This module depends on no particular potential.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import DynmatToForceConstants

from hpcbench.errors import PhononError
from hpcbench.phonons.response_plan import Plan, Star, images_of
from hpcbench.potentials.columns import Response, is_real


def force_constants_at(
    plan: Plan, real: Response | None, complex_: Response | None
) -> tuple[NDArray[np.complex128], float]:
    """Return force constants at all q of a plan.

    Parameters
    ----------
    plan : Plan
        From :func:`plan_columns`.
    real, complex_ : Response or None
        The response to the plan's real and complex columns; ``None`` if it has none of a kind.

    Returns
    -------
    ndarray, shape (nq, 3 natoms, 3 natoms)
        In eV/A^2, with the phases of lattice vectors; Hermitian.
    float
        The largest part that is not Hermitian or violates the crystal's symmetry, in eV/A^2: a
        measure of rounding.
    """
    answers = {True: real, False: complex_}
    taken = {True: 0, False: 0}
    found: NDArray[np.complex128] | None = None
    rounding = 0.0
    for star in plan.stars:
        kind = bool(is_real(star.qpoint))
        answer, first = answers[kind], taken[kind]
        assert answer is not None, "columns of this kind were asked for"
        taken[kind] += len(star.columns)
        forces = answer.forces[first : taken[kind]]
        here, residual = _from_columns(star, -forces)
        hermitian = (here + here.conj().T) / 2
        rounding = max(rounding, residual, float(np.abs(here - hermitian).max()))
        if found is None:
            found = np.zeros((plan.nqpoints, *here.shape), dtype=np.complex128)
        for image in star.images:
            turned = image.turn.of(image.turn.of(hermitian).conj().T).conj().T
            found[image.index] = turned.conj() if image.conjugate else turned
    assert found is not None, "no q was asked for"
    return found, rounding


def at_gamma_without_sums(force_constants: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return force constants at Gamma without the part that acts on translations of the crystal.

    They are projected on displacements that leave the centre of mass of equal masses where it is.
    """
    natoms = force_constants.shape[-1] // 3
    shift = np.tile(np.eye(3), (natoms, 1)) / np.sqrt(natoms)
    out = np.eye(3 * natoms) - shift @ shift.T
    return np.asarray(out @ force_constants @ out)


def constants_at_gamma(phonon: Phonopy) -> NDArray[np.complex128]:
    """Return force constants at Gamma from those of a supercell, (3 natoms, 3 natoms)."""
    primitive = phonon.primitive
    natoms = len(primitive)
    place = {atom: index for index, atom in enumerate(primitive.p2s_map)}
    found = np.zeros((natoms, natoms, 3, 3), dtype=np.complex128)
    for atom, first in enumerate(primitive.s2p_map):
        found[:, place[first]] += phonon.force_constants[:, atom]
    return found.transpose(0, 2, 1, 3).reshape(3 * natoms, 3 * natoms)


def dynamical_matrices(
    phonon: Phonopy, force_constants: NDArray[np.complex128], qpoints: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return phonopy's dynamical matrices, shape (nq, 3 natoms, 3 natoms), in eV/(A^2 u).

    Phonopy's phases are those of the atoms' positions, those of the force constants are of lattice
    vectors.

    Parameters
    ----------
    phonon : Phonopy
        Its primitive cell has the positions and masses.
    force_constants : ndarray, shape (nq, 3 natoms, 3 natoms)
        From :func:`force_constants_at`, in eV/A^2.
    qpoints : ndarray, shape (nq, 3)
        In reciprocal lattice vectors of the primitive cell.
    """
    primitive = phonon.primitive
    phases = np.exp(2j * np.pi * np.repeat(qpoints @ primitive.scaled_positions.T, 3, axis=1))
    roots = np.sqrt(np.repeat(primitive.masses, 3))
    scaled = force_constants / (roots[:, None] * roots[None, :])
    return np.asarray(phases.conj()[:, :, None] * scaled * phases[:, None, :])


def set_force_constants(phonon: Phonopy, matrices: NDArray[np.complex128]) -> None:
    """Set compact force constants in ``phonon``, by phonopy's inverse Fourier transform.

    Parameters
    ----------
    phonon : Phonopy
        Is given the force constants.
    matrices : ndarray, shape (nq, 3 natoms, 3 natoms)
        From :func:`dynamical_matrices`, at the q of :func:`commensurate_of`, in eV/(A^2 u).

    Raises
    ------
    PhononError
        If they are not finite.
    """
    if not np.isfinite(matrices).all():
        raise PhononError("nan", "the linear response is not finite")
    transform = DynmatToForceConstants(phonon.primitive, phonon.supercell, is_full_fc=False)
    transform.dynamical_matrices = matrices
    transform.run()
    phonon.force_constants = transform.force_constants


def commensurate_of(phonon: Phonopy) -> NDArray[np.float64]:
    """Return the q that a supercell is commensurate with, in phonopy's order, (nq, 3)."""
    transform = DynmatToForceConstants(phonon.primitive, phonon.supercell, is_full_fc=False)
    return np.asarray(transform.commensurate_points, dtype=np.float64)


def _from_columns(
    star: Star, answers: NDArray[np.complex128]
) -> tuple[NDArray[np.complex128], float]:
    """Return the matrix that maps columns to their responses, both with their images.

    The second value is the largest part of a response that the matrix does not reproduce.
    """
    size = star.columns.shape[1] * 3
    x = images_of(star.columns.reshape(-1, size).T, star.keeping)
    y = images_of(answers.reshape(-1, size).T, star.keeping)
    matrix = np.asarray(y @ x.conj().T @ np.linalg.inv(x @ x.conj().T))
    return matrix, float(np.abs(matrix @ x - y).max())
