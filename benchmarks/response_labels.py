"""Labels and cost by displacements in 2x2x2, in the default supercell, and by linear response.

    OMP_NUM_THREADS=1 python benchmarks/response_labels.py [SOURCE ...] [--crystals 200]

The demo's crystals by default, one process, relaxation and all. With ``--crystals``, the smallest
generated ones of the elements that the demo potential knows. The first two runs do not compare
interpolated frequencies with computed ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from machine import processor
from protocols import RESULTS
from throughput import GENERATED

import hpcbench
from hpcbench.potentials.weights import DEMO_ELEMENTS
from hpcbench.sources import find_files, read_file

LISTS = (GENERATED, GENERATED.parent / "native" / "diffcsp" / "DiffCSP_mp_20.pt")
RUNS = {
    "displacements, 2x2x2": ["--supercell", "2", "2", "2", "--interpolation-error", "0"],
    "displacements, 12 A": ["--interpolation-error", "0"],
    "displacements, 12 A, compared": [],
    "exact": ["--protocol", "exact"],
}
LABELS = ("verdict", "verdict_phononbench_v3", "verdict_loew")


def generated(count: int) -> list[hpcbench.Crystal]:
    """Return the smallest generated crystals of the demo's elements, two atoms at least."""
    found = [
        record
        for file in find_files(LISTS)
        for record in read_file(file)
        if isinstance(record, hpcbench.Crystal)
        and record.natoms > 1
        and set(record.numbers.tolist()) <= DEMO_ELEMENTS
    ]
    return sorted(found, key=lambda record: record.natoms)[:count]


def summary(store: hpcbench.Store, exact: hpcbench.Store) -> dict[str, Any]:
    """What a run took, and which labels are others than by response."""
    table, other = store.table, exact.table.loc[store.table.index]
    lowest = zip(table["min_frequency_path"], other["min_frequency_path"], strict=True)
    frequencies = dict(zip(table.index, lowest, strict=True))
    differing = {
        name: [key for key in table.index if table.loc[key, name] != other.loc[key, name]]
        for name in LABELS
    }
    return {
        "crystals": len(table),
        "seconds": {
            part: round(float(table[f"seconds_{part}"].sum()), 1)
            for part in ("relaxation", "forces", "analysis")
        },
        "peak memory, MB": round(float(table["peak_memory"].max()) / 2**20),
        "displaced supercells": int(table["displacements"].sum()),
        "columns": int(table["response_columns"].sum()),
        "verdicts": dict(Counter(table["verdict"].astype(str))),
        "largest interpolation error, THz": round(float(table["interpolation_error"].max()), 3),
        "lowest frequency on the path off by more than 0.05 THz": int(
            ((table["min_frequency_path"] - other["min_frequency_path"]).abs() > 0.05).sum()
        ),
        "labels that are others by response": {
            name: dict(Counter(f"{table.loc[k, name]}, {other.loc[k, name]}" for k in keys))
            for name, keys in differing.items()
        },
        "verdicts that are others by response: lowest on the path, THz": {
            f"{table.loc[key, 'name']}: {table.loc[key, 'verdict']}, {other.loc[key, 'verdict']}": [
                round(float(one), 3) for one in frequencies[key]
            ]
            for key in differing["verdict"]
        },
    }


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", default=[str(ROOT / "jobs" / "demo")])
    parser.add_argument("--model", default="mattersim-demo")
    parser.add_argument("--crystals", type=int, default=0, help="generated ones, this many")
    parser.add_argument("--keep", type=Path, help="a folder for the stores, to go on from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder, sources, stores = options.keep or Path(passing), options.sources, {}
        folder.mkdir(exist_ok=True)
        if options.crystals:
            sources = [str(folder / "generated.extxyz")]
            crystals = [
                Atoms(numbers=one.numbers, cell=one.cell, positions=one.positions, pbc=True)
                for one in generated(options.crystals)
            ]
            write(sources[0], crystals)
        for number, (name, settings) in enumerate(RUNS.items()):
            out = folder / f"{number}.h5"
            command = [sys.executable, "-m", "hpcbench", "run", *sources, *settings]
            command += ["--model", options.model, "--out", str(out), "--workers", "0"]
            subprocess.run([*command, "--no-report"], check=False)
            stores[name] = hpcbench.open(out)
        result = {name: summary(store, stores["exact"]) for name, store in stores.items()}
    machine = {"date": str(date.today()), "processor": processor(), "torch": version("torch")}
    text = json.dumps({"machine": machine, "model": options.model, "result": result}, indent=1)
    name = "response-labels-generated" if options.crystals else "response-labels"
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
