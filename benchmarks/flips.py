"""Flip single bits of a store, and count those that are noticed.

    python benchmarks/flips.py [--flips 3000]

A store of seven metals (EMT) is made, one bit of it is flipped, all that h5py reads from it is
compared with what it was, and hpcbench looks for damage. A flip that changes something that is read
and is not noticed is what must not happen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests")]))

import h5py
from ase.build import bulk
from flips import Elsewhere, flip

import hpcbench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/flips.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    became: Counter[str] = Counter()
    unseen = []
    with tempfile.TemporaryDirectory() as name:
        store, flipped = Path(name, "s.h5"), Path(name, "flipped.h5")
        crystals = [bulk(symbol) for symbol in ("Cu", "Al", "Ag", "Au", "Ni", "Pd", "Pt")]
        hpcbench.run(
            crystals,
            model="ase.calculators.emt:EMT",
            out=store,
            dtype="float64",
            mesh=(4, 4, 4),
            supercell=(2, 2, 2),
        )
        data = store.read_bytes()
        elsewhere = Elsewhere()
        as_written = elsewhere.look(store)
        assert not as_written.damage, as_written
        for _ in range(options.flips):
            place, bit = rng.randrange(len(data)), rng.randrange(8)
            flipped.write_bytes(data)
            flip(flipped, place, bit)
            seen = elsewhere.look(flipped)
            if seen.values == as_written.values:
                became["nothing that is read has changed"] += 1
                became["... and damage is found all the same"] += bool(seen.damage)
            elif seen.values.startswith("error"):
                became["h5py fails" if seen.damage else "h5py fails, UNSEEN"] += 1
            else:
                became["values change, found" if seen.damage else "values change, UNSEEN"] += 1
            if seen.values != as_written.values and not seen.damage:
                unseen.append([place, bit, seen.values])
        elsewhere.close()
    result = {
        "machine": platform.platform(),
        "date": str(date.today()),
        "versions": {"h5py": version("h5py"), "HDF5": h5py.version.hdf5_version},
        "bytes": len(data),
        "flips": options.flips,
        "became": dict(sorted(became.items())),
        "unseen": unseen,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
