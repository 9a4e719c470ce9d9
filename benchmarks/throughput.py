"""Phonons per hour: today's loop, MatterSim's own batches, and hpcbench, on the same crystals.

    python benchmarks/throughput.py [--device auto] [--models demo 1M 5M] [--output NAME.json]

What is computed is the same for all: a fixed number of relaxation steps (FIRE, Frechet filter,
symmetry kept), then the forces on all displaced 2x2x2 supercells, force constants, bands,
commensurate q, mesh, and thermal properties. The ways:

loop         what PhononBench's scripts do, one supercell at a time through MatterSim's ASE
             calculator, with 1 and with 3 processes (each its share of the crystals)
own batches  MatterSim's data loader and ``predict_properties`` over the displaced supercells, the
             best of several batch sizes; forces only
hpcbench     the whole pipeline, from the list of crystals to the consolidated store
saturated    the best pass of hpcbench's model over and over, and nothing else: the limit

On a CPU the loop with one process and hpcbench with ``--workers 0`` are one thread on one core.
1M and 5M are models of the published sizes with random weights: for time, weights do not matter.
``--packages NAME...`` compares other potentials with their packages' calculators instead: see
``packages.py``.

Crystals are generated ones by default (``--crystals`` takes any list that hpcbench reads); times
are wall times after everything is loaded and warmed up.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import FIRE
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath
from phonopy.structure.atoms import PhonopyAtoms

HERE = Path(__file__).parent
GENERATED = Path(
    os.environ.get("HPCBENCH_REFERENCE_DATA", HERE.parents[1] / "shared" / "data")
) / "generated" / "mix-1000.extxyz"  # fmt: skip
DEMO = HERE.parent / "jobs" / "demo"
SHAPES = {"1M": (3, 128), "5M": (4, 256)}
OWN_BATCH_SIZES = (1, 4, 16, 64, 256, 1024)


def model_file(name: str, folder: Path) -> Path:
    """A checkpoint: the demo's, or a published shape with random weights."""
    if name == "demo":
        from hpcbench.potentials.weights import DEMO_WEIGHTS

        return DEMO_WEIGHTS
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    blocks, units = SHAPES[name]
    arguments = {
        "num_blocks": blocks, "units": units, "max_l": 4, "max_n": 4, "cutoff": 5.0,
        "max_z": 94, "threebody_cutoff": 4.0,
    }  # fmt: skip
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    checkpoint = {
        "model_name": "m3gnet",
        "model": M3Gnet(device="cpu", **arguments).state_dict(),
        "model_args": arguments,
    }
    torch.save(checkpoint, path)
    return path


def choose(source: Path, smallest: int, largest: int, count: int) -> list[Atoms]:
    """Crystals of these sizes, spread over the list, without overlapping atoms."""
    found = []
    for atoms in read(source, index=":"):
        distances = atoms.get_all_distances(mic=True)
        np.fill_diagonal(distances, 9.0)
        if smallest <= len(atoms) <= largest and distances.min() > 1.0 and atoms.numbers.max() < 90:
            found.append(Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True))
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return [found[i] for i in chosen]


def displaced(atoms: Atoms) -> Phonopy:
    phonon = Phonopy(
        PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell[:], positions=atoms.positions),
        supercell_matrix=np.diag([2, 2, 2]),
        primitive_matrix="P",
    )
    phonon.generate_displacements(distance=0.01, is_diagonal=False)
    return phonon


def supercells(phonon: Phonopy) -> list[Atoms]:
    return [
        Atoms(numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True)
        for cell in phonon.supercells_with_displacements
    ]


# --- the ways, each in a process of its own ------------------------------------------------


def way_loop(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from mattersim.forcefield import MatterSimCalculator

    crystals = read(options.list, index=":")[options.share :: options.shares]
    calculator = MatterSimCalculator(load_path=str(options.model), device=options.device)
    warm = crystals[0].copy() if crystals else None
    for _ in range(3 if warm else 0):
        warm.calc = calculator
        warm.rattle(1e-4)
        warm.get_forces()
    yield {}
    seconds = {"relaxation": 0.0, "forces": 0.0, "analysis": 0.0}
    for atoms in crystals:
        times = [time.perf_counter()]
        atoms.calc = calculator
        if options.steps:
            atoms.set_constraint(FixSymmetry(atoms, symprec=0.01))
            FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.0, steps=options.steps)
        times.append(time.perf_counter())
        phonon = displaced(atoms)
        forces = []
        for supercell in supercells(phonon):
            supercell.calc = calculator
            f = supercell.get_forces().astype(float)
            forces.append(f - f.mean(axis=0))
        times.append(time.perf_counter())
        phonon.forces = np.array(forces)
        phonon.produce_force_constants(show_drift=False)
        phonon.symmetrize_force_constants(show_drift=False)
        bands, _, _ = get_band_qpoints_by_seekpath(phonon.primitive, 101, is_const_interval=True)
        phonon.run_qpoints(np.concatenate(bands))
        phonon.run_qpoints(get_commensurate_points(np.diag([2, 2, 2])))
        phonon.run_mesh([20, 20, 20])
        phonon.run_thermal_properties(temperatures=[0, 300, 1000], cutoff_frequency=0.1)
        times.append(time.perf_counter())
        for stage, value in zip(seconds, np.diff(times), strict=True):
            seconds[stage] += float(value)
    yield {"stages": seconds}


def way_own(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """MatterSim's own batches, best size; and the forward pass alone on ready batches."""
    from mattersim.datasets.utils.build import build_dataloader
    from mattersim.forcefield.potential import Potential, batch_to_dict

    crystals = read(options.list, index=":")
    potential = Potential.from_checkpoint(load_path=str(options.model), device=options.device)
    potential.model.eval()
    # A sample is enough for a rate, and the same for all sizes.
    cells = [cell for atoms in crystals for cell in supercells(displaced(atoms))]
    cells = cells[:: max(1, len(cells) // options.sample)][: options.sample]
    natoms = sum(map(len, cells))

    def whole(size: int) -> None:
        loader = build_dataloader(cells, batch_size=size, only_inference=True)
        potential.predict_properties(loader, include_forces=True, include_stresses=False)

    yield {}
    rates: dict[str, dict[int, float]] = {"end to end": {}, "forward": {}}
    for size in OWN_BATCH_SIZES:
        slower = all(v and list(v.values())[-1] < 0.9 * max(v.values()) for v in rates.values())
        if slower or size > 2 * len(cells):
            break
        try:
            rates["end to end"][size] = natoms / best_of(lambda size=size: whole(size), options)
            batches = [
                batch_to_dict(batch, device=options.device)
                for batch in build_dataloader(cells, batch_size=size, only_inference=True)
            ]

            def forward(batches: list[Any] = batches) -> None:
                for batch in batches:
                    potential.forward(dict(batch), include_forces=True, include_stresses=False)

            rates["forward"][size] = natoms / best_of(forward, options)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            print(f"own batches of {size}: {error}", file=sys.stderr)
            break
    yield {
        "atoms_per_second": {name: max(values.values()) for name, values in rates.items()},
        "best_batch": {name: max(v, key=lambda s: v[s]) for name, v in rates.items()},
    }


def best_of(function: Any, options: argparse.Namespace, repeats: int = 2) -> float:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def way_hpcbench(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import hpcbench
    from hpcbench import protocols
    from hpcbench.engine.timing import read_stages
    from hpcbench.potentials.selftest import self_test
    from hpcbench.store.run_folder import RunFolder

    class FixedSteps(protocols.Protocol):
        def stages(self, fmax: float, max_steps: int) -> tuple[protocols.Stage, ...]:
            return (protocols.Stage(0.0, math.inf, options.steps),)

    literal = protocols.PROTOCOLS["phononbench"]
    protocols.PROTOCOLS["phononbench"] = FixedSteps(**vars(literal))
    crystals = read(options.list, index=":")
    potential = hpcbench.load_potential(str(options.model), device=options.device)
    self_test(potential)
    yield {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "store.h5"
        result = hpcbench.run(
            crystals, model=potential, protocol="phononbench", out=out, device=options.device,
            relax="full" if options.steps else "none", workers=options.workers,
            temperatures=(0, 300, 1000),
        )  # fmt: skip
        stages = read_stages(RunFolder(out).events)
        assert stages is not None
        yield {
            "status": result.table["status"].value_counts().to_dict(),
            "reasons": result.table["reason"][result.table["status"] != "done"].tolist(),
            "stages": dict(stages.seconds),
            "passes_share": stages.passes,
            "capacity": potential.capacity,
        }


def way_saturated(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The work in edges, and the rate of the best pass."""
    import hpcbench
    from hpcbench.potentials.structures import DisplacedCopies, Structures

    crystals = read(options.list, index=":")
    potential: Any = hpcbench.load_potential(str(options.model), device=options.device)
    ready, relaxation_edges, atoms = [], 0, 0
    from hpcbench.potentials.neighbours import neighbour_list

    for crystal in crystals:
        batch = Structures.from_atoms([crystal], options.device)
        edges = neighbour_list(batch, 5.0).nedges
        relaxation_edges += (options.steps + 1) * edges if options.steps else 0
        atoms += (options.steps + 1) * len(crystal) if options.steps else 0
        phonon = displaced(crystal)
        entries = phonon.dataset["first_atoms"]
        perfect = phonon.supercell
        copies = DisplacedCopies(
            np.asarray(perfect.numbers), perfect.positions, perfect.cell,
            np.array([entry["number"] for entry in entries]),
            np.array([entry["displacement"] for entry in entries]),
        )  # fmt: skip
        ready.append(potential.prepare(copies))
        atoms += len(copies) * copies.natoms
    force_edges = sum(len(p.copies) * p.cost for p in ready)
    yield {}
    rates: dict[int, float] = {}
    size = 500
    most = 8_000 if options.device == "cpu" else 4_000_000
    while size <= most:
        parts, load = [], 0
        for prepared in ready * 200:
            count = min(len(prepared.copies), (size - load) // max(prepared.cost, 1))
            if count > 0:
                parts.append((prepared, 0, count))
                load += count * prepared.cost
        if parts:
            try:
                rates[load] = load / best_of(
                    lambda parts=parts: potential.forces(parts), options, repeats=4
                )
            except hpcbench.errors.OutOfMemoryError:
                break
        size *= 2
    fastest = max(rates, key=lambda load: rates[load])
    yield {
        "edges": relaxation_edges + force_edges,
        "atom_evaluations": atoms,
        "edges_per_second": rates[fastest],
        "best_pass_edges": fastest,
        "rates": {str(load): rate for load, rate in rates.items()},
    }


WAYS = {
    "loop": way_loop, "own": way_own, "hpcbench": way_hpcbench, "saturated": way_saturated
}  # fmt: skip


def child(options: argparse.Namespace) -> None:
    """Load, say so, wait for the word, work, print what came of it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    steps = WAYS[options.way](options)
    next(steps)
    print("READY", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    result = next(steps)
    result["seconds"] = time.perf_counter() - begin
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["host_memory_mb"] = kilobytes / 1024
    if options.device.startswith("cuda"):
        result["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print("RESULT " + json.dumps(result), flush=True)


# --- the parent ----------------------------------------------------------------------------


def measure(way: str, options: argparse.Namespace, *extra: str, shares: int = 1) -> dict[str, Any]:
    """Run one way in ``shares`` processes that begin at the same time; results merged."""
    command = [sys.executable, str(Path(__file__)), "--way", way, "--device", options.device,
               "--steps", str(options.steps), "--shares", str(shares), *extra]  # fmt: skip
    processes = [
        subprocess.Popen(
            [*command, "--share", str(share)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for share in range(shares)
    ]  # fmt: skip
    for process in processes:
        until(process, "READY")
    begin = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [json.loads(until(process, "RESULT ")) for process in processes]
    wall = time.perf_counter() - begin
    for process in processes:
        process.wait()
    merged = results[0]
    if shares > 1:
        merged = {
            "seconds": wall,
            "host_memory_mb": sum(result["host_memory_mb"] for result in results),
        }
    return merged


def until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word)
    raise SystemExit(f"a process ended early (exit code {process.wait()})")


def compare(
    model: str, sizes: str, crystals: list[Atoms], options: argparse.Namespace
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crystals.extxyz"
        write(path, crystals)
        files = ("--model", str(model_file(model, Path(folder))), "--list", str(path))
        ways = {"loop, 1 process": measure("loop", options, *files)}
        if options.loops > 1:
            ways[f"loop, {options.loops} processes"] = measure(
                "loop", options, *files, shares=options.loops
            )
        ways["hpcbench, one core"] = measure("hpcbench", options, *files, "--workers", "0")
        ways["hpcbench"] = measure("hpcbench", options, *files, "--workers", "auto")
        own = measure("own", options, *files, "--sample", str(options.sample))
        limit = measure("saturated", options, *files)
    least = limit["edges"] / limit["edges_per_second"]
    atoms = limit["atom_evaluations"]
    summary: dict[str, Any] = {
        "model": model, "atoms": sizes, "crystals": len(crystals), "steps": options.steps,
        "atom_evaluations": atoms, "ways": ways, "own batches": own, "saturated": limit,
        "saturated_seconds": least,
    }  # fmt: skip
    print(f"\n{model}, {len(crystals)} crystals of {sizes} atoms, {options.steps} steps each, "
          f"{atoms} atom evaluations")  # fmt: skip
    base = ways["loop, 1 process"]["seconds"]
    for name, way in ways.items():
        seconds = way["seconds"]
        share = f", forward passes {way['passes_share']:.0%} of it" if "passes_share" in way else ""
        print(
            f"  {name:20s} {seconds:8.2f} s  {3600 * len(crystals) / seconds:9.0f} crystals/h  "
            f"{atoms / seconds:9.0f} atoms/s  {base / seconds:6.2f} x loop  "
            f"{least / seconds:4.0%} of saturated{share}  {way['host_memory_mb']:.0f} MB"
        )
        if way.get("reasons"):
            print(f"    not done: {way['reasons']}")
    ours = atoms / least
    for what, rate in own["atoms_per_second"].items():
        print(f"  MatterSim's own batches, {what}: {rate:9.0f} atoms/s at batch "
              f"{own['best_batch'][what]}; the saturated pass is {ours / rate:.2f} x")  # fmt: skip
    print(f"  saturated pass       {least:8.2f} s  {ours:9.0f} atoms/s, "
          f"{limit['best_pass_edges']} edges a pass")  # fmt: skip
    return summary


def machine(device: str) -> dict[str, str]:
    packages = ("hpcbench-phonons", "mattersim", "torch", "ase", "phonopy", "numpy")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    gpu = {"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {}
    return {
        "cpu": cpu, "cores": str(len(os.sched_getaffinity(0))), **gpu,
        "date": datetime.now(UTC).date().isoformat(), "dtype": "float32",
        "python": platform.python_version(), **{p: version(p) for p in packages},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=["1M", "5M"], choices=["demo", *SHAPES])
    parser.add_argument("--sizes", nargs="+", default=["2-8", "9-20"], help="atoms, FROM-TO")
    parser.add_argument("--crystals", type=Path, default=GENERATED, help="a list for ase.io.read")
    parser.add_argument("--count", type=int, default=12, help="crystals of each size")
    parser.add_argument("--steps", type=int, default=20, help="relaxation steps")
    parser.add_argument("--loops", type=int, default=3, help="processes of the parallel loop")
    parser.add_argument("--sample", type=int, default=0, help="supercells for own batches")
    parser.add_argument("--packages", nargs="+", metavar="NAME", help="see packages.py")
    parser.add_argument("--output", type=Path)
    for name in ("--way", "--model", "--list", "--share", "--shares", "--workers"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.share, options.shares = int(options.share or 0), int(options.shares or 1)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.sample = int(options.sample) or (24 if options.device == "cpu" else 1024)
    if options.way:
        child(options)
        return
    if not options.crystals.exists():
        raise SystemExit(f"{options.crystals}: no such file; give --crystals FILE")
    if options.packages:
        import packages

        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        smallest, _, largest = options.sizes[0].partition("-")
        crystals = choose(options.crystals, int(smallest), int(largest), options.count)
        found: list[dict[str, Any]] = []
        for name in options.packages:
            found.append(packages.compare(name, crystals, displaced))
            save(options, found)
        return
    results = []
    for model in options.models:
        for sizes in options.sizes:
            smallest, _, largest = sizes.partition("-")
            if model == "demo":  # it knows few elements: its own crystals
                crystals = [read(path) for path in sorted(DEMO.glob("*.cif"))]
            else:
                crystals = choose(options.crystals, int(smallest), int(largest), options.count)
            results.append(compare(model, sizes, crystals, options))
            if model == "demo":
                break
    save(options, results)


def save(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    if options.output:
        text = json.dumps({"machine": machine(options.device), "results": results}, indent=1)
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
