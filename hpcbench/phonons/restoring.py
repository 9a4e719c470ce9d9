"""Parts of a crystal that no restoring force holds to each other, found from force constants.

If a part can move rigidly against the others at no cost, frequencies of exactly zero say nothing
about stability: the potential has given no answer. Only force constants are used, no chemistry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.harmonic.force_constants import compact_fc_to_full_fc
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from hpcbench.cells import EMPTY, gaps
from hpcbench.criteria import NO_FORCE
from hpcbench.phonons.modes import Mode
from hpcbench.phonons.stability import IMAGINARY

FREE = 5e-4
"""In eV/A^2, for one pair of atoms: a force constant that may count as zero. Rounding in single
precision is 1e-6 eV/A at displacements of 0.01 A, which is 1e-4 eV/A^2 in each of nine components;
independent errors of n pairs add up to sqrt(n) times as much. Layers of Al and of MoS2 that are
10 A apart have at most 1e-5 eV/A^2 between them, where 0.005 and 0.024 would count as zero; 4.5 A
apart they have 0.06 (mattersim-demo and CHGNet, layers of 9 and 48 atoms)."""
# A q is across the gap between layers or chains if no more than this share of it is along them.
_ALONG = 0.05
_MOST_NAMES = 4


@dataclass(frozen=True)
class Part:
    """Atoms that hold each other, and that nothing holds to the rest.

    Attributes
    ----------
    formula : str
        Of its atoms, images by translation counted once.
    dimensions : int
        In how many directions it continues without end: 0 for a molecule or an atom, 3 for a
        network.
    """

    formula: str
    dimensions: int


@dataclass(frozen=True)
class Holding:
    """The parts of a crystal between which there are no restoring forces.

    Attributes
    ----------
    parts : tuple of Part
        Parts that move freely against each other, images by translation counted once; one part if
        all is held together.
    is_loose : bool
        Whether no atom is held by any other.
    """

    parts: tuple[Part, ...]
    is_loose: bool

    @property
    def cause(self) -> str:
        """The reason why force constants give no verdict, in words; empty if they do.

        They give none if a part ends in all directions, or if there are several parts. A single
        layer or chain whose images do not touch is a crystal of its own.
        """
        if self.is_loose:
            return f"{NO_FORCE}: no atom is held by another"
        names = ", ".join(part.formula for part in self.parts[:_MOST_NAMES])
        more = len(self.parts) - _MOST_NAMES
        names += f" and {more} more" if more > 0 else ""
        if len(self.parts) > 1:
            return f"{NO_FORCE}: nothing holds {len(self.parts)} parts to each other ({names})"
        if self.parts[0].dimensions == 0:
            return f"{NO_FORCE}: nothing holds {names} in its place"
        return ""


def holding(phonon: Phonopy) -> Holding:
    """Find the parts of a crystal that nothing holds to each other.

    Atoms are joined in the order of their force constants, the strongest first (single linkage). A
    set of atoms formed on this way is a part if its rigid translation costs no energy: the force
    constants between it and all other atoms sum to zero within ``FREE``. Sums are robust where
    single force constants are not, as symmetrisation spreads errors over all pairs: with CHGNet up
    to 0.07 eV/A^2 between molecules 14 A apart, more than weak bonds have.

    Parameters
    ----------
    phonon : Phonopy
        With force constants, compact or full.
    """
    supercell, force_constants = phonon.supercell, np.asarray(phonon.force_constants)
    if force_constants.shape[0] != force_constants.shape[1]:
        force_constants = compact_fc_to_full_fc(phonon.primitive, force_constants)
    found = _free_sets(np.asarray(force_constants))
    rotations = np.asarray(phonon.symmetry.symmetry_operations["rotations"])
    is_shift = (rotations == np.eye(3, dtype=int)).all(axis=(1, 2))
    # The first atom that translations bring each one to.
    images = np.asarray(phonon.symmetry.atomic_permutations)[is_shift].min(axis=0)
    parts = {}
    for atoms in found:
        ones = np.unique(images[atoms])
        gap = gaps(supercell.cell, supercell.positions[atoms])
        parts[tuple(ones)] = Part(
            Atoms(numbers=supercell.numbers[ones]).get_chemical_formula(),
            int((gap <= EMPTY).sum()),
        )
    is_loose = len(found) == len(supercell) > 1
    return Holding(tuple(parts.values()), is_loose)


def _free_sets(force_constants: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the atoms of each part, from full force constants, shape (natoms, natoms, 3, 3)."""
    natoms = len(force_constants)
    if natoms == 1:
        return [np.array([0])]
    norms = np.linalg.norm(force_constants, axis=(2, 3))
    norms = np.maximum(norms, norms.T)
    distances = norms.max() - norms
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "single").astype(np.int64)[:, :2]
    members = [np.array([atom]) for atom in range(natoms)]
    # Rows of all force constants between a set and the others: without those within the set.
    to_others = [
        force_constants[atom].sum(axis=0) - force_constants[atom, atom] for atom in range(natoms)
    ]
    is_free = [_is_nothing(cost, 1, natoms) for cost in to_others]
    has_free = list(is_free)
    smallest = [atom for atom in range(natoms) if is_free[atom]]
    for one, other in tree:
        between = force_constants[np.ix_(members[one], members[other])].sum(axis=(0, 1))
        back = force_constants[np.ix_(members[other], members[one])].sum(axis=(0, 1))
        to_others.append(to_others[one] + to_others[other] - between - back)
        members.append(np.concatenate([members[one], members[other]]))
        has_free.append(has_free[one] or has_free[other])
        # All atoms together are free anyway.
        if has_free[-1] or len(members[-1]) == natoms:
            continue
        if _is_nothing(to_others[-1], len(members[-1]), natoms):
            smallest.append(len(members) - 1)
            has_free[-1] = True
    found = [np.sort(members[one]) for one in smallest]
    # What is left is free as well, where the others are.
    left = np.setdiff1d(np.arange(natoms), np.concatenate([*found, np.array([], dtype=int)]))
    return [*found, left] if len(left) else found


def _is_nothing(cost: NDArray[np.float64], number: int, natoms: int) -> bool:
    """Tell whether the rigid translation of ``number`` of ``natoms`` atoms costs no energy."""
    return bool(np.linalg.norm(cost) < FREE * np.sqrt(number * (natoms - number)))


def soft_branch(
    phonon: Phonopy, found: Holding, dimensionality: int, modes: Mapping[str, Mode]
) -> str:
    """Name the acoustic branch across a gap if it makes modes soft; else return "".

    Parameters
    ----------
    phonon : Phonopy
        The crystal, whose cell has the gap.
    found : Holding
        From :func:`holding`.
    dimensionality : int
        Of the bonds: 1 chains, 2 layers.
    modes : mapping
        The lowest mode of each place.
    """
    if not found.cause and found.parts[0].dimensions in (1, 2):
        kind = "layers" if found.parts[0].dimensions == 2 else "chains"
        return f"nothing between its {kind}: acoustic branches across the gap are zero"
    if dimensionality not in (1, 2):
        return ""
    cell = phonon.unitcell
    reciprocal = np.linalg.inv(phonon.primitive.cell).T
    gap = gaps(cell.cell, cell.positions)
    # Of layers the normal, of chains their axis.
    if dimensionality == 2:
        axis = np.linalg.inv(cell.cell).T[np.argmax(gap)]
    else:
        axis = cell.cell[np.argmin(gap)]
    axis = axis / np.linalg.norm(axis)
    for mode in modes.values():
        q = (mode.qpoint - np.rint(mode.qpoint)) @ reciprocal
        length = np.linalg.norm(q)
        if mode.frequency >= IMAGINARY or length == 0.0:
            continue
        on_axis = q @ axis
        within = np.linalg.norm(q - on_axis * axis) if dimensionality == 2 else abs(on_axis)
        if within < _ALONG * length:
            kind = "layers" if dimensionality == 2 else "chains"
            return f"lowest mode is the acoustic branch across the gap between its {kind}"
    return ""
