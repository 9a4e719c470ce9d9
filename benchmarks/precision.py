"""How often noise decides labels, for crystals of real generators.

    python benchmarks/precision.py STORE.h5 [--model chgnet] [--ranks 2]

The relaxed crystals of a store (``benchmarks/protocols.py`` makes one) go through ``hpcbench run
--relax none`` three times: in float32, in float64, and in float64 with displacements that are a
hundredth as long, which gives the derivative of the forces itself. There is a criterion for each
place, three thresholds, and the acoustic modes at Gamma compared as well or left out. A run that
was killed is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write
from protocols import RESULTS, processor

import hpcbench
from hpcbench.criteria import PLACES
from hpcbench.store.schema import DONE, FIRST, UNDETERMINED

RUNS = {
    "float32": ("--dtype", "float32"),
    "float64": ("--dtype", "float64"),
    "derivative": ("--dtype", "float64", "--displacement", "0.0001"),
}
THRESHOLDS = (-0.001, -0.01, -0.1)
GAMMA = {"all modes": "", "acoustic modes at Gamma left out": 'gamma_threshold = "left out"\n'}
Asked = tuple[str, float, str]


def asked() -> dict[str, Asked]:
    """Place, threshold and what becomes of the acoustic modes, by the name of the criterion."""
    return {
        f"c{number}": key for number, key in enumerate(itertools.product(PLACES, THRESHOLDS, GAMMA))
    }


def write_criteria(path: Path) -> None:
    """The file for ``--criteria``."""
    path.write_text(
        "".join(
            f'[[criteria]]\nname = "{name}"\nplace = "{place}"\nthreshold = {threshold}\n'
            + GAMMA[gamma]
            for name, (place, threshold, gamma) in asked().items()
        )
    )


def compared(stores: Mapping[str, hpcbench.Store]) -> list[dict[str, Any]]:
    """A line for each criterion."""
    tables = {name: store.table.set_index("id") for name, store in stores.items()}
    tables = {name: table[table["status"] == DONE] for name, table in tables.items()}
    ids = tables["float32"].index
    for table in tables.values():
        ids = ids.intersection(table.index)
    tables = {name: table.loc[ids] for name, table in tables.items()}
    lines = []
    for name, (place, threshold, gamma) in asked().items():
        column = f"verdict_{name}"
        labels = {run: table[column].astype(str).to_numpy() for run, table in tables.items()}
        within = {
            run: np.array([name in text.split(", ") for text in table["within_noise"]])
            for run, table in tables.items()
        }
        line: dict[str, Any] = {"place": place, "threshold": threshold, "gamma": gamma}
        line["crystals"] = len(ids)
        line["stable"] = {run: int((these == "stable").sum()) for run, these in labels.items()}
        line["undetermined"] = {run: int(those.sum()) for run, those in within.items()}
        for one, other in itertools.combinations(RUNS, 2):
            differ = labels[one] != labels[other]
            line[f"{one} and {other} differ"] = {
                "labels": int(differ.sum()),
                f"of these undetermined in {one}": int((differ & within[one]).sum()),
            }
        lines.append(line)
    return lines


def computed_again(store: hpcbench.Store) -> dict[str, int]:
    """Crystals whose first verdict was undetermined, and what became of them."""
    history = store.history.table
    first = history[(history["again"] == FIRST) & (history["verdict"] == UNDETERMINED)]
    decided = store.table.set_index("id").loc[first["parent"], "verdict"]
    return {
        "undetermined": len(first),
        **{f"then {verdict}": int(count) for verdict, count in decided.value_counts().items()},
    }


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", metavar="STORE.h5", type=Path)
    parser.add_argument("--model", default="chgnet")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    folder = options.store.parent
    crystals, criteria = folder / "relaxed.extxyz", folder / "thresholds.toml"
    write_criteria(criteria)
    relaxed = []
    for result in hpcbench.open(options.store):
        if result.relaxed is not None:
            relaxed.append(result.relaxed.to_ase())
            relaxed[-1].info["name"] = result.name
    write(crystals, relaxed)
    for name, settings in RUNS.items():
        command = [sys.executable, "-m", "hpcbench", "run", str(crystals), "--relax", "none"]
        command += ["--model", options.model, "--criteria", str(criteria), *settings]
        command += ["--out", str(folder / f"{name}.h5"), "--no-report"]
        if options.ranks > 1:
            launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(options.ranks)]
            command = [*launcher, *command]
        subprocess.run(command, check=False)
    stores = {name: hpcbench.open(folder / f"{name}.h5") for name in RUNS}
    single = stores["float32"]
    result = {
        "machine": {
            "date": str(date.today()),
            "processor": processor(),
            "python": platform.python_version(),
            "versions": {n: version(n) for n in ("hpcbench", "phonopy", "torch", options.model)},
        },
        "settings": single.settings,
        "labels": compared(stores),
        "computed again": computed_again(single),
        "force_noise, median": {
            name: float(np.nanmedian(store.table["force_noise"])) for name, store in stores.items()
        },
    }
    path = RESULTS / f"precision-{options.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "settings"}, indent=1))


if __name__ == "__main__":
    main()
