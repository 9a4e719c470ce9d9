"""Count labels that depend on protocol, criterion and place, for generated crystals.

    python benchmarks/protocols.py CRYSTALS.extxyz [--model chgnet] [--crystals 200] [--ranks 2]

The smallest crystals of all generators alike go through ``hpcbench run --protocol both``; from the
store come the stable shares by both protocols, and why crystals change. A run that was killed is
gone on with by the same command, as always.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas
from ase import Atoms
from ase.io import read, write

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from machine import processor

import hpcbench
from hpcbench.criteria import CRITERIA
from hpcbench.report.protocol_comparison import protocols_of
from hpcbench.store.schema import DONE, FIRST

RESULTS = Path(__file__).parent / "results"


def smallest(path: Path, number: int, most_atoms: int) -> list[Atoms]:
    """The smallest crystals of each generator in turn, none of more atoms than allowed."""
    by_generator: dict[str, list[Atoms]] = {}
    for index, atoms in enumerate(read(path, ":")):
        if 2 <= len(atoms) <= most_atoms:
            atoms.info["name"] = f"{index}"
            by_generator.setdefault(str(atoms.info.get("generator")), []).append(atoms)
    for crystals in by_generator.values():
        crystals.sort(key=len)
    chosen: list[Atoms] = []
    while len(chosen) < number and any(by_generator.values()):
        for crystals in by_generator.values():
            if crystals and len(chosen) < number:
                chosen.append(crystals.pop(0))
    return chosen


def kinds_of_change(store: hpcbench.Store, column: str) -> dict[str, dict[str, int]]:
    """Crystals that change their answer: where negative frequencies were that are not there now."""
    here = store.table[store.table["status"] == DONE]
    table = store.beside.table
    beside = table[table["status"] == DONE].set_index("parent")
    ids = [key for key in here.index if key in beside.index]
    here, beside = here.loc[ids], beside.loc[ids]
    changes = {}
    for name, of, before, after in (
        ("became stable", beside, "unstable", "stable"),
        ("became unstable", here, "stable", "unstable"),
    ):
        changed = (beside[column] == before) & (here[column] == after)
        counts = Counter(of["character"][changed])
        other_group = beside["spacegroup"].astype(str) != here["spacegroup"].astype(str)
        changes[name] = {
            **{f"unstable one is {kind}": count for kind, count in counts.items()},
            "space group changed": int((changed & other_group).sum()),
        }
    return changes


def verdicts_changed(store: hpcbench.Store) -> dict[str, int]:
    """Count the verdicts that a second computation changed, and those that it left."""
    first = store.history.table
    first = first[first["again"] == FIRST].set_index("parent")
    decided = store.table.loc[first.index]
    return dict(
        Counter(
            f"{label_before} -> {verdict}"
            for label_before, verdict in zip(
                first["verdict_phononbench_v3"], decided["verdict"], strict=True
            )
        )
    )


def suspicions_of(store: hpcbench.Store) -> dict[str, int]:
    """Crystals with negative interpolated frequencies where none was computed, and their end."""
    counts: Counter[str] = Counter()
    for key in store.ids:
        row = store.row(key)
        if row["status"] == DONE and (len(row["computed_qpoints"]) or row["open_regions"]):
            counts[str(row["verdict"])] += 1
            counts["rational q computed"] += len(row["computed_qpoints"])
    return dict(counts)


def summary(store: hpcbench.Store) -> dict[str, Any]:
    """Counts of the store, as they stand in the results."""
    table: pandas.DataFrame = store.table
    done = table[table["status"] == DONE]
    beside = store.beside.table
    beside = beside[beside["status"] == DONE]
    found: dict[str, Any] = {
        "crystals": len(table),
        "done by robust": len(done),
        "done by phononbench": len(beside),
        "failed by reason": dict(
            Counter(str(x).partition(":")[0] for x in table["reason"][table["status"] != DONE])
        ),
        "verdicts by exact-q, with causes": dict(
            Counter(
                f"{verdict} {cause}".strip()
                for verdict, cause in zip(done["verdict"], done["cause"], strict=True)
            )
        ),
        "computed more than once": dict(Counter(done["again"].astype(str))),
        "first verdict and decided": verdicts_changed(store),
        "suspicions": suspicions_of(store),
        "displaced supercells": {
            "phononbench": int(beside["displacements"].sum()),
            "robust": int(done["displacements"].sum()),
        },
        "relaxation steps": {
            "phononbench alone": int(beside["relaxation_steps"].sum()),
            "both": int(done["relaxation_steps"].sum()),
        },
        "seconds of ranks": {
            "relaxation": round(float(done["seconds_relaxation"].sum()), 1),
            "forces": round(float(done["seconds_forces"].sum()), 1),
            "analysis": round(float(done["seconds_analysis"].sum()), 1),
        },
        "character by robust": dict(Counter(done["character"].astype(str))),
        "character by phononbench": dict(Counter(beside["character"].astype(str))),
        "dimensionality": {str(k): int(v) for k, v in Counter(done["dimensionality"]).items()},
        "within noise": {
            c.name: int(sum(c.name in names.split(", ") for names in done["within_noise"]))
            for c in CRITERIA
        },
    }
    for criterion in CRITERIA:
        found[f"changes by {criterion.name}"] = kinds_of_change(store, criterion.column)
    protocols = protocols_of(store, done, CRITERIA, CRITERIA[1])
    assert protocols is not None, "both protocols have results"
    found["done by both"] = protocols.count
    found["stable"] = {
        row.name: {
            "phononbench": row.beside,
            "robust": row.here,
            "became stable": row.became_stable,
            "became unstable": row.became_unstable,
        }
        for row in (*protocols.criteria, *protocols.places)
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
    parser.add_argument("--supercell", nargs="+", default=[], help="of robust (its own default)")
    parser.add_argument("--store", type=Path, default=Path("protocols.h5"))
    parser.add_argument("--only-summary", action="store_true", help="of a store that is there")
    options = parser.parse_args()
    if not options.only_summary:
        chosen = smallest(options.crystals_file, options.crystals, options.most_atoms)
        source = options.store.with_suffix(".extxyz")
        write(source, chosen)
        command = [sys.executable, "-m", "hpcbench", "run", str(source), "--protocol", "both"]
        command += ["--model", options.model, "--out", str(options.store)]
        if options.supercell:
            command += ["--supercell", *options.supercell]
        if options.ranks > 1:
            launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(options.ranks)]
            command = [*launcher, *command]
        subprocess.run(command, check=False)
    store = hpcbench.open(options.store)
    result = {
        "machine": {
            "date": str(date.today()),
            "processor": processor(),
            "ranks": options.ranks,
            "versions": {
                name: version(name)
                for name in ("hpcbench-phonons", "phonopy", "torch", options.model)
            },
        },
        "settings": store.settings,
        "result": summary(store),
    }
    path = RESULTS / f"protocols-{options.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["result"], indent=1))


if __name__ == "__main__":
    main()
