"""Validate potentials against DFT phonons, by hpcbench's own commands, and keep the sums.

    python benchmarks/dft_errors.py REFERENCE... --models nequix-oam-1 chgnet [--folder FOLDER]

Each model is validated by protocol ``loew`` in one process on one core, in a store of its own in
the folder; what is there already is not computed again. The numbers are those of
``hpcbench accuracy --json`` without the ones of single materials, which belong to others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import processor
from protocols import RESULTS

PACKAGES = ("numpy", "torch", "phonopy", "ase", "chgnet", "sevenn", "e3nn")
OF_ALL = ("label", "crystals", "failed", "errors", "frequencies", "stability")


def validated(model: str, references: list[str], folder: Path) -> Path:
    """Validate a model; return its store."""
    store = folder / f"{Path(model).stem}.h5"
    command = [sys.executable, "-m", "hpcbench", "validate", "--reference", *references]
    command += ["--model", model, "--out", str(store), "--workers", "0", "--no-report"]
    # Some crystals may fail: the tables say which.
    code = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    ).returncode
    assert code in (0, 1), f"{model} ended with {code}"
    return store


def numbers_of(stores: list[Path], folder: Path) -> dict[str, Any]:
    """Return the numbers of all materials together."""
    to = folder / "accuracy.json"
    command = [sys.executable, "-m", "hpcbench", "accuracy", *map(str, stores)]
    command += ["--json", str(to), "--output", str(folder / "accuracy.html"), "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(to.read_text())
    return {
        "potentials": [{key: one[key] for key in OF_ALL} for one in found["potentials"]],
        "comparisons": found["comparisons"],
    }


def main() -> None:
    """Validate, print the numbers, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="phonopy's YAML files")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--folder", type=Path, help="where the stores are kept")
    parser.add_argument("--output", type=Path, default=RESULTS / "dft-errors.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        stores = [validated(model, options.references, folder) for model in options.models]
        numbers = numbers_of(stores, folder)
    results = {
        "materials": sorted(Path(path).name.partition(".")[0] for path in options.references),
        **numbers,
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "date": date.today().isoformat(),
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(options.output)


if __name__ == "__main__":
    main()
