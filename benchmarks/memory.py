"""Memory of a forward and backward pass by edge, and of a run by crystal.

    python benchmarks/memory.py [--run 100 1000 10000]

Each point is a process of its own, since peak memory never goes down. The models have the sizes
of MatterSim's 1M and 5M with random weights; each goes once through the re-arranged pass and once
through MatterSim's own layers. What it prints by edge is what ``bytes_per_edge`` in
hpcbench/potentials/checkpoint.py rests on; the second table shows that a run's memory does not
follow the number of crystals.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# For MatterSim's own layers.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SHAPES = {"1M": (3, 128), "5M": (4, 256)}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one_pass(way: str, shape: str, name: str, repeat: int) -> None:
    import torch
    from ase.build import bulk
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattersim_layers import LayeredM3GNet, triplets

    from hpcbench.potentials.checkpoint import bytes_per_edge
    from hpcbench.potentials.m3gnet import RearrangedM3GNet
    from hpcbench.potentials.neighbours import edge_vectors, neighbour_list
    from hpcbench.potentials.structures import Structures

    atoms = {"diamond": bulk("C"), "salt": bulk("NaCl", "rocksalt", a=5.64)}[name].repeat(repeat)
    atoms.rattle(0.01)
    blocks, units = SHAPES[shape]
    theirs = M3Gnet(num_blocks=blocks, units=units, device="cpu")
    model = LayeredM3GNet(theirs, torch.float32)
    if way == "re-arranged":
        model = RearrangedM3GNet(
            theirs.model_args, theirs.state_dict(), torch.device("cpu"), torch.float32
        )
    batch = Structures.from_atoms([atoms])
    neighbours = neighbour_list(batch, model.cutoff)
    vectors = edge_vectors(batch, neighbours)
    short = torch.linalg.vector_norm(vectors, dim=1) <= model.threebody_cutoff
    ntriplets = len(triplets(neighbours.edges, short))
    before = peak()
    model(batch.numbers, neighbours.edges, vectors)
    counted = bytes_per_edge(theirs.model_args, torch.float32)
    print(json.dumps([neighbours.nedges, ntriplets, peak() - before, counted]))


def one_run(crystals: int) -> None:
    from ase.build import bulk

    import hpcbench

    names = ("Cu", "Al", "Ni", "Ag", "Au")
    atoms = [bulk(names[i % 5], "fcc", a=3.5 + 0.002 * i) for i in range(crystals)]
    with tempfile.TemporaryDirectory() as folder:
        hpcbench.run(
            atoms, model="ase.calculators.emt:EMT", relax="none", supercell=(2, 2, 2),
            mesh=(2, 2, 2), band_points=5, workers=0, commit_interval=1.0,
            out=Path(folder) / "s.h5",
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

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=int, nargs="*", default=[100, 1000], help="crystals")
    options = parser.parse_args()
    print(f"{'model':>6} {'pass':>12} {'edges':>8} {'triplets':>9} {'MB':>7}")
    for shape in SHAPES:
        for way in ("re-arranged", "layers"):
            points = []
            for name, repeat in (("salt", 4), ("salt", 6), ("diamond", 3), ("diamond", 4)):
                edges, ntriplets, size, counted = child("pass", way, shape, name, repeat)
                points.append((edges, ntriplets, size))
                print(f"{shape:>6} {way:>12} {edges:8.0f} {ntriplets:9.0f} {size / 1e6:7.0f}")
            table = np.array(points)
            solution, *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
            text = f"bytes by edge {solution[0]:.0f}, by triplet {solution[1]:.0f}"
            print(f"{text}; counted for the re-arranged pass: {counted:.0f} by edge\n")
    print("a run, peak memory of its process")
    for crystals in options.run:
        number, size = child("run", crystals)
        print(f"{number:6.0f} crystals {size / 1e6:7.0f} MB", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pass", way, shape, name, repeat]:
            one_pass(way, shape, name, int(repeat))
        case ["run", crystals]:
            one_run(int(crystals))
        case _:
            main()
