"""Count labels that rounding and the length of displacements change, for generated crystals.

    python benchmarks/precision.py STORE.h5 [--model chgnet] [--crystals N]

The relaxed crystals of a store (``benchmarks/protocols.py`` makes one) are displaced in 2x2x2
supercells by 0.01 A in single and in double precision, and by a half and a quarter of that in
double. So each has labels in single and double precision at 0.01 A, and by extrapolation to no
length where the potential is smooth. For each place and threshold: how many labels differ, which of
those were flagged before they were extrapolated, and how many were flagged in vain.
"""

from __future__ import annotations

import argparse
import json
import pickle
import platform
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from numpy.typing import NDArray
from protocols import RESULTS

import hpcbench
from hpcbench.criteria import PLACES, Criterion
from hpcbench.phonons.calculate import analyse, analyse_lengths, prepare
from hpcbench.phonons.displacement_length import NOT_SMOOTH, pairs_of, with_shorter
from hpcbench.phonons.phonon_result import PhononResult, PhononSettings
from hpcbench.phonons.supercells import CHECKS, displaced_copies, with_checks
from hpcbench.potentials.copies import DisplacedCopies
from hpcbench.potentials.protocol import Potential

THRESHOLDS = (-0.001, -0.01, -0.1)
CRITERIA = tuple(
    Criterion(f"{place} {threshold:g}{' apart' * apart}", place, threshold, gamma_apart=apart)
    for place in PLACES
    for threshold in THRESHOLDS
    for apart in (False, True)
)
SETTINGS = PhononSettings("auto", 0.01, 1e-5, 101, (20, 20, 20), (300.0,), 0.1, CRITERIA)


def forces_of(potential: Potential, copies: DisplacedCopies) -> NDArray[np.float64]:
    prepared = potential.prepare(copies)
    parts = [potential.forces([(prepared, n, n + 1)])[0] for n in range(len(copies))]
    return np.concatenate(parts)


def results_of(
    atoms: Any, single: Potential, double: Potential
) -> tuple[PhononResult, PhononResult, PhononResult]:
    """Return phonons at 0.01 A in single and in double precision, and extrapolated."""
    phonon = prepare(atoms, np.diag([2, 2, 2]), SETTINGS)
    copies, pairs = displaced_copies(phonon), pairs_of(phonon)
    kept = pickle.dumps(phonon)
    in_single = forces_of(single, with_checks(copies))
    in_double = forces_of(double, with_shorter(copies, pairs))
    count = len(copies)
    # Of with_checks' two: the undisplaced one, and the first displacement at half its length.
    checks = in_double[[count, count + 1]]
    return (
        analyse(pickle.loads(kept), in_single[:-CHECKS], SETTINGS, in_single[-CHECKS:]),
        analyse(pickle.loads(kept), in_double[:count], SETTINGS, checks),
        analyse_lengths(pickle.loads(kept), in_double, SETTINGS),
    )


def line_of(criterion: Criterion, results: list[tuple[PhononResult, ...]]) -> dict[str, Any]:
    name = criterion.name
    labels = np.array([[one.verdicts[name] for one in three] for three in results])
    flagged = np.array([name in three[1].undetermined for three in results])
    unsure = np.array([name in three[2].undetermined for three in results])
    differs = labels[:, 1] != labels[:, 2]
    return {
        "place": criterion.place,
        "threshold": criterion.threshold,
        "acoustic modes at Gamma": "left out" if criterion.gamma_apart else "compared",
        "stable at 0.01 A, extrapolated": (labels[:, 1:] == "stable").sum(axis=0).tolist(),
        "float32 and float64 differ": int((labels[:, 0] != labels[:, 1]).sum()),
        "0.01 A and extrapolated differ": int(differs.sum()),
        "of these flagged before": int((differs & flagged).sum()),
        "flagged": int(flagged.sum()),
        "flagged in vain": int((flagged & ~differs).sum()),
        "undetermined after extrapolation": int(unsure.sum()),
    }


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", metavar="STORE.h5", type=Path)
    parser.add_argument("--model", default="chgnet")
    parser.add_argument("--crystals", type=int, default=0, help="the first so many (0: all)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    single, double = (
        hpcbench.load_potential(options.model, dtype=dtype) for dtype in ("float32", "float64")
    )
    start, results, failed = time.monotonic(), [], 0
    done = (one.relaxed for one in hpcbench.open(options.store) if one.relaxed is not None)
    for number, relaxed in enumerate(done, 1):
        try:
            results.append(results_of(relaxed.to_ase(), single, double))
        except hpcbench.HpcbenchError:
            failed += 1
        if number == options.crystals:
            break
    roughness = np.array([three[2].roughness for three in results])
    nonlinearity = np.array([three[1].noise.nonlinearity for three in results])
    result = {
        "command": f"python benchmarks/precision.py STORE.h5 --model {options.model}",
        "machine": {
            "date": str(date.today()),
            "processor": processor(),
            "python": platform.python_version(),
            "versions": {
                n: version(n) for n in ("hpcbench-phonons", "phonopy", "torch", options.model)
            },
            "seconds": round(time.monotonic() - start),
        },
        "crystals": len(results),
        "failed": failed,
        "not smooth": int((roughness >= NOT_SMOOTH).sum()),
        "roughness, quartiles": np.quantile(roughness, (0.25, 0.5, 0.75)).round(4).tolist(),
        "nonlinearity (six times what was measured), quartiles": np.quantile(
            nonlinearity, (0.25, 0.5, 0.75)
        )
        .round(4)
        .tolist(),
        "labels": [line_of(criterion, results) for criterion in CRITERIA],
    }
    path = RESULTS / f"precision-{options.model}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
