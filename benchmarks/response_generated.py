"""Time force constants of generated crystals, by displacements and by response, and their memory.

    OMP_NUM_THREADS=1 python benchmarks/response_generated.py [--crystals 200] [--shapes 1M 5M]

With random weights of MatterSim's shapes, for which neither depends on the weights. The smallest
crystals of all generators alike, as they were generated, with what symmetry they have within
0.01 A. Each way is a process of its own, which tells its memory, and all crystals go through the
pools of a run together:

displacements, 2x2x2    forces on all displaced supercells (phonopy's, no others)
displacements, 12 A     the same in the supercell of a run
response, q of 2x2x2    linear response at the commensurate q, in the primitive cell
response, q of 12 A     the same at those of the supercell of a run

Nothing but forces and columns is timed; phonopy's own work is about as long in all ways.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from machine import processor
from phonopy import Phonopy
from protocols import RESULTS, smallest
from response import seconds_of_forces, seconds_of_response
from throughput import GENERATED, model_file

import hpcbench
from hpcbench.phonons.response import commensurate_of
from hpcbench.phonons.response_plan import plan_columns
from hpcbench.phonons.supercells import displace, displaced_copies, matrix_of_length

MOST_ATOMS = 12
SYMPREC = 1e-2
# A run's: A, atoms.
HEIGHT, LARGEST = 12.0, 500
FILE = RESULTS / "response-generated.json"


def in_2x2x2(_: Atoms) -> np.ndarray:
    """Return the supercell that the papers take."""
    return np.diag([2, 2, 2])


def of_a_run(atoms: Atoms) -> np.ndarray:
    """Return the supercell that a run takes by default."""
    return matrix_of_length(atoms.cell[:], atoms.positions, HEIGHT, LARGEST, "diagonal")


WAYS: dict[str, tuple[Callable[[Atoms], np.ndarray], bool]] = {
    "displacements, 2x2x2": (in_2x2x2, False),
    "displacements, 12 A": (of_a_run, False),
    "response, q of 2x2x2": (in_2x2x2, True),
    "response, q of 12 A": (of_a_run, True),
}


def phonons(crystals: list[Atoms], supercell: Callable[[Atoms], np.ndarray]) -> list[Phonopy]:
    """Return what phonopy displaces, of the crystals that it takes.

    Parameters
    ----------
    crystals : list of Atoms
        Relaxed crystals with names.
    supercell : callable
        The supercell matrix of a crystal.
    """
    found = []
    for atoms in crystals:
        try:
            found.append(
                displace(
                    atoms,
                    supercell_matrix=supercell(atoms),
                    primitive_matrix="auto",
                    displacement=0.01,
                    symprec=SYMPREC,
                )
            )
        except (hpcbench.HpcbenchError, RuntimeError) as error:  # the latter: no mass, phonopy
            print(f"{atoms.info['name']}: {error}", file=sys.stderr)
    return found


def measured(way: str, model: Path, crystals: list[Atoms]) -> dict[str, Any]:
    """Return what one way takes; it runs in a process of its own.

    Parameters
    ----------
    way : str
        A key of ``WAYS``.
    model : Path
        The potential.
    crystals : list of Atoms
        All crystals.
    """
    supercell, by_response = WAYS[way]
    potential: Any = hpcbench.load_potential(str(model))
    found = phonons(crystals, supercell)
    copies = [displaced_copies(one) for one in found]
    plans = [plan_columns(one, commensurate_of(one)) for one in found] if by_response else []
    before = peak()
    if by_response:
        seconds = seconds_of_response(potential, found, plans)
    else:
        seconds = seconds_of_forces(potential, found)
    sizes = [one.natoms for one in copies]
    work = {"columns": sum(plan.cost for plan in plans)} if by_response else {
        "displaced supercells": sum(len(one) for one in copies),
        "atoms in them": sum(len(one) * one.natoms for one in copies),
    }  # fmt: skip
    return {
        "crystals": len(found),
        **work,
        "atoms of a supercell, median and most": [int(np.median(sizes)), max(sizes)],
        "seconds": round(seconds, 1),
        "MB at the peak": round(peak()),
        "MB above what the process had before": round(peak() - before),
    }


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path, default=GENERATED)
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--shapes", nargs="+", default=["1M", "5M"])
    parser.add_argument("--way", choices=WAYS, help="only this one, printed")
    parser.add_argument("--model", type=Path, help="the checkpoint, with --way")
    options = parser.parse_args()
    if options.way:
        crystals = smallest(options.source, options.crystals, MOST_ATOMS)
        print(json.dumps(measured(options.way, options.model, crystals)))
        return
    results = json.loads(FILE.read_text())["result"] if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            model = model_file(shape, Path(folder))
            results[shape] = {}
            for way in WAYS:
                command = [sys.executable, __file__, str(options.source), "--way", way]
                command += ["--model", str(model), "--crystals", str(options.crystals)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                results[shape][way] = json.loads(done.stdout.splitlines()[-1])
                print(shape, way, results[shape][way], flush=True)
                write(results)


def write(results: dict[str, Any]) -> None:
    """Write what there is: all of it takes hours."""
    machine = {
        "date": str(date.today()),
        "processor": processor(),
        "threads": 1,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("hpcbench-phonons", "phonopy", "torch")},
    }
    text = json.dumps({"machine": machine, "result": results}, indent=1)
    FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
