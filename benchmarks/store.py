"""Measure a store of very many crystals: writing, reading, checking, room, memory.

    python benchmarks/store.py [--crystals 100000] [--folder /fast/disk]

Results are made up (random numbers, which compress worse than those of real crystals); their sizes
are those of real generated crystals, in a 2x2x2 supercell (``generated-sizes.json`` beside the
results, made by ``python benchmarks/store.py sizes CRYSTALS.extxyz``). Beside it the same goes
into phonopy's YAML files, plain and compressed, and into an HDF5 file with a group for each
crystal. Each step runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from machine import processor

import hpcbench
from hpcbench.criteria import CRITERIA
from hpcbench.maintenance.verify import verify
from hpcbench.results.phonon_columns import rounded_bands
from hpcbench.store.consolidate import consolidate
from hpcbench.store.run_folder import RunFolder
from hpcbench.store.schema import DONE, result_schema
from hpcbench.store.table_writer import TableWriter

RESULTS = Path(__file__).parent / "results"
SIZES = RESULTS / "generated-sizes.json"
# A cell of 20 atoms without symmetry: the size that the project's aims are set for.
P1 = {"natoms": 20, "nprim": 20, "qpoints": 547, "segments": 7, "commensurate": 8, "copies": 120}
SETTINGS = {"temperatures": [0.0, 75.0, 150.0, 300.0, 600.0, 1000.0], "dtype": "float32"}
SEGMENT = 20


def measure_sizes(path: Path) -> list[dict[str, int]]:
    """Numbers of atoms, q-points and displacements of real crystals."""
    from ase.io import read

    from hpcbench.phonons.spectrum import commensurate_qpoints, seekpath_band_path
    from hpcbench.phonons.supercells import displace

    sizes = []
    for atoms in read(path, ":"):
        try:
            phonon = displace(
                atoms,
                supercell_matrix=np.diag([2, 2, 2]),
                primitive_matrix="auto",
                displacement=0.01,
                symprec=1e-5,
            )
            band_path = seekpath_band_path(phonon, 101, cell_is_standard=False)
        except Exception as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        sizes.append(
            {
                "natoms": len(atoms),
                "nprim": len(phonon.primitive),
                "qpoints": len(band_path.qpoints),
                "segments": len(band_path.labels),
                "commensurate": len(commensurate_qpoints(phonon)),
                "copies": len(phonon.supercells_with_displacements),
            }
        )
    return sizes


def make_row(
    number: int, size: dict[str, int], rng: np.random.Generator, *, forces: bool = False
) -> dict[str, Any]:
    """A made-up result of this size."""
    natoms, nprim, nq = size["natoms"], size["nprim"], size["qpoints"]
    nsuper, ncopies = 8 * natoms, size["copies"]
    decay = np.exp(-8 * rng.random((nprim * nsuper, 1, 1)))
    edges = np.linspace(0, nq, size["segments"] + 1).astype(int)
    # Bands change smoothly along the path, and are as noisy in their last digits as real ones.
    waves = np.linspace(0, 1, nq)[:, None] * rng.uniform(1, 6, 3 * nprim)
    bands = 12 * rng.random(3 * nprim) + 2 * np.sin(waves + 6 * rng.random(3 * nprim))
    lowest = float(bands.min())
    row = {
        "id": f"{number:016x}",
        "name": f"generated/batch_{number // 1000:03d}/gen_{number:06d}.cif",
        "origins": json.dumps([[f"generated/batch_{number // 1000:03d}.zip", number, "mattergen"]]),
        "formula": f"X{natoms}",
        "natoms": natoms,
        "status": DONE,
        "spacegroup": "P1",
        "spacegroup_number": 1,
        "verdict": "stable" if lowest > -0.1 else "unstable",
        **{c.column: "stable" if number % 3 else "unstable" for c in CRITERIA},
        **{f"min_frequency_{place}": lowest for place in ("path", "commensurate", "mesh")},
        **{f"min_q_{place}": rng.random(3) for place in ("path", "commensurate", "mesh")},
        "free_energy": rng.random(6),
        "entropy": rng.random(6),
        "heat_capacity": rng.random(6),
        "energy": rng.normal(),
        "fmax": rng.random() * 1e-3,
        "stress": rng.normal(size=(3, 3)),
        "cell": rng.normal(size=(3, 3)),
        "relaxed_cell": np.diag(rng.uniform(3, 9, 3)),
        "supercell_matrix": 2 * np.eye(3, dtype=int),
        "primitive_matrix": np.eye(3),
        "band_labels": json.dumps([["GAMMA", "X"]] * size["segments"]),
        "seconds_relaxation": rng.random(),
        "seconds_forces": rng.random(),
        "seconds_analysis": rng.random(),
        "finished": 1.8e9 + number,
        "host": f"node{number % 8}",
        "provenance": '{"phonopy": "4.8.6", "device": "NVIDIA"}',
        "numbers": rng.integers(1, 90, natoms),
        "positions": rng.normal(size=(natoms, 3)),
        "relaxed_positions": rng.normal(size=(natoms, 3)),
        "p2s_map": 8 * np.arange(nprim),
        "force_constants": rng.normal(size=(nprim * nsuper, 3, 3)) * decay,
        "displacement_atoms": np.repeat(np.arange(ncopies), 1),
        "displacement_vectors": 0.01 * np.eye(3)[np.arange(ncopies) % 3],
        "band_qpoints": np.linspace(0, 0.5, nq)[:, None] * np.ones(3),
        "band_segments": edges,
        "band_frequencies": bands.ravel(),
        "commensurate_qpoints": rng.integers(0, 2, (size["commensurate"], 3)) / 2,
        "commensurate_frequencies": rng.random(3 * nprim * size["commensurate"]),
        "mode_frequencies": [lowest] if lowest < 0 else [],
        "mode_qpoints": rng.random((1 if lowest < 0 else 0, 3)),
        "mode_eigenvectors": rng.normal(size=(nprim if lowest < 0 else 0, 3, 2)),
    }
    if forces:
        row["forces"] = rng.normal(size=(ncopies * nsuper, 3)) * 0.1
    return row


def rows_of(
    sizes: list[dict[str, int]], crystals: int, **options: bool
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    pool = [make_row(i, sizes[i % len(sizes)], rng, **options) for i in range(400)]
    for number in range(crystals):
        # Making random numbers would take longer than writing them.
        row = pool[number % len(pool)]
        yield {**row, "id": f"{number:016x}", "name": f"gen_{number:06d}.cif"}


def in_a_process(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Seconds, peak memory, and what the function returns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    answer: dict[str, Any] = ours.recv()
    process.join()
    print(f"{function.__name__}: {answer}", flush=True)
    return answer


def _child(connection: Any, function: Callable[..., Any], arguments: Any) -> None:
    start = time.perf_counter()
    value = function(*arguments)
    seconds = time.perf_counter() - start
    connection.send({"seconds": round(seconds, 3), "peak_MB": peak_memory()} | (value or {}))


def peak_memory() -> int:
    """Of this process, in MB; getrusage would have that of the one that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def schema(bands: str = "float32") -> Any:
    return result_schema(6, tuple(c.column for c in CRITERIA), bands, "float32")


def write_segments(store: str, sizes: list[dict[str, int]], crystals: int) -> dict[str, Any]:
    folder = RunFolder(store)
    folder.create()
    batch, writing = [], 0.0
    for row in rows_of(sizes, crystals):
        bands = rounded_bands(row["band_frequencies"])
        batch.append(row | {"band_frequencies": bands})
        if len(batch) == SEGMENT:
            start = time.perf_counter()
            folder.commit(batch, schema(), SETTINGS, 0)
            writing += time.perf_counter() - start
            batch = []
    if batch:
        folder.commit(batch, schema(), SETTINGS, 0)
    return {"ms_a_crystal": round(1e3 * writing / crystals, 2)}


def join_segments(store: str, crystals: int) -> dict[str, Any]:
    start = time.perf_counter()
    consolidate(RunFolder(store), schema(), SETTINGS)
    seconds = time.perf_counter() - start
    return {
        "ms_a_crystal": round(1e3 * seconds / crystals, 2),
        "kB_a_crystal": round(Path(store).stat().st_size / crystals / 1e3, 2),
    }


def open_and_scan(store: str) -> dict[str, Any]:
    import pandas  # noqa: F401  its import is not the store's

    start = time.perf_counter()
    there = hpcbench.open(store)
    opened = time.perf_counter()
    table = there.table
    scanned = time.perf_counter()
    chosen = there.where("min_frequency_path > -0.1 and natoms < 10")
    return {
        "open_s": round(opened - start, 3),
        "table_s": round(scanned - opened, 3),
        "rows": len(table),
        "filter_s": round(time.perf_counter() - scanned, 3),
        "chosen": len(chosen),
    }


def read_at_random(store: str, number: int) -> dict[str, Any]:
    there = hpcbench.open(store)
    ids = random.Random(2).choices(there.ids, k=number)
    times: dict[str, list[float]] = {"force_constants": [], "row": []}
    for key in ids:
        start = time.perf_counter()
        there.force_constants(key)
        middle = time.perf_counter()
        there.row(key)
        times["force_constants"].append(middle - start)
        times["row"].append(time.perf_counter() - middle)
    return {
        f"{name}_ms": {
            "median": round(1e3 * float(np.median(values)), 2),
            "95 %": round(1e3 * float(np.quantile(values, 0.95)), 2),
        }
        for name, values in times.items()
    }


def check(store: str) -> dict[str, Any]:
    found = verify(Path(store), sample=0)
    assert found.is_sound, found
    return {}


def phonopy_yaml(sizes: list[dict[str, int]], number: int, folder: str) -> dict[str, Any]:
    """The files that phonopy writes of such crystals, with full force constants."""
    import bz2

    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    rng = np.random.default_rng(3)
    plain = packed = 0
    start = time.perf_counter()
    for size in sizes[:number]:
        cell = PhonopyAtoms(
            symbols=["Si"] * size["nprim"],
            cell=np.diag(rng.uniform(3, 9, 3)),
            scaled_positions=rng.random((size["nprim"], 3)),
        )
        phonon = Phonopy(cell, 2 * np.eye(3, dtype=int), primitive_matrix=np.eye(3))
        natoms = len(phonon.supercell)
        phonon.force_constants = rng.normal(size=(natoms, natoms, 3, 3))
        path = Path(folder) / "phonopy.yaml"
        phonon.save(path, settings={"force_constants": True})
        data = path.read_bytes()
        plain += len(data)
        packed += len(bz2.compress(data))
    return {
        "crystals": number,
        "kB_a_crystal": round(plain / number / 1e3, 1),
        "bz2_kB_a_crystal": round(packed / number / 1e3, 1),
        "ms_a_crystal": round(1e3 * (time.perf_counter() - start) / number, 1),
    }


def group_a_crystal(sizes: list[dict[str, int]], crystals: int, path: str) -> dict[str, Any]:
    start = time.perf_counter()
    with h5py.File(path, "w") as file:
        for row in rows_of(sizes, crystals):
            group = file.create_group(row["id"])
            for name, value in row.items():
                array = np.asarray(value)
                if array.ndim and array.size and array.dtype.kind in "fi":
                    group.create_dataset(name, data=array, compression="gzip", shuffle=True)
                else:
                    group.attrs[name] = value
    written = time.perf_counter()
    with h5py.File(path) as file:
        energies = [group.attrs["energy"] for group in file.values()]
    return {
        "crystals": len(energies),
        "ms_a_crystal": round(1e3 * (written - start) / crystals, 2),
        "scan_ms_a_crystal": round(1e3 * (time.perf_counter() - written) / crystals, 3),
        "kB_a_crystal": round(Path(path).stat().st_size / crystals / 1e3, 2),
    }


def size_of(path: Path, rows: list[dict[str, Any]], bands: str) -> float:
    if bands == "float32":
        rows = [row | {"band_frequencies": rounded_bands(row["band_frequencies"])} for row in rows]
    with TableWriter(path, schema(bands), SETTINGS) as writer:
        writer.append(rows)
    return path.stat().st_size


def p1_cell(folder: Path) -> dict[str, Any]:
    """Room for a 20-atom cell without symmetry: what each more of them takes, in MB."""
    sizes = {}
    for name, bands, forces in (
        ("force constants float64, bands float32", "float32", False),
        ("bands float64", "float64", False),
        ("forces float32 beside it", "float32", True),
    ):
        rows = list(rows_of([P1], 120, forces=forces))
        few, many = (size_of(folder / "p1.h5", rows[:n], bands) for n in (40, 120))
        sizes[name] = round((many - few) / 80 / 1e6, 4)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", nargs="?", choices=("measure", "sizes"), default="measure")
    parser.add_argument("file", nargs="?", help="of crystals, for sizes")
    parser.add_argument("--crystals", type=int, default=100_000)
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=RESULTS / "store-cpu.json")
    options = parser.parse_args()
    if options.action == "sizes":
        SIZES.write_text(json.dumps(measure_sizes(Path(options.file))) + "\n")
        return
    sizes = json.loads(SIZES.read_text())
    random.Random(0).shuffle(sizes)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        store, n = str(folder / "store.h5"), options.crystals
        result = {
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "system": platform.platform(),
                "file system": options.folder or tempfile.gettempdir(),
            },
            "date": str(date.today()),
            "versions": {
                package: version(package) for package in ("h5py", "numpy", "pandas", "phonopy")
            }
            | {"python": platform.python_version(), "HDF5": h5py.version.hdf5_version},
            "crystals": n,
            "sizes": {
                key: {
                    q: float(np.quantile([s[key] for s in sizes], f))
                    for q, f in (("median", 0.5), ("95 %", 0.95), ("largest", 1.0))
                }
                for key in ("natoms", "nprim", "qpoints", "copies")
            },
            "20-atom cell without symmetry, MB": p1_cell(folder),
            "write segments": in_a_process(write_segments, store, sizes, n),
            "consolidate": in_a_process(join_segments, store, n),
            "write a tenth": None,
            "consolidate a tenth": None,
            "open and scan": in_a_process(open_and_scan, store),
            "1,000 random reads": in_a_process(read_at_random, store, 1000),
            "verify": in_a_process(check, store),
            "phonopy YAML": in_a_process(phonopy_yaml, sizes, 40, name),
            "phonopy YAML, 20 atoms": in_a_process(phonopy_yaml, [P1] * 2, 2, name),
            "a group a crystal": in_a_process(
                group_a_crystal, sizes, max(1, n // 20), str(folder / "groups.h5")
            ),
        }
        shutil.rmtree(folder / "store.h5.run")
        small = str(folder / "tenth.h5")
        result["write a tenth"] = in_a_process(write_segments, small, sizes, n // 10)
        result["consolidate a tenth"] = in_a_process(join_segments, small, n // 10)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
