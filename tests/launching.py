"""Starting runs of one rank and of several, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

EMT = "ase.calculators.emt:EMT"
QUICK = ["--model", EMT, "--dtype", "float64", "--mesh", "4", "4", "4", "--device", "cpu"]
QUICK += ["--commit-interval", "0.3", "--supercell", "2", "2", "2"]


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
        command, capture_output=True, text=True, check=False, timeout=300, **options
    )
