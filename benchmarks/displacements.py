"""Force on a displaced atom over the length of its displacement, from 0.04 to 0.0025 A.

    python benchmarks/displacements.py

For crystals with collinear bonds by CHGNet, whose energy has a cusp there, and by mattersim-demo,
whose energy is smooth: in double precision, the odd part of the force, 2x2x2.
"""

from __future__ import annotations

import json
import platform
import warnings
from datetime import date
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from machine import processor
from precision import forces_of
from protocols import RESULTS

import hpcbench
from hpcbench.phonons.supercells import displace, displaced_copies
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.protocol import Potential

LENGTHS = (0.04, 0.02, 0.01, 0.005, 0.0025)
CRYSTALS = {
    "MgO": bulk("MgO", "rocksalt", a=4.22),
    "Cu": bulk("Cu", "fcc", a=3.58),
    "TiN": bulk("TiN", "rocksalt", a=4.25),
    "Si": bulk("Si"),
    "AlN": bulk("AlN", "wurtzite", a=3.11, c=4.98),
}
CASES = {"chgnet": ("MgO", "Cu", "TiN"), "mattersim-demo": ("MgO", "Si", "AlN")}


def slopes(atoms: Atoms, potential: Potential) -> dict[str, Any]:
    phonon = displace(
        atoms,
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix="auto",
        displacement=LENGTHS[2],
        symprec=1e-5,
    )
    copies = displaced_copies(phonon)
    atom, along = copies.atoms[0], copies.displacements[0] / LENGTHS[2]
    moved = np.array([sign * length * along for length in LENGTHS for sign in (1, -1)])
    forces = forces_of(
        potential,
        DisplacedCopies(
            copies.numbers, copies.positions, copies.cell, np.full(len(moved), atom), moved
        ),
    )
    odd = (forces[::2] - forces[1::2]) / 2 / np.array(LENGTHS)[:, None, None]
    first, second = odd[2] - odd[3], odd[3] - odd[4]
    return {
        "force over displacement, eV/A^2": [round(float(-one[atom] @ along), 4) for one in odd],
        "not a quarter of the change": round(
            float(np.linalg.norm(first - 4 * second) / np.linalg.norm(first)), 4
        ),
    }


def main() -> None:
    """Of the command line."""
    warnings.simplefilter("ignore")
    found = {}
    for model, names in CASES.items():
        potential = hpcbench.load_potential(model, dtype="float64", device="cpu")
        found[model] = {name: slopes(CRYSTALS[name], potential) for name in names}
    result = {
        "command": "python benchmarks/displacements.py",
        "machine": {
            "date": str(date.today()),
            "processor": processor(),
            "python": platform.python_version(),
            "versions": {n: version(n) for n in ("hpcbench-phonons", "phonopy", "torch", "chgnet")},
        },
        "displacements, A": LENGTHS,
        "found": found,
    }
    text = json.dumps(result, indent=1)
    (RESULTS / "displacements.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
