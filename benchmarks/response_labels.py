"""Labels and cost by displacements in 2x2x2, in the default supercell, and by linear response.

    OMP_NUM_THREADS=1 python benchmarks/response_labels.py [SOURCE ...]

The demo's crystals by default, one process, relaxation and all. The first two runs do not compare
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

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from protocols import processor

import hpcbench

RESULTS = Path(__file__).parent / "results"
RUNS = {
    "displacements, 2x2x2": ["--supercell", "2", "2", "2", "--interpolation-error", "0"],
    "displacements, 12 A": ["--interpolation-error", "0"],
    "displacements, 12 A, compared": [],
    "exact": ["--protocol", "exact"],
}
LABELS = ("verdict", "verdict_phononbench_v3", "verdict_loew")


def summary(store: hpcbench.Store, exact: hpcbench.Store) -> dict[str, Any]:
    """What a run took, and which labels are others than by response."""
    table, other = store.table, exact.table.loc[store.table.index]
    return {
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
            name: {
                str(table.loc[key, "name"]): f"{table.loc[key, name]}, {other.loc[key, name]}"
                for key in table.index
                if table.loc[key, name] != other.loc[key, name]
            }
            for name in LABELS
        },
    }


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", default=[str(ROOT / "jobs" / "demo")])
    parser.add_argument("--model", default="mattersim-demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for number, (name, settings) in enumerate(RUNS.items()):
            out = Path(folder) / f"{number}.h5"
            command = [sys.executable, "-m", "hpcbench", "run", *options.sources, *settings]
            command += ["--model", options.model, "--out", str(out), "--workers", "0"]
            subprocess.run([*command, "--no-report"], check=True)
            stores[name] = hpcbench.open(out)
        result = {name: summary(store, stores["exact"]) for name, store in stores.items()}
    machine = {"date": str(date.today()), "processor": processor(), "torch": version("torch")}
    text = json.dumps({"machine": machine, "model": options.model, "result": result}, indent=1)
    (RESULTS / "response-labels.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
