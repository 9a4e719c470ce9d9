"""Tell networks, layers, chains and molecules apart, and measure gaps between them."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms

from hpcbench.cells import gaps, heights

UNKNOWN = -1
NETWORK = 3
# In A. No bond spans such a gap; wider gaps only make ASE search longer.
_ROOM = 30.0


def dimensionality(atoms: Atoms) -> int:
    """Return in how many directions bonds continue without end: 0 to 3, or -1 if that is unknown.

    The count is that of Larsen et al., Phys. Rev. Mater. 3, 034003 (2019); for several parts the
    largest. If ASE finds a network from covalent radii, that is the answer. ASE takes some
    intermetallics for molecules, so in all other cases pymatgen's ``CrystalNN`` finds the bonds
    (importing it takes seconds). Acoustic modes of layers and chains are soft by nature, and
    molecules can rotate: verdicts on those need care.
    """
    atoms = _with_less_room(atoms)
    if _by_radii(atoms) == NETWORK:
        return NETWORK
    from pymatgen.analysis.dimensionality import get_dimensionality_larsen
    from pymatgen.analysis.graphs import StructureGraph
    from pymatgen.analysis.local_env import CrystalNN
    from pymatgen.core import Structure

    structure = Structure(
        atoms.cell[:], atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True
    )
    with warnings.catch_warnings():
        # Warnings of missing oxidation states, and of electronegativities of noble gases.
        warnings.simplefilter("ignore")
        try:
            bonded = StructureGraph.from_local_env_strategy(structure, CrystalNN())
            return int(get_dimensionality_larsen(bonded))
        except Exception:  # pymatgen raises many kinds where it finds no neighbours
            return UNKNOWN


def _with_less_room(atoms: Atoms) -> Atoms:
    """Return a crystal whose gaps between atomic planes are at most ``_ROOM``."""
    cell, fractional = atoms.cell[:].copy(), atoms.get_scaled_positions(wrap=True)
    for axis in range(3):
        gap, height = gaps(cell, fractional @ cell)[axis], heights(cell)[axis]
        if gap <= _ROOM:
            continue
        order = np.sort(fractional[:, axis])
        # The widest gap goes to the cell's end, where it is cut.
        above = (int(np.argmax(np.diff(order, append=order[0] + 1.0))) + 1) % len(order)
        shifted = (fractional[:, axis] - order[above]) % 1.0
        share = (height - gap + _ROOM) / height
        fractional[:, axis] = shifted / share
        cell[axis] *= share
    return Atoms(atoms.numbers, scaled_positions=fractional, cell=cell, pbc=True)


def _by_radii(atoms: Atoms) -> int:
    from ase.geometry.dimensionality import analyze_dimensionality

    try:
        # E.g. 02D for layers with molecules between them.
        kind = analyze_dimensionality(atoms, method="RDA")[0].dimtype
    except Exception:  # atoms that no radius is known of, or none near
        return UNKNOWN
    return max((int(letter) for letter in kind if letter.isdigit()), default=UNKNOWN)


def vacuum(atoms: Atoms) -> float:
    """Return the widest gap between neighbouring atomic planes along the normals of the cell, in A.

    It is a few angstrom in a bulk crystal, and the width of the vacuum for a slab or a molecule in
    a box.
    """
    return float(gaps(atoms.cell[:], atoms.positions).max())
