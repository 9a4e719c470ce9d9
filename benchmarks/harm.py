"""Do harm by the hundred (bad inputs, accidents): is each told, and is nothing lost?

    python benchmarks/harm.py [--only NAME ...] [--list]

All of it is done from outside, to the program as a user starts it. Each kind of bad inputs is a
line of a table in ``harm_*.py``; bad files lie in one folder with good crystals, and are judged
one by one. Right is what has a reason (a row's, a line that names the file, or exit code 2 or 3
with a sentence), or is read as it should be. Faults are:

silent          nothing says why
read wrongly    computed as another crystal
lost            good crystals beside it, or results, are not there
changed         files of the user, or outside the output, are not as they were
let in          code, control characters or bytes of other files got through
stopped         the run or the same command again did not come to its end
exit code       not 0 or 1, nor a refusal with 2 or 3, nor 75 where going on helps
traceback, time, memory, left behind (processes or files)

A process may hold 512 MiB more than a run of good crystals, and take five times its wall time (60 s
at least). Exit code 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from harm_accidents import ACCIDENTS, ENVIRONMENT
from harm_archives import ARCHIVES
from harm_case import CaseKind
from harm_cif import CIF
from harm_folders import FOLDERS
from harm_judge import FileKind, Tally, groups_of, judge, write_good
from harm_outputs import OUTPUTS
from harm_place import MEMORY, ROOT, Limits, Place
from harm_potentials import LYING, POTENTIALS
from harm_stores import STORES
from harm_tables import TABLES
from harm_texts import BYTES, POSCAR, XYZ
from harm_usage import USAGE
from machine import processor, version_line

FILES: list[FileKind] = [
    *CIF, *POSCAR, *XYZ, *BYTES, *TABLES, *ARCHIVES, *FOLDERS, *LYING,
]  # fmt: skip
CASES: list[CaseKind] = [
    *STORES, *OUTPUTS, *USAGE, *ACCIDENTS, *ENVIRONMENT, *POTENTIALS,
]  # fmt: skip
GROUP = 20  # kinds of bad files in one run


@dataclass(frozen=True)
class Bench:
    """Hold what all kinds share.

    Attributes
    ----------
    folder : Path
        Where harm is done.
    limits : Limits
        Of each command.
    """

    folder: Path
    limits: Limits


def measure_good(folder: Path) -> Limits:
    """Run good crystals only, and take the limits from that."""
    limits = Limits()
    place = Place(folder, limits)
    write_good(place.work / "good")
    ended = place.run("good", "--out", "good.h5")
    if ended.code != 0:
        raise SystemExit(f"a run of good crystals fails:\n{ended.text}")
    limits.of_good(ended)
    print(f"good crystals: {ended.seconds:.0f} s, {ended.peak / 2**20:.0f} MB", flush=True)
    return limits


def run_all(names: Sequence[str], bench: Bench, at_once: int) -> list[Tally]:
    """Do harm of all kinds whose names have one of these in them.

    Parameters
    ----------
    names : sequence of str
        Parts of names; all kinds where there are none.
    bench : Bench
        Where, and within which limits.
    at_once : int
        How many kinds at the same time.
    """
    jobs: list[Callable[[], list[Tally]]] = []
    chosen = [kind for kind in FILES if is_chosen(kind.area, kind.name, names)]
    for number, group in enumerate(groups_of(chosen, GROUP)):
        jobs.append(
            lambda n=number, g=group: judge(g, bench.folder / f"files{n}", bench.limits, say)
        )
    for number, case in enumerate(CASES):
        if is_chosen(case.area, case.name, names):
            jobs.append(lambda n=number, c=case: [c.tally(bench.folder / f"case{n}", bench.limits)])
    with ThreadPoolExecutor(at_once) as pool:
        tallies = [tally for done in pool.map(_reported, jobs) for tally in done]
    return tallies


def is_chosen(area: str, name: str, names: Sequence[str]) -> bool:
    """Tell whether a kind is asked for.

    Parameters
    ----------
    area, name : str
        Of the kind.
    names : sequence of str
        Parts of names that are asked for.
    """
    return not names or any(word in (area, name) or word in name for word in names)


def say(text: str) -> None:
    """Print a line at once."""
    print(text[:2000], flush=True)


def _reported(job: Callable[[], list[Tally]]) -> list[Tally]:
    try:
        tallies = job()
    except Exception:
        say(traceback.format_exc()[-2000:])
        tallies = [Tally("broken", "this benchmark", faults=["broken: " + traceback.format_exc()])]
    for tally in tallies:
        for fault in tally.faults:
            say(f"{tally.name}: {fault}")
    return tallies


def summary(tallies: Sequence[Tally], limits: Limits, seconds: float) -> dict[str, Any]:
    """Return all results, for JSON.

    Parameters
    ----------
    tallies : sequence of Tally
        One for each kind.
    limits : Limits
        Of each command.
    seconds : float
        Wall time of all.
    """
    areas = {}
    for area in dict.fromkeys(tally.area for tally in tallies):
        areas[area] = numbers([tally for tally in tallies if tally.area == area])
    return {
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "revision": version_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
            **{name: version(name) for name in ("ase", "h5py", "numpy", "pymatgen", "torch")},
        },
        "command": " ".join(["python", "benchmarks/harm.py", *sys.argv[1:]]),
        "seconds": round(seconds),
        "limits": {
            "bytes of memory more than good crystals": MEMORY,
            "seconds of a command": round(limits.seconds),
        },
        "all": numbers(tallies),
        "areas": areas,
        "kinds": {
            f"{tally.area}: {tally.name}": {
                "tried": tally.tried,
                "with a reason": tally.told,
                "right without": tally.right,
                "seconds": round(tally.seconds, 1),
                "MB": round(tally.peak / 2**20),
                **({"skipped": tally.skipped} if tally.skipped else {}),
                "faults": tally.faults,
            }
            for tally in tallies
        },
    }


def numbers(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return sums over kinds."""
    faults = Counter(fault.partition(":")[0] for tally in tallies for fault in set(tally.faults))
    return {
        "kinds": len(tallies),
        "tried": sum(tally.tried for tally in tallies),
        "with a reason": sum(tally.told for tally in tallies),
        "right without": sum(tally.right for tally in tallies),
        "kinds with faults": sum(bool(tally.faults) for tally in tallies),
        "kinds skipped": sum(bool(tally.skipped) for tally in tallies),
        "faults": dict(sorted(faults.items())),
    }


def table(result: dict[str, Any]) -> str:
    """Return the numbers by area, for people."""
    lines = [f"{'':12}{'kinds':>7}{'tried':>7}{'reason':>8}{'right':>7}{'failed':>8}  faults"]
    for name, area in [*result["areas"].items(), ("all", result["all"])]:
        faults = ", ".join(f"{count} {kind}" for kind, count in area["faults"].items())
        lines.append(
            f"{name:12}{area['kinds']:7}{area['tried']:7}{area['with a reason']:8}"
            f"{area['right without']:7}{area['kinds with faults']:8}  {faults or 'none'}"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Describe the machine that it ran on."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[2], 1),
        "system": platform.platform(),
    }


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help="only kinds with this in their name, or of this area",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only print the kinds")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="work there and leave everything")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/harm.json")
    return parser


def main() -> int:
    """Do it, print the table, write the JSON."""
    options = make_parser().parse_args()
    if options.list:
        for kind in [*FILES, *CASES]:
            if is_chosen(kind.area, kind.name, options.only):
                print(f"{kind.area}: {kind.name}")
        return 0
    began = time.monotonic()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="harm-"))
    try:
        bench = Bench(folder, measure_good(folder / "good"))
        tallies = run_all(options.only, bench, options.at_once)
    finally:
        if not options.folder:
            remove(folder)
    result = summary(tallies, bench.limits, time.monotonic() - began)
    options.output.write_text(json.dumps(result, indent=1, ensure_ascii=True) + "\n")
    print(table(result))
    return int(any(tally.faults for tally in tallies))


def remove(folder: Path) -> None:
    """Remove a folder, with what nobody may read in it."""
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
