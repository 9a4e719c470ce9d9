"""The smallest supercell that gives exact frequencies at a rational q.

It has as many cells as the least common multiple of the three denominators if it need not be
diagonal (J. H. Lloyd-Williams and B. Monserrat, Phys. Rev. B 92, 184301 (2015)).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from hpcbench.phonons.force_constants import fit_force_constants, subtract_drift
from hpcbench.phonons.supercells import displace

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.cells import Primitive

    from hpcbench.phonons.rational import RationalQ


def commensurate_supercell(qpoint: RationalQ, cell: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the smallest supercell matrix, shape (3, 3), that is commensurate with a q.

    Its lattice vectors are all lattice vectors of the crystal whose phase at q is a whole number of
    turns, as a basis in Hermite normal form, Minkowski-reduced to make the supercell compact. It
    may still be thin in some directions: that does no harm, because the dynamical matrix at q is a
    sum over all images of an atom and is exact.

    Parameters
    ----------
    qpoint : RationalQ
        In reduced coordinates of the reciprocal lattice of ``cell``.
    cell : ndarray, shape (3, 3)
        Lattice vectors of the primitive cell as rows, in A.

    Returns
    -------
    ndarray, shape (3, 3)
        In phonopy's sense (lattice vectors of the supercell are linear combinations by its
        columns); its determinant is ``qpoint.cells``.
    """
    cells = qpoint.cells
    phases = [n * cells // d for n, d in zip(qpoint.numerators, qpoint.denominators, strict=True)]
    rows = np.zeros((3, 3), dtype=np.int64)
    step = cells  # phases of the vectors before this one are multiples of it
    for i, phase in enumerate(phases):
        finer = math.gcd(step, phase)
        rows[i, i] = step // finer
        # How far this vector's phase is from a whole number of turns; the vectors before it,
        # the last first, make up for it.
        rest = -int(rows[i, i]) * phase % cells
        for j in range(i - 1, -1, -1):
            before = math.gcd(cells, *phases[:j])
            rows[i, j] = next(n for n in range(rows[j, j]) if (rest - n * phases[j]) % before == 0)
            rest = (rest - int(rows[i, j]) * phases[j]) % cells
        step = finer
    _, change = minkowski_reduce(rows @ cell)
    matrix = np.rint(change).astype(np.int64) @ rows
    # Right-handed as the cell is: phonopy takes no negative determinant.
    return matrix.T if np.linalg.det(matrix) > 0 else -matrix.T


def displace_at(
    primitive: Primitive,
    qpoint: RationalQ,
    *,
    displacement: float,
    symprec: float,
    opposite: bool = True,
) -> Phonopy:
    """Return displaced supercells that give the frequencies at a rational q.

    Parameters
    ----------
    primitive : Primitive
        Phonopy's primitive cell, to whose reciprocal lattice ``qpoint`` refers.
    qpoint : RationalQ
        Any but Gamma.
    displacement, symprec : float
        In A, as in :func:`hpcbench.phonons.supercells.displace`.
    opposite : bool
        Whether to displace in the opposite direction as well, as there.

    Raises
    ------
    PhononError
        If phonopy refuses the crystal.
    """
    atoms = Atoms(
        numbers=primitive.numbers,
        cell=primitive.cell,
        scaled_positions=primitive.scaled_positions,
        masses=primitive.masses,
        pbc=True,
    )
    with warnings.catch_warnings():
        # Such supercells have less symmetry than the crystal; at q itself that does no harm.
        warnings.filterwarnings("ignore", message=".*Point group symmetries of supercell.*")
        return displace(
            atoms,
            supercell_matrix=commensurate_supercell(qpoint, np.array(primitive.cell)),
            primitive_matrix="P",
            displacement=displacement,
            symprec=symprec,
            opposite=opposite,
        )


def frequencies_from(
    phonon: Phonopy, forces: NDArray[np.float64], qpoint: RationalQ
) -> NDArray[np.float64]:
    """Return the frequencies at a rational q in THz, ascending, shape (nbands,).

    Parameters
    ----------
    phonon : Phonopy
        From :func:`displace_at` with the same q; it is given the force constants.
    forces : ndarray, shape (nsupercells, natoms, 3)
        Forces of the displaced supercells in eV/A, as the potential returns them.
    qpoint : RationalQ
        The rational q.

    Raises
    ------
    PhononError
        If the forces are not finite or phonopy cannot fit them.
    """
    without_drift, _ = subtract_drift(forces)
    fit_force_constants(phonon, without_drift)
    return np.sort(phonon.run_qpoints([qpoint.coordinates]).frequencies[0])
