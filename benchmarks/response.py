"""Time linear response against the displaced supercells that give the same.

    OMP_NUM_THREADS=1 python benchmarks/response.py [--repeats 5] [--crystals CRYSTALS.extxyz]

For cells of 8 and 20 atoms without symmetry, and for the demo's crystals together: the forces on
all displaced 2x2x2 supercells (phonopy's own displacements, without those that tell the noise), and
the linear response at the q of the same supercell, both through the pools of a run; then the
response at one general q. Then the same for generated crystals with random weights of MatterSim's
1M and 5M shapes, for which time does not depend on the weights. Times are interleaved, and medians
of ratios are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from phonopy import Phonopy

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from machine import processor
from protocols import smallest
from throughput import GENERATED, model_file

import hpcbench
from hpcbench.phonons.column_packing import ColumnPool
from hpcbench.phonons.packing import ForcePool
from hpcbench.phonons.response import commensurate_of
from hpcbench.phonons.response_plan import Plan, plan_columns
from hpcbench.phonons.supercells import displace, displaced_copies, primitive_atoms

RESULTS = Path(__file__).parent / "results"
GENERAL = np.array([[0.1, 0.2, 0.3]])


def displaced(atoms: Atoms) -> Phonopy:
    """A crystal with phonopy's displacements in 2x2x2 of its primitive cell."""
    return displace(
        atoms,
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix="P",
        displacement=0.01,
        symprec=1e-4,
    )


def seconds_of_forces(potential: Any, crystals: Sequence[Phonopy]) -> float:
    """Of the forces on all displaced supercells."""
    start = time.perf_counter()
    pool = ForcePool(potential)
    for key, phonon in enumerate(crystals):
        pool.add(key, displaced_copies(phonon))
    empty(pool)
    return time.perf_counter() - start


def seconds_of_response(
    potential: Any, crystals: Sequence[Phonopy], plans: Sequence[Plan]
) -> float:
    """Of the response to all columns."""
    start = time.perf_counter()
    pool = ColumnPool(potential)
    for key, (phonon, plan) in enumerate(zip(crystals, plans, strict=True)):
        for kind, columns in (("real", plan.real), ("complex", plan.complex)):
            if len(columns):
                pool.add((key, kind), primitive_atoms(phonon), columns)
    empty(pool)
    return time.perf_counter() - start


def empty(pool: ForcePool | ColumnPool) -> None:
    """Run passes until nothing is left."""
    while len(pool):
        for _, outcome in pool.run_pass().finished:
            if isinstance(outcome, Exception):
                raise outcome


def compared(
    potential: Any, crystals: Sequence[Phonopy], repeats: int, *, general: bool = False
) -> dict[str, Any]:
    """Times of both, one after the other, several times."""
    plans = [plan_columns(phonon, commensurate_of(phonon)) for phonon in crystals]
    at_one = [plan_columns(phonon, GENERAL) for phonon in crystals]
    runs = []
    for repeat in range(repeats + 1):
        forces = seconds_of_forces(potential, crystals)
        response = seconds_of_response(potential, crystals, plans)
        one = seconds_of_response(potential, crystals, at_one) if general else float("nan")
        if repeat:  # the first one is for the caches
            runs.append((forces, response, one))
    forces, responses, ones = zip(*runs, strict=True)
    found = {
        "displaced supercells": sum(len(displaced_copies(one)) for one in crystals),
        "columns": sum(plan.cost for plan in plans),
        "seconds, forces": round(statistics.median(forces), 4),
        "seconds, response": round(statistics.median(responses), 4),
        "times faster": round(statistics.median(f / r for f, r, _ in runs), 2),
    }
    if general:
        found["seconds, one general q"] = round(statistics.median(ones), 4)
        found["general q / forces"] = round(statistics.median(o / f for f, _, o in runs), 3)
    return found


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--crystals", type=Path, default=GENERATED, help="generated ones")
    options = parser.parse_args()
    silicon = bulk("Si", cubic=True)
    silicon.rattle(0.05, seed=1)
    titanate = read(ROOT / "jobs" / "demo" / "SrTiO3_start_strained.cif").repeat((2, 2, 1))
    titanate.rattle(0.05, seed=2)
    demo = {path.stem: read(path) for path in sorted((ROOT / "jobs" / "demo").glob("*.cif"))}
    result: dict[str, Any] = {}
    for dtype in ("float32", "float64"):
        potential = hpcbench.load_potential("mattersim-demo", dtype=dtype)
        here: dict[str, Any] = {}
        for name, atoms in (("Si, 8 atoms, P1", silicon), ("SrTiO3, 20 atoms, P1", titanate)):
            here[name] = compared(potential, [displaced(atoms)], options.repeats, general=True)
            print(dtype, name, here[name], flush=True)
        crystals = {name: displaced(atoms) for name, atoms in demo.items()}
        here["demo, together"] = compared(potential, [*crystals.values()], options.repeats)
        print(dtype, "together", here["demo, together"], flush=True)
        for name, phonon in crystals.items() if dtype == "float32" else ():
            # Eight of the same, as a batch holds many crystals.
            here[name] = compared(potential, [phonon] * 8, options.repeats)
            print(dtype, name, here[name], flush=True)
        result[dtype] = here
    generated = smallest(options.crystals, 12, 8)
    with tempfile.TemporaryDirectory() as folder:
        for shape, count in (("1M", 12), ("5M", 4)):
            potential = hpcbench.load_potential(str(model_file(shape, Path(folder))))
            crystals = [displaced(atoms) for atoms in generated[:count]]
            here = compared(potential, crystals, min(2, options.repeats), general=True)
            result[f"{shape}, {count} generated crystals"] = here
            print(shape, here, flush=True)
    RESULTS.joinpath("response-cpu.json").write_text(
        json.dumps(
            {
                "machine": {
                    "date": str(date.today()),
                    "processor": processor(),
                    "threads": 1,
                    "versions": {n: version(n) for n in ("hpcbench-phonons", "phonopy", "torch")},
                },
                "settings": {"repeats": options.repeats},
                "result": result,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
