"""Starting runs of one rank and of several, for tests."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from hpcbench.cli import main


def in_file(**settings: float) -> list[str]:
    """Return the words that set what has no option: a settings file, of which the last counts."""
    folder = Path(tempfile.mkdtemp(prefix="hpcbench-settings-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "settings.toml").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
    return ["--config", str(folder / "settings.toml")]


EMT = "ase.calculators.emt:EMT"
QUICK = ["--model", EMT, "--dtype", "float64", "--mesh", "4", "4", "4", "--device", "cpu"]
QUICK += [*in_file(commit_interval=0.3), "--supercell", "2", "2", "2"]
# Processes beside the ranks' are for tests that are about them: each has the libraries to load.
QUICK += ["--workers", "0"]
# EMT that takes, for each call, the seconds that a file says: a test can act in the middle of a
# run, which then waits and computes nothing.
SLOW = "slow:Slow"
SLOW_POTENTIAL = """\
import time
from pathlib import Path
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *words, **options):
        time.sleep(float(Path(__file__).with_name("seconds").read_text()))
        super().calculate(*words, **options)
"""


def slow_potential(folder: Path, seconds: float) -> None:
    """Write the potential ``SLOW`` into a folder. Runs find it that have it as working folder."""
    (folder / "slow.py").write_text(SLOW_POTENTIAL)
    sys.modules.pop("slow", None)  # another test's
    take(folder, seconds)


def take(folder: Path, seconds: float) -> None:
    """Let each call of the slow potential take so long from now on."""
    (folder / "new").write_text(str(seconds))
    os.replace(folder / "new", folder / "seconds")


def mpiexec(ranks: int) -> list[str]:
    """The environment's own launcher, else the machine's."""
    beside = os.path.dirname(sys.executable)
    launcher = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("needs mpiexec, which comes with ./launch.sh setup or with the site's MPI")
    # They kill the survivors of a rank's death otherwise.
    answer = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False)
    survive = []
    if "HYDRA" in answer.stdout:
        survive = ["-disable-auto-cleanup"]
    elif "Open MPI" in answer.stdout:
        survive = ["--rtos", "recoverable,error-nonzero-status=false"]
    return [launcher, *survive, "-n", str(ranks)]


def run(arguments: list[str], ranks: int = 1, **options) -> subprocess.CompletedProcess[str]:  # type: ignore[no-untyped-def]
    # Later words win: a test may ask for another potential.
    command = [sys.executable, "-m", "hpcbench", "run", *QUICK, "--no-report", *arguments]
    if ranks > 1:
        command = [*mpiexec(ranks), *command]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, **options
    )


def run_here(arguments: list[str]) -> int:
    """Run in this process, which has loaded the libraries; the exit code."""
    return main(["run", *QUICK, "--no-report", *arguments])


def wait_for(out: Path, event: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a run has written an event to its logs."""
    logs = out.with_name(out.name + ".run") / "events"
    end = time.monotonic() + 240
    while not any(f'"{event}"' in log.read_text() for log in logs.glob("rank-*.jsonl")):
        assert process.poll() is None, f"the run is over before the first {event}"
        assert time.monotonic() < end, f"no {event}"
        time.sleep(0.02)
