"""Dynamical matrices of one crystal at any q, directly from a potential."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.phonons.column_packing import ColumnPool
from hpcbench.phonons.response import dynamical_matrices, force_constants_at
from hpcbench.phonons.response_plan import plan_columns
from hpcbench.phonons.supercells import primitive_atoms, primitive_of
from hpcbench.potentials.columns import Columns, Response

if TYPE_CHECKING:
    from ase import Atoms

    from hpcbench.potentials.protocol import Responsive

# Number of q handled at once: it limits the memory that columns and responses take.
_TOGETHER = 256
# In eV/A. The protocols relax to 0.005 and less.
LARGEST_FORCE = 0.05


def dynamical_matrices_of(
    potential: Responsive,
    atoms: Atoms,
    qpoints: NDArray[np.float64],
    *,
    symprec: float = 1e-5,
    symmetry: bool = True,
) -> NDArray[np.complex128]:
    """Return phonopy's dynamical matrices of a crystal, (nq, 3 natoms, 3 natoms), in eV/(A^2 u).

    Parameters
    ----------
    potential : Responsive
        A potential with linear response (``info.responds`` is true).
    atoms : Atoms
        The crystal, relaxed: elsewhere than at a minimum, these matrices are not those of a
        harmonic crystal. Forces above 0.05 eV/A are warned of.
    qpoints : ndarray, shape (nq, 3)
        In reciprocal lattice vectors of the crystal's cell; any number of them.
    symprec : float
        Tolerance of the symmetry, in A.
    symmetry : bool
        Whether to use the crystal's symmetry.

    Returns
    -------
    ndarray, shape (nq, 3 natoms, 3 natoms)
        In eV/(A^2 u), with phonopy's phases.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    UnsuitableError
        If one column does not fit into the memory.
    EvaluationError
        If the potential fails.
    """
    phonon = primitive_of(atoms, symprec)
    (here,) = potential.evaluate([primitive_atoms(phonon)])
    largest = float(np.abs(here.forces).max())
    if largest > LARGEST_FORCE:
        warnings.warn(
            f"not at a minimum (forces of up to {largest:.3g} eV/A): these matrices are not those "
            f"of a harmonic crystal",
            stacklevel=2,
        )
    found = []
    for first in range(0, len(qpoints), _TOGETHER):
        some = np.asarray(qpoints[first : first + _TOGETHER], dtype=np.float64)
        plan = plan_columns(phonon, some, symmetry=symmetry)
        answers = [
            _answer(potential, primitive_atoms(phonon), part) for part in (plan.real, plan.complex)
        ]
        constants, _ = force_constants_at(plan, *answers)
        found.append(dynamical_matrices(phonon, constants, some))
    size = 3 * len(atoms)
    return np.concatenate([np.zeros((0, size, size), dtype=np.complex128), *found])


def _answer(potential: Responsive, atoms: Atoms, columns: Columns) -> Response | None:
    pool = ColumnPool(potential)
    if len(columns):
        pool.add(0, atoms, columns)
    while len(pool):
        for _, outcome in pool.run_pass().finished:
            if isinstance(outcome, Response):
                return outcome
            assert isinstance(outcome, Exception), "a pool of columns has no forces"
            raise outcome
    return None
