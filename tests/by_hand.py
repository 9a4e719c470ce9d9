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


def minimise(atoms: Atoms, calculator: object, fmax: float, steps: int) -> tuple[Atoms, int]:
    """Run ASE's optimiser once, with its constraint built once."""
    atoms = atoms.copy()
    atoms.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.set_constraint(FixSymmetry(atoms, symprec=0.01))
        optimiser = FIRE(FrechetCellFilter(atoms), logfile=None)
        converged = optimiser.run(fmax=fmax, steps=steps)
    assert converged
    return atoms, optimiser.nsteps


def relax(
    atoms: Atoms, calculator: object, fmax: float = 0.005, steps: int = 500
) -> tuple[Atoms, int] | None:
    """Relax as PhononBench's scripts do, by ``relax_structure`` of Loew et al.'s umlip.py.

    Each round builds a constraint, and so does the end: it refines the crystal, with the last
    constraint still there. ``None`` where the scripts give the crystal up.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for _ in range(15):
                atoms.set_constraint(FixSymmetry(atoms))
                freedom = FrechetCellFilter(atoms)
                optimiser = FIRE(freedom, logfile=None)
                optimiser.run(fmax=fmax / 2, steps=steps)
                done += optimiser.nsteps
                largest = np.linalg.norm(freedom.get_forces(), axis=1).max()
                if largest > 10000:
                    return None
                if largest < fmax / 2:
                    break
            atoms.set_constraint(FixSymmetry(atoms))
        except RuntimeError:  # the constraint's, where the cell would be deformed too much
            return None
        largest = np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max()
    return None if largest > fmax else (atoms, done)


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
    """The literal protocol, for a crystal that its relaxation does not give up."""
    result = relax(atoms, calculator)
    assert result is not None
    relaxed, steps = result
    phonon = phonons(relaxed, calculator, supercell)
    bands, _, _ = get_band_qpoints_by_seekpath(phonon.primitive, 101, is_const_interval=True)
    qpoints = np.concatenate(bands)
    frequencies = phonon.run_qpoints(qpoints).frequencies
    return ByHand(relaxed, phonon, np.sort(frequencies, axis=1), qpoints, steps)
