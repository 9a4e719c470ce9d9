"""Count the calls to the file system at the start of a rank.

    python benchmarks/startup.py [--name before --checkout FOLDER] [--stage]

Counts with strace what a rank does between its first instruction and its first block of crystals:
calls that name a file or list a folder, those of them that open one, and different paths, by where
the files lie. ``--checkout`` takes hpcbench from another folder, to compare. ``--stage`` starts the
rank from a copy of the environment as ``./launch.sh --stage run`` does; an archive of the whole
environment is then written into it. Results go under their name into
benchmarks/results/startup-cpu.json, beside those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))

from ase.build import bulk
from ase.io import write
from system_calls import StartUp, count

RESULTS = HERE / "results" / "startup-cpu.json"


def machine() -> dict[str, str]:
    packages = ("hpcbench", "mattersim", "torch", "ase", "phonopy", "numpy", "scipy")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": cpu, "cores": str(len(os.sched_getaffinity(0))),
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }  # fmt: skip


def run_words(folder: Path) -> list[str]:
    write(folder / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    (folder / "settings.toml").write_text("max_edges = 4000\n")  # no probe
    return [
        "run", str(folder / "salt.cif"), "--out", str(folder / "store.h5"),
        "--model", "mattersim-demo", "--device", "cpu", "--workers", "0",
        "--config", str(folder / "settings.toml"),
        "--mesh", "2", "2", "2", "--no-report", "--supercell", "2", "2", "2",
    ]  # fmt: skip


def plain(folder: Path) -> StartUp:
    # Of the working folder, as Python takes it.
    places = {"package": Path("hpcbench").resolve()}
    return count([sys.executable, "-m", "hpcbench", *run_words(folder)], folder, places)


def staged(folder: Path) -> StartUp:
    """The second rank of a node: the first one has unpacked the copy."""
    disk = folder / "disk"
    disk.mkdir()
    os.environ |= {"TMPDIR": str(disk), "HPCBENCH_PYTHON": sys.executable}
    words = run_words(folder)
    launch = [ROOT / "launch.sh", "--stage", "-n", "1"]
    subprocess.run([*launch, *words, "--out", folder / "first.h5"], check=True)
    line = subprocess.run(
        [*launch, "--dry-run", *words], check=True, capture_output=True, text=True
    ).stderr
    return count(shlex.split(line)[1:], folder, {"copy": disk})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", default="")
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--stage", action="store_true")
    options = parser.parse_args()
    os.chdir(options.checkout)
    with tempfile.TemporaryDirectory() as folder:
        seen = (staged if options.stage else plain)(Path(folder))
    name = options.name or ("staged" if options.stage else "now")
    before: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {**before.get("results", {}), name: asdict(seen)}
    RESULTS.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    for what, numbers in asdict(seen).items():
        print(f"{what:7s} {sum(numbers.values()):6d}  {dict(numbers)}")


if __name__ == "__main__":
    main()
