"""How much memory a forward and backward pass takes by edge and by triplet, and a run by crystal.

    python benchmarks/memory.py

Each point is a process of its own, since peak memory never goes down. The model has the size of
MatterSim's 5M (4 blocks, 256 units) with random weights. The two numbers it prints are the
constants in hpcbench/potentials/mattersim.py; the second table shows that a run's memory does
not follow the number of crystals.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

SIZE_OF_5M = {
    "num_blocks": 4, "units": 256, "max_l": 4, "max_n": 4, "cutoff": 5.0, "max_z": 94,
    "threebody_cutoff": 4.0,
}  # fmt: skip


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one_pass(name: str, repeat: int) -> None:
    import torch
    from ase.build import bulk
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    from hpcbench.potentials import mattersim

    atoms = {"diamond": bulk("C"), "salt": bulk("NaCl", "rocksalt", a=5.64)}[name].repeat(repeat)
    atoms.rattle(0.01)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        model = M3Gnet(device="cpu", **SIZE_OF_5M)
        torch.save({"model": model.state_dict(), "model_args": SIZE_OF_5M}, path)
        potential = mattersim.MatterSim(path, "5M size")
    graph = potential._graph(atoms)
    before = peak()
    potential._forward([graph], stress=False)
    print(json.dumps([graph.nedges, graph.ntriplets, peak() - before]))


def one_run(crystals: int) -> None:
    from ase.build import bulk

    import hpcbench

    names = ("Cu", "Al", "Ni", "Ag", "Au")
    atoms = [bulk(names[i % 5], "fcc", a=3.5 + 0.002 * i) for i in range(crystals)]
    with tempfile.TemporaryDirectory() as folder:
        hpcbench.run(
            atoms, model="ase.calculators.emt:EMT", relax="none", supercell=(2, 2, 2),
            mesh=(4, 4, 4), out=Path(folder) / "s.h5", commit_interval=1.0,
        )  # fmt: skip
    print(json.dumps([crystals, peak()]))


def child(*words: object) -> list[float]:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *map(str, words)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    import numpy as np

    print("one pass, float32, size of the 5M model")
    print(f"{'edges':>8} {'triplets':>9} {'MB':>7}")
    points = []
    for name, repeat in (("salt", 3), ("salt", 5), ("diamond", 2), ("diamond", 3), ("diamond", 4)):
        edges, triplets, size = child("pass", name, repeat)
        points.append((edges, triplets, size))
        print(f"{edges:8.0f} {triplets:9.0f} {size / 1e6:7.0f}")
    table = np.array(points)
    solution, *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
    print(f"bytes by edge {solution[0]:.0f}, by triplet {solution[1]:.0f}\n")
    print("a run, peak memory of its process")
    for crystals in (20, 200, 1000):
        number, size = child("run", crystals)
        print(f"{number:6.0f} crystals {size / 1e6:7.0f} MB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pass", name, repeat]:
            one_pass(name, int(repeat))
        case ["run", crystals]:
            one_run(int(crystals))
        case _:
            main()
