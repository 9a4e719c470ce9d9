"""Kill and stop processes of runs at random, and compare the stores.

    python benchmarks/chaos.py [--strikes 100] [--mpiexec "mpiexec -disable-auto-cleanup"]

Every run is a real one, of three ranks under MPI with a potential that takes no time. One of its
processes or several get a signal at a random moment, and the command is given again until the run
is finished; then its store is compared with that of a run that nobody disturbed. The kinds of harm
take turns (``tests/chaos.py`` has them), with a seed of their own each time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from chaos import KINDS, Kind, LaunchSetup
from chaos_harness import Reference, Tale, harm, make_reference, metals
from launching import mpiexec
from machine import processor, version_line


def run_chaos(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    launcher = (*shlex.split(options.mpiexec), "-n", str(options.ranks)) if options.mpiexec else ()
    launcher = launcher or tuple(mpiexec(options.ranks))
    sources = metals(folder / "metals.extxyz", options.crystals)
    # What runs learn of their speed is not the user's.
    setup = LaunchSetup(
        sources,
        launcher,
        options.ranks,
        options.silence,
        environment={"XDG_CACHE_HOME": str(folder / "cache")},
    )
    kinds = [kind for kind in KINDS if options.kind in kind.name]
    reference = make_reference(setup, folder)
    print(f"undisturbed: {reference.span}", flush=True)
    tales: list[Tale] = []
    todo = zip(count(options.seed), endless(kinds), strict=False)
    with ThreadPoolExecutor(options.at_once) as pool:
        running = {
            pool.submit(one, kind, setup, reference, folder, seed)
            for seed, kind in islice(todo, options.at_once)
        }
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                tales.append(future.result())
                print(json.dumps(tales[-1].as_dict()), flush=True)
                # Those whose moment never came prove nothing.
                struck = sum(tale.struck > 0 for tale in tales)
                if struck + len(running) < options.strikes:
                    seed, kind = next(todo)
                    running.add(pool.submit(one, kind, setup, reference, folder, seed))
            result = summary(options, setup, reference, tales)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    return result


def endless(kinds: list[Kind]) -> Iterator[Kind]:
    while True:
        yield from kinds


def one(kind: Kind, setup: LaunchSetup, reference: Reference, folder: Path, seed: int) -> Tale:
    place = folder / f"{seed}"
    place.mkdir()
    try:
        tale = harm(kind, setup, reference, place, seed)
    except Exception:
        tale = Tale(kind.name, seed, problems=[traceback.format_exc()])
    if not tale.problems:
        shutil.rmtree(place)
    return tale


def summary(
    options: argparse.Namespace, setup: LaunchSetup, reference: Reference, tales: list[Tale]
) -> dict[str, Any]:
    kinds = {}
    for kind in KINDS:
        mine = [tale for tale in tales if tale.kind == kind.name]
        if mine:
            kinds[kind.name] = {"signal": kind.number.name, **numbers(mine, reference)}
    return {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[2], 1),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "launcher": version_line([setup.launcher[0], "--version"]),
            "revision": version_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
            **{name: version(name) for name in ("mpi4py", "ase", "h5py", "loky", "phonopy")},
        },
        "settings": {
            "command": " ".join(setup.command(Path("s.h5"))).replace(str(setup.sources), "METALS"),
            "crystals": len(reference.rows),
            "ranks": setup.ranks,
            "first seed": options.seed,
            "at once": options.at_once,
            "seconds to start": round(reference.span.start, 1),
            "seconds to compute, undisturbed": round(reference.span.work, 1),
        },
        "all kinds": numbers(tales, reference),
        "kinds": kinds,
        "tales with problems or leftovers": [t.as_dict() for t in tales if t.problems or t.left],
    }


def numbers(tales: list[Tale], reference: Reference) -> dict[str, Any]:
    struck = [tale for tale in tales if tale.struck]
    again = [tale for tale in struck if not tale.survivors_finished and not tale.problems]
    return {
        "runs": len(tales),
        "runs struck": len(struck),
        "processes struck": sum(tale.struck for tale in struck),
        "launches": sum(tale.launches for tale in tales),
        "finished by the survivors": sum(tale.survivors_finished for tale in struck),
        "finished by the same command again": len(again),
        "commands needed, at most": max((tale.launches for tale in struck), default=0),
        "stores that differ, or runs that did not end": sum(bool(t.problems) for t in tales),
        "crystals set aside falsely": sum(tale.set_aside for tale in tales),
        "crystals begun again, by strike": mean([tale.begun_again for tale in struck]),
        "crystals begun again, at most": max((tale.begun_again for tale in struck), default=0),
        "more begun again than was held": sum(t.begun_again > t.held for t in struck),
        "crystals finished again, by strike": mean([tale.finished_again for tale in struck]),
        "seconds computed again, by strike": round(
            mean([tale.begun_again for tale in struck]) * reference.seconds_a_crystal, 1
        ),
        "files and processes left": sum(len(tale.left) for tale in tales),
    }


def mean(values: list[int]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strikes", type=int, default=100, help="runs that are harmed")
    parser.add_argument("--kind", default="", help="only kinds with this in their name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--crystals", type=int, default=24)
    parser.add_argument("--silence", type=float, default=4.0)
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other")
    parser.add_argument("--mpiexec", default="", help="the launcher, with its options, without -n")
    parser.add_argument("--folder", type=Path, help="work and keep what has problems there")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "chaos-cpu.json"
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    everything = run_chaos(options, folder)["all kinds"]
    print(json.dumps(everything, indent=1))
    if not any(folder.glob("[0-9]*/")):
        shutil.rmtree(folder)
    return bool(everything["stores that differ, or runs that did not end"])


if __name__ == "__main__":
    sys.exit(main())
