"""Measure cost and labels of larger supercells, for generated crystals.

    python benchmarks/supercells.py CRYSTALS.extxyz [--model chgnet] [--crystals 200] [--ranks 2]

The smallest crystals of all generators alike go through ``hpcbench run`` twice, by protocol
``robust``: in 2x2x2 of the cell as given, and in the protocol's own supercell. From the two stores
come supercells, atoms and seconds, and the labels that differ. A run that was killed is gone on
with by the same command, as always.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from ase.io import write

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from machine import processor
from protocols import smallest

import hpcbench
from hpcbench.criteria import CRITERIA, PLACES
from hpcbench.store.schema import DONE, LOW_SUPERCELL

RESULTS = Path(__file__).parent / "results"
RUNS = {"2x2x2": ["--supercell", "2", "2", "2"], "default": []}
# THz: of two lowest frequencies that count as different.
DIFFERENT = 0.1
SUFFICIENT = 11.98  # A: 12, but for rounding and what the relaxation takes


def cost(store: hpcbench.Store, ids: list[str]) -> dict[str, Any]:
    """Return the seconds of a run for these crystals, and the heights of its supercells."""
    table = store.table.loc[ids]
    cells = np.abs(np.linalg.det(store_column(store, "supercell_matrix", ids)))
    atoms = np.rint(cells) * table["natoms"].to_numpy()
    copies = table["displacements"].to_numpy()
    heights = table["supercell_height"].to_numpy()
    return {
        "displaced supercells": int(copies.sum()),
        "atoms in displaced supercells": int((copies * atoms).sum()),
        "atoms of a supercell": {
            "median": float(np.median(atoms)),
            "nine in ten at most": float(np.quantile(atoms, 0.9)),
            "most": int(atoms.max()),
        },
        "crystals whose supercell is": {
            "lower than 10 A": int((heights < LOW_SUPERCELL).sum()),
            "lower than 12 A": int((heights < SUFFICIENT).sum()),
        },
        "seconds of ranks": {
            name: round(float(table[f"seconds_{name}"].sum()), 1)
            for name in ("relaxation", "forces", "analysis")
        },
        "undetermined by cause": kinds_of(table["cause"]),
        "character": dict(Counter(table["character"].astype(str))),
    }


def kinds_of(texts: pandas.Series) -> dict[str, int]:
    """Texts counted by their kind, which stands before the colon."""
    return dict(Counter(text.partition(":")[0] for text in texts if text))


def store_column(store: hpcbench.Store, name: str, ids: list[str]) -> np.ndarray:
    """A column of the store that the table does not have, in the order of ids."""
    by_id = dict(zip(store.ids, store.column(name), strict=True))
    return np.array([by_id[key] for key in ids], dtype=float)


def changes(low: pandas.DataFrame, high: pandas.DataFrame) -> dict[str, Any]:
    """Labels and lowest frequencies of the same crystals in the low and in the high supercell."""
    found: dict[str, Any] = {}
    for column in ("verdict", *(criterion.column for criterion in CRITERIA)):
        before, after = low[column].astype(str), high[column].astype(str)
        kinds = Counter(
            f"{one} to {other}" for one, other in zip(before, after, strict=True) if one != other
        )
        found[column.removeprefix("verdict_").replace("_", "-")] = {
            "stable, 2x2x2": int((before == "stable").sum()),
            "stable, default": int((after == "stable").sum()),
            **dict(kinds.most_common()),
        }
    found["lowest frequency, THz"] = {
        place: {
            "largest change": round(float(np.abs(difference).max()), 3),
            "median change": round(float(np.median(np.abs(difference))), 4),
            f"changed by more than {DIFFERENT:g}": int((np.abs(difference) > DIFFERENT).sum()),
        }
        for place in PLACES
        for difference in [
            high[f"min_frequency_{place}"].to_numpy() - low[f"min_frequency_{place}"].to_numpy()
        ]
    }
    return found


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crystals_file", metavar="CRYSTALS.extxyz", type=Path)
    parser.add_argument("--model", default="chgnet")
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--most-atoms", type=int, default=6)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("supercells"))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = options.folder / "crystals.extxyz"
    write(chosen, smallest(options.crystals_file, options.crystals, options.most_atoms))
    for name, words in RUNS.items():
        command = [sys.executable, "-m", "hpcbench", "run", str(chosen), "--protocol", "robust"]
        command += ["--model", options.model, *words, "--no-report"]
        command += ["--out", str(options.folder / f"{name}.h5")]
        if options.ranks > 1:
            launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(options.ranks)]
            command = [*launcher, *command]
        subprocess.run(command, check=False)
    stores = {name: hpcbench.open(options.folder / f"{name}.h5") for name in RUNS}
    tables = {name: store.table for name, store in stores.items()}
    done = [set(table.index[table["status"] == DONE]) for table in tables.values()]
    ids = [key for key in tables["default"].index if key in set.intersection(*done)]
    low, high = (table.loc[ids] for table in tables.values())
    packages = (
        "hpcbench-phonons",
        "phonopy",
        "torch",
        "ase",
        "numpy",
        options.model.partition("-")[0],
    )
    result = {
        "machine": {
            "date": str(date.today()),
            "processor": processor(),
            "ranks": options.ranks,
            "versions": {name: version(name) for name in packages},
        },
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "settings": {name: store.settings for name, store in stores.items()},
        "result": {
            "crystals": len(tables["default"]),
            "done by both": len(ids),
            "failed by reason": {
                name: kinds_of(table["reason"][table["status"] != DONE])
                for name, table in tables.items()
            },
            "cost": {name: cost(store, ids) for name, store in stores.items()},
            "changes": changes(low, high),
        },
    }
    path = options.output or RESULTS / f"supercells-{options.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["result"], indent=1))


if __name__ == "__main__":
    main()
