"""The same calculation as a user of ASE and phonopy writes it, for comparison.

Shares no code with hpcbench: ASE's optimiser, filter and constraint, phonopy's own calls, one
supercell at a time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from phonopy import Phonopy
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath
from phonopy.structure.atoms import PhonopyAtoms


@dataclass
class ByHand:
    atoms: Atoms
    phonon: Phonopy
    frequencies: np.ndarray
    qpoints: np.ndarray
    steps: int


def relax(atoms: Atoms, calculator: object, fmax: float, steps: int) -> tuple[Atoms, int]:
    atoms = atoms.copy()
    atoms.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.set_constraint(FixSymmetry(atoms, symprec=0.01))
        optimiser = FIRE(FrechetCellFilter(atoms), logfile=None)
        converged = optimiser.run(fmax=fmax, steps=steps)
    assert converged
    return atoms, optimiser.nsteps


def supercells(phonon: Phonopy) -> list[Atoms]:
    """Displaced supercells, in the order of phonopy's displacements."""
    return [
        Atoms(numbers=c.numbers, cell=c.cell, scaled_positions=c.scaled_positions, pbc=True)
        for c in phonon.supercells_with_displacements
    ]


def phonons(atoms: Atoms, calculator: object, supercell: tuple[int, int, int]) -> Phonopy:
    phonon = Phonopy(
        PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions),
        supercell_matrix=np.diag(supercell),
        primitive_matrix="P",
    )
    phonon.generate_displacements(distance=0.01, is_diagonal=False)
    forces = []
    for displaced in supercells(phonon):
        displaced.calc = calculator
        f = displaced.get_forces().astype(float)
        forces.append(f - f.mean(axis=0))
    phonon.forces = np.array(forces)
    phonon.produce_force_constants(show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    return phonon


def phononbench(
    atoms: Atoms, calculator: object, supercell: tuple[int, int, int] = (2, 2, 2)
) -> ByHand:
    """The literal protocol: relax to half the accepted force, phonons of the cell as it is."""
    relaxed, steps = relax(atoms, calculator, 0.0025, 500)
    phonon = phonons(relaxed, calculator, supercell)
    bands, _, _ = get_band_qpoints_by_seekpath(phonon.primitive, 101, is_const_interval=True)
    qpoints = np.concatenate(bands)
    frequencies = phonon.run_qpoints(qpoints).frequencies
    return ByHand(relaxed, phonon, np.sort(frequencies, axis=1), qpoints, steps)
