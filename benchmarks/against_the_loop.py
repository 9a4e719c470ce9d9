"""The loop that people run today against hpcbench: same crystals, same potential, one run.

    python benchmarks/against_the_loop.py [--repeats 3] [--output benchmarks/results/NAME.json]

The loop is what PhononBench's scripts do, one process: MatterSim's own ASE calculator, FIRE with
the Frechet filter and FixSymmetry, then one displaced supercell at a time, phonopy, seekpath,
thermal properties. hpcbench does the same protocol (``phononbench``), one process, one thread,
writing its store. The two take turns, crystal list by crystal list; ratios are of their medians.

The crystals are those of jobs/demo and larger cells of some of them (16 to 40 atoms in the cell,
128 to 320 in the supercell), in which a rattle has left little symmetry and so many supercells.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import FIRE
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath
from phonopy.structure.atoms import PhonopyAtoms

import hpcbench
from hpcbench.potentials.weights import DEMO_WEIGHTS

DEMO = Path(__file__).parents[1] / "jobs" / "demo"
STAGES = ("relaxation", "forces", "analysis")


def lists_of_crystals() -> dict[str, list[Atoms]]:
    small = [read(path) for path in sorted(DEMO.glob("*.cif"))]
    rng = np.random.default_rng(0)
    large = []
    for name, repeat in (("NaCl", (2, 2, 1)), ("Si", (2, 2, 1)), ("SrTiO3", (2, 1, 1))):
        atoms = read(DEMO / f"{name}_start_strained.cif").repeat(repeat)
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        large.append(atoms)
    return {"22 demo crystals": small, "3 larger cells without symmetry": large}


def loop(crystals: list[Atoms], calculator: Any, steps: int | None) -> dict[str, float]:
    seconds = dict.fromkeys(STAGES, 0.0)
    for crystal in crystals:
        start = time.perf_counter()
        atoms = crystal.copy()
        atoms.calc = calculator
        if steps is None:
            atoms.set_constraint(FixSymmetry(atoms, symprec=0.01))
            FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.0025, steps=500)
        relaxed = time.perf_counter()
        phonon = Phonopy(
            PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions),
            supercell_matrix=np.diag([2, 2, 2]),
            primitive_matrix="P",
        )
        phonon.generate_displacements(distance=0.01, is_diagonal=False)
        forces = []
        for cell in phonon.supercells_with_displacements:
            supercell = Atoms(
                numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions,
                pbc=True,
            )  # fmt: skip
            supercell.calc = calculator
            f = supercell.get_forces().astype(float)
            forces.append(f - f.mean(axis=0))
        computed = time.perf_counter()
        phonon.forces = np.array(forces)
        phonon.produce_force_constants(show_drift=False)
        phonon.symmetrize_force_constants(show_drift=False)
        bands, _, _ = get_band_qpoints_by_seekpath(phonon.primitive, 101, is_const_interval=True)
        phonon.run_qpoints(np.concatenate(bands))
        phonon.run_qpoints(get_commensurate_points(np.diag([2, 2, 2])))
        phonon.run_mesh([20, 20, 20])
        phonon.run_thermal_properties(temperatures=[0, 300, 1000], cutoff_frequency=0.1)
        analysed = time.perf_counter()
        for stage, value in zip(STAGES, np.diff([start, relaxed, computed, analysed]), strict=True):
            seconds[stage] += float(value)
    return seconds


def ours(crystals: list[Atoms], potential: Any, steps: int | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = hpcbench.run(
            crystals, model=potential, protocol="phononbench", out=Path(folder) / "store.h5",
            relax="full" if steps is None else "none",
        )  # fmt: skip
        total = time.perf_counter() - start
    table = result.table
    assert (table["status"] == "done").all(), table[["name", "reason"]]
    seconds = {stage: float(table[f"seconds_{stage}"].sum()) for stage in STAGES}
    seconds["reading, store"] = total - sum(seconds.values())
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from mattersim.forcefield import MatterSimCalculator

    calculator = MatterSimCalculator(load_path=str(DEMO_WEIGHTS), device="cpu")
    # For forces alone: what a careful user switches off.
    without_stress = MatterSimCalculator(
        load_path=str(DEMO_WEIGHTS), device="cpu", compute_stress=False
    )
    potential = hpcbench.load_potential("mattersim-demo")
    results: dict[str, Any] = {}
    for name, crystals in lists_of_crystals().items():
        # The larger cells are for the forces: their rattle is not relaxed away.
        steps = None if name.startswith("22") else 0
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.repeats):
            runs.setdefault("loop", []).append(loop(crystals, calculator, steps))
            if steps is not None:
                runs.setdefault("loop, stress switched off", []).append(
                    loop(crystals, without_stress, steps)
                )
            runs.setdefault("hpcbench", []).append(ours(crystals, potential, steps))
        results[name] = {label: median(seconds) for label, seconds in runs.items()}
        show(name, results[name])
    if options.output:
        options.output.write_text(json.dumps({"machine": machine(), "seconds": results}, indent=1))


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}


def show(name: str, medians: dict[str, dict[str, float]]) -> None:
    print(f"\n{name}: seconds (median), and the loop's by hpcbench's")
    base = medians["hpcbench"]
    for label, seconds in medians.items():
        stages = ", ".join(
            f"{stage} {value:.2f}"
            + (f" ({value / base[stage]:.2f}x)" if label != "hpcbench" and value > 1e-3 else "")
            for stage, value in seconds.items()
        )
        total = sum(seconds.values())
        print(f"  {label}: {stages}; total {total:.2f} ({total / sum(base.values()):.2f}x)")


def machine() -> dict[str, str]:
    packages = ("hpcbench", "mattersim", "torch", "ase", "phonopy", "numpy")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": cpu, "cores": str(os.cpu_count()), "threads": "1",
        "python": platform.python_version(),
        "model": "mattersim-demo, float32", **{p: version(p) for p in packages},
    }  # fmt: skip


if __name__ == "__main__":
    main()
